//! States of workloads and nodes that begin and end, read from their status.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::{Entity, Severity, Time};

use super::{
    fact::Happened,
    latch::{Latch, Turn},
    pod::since,
    value::{list, number, text},
};

/// A condition, when it is bad, and what its turns are called.
struct Rule {
    condition: &'static str,
    /// Is this status bad, for this reason?
    bad: fn(status: &str, reason: &str) -> bool,
    /// A fact from its first moment, not only after it was good once.
    at_once: bool,
    broke: (&'static str, Severity),
    recovered: &'static str,
}

const DEPLOYMENT: [Rule; 3] = [
    Rule {
        condition: "Available",
        bad: |status, _| status == "False",
        at_once: false,
        broke: ("deployment.unavailable", Severity::Error),
        recovered: "deployment.available",
    },
    Rule {
        condition: "Progressing",
        bad: |status, reason| status == "False" && reason == "ProgressDeadlineExceeded",
        at_once: true,
        broke: ("deployment.unavailable", Severity::Error),
        recovered: "deployment.available",
    },
    Rule {
        condition: "ReplicaFailure",
        bad: |status, _| status == "True",
        at_once: true,
        broke: ("deployment.replica_failure", Severity::Error),
        recovered: "deployment.replicas_created",
    },
];

const fn pressure(condition: &'static str) -> Rule {
    Rule {
        condition,
        bad: |status, _| status == "True",
        at_once: true,
        broke: ("node.pressure", Severity::Error),
        recovered: "node.no_pressure",
    }
}

const NODE: [Rule; 4] = [
    Rule {
        condition: "Ready",
        bad: |status, _| status != "True",
        at_once: false,
        broke: ("node.not_ready", Severity::Error),
        recovered: "node.ready",
    },
    pressure("MemoryPressure"),
    pressure("DiskPressure"),
    pressure("PIDPressure"),
];

const AUTOSCALER: [Rule; 2] = [
    Rule {
        condition: "ScalingLimited",
        bad: |status, reason| status == "True" && reason == "TooManyReplicas",
        at_once: true,
        broke: ("autoscaler.at_max", Severity::Warning),
        recovered: "autoscaler.below_max",
    },
    Rule {
        condition: "ScalingActive",
        // Scaling that is switched off (zero replicas) is meant.
        bad: |status, reason| status == "False" && reason != "ScalingDisabled",
        at_once: true,
        broke: ("autoscaler.blind", Severity::Warning),
        recovered: "autoscaler.active",
    },
];

const API: [Rule; 1] = [Rule {
    condition: "Available",
    bad: |status, _| status == "False",
    at_once: true,
    broke: ("apiservice.unavailable", Severity::Warning),
    recovered: "apiservice.available",
}];

/// One observation of an object.
pub(super) struct State<'a> {
    pub(super) entity: &'a Entity,
    pub(super) value: &'a Value,
    /// When this state was written.
    pub(super) written: Time,
    pub(super) seen: Time,
}

impl State<'_> {
    /// Tells what of the object's conditions began or ended.
    pub(super) fn tell(
        &self,
        latches: &mut BTreeMap<String, Latch>,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        match &*self.entity.kind {
            "Deployment" => self.rules(&DEPLOYMENT, latches, tell),
            "Node" => self.rules(&NODE, latches, tell),
            "HorizontalPodAutoscaler" => self.rules(&AUTOSCALER, latches, tell),
            "APIService" => self.rules(&API, latches, tell),
            "StatefulSet" | "DaemonSet" => self.replicas(latches, tell),
            _ => {}
        }
    }

    fn rules(
        &self,
        rules: &[Rule],
        latches: &mut BTreeMap<String, Latch>,
        tell: &mut dyn FnMut(Happened<'_>),
    ) {
        let conditions = list(self.value, &["status", "conditions"]);
        let node = if &*self.entity.kind == "Node" { &*self.entity.name } else { "" };
        for rule in rules {
            let found =
                conditions.iter().find(|condition| text(condition, &["type"]) == rule.condition);
            // A condition that is not there (`ReplicaFailure` when all is well) is not bad, but says
            // nothing of what was never there.
            let Some(condition) = found else {
                if rule.at_once
                    && let Some(mut latch) = latches.remove(rule.condition)
                    && latch.observe_at_once(false, self.seen) == Turn::Recovered
                {
                    let happened =
                        Happened::new(rule.recovered, Severity::Info, self.entity, self.seen);
                    tell(Happened { time: self.written, node, ..happened });
                }
                continue;
            };
            let (status, reason) = (text(condition, &["status"]), text(condition, &["reason"]));
            let time = since(condition, self.seen);
            let latch = latches.entry(rule.condition.to_owned()).or_default();
            let none_left = rule.broke.0 == "deployment.unavailable"
                && rule.condition == "Available"
                && self.has_none_available();
            let bad = (rule.bad)(status, reason) || none_left;
            // Where the condition allows for all pods to be away, its time and words are of no use.
            let time = if none_left && status == "True" { self.written } else { time };
            let (reason, message) = match none_left && status == "True" {
                true => ("NoneAvailable", "no pod is available, which the update strategy allows"),
                false => (reason, text(condition, &["message"])),
            };
            let turn = if rule.at_once {
                latch.observe_at_once(bad, self.seen)
            } else {
                latch.observe(bad, time, self.seen)
            };
            let (what, severity) = match turn {
                Turn::Broke => rule.broke,
                // A rollout that goes on does not make up for pods that are away.
                Turn::Recovered if rule.condition == "Progressing" && self.has_none_available() => {
                    continue;
                }
                Turn::Recovered => (rule.recovered, Severity::Info),
                Turn::None | Turn::Born => continue,
            };
            // A Deployment that was without pods recovers though its condition never changed.
            let time = if turn == Turn::Recovered { time.max(self.written) } else { time };
            tell(Happened {
                time,
                reason,
                message,
                node,
                ..Happened::new(what, severity, self.entity, self.seen)
            });
        }
    }

    /// A Deployment that may be without any pod during an update (`maxUnavailable` as large as its
    /// replicas) is called available by its condition even then.
    fn has_none_available(&self) -> bool {
        number(self.value, &["spec", "replicas"]).unwrap_or(1) > 0
            && number(self.value, &["status", "availableReplicas"]).unwrap_or(0) == 0
    }

    /// StatefulSets and DaemonSets have no conditions, only counts.
    fn replicas(&self, latches: &mut BTreeMap<String, Latch>, tell: &mut dyn FnMut(Happened<'_>)) {
        let stateful = &*self.entity.kind == "StatefulSet";
        let count = |path: &[&str]| number(self.value, path);
        let (wanted, ready) = if stateful {
            (
                count(&["spec", "replicas"]).unwrap_or(1),
                count(&["status", "readyReplicas"]).unwrap_or(0),
            )
        } else {
            (
                count(&["status", "desiredNumberScheduled"]).unwrap_or(0),
                count(&["status", "numberReady"]).unwrap_or(0),
            )
        };
        let time = self.written;
        let turn = latches.entry("Ready".into()).or_default().observe(
            wanted > 0 && ready == 0,
            time,
            self.seen,
        );
        let (what, severity) = match (turn, stateful) {
            (Turn::Broke, true) => ("statefulset.unavailable", Severity::Error),
            (Turn::Broke, false) => ("daemonset.unavailable", Severity::Error),
            (Turn::Recovered, true) => ("statefulset.available", Severity::Info),
            (Turn::Recovered, false) => ("daemonset.available", Severity::Info),
            (Turn::None | Turn::Born, _) => return,
        };
        let message = format!("{ready} of {wanted} pods are ready");
        let value = Some(ready as f64);
        tell(Happened {
            time,
            message: &message,
            value,
            ..Happened::new(what, severity, self.entity, self.seen)
        });
    }
}
