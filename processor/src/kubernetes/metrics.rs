//! Facts in metrics: what the Collector's `k8s_cluster` receiver counts says by its turns what the
//! objects would say themselves. Where an object was seen it is believed and the metrics are not.
//!
//! Names: `metadata.yaml` of the receiver (old) and the Kubernetes semantic conventions 1.44 (new).

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Severity, Time};

use super::{
    bounded::Bounded,
    cluster::Cluster,
    fact::{Fact, Happened},
    latch::{Latch, Turn},
};

/// A pod of which no metric came for so long, while those of others did, is gone.
const SILENT: Duration = Duration::from_secs(120);
/// Pods in a bad state that are remembered.
const MOST_BAD: usize = 10_000;

/// A look-up of an attribute's value as text.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a point measures, as far as it can be a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gauge {
    Restarts,
    Ready,
    MemoryLimit,
    CpuLimit,
    Desired,
    Available,
    /// 1 true, 0 false, -1 unknown, of the condition that the name or the attribute says.
    Condition(&'static str),
    /// 1 for the status that the attribute says.
    ConditionStatus,
    /// 1 for the reason that the attribute says.
    WaitingReason,
    /// 4 is Failed.
    Phase,
    /// 1 for the phase that the attribute says.
    PhaseName,
    /// 1 is Evicted.
    StatusReason,
    /// 1 for the reason that the attribute says.
    StatusReasonName,
}

fn gauge(name: &str) -> Option<Gauge> {
    Some(match name {
        "k8s.container.restarts" | "k8s.container.restart.count" => Gauge::Restarts,
        "k8s.container.ready" => Gauge::Ready,
        "k8s.container.memory_limit" | "k8s.container.memory.limit" => Gauge::MemoryLimit,
        "k8s.container.cpu_limit" | "k8s.container.cpu.limit" => Gauge::CpuLimit,
        "k8s.deployment.desired" | "k8s.deployment.pod.desired" => Gauge::Desired,
        "k8s.deployment.available" | "k8s.deployment.pod.available" => Gauge::Available,
        "k8s.node.condition_ready" => Gauge::Condition("Ready"),
        "k8s.node.condition_memory_pressure" => Gauge::Condition("MemoryPressure"),
        "k8s.node.condition_disk_pressure" => Gauge::Condition("DiskPressure"),
        "k8s.node.condition_pid_pressure" => Gauge::Condition("PIDPressure"),
        "k8s.node.condition" => Gauge::Condition(""),
        "k8s.node.condition.status" => Gauge::ConditionStatus,
        "k8s.container.status.reason" => Gauge::WaitingReason,
        "k8s.pod.phase" => Gauge::Phase,
        "k8s.pod.status.phase" => Gauge::PhaseName,
        "k8s.pod.status_reason" => Gauge::StatusReason,
        "k8s.pod.status.reason" => Gauge::StatusReasonName,
        _ => return None,
    })
}

/// Namespace, pod, container.
type Key = (String, String, String);

/// The last values that matter.
#[derive(Debug)]
pub(super) struct Memory {
    limits: Bounded<(Gauge, Key), Option<f64>>,
    restarts: Bounded<Key, Option<i64>>,
    desired: Bounded<Entity, Option<f64>>,
    latches: Bounded<(String, Key), Latch>,
    /// Pods that are in a bad state by their metrics alone, and when they were last measured.
    bad: BTreeMap<Entity, Time>,
    newest: Time,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Memory {
            limits: Bounded::new(limit),
            restarts: Bounded::new(limit),
            desired: Bounded::new(limit),
            latches: Bounded::new(limit),
            bad: BTreeMap::new(),
            newest: Time::default(),
        }
    }

    /// Remembers a pod that is told to be in a bad state.
    fn tells(&mut self, happened: &Happened<'_>) {
        if happened.severity != Severity::Info
            && (self.bad.len() < MOST_BAD || self.bad.contains_key(happened.entity))
        {
            self.bad.insert(happened.entity.clone(), happened.time);
        }
    }

    /// A container's limit, in bytes or cores.
    pub(super) fn limit(
        &self,
        resource: &str,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Option<f64> {
        let gauge = if resource == "memory" { Gauge::MemoryLimit } else { Gauge::CpuLimit };
        *self.limits.get(&(gauge, (namespace.to_owned(), pod.to_owned(), container.to_owned())))?
    }
}

/// A point that may be a fact.
struct Point<'a> {
    gauge: Gauge,
    resource: Lookup<'a>,
    point: Lookup<'a>,
    value: f64,
    time: Time,
    seen: Time,
}

impl Cluster {
    /// Is this a metric of which [`Cluster::metric_point`] makes anything? Cheap; to be asked once
    /// for each metric.
    pub fn knows_metric(name: &str) -> bool {
        gauge(name).is_some()
    }

    /// One data point of the metric `name`; `resource` and `point` look up attributes.
    pub fn metric_point(
        &mut self,
        name: &str,
        (resource, point): (Lookup<'_>, Lookup<'_>),
        value: f64,
        (time, seen): (Time, Time),
        out: &mut Vec<Fact>,
    ) {
        if let Some(gauge) = gauge(name).filter(|_| value.is_finite()) {
            self.gauge(&Point { gauge, resource, point, value, time: time.min(seen), seen }, out);
        }
    }

    fn gauge(&mut self, point: &Point<'_>, out: &mut Vec<Fact>) {
        match point.gauge {
            Gauge::Restarts
            | Gauge::Ready
            | Gauge::MemoryLimit
            | Gauge::CpuLimit
            | Gauge::WaitingReason => {
                self.container_point(point, out);
            }
            Gauge::Desired | Gauge::Available => self.deployment_point(point, out),
            Gauge::Condition(_) | Gauge::ConditionStatus => self.node_point(point, out),
            Gauge::Phase | Gauge::PhaseName | Gauge::StatusReason | Gauge::StatusReasonName => {
                self.pod_point(point, out)
            }
        }
    }

    fn container_point(&mut self, point: &Point<'_>, out: &mut Vec<Fact>) {
        let container = point.resource("k8s.container.name");
        let (pod, node) = (point.pod(), point.resource("k8s.node.name"));
        let key = (pod.namespace.to_string(), pod.name.to_string(), container.clone());
        if matches!(point.gauge, Gauge::MemoryLimit | Gauge::CpuLimit) {
            *self.metrics.limits.entry(&(point.gauge, key)) = Some(point.value);
            return;
        }
        if self.objects.get(&pod).is_some() || pod.name.is_empty() {
            return;
        }
        self.measured(&pod, point.time, out);
        let reason = match point.gauge {
            Gauge::Restarts => point.resource("k8s.container.status.last_terminated_reason"),
            Gauge::WaitingReason => point.point("k8s.container.status.reason"),
            _ => String::new(),
        };
        let happened = |what, severity| Happened {
            reason: &reason,
            container: &container,
            node: &node,
            ..point.happened(what, severity, &pod)
        };
        let happened = match point.gauge {
            Gauge::Restarts => {
                let now = point.value as i64;
                let before = self.metrics.restarts.entry(&key).replace(now);
                if before.is_none_or(|before| before >= now) {
                    return;
                }
                Happened {
                    count: now,
                    ..happened(
                        "container.terminated",
                        if reason == "Completed" { Severity::Info } else { Severity::Error },
                    )
                }
            }
            Gauge::Ready => match self.metrics.latches.entry(&("Ready".into(), key)).observe(
                point.value < 1.0,
                point.time,
                point.seen,
            ) {
                Turn::Broke => happened("pod.not_ready", Severity::Warning),
                Turn::Recovered | Turn::Born => happened("pod.ready", Severity::Info),
                Turn::None => return,
            },
            _ => {
                let harmless =
                    matches!(&*reason, "" | "ContainerCreating" | "PodInitializing" | "Completed");
                let latch = self.metrics.latches.entry(&(reason.clone(), key));
                if latch.observe_at_once(point.value >= 1.0, point.seen) != Turn::Broke || harmless
                {
                    return;
                }
                let dead = matches!(&*reason, "OOMKilled" | "Error" | "ContainerCannotRun");
                happened(
                    if dead { "container.terminated" } else { "container.waiting" },
                    Severity::Error,
                )
            }
        };
        self.metrics.tells(&happened);
        let fact = self.event(happened);
        out.push(fact);
    }

    /// A pod was measured. Those that have not been for a while, though others are, are gone, and their
    /// bad states with them.
    fn measured(&mut self, pod: &Entity, time: Time, out: &mut Vec<Fact>) {
        let metrics = &mut self.metrics;
        if let Some(last) = metrics.bad.get_mut(pod) {
            *last = time.max(*last);
        }
        if time <= metrics.newest {
            return;
        }
        metrics.newest = time;
        let silent = metrics.bad.extract_if(.., |_, last| *last + SILENT < time);
        let silent: Vec<Entity> = silent.map(|(pod, _)| pod).collect();
        for pod in silent {
            let happened = Happened::new("pod.deleted", Severity::Info, &pod, time);
            let fact = self.event(Happened { source: "metrics", ..happened });
            out.push(fact);
        }
    }

    fn deployment_point(&mut self, point: &Point<'_>, out: &mut Vec<Fact>) {
        let deployment = Entity::new(
            "Deployment",
            &point.resource("k8s.namespace.name"),
            &point.resource("k8s.deployment.name"),
        );
        if self.objects.get(&deployment).is_some() || deployment.name.is_empty() {
            return;
        }
        if point.gauge == Gauge::Desired {
            *self.metrics.desired.entry(&deployment) = Some(point.value);
            return;
        }
        let Some(desired) = self.metrics.desired.get(&deployment).copied().flatten() else {
            return;
        };
        let key = (
            "Available".into(),
            (deployment.namespace.to_string(), deployment.name.to_string(), String::new()),
        );
        let (what, severity) = match self.metrics.latches.entry(&key).observe(
            point.value < desired,
            point.time,
            point.seen,
        ) {
            Turn::Broke => ("deployment.unavailable", Severity::Error),
            Turn::Recovered => ("deployment.available", Severity::Info),
            Turn::None | Turn::Born => return,
        };
        let message = format!("{} of {desired} pods are available", point.value);
        let fact = self.event(Happened {
            message: &message,
            value: Some(point.value),
            ..point.happened(what, severity, &deployment)
        });
        out.push(fact);
    }

    fn node_point(&mut self, point: &Point<'_>, out: &mut Vec<Fact>) {
        let name = point.resource("k8s.node.name");
        let node = Entity::new("Node", "", &name);
        if self.objects.get(&node).is_some() || name.is_empty() {
            return;
        }
        let (condition, holds) = match point.gauge {
            Gauge::Condition("") => (point.point("condition"), point.value >= 1.0),
            Gauge::Condition(condition) => (condition.to_owned(), point.value >= 1.0),
            _ if point.value < 1.0 => return,
            _ => (
                point.point("k8s.node.condition.type"),
                point.point("k8s.node.condition.status").eq_ignore_ascii_case("true"),
            ),
        };
        let ready = condition == "Ready";
        if !ready && !condition.ends_with("Pressure") {
            return;
        }
        let key = (condition.clone(), (String::new(), name.clone(), String::new()));
        let latch = self.metrics.latches.entry(&key);
        let turn = if ready {
            latch.observe(!holds, point.time, point.seen)
        } else {
            latch.observe_at_once(holds, point.seen)
        };
        let (what, severity) = match (turn, ready) {
            (Turn::Broke, true) => ("node.not_ready", Severity::Error),
            (Turn::Broke, false) => ("node.pressure", Severity::Error),
            (Turn::Recovered, true) => ("node.ready", Severity::Info),
            (Turn::Recovered, false) => ("node.no_pressure", Severity::Info),
            (Turn::None | Turn::Born, _) => return,
        };
        let reason = if ready { "" } else { &condition };
        let fact =
            self.event(Happened { reason, node: &name, ..point.happened(what, severity, &node) });
        out.push(fact);
    }

    fn pod_point(&mut self, point: &Point<'_>, out: &mut Vec<Fact>) {
        let (pod, node) = (point.pod(), point.resource("k8s.node.name"));
        if self.objects.get(&pod).is_some() || pod.name.is_empty() {
            return;
        }
        self.measured(&pod, point.time, out);
        let one = point.value >= 1.0;
        let (what, holds) = match point.gauge {
            Gauge::Phase => ("pod.failed", point.value == 4.0),
            Gauge::PhaseName if point.point("k8s.pod.status.phase") == "Failed" => {
                ("pod.failed", one)
            }
            Gauge::StatusReason => ("pod.evicted", point.value == 1.0),
            Gauge::StatusReasonName if point.point("k8s.pod.status.reason") == "Evicted" => {
                ("pod.evicted", one)
            }
            _ => return,
        };
        let key =
            (what.to_owned(), (pod.namespace.to_string(), pod.name.to_string(), String::new()));
        if self.metrics.latches.entry(&key).observe(holds, point.time, point.seen) == Turn::Broke {
            let happened = Happened { node: &node, ..point.happened(what, Severity::Error, &pod) };
            self.metrics.tells(&happened);
            let fact = self.event(happened);
            out.push(fact);
        }
    }
}

impl<'a> Point<'a> {
    fn resource(&self, key: &str) -> String {
        (self.resource)(key).unwrap_or_default()
    }

    fn point(&self, key: &str) -> String {
        (self.point)(key).unwrap_or_default()
    }

    fn pod(&self) -> Entity {
        Entity::new("Pod", &self.resource("k8s.namespace.name"), &self.resource("k8s.pod.name"))
    }

    fn happened<'b>(&self, what: &'b str, severity: Severity, entity: &'b Entity) -> Happened<'b> {
        Happened {
            source: "metrics",
            time: self.time,
            ..Happened::new(what, severity, entity, self.seen)
        }
    }
}
