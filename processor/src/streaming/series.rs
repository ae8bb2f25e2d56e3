//! Services that tell of themselves by metrics alone: availability, mean latency and requests of each
//! over time, and who calls whom by the metrics of a service graph.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

/// Intervals of each service that are its past: a day of five minutes.
const KEEP: usize = 288;
/// Intervals before anything can be called unusual.
const LEAST: usize = 2;
/// With so many the past's own extremes are known.
const MANY: usize = 30;
/// Services kept, and calls between them.
const MOST_SERVICES: usize = 5_000;
const MOST_CALLS: usize = 20_000;
/// Intervals that may wait for a service's other metrics.
const MOST_WAITING: usize = 8;
/// Fewer requests in an interval say nothing of what is usual; fewer than the second are no traffic that
/// users would miss.
const FEW: f64 = 10.0;
const TRAFFIC: f64 = 30.0;
/// The least share of requests that must fail beyond what is usual; and where that is well known, the least
/// that counts when it comes twice in a row, of so many requests.
const SHARE: f64 = 0.02;
const FAINT_SHARE: f64 = 0.005;
const FAINT_FAILED: f64 = 2.0;
/// How much slower than usual, and than the slowest of the past; the same twice.
const SLOWER: (f64, f64) = (0.5, 1.3);
const FAINT_SLOWER: (f64, f64) = (0.3, 1.1);

/// What a metric says of the service that sends it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// Share of requests that succeed; a value times the scale.
    Availability(f64),
    /// Share of requests that fail; a value times the scale.
    Errors(f64),
    /// Seconds in the mean; a value times the scale.
    Latency(f64),
    /// The same in a unit that is not said.
    Wait,
    /// Requests in the interval.
    Requests,
}

impl Meaning {
    /// By name and unit; of a gauge, or of what a sum gained.
    pub fn of(name: &str, unit: &str, gain: bool) -> Option<Self> {
        let name: String = name.to_ascii_lowercase().replace(['_', '.', '-', ' '], "");
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if gain {
            let asked = ["requests", "requestcount", "requeststotal", "invocations"];
            let part = has(&["error", "fail", "fault", "throttl", "4xx", "5xx", "size", "active"]);
            return (has(&asked) && !part).then_some(Meaning::Requests);
        }
        let share = match unit {
            "%" => Some(0.01),
            "1" => Some(1.0),
            _ => None,
        };
        if has(&["availability", "successrate", "successratio"]) {
            return share.map(Meaning::Availability);
        }
        if has(&["errorrate", "errorratio", "faultrate", "failurerate", "failureratio"]) {
            return share.map(Meaning::Errors);
        }
        // What a service waits for as a client is its callee's.
        if has(&["latency", "responsetime", "requestduration"]) && !has(&["client"]) {
            return match unit {
                "s" => Some(Meaning::Latency(1.0)),
                "ms" => Some(Meaning::Latency(1e-3)),
                "us" => Some(Meaning::Latency(1e-6)),
                "" | "1" => Some(Meaning::Wait),
                _ => None,
            };
        }
        None
    }
}

#[derive(Clone, Copy, Default)]
struct Interval {
    failing: Option<f64>,
    latency: Option<f64>,
    requests: Option<f64>,
}

#[derive(Default)]
struct Service {
    waiting: BTreeMap<Time, Interval>,
    failing: VecDeque<f64>,
    latency: VecDeque<f64>,
    last: Option<Time>,
    /// Whether the last interval was a little worse than ever: failures, latency.
    faint: (bool, bool),
}

/// A service that does worse than ever.
#[derive(Clone, Debug)]
pub struct Worse {
    /// The service.
    pub service: Entity,
    /// `error_ratio` or `latency`.
    pub kind: &'static str,
    /// Start and end of the interval.
    pub during: (Time, Time),
    /// Share of requests, or milliseconds.
    pub value: f64,
    /// What is usual.
    pub baseline: f64,
    /// In units of the usual spread.
    pub score: f64,
    /// Requests that failed, or seconds that were waited, beyond what is usual.
    harm: f64,
    requests: f64,
}

/// A service that does worse while all that it calls does well.
#[derive(Clone, Debug)]
pub struct Blame {
    /// The service, and how it does worse.
    pub worse: Worse,
    /// Its share of all that callers suffer.
    pub share: f64,
    /// Does a caller suffer with it?
    pub borne_out: bool,
}

/// The series of all services.
#[derive(Default)]
pub struct Series {
    services: BTreeMap<Entity, Service>,
    calls: BTreeSet<(Entity, Entity)>,
    blamed: Vec<Blame>,
}

impl Series {
    /// Adds a point of a service.
    pub fn add(&mut self, service: &Entity, meaning: Meaning, time: Time, value: f64) {
        let room = self.services.len() < MOST_SERVICES || self.services.contains_key(service);
        if !value.is_finite() || !room {
            return;
        }
        let service = self.services.entry(service.clone()).or_default();
        if service.last.is_some_and(|last| last >= time) {
            return;
        }
        let interval = service.waiting.entry(time).or_default();
        match meaning {
            Meaning::Availability(scale) => {
                interval.failing = Some((1.0 - value * scale).clamp(0.0, 1.0));
            }
            Meaning::Errors(scale) => interval.failing = Some((value * scale).clamp(0.0, 1.0)),
            Meaning::Latency(scale) => interval.latency = Some(value * scale),
            Meaning::Wait => {}
            Meaning::Requests => *interval.requests.get_or_insert(0.0) += value,
        }
        if service.waiting.len() > MOST_WAITING {
            service.waiting.pop_first();
        }
    }

    /// Learns who calls whom.
    pub fn calls(&mut self, caller: Entity, callee: Entity) {
        if caller != callee && self.calls.len() < MOST_CALLS {
            self.calls.insert((caller, callee));
        }
    }

    /// Who calls whom.
    pub fn edges(&self) -> impl Iterator<Item = &(Entity, Entity)> {
        self.calls.iter()
    }

    /// Who is to blame by the newest interval in which anything was worse.
    pub fn blamed(&self) -> &[Blame] {
        &self.blamed
    }

    /// Judges every interval that has ended by `now`: those that do worse than usual, as far as users or
    /// callers with traffic suffer from it.
    pub fn judge(&mut self, now: Time) -> Vec<Worse> {
        let mut ended: BTreeMap<Time, Vec<Worse>> = BTreeMap::new();
        for (entity, service) in &mut self.services {
            while let Some(first) = service.waiting.first_entry().filter(|e| *e.key() <= now) {
                let (time, interval) = first.remove_entry();
                if let Some(worse) = service.judge(entity, time, interval) {
                    ended.entry(time).or_default().push(worse);
                }
            }
        }
        let mut told = Vec::new();
        for all in ended.into_values() {
            let (seen, blamed) = self.blame(&all);
            if !blamed.is_empty() {
                self.blamed = blamed;
                told.extend(seen);
            }
        }
        told
    }

    /// From each caller with traffic down to the last that does worse.
    fn blame(&self, all: &[Worse]) -> (Vec<Worse>, Vec<Blame>) {
        let worse: BTreeMap<&Entity, &Worse> = all.iter().map(|w| (&w.service, w)).collect();
        let mut callees: BTreeMap<&Entity, Vec<&Entity>> = BTreeMap::new();
        let mut callers = BTreeSet::new();
        for (caller, callee) in &self.calls {
            callers.insert(caller);
            if let (Some((caller, _)), Some((callee, _))) =
                (worse.get_key_value(caller), worse.get_key_value(callee))
            {
                callees.entry(caller).or_default().push(callee);
            }
        }
        let mut harm: BTreeMap<&Entity, f64> = BTreeMap::new();
        let (mut reached, mut below) = (BTreeSet::new(), BTreeSet::new());
        let entries = all.iter().filter(|w| w.requests >= TRAFFIC && callers.contains(&w.service));
        for entry in entries {
            let mut seen = BTreeSet::from([&entry.service]);
            let mut next = vec![&entry.service];
            while let Some(at) = next.pop() {
                reached.insert(at);
                let deeper = callees.get(at).map(Vec::as_slice).unwrap_or_default();
                if deeper.is_empty() {
                    *harm.entry(at).or_default() += entry.harm;
                }
                for callee in deeper {
                    below.insert(*callee);
                    if seen.insert(callee) {
                        next.push(callee);
                    }
                }
            }
        }
        let most: f64 = harm.values().sum();
        let mut blamed: Vec<Blame> = harm
            .into_iter()
            .filter_map(|(service, harm)| {
                Some(Blame {
                    worse: (*worse.get(service)?).clone(),
                    share: if most > 0.0 { harm / most } else { 0.0 },
                    borne_out: below.contains(service),
                })
            })
            .collect();
        blamed.sort_by(|a, b| b.share.total_cmp(&a.share));
        let seen = reached.into_iter().filter_map(|s| worse.get(s).map(|w| (*w).clone()));
        (seen.collect(), blamed)
    }
}

impl Service {
    fn judge(&mut self, entity: &Entity, time: Time, interval: Interval) -> Option<Worse> {
        let length = self.last.map_or(60.0, |last| time.seconds_since(last)).clamp(1.0, 600.0);
        self.last = Some(time);
        let during = (time - Duration::from_secs_f64(length), time);
        let requests = interval.requests.unwrap_or_default();
        let worse = |kind, value, baseline, score, harm| Worse {
            service: entity.clone(),
            kind,
            during,
            value,
            baseline,
            score,
            harm,
            requests,
        };
        let before = std::mem::take(&mut self.faint);
        let mut told = None;
        if requests >= FEW {
            if let (Some(now), Some(past)) = (interval.failing, Past::of(&self.failing)) {
                let usual = past.usual.max(past.most.unwrap_or(0.0)).max(0.001);
                let chance = (usual * (1.0 - usual) / requests).sqrt().max(past.spread).max(1e-6);
                let (over, score) = (now - usual, (now - usual) / chance);
                let worse = || worse("error_ratio", now, past.usual, score, over * requests);
                if over > SHARE && score > 4.0 {
                    return Some(worse());
                }
                let known = past.most.is_some() && score > 4.0;
                self.faint.0 = known && over > FAINT_SHARE && over * requests > FAINT_FAILED;
                told = (self.faint.0 && before.0).then(worse);
            }
            if let (Some(now), Some(past)) = (interval.latency, Past::of(&self.latency)) {
                let spread = past.spread.max(0.1 * past.usual).max(0.002);
                let most = past.most.unwrap_or(past.usual);
                let (over, score) = (now - past.usual, (now - past.usual) / spread);
                let slower = |(than_usual, than_most), least| {
                    over > than_usual * past.usual && now > than_most * most && score > least
                };
                let worse =
                    || worse("latency", now * 1e3, past.usual * 1e3, score, over * requests);
                if slower(SLOWER, 6.0) {
                    return told.or_else(|| Some(worse()));
                }
                self.faint.1 = past.most.is_some() && slower(FAINT_SLOWER, 4.0);
                if self.faint.1 && before.1 {
                    told = told.or_else(|| Some(worse()));
                }
            }
        }
        // What is far from usual is no past to compare with; what is a little worse becomes usual in time.
        for (past, now) in
            [(&mut self.failing, interval.failing), (&mut self.latency, interval.latency)]
        {
            if past.len() == KEEP {
                past.pop_front();
            }
            past.extend(now);
        }
        told
    }
}

struct Past {
    usual: f64,
    spread: f64,
    /// All but one in a hundred are below, where so many are known.
    most: Option<f64>,
}

impl Past {
    fn of(values: &VecDeque<f64>) -> Option<Self> {
        if values.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<f64> = values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let most = sorted.get(sorted.len() * 99 / 100).copied();
        let usual = middle(&sorted);
        let mut off: Vec<f64> = sorted.iter().map(|v| (v - usual).abs()).collect();
        off.sort_by(f64::total_cmp);
        let most = most.filter(|_| values.len() >= MANY);
        Some(Past { usual, spread: 1.4826 * middle(&off), most })
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match (sorted.get(half.wrapping_sub(1)), sorted.get(half)) {
        (Some(a), Some(b)) if sorted.len().is_multiple_of(2) => (a + b) / 2.0,
        (_, Some(b)) => *b,
        _ => 0.0,
    }
}
