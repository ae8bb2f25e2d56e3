//! What begins and ends: containers, pods, endpoints, conditions.

use serde_json::{Value, json};
use tapio_proto::model::Entity;

use super::{super::Verb, Test, at, deployment, events, object, pod};

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

#[test]
fn a_deployment_that_may_create_its_pods_again_says_so_though_it_was_available_all_the_time() {
    let see = |test: &mut Test, version, second: u32, conditions| {
        let status = json!({"replicas": 2, "availableReplicas": 2, "conditions": conditions});
        let clock = format!("03:00:{second:02}");
        let value = object(
            "Deployment",
            "cart",
            version,
            &clock,
            json!({"spec": {"replicas": 2}, "status": status}),
        );
        test.events(Verb::Modified, value, &clock)
    };
    let available = json!({"type": "Available", "status": "True"});
    let failure = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "lastTransitionTime": "2026-11-22T03:00:02Z"});
    let mut test = Test::new();
    assert_eq!(see(&mut test, 1, 1, json!([available])), [""; 0]);
    let told = see(&mut test, 2, 2, json!([available, failure]));
    assert_eq!(told, ["deployment.replica_failure FailedCreate 03:00:02"]);
    assert_eq!(see(&mut test, 3, 3, json!([available, failure])), [""; 0]);
    let told = see(&mut test, 4, 30, json!([available]));
    assert_eq!(told, ["deployment.replicas_created  03:00:30"]);
}

/// Guarantees: who has to make room is known whether the Event refers to the other pod, names it, or gives its uid.
#[test]
fn who_preempts_is_known_by_name_and_by_uid() {
    for (said, known) in [
        ("Preempted by pod uid-batch-1 on node n1", true),
        ("Preempted by shop/batch-1 on node n1", true),
        ("Preempted by pod 3d0d2796 on node n1", false),
    ] {
        let mut test = Test::new();
        for name in ["cart-1", "batch-1"] {
            let owner = json!([{"kind": "Deployment", "name": name.trim_end_matches("-1"), "controller": true}]);
            let rest =
                json!({"metadata": {"ownerReferences": owner}, "status": {"phase": "Running"}});
            test.see(Verb::Listed, object("Pod", name, 1, "03:00:00", rest), "03:00:00");
        }
        let event = json!({"kind": "Event", "metadata": {"name": "e", "namespace": "shop"}, "type": "Normal",
            "reason": "Preempted", "message": said, "lastTimestamp": "2026-11-22T03:00:05Z",
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "cart-1"}});
        test.see(Verb::Added, event, "03:00:05");
        let by = test.0.displaced.get(&Entity::new("Deployment", "shop", "cart"));
        let by = by.cloned().flatten().map(|by| by.to_string());
        assert_eq!(by.as_deref(), known.then_some("Deployment shop/batch"), "{said}");
    }
}
