//! Signs that no condition tells: what waits unseen, what cannot go, what was made otherwise than meant.

use serde_json::{Value, json};

use super::{super::Verb, Test, events, object};

/// A pod of ReplicaSet `cart-1`, created at 03:00:00, with these fields.
fn pod(version: u32, clock: &str, rest: Value) -> Value {
    let mut pod = object("Pod", "cart-1-x", version, clock, rest);
    pod["metadata"]["creationTimestamp"] = json!("2026-11-22T03:00:00Z");
    pod["metadata"]["ownerReferences"] =
        json!([{"kind": "ReplicaSet", "name": "cart-1", "controller": true}]);
    pod
}

fn later(test: &mut Test, clock: &str) -> Vec<String> {
    test.events(Verb::Added, object("ConfigMap", "any", 1, clock, json!({})), clock)
}

#[test]
fn a_pod_that_no_scheduler_looks_at_is_told_once_after_a_minute() {
    let bare = || pod(1, "03:00:00", json!({"status": {"phase": "Pending"}}));
    let mut test = Test::new();
    assert_eq!(test.events(Verb::Added, bare(), "03:00:00"), [""; 0]);
    assert_eq!(later(&mut test, "03:00:59"), [""; 0]);
    assert_eq!(later(&mut test, "03:01:01"), ["pod.unschedulable NotLookedAt 03:00:00"]);
    assert_eq!(later(&mut test, "03:09:00"), [""; 0]);
    // One that a gate holds back, or that a scheduler has placed, was looked at.
    for looked_at in [
        json!({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
        json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}}),
    ] {
        let mut test = Test::new();
        assert_eq!(test.events(Verb::Added, bare(), "03:00:00"), [""; 0]);
        let seen = test.events(Verb::Modified, pod(2, "03:00:01", looked_at), "03:00:01");
        assert_eq!((seen, later(&mut test, "03:02:00")), (Vec::new(), Vec::new()));
    }
    let mut test = Test::new();
    test.see(Verb::Added, bare(), "03:00:00");
    test.see(Verb::Deleted, bare(), "03:00:30");
    assert_eq!(later(&mut test, "03:02:00"), [""; 0]);
}

#[test]
fn a_pod_that_has_ended_and_is_held_by_a_finalizer_is_told_but_not_one_that_goes_by_itself() {
    let ended = |finalizer: &str| {
        let metadata =
            json!({"deletionTimestamp": "2026-11-22T03:05:00Z", "finalizers": [finalizer]});
        let state = json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-11-22T03:05:01Z"}});
        let status =
            json!({"phase": "Running", "containerStatuses": [{"name": "cart", "state": state}]});
        pod(2, "03:05:02", json!({"metadata": metadata, "status": status}))
    };
    let mut told = Vec::new();
    for finalizer in ["example.org/backup", "batch.kubernetes.io/job-tracking"] {
        let mut test = Test::new();
        test.see(
            Verb::Listed,
            pod(1, "03:00:00", json!({"status": {"phase": "Running"}})),
            "03:00:00",
        );
        let events = test.events(Verb::Modified, ended(finalizer), "03:05:02");
        told.push(events.iter().any(|e| e == "pod.deletion_blocked Finalizers 03:05:02"));
    }
    assert_eq!(told, [true, false]);
}

#[test]
fn what_was_written_into_a_new_pod_is_told_and_what_the_api_server_fills_in_is_not() {
    let spec = |resources: Value| json!({"containers": [{"name": "cart", "image": "cart:1", "resources": resources}]});
    let small = json!({"limits": {"memory": "16Mi"}});
    let meant = json!({"limits": {"memory": "96Mi"}});
    let filled_in = json!({"limits": {"memory": "96Mi"}, "requests": {"memory": "96Mi"}});
    let made = |resources: Value| {
        let mut test = Test::new();
        let template = json!({"spec": {"template": {"spec": spec(meant.clone())}}});
        test.see(Verb::Listed, object("ReplicaSet", "cart-1", 1, "02:00:00", template), "03:00:00");
        let mut spec = spec(resources);
        spec["containers"].as_array_mut().unwrap().push(json!({"name": "proxy", "image": "p:1"}));
        let facts = test.see(Verb::Added, pod(1, "03:00:00", json!({"spec": spec})), "03:00:01");
        events(&facts).iter().map(|e| format!("{}: {}", e.r#type, e.message)).collect::<Vec<_>>()
    };
    let told = "pod.rewritten: cart resources.limits.memory: 96Mi in its template, 16Mi";
    assert_eq!((made(small), made(filled_in)), (vec![told.to_owned()], Vec::new()));
}

#[test]
fn an_init_container_is_told_as_one_and_a_sidecar_is_not() {
    let waits = |policy: &str| {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        pod(
            1,
            "03:00:00",
            json!({"spec": {"nodeName": "n1", "initContainers": [{"name": "first", "restartPolicy": policy}]},
                "status": {"phase": "Pending", "initContainerStatuses": [{"name": "first", "state": state}]}}),
        )
    };
    let told = |policy| Test::new().events(Verb::Added, waits(policy), "03:00:00");
    assert_eq!(told(""), ["container.waiting Init:CrashLoopBackOff 03:00:00"]);
    assert_eq!(told("Always"), ["container.waiting CrashLoopBackOff 03:00:00"]);
}

#[test]
fn an_event_of_an_autoscaler_is_of_the_workload_that_it_scales() {
    let mut test = Test::new();
    let target = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "cart"}}});
    let scaler = object("HorizontalPodAutoscaler", "scaler", 1, "02:00:00", target);
    test.see(Verb::Listed, scaler, "03:00:00");
    let grows = json!({"kind": "Event", "metadata": {"name": "e", "namespace": "shop"}, "type": "Normal",
        "reason": "SuccessfulRescale", "message": "New size: 3; reason: cpu resource utilization above target",
        "lastTimestamp": "2026-11-22T03:01:00Z",
        "involvedObject": {"kind": "HorizontalPodAutoscaler", "namespace": "shop", "name": "scaler"}});
    let told = events(&test.see(Verb::Added, grows, "03:01:00"));
    assert_eq!(
        (&*told[0].workload_kind, &*told[0].workload_name, &*told[0].severity),
        ("Deployment", "cart", "warning")
    );
}

#[test]
fn a_pod_that_nothing_replaces_is_told_once_and_not_where_fewer_are_wanted() {
    let set = |revision, clock: &str, replicas: i64| {
        object("ReplicaSet", "cart-1", revision, clock, json!({"spec": {"replicas": replicas}}))
    };
    let told = |wanted_later: i64, comes: bool| {
        let mut test = Test::new();
        test.see(Verb::Listed, set(1, "03:00:00", 1), "03:00:00");
        let running = || pod(2, "03:00:00", json!({"status": {"phase": "Running"}}));
        test.see(Verb::Listed, running(), "03:00:00");
        test.see(Verb::Deleted, running(), "03:10:00");
        test.see(Verb::Modified, set(3, "03:10:00", wanted_later), "03:10:00");
        if comes {
            let mut new = pod(4, "03:10:01", json!({"status": {"phase": "Running"}}));
            new["metadata"]["name"] = json!("cart-1-new");
            test.see(Verb::Added, new, "03:10:01");
        }
        [later(&mut test, "03:10:10"), later(&mut test, "03:10:21"), later(&mut test, "03:10:30")]
            .concat()
    };
    assert_eq!(told(1, false), ["pods.missing NotReplaced 03:10:00"]);
    assert_eq!((told(0, false), told(1, true)), (Vec::new(), Vec::new()));
}
