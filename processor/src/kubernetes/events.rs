//! Event objects of Kubernetes: `events.k8s.io/v1`, `v1`, and the records of the Collector's
//! `k8s_events` receiver.

use serde_json::Value;
use tapio_proto::model::{Entity, Severity, Time};

use super::{
    fact::Happened,
    value::{at, number, text},
};

/// Events of type Normal that matter; the rest is chatter of things going well.
const NOTABLE: [&str; 23] = [
    "BackOff",
    "Evicted",
    "Killing",
    "NodeAllocatableEnforced",
    "NodeHasDiskPressure",
    "NodeHasInsufficientMemory",
    "NodeHasInsufficientPID",
    "NodeNotReady",
    "NodeNotSchedulable",
    "NodeReady",
    "NodeSchedulable",
    "NotTriggerScaleUp",
    "Preempted",
    "Preempting",
    "Rebooted",
    "RemovingNode",
    "ScaledUpGroup",
    "ScalingReplicaSet",
    "Shutdown",
    "Starting",
    "SuccessfulRescale",
    "TaintManagerEviction",
    "TriggeredScaleUp",
];

/// An Event, whatever it was read from.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// What tells it from other events: uid, else namespace and name.
    pub(super) id: String,
    pub(super) entity: Entity,
    /// The other object that it is about, if it names one.
    pub(super) related: Option<Entity>,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) warning: bool,
    pub(super) container: String,
    pub(super) node: String,
    pub(super) count: i64,
    pub(super) time: Time,
}

impl Report {
    /// Reads an Event object of either API group.
    pub(super) fn from_object(object: &Value, seen: Time) -> Self {
        let either = |a: &[&str], b: &[&str]| {
            Some(text(object, a))
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| text(object, b))
                .to_owned()
        };
        let about = at(object, &["regarding"])
            .or_else(|| at(object, &["involvedObject"]))
            .unwrap_or(&Value::Null);
        let kind = text(about, &["kind"]);
        let time = [
            &["series", "lastObservedTime"][..],
            &["deprecatedLastTimestamp"],
            &["lastTimestamp"],
            &["eventTime"],
            &["metadata", "creationTimestamp"],
        ]
        .into_iter()
        .filter_map(|path| Time::parse_rfc3339(text(object, path)))
        .max();
        let object_of = |reference: &Value| {
            let part = |name| text(reference, &[name]);
            Entity::new(part("kind"), part("namespace"), part("name"))
        };
        let related = at(object, &["related"]).map(object_of);
        Report {
            id: either(&["metadata", "uid"], &["metadata", "name"]),
            entity: object_of(about),
            related: related.filter(|related| !related.name.is_empty()),
            reason: text(object, &["reason"]).to_owned(),
            message: either(&["note"], &["message"]),
            warning: text(object, &["type"]) != "Normal",
            container: container(text(about, &["fieldPath"])),
            node: if kind == "Node" {
                text(about, &["name"]).to_owned()
            } else {
                either(&["deprecatedSource", "host"], &["source", "host"])
            },
            count: [&["series", "count"][..], &["deprecatedCount"], &["count"]]
                .into_iter()
                .filter_map(|path| number(object, path))
                .max()
                .unwrap_or(1)
                .max(1),
            time: time.unwrap_or(seen).min(seen),
        }
    }

    /// What is worth telling of it; `None` for chatter.
    pub(super) fn happened(&self, seen: Time) -> Option<Happened<'_>> {
        let what = match (&*self.reason, self.warning) {
            ("Unhealthy", _) => "probe.failed",
            ("Pulled", false) if took_minutes(&self.message) => "k8s.event",
            (reason, false) if !NOTABLE.contains(&reason) => return None,
            _ => "k8s.event",
        };
        // The kubelet kills for many good reasons and says all of them as Normal; this one is none.
        let by_probe = self.reason == "Killing"
            && (self.message.contains("failed liveness probe")
                || self.message.contains("failed startup probe"));
        // Nor is it well with a pod that has to make room for another, or that no new node would help,
        // nor where an autoscaler has to follow the load.
        let unwell =
            matches!(&*self.reason, "Preempted" | "Evicted" | "NotTriggerScaleUp" | "Pulled")
                || (self.reason == "SuccessfulRescale" && self.message.contains("above target"));
        let severity =
            if self.warning || by_probe || unwell { Severity::Warning } else { Severity::Info };
        Some(Happened {
            source: "k8s.events",
            time: self.time,
            reason: &self.reason,
            message: &self.message,
            container: &self.container,
            node: &self.node,
            count: self.count,
            ..Happened::new(what, severity, &self.entity, seen)
        })
    }
}

/// `Successfully pulled image "x" in 2m30.5s (2m31s including waiting)`: the kubelet writes a Go duration.
fn took_minutes(message: &str) -> bool {
    let took = message.split(" in ").nth(1).and_then(|rest| rest.split_whitespace().next());
    took.is_some_and(|took| {
        took.starts_with(|c: char| c.is_ascii_digit())
            && took.trim_end_matches("ms").contains(['m', 'h'])
    })
}

/// `inventory` of `spec.containers{inventory}`.
pub(super) fn container(field_path: &str) -> String {
    let inside = field_path.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}'));
    inside.unwrap_or_default().to_owned()
}
