//! What observations of whole objects tell, each rule with the least object that shows it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod input;
mod signs;
mod states;
mod topology;

use serde_json::{Value, json};
use tapio_proto::model::{Change, Event, Time};

use super::{Cluster, Fact, Verb};

/// `03:11:39` of the day of the tests.
pub(super) fn at(clock: &str) -> Time {
    Time::parse_rfc3339(&format!("2026-11-22T{clock}Z")).unwrap()
}

/// An object of this kind in `shop`, with the fields of `rest`, written at `clock` by `kubectl-patch`.
pub(super) fn object(kind: &str, name: &str, version: u32, clock: &str, rest: Value) -> Value {
    let metadata = json!({
        "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-11-22T01:00:00Z",
        "managedFields": [{"manager": "kubectl-patch", "time": format!("2026-11-22T{clock}Z"), "fieldsV1": {"f:spec": {}, "f:data": {}}}]});
    let mut whole = json!({"kind": kind, "metadata": metadata});
    for (key, value) in rest.as_object().unwrap() {
        match (key.as_str(), value) {
            ("metadata", Value::Object(more)) => {
                more.iter().for_each(|(key, value)| whole["metadata"][key] = value.clone());
            }
            _ => whole[key] = value.clone(),
        }
    }
    whole
}

pub(super) struct Test(pub(super) Cluster);

impl Test {
    pub(super) fn new() -> Self {
        Test(Cluster::default())
    }

    pub(super) fn see(&mut self, verb: Verb, value: Value, clock: &str) -> Vec<Fact> {
        let mut out = Vec::new();
        self.0.observe(verb, value, at(clock), &mut out);
        out
    }

    /// The events, as `type reason time`.
    pub(super) fn events(&mut self, verb: Verb, value: Value, clock: &str) -> Vec<String> {
        events(&self.see(verb, value, clock))
            .iter()
            .map(|e| format!("{} {} {}", e.r#type, e.reason, e.time.clock()))
            .collect()
    }
}

pub(super) fn events(facts: &[Fact]) -> Vec<Event> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::Event(event) = fact { Some(event.clone()) } else { None })
        .collect()
}

pub(super) fn changes(facts: &[Fact]) -> Vec<Change> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::Change(rows) = fact { Some(rows.clone()) } else { None })
        .flatten()
        .collect()
}

/// A Pod of Deployment `cart` with one container in this state.
pub(super) fn pod(
    version: u32,
    clock: &str,
    state: Value,
    last: Value,
    restarts: &str,
    ready: (&str, &str),
) -> Value {
    object(
        "Pod",
        "cart-5f4ddbf799-ddmxg",
        version,
        clock,
        json!({
        "metadata": {"labels": {"app": "cart", "pod-template-hash": "5f4ddbf799"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5f4ddbf799", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "cart", "resources": {"limits": {"memory": "96Mi", "cpu": "200m"}}}]},
        "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready.0, "lastTransitionTime": format!("2026-11-22T{}Z", ready.1), "reason": "ContainersNotReady"}],
            "containerStatuses": [{"name": "cart", "state": state, "lastState": last, "restartCount": restarts}]}}),
    )
}

pub(super) fn deployment(
    version: u32,
    clock: &str,
    available: (&str, i64),
    labels: Value,
) -> Value {
    object(
        "Deployment",
        "cart",
        version,
        clock,
        json!({
        "spec": {"replicas": 1, "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": "carter",
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [{"name": "a", "configMap": {"name": "pool"}}, {"name": "b", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "tls"}}]}}],
            "containers": [{"name": "cart", "volumeMounts": [{"name": "a"}, {"name": "c", "subPath": "tls.key"}], "envFrom": [{"configMapRef": {"name": "telemetry"}}],
                "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "api-key"}}}]}]}}},
        "status": {"availableReplicas": available.1,
            "conditions": [{"type": "Available", "status": available.0, "lastTransitionTime": format!("2026-11-22T{clock}Z"), "reason": "R"}]}}),
    )
}

pub(super) fn warning(count: u32, clock: &str, kind: &str, reason: &str) -> Value {
    json!({"kind": "Event", "metadata": {"name": "e1", "namespace": "shop", "uid": format!("u-{reason}")}, "type": kind, "reason": reason, "note": "Readiness probe failed",
        "deprecatedCount": count.to_string(), "deprecatedLastTimestamp": format!("2026-11-22T{clock}Z"),
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "cart-5f4ddbf799-ddmxg", "fieldPath": "spec.containers{cart}"}})
}
