//! Where trouble arises: which service lets the others wait, or no longer does what it always does.
//!
//! All who wait are slow; guilty is the one whose own time, or the way to which, grew. All whose requests
//! break off look odd; guilty is the one below whom nobody looks odd. What one of the services that it
//! asks explains is an effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::{identity::Identity, weights::weights};
use crate::{
    requests::{Deviation, Requests, Slow, Step, What},
    streaming::{Gauge, Strain, Want},
};

/// Time that a service loses itself.
pub const OWN_TIME: &str = "own_time";
/// Time lost on the way to a service.
pub const WAY_TIME: &str = "way_time";
/// Steps of its requests that are missing or new.
pub const STEPS: &str = "steps";
/// The pattern of a service that loses time in what it asks of those who send no spans.
pub const SLOW_BACKEND: &str = "slow_backend";

/// What began later than its cause began by chance of who was asked first, ns.
const SLACK: i64 = 30_000_000_000;
/// Its own work takes so many times as long: it is no network that delays it.
const MUCH: f32 = 5.0;
/// What was seen in requests this long before a pod was strained is not its doing.
pub(super) const BEFORE: Duration = Duration::from_secs(120);
/// Who waits for a pod that is strained began to by then.
pub(super) const AFTER: Duration = Duration::from_secs(300);
/// A packet that nobody confirms is sent again after this at the earliest, ms: RTO_MIN of Linux, less the
/// width of a bucket.
const RESENT: f32 = 170.0;
/// Less than this, in ms, nobody sees.
const VISIBLE: f32 = 30.0;
/// All that is lost together, in ms, must be as much for anybody to be told.
const FELT: f64 = 50.0;
/// What is this clear needs no second look, ...
const SURE: f64 = 6.0;
const CLEAR: f64 = 10.0;
/// ... what is not must last, ns in sight.
const LASTS: i64 = 12_000_000_000;
/// A service that is slow itself must be so for longer, ns in sight.
const BUSY: i64 = 25_000_000_000;
/// Services named on the way up to the users.
const LONGEST: usize = 8;
/// Characters of a log line that are shown.
const SHOWN: usize = 160;

/// Trouble, and the service in which it arises.
#[derive(Clone, Debug, PartialEq)]
pub struct Arising {
    /// The service.
    pub service: Entity,
    /// Kind of the symptom: [`OWN_TIME`], [`WAY_TIME`] or [`STEPS`].
    pub kind: &'static str,
    /// The pattern that it is.
    pub pattern: &'static str,
    /// Since when, and when last seen.
    pub onset: Time,
    /// When it was last seen.
    pub last: Time,
    /// How often it was seen.
    pub times: u64,
    /// Now and before: ms, or shares of the requests.
    pub value: f64,
    /// Before.
    pub baseline: f64,
    /// Standard errors above chance.
    pub score: f64,
    /// What was seen, in words.
    pub detail: String,
    /// The operation and the log line.
    pub place: Option<String>,
    /// 0 to 1.
    pub confidence: f64,
    /// It was seen to begin: what tells of it told of health right before.
    pub begun: bool,
    /// Who suffers: its caller, that one's caller and so on, what is seen there, and since when.
    pub effects: Vec<(Entity, String, Time)>,
}

impl Arising {
    /// Who has processors to spare does not wait for one, and computes no more than before; what it does
    /// wait for is not known.
    pub fn look_at_cpu(&mut self, is_idle: bool) {
        if is_idle && self.pattern == "cpu_contention" {
            self.pattern = "waits_itself";
            self.confidence = self.confidence.min(weights().requests.waits);
        }
    }
}

/// What else is known of services that are strained.
pub struct Around<'a> {
    /// Since when a service answers late or with errors, by metrics of its requests.
    pub suffers: &'a dyn Fn(&Entity) -> Option<Time>,
    /// Who asks a service.
    pub callers: &'a dyn Fn(&Entity) -> Vec<Entity>,
    /// Does a line speak of a request to a host outside of what runs here?
    pub beyond: &'a dyn Fn(&str) -> bool,
}

/// All trouble that arises in requests now, the worst first.
pub fn arises(
    requests: &Requests,
    identity: &Identity,
    strained: &[Strain],
    around: &Around<'_>,
) -> Vec<Arising> {
    let scene = Scene::new(requests);
    let name = |service: u32| {
        let (namespace, name) = requests.told(service);
        identity.service(namespace, name)
    };
    let mut all: Vec<(u32, f64, Arising)> = Vec::new();
    let slow = scene.slow();
    let total: f64 = slow.values().map(|case| case.excess).sum();
    for (service, case) in &slow {
        if scene.explained(*service, case, &slow) {
            continue;
        }
        let share = case.excess / total.max(1.0);
        all.push((*service, 1.0 + share, scene.told_slow(*service, case, share, &name)));
    }
    for (service, guilt) in scene.odd(&slow) {
        // Who says that a host outside fails it does otherwise for that reason.
        let mut more = guilt.deviation.more.iter();
        let beyond = |error| (around.beyond)(requests.example(error));
        if more.any(|moved| matches!(moved.step, Step::Error(error) if beyond(error))) {
            continue;
        }
        all.push((service, guilt.weight, scene.told_odd(service, &guilt, &name)));
    }
    for strain in strained {
        scene.starves(strain, &slow, &mut all, &name, (identity, around));
    }
    all.sort_by(|a, b| {
        (b.2.confidence, b.1)
            .partial_cmp(&(a.2.confidence, a.1))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    // One trouble has one root; what else looks odd near it is the second best.
    let mut roots: Vec<u32> = Vec::new();
    for (service, _, arising) in &mut all {
        let near = |root: &u32| {
            root == service
                || scene.below(*root).contains(service)
                || scene.below(*service).contains(root)
        };
        if roots.iter().any(near) {
            arising.confidence = arising.confidence.min(weights().requests.second);
        } else {
            roots.push(*service);
        }
    }
    all.into_iter().map(|(_, _, arising)| arising).collect()
}

/// A service that lets others wait.
#[derive(Debug, Default)]
struct Case<'a> {
    own: Vec<(u32, &'a Slow)>,
    out: Vec<(u32, &'a Slow)>,
    /// Ways to it, by caller, and ways from it, by callee.
    to: Vec<(u32, &'a Slow)>,
    from: Vec<(u32, &'a Slow)>,
    excess: f64,
}

impl<'a> Case<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Slow> + '_ {
        [&self.own, &self.out, &self.to, &self.from].into_iter().flatten().map(|(_, slow)| *slow)
    }

    fn onset(&self) -> Time {
        self.all().map(|slow| slow.onset).min().unwrap_or_default()
    }

    /// Time lost by one of its slow spans.
    fn each(&self) -> f64 {
        self.all().map(|slow| slow.excess / slow.n.max(1) as f64).fold(0.0, f64::max)
    }

    /// Do the ways to it and its calls to others take longer by what a packet takes that is sent again,
    /// though not for every request, while its own work does not?
    /// One that asks nobody (`leaf`) has no calls of its own.
    fn resends(&self, leaf: bool) -> bool {
        let longer = |slow: &Slow, q: usize| slow.now[q] - slow.before[q];
        let some = |of: &[(u32, &Slow)]| {
            of.iter().any(|(_, slow)| {
                longer(slow, 2) >= RESENT && (!slow.is_shifted() || longer(slow, 1) < VISIBLE)
            })
        };
        some(&self.to)
            && (leaf || some(&self.out) || some(&self.from))
            && self.own.iter().all(|(_, slow)| longer(slow, 2) < VISIBLE)
    }

    fn worst(&self) -> Option<&'a Slow> {
        self.all().max_by(|a, b| a.excess.total_cmp(&b.excess))
    }
}

/// A service whose requests are not what they were.
struct Guilt<'a> {
    operation: u32,
    deviation: &'a Deviation,
    /// Who broke off after asking it; none when its own requests are odd.
    callers: BTreeSet<u32>,
    weight: f64,
    doubtful: bool,
}

struct Scene<'a> {
    requests: &'a Requests,
    own: BTreeMap<u32, Vec<(u32, &'a Slow)>>,
    out: BTreeMap<u32, Vec<(u32, &'a Slow)>>,
    ways: BTreeMap<(u32, u32), &'a Slow>,
    whole: BTreeMap<u32, &'a Slow>,
    judged: BTreeSet<(u32, u32)>,
    /// How long a service usually takes for what it is asked most, ms.
    usual: BTreeMap<u32, f64>,
    odd: BTreeMap<u32, Vec<(u32, &'a Deviation)>>,
}

impl<'a> Scene<'a> {
    fn new(requests: &'a Requests) -> Self {
        let mut scene = Scene {
            requests,
            own: BTreeMap::new(),
            out: BTreeMap::new(),
            ways: BTreeMap::new(),
            whole: BTreeMap::new(),
            judged: requests.ways().collect(),
            usual: requests.usual(),
            odd: BTreeMap::new(),
        };
        for (what, slow) in requests.slow() {
            match *what {
                What::Own { service, operation } => {
                    scene.own.entry(service).or_default().push((operation, slow));
                }
                What::Out { service, operation } => {
                    scene.out.entry(service).or_default().push((operation, slow));
                }
                What::Way { caller, callee } => {
                    scene.ways.insert((caller, callee), slow);
                }
                What::Whole { service, .. } => {
                    let worst = scene.whole.entry(service).or_insert(slow);
                    if slow.excess > worst.excess {
                        *worst = slow;
                    }
                }
            }
        }
        for ((service, operation), deviation) in requests.deviations() {
            scene.odd.entry(service).or_default().push((operation, deviation));
        }
        scene
    }

    /// All that a service asks, directly or not.
    fn below(&self, service: u32) -> BTreeSet<u32> {
        let mut all = BTreeSet::new();
        let mut next = vec![service];
        while let Some(at) = next.pop() {
            for callee in self.requests.callees(at) {
                if callee != service && all.insert(callee) {
                    next.push(callee);
                }
            }
        }
        all
    }

    /// Is a slow way the caller's doing? It is when more of the ways of which it is an end are slow than of
    /// those of the callee; its own work counts too.
    fn is_callers(&self, caller: u32, callee: u32) -> bool {
        let ends = |service: u32| {
            let of = |(from, to): &(u32, u32)| *from == service || *to == service;
            let slow = self.ways.keys().filter(|way| of(way)).count() as f64;
            let all = self.judged.iter().filter(|way| of(way)).count().max(1) as f64;
            let works = if self.works(service) { 1.5 } else { 0.0 };
            if slow >= 2.0 && slow / all < 0.3 { 1.0 + works } else { slow + works }
        };
        ends(caller) > ends(callee)
    }

    /// Does its own work take so long that it may be what delays its calls?
    fn works(&self, service: u32) -> bool {
        let each = |slow: &Slow| slow.excess / slow.n.max(1) as f64;
        let own: f64 =
            self.own.get(&service).into_iter().flatten().map(|(_, slow)| each(slow)).sum();
        let ways = self.ways.iter().filter(|((from, to), _)| *from == service || *to == service);
        let worst = ways.map(|(_, slow)| each(slow)).fold(0.0, f64::max);
        own > 0.0 && own >= 0.3 * worst
    }

    /// How long those usually wait who ask the service, or ask those who ask it, ms.
    fn users(&self, service: u32) -> f64 {
        let above =
            self.usual.keys().filter(|s| **s == service || self.below(**s).contains(&service));
        above.filter_map(|s| self.usual.get(s)).copied().fold(FELT, f64::max)
    }

    fn slow(&self) -> BTreeMap<u32, Case<'a>> {
        let mut cases: BTreeMap<u32, Case<'a>> = BTreeMap::new();
        for (service, own) in &self.own {
            cases.entry(*service).or_default().own = own.clone();
        }
        for (service, out) in &self.out {
            cases.entry(*service).or_default().out = out.clone();
        }
        for ((caller, callee), slow) in &self.ways {
            if self.is_callers(*caller, *callee) {
                cases.entry(*caller).or_default().from.push((*callee, slow));
            } else {
                cases.entry(*callee).or_default().to.push((*caller, slow));
            }
        }
        for case in cases.values_mut() {
            case.excess = case.all().map(|slow| slow.excess).sum();
        }
        cases
    }

    /// Does a service that it asks lose as much, since as long?
    fn explained(&self, service: u32, case: &Case<'a>, all: &BTreeMap<u32, Case<'a>>) -> bool {
        let below = self.below(service);
        all.iter().any(|(other, theirs)| {
            below.contains(other)
                && !self.below(*other).contains(&service)
                && theirs.each() >= 0.3 * case.each()
                && theirs.excess >= 0.1 * case.excess
                && theirs.onset().0 <= case.onset().0 + SLACK
        })
    }

    fn told_slow(
        &self,
        service: u32,
        case: &Case<'a>,
        share: f64,
        name: &dyn Fn(u32) -> Entity,
    ) -> Arising {
        let sum = |of: &[(u32, &Slow)]| of.iter().map(|(_, slow)| slow.excess).sum::<f64>();
        let (own, out, to, from) = (sum(&case.own), sum(&case.out), sum(&case.to), sum(&case.from));
        let all = case.excess.max(1.0);
        let shifted: f64 =
            case.to.iter().filter(|(_, slow)| slow.is_shifted()).map(|(_, slow)| slow.excess).sum();
        // A network that holds packets back leaves the callee's own work as it is.
        let works = case.own.iter().any(|(_, slow)| {
            slow.now[1] >= MUCH * slow.before[1] && slow.now[1] - slow.before[1] >= VISIBLE
        });
        let leaf = case.out.is_empty() && self.requests.callees(service).is_empty();
        let (kind, pattern) = if case.resends(leaf) && to >= 0.2 * all {
            (WAY_TIME, "packet_loss")
        } else if out >= 0.6 * all {
            (OWN_TIME, SLOW_BACKEND)
        } else if !works && own < 0.2 * all && from < 0.2 * all && shifted >= 0.5 * to {
            (WAY_TIME, "network_delay")
        } else {
            (OWN_TIME, "cpu_contention")
        };
        let worst = case.worst();
        let (value, baseline, score) = worst
            .map_or((0.0, 0.0, 0.0), |s| (f64::from(s.now[1]), f64::from(s.before[1]), s.score));
        let mut said = Vec::new();
        let ms = |slow: &Slow| format!("{:.0} ms, was {:.0} ms", slow.now[1], slow.before[1]);
        let mut place = None;
        for (operation, slow) in case.own.iter().chain(&case.out) {
            let operation = self.requests.name(*operation);
            said.push((slow.excess, format!("its own part of {operation} takes {}", ms(slow))));
            place.get_or_insert_with(|| operation.to_owned());
        }
        for (caller, slow) in &case.to {
            said.push((
                slow.excess,
                format!("the way from {} takes {}", name(*caller).name, ms(slow)),
            ));
        }
        for (callee, slow) in &case.from {
            said.push((
                slow.excess,
                format!("the way to {} takes {}", name(*callee).name, ms(slow)),
            ));
        }
        said.sort_by(|a, b| b.0.total_cmp(&a.0));
        let detail: Vec<String> = said.into_iter().take(3).map(|(_, text)| text).collect();
        let n: usize = case.all().map(|slow| slow.n).sum();
        let told = case.all().map(|slow| slow.told).max().unwrap_or_default();
        let shift = |q: usize| case.all().map(move |slow| slow.now[q] - slow.before[q]);
        // How much longer does it take than it does otherwise?
        let lost: f64 = case.all().map(|s| f64::from((s.now[1] - s.before[1]).max(0.0))).sum();
        let gravity = lost / self.usual.get(&service).copied().unwrap_or_default().max(FELT);
        let seen = shift(1).any(|ms| ms >= VISIBLE)
            && ((gravity >= 0.5 && lost >= FELT) || score >= CLEAR);
        let many = shift(2).any(|ms| ms >= VISIBLE) && score >= CLEAR;
        let sure = score >= SURE || lost >= 2.0 * self.users(service);
        // A machine that is busy for some seconds lets all on it wait; that is every day.
        let brief = kind == OWN_TIME && told < BUSY;
        let w = &weights().requests;
        let confidence = if (!seen && !many) || (!sure && told < LASTS) || brief {
            w.second
        } else if !seen {
            w.unfelt
        } else if pattern == SLOW_BACKEND {
            w.backend
        } else if share < 0.5 || !sure {
            w.part
        } else if n >= 12 {
            w.many
        } else {
            w.few
        };
        Arising {
            service: name(service),
            kind,
            pattern,
            onset: case.onset(),
            last: case.all().map(|slow| slow.last).max().unwrap_or_default(),
            times: n as u64,
            value,
            baseline,
            score,
            detail: detail.join("; "),
            place,
            confidence,
            begun: false,
            effects: self.effects(service, name),
        }
    }

    /// A service with a pod that wants more than there is for it, and for which others wait: by metrics, or in
    /// requests, its own or those of who asks one that sends no spans. It says why, of what was measured in requests
    /// of that service.
    fn starves(
        &self,
        strain: &Strain,
        slow: &BTreeMap<u32, Case<'a>>,
        all: &mut Vec<(u32, f64, Arising)>,
        name: &dyn Fn(u32) -> Entity,
        (identity, around): (&Identity, &Around<'_>),
    ) {
        let service = identity.service(&strain.service.namespace, &strain.service.name);
        let number = |of: &Entity| self.usual.keys().copied().find(|id| name(*id) == *of);
        let known = number(&service);
        let id = known.unwrap_or(u32::MAX);
        let recent = |last: Time| last + BEFORE >= strain.since;
        let near = |onset: Time| recent(onset) && onset <= strain.since + AFTER;
        let (gauge, now, usual) = &strain.uses;
        let want = gauge.want().unwrap_or(Want::Cpu);
        // What is seen to be slow needs less to be believed where it is seen why.
        let longer = |slow: &Slow| {
            let by = |q: usize| slow.now[q] - slow.before[q];
            let most = if want == Want::Packets { by(1).max(by(2)) } else { by(1) };
            (most >= VISIBLE || by(1) >= slow.before[1].max(VISIBLE / 3.0)) && slow.told >= LASTS
        };
        let waits = slow.get(&id).is_some_and(|case| {
            (want == Want::Cpu || near(case.onset()))
                && case.all().any(|slow| longer(slow) && recent(slow.last))
        });
        // Those who ask it, where it tells of no request itself.
        let asks = if known.is_none() { (around.callers)(&service) } else { Vec::new() };
        let callers: Vec<Entity> = asks
            .into_iter()
            .filter(|caller| {
                let case = number(caller).and_then(|id| slow.get(&id));
                case.is_some_and(|case| {
                    let out = case.out.iter().any(|(_, slow)| longer(slow) && recent(slow.last));
                    out && near(case.onset())
                })
            })
            .collect();
        let suffers = known.is_none() && (around.suffers)(&service).is_some_and(near);
        // Where requests are seen they say who waits for memory or a disk; metrics of answers would say less.
        let answers = strain.answers.is_some() && (want == Want::Cpu || self.usual.is_empty());
        if !(waits || suffers || answers || !callers.is_empty()) {
            return;
        }
        let uses = match gauge {
            Gauge::Cores(_) => format!("uses {now:.2} cores, was {usual:.2}"),
            Gauge::Share(_) => {
                format!("uses {:.0} % of its CPU limit, was {:.0} %", now * 100.0, usual * 100.0)
            }
            gauge => format!("has {} at {}, was {}", gauge.name(), brief(*now), brief(*usual)),
        };
        let mut detail = vec![match &*strain.pod {
            "" => format!("{} {uses}", service.name),
            pod => format!("pod {pod} {uses}"),
        }];
        match &strain.answers {
            Some((Gauge::Answer(_), now, usual)) => {
                let ms = (now * 1e3, usual * 1e3);
                detail.push(format!("it answers in {:.0} ms, was {:.0} ms", ms.0, ms.1));
            }
            Some((Gauge::Wait(name), now, usual)) => {
                detail.push(format!("{name} is {}, was {}", brief(*now), brief(*usual)));
            }
            _ => {}
        }
        let at = all.iter().position(|(_, _, a)| a.service == service && a.kind != STEPS);
        let measured = at.map(|at| all.remove(at).2).filter(|measured| recent(measured.last));
        detail.extend(measured.as_ref().map(|m| m.detail.clone()));
        // What its callers lose outside is lost here.
        let mut effects = self.effects(id, name);
        for (at, _, arising) in all.iter_mut() {
            if callers.contains(&arising.service) && arising.pattern == SLOW_BACKEND {
                arising.confidence = arising.confidence.min(weights().requests.second);
                let said = (arising.service.clone(), arising.detail.clone(), arising.onset);
                effects.push(said);
                effects.extend(self.effects(*at, name));
            }
        }
        effects.truncate(LONGEST);
        let (value, baseline) =
            strain.answers.as_ref().map_or((*now, *usual), |(_, now, usual)| (*now, *usual));
        let w = &weights().requests;
        // By metrics alone memory may grow because requests wait, and a disk may write of what fails.
        let seen = want == Want::Cpu || waits || !callers.is_empty();
        all.push((
            id,
            3.0,
            Arising {
                kind: OWN_TIME,
                pattern: match want {
                    Want::Cpu => "cpu_contention",
                    Want::Memory => "memory_overload",
                    Want::Disk => "disk_overload",
                    Want::Packets => "packet_loss",
                },
                onset: measured.as_ref().map_or(strain.since, |m| m.onset.min(strain.since)),
                last: measured.as_ref().map_or(strain.last, |m| m.last.max(strain.last)),
                times: measured.as_ref().map_or(1, |m| m.times),
                value,
                baseline,
                score: SURE,
                detail: detail.join("; "),
                confidence: if seen { w.starves } else { w.part },
                begun: measured.is_none(),
                place: measured.and_then(|m| m.place),
                effects,
                service,
            },
        ));
    }

    /// Services whose requests are odd, less those that what they ask explains.
    fn odd(&self, slow: &BTreeMap<u32, Case<'a>>) -> BTreeMap<u32, Guilt<'a>> {
        let mut guilty: BTreeMap<u32, Guilt<'a>> = BTreeMap::new();
        for (service, odd) in &self.odd {
            let Some((operation, deviation)) =
                odd.iter().max_by(|a, b| a.1.score().total_cmp(&b.1.score()))
            else {
                continue;
            };
            // Another mix of what it is asked comes from those who ask.
            let asked_otherwise = self.odd.keys().any(|caller| {
                caller != service && self.requests.callees(*caller).contains(service)
            });
            if deviation.mix && asked_otherwise {
                continue;
            }
            let asked =
                |other: &u32| deviation.asks.get(other).is_some_and(|(asks, _)| *asks >= 0.5);
            // Those that it asks in these requests, and they in turn.
            let mut below: BTreeSet<u32> =
                deviation.asks.keys().copied().filter(|o| asked(o)).collect();
            for other in below.clone() {
                below.extend(self.below(other));
            }
            below.remove(service);
            let effect = below.iter().any(|other| {
                let odd = self.odd.get(other).into_iter().flatten();
                let odd = odd.map(|(_, d)| (d.score(), d.onset));
                let odd = odd.max_by(|a, b| a.0.total_cmp(&b.0));
                odd.is_some_and(|(score, onset)| {
                    score >= 0.2 * deviation.score().min(20.0)
                        && onset.0 <= deviation.onset.0 + SLACK
                }) || slow.get(other).is_some_and(|case| {
                    case.each() >= 100.0 && case.onset().0 <= deviation.onset.0 + SLACK
                })
            });
            if effect || slow.get(service).is_some_and(|case| case.each() >= 50.0) {
                continue;
            }
            // Breaks it off after it has asked one and the same?
            let last = deviation.more.iter().find_map(|moved| match moved.step {
                Step::Last(callee) => {
                    let share = deviation.asks.get(&callee).map_or(0.0, |(_, last)| *last);
                    (share >= 0.5).then_some(callee)
                }
                _ => None,
            });
            let (guilt, caller) = match last {
                Some(callee) => (callee, Some(*service)),
                None => (*service, None),
            };
            let fresh = || Guilt {
                operation: *operation,
                deviation,
                callers: BTreeSet::new(),
                weight: 0.0,
                doubtful: false,
            };
            let known = guilty.entry(guilt).or_insert_with(fresh);
            if deviation.score() > known.deviation.score() {
                (known.operation, known.deviation) = (*operation, deviation);
            }
            known.weight = known.weight.max(deviation.score() / 100.0);
            known.callers.extend(caller);
        }
        // Another whose requests stop short of asking the same one accuses it too.
        for (accused, guilt) in &mut guilty {
            for (service, odd) in &self.odd {
                let short = odd.iter().flat_map(|(_, d)| &d.missing).any(|moved| {
                    matches!(moved.step, Step::Call(callee, _) if callee == *accused)
                        && moved.before >= 0.8
                });
                if short && !guilt.callers.is_empty() && service != accused {
                    guilt.callers.insert(*service);
                }
            }
        }
        let accusers: BTreeSet<u32> = guilty
            .values()
            .filter(|guilt| guilt.callers.len() >= 2)
            .flat_map(|guilt| guilt.callers.iter().copied())
            .collect();
        guilty.retain(|service, guilt| !(guilt.callers.is_empty() && accusers.contains(service)));
        // Whom only one of its callers accuses may be innocent: then it is the caller's own next step.
        let mut said: BTreeMap<u32, Guilt<'a>> = BTreeMap::new();
        for (service, mut guilt) in guilty {
            let one = guilt.callers.first().copied().filter(|_| guilt.callers.len() == 1);
            match one {
                Some(caller) if !self.odd.contains_key(&service) => {
                    guilt.doubtful = true;
                    guilt.callers.clear();
                    said.entry(caller).or_insert(guilt);
                }
                _ => {
                    said.insert(service, guilt);
                }
            }
        }
        said
    }

    fn told_odd(&self, service: u32, guilt: &Guilt<'a>, name: &dyn Fn(u32) -> Entity) -> Arising {
        let d = guilt.deviation;
        let line = |moved: &crate::requests::Moved| match moved.step {
            Step::Line(template) | Step::Error(template) => {
                Some(shown(self.requests.example(template)))
            }
            _ => None,
        };
        let words = |step: Step| match step {
            Step::Span(operation) => self.requests.name(operation).to_owned(),
            Step::Call(callee, operation) => {
                format!("the call of {} {}", name(callee).name, self.requests.name(operation))
            }
            Step::Line(template) | Step::Error(template) => {
                format!("\"{}\"", shown(self.requests.example(template)))
            }
            Step::Last(callee) => format!("breaking off after {}", name(callee).name),
        };
        let operation = self.requests.name(guilt.operation);
        let error = d.more.iter().any(|moved| match moved.step {
            Step::Error(template) => {
                let text = self.requests.example(template).to_lowercase();
                ["exception", "panic", "traceback", "fatal"].iter().any(|word| text.contains(word))
            }
            _ => false,
        });
        let said = |moved: &crate::requests::Moved, how: &str| {
            format!(
                "{how} {} ({:.0} % of requests, was {:.0} %)",
                words(moved.step),
                moved.now * 100.0,
                moved.before * 100.0
            )
        };
        let mut detail: Vec<String> = Vec::new();
        detail.extend(
            d.missing
                .iter()
                .filter(|m| !matches!(m.step, Step::Last(_)))
                .take(2)
                .map(|m| said(m, "without")),
        );
        detail.extend(
            d.more
                .iter()
                .filter(|m| !matches!(m.step, Step::Last(_)))
                .take(2)
                .map(|m| said(m, "with")),
        );
        let lines: Vec<String> = d
            .missing
            .iter()
            .filter_map(line)
            .take(3)
            .map(|text| format!("no longer \"{text}\""))
            .chain(d.more.iter().filter_map(line).take(2).map(|text| format!("now \"{text}\"")))
            .collect();
        let place = if lines.is_empty() {
            operation.to_owned()
        } else {
            format!("{operation}: {}", lines.join("; "))
        };
        let first = d.missing.first().or(d.more.first());
        let (value, baseline) = first.map_or((0.0, 0.0), |m| (m.now, m.before));
        let clear = (value - baseline).abs() >= 0.5;
        let lasts = d.told >= LASTS || d.score() >= SURE;
        let w = &weights().requests;
        // A service that only does more than it did is a new version at work, not a failure.
        let lost = d.missing.iter().any(|moved| !matches!(moved.step, Step::Last(_)));
        let fails = d.more.iter().any(|moved| matches!(moved.step, Step::Error(_) | Step::Last(_)));
        let confidence = match (clear && !d.mix, guilt.doubtful) {
            _ if !lasts || !(lost || fails) => w.second,
            (true, false) => w.steps,
            (false, false) => w.steps_unclear,
            (true, true) => w.steps_doubtful,
            (false, true) => w.steps_both,
        };
        Arising {
            service: name(service),
            kind: STEPS,
            pattern: if error { "application_exception" } else { "missing_step" },
            onset: d.onset,
            last: d.last,
            times: d.n as u64,
            value,
            baseline,
            score: d.score(),
            detail: format!("{operation} goes {}", detail.join("; ")),
            place: Some(place),
            confidence,
            begun: false,
            effects: self.effects(service, name),
        }
    }

    /// Up from the service to the users: at each step the caller that suffers most.
    fn effects(&self, service: u32, name: &dyn Fn(u32) -> Entity) -> Vec<(Entity, String, Time)> {
        let mut effects = Vec::new();
        let mut seen = BTreeSet::from([service]);
        let mut at = service;
        while effects.len() < LONGEST {
            let callers =
                self.whole.keys().chain(self.odd.keys()).copied().collect::<BTreeSet<u32>>();
            let suffers = |caller: &u32| {
                let slow = self.whole.get(caller).map_or(0.0, |slow| slow.excess);
                let odd = self.odd.get(caller).into_iter().flatten().map(|(_, d)| d.score());
                (slow, odd.fold(0.0, f64::max))
            };
            let next = callers
                .into_iter()
                .filter(|caller| {
                    !seen.contains(caller) && self.requests.callees(*caller).contains(&at)
                })
                .max_by(|a, b| {
                    suffers(a).partial_cmp(&suffers(b)).unwrap_or(std::cmp::Ordering::Equal)
                });
            let Some(next) = next else { break };
            let (words, since) =
                match (self.whole.get(&next), self.odd.get(&next).and_then(|o| o.first())) {
                    (Some(slow), _) => (
                        format!(
                            "{} takes {:.0} ms, was {:.0} ms",
                            name(next).name,
                            slow.now[1],
                            slow.before[1]
                        ),
                        slow.onset,
                    ),
                    (None, Some((operation, d))) => (
                        format!(
                            "{} no longer does all of {}",
                            name(next).name,
                            self.requests.name(*operation)
                        ),
                        d.onset,
                    ),
                    (None, None) => break,
                };
            effects.push((name(next), words, since));
            seen.insert(next);
            at = next;
        }
        effects
    }
}

/// A number in words, whatever its size.
pub(super) fn brief(number: f64) -> String {
    match number.abs() {
        n if n >= 1e9 => format!("{:.2}G", number / 1e9),
        n if n >= 1e6 => format!("{:.2}M", number / 1e6),
        n if n >= 1e3 => format!("{:.2}k", number / 1e3),
        _ => format!("{number:.3}"),
    }
}

fn shown(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}
