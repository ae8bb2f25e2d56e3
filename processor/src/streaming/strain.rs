//! Pods that want more of a processor than there is for them: the CPU of each against its limit and its own
//! past, and how long those wait who ask it, by metrics.
//!
//! Either alone is no news. A pod may use what it is given, and who waits may wait for somebody else. Both at
//! once, while the other services work as ever, is a pod that starves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

/// Pods kept, and series of each.
const MOST_PODS: usize = 20_000;
const MOST_OF_ONE: usize = 16;
/// Points kept of a series: an hour of minutes.
const KEEP: usize = 60;
/// Points, and the time between them, before anything can be called unusual.
const LEAST: usize = 5;
const LEAST_SPAN: Duration = Duration::from_secs(180);
/// So many times what is seldom exceeded is far from usual.
const FAR: f64 = 3.0;
/// The least share of its limit that a pod strained uses; the least cores where no limit is known.
const SHARE: f64 = 0.5;
const CORES: f64 = 0.5;
/// The least that answers take longer, seconds.
const LONGER: f64 = 0.05;
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

/// What a metric says of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gauge {
    /// CPU as a share of the limit, of a container or of the pod.
    Share(String),
    /// Cores in use, of a container or of the pod.
    Cores(String),
    /// Seconds that an answer takes, by metric and statistic.
    Answer(String),
}

impl Gauge {
    /// What a CPU metric of the `kubeletstats` receiver measures.
    pub fn of_cpu(name: &str, container: &str) -> Option<Self> {
        match name {
            "k8s.pod.cpu_limit_utilization" | "k8s.container.cpu_limit_utilization" => {
                Some(Gauge::Share(container.to_owned()))
            }
            "k8s.pod.cpu.usage" | "container.cpu.usage" => Some(Gauge::Cores(container.to_owned())),
            _ => None,
        }
    }

    /// Below this it is never far from usual.
    fn floor(&self, usual: f64) -> f64 {
        match self {
            Gauge::Share(_) => SHARE,
            Gauge::Cores(_) => CORES,
            Gauge::Answer(_) => usual + LONGER,
        }
    }
}

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
    /// How much of a processor it uses, and how much is seldom exceeded.
    pub cpu: (Gauge, f64, f64),
    /// Seconds that its answers take, and that are seldom exceeded.
    pub answers: Option<(f64, f64)>,
}

/// What is far from usual.
#[derive(Clone, Copy, Debug)]
struct Far {
    since: Time,
    usual: f64,
}

#[derive(Debug, Default)]
struct Points {
    past: VecDeque<f64>,
    first: Option<Time>,
    now: Option<(Time, f64)>,
    far: Option<Far>,
}

impl Points {
    fn add(&mut self, gauge: &Gauge, time: Time, value: f64) {
        let before = self.now.map(|(time, _)| time);
        if before.is_some_and(|before| before >= time) {
            return;
        }
        let first = *self.first.get_or_insert(time);
        self.now = Some((time, value));
        let known = self.past.len() >= LEAST && first + LEAST_SPAN <= time;
        let usual = self.quantile(0.9);
        if known && value >= FAR * usual && value >= gauge.floor(usual) {
            let since = before.unwrap_or(time);
            let far = self.far.get_or_insert(Far { since, usual });
            if far.since + ADOPTED >= time {
                return;
            }
            self.past.clear();
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

    /// Far from usual now: since when, the newest point, and what is usual.
    fn far(&self, now: Time) -> Option<(Far, Time, f64)> {
        let (time, value) = self.fresh(now)?;
        Some((self.far?, time, value))
    }
}

/// Namespace and service, and the pod; no pod for what its service tells of all.
type Key = (Entity, String);

/// All pods.
#[derive(Debug, Default)]
pub struct Strains {
    pods: BTreeMap<Key, BTreeMap<Gauge, Points>>,
    /// Those whose CPU may be far from usual.
    busy: BTreeSet<Key>,
}

impl Strains {
    /// Adds a point.
    pub fn add(&mut self, service: &Entity, pod: &str, gauge: Gauge, time: Time, value: f64) {
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
        points.add(&gauge, time, value);
        if points.far.is_some() && !matches!(gauge, Gauge::Answer(_)) {
            self.busy.insert(key);
        }
    }

    /// The pods that are strained now, and how long they let others wait, where metrics tell.
    pub fn now(&mut self, now: Time) -> Vec<Strain> {
        let pods = &self.pods;
        self.busy.retain(|key| {
            pods.get(key).into_iter().flatten().any(|(gauge, points)| {
                !matches!(gauge, Gauge::Answer(_)) && points.far(now).is_some()
            })
        });
        let mut told = Vec::new();
        for key in &self.busy {
            let Some(all) = self.pods.get(key) else { continue };
            let cpu = all
                .iter()
                .filter(|(gauge, _)| !matches!(gauge, Gauge::Answer(_)))
                .find_map(|(gauge, points)| Some((gauge, points.far(now)?)));
            let Some((gauge, (far, last, value))) = cpu else { continue };
            if far.since + LASTS > last || self.crowded(&key.0, now) {
                continue;
            }
            let of_all = self.pods.get(&(key.0.clone(), String::new()));
            let answers = all
                .iter()
                .chain(of_all.into_iter().flatten())
                .filter(|(gauge, _)| matches!(gauge, Gauge::Answer(_)))
                .filter_map(|(_, points)| points.far(now))
                .map(|(far, _, value)| (value, far.usual))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            told.push(Strain {
                service: key.0.clone(),
                pod: key.1.clone(),
                since: far.since,
                last,
                cpu: (gauge.clone(), value, far.usual),
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
                !matches!(gauge, Gauge::Answer(_)) && points.past.len() >= LEAST
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
                strains.add(&service, name, Gauge::Share(String::new()), time, cpu);
                let seconds = if late && name == "shop" { waits } else { 0.02 };
                strains.add(&service, name, Gauge::Answer("p90".into()), time, seconds);
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
        assert_eq!(strain.answers.map(|(now, _)| now), Some(0.3));
    }

    /// Guarantees: one that is busy and answers as ever is told without answers, and one that is a little
    /// busier, or as busy as all, not at all.
    #[test]
    fn what_is_busy_and_answers_lets_nobody_wait() {
        assert_eq!(told(0.9, 0.02, 0.06)[0].answers, None);
        assert_eq!(told(0.3, 0.3, 0.06), []);
        assert_eq!(told(0.9, 0.3, 0.8), []);
    }
}
