//! What is told for what it is, at the object that is wrong, and with what helps.

use serde_json::{Value, json};

use super::{Snapshot, assert_root, crashes, merge, root, unschedulable, waiting};

/// `pay` runs and is not ready.
fn unready() -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "pay", "ready": false, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-20T03:00:00Z"}}}]})
}

/// Guarantees: a program that answers its probe with 5xx is not ready by its own word; a 404 is a wrong probe.
#[test]
fn what_a_probe_is_answered_is_told() {
    for (code, pattern) in [(503, "reports_not_ready"), (404, "readiness_probe_incorrect_protocol")]
    {
        let mut snapshot = Snapshot::well();
        let probe = json!({"containers": [{"name": "pay", "image": "pay:1",
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}, "ports": [{"containerPort": 8080}]}]});
        snapshot.app("pay", &probe, &unready());
        let words = format!("Readiness probe failed: HTTP probe failed with statuscode: {code}");
        snapshot.event("Pod", "pay-5f4ddbf799-ddmxg", "Unhealthy", &words);
        assert_root(snapshot, "Deployment", "pay", pattern);
    }
}

/// Guarantees: who says that it is not ready is an effect of what it asks by its environment, where that is not well.
#[test]
fn who_is_not_ready_for_want_of_another_is_its_effect() {
    let mut snapshot = Snapshot::well();
    let status = waiting("CreateContainerConfigError", "secret \"pay-key\" not found");
    snapshot.app("pay", &json!({}), &status);
    let env = json!([{"name": "PAY_URL", "value": "http://pay.shop.svc:80"}]);
    let spec = json!({"containers": [{"name": "till", "image": "till:1", "env": env,
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}, "ports": [{"containerPort": 8080}]}]});
    let mut status = unready();
    status["containerStatuses"][0]["name"] = json!("till");
    snapshot.app("till", &spec, &status);
    let words = "Readiness probe failed: HTTP probe failed with statuscode: 503";
    snapshot.event("Pod", "till-5f4ddbf799-ddmxg", "Unhealthy", words);
    assert_root(snapshot, "Secret", "pay-key", "missing_secret_binding");
}

/// Guarantees: who may not run, be made or be placed is told by the rule that does not let it.
#[test]
fn the_rule_that_refuses_is_told() {
    for (status, pattern) in [
        (
            waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root",
            ),
            "run_as_root_refused",
        ),
        (
            waiting(
                "RunContainerError",
                "runc create failed: container init was OOM-killed (memory limit too low?)",
            ),
            "oom_killed",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &status);
        assert_root(snapshot, "Deployment", "pay", pattern);
    }
    for (message, pattern) in [
        (
            "admission webhook \"policy.example\" denied the request: image repo not allowed",
            "admission_denied",
        ),
        (
            "pods \"pay-1\" is forbidden: violates PodSecurity \"restricted:latest\": privileged",
            "pod_security_denied",
        ),
        (
            "pods \"pay-1\" is forbidden: failed quota: compute: must specify limits.cpu for: pay",
            "quota_wants_requests",
        ),
    ] {
        // Its old pod is ready, and its new one is not made.
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &Value::Null);
        let failure = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": message, "lastTransitionTime": "2026-11-21T20:00:00Z"});
        let mut status = json!({"status": {"conditions": [failure], "readyReplicas": 1}});
        merge(
            &mut status,
            &json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"app": "pay"}},
                "template": {"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": [{"name": "pay", "image": "pay:2"}]}}}}),
        );
        snapshot.object("Deployment", "pay", &status);
        assert_root(snapshot, "Deployment", "pay", pattern);
    }
}

/// Guarantees: pods that were evicted again and again for their own disk are told though others run in their place;
/// one that was, or some that were long ago, are not.
#[test]
fn evicted_again_and_again_is_told() {
    for (times, day, told) in [(3, 21, true), (1, 21, false), (3, 19, false)] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &Value::Null);
        for nth in 0..times {
            snapshot.object("Pod", &format!("pay-5f4ddbf799-gone{nth}"), &json!({
                "metadata": {"labels": {"app": "pay", "pod-template-hash": "5f4ddbf799"}, "ownerReferences": [
                    {"kind": "ReplicaSet", "name": "pay-5f4ddbf799", "controller": true}]},
                "spec": {"nodeName": "node-1", "containers": [{"name": "pay", "image": "pay:1"}]},
                "status": {"phase": "Failed", "reason": "Evicted",
                    "message": "Usage of EmptyDir volume \"scratch\" exceeds the limit \"2Gi\".",
                    "conditions": [{"type": "DisruptionTarget", "status": "True",
                        "lastTransitionTime": format!("2026-11-{day}T23:0{nth}:00Z")}]}}));
        }
        if told {
            assert_root(snapshot, "Deployment", "pay", "ephemeral_storage_exceeded");
        } else {
            let stories = snapshot.stories();
            assert!(stories.iter().all(|story| story.confidence < 0.4), "{stories:#?}");
        }
    }
}

/// Guarantees: where all nodes that would take a pod are closed, the node is to blame; where one is open, it is what
/// the pod asks for.
#[test]
fn a_closed_node_is_told() {
    for (closed, kind, pattern) in
        [(true, "Node", "node_cordon_mismatch"), (false, "Deployment", "node_selector_mismatch")]
    {
        let mut snapshot = Snapshot::well();
        let node = json!({"metadata": {"labels": {"gpu": if closed { "yes" } else { "no" }}}, "spec": {"unschedulable": closed}});
        snapshot.object("Node", "gpu-1", &node);
        let words = "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector.";
        let spec = json!({"nodeSelector": {"gpu": "yes"}});
        snapshot.app("pay", &spec, &unschedulable(words));
        let stories = snapshot.stories();
        let (k, _, _, p) = root(&stories);
        assert_eq!((&*k, &*p), (kind, pattern), "{stories:#?}");
    }
}

/// Guarantees: a CronJob whose last run does not end and lets no other begin is told; one whose run is not due to
/// have ended is not.
#[test]
fn a_run_that_does_not_end_is_told() {
    for (schedule, told) in [("0 * * * *", true), ("0 3 * * 0", false)] {
        let mut snapshot = Snapshot::well();
        let template = json!({"spec": {"containers": [{"name": "sync", "image": "sync:1"}]}});
        snapshot.object("CronJob", "sync", &json!({"spec": {"schedule": schedule, "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": {"template": template}}}, "status": {"active": [{"kind": "Job", "name": "sync-1"}]}}));
        snapshot.object("Job", "sync-1", &json!({"metadata": {"ownerReferences": [
            {"kind": "CronJob", "name": "sync", "controller": true}]}, "spec": {"template": template},
            "status": {"active": 1, "ready": 1, "startTime": "2026-11-20T03:00:00Z"}}));
        let stories = snapshot.stories();
        assert_eq!(!stories.is_empty(), told, "{schedule} {stories:#?}");
        if told {
            assert_eq!(&*root(&stories).0, "CronJob");
        }
    }
}

/// Guarantees: one is not told to look at what does not exist; commands are filled in.
#[test]
fn what_helps_is_told() {
    let mut snapshot = Snapshot::well();
    let status = waiting("CreateContainerConfigError", "configmap \"pay-conf\" not found");
    snapshot.app("pay", &json!({}), &status);
    let stories = snapshot.stories();
    let [story] = &stories[..] else { panic!("{stories:#?}") };
    let all = story.recommendations.join("\n");
    assert!(!all.contains("describe configmap pay-conf"), "{all}");
    assert!(all.contains("kubectl -n shop create configmap pay-conf"), "{all}");
    assert!(all.contains("kubectl -n shop edit deployment pay"), "{all}");

    let mut snapshot = Snapshot::well();
    let words = "exec /app/pay: exec format error";
    snapshot.app("pay", &json!({}), &crashes(1, "StartError", words));
    let stories = snapshot.stories();
    let all: Vec<&String> = stories.iter().flat_map(|story| &story.recommendations).collect();
    assert!(!all.is_empty(), "{stories:#?}");
    assert!(all.iter().all(|advice| !advice.contains("...:")), "{all:?}");
}
