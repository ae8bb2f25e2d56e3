//! Pods that want more than there is for them: the CPU, the memory and the disk of each against its own past, the
//! packets that its network drops, and how long those wait who ask it, by metrics.
//!
//! Either alone is no news. A pod may use what it is given, and who waits may wait for somebody else. Both at
//! once, while the other services work as ever, is a pod that starves.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::{Gauge, Named, Want};

/// Pods kept, and series of each; and nodes.
const MOST_PODS: usize = 20_000;
const MOST_NODES: usize = 5_000;
const MOST_OF_ONE: usize = 32;
/// Of points that come sooner one after the other some are looked at.
const APART: Duration = Duration::from_secs(8);
/// Names of metrics of which it is kept what they measure.
const MOST_NAMES: usize = 10_000;
/// Points kept of a series: an hour of minutes.
const KEEP: usize = 60;
/// Points, and the time between them, before anything can be called unusual.
const LEAST: usize = 5;
const LEAST_SPAN: Duration = Duration::from_secs(180);
/// It lasts so long: all are busy for some seconds.
const LASTS: Duration = Duration::from_secs(30);
/// What no point tells of for so long is not known to go on.
const FRESH: Duration = Duration::from_secs(150);
/// A pod that is silent for so long makes room for others.
const SILENT: Duration = Duration::from_secs(3600);
/// What lasts longer is how it is now.
const ADOPTED: Duration = Duration::from_secs(1800);
/// More than this share of all other services busier than usual: there is more to do for everybody.
const CROWD: f64 = 1.0 / 3.0;

/// A pod that starves.
#[derive(Clone, Debug, PartialEq)]
pub struct Strain {
    /// The service as it names itself, and the pod.
    pub service: Entity,
    /// Name of the pod.
    pub pod: String,
    /// Since when, and when last seen.
    pub since: Time,
    /// When it was last seen.
    pub last: Time,
    /// What it uses so much of, how much, and how much is seldom exceeded.
    pub uses: (Gauge, f64, f64),
    /// How long its answers take, and what is seldom exceeded; in seconds, or in the metric's own unit.
    pub answers: Option<(Gauge, f64, f64)>,
}

/// What is far from usual.
#[derive(Clone, Copy, Debug)]
struct Far {
    since: Time,
    /// When it last was, and how much it was then.
    last: Time,
    value: f64,
    usual: f64,
}

#[derive(Debug, Default)]
struct Points {
    past: VecDeque<f64>,
    first: Option<Time>,
    now: Option<(Time, f64)>,
    /// Of what counts up, the newest count.
    count: Option<(Time, f64)>,
    far: Option<Far>,
}

impl Points {
    fn add(&mut self, gauge: &Gauge, time: Time, value: f64, counts: bool) {
        let before = self.now.or(self.count).map(|(time, _)| time);
        if before.is_some_and(|before| before + APART > time) {
            return;
        }
        let value = if counts {
            match self.count.replace((time, value)) {
                Some((at, was)) if value >= was => (value - was) / time.seconds_since(at),
                _ => return,
            }
        } else {
            value
        };
        let first = *self.first.get_or_insert(time);
        self.now = Some((time, value));
        let known = self.past.len() >= LEAST && first + LEAST_SPAN <= time;
        let usual = self.quantile(0.9);
        if known && value >= gauge.floor(usual) {
            let since = before.unwrap_or(time);
            let far = self.far.get_or_insert(Far { since, last: time, value, usual });
            (far.last, far.value) = (time, value);
            if far.since + ADOPTED >= time {
                return;
            }
            self.past.clear();
        } else if self.far.is_some_and(|far| far.last + LASTS > time) {
            // One that is as ever, among those that are not.
            return;
        }
        self.far = None;
        if self.past.len() >= KEEP {
            self.past.pop_front();
        }
        self.past.push_back(value);
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted: Vec<f64> = self.past.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * q) as usize).copied().unwrap_or_default()
    }

    fn fresh(&self, now: Time) -> Option<(Time, f64)> {
        self.now.filter(|(time, _)| *time + FRESH >= now)
    }

    /// Far from usual now.
    fn far(&self, now: Time) -> Option<Far> {
        self.fresh(now)?;
        self.far
    }

    /// The same, if it lasts.
    fn lasts(&self, now: Time) -> Option<Far> {
        self.far(now).filter(|far| far.since + LASTS <= far.last)
    }
}

/// A node whose processors do far more than usual.
#[derive(Clone, Debug, PartialEq)]
pub struct Busy {
    /// Name of the node.
    pub node: String,
    /// Since when.
    pub since: Time,
    /// The metric, what it is, and what is seldom exceeded.
    pub uses: (String, f64, f64),
}

/// Namespace and service, and the pod; no pod for what its service tells of all.
type Key = (Entity, String);

/// All pods.
#[derive(Debug, Default)]
pub struct Strains {
    pods: BTreeMap<Key, BTreeMap<Gauge, Points>>,
    /// Those that may use far more than usual.
    busy: BTreeSet<Key>,
    /// The CPU of each node, by the metric that told of it first.
    nodes: BTreeMap<String, (Gauge, Points)>,
    names: HashMap<String, Named>,
}

impl Strains {
    /// What a metric of this name measures.
    pub fn named(&mut self, name: &str) -> Named {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        let named = Named::of(name);
        if self.names.len() < MOST_NAMES {
            self.names.insert(name.to_owned(), named);
        }
        named
    }

    /// Adds a point; of what `counts` up, what it gained in a second is looked at.
    pub fn add(
        &mut self,
        (service, pod): (&Entity, &str),
        gauge: Gauge,
        (time, value): (Time, f64),
        counts: bool,
    ) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        let key = (service.clone(), pod.to_owned());
        if !self.pods.contains_key(&key) && self.pods.len() >= MOST_PODS {
            self.pods.retain(|_, all| {
                all.values().any(|p| p.now.is_some_and(|(last, _)| last + SILENT >= time))
            });
            if self.pods.len() >= MOST_PODS {
                return;
            }
        }
        let all = self.pods.entry(key.clone()).or_default();
        if !all.contains_key(&gauge) && all.len() >= MOST_OF_ONE {
            return;
        }
        let points = all.entry(gauge.clone()).or_default();
        points.add(&gauge, time, value, counts);
        if points.far.is_some() && gauge.want().is_some() {
            self.busy.insert(key);
        }
    }

    /// Adds a point of what the processors of a node do.
    pub fn add_node(&mut self, node: &str, gauge: &Gauge, (time, value): (Time, f64)) {
        let room = self.nodes.len() < MOST_NODES || self.nodes.contains_key(node);
        if !room || !value.is_finite() || value < 0.0 {
            return;
        }
        let of = self.nodes.entry(node.to_owned());
        let (known, points) = of.or_insert_with(|| (gauge.clone(), Points::default()));
        if known == gauge {
            points.add(gauge, time, value, false);
        }
    }

    /// The nodes that do far more than usual now, as long as most do not.
    pub fn nodes(&self, now: Time) -> Vec<Busy> {
        let fresh = self.nodes.values().filter(|(_, points)| points.fresh(now).is_some()).count();
        let busy: Vec<Busy> = self
            .nodes
            .iter()
            .filter_map(|(node, (gauge, points))| {
                let (Gauge::Node(name), far) = (gauge, points.lasts(now)?) else { return None };
                let uses = (name.clone(), far.value, far.usual);
                Some(Busy { node: node.clone(), since: far.since, uses })
            })
            .collect();
        if busy.len() * 2 > fresh { Vec::new() } else { busy }
    }

    /// The pods that are strained now, and how long they let others wait, where metrics tell.
    pub fn now(&mut self, now: Time) -> Vec<Strain> {
        let pods = &self.pods;
        self.busy.retain(|key| {
            pods.get(key)
                .into_iter()
                .flatten()
                .any(|(gauge, points)| gauge.want().is_some() && points.far(now).is_some())
        });
        let mut told = Vec::new();
        for key in &self.busy {
            let Some(all) = self.pods.get(key) else { continue };
            let wants = all.iter().filter(|(gauge, _)| gauge.want().is_some());
            let wants = wants.filter_map(|(gauge, points)| Some((gauge, points.lasts(now)?)));
            let exceeds = |(gauge, far): &(&Gauge, Far)| far.value / gauge.floor(far.usual);
            let most = wants.max_by(|a, b| exceeds(a).total_cmp(&exceeds(b)));
            let Some((gauge, far)) = most else { continue };
            if self.crowded(&key.0, now) {
                continue;
            }
            let of_all = self.pods.get(&(key.0.clone(), String::new()));
            let answers = all
                .iter()
                .chain(of_all.into_iter().flatten())
                .filter_map(|(gauge, points)| match gauge {
                    Gauge::Answer(_) => Some((gauge, points.far(now)?)),
                    Gauge::Wait(_) => Some((gauge, points.lasts(now)?)),
                    _ => None,
                })
                .map(|(gauge, far)| (gauge.clone(), far.value, far.usual))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            told.push(Strain {
                service: key.0.clone(),
                pod: key.1.clone(),
                since: far.since,
                last: far.last,
                uses: (gauge.clone(), far.value, far.usual),
                answers,
            });
        }
        told
    }

    /// Are many of the other services busier than usual, too?
    fn crowded(&self, service: &Entity, now: Time) -> bool {
        let (mut of, mut up) = (0.0, 0.0);
        for (_, all) in self.pods.iter().filter(|((other, _), _)| other != service) {
            let cpu = all.iter().filter(|(gauge, points)| {
                gauge.want() == Some(Want::Cpu) && points.past.len() >= LEAST
            });
            let mut cpu = cpu.filter_map(|(_, points)| Some((points.fresh(now)?.1, points)));
            if let Some((value, points)) = cpu.next_back() {
                of += 1.0;
                up += f64::from(u8::from(value >= 2.0 * points.quantile(0.5) && value > 0.01));
            }
        }
        up > CROWD * of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000_000;

    /// Twenty minutes of a town of five; in the last two `works` and `waits` say how `shop` does.
    fn told(works: f64, waits: f64, others: f64) -> Vec<Strain> {
        let mut strains = Strains::default();
        for minute in 1..=20 {
            let time = Time(minute * MINUTE);
            let late = minute > 18;
            for name in ["shop", "cart", "stock", "gate", "mail"] {
                let service = Entity::new("Service", "town", name);
                let mine = if name == "shop" { works } else { others };
                let cpu = if late { mine } else { 0.05 + 0.01 * (minute % 3) as f64 };
                let pod = (&service, name);
                strains.add(pod, Gauge::Share(String::new()), (time, cpu), false);
                let seconds = if late && name == "shop" { waits } else { 0.02 };
                strains.add(pod, Gauge::Answer("p90".into()), (time, seconds), false);
            }
        }
        strains.now(Time(20 * MINUTE))
    }

    /// Guarantees: a pod that stands near its limit and answers slowly is strained, since the point before.
    #[test]
    fn a_pod_at_its_limit_that_answers_slowly_is_strained() {
        let all = told(0.9, 0.3, 0.06);
        let [strain] = &all[..] else { panic!("{all:?}") };
        assert_eq!((&*strain.service.name, strain.since), ("shop", Time(18 * MINUTE)));
        assert_eq!(strain.answers.as_ref().map(|(_, now, _)| *now), Some(0.3));
    }

    /// Guarantees: one that is busy and answers as ever is told without answers, and one that is a little
    /// busier, or as busy as all, not at all.
    #[test]
    fn what_is_busy_and_answers_lets_nobody_wait() {
        assert_eq!(told(0.9, 0.02, 0.06)[0].answers, None);
        assert_eq!(told(0.3, 0.3, 0.06), []);
        assert_eq!(told(0.9, 0.3, 0.8), []);
    }

    /// Guarantees: a disk, memory or dropped packets that leap are told as what they are, also where a processor is a little
    /// busy with it; counts are told by what they gain, and points each second are no longer past than others.
    #[test]
    fn what_leaps_is_told_as_what_it_is() {
        for (name, least, leaps, want) in [
            ("container_fs_writes_bytes_total", 9e3, 9e6, Want::Disk),
            ("container_memory_working_set_bytes", 2e8, 2e9, Want::Memory),
            ("container_network_receive_packets_dropped_total", 0.0, 5.0, Want::Packets),
            ("container_cpu_usage_seconds_total", 0.05, 0.2, Want::Cpu),
        ] {
            for step in [1, 15] {
                let mut strains = Strains::default();
                let service = Entity::new("Service", "town", "shop");
                let counts = name.ends_with("_total");
                let mut count = 7.0;
                for second in (0..900_i64).step_by(step) {
                    let time = Time(second * 1_000_000_000);
                    let value = if second > 800 { leaps } else { least };
                    count += value * step as f64;
                    let value = if counts { count } else { value };
                    let gauge = Gauge::of_use(Named::of(name).want.unwrap(), name, "");
                    strains.add((&service, "shop"), gauge, (time, value), counts);
                    let cpu = if second > 800 { 0.9 } else { 0.1 };
                    let gauge = Gauge::Used(Want::Cpu, "cpu".into());
                    if matches!(want, Want::Disk | Want::Memory) {
                        strains.add((&service, "shop"), gauge, (time, cpu), false);
                    }
                }
                let all = strains.now(Time(900_000_000_000));
                let [strain] = &all[..] else { panic!("{name} {step}: {all:?}") };
                assert_eq!(strain.uses.0.want(), Some(want), "{name} {step}");
            }
        }
    }
}
