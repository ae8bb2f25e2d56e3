//! Metrics to levels: memory and CPU of each container over time.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use tapio_proto::model::{Entity, Time};

use crate::correlation::rows::Level;

/// Points kept of each container and resource: 20 minutes at 10 s.
const KEEP: usize = 120;
/// Containers kept; those that have been silent longest go first.
const MOST_SERIES: usize = 20_000;

/// What a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Working set, bytes.
    Memory,
    /// Cores.
    Cpu,
}

impl Resource {
    /// The resource that a metric of the `kubeletstats` receiver measures, if it is one.
    pub fn of_metric(name: &str) -> Option<Self> {
        match name {
            "container.memory.working_set" => Some(Resource::Memory),
            "container.cpu.usage" | "container.cpu.utilization" => Some(Resource::Cpu),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Cpu => "cpu",
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    pod: String,
    container: String,
    resource: Resource,
}

/// The accumulators over resource metrics.
#[derive(Default)]
pub struct Levels {
    series: BTreeMap<Key, VecDeque<(Time, f64)>>,
}

impl Levels {
    /// Adds one point; one older than the newest is left out.
    pub fn add(
        &mut self,
        namespace: &str,
        pod: &str,
        container: &str,
        resource: Resource,
        time: Time,
        value: f64,
    ) {
        if !value.is_finite() {
            return;
        }
        let key = Key {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
            resource,
        };
        if !self.series.contains_key(&key) && self.series.len() >= MOST_SERIES {
            let silent = self
                .series
                .iter()
                .min_by_key(|(_, points)| points.back().map(|p| p.0))
                .map(|(key, _)| key.clone());
            if let Some(silent) = silent {
                self.series.remove(&silent);
            }
        }
        let points = self.series.entry(key).or_default();
        if points.back().is_some_and(|last| last.0 >= time) {
            return;
        }
        if points.len() == KEEP {
            points.pop_front();
        }
        points.push_back((time, value));
    }

    /// The most memory that a container used in this time, bytes.
    pub fn most_memory(
        &self,
        (namespace, pod, container): (&str, &str, &str),
        during: Range<Time>,
    ) -> Option<f64> {
        let key = Key {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
            resource: Resource::Memory,
        };
        let points = self.series.get(&key)?.iter().filter(|(at, _)| during.contains(at));
        points.map(|(_, value)| *value).max_by(f64::total_cmp)
    }

    /// The CPU of each container over time, cores, by namespace and pod.
    pub fn cpu(&self) -> impl Iterator<Item = (&str, &str, &VecDeque<(Time, f64)>)> {
        let cpu = self.series.iter().filter(|(key, _)| key.resource == Resource::Cpu);
        cpu.map(|(key, points)| (&*key.namespace, &*key.pod, points))
    }

    /// The CPU of the containers of a namespace, by pod and container.
    pub fn cpu_of<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = ((&'a str, &'a str), &'a VecDeque<(Time, f64)>)> {
        let first = Key {
            namespace: namespace.to_owned(),
            pod: String::new(),
            container: String::new(),
            resource: Resource::Memory,
        };
        let of_it =
            self.series.range(first..).take_while(move |(key, _)| key.namespace == namespace);
        let cpu = of_it.filter(|(key, _)| key.resource == Resource::Cpu);
        cpu.map(|(key, points)| ((&*key.pod, &*key.container), points))
    }

    /// The `levels` table from `since` on; `owner` names a pod's workload, `limit` a container's limit.
    pub fn rows(
        &self,
        since: Time,
        owner: impl Fn(&str, &str) -> Option<Entity>,
        limit: impl Fn(&str, &str, &str, Resource) -> Option<f64>,
    ) -> Vec<Level> {
        let mut rows = Vec::new();
        for (key, points) in &self.series {
            if points.back().is_none_or(|last| last.0 < since) {
                continue;
            }
            let Some(workload) = owner(&key.namespace, &key.pod) else { continue };
            let limit = limit(&key.namespace, &key.pod, &key.container, key.resource);
            rows.extend(points.iter().filter(|point| point.0 >= since).map(|(time, value)| {
                Level {
                    time: *time,
                    workload_kind: workload.kind.to_string(),
                    namespace: key.namespace.clone(),
                    workload_name: workload.name.to_string(),
                    pod: key.pod.clone(),
                    container: key.container.clone(),
                    resource: key.resource.name().to_owned(),
                    value: *value,
                    ceiling: limit,
                }
            }));
        }
        rows
    }
}
