//! How requests go to each pod of a service, so that one that does badly can be told from its twins.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::cut;

/// Width of a bucket, ns.
const BUCKET: i64 = 15_000_000_000;
/// Buckets that are kept of a pod: a quarter of an hour.
const KEPT: usize = 60;
/// Pods that are kept of all services.
const MOST: usize = 20_000;
/// A pod that has served nothing for so long is forgotten where there is no room.
const GONE: Duration = Duration::from_secs(900);
/// A longer name is cut, bytes.
const LONGEST: usize = 253;

/// Who serves: names as its telemetry has them; what is not known is empty.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Service.
    pub service: &'a str,
    /// Pod.
    pub pod: &'a str,
    /// The node that it says it is on.
    pub node: &'a str,
}

/// Requests, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// How many.
    pub count: u32,
    /// How many failed.
    pub errors: u32,
    /// Sums of the logarithms of their times, ms, and of their squares.
    logs: f32,
    squares: f32,
}

/// One pod.
#[derive(Debug)]
struct Instance {
    node: Arc<str>,
    first: Time,
    /// By their starts.
    buckets: VecDeque<(Time, Served)>,
}

/// A pod of a service and what it served.
#[derive(Clone, Debug, PartialEq)]
pub struct Twin {
    /// The pod.
    pub pod: Entity,
    /// Name of the node; empty where it is not known.
    pub node: Arc<str>,
    /// When it served first.
    pub first: Time,
    /// Before the time that was asked for.
    pub before: Served,
    /// From then on.
    pub since: Served,
}

/// All pods that serve, by namespace and name of their service.
#[derive(Debug, Default)]
pub struct Instances {
    services: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Pods>>,
    pods: usize,
}

/// By their names.
type Pods = BTreeMap<Arc<str>, Instance>;

impl Served {
    /// Takes in a request.
    pub fn add(&mut self, took: u64, failed: bool, times: u32) {
        self.count = self.count.saturating_add(times);
        self.errors = self.errors.saturating_add(if failed { times } else { 0 });
        let log = (took.max(1) as f32 / 1e6).ln();
        self.logs += log * times as f32;
        self.squares += log * log * times as f32;
    }

    /// Share that failed, 0 to 1; 0 of none.
    pub fn rate(&self) -> f64 {
        f64::from(self.errors) / f64::from(self.count.max(1))
    }

    /// Geometric mean of their times, ns; 0 of none.
    pub fn took(&self) -> f64 {
        if self.count == 0 { 0.0 } else { 1e6 * self.log().0.exp() }
    }

    /// Mean of the logarithms of their times, and the square of its standard error; of one at least.
    fn log(&self) -> (f64, f64) {
        let n = f64::from(self.count);
        let (mean, square) = (f64::from(self.logs) / n, f64::from(self.squares) / n);
        (mean, (square - mean * mean).max(0.0) / n)
    }

    /// How many standard errors longer than the others these take (Welch's t of the logarithms); 0 where there
    /// are none to compare.
    pub fn slower_than(&self, others: &Served) -> f64 {
        if self.count == 0 || others.count == 0 {
            return 0.0;
        }
        let ((mean, error), (other, others)) = (self.log(), others.log());
        (mean - other) / (error + others).sqrt().max(1e-6)
    }

    /// Both together.
    pub fn plus(self, other: Served) -> Served {
        Served {
            count: self.count.saturating_add(other.count),
            errors: self.errors.saturating_add(other.errors),
            logs: self.logs + other.logs,
            squares: self.squares + other.squares,
        }
    }
}

impl Instances {
    /// Takes in what a pod served, ending at `at`.
    pub fn served(&mut self, by: Server<'_>, at: Time, served: Served) {
        let name = |text: &str| -> Arc<str> { cut(text, LONGEST).into() };
        let start = Time(at.0 - at.0.rem_euclid(BUCKET));
        let known = self.services.get_mut(by.namespace).and_then(|all| all.get_mut(by.service));
        if known.and_then(|pods| pods.get_mut(by.pod)).is_none() {
            if self.pods >= MOST {
                return self.sweep(at);
            }
            self.pods += 1;
        }
        let services = match self.services.get_mut(by.namespace) {
            Some(services) => services,
            None => self.services.entry(name(by.namespace)).or_default(),
        };
        let pods = match services.get_mut(by.service) {
            Some(pods) => pods,
            None => services.entry(name(by.service)).or_default(),
        };
        let pod = match pods.get_mut(by.pod) {
            Some(pod) => pod,
            None => pods.entry(name(by.pod)).or_insert_with(|| Instance {
                node: name(by.node),
                first: at,
                buckets: VecDeque::new(),
            }),
        };
        pod.first = pod.first.min(at);
        match pod.buckets.iter().rposition(|(known, _)| *known <= start) {
            Some(place) if pod.buckets[place].0 == start => {
                pod.buckets[place].1 = pod.buckets[place].1.plus(served);
            }
            Some(place) => pod.buckets.insert(place + 1, (start, served)),
            None if pod.buckets.len() < KEPT => pod.buckets.push_front((start, served)),
            None => {}
        }
        if pod.buckets.len() > KEPT {
            pod.buckets.pop_front();
        }
    }

    /// Forgets who has not served for long.
    fn sweep(&mut self, now: Time) {
        let here = |pod: &Instance| pod.buckets.back().is_some_and(|(at, _)| *at + GONE >= now);
        self.services.retain(|_, services| {
            services.retain(|_, pods| {
                pods.retain(|_, pod| here(pod));
                !pods.is_empty()
            });
            !services.is_empty()
        });
        self.pods = self.services.values().flat_map(|all| all.values().map(Pods::len)).sum();
    }

    /// The services by their telemetry's names, of which more than one pod is known.
    pub fn several(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let all = self.services.iter().flat_map(|(namespace, services)| {
            services.iter().map(move |(service, pods)| (namespace, service, pods))
        });
        all.filter(|(.., pods)| pods.len() > 1).map(|(namespace, service, _)| (namespace, service))
    }

    /// What each pod of a service served before a time and since.
    pub fn twins(&self, namespace: &Arc<str>, service: &Arc<str>, since: Time) -> Vec<Twin> {
        let pods = self.services.get(namespace).and_then(|services| services.get(service));
        let width = Duration::from_nanos(BUCKET as u64);
        let twin = |(name, pod): (&Arc<str>, &Instance)| {
            let of = |is: &dyn Fn(Time) -> bool| {
                let buckets = pod.buckets.iter().filter(|(start, _)| is(*start));
                buckets.fold(Served::default(), |sum, (_, served)| sum.plus(*served))
            };
            Twin {
                pod: Entity::new("Pod", namespace, name),
                node: Arc::clone(&pod.node),
                first: pod.first,
                before: of(&|start| start + width <= since),
                // Of the bucket in which it began, where that is most of it.
                since: of(&|start| start + width / 2 > since),
            }
        };
        pods.into_iter().flatten().map(twin).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(s: i64) -> Time {
        Time(s * 1_000_000_000)
    }

    /// Guarantees: what each pod served is known before and since a time, whatever the order in which it
    /// comes, and neither buckets nor pods grow without limit.
    #[test]
    fn what_each_pod_served_is_known() {
        let mut instances = Instances::default();
        fn by(pod: &str) -> Server<'_> {
            Server { namespace: "town", service: "shop", pod, node: "n1" }
        }
        let mut one = Served::default();
        one.add(1_000_000, false, 2);
        let mut bad = Served::default();
        bad.add(4_000_000, true, 1);
        for at in [0, 45, 15, 30, 60, 75] {
            instances.served(by("a"), second(at), one);
        }
        instances.served(by("b"), second(70), bad);
        let names = (Arc::from("town"), Arc::from("shop"));
        assert_eq!(instances.several().count(), 1);
        let twins = instances.twins(&names.0, &names.1, second(45));
        let [a, b] = &twins[..] else { panic!("{twins:?}") };
        assert_eq!((a.before.count, a.since.count, b.since.count), (6, 6, 1));
        assert_eq!((a.since.rate(), b.since.rate()), (0.0, 1.0));
        assert!((b.since.took() / a.since.took() - 4.0).abs() < 0.01);
        let mixed = |slow: u32| {
            let mut served = Served::default();
            served.add(10_000_000, false, 60 - slow);
            served.add(2_000_000_000, false, slow);
            served
        };
        assert!(mixed(60).slower_than(&mixed(20)) > 4.0);
        assert!(mixed(30).slower_than(&mixed(22)) < 2.0, "the same mix, and luck");
        assert_eq!(mixed(30).slower_than(&Served::default()), 0.0);
        for at in 0..10_000 {
            instances.served(by("a"), second(at * 15), one);
        }
        let pods = &instances.services["town"]["shop"];
        assert!(pods.values().all(|pod| pod.buckets.len() <= KEPT));
        for n in 0..MOST + 10 {
            instances.served(by(&format!("p{n}")), second(150_000), one);
        }
        assert!(instances.pods <= MOST);
    }
}
