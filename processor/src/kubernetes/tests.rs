//! What observations of whole objects tell, each rule with the least object that shows it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use tapio_proto::model::{Change, Entity, Event, Relation, Time};

use super::{Cluster, Fact, Limits, Record, Verb};

/// `03:11:39` of the day of the tests.
fn at(clock: &str) -> Time {
    Time::parse_rfc3339(&format!("2026-11-22T{clock}Z")).unwrap()
}

/// An object of this kind in `shop`, with the fields of `rest`, written at `clock` by `kubectl-patch`.
fn object(kind: &str, name: &str, version: u32, clock: &str, mut rest: Value) -> Value {
    let metadata = json!({
        "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-11-22T01:00:00Z",
        "managedFields": [{"manager": "kubectl-patch", "time": format!("2026-11-22T{clock}Z"), "fieldsV1": {"f:spec": {}, "f:data": {}}}]});
    for (key, value) in rest.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default()
    {
        rest["metadata"][key] = value;
    }
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

struct Test(Cluster);

impl Test {
    fn new() -> Self {
        Test(Cluster::default())
    }

    fn see(&mut self, verb: Verb, value: Value, clock: &str) -> Vec<Fact> {
        let mut out = Vec::new();
        self.0.observe(verb, value, at(clock), &mut out);
        out
    }

    /// The events, as `type reason time`.
    fn events(&mut self, verb: Verb, value: Value, clock: &str) -> Vec<String> {
        events(&self.see(verb, value, clock))
            .iter()
            .map(|e| format!("{} {} {}", e.r#type, e.reason, e.time.clock()))
            .collect()
    }
}

fn events(facts: &[Fact]) -> Vec<Event> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::Event(event) = fact { Some(event.clone()) } else { None })
        .collect()
}

fn changes(facts: &[Fact]) -> Vec<Change> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::Change(rows) = fact { Some(rows.clone()) } else { None })
        .flatten()
        .collect()
}

fn config(version: u32, clock: &str, connections: u32) -> Value {
    object(
        "ConfigMap",
        "pool",
        version,
        clock,
        json!({"data": {"pool.json": format!("{{\"max\": {connections}}}")}}),
    )
}

#[test]
fn a_modified_field_is_a_change_with_author_and_time() {
    let mut test = Test::new();
    assert_eq!(test.see(Verb::Listed, config(1, "01:00:00", 8), "03:00:00"), []);
    let rows = changes(&test.see(Verb::Modified, config(2, "03:11:17", 200), "03:11:17.294"));
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(
        (&*row.path, row.old.as_deref(), row.new.as_deref()),
        ("data.pool.json.max", Some("8"), Some("200"))
    );
    assert_eq!(
        (&*row.actor, row.time, row.observed),
        ("kubectl-patch", at("03:11:17"), at("03:11:17.294"))
    );
    assert!(row.undo.contains(r#"{"data":{"pool.json":"{\"max\": 8}"}}"#), "{}", row.undo);
}

#[test]
fn the_same_state_again_or_an_older_one_tells_nothing() {
    let mut test = Test::new();
    test.see(Verb::Listed, config(1, "01:00:00", 8), "03:00:00");
    test.see(Verb::Modified, config(2, "03:11:17", 200), "03:11:17");
    assert_eq!(test.see(Verb::Listed, config(2, "03:11:17", 200), "03:15:00"), []);
    assert_eq!(test.see(Verb::Listed, config(1, "01:00:00", 8), "03:15:01"), []);
}

#[test]
fn what_was_there_at_first_sight_is_no_change_and_what_comes_later_is() {
    let created = |clock: &str| json!({"metadata": {"creationTimestamp": format!("2026-11-22T{clock}Z"), "uid": clock}, "data": {}});
    let mut test = Test::new();
    assert_eq!(
        test.see(
            Verb::Listed,
            object("ConfigMap", "a", 1, "02:59:50", created("02:59:50")),
            "03:00:00"
        ),
        []
    );
    assert_eq!(
        test.see(
            Verb::Added,
            object("ConfigMap", "b", 2, "02:00:00", created("02:00:00")),
            "03:00:00"
        ),
        []
    );
    let added = changes(&test.see(
        Verb::Added,
        object("ConfigMap", "c", 3, "03:10:00", created("03:10:00")),
        "03:10:00.2",
    ));
    assert_eq!(
        (&*added[0].verb, &*added[0].path, &*added[0].actor),
        ("added", "", "kubectl-patch")
    );
    let deleted = test.see(
        Verb::Deleted,
        object("ConfigMap", "c", 4, "03:10:00", created("03:10:00")),
        "03:20:00.5",
    );
    assert_eq!(
        (&*changes(&deleted)[0].verb, changes(&deleted)[0].time),
        ("deleted", at("03:20:00.5"))
    );
    assert_eq!(
        deleted.last(),
        Some(&Fact::Gone(Entity::new("ConfigMap", "shop", "c"), at("03:20:00.5")))
    );
}

#[test]
fn objects_of_controllers_yield_no_change() {
    let mut test = Test::new();
    let owned = |version, replicas| {
        object(
            "ReplicaSet",
            "cart-5f4ddbf799",
            version,
            "03:10:00",
            json!({"spec": {"replicas": replicas},
            "metadata": {"ownerReferences": [{"kind": "Deployment", "name": "cart", "controller": true}]}}),
        )
    };
    test.see(Verb::Listed, owned(1, 1), "03:00:00");
    assert_eq!(changes(&test.see(Verb::Modified, owned(2, 0), "03:10:00.5")), []);
    let lease = |version| {
        object("Lease", "leader", version, "03:10:00", json!({"spec": {"renewTime": version}}))
    };
    test.see(Verb::Listed, lease(1), "03:00:00");
    assert_eq!(changes(&test.see(Verb::Modified, lease(2), "03:10:00.5")), []);
}

#[test]
fn a_change_of_an_unknown_object_is_told_by_its_field_managers() {
    let mut value = config(7, "03:11:17", 200);
    value["metadata"]["managedFields"] = json!([
        {"manager": "helm", "time": "2026-11-22T01:00:00Z", "fieldsV1": {"f:data": {"f:other": {}}}},
        {"manager": "kubectl-patch", "time": "2026-11-22T03:11:17Z", "fieldsV1": {"f:data": {"f:pool.json": {}}}}]);
    let rows = changes(&Test::new().see(Verb::Modified, value, "03:11:17.3"));
    assert_eq!(
        (&*rows[0].path, rows[0].old.as_deref(), rows[0].new.as_deref()),
        ("data.pool.json", None, Some("{\"max\": 200}"))
    );
}

#[test]
fn values_of_secrets_are_neither_shown_nor_kept() {
    let secret = |version, clock, key| {
        object("Secret", "bank", version, clock, json!({"data": {"api-key": key}}))
    };
    let mut test = Test::new();
    test.see(Verb::Listed, secret(1, "01:00:00", "b2xkLXNlY3JldA=="), "03:00:00");
    let rows =
        changes(&test.see(Verb::Modified, secret(2, "03:10:00", "bmV3LXNlY3JldA=="), "03:10:00"));
    assert_eq!(
        (&*rows[0].path, rows[0].new.as_deref(), &*rows[0].undo),
        ("data.api-key", Some("(redacted)"), "")
    );
    assert!(!format!("{test:?}", test = test.0).contains("LXNlY3JldA"));
}

#[test]
fn a_secret_without_its_data_still_tells_that_it_was_written() {
    let mut test = Test::new();
    test.see(Verb::Listed, object("Secret", "bank", 1, "01:00:00", json!({})), "03:00:00");
    let rows = changes(&test.see(
        Verb::Modified,
        object("Secret", "bank", 2, "03:10:00", json!({})),
        "03:10:00.1",
    ));
    assert_eq!((&*rows[0].path, &*rows[0].actor), ("data", "kubectl-patch"));
}

/// A Pod of Deployment `cart` with one container in this state.
fn pod(
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

#[test]
fn a_death_is_told_once_with_code_and_workload() {
    let running = json!({"running": {"startedAt": "2026-11-22T02:00:00Z"}});
    let dead = json!({"terminated": {"exitCode": "137", "reason": "OOMKilled", "finishedAt": "2026-11-22T03:11:39Z", "containerID": "c1"}});
    let again = json!({"running": {"startedAt": "2026-11-22T03:11:41Z"}});
    let mut test = Test::new();
    assert_eq!(
        test.events(
            Verb::Listed,
            pod(1, "02:00:00", running, json!({}), "0", ("True", "02:00:05")),
            "03:00:00"
        ),
        [""; 0]
    );
    let facts = test.see(
        Verb::Modified,
        pod(2, "03:11:40", dead.clone(), json!({}), "0", ("False", "03:11:40")),
        "03:11:40.6",
    );
    let told = events(&facts);
    assert_eq!(
        (&*told[0].r#type, &*told[0].reason, told[0].value, told[0].time),
        ("container.terminated", "OOMKilled", Some(137.0), at("03:11:39"))
    );
    assert_eq!(
        (&*told[0].workload_kind, &*told[0].workload_name, &*told[0].container, &*told[0].node),
        ("Deployment", "cart", "cart", "n1")
    );
    assert_eq!((&*told[1].r#type, told[1].time), ("pod.not_ready", at("03:11:40")));
    assert_eq!(
        test.events(
            Verb::Modified,
            pod(3, "03:11:41", again, dead, "1", ("True", "03:11:41")),
            "03:11:41.6"
        ),
        ["container.started  03:11:41", "pod.ready ContainersNotReady 03:11:41"]
    );
}

#[test]
fn waiting_is_told_once_until_it_runs() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "m"}});
    let see = |test: &mut Test, version, state| {
        test.events(
            Verb::Modified,
            pod(version, "03:00:00", state, json!({}), "0", ("False", "03:00:00")),
            &format!("03:00:{version:02}"),
        )
    };
    let mut test = Test::new();
    assert_eq!(see(&mut test, 1, waiting("ContainerCreating")), [""; 0]);
    assert_eq!(
        see(&mut test, 2, waiting("ErrImagePull")),
        ["container.waiting ErrImagePull 03:00:02"]
    );
    assert_eq!(see(&mut test, 3, waiting("ImagePullBackOff")).len(), 1);
    assert_eq!(see(&mut test, 4, waiting("ErrImagePull")), [""; 0]);
    see(&mut test, 5, json!({"running": {"startedAt": "2026-11-22T03:00:05Z"}}));
    assert_eq!(see(&mut test, 6, waiting("CrashLoopBackOff")).len(), 1);
}

#[test]
fn history_and_orderly_ends_are_no_failures() {
    let running = json!({"running": {"startedAt": "2026-11-22T02:00:00Z"}});
    let long_ago = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-22T01:59:00Z"}});
    let mut test = Test::new();
    assert_eq!(
        test.events(
            Verb::Listed,
            pod(1, "02:00:00", running, long_ago, "1", ("True", "02:00:00")),
            "03:00:00"
        ),
        [""; 0]
    );
    let ended = json!({"terminated": {"exitCode": 143, "reason": "Error", "finishedAt": "2026-11-22T03:10:00Z"}});
    let mut going = pod(2, "03:10:00", ended, json!({}), "1", ("False", "03:10:00"));
    going["metadata"]["deletionTimestamp"] = json!("2026-11-22T03:10:05Z");
    let told = events(&test.see(Verb::Modified, going.clone(), "03:10:00.5"));
    assert_eq!(
        told.iter().map(|e| (&*e.r#type, &*e.severity)).collect::<Vec<_>>(),
        [("container.terminated", "info")]
    );
    going["metadata"]["resourceVersion"] = json!("3");
    assert_eq!(test.events(Verb::Deleted, going, "03:10:01"), ["pod.deleted  03:10:01"]);
}

#[test]
fn a_pod_that_fits_nowhere() {
    let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes", "lastTransitionTime": "2026-11-22T03:27:55Z"}]);
    let pod = |version| {
        object(
            "Pod",
            "p",
            version,
            "03:27:55",
            json!({"spec": {"containers": []}, "status": {"phase": "Pending", "conditions": condition}}),
        )
    };
    let mut test = Test::new();
    assert_eq!(
        test.events(Verb::Added, pod(1), "03:27:55.2"),
        ["pod.unschedulable Unschedulable 03:27:55"]
    );
    assert_eq!(test.events(Verb::Modified, pod(2), "03:27:57"), [""; 0]);
}

fn slice(name: &str, version: u32, clock: &str, ready: &[bool]) -> Value {
    let endpoints: Vec<Value> = ready
        .iter()
        .enumerate()
        .map(|(i, ready)| json!({"addresses": [format!("10.0.0.{i}")], "conditions": {"ready": ready}, "targetRef": {"name": format!("{name}-{i}")}}))
        .collect();
    object(
        "EndpointSlice",
        name,
        version,
        clock,
        json!({"metadata": {"labels": {"kubernetes.io/service-name": "cart"}}, "endpoints": endpoints}),
    )
}

#[test]
fn a_service_is_empty_when_all_its_slices_are() {
    let mut test = Test::new();
    assert_eq!(test.see(Verb::Listed, slice("a", 1, "01:00:00", &[true]), "03:00:00"), []);
    assert_eq!(test.see(Verb::Listed, slice("b", 2, "01:00:00", &[true, false]), "03:00:00"), []);
    assert_eq!(events(&test.see(Verb::Modified, slice("a", 3, "03:10:00", &[]), "03:10:00")), []);
    let told =
        events(&test.see(Verb::Modified, slice("b", 4, "03:11:00", &[false, false]), "03:11:00.1"));
    assert_eq!(
        (&*told[0].r#type, &*told[0].entity_kind, told[0].value),
        ("endpoints.empty", "Service", Some(2.0))
    );
    assert_eq!(told[0].message, "2 pods are behind the service and none is ready");
    assert_eq!(
        test.events(Verb::Modified, slice("a", 5, "03:12:00", &[true]), "03:12:00.1"),
        ["endpoints.ready  03:12:00"]
    );
}

fn deployment(version: u32, clock: &str, available: (&str, i64), labels: Value) -> Value {
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
            "containers": [{"name": "cart", "envFrom": [{"configMapRef": {"name": "telemetry"}}],
                "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "api-key"}}}]}]}}},
        "status": {"availableReplicas": available.1,
            "conditions": [{"type": "Available", "status": available.0, "lastTransitionTime": format!("2026-11-22T{clock}Z"), "reason": "R"}]}}),
    )
}

#[test]
fn a_deployment_loses_its_pods_even_where_its_condition_allows_it() {
    let mut test = Test::new();
    let labels = json!({"app": "cart"});
    assert_eq!(
        test.events(
            Verb::Listed,
            deployment(1, "01:00:00", ("True", 1), labels.clone()),
            "03:00:00"
        ),
        [""; 0]
    );
    assert_eq!(
        test.events(
            Verb::Modified,
            deployment(2, "03:10:00", ("False", 0), labels.clone()),
            "03:10:00.1"
        ),
        ["deployment.unavailable R 03:10:00"]
    );
    assert_eq!(
        test.events(
            Verb::Modified,
            deployment(3, "03:11:00", ("True", 1), labels.clone()),
            "03:11:00.1"
        ),
        ["deployment.available R 03:11:00"]
    );
    assert_eq!(
        test.events(Verb::Modified, deployment(4, "03:12:00", ("True", 0), labels), "03:12:00.1"),
        ["deployment.unavailable NoneAvailable 03:12:00"]
    );
}

#[test]
fn a_node_that_stops_reporting() {
    let node = |version, status, clock: &str| {
        object(
            "Node",
            "n1",
            version,
            clock,
            json!({"metadata": {"namespace": ""}, "status": {"conditions": [
            {"type": "Ready", "status": status, "reason": "R", "lastTransitionTime": format!("2026-11-22T{clock}Z")},
            {"type": "DiskPressure", "status": if status == "True" { "False" } else { "True" }, "reason": "D", "lastTransitionTime": format!("2026-11-22T{clock}Z")}]}}),
        )
    };
    let mut test = Test::new();
    assert_eq!(test.events(Verb::Listed, node(1, "True", "01:00:00"), "03:00:00"), [""; 0]);
    assert_eq!(
        test.events(Verb::Modified, node(2, "Unknown", "03:10:00"), "03:10:01"),
        ["node.not_ready R 03:10:00", "node.pressure D 03:10:00"]
    );
    assert_eq!(
        test.events(Verb::Modified, node(3, "True", "03:11:00"), "03:11:01"),
        ["node.ready R 03:11:00", "node.no_pressure D 03:11:00"]
    );
}

fn warning(count: u32, clock: &str, kind: &str, reason: &str) -> Value {
    json!({"kind": "Event", "metadata": {"name": "e1", "namespace": "shop", "uid": format!("u-{reason}")}, "type": kind, "reason": reason, "note": "Readiness probe failed",
        "deprecatedCount": count.to_string(), "deprecatedLastTimestamp": format!("2026-11-22T{clock}Z"),
        "regarding": {"kind": "Pod", "namespace": "shop", "name": "cart-5f4ddbf799-ddmxg", "fieldPath": "spec.containers{cart}"}})
}

#[test]
fn events_are_told_by_count_and_chatter_is_not() {
    let mut test = Test::new();
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Warning", "Unhealthy"), "03:10:00.5"),
        ["probe.failed Unhealthy 03:10:00"]
    );
    assert_eq!(
        test.events(Verb::Modified, warning(1, "03:10:00", "Warning", "Unhealthy"), "03:10:09"),
        [""; 0]
    );
    let told = events(&test.see(
        Verb::Modified,
        warning(2, "03:10:20", "Warning", "Unhealthy"),
        "03:10:21",
    ));
    assert_eq!(
        (told[0].count, &*told[0].container, &*told[0].workload_name, &*told[0].source),
        (2, "cart", "cart", "k8s.events")
    );
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Normal", "Pulled"), "03:10:00"),
        [""; 0]
    );
    assert_eq!(
        test.events(Verb::Added, warning(1, "03:10:00", "Normal", "Killing"), "03:10:00"),
        ["k8s.event Killing 03:10:00"]
    );
}

#[test]
fn edges_begin_and_end_and_upstream_names_what_is_gone() {
    let mut test = Test::new();
    let service = |version, app: &str| {
        object("Service", "cart", version, "03:00:00", json!({"spec": {"selector": {"app": app}}}))
    };
    let (cart, front) =
        (Entity::new("Deployment", "shop", "cart"), Entity::new("Service", "shop", "cart"));
    test.see(
        Verb::Listed,
        deployment(1, "01:00:00", ("True", 1), json!({"app": "cart"})),
        "03:00:00",
    );
    let begun = test.see(Verb::Listed, service(2, "cart"), "03:00:01");
    assert!(
        matches!(&begun[..], [Fact::EdgeBegin(Relation::Selects, from, to, _)] if *from == cart && *to == front),
        "{begun:?}"
    );
    assert_eq!(
        (test.0.services_of(&cart), test.0.workloads_of(&front)),
        (vec![front.clone()], vec![cart.clone()])
    );
    let ended = test.see(Verb::Modified, service(3, "other"), "03:00:02");
    assert!(
        ended.iter().any(
            |fact| matches!(fact, Fact::EdgeEnd(Relation::Selects, from, _, _) if *from == cart)
        ),
        "{ended:?}"
    );
    assert_eq!(test.0.services_of(&cart), []);

    test.see(Verb::Deleted, object("Secret", "bank", 9, "01:00:00", json!({})), "03:05:00");
    let upstream: Vec<String> = test
        .0
        .upstream(&cart)
        .iter()
        .map(|(relation, entity)| format!("{} {}", relation.name(), entity))
        .collect();
    for expected in [
        "owns Deployment shop/cart",
        "uses_config ConfigMap shop/pool",
        "uses_config ConfigMap shop/telemetry",
        "uses_secret Secret shop/bank",
        "uses_secret Secret shop/registry",
        "uses_secret Secret shop/tls",
        "uses_secret ServiceAccount shop/carter",
        "mounts PersistentVolumeClaim shop/disk",
    ] {
        assert!(upstream.iter().any(|told| told == expected), "{expected} is not in {upstream:?}");
    }
    assert!(!test.0.exists(&Entity::new("Secret", "shop", "bank")));
}

#[test]
fn limits_bear_on_workloads_that_come_before_and_after() {
    let quota =
        object("ResourceQuota", "q", 1, "01:00:00", json!({"spec": {"hard": {"pods": "1"}}}));
    let limited = |facts: &[Fact]| {
        facts.iter().any(|fact| matches!(fact, Fact::EdgeBegin(Relation::Limits, ..)))
    };
    let labels = json!({"app": "cart"});
    let mut before = Test::new();
    before.see(Verb::Listed, quota.clone(), "03:00:00");
    assert!(limited(&before.see(
        Verb::Listed,
        deployment(2, "01:00:00", ("True", 1), labels.clone()),
        "03:00:00"
    )));
    let mut after = Test::new();
    after.see(Verb::Listed, deployment(2, "01:00:00", ("True", 1), labels), "03:00:00");
    assert!(limited(&after.see(Verb::Listed, quota, "03:00:00")));
}

#[test]
fn owners_are_found_by_reference_and_by_name() {
    let mut test = Test::new();
    let deployment = |name| Some(Entity::new("Deployment", "shop", name));
    assert_eq!(test.0.workload_of("shop", "cart-5f4ddbf799-ddmxg"), deployment("cart"));
    assert_eq!(test.0.workload_of("shop", "inventory-db-0"), None);
    assert_eq!(test.0.workload_of("shop", "my-app"), None);
    test.see(
        Verb::Listed,
        object("StatefulSet", "inventory-db", 1, "01:00:00", json!({"spec": {}})),
        "03:00:00",
    );
    assert_eq!(
        test.0.workload_of("shop", "inventory-db-0"),
        Some(Entity::new("StatefulSet", "shop", "inventory-db"))
    );
    test.see(
        Verb::Listed,
        pod(1, "01:00:00", json!({}), json!({}), "0", ("True", "01:00:00")),
        "03:00:00",
    );
    assert_eq!(test.0.workload_of("shop", "cart-5f4ddbf799-ddmxg"), deployment("cart"));
    assert_eq!(
        test.0.memory_limit("shop", "cart-5f4ddbf799-ddmxg", "cart"),
        Some(96.0 * 1024.0 * 1024.0)
    );
    assert_eq!(test.0.cpu_limit("shop", "cart-5f4ddbf799-ddmxg", ""), Some(0.2));
}

/// Events of a metric point of pod `p`, container `c`, at this second.
fn point(
    cluster: &mut Cluster,
    name: &str,
    value: f64,
    second: i64,
    attribute: (&str, &str),
) -> Vec<String> {
    let resource = |key: &str| {
        let value = match key {
            "k8s.namespace.name" => "shop",
            "k8s.pod.name" => "p-0",
            "k8s.container.name" => "c",
            "k8s.deployment.name" => "d",
            "k8s.node.name" => "n",
            "k8s.container.status.last_terminated_reason" => "OOMKilled",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let of_point = |key: &str| (key == attribute.0).then(|| attribute.1.to_owned());
    let (time, mut out) = (Time(second * 1_000_000_000), Vec::new());
    cluster.metric_point(name, (&resource, &of_point), value, (time, time), &mut out);
    events(&out).into_iter().map(|event| format!("{} {}", event.r#type, event.reason)).collect()
}

#[test]
fn metrics_of_both_generations_are_facts_by_their_turns() {
    for (restarts, desired, available) in [
        ("k8s.container.restarts", "k8s.deployment.desired", "k8s.deployment.available"),
        (
            "k8s.container.restart.count",
            "k8s.deployment.pod.desired",
            "k8s.deployment.pod.available",
        ),
    ] {
        let mut cluster = Cluster::default();
        let mut see =
            |name: &str, value, second| point(&mut cluster, name, value, second, ("", ""));
        assert_eq!(see(restarts, 3.0, 1), [""; 0]);
        assert_eq!(see(restarts, 3.0, 2), [""; 0]);
        assert_eq!(see(restarts, 4.0, 3), ["container.terminated OOMKilled"]);
        assert_eq!(
            (see("k8s.container.ready", 1.0, 1), see("k8s.container.ready", 0.0, 2)),
            (vec![], vec!["pod.not_ready ".into()])
        );
        assert_eq!((see(desired, 2.0, 1), see(available, 2.0, 1)), (vec![], vec![]));
        assert_eq!(
            (see(available, 1.0, 2), see(available, 2.0, 3)),
            (vec!["deployment.unavailable ".into()], vec!["deployment.available ".into()])
        );
        see("k8s.container.memory_limit", 1024.0, 4);
        assert_eq!(cluster.memory_limit("shop", "p-0", "c"), Some(1024.0));
    }
    let mut cluster = Cluster::default();
    let mut node = |value, second| {
        point(&mut cluster, "k8s.node.condition", value, second, ("condition", "Ready"))
    };
    assert_eq!((node(1.0, 1), node(0.0, 2)), (vec![], vec!["node.not_ready ".into()]));
    let mut new = |status, second| {
        let mut told = point(
            &mut cluster,
            "k8s.container.status.reason",
            status,
            second,
            ("k8s.container.status.reason", "CrashLoopBackOff"),
        );
        told.pop()
    };
    assert_eq!(
        (new(0.0, 1), new(1.0, 2)),
        (None, Some("container.waiting CrashLoopBackOff".into()))
    );
}

#[test]
fn changes_from_outside_are_rows_and_application_logs_are_not() {
    let record = |scope: &str, event: &str, attributes: Value| Record {
        scope: scope.into(),
        event_name: event.into(),
        observed: Some(at("03:00:00")),
        resource: json!({"service.name": "cart"}).as_object().unwrap().clone(),
        attributes: attributes.as_object().unwrap().clone(),
        ..Record::default()
    };
    let (mut cluster, mut out) = (Cluster::default(), Vec::new());
    assert!(!cluster.record(record("shop", "", json!({"a": "b"})), &mut out));
    assert!(!cluster.record(record("tapio.change", "alert", json!({})), &mut out));
    let step = || {
        record(
            "tapio.change",
            "deployment",
            json!({"deployment.id": "d-1", "service.version": "1.4.2", "user.name": "ann"}),
        )
    };
    assert!(cluster.record(step(), &mut out) && cluster.record(step(), &mut out));
    assert!(cluster.record(
        record(
            "tapio.change",
            "feature_flag.change",
            json!({"feature_flag.key": "f", "feature_flag.change": "off->on"})
        ),
        &mut out
    ));
    let rows = changes(&out);
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&*rows[0].entity_kind, &*rows[0].entity_name, &*rows[0].revision, &*rows[0].actor),
        ("Deployment", "cart", "d-1", "ann")
    );
    assert_eq!(
        (&*rows[1].path, rows[1].old.as_deref(), rows[1].new.as_deref()),
        ("feature_flag.f", Some("off"), Some("on"))
    );
}

#[test]
fn the_collectors_event_receiver_says_the_same_as_the_object() {
    let record = Record {
        severity: "Warning".into(),
        time: Some(at("03:10:00")),
        observed: Some(at("03:10:01")),
        resource: json!({"k8s.object.kind": "Pod", "k8s.object.name": "cart-5f4ddbf799-ddmxg", "k8s.namespace.name": "shop", "k8s.object.fieldpath": "spec.containers{cart}"}).as_object().unwrap().clone(),
        attributes: json!({"k8s.event.reason": "Unhealthy", "k8s.event.uid": "u-Unhealthy", "k8s.event.count": 1}).as_object().unwrap().clone(),
        body: json!("Readiness probe failed"),
        ..Record::default()
    };
    let (mut by_receiver, mut by_object) = (Vec::new(), Vec::new());
    assert!(Cluster::default().record(record.clone(), &mut by_receiver));
    Cluster::default().observe(
        Verb::Added,
        warning(1, "03:10:00", "Warning", "Unhealthy"),
        at("03:10:01"),
        &mut by_object,
    );
    assert_eq!(by_receiver, by_object);
    let mut both = Cluster::default();
    both.observe(
        Verb::Added,
        warning(1, "03:10:00", "Warning", "Unhealthy"),
        at("03:10:01"),
        &mut Vec::new(),
    );
    let mut out = Vec::new();
    both.record(record, &mut out);
    assert_eq!(out, []);
}

#[test]
fn odd_objects_are_survived_and_what_is_kept_is_bounded() {
    let mut test = Test(Cluster::new(Limits { objects: 10, bytes: 1 << 20 }));
    for odd in [
        json!(null),
        json!([]),
        json!({"kind": "Pod"}),
        json!({"kind": 1, "metadata": []}),
        json!({"kind": "Pod", "metadata": {"name": "x"}, "spec": [], "status": "é"}),
        json!({"kind": "EndpointSlice", "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "é"}}, "endpoints": [1, null, {"addresses": [2]}]}),
        json!({"kind": "Event", "regarding": 7}),
        json!({"kind": "Deployment", "metadata": {"name": "-", "managedFields": [{"time": "x", "fieldsV1": {"k:{": {}}}]}}),
    ] {
        for verb in [Verb::Listed, Verb::Added, Verb::Modified, Verb::Deleted] {
            test.see(verb, odd.clone(), "03:00:00");
        }
    }
    for i in 0..100 {
        test.see(
            Verb::Listed,
            object("ConfigMap", &format!("c{i}"), i, "01:00:00", json!({})),
            "03:00:00",
        );
    }
    assert_eq!(test.0.len(), 10);
    assert!(test.0.losses().forgotten >= 90);
}
