//! Workloads that take a node's processors, so that the others on it wait for one; and those that use little.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use crate::{kubernetes::Cluster, streaming::Levels};

/// Whoever takes this share of a node's processors, where all together take that much, crowds the others.
const TAKES: f64 = 0.4;
const BUSY: f64 = 0.75;
/// It took less than this share of it before.
const LESS: f64 = 0.5;
/// Less than this share of its limit is little, in so long a time.
const IDLE: f64 = 0.5;
const LATELY: Duration = Duration::from_secs(60);
/// What no point tells of for so long is over.
const FRESH: Duration = Duration::from_secs(60);
/// A point tells of so long before it.
const BEHIND: Duration = Duration::from_secs(15);

/// A workload that takes a node's processors.
#[derive(Clone, Debug, PartialEq)]
pub struct Taker {
    /// Who takes them.
    pub workload: Entity,
    /// Whose they are.
    pub node: Entity,
    /// Since when, at the earliest.
    pub since: Time,
    /// Cores that it uses, those that it used before, and those that the node has.
    pub cores: [f64; 3],
}

impl fmt::Display for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [now, before, all] = self.cores;
        let Taker { workload, node, .. } = self;
        write!(
            f,
            "{workload} uses {now:.1} of the {all:.0} cores of {}, {before:.1} before",
            node.name
        )
    }
}

/// What one workload uses of a node.
#[derive(Default)]
struct Use {
    now: f64,
    before: f64,
    since: Option<Time>,
}

/// Who takes the processors of a node now, and did not before.
pub fn takers(levels: &Levels, cluster: &Cluster, now: Time) -> Vec<Taker> {
    let mut nodes: BTreeMap<Entity, (f64, BTreeMap<Entity, Use>)> = BTreeMap::new();
    for (namespace, pod, points) in levels.cpu() {
        let Some((_, cores)) = points.back().filter(|(time, _)| *time + FRESH >= now) else {
            continue;
        };
        let Some((node, capacity, made)) = cluster.place(namespace, pod) else { continue };
        let Some(workload) = cluster.workload_of(namespace, pod) else { continue };
        let (_, uses) = nodes.entry(node).or_insert_with(|| (capacity, BTreeMap::new()));
        let of_it = uses.entry(workload).or_default();
        of_it.now += cores;
        if let Some((since, before)) = rose(points, made) {
            of_it.before += before;
            of_it.since = Some(of_it.since.map_or(since, |known| known.min(since)));
        } else {
            of_it.before += cores;
        }
    }
    let mut takers = Vec::new();
    for (node, (capacity, uses)) in nodes {
        if uses.values().map(|of_it| of_it.now).sum::<f64>() < BUSY * capacity {
            continue;
        }
        for (workload, Use { now, before, since }) in uses {
            let Some(since) = since.filter(|_| now >= TAKES * capacity && before < LESS * now)
            else {
                continue;
            };
            takers.push(Taker {
                workload,
                node: node.clone(),
                since,
                cores: [now, before, capacity],
            });
        }
    }
    takers
}

/// Are all containers of a workload measured against their limits, and has none of them lately used much of
/// its own? What it waits for is no processor then.
pub fn is_idle(levels: &Levels, cluster: &Cluster, workload: &Entity, now: Time) -> bool {
    let mut measured = false;
    for ((pod, container), points) in levels.cpu_of(&workload.namespace) {
        let fresh = points.back().is_some_and(|(time, _)| *time + FRESH >= now);
        if !fresh || cluster.workload_of(&workload.namespace, pod).as_ref() != Some(workload) {
            continue;
        }
        let Some(limit) = cluster.cpu_limit(&workload.namespace, pod, container) else {
            return false;
        };
        let lately = points.iter().rev().take_while(|(time, _)| *time + LATELY >= now);
        if lately.map(|(_, cores)| *cores).fold(0.0, f64::max) >= IDLE * limit {
            return false;
        }
        measured = true;
    }
    measured
}

/// Since when a container uses as much as now, and what it used before; one that is younger than its points
/// used nothing.
fn rose(points: &VecDeque<(Time, f64)>, made: Option<Time>) -> Option<(Time, f64)> {
    let (_, now) = points.back()?;
    let low = points.iter().rev().find(|(_, cores)| *cores < LESS * now);
    match low {
        Some((time, before)) => Some(((*time - BEHIND).max(made.unwrap_or_default()), *before)),
        None => {
            let (first, _) = points.front()?;
            made.filter(|made| *made + FRESH >= *first).map(|made| (made, 0.0))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::{kubernetes::Verb, streaming::Resource};

    fn second(s: i64) -> Time {
        Time(1_800_000_000_000_000_000 + s * 1_000_000_000)
    }

    /// A node of two cores on which `shop` works as ever, and a job of `cores` since second 300.
    fn told(cores: f64, job_made: i64) -> Vec<Taker> {
        let (mut cluster, mut levels) = (Cluster::default(), Levels::default());
        let mut see = |value| cluster.observe(Verb::Listed, value, second(0), &mut Vec::new());
        see(
            json!({"kind": "Node", "metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2"}}}),
        );
        for (name, made) in [("shop", 0), ("job", job_made)] {
            see(json!({"kind": "Pod", "spec": {"nodeName": "n"}, "metadata": {
                "namespace": "town", "name": name, "creationTimestamp": second(made).to_string()}}));
        }
        for at in (0..400).step_by(10) {
            let mut add =
                |pod, value| levels.add("town", pod, "c", Resource::Cpu, second(at), value);
            add("shop", 0.2);
            if at >= job_made.max(300) {
                add("job", cores);
            } else if at >= job_made {
                add("job", 0.1);
            }
        }
        takers(&levels, &cluster, second(400))
    }

    /// Guarantees: who comes, or begins, to take most of a node is found with the time, and neither one who
    /// took it always nor one who leaves enough.
    #[test]
    fn who_takes_the_processors_is_found() {
        let [new] = &told(1.8, 300)[..] else { panic!("none") };
        assert_eq!(
            (&*new.workload.name, new.since, new.cores),
            ("job", second(300), [1.8, 0.0, 2.0])
        );
        let [grown] = &told(1.8, 0)[..] else { panic!("none") };
        assert_eq!((grown.since, grown.cores), (second(275), [1.8, 0.1, 2.0]));
        assert_eq!(told(0.1, 0), []);
        assert_eq!(told(1.0, 300), []);
    }

    /// Guarantees: idle is only what is measured, now, against a limit, and uses little of it.
    #[test]
    fn who_uses_little_of_its_limit_is_idle() {
        let told = |cores: f64, limit: Option<&str>, until: i64| {
            let (mut cluster, mut levels) = (Cluster::default(), Levels::default());
            let limits = json!({"limits": limit.map(|limit| json!({"cpu": limit}))});
            let pod = json!({"kind": "Pod", "metadata": {"namespace": "town", "name": "shop"},
                "spec": {"containers": [{"name": "c", "resources": limits}]}});
            cluster.observe(Verb::Listed, pod, second(0), &mut Vec::new());
            for at in (0..until).step_by(10) {
                levels.add("town", "shop", "c", Resource::Cpu, second(at), cores);
            }
            let workload = cluster.workload_of("town", "shop").unwrap();
            is_idle(&levels, &cluster, &workload, second(400))
        };
        assert!(told(0.1, Some("1"), 400));
        assert!(!told(0.6, Some("1"), 400));
        assert!(!told(0.1, None, 400));
        assert!(!told(0.1, Some("1"), 200));
    }
}
