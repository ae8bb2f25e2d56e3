//! What happens to Pods and their containers, read from their status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;
use tapio_proto::model::{Entity, Severity, Time};

use super::{
    fact::Happened,
    latch::{Latch, Turn},
    value::{at, list, number, text},
};

/// A death that was seen only later counts when it was at most this long ago, in nanoseconds.
const RECENT: i64 = 60_000_000_000;
/// Deaths remembered of a container: the present and the last one are in the status.
const DEATHS: usize = 4;

/// What was told of each container, by name.
pub(super) type Containers = BTreeMap<String, Told>;

/// What was told of one container.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Container ids, or times of death where there is none.
    deaths: VecDeque<String>,
    /// Why it waited since it last ran.
    waits: BTreeSet<String>,
    /// Start of the run that was last told.
    started: Option<Time>,
}

/// One observation of a Pod.
pub(super) struct Pod<'a> {
    pub(super) entity: &'a Entity,
    pub(super) value: &'a Value,
    /// Was it in a list, so that what it did before is history?
    pub(super) listed: bool,
    /// When it was last seen before; `None` the first time.
    pub(super) before: Option<Time>,
    /// When this state was written.
    pub(super) written: Time,
    pub(super) seen: Time,
}

impl<'a> Pod<'a> {
    /// Tells what is new since the last observation.
    pub(super) fn tell(
        &self,
        containers: &mut Containers,
        latches: &mut BTreeMap<String, Latch>,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        let statuses = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"]
            .into_iter()
            .flat_map(|statuses| list(self.value, &["status", statuses]));
        let names: BTreeSet<&str> =
            statuses.clone().map(|status| text(status, &["name"])).collect();
        containers.retain(|name, _| names.contains(name.as_str()));
        for status in statuses {
            let name = text(status, &["name"]);
            self.container(status, name, containers.entry(name.to_owned()).or_default(), tell);
        }
        if self.terminating() {
            self.held(latches, tell);
        } else {
            self.phase(latches, tell);
            self.scheduled(latches, tell);
            self.ready(latches, tell);
        }
    }

    fn happened(&self, what: &'a str, severity: Severity) -> Happened<'a> {
        let node = text(self.value, &["spec", "nodeName"]);
        Happened { node, ..Happened::new(what, severity, self.entity, self.seen) }
    }

    /// Somebody asked it to go: what happens now is ordered.
    fn terminating(&self) -> bool {
        at(self.value, &["metadata", "deletionTimestamp"]).is_some()
    }

    /// All of its containers have ended, and it cannot go since somebody's finalizer is on it.
    fn held(&self, latches: &mut BTreeMap<String, Latch>, tell: &mut dyn FnMut(Happened<'_>)) {
        let statuses = list(self.value, &["status", "containerStatuses"]);
        let ended = |status: &Value| at(status, &["state", "terminated"]).is_some();
        let finalizers: Vec<&str> = list(self.value, &["metadata", "finalizers"])
            .iter()
            .filter_map(Value::as_str)
            // Those of the control plane go by themselves.
            .filter(|finalizer| {
                !finalizer.starts_with("batch.kubernetes.io/")
                    && !matches!(*finalizer, "foregroundDeletion" | "orphan")
            })
            .collect();
        let held = !finalizers.is_empty() && !statuses.is_empty() && statuses.iter().all(ended);
        let latch = latches.entry("Held".into()).or_default();
        if latch.observe_at_once(held, self.seen) == Turn::Broke {
            let message = format!("its containers have ended; waits for {}", finalizers.join(", "));
            tell(Happened {
                time: self.written,
                reason: "Finalizers",
                message: &message,
                ..self.happened("pod.deletion_blocked", Severity::Warning)
            });
        }
    }

    /// The reason of an init container's state as `kubectl get` writes it: `Init:Error`.
    fn reason_of(&self, reason: &str, container: &str) -> String {
        let named =
            |part: &[&str]| list(self.value, part).iter().find(|c| text(c, &["name"]) == container);
        // One that is restarted always is a sidecar.
        let inits = named(&["status", "initContainerStatuses"]).is_some()
            && named(&["spec", "initContainers"])
                .is_none_or(|c| text(c, &["restartPolicy"]) != "Always");
        if inits && !reason.is_empty() { format!("Init:{reason}") } else { reason.to_owned() }
    }

    fn container(
        &self,
        status: &'a Value,
        name: &'a str,
        told: &mut Told,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        let restarts = number(status, &["restartCount"]).unwrap_or(0);
        let running = at(status, &["state", "running"]);
        if let Some(last) = at(status, &["lastState", "terminated"]) {
            self.death(last, name, restarts, running.is_some(), told, tell);
        }
        if let Some(now) = at(status, &["state", "terminated"]) {
            self.death(now, name, restarts + 1, false, told, tell);
        }
        if let Some(waiting) = at(status, &["state", "waiting"]) {
            self.wait(waiting, name, restarts, told, tell);
        }
        if let Some(running) = running {
            told.waits.clear();
            let started =
                Time::parse_rfc3339(text(running, &["startedAt"])).map(|time| time.min(self.seen));
            let known = told.started.is_some_and(|told| started <= Some(told));
            if let Some(started) = started.filter(|_| !known) {
                told.started = Some(started);
                // What ran already when it was first seen is no news.
                if self.before.is_some() || (!self.listed && started.0 + RECENT > self.seen.0) {
                    let count = restarts + 1;
                    tell(Happened {
                        time: started,
                        container: name,
                        count,
                        ..self.happened("container.started", Severity::Info)
                    });
                }
            }
        }
    }

    fn death(
        &self,
        end: &'a Value,
        name: &'a str,
        count: i64,
        runs_again: bool,
        told: &mut Told,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        let finished = text(end, &["finishedAt"]);
        let id = Some(text(end, &["containerID"])).filter(|id| !id.is_empty()).unwrap_or(finished);
        if told.deaths.iter().any(|death| death == id) {
            return;
        }
        told.deaths.push_back(id.to_owned());
        while told.deaths.len() > DEATHS {
            told.deaths.pop_front();
        }
        let time = Time::parse_rfc3339(finished).map_or(self.seen, |time| time.min(self.seen));
        let history = self.before.is_none() && runs_again && time.0 + RECENT < self.seen.0;
        if history {
            return;
        }
        let code = number(end, &["exitCode"]);
        let reason = text(end, &["reason"]);
        let (what, severity) = match (reason, code) {
            ("OOMKilled", _) => ("container.terminated", Severity::Error),
            // It was asked to stop, did not, and was killed when its grace period was over.
            (_, Some(137)) if self.terminating() => ("container.grace_over", Severity::Warning),
            _ if self.terminating() || code == Some(0) => ("container.terminated", Severity::Info),
            _ => ("container.terminated", Severity::Error),
        };
        tell(Happened {
            time,
            reason: &self.reason_of(reason, name),
            message: text(end, &["message"]),
            container: name,
            value: code.map(|code| code as f64),
            count,
            ..self.happened(what, severity)
        });
    }

    fn wait(
        &self,
        waiting: &'a Value,
        name: &'a str,
        restarts: i64,
        told: &mut Told,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        let reason = text(waiting, &["reason"]);
        if matches!(reason, "" | "ContainerCreating" | "PodInitializing")
            || !told.waits.insert(reason.to_owned())
        {
            return;
        }
        tell(Happened {
            time: self.written,
            reason: &self.reason_of(reason, name),
            message: text(waiting, &["message"]),
            container: name,
            count: restarts.max(1),
            ..self.happened("container.waiting", Severity::Error)
        });
    }

    fn phase(&self, latches: &mut BTreeMap<String, Latch>, tell: &mut dyn FnMut(Happened<'_>)) {
        let failed = text(self.value, &["status", "phase"]) == "Failed";
        if latches.entry("Failed".into()).or_default().observe_at_once(failed, self.seen)
            != Turn::Broke
        {
            return;
        }
        let reason = text(self.value, &["status", "reason"]);
        let what = if reason == "Evicted" { "pod.evicted" } else { "pod.failed" };
        let time = self.written;
        if self.before.is_none() && time.0 + RECENT < self.seen.0 {
            return;
        }
        tell(Happened {
            time,
            reason,
            message: text(self.value, &["status", "message"]),
            ..self.happened(what, Severity::Error)
        });
    }

    fn condition(&self, kind: &str) -> Option<&'a Value> {
        list(self.value, &["status", "conditions"])
            .iter()
            .find(|condition| text(condition, &["type"]) == kind)
    }

    fn scheduled(&self, latches: &mut BTreeMap<String, Latch>, tell: &mut dyn FnMut(Happened<'_>)) {
        let Some(condition) = self.condition("PodScheduled") else { return };
        let reason = text(condition, &["reason"]);
        let refused = text(condition, &["status"]) == "False" && reason == "Unschedulable";
        if latches.entry("PodScheduled".into()).or_default().observe_at_once(refused, self.seen)
            == Turn::Broke
        {
            let time = since(condition, self.seen);
            tell(Happened {
                time,
                reason,
                message: text(condition, &["message"]),
                ..self.happened("pod.unschedulable", Severity::Error)
            });
        }
    }

    fn ready(&self, latches: &mut BTreeMap<String, Latch>, tell: &mut dyn FnMut(Happened<'_>)) {
        let Some(condition) = self.condition("Ready") else { return };
        // A pod that has done its work is not ready and need not be; one that failed was told.
        if text(condition, &["reason"]) == "PodCompleted"
            || matches!(text(self.value, &["status", "phase"]), "Succeeded" | "Failed")
        {
            return;
        }
        let time = since(condition, self.seen);
        let turn = latches.entry("Ready".into()).or_default().observe(
            text(condition, &["status"]) != "True",
            time,
            self.seen,
        );
        let (what, severity) = match turn {
            Turn::None => return,
            Turn::Broke => ("pod.not_ready", Severity::Warning),
            Turn::Recovered | Turn::Born => ("pod.ready", Severity::Info),
        };
        let (reason, message) = (text(condition, &["reason"]), text(condition, &["message"]));
        tell(Happened { time, reason, message, ..self.happened(what, severity) });
    }
}

/// When a condition took its present status.
pub(super) fn since(condition: &Value, seen: Time) -> Time {
    Time::parse_rfc3339(text(condition, &["lastTransitionTime"]))
        .map_or(seen, |time| time.min(seen))
}
