//! A cluster of which nothing is told but what there is, once: the object that is wrong is named, and not
//! the pod that shows it.

mod goes;
mod told;
mod ways;

use serde_json::{Value, json};
use tapio_proto::{Request, Signal, model::Story};

use crate::{
    hostile::{SECOND, START, request},
    played::play,
};

/// Objects and events, all seen at one time and made long before.
#[derive(Default)]
struct Snapshot {
    seen: Vec<Request>,
    /// Not for all of them is it the same second.
    second: u64,
}

pub(crate) fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

pub(crate) fn value(of: &Value) -> Value {
    match of {
        Value::Object(fields) => {
            let values: Vec<Value> =
                fields.iter().map(|(k, v)| json!({"key": k, "value": value(v)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Array(values) => {
            json!({"arrayValue": {"values": values.iter().map(value).collect::<Vec<_>>()}})
        }
        Value::Bool(of) => json!({"boolValue": of}),
        Value::Number(of) => json!({"intValue": of.to_string()}),
        Value::String(of) => json!({"stringValue": of}),
        Value::Null => json!({}),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

impl Snapshot {
    fn record(&mut self, plural: &str, object: &Value) {
        self.watched("ADDED", plural, object);
    }

    fn watched(&mut self, verb: &str, plural: &str, object: &Value) {
        self.second += 1;
        let time = START + self.second * SECOND / 50;
        let record = json!({"observedTimeUnixNano": time.to_string(),
            "body": value(&json!({"type": verb, "object": object})),
            "attributes": [text("k8s.resource.name", plural), text("event.domain", "k8s"),
                text("event.name", object["metadata"]["name"].as_str().unwrap())]});
        let body = json!({"resourceLogs": [{"resource": {"attributes": [text("k8s.namespace.name", "shop")]},
            "scopeLogs": [{"scope": {"name": "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/k8sobjectsreceiver"},
                "logRecords": [record]}]}]});
        self.seen.push(request(Signal::Logs, &body));
    }

    fn object(&mut self, kind: &str, name: &str, rest: &Value) {
        let cluster_wide = matches!(
            kind,
            "Node" | "Namespace" | "PersistentVolume" | "StorageClass" | "IngressClass"
        ) || kind.ends_with("WebhookConfiguration");
        let mut object = json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": name,
            "uid": format!("{kind}-{name}"), "creationTimestamp": "2026-11-20T03:00:00Z"}});
        if !cluster_wide {
            object["metadata"]["namespace"] = json!("shop");
        }
        merge(&mut object, rest);
        let plural = match kind {
            "StorageClass" => "storageclasses".to_owned(),
            "NetworkPolicy" => "networkpolicies".to_owned(),
            "Ingress" => "ingresses".to_owned(),
            "IngressClass" => "ingressclasses".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        self.record(&plural, &object);
    }

    fn event(&mut self, kind: &str, name: &str, reason: &str, message: &str) {
        let event = json!({"type": "Warning", "reason": reason, "message": message, "count": 12,
            "involvedObject": {"kind": kind, "name": name, "namespace": "shop"},
            "firstTimestamp": "2026-11-21T20:00:00Z", "lastTimestamp": "2026-11-21T23:00:00Z"});
        self.object("Event", &format!("{name}.{reason}"), &event);
    }

    /// A Deployment with its Service and its pod; `of` is laid over the Deployment's pod spec and the pod's,
    /// `status` over the pod's status.
    fn app(&mut self, name: &str, of: &Value, status: &Value) {
        let mut spec = json!({"containers": [{"name": name, "image": format!("{name}:1"),
            "ports": [{"containerPort": 8080}]}]});
        merge(&mut spec, of);
        let well = status.is_null();
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": spec});
        let ready = i32::from(well);
        self.object(
            "Deployment",
            name,
            &json!({"spec": {"replicas": 1, "template": template,
            "selector": {"matchLabels": {"app": name}}},
            "status": {"replicas": 1, "readyReplicas": ready, "availableReplicas": ready}}),
        );
        self.object(
            "Service",
            name,
            &json!({"spec": {"selector": {"app": name}, "clusterIP": "10.0.0.1",
            "ports": [{"port": 80, "targetPort": 8080}]}}),
        );
        let mut pod_status = json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": if well { "True" } else { "False" }, "lastTransitionTime": "2026-11-21T20:00:00Z"}],
            "containerStatuses": [{"name": name, "ready": well, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-20T03:00:00Z"}}}]});
        merge(&mut pod_status, status);
        if well {
            pod_status["phase"] = json!("Running");
            pod_status["podIP"] = json!("10.1.0.9");
        }
        let mut pod_spec = spec.clone();
        if pod_status["phase"] != "Pending"
            || pod_status["containerStatuses"][0]["state"].get("waiting").is_some()
        {
            pod_spec["nodeName"] = json!("node-1");
        }
        self.object("Pod", &format!("{name}-5f4ddbf799-ddmxg"), &json!({
            "metadata": {"labels": {"app": name, "pod-template-hash": "5f4ddbf799"}, "ownerReferences": [
                {"kind": "ReplicaSet", "name": format!("{name}-5f4ddbf799"), "controller": true}]},
            "spec": pod_spec, "status": pod_status}));
    }

    /// Some apps that are well, on a node that is.
    fn well() -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.node("node-1", "True", "KubeletReady", "kubelet is posting ready status");
        for name in ["cart", "mail", "search"] {
            snapshot.app(name, &json!({}), &Value::Null);
        }
        snapshot
    }

    fn node(&mut self, name: &str, ready: &str, reason: &str, message: &str) {
        let condition = json!({"type": "Ready", "status": ready, "reason": reason, "message": message,
            "lastTransitionTime": "2026-11-21T20:00:00Z"});
        self.object("Node", name, &json!({"status": {"conditions": [condition]}}));
    }

    /// The node says that it is still there, and somebody renews a lease.
    fn beat(&mut self, node: &str) {
        let condition = json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "kubelet is posting ready status", "lastTransitionTime": "2026-11-21T20:00:00Z",
            "lastHeartbeatTime": "2026-11-22T03:10:00Z"});
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": node, "uid": format!("Node-{node}"),
            "resourceVersion": "77", "creationTimestamp": "2026-11-20T03:00:00Z"}, "status": {"conditions": [condition]}});
        let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "node-1",
            "namespace": "kube-node-lease"}, "spec": {"renewTime": "2026-11-22T03:10:00Z"}});
        self.watched("MODIFIED", "nodes", &node);
        self.watched("MODIFIED", "leases", &lease);
    }

    /// A record with a line of text, so many seconds after the objects.
    fn says(&mut self, second: u64, service: &str, scope: &str, mut record: Value) {
        record["timeUnixNano"] = json!((START + second * SECOND).to_string());
        let resource = [text("service.name", service), text("k8s.namespace.name", "shop")];
        let body = json!({"resourceLogs": [{"resource": {"attributes": resource},
            "scopeLogs": [{"scope": {"name": scope}, "logRecords": [record]}]}]});
        self.seen.push(request(Signal::Logs, &body));
    }

    fn alert(&mut self, second: u64, service: &str) {
        let attributes = [text("alert.name", "NotWell"), text("alert.severity", "critical")];
        let record = json!({"eventName": "alert", "attributes": attributes,
            "body": {"stringValue": format!("{service} is not well")}});
        self.says(second, service, "alertmanager", record);
    }

    fn stories(self) -> Vec<Story> {
        let mut seen = self.seen.into_iter();
        play(|| seen.next()).stories.into_iter().map(|(story, _)| story).collect()
    }
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "pay", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn unschedulable(message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [], "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message, "lastTransitionTime": "2026-11-21T20:00:00Z"}]})
}

/// Kind, name, service and pattern of the surest story's root.
fn root(stories: &[Story]) -> (String, String, String, String) {
    let best = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let root = best.and_then(|story| story.root_cause.clone());
    root.map_or_else(Default::default, |r| (r.kind, r.name, r.service, r.pattern))
}

fn assert_root(snapshot: Snapshot, kind: &str, name: &str, pattern: &str) {
    let stories = snapshot.stories();
    let (k, n, service, p) = root(&stories);
    assert_eq!((&*k, &*n, &*p), (kind, name, pattern), "{service} {stories:#?}");
    let sure = stories.iter().filter(|story| story.confidence >= 0.4).count();
    assert_eq!(sure, 1, "{stories:#?}");
}

/// Guarantees: a cluster that is well is no story.
#[test]
fn a_cluster_that_is_well_is_no_story() {
    let stories = Snapshot::well().stories();
    assert!(stories.is_empty(), "{stories:#?}");
}

/// Guarantees: why a container cannot start is read from what its pod and its events say.
#[test]
fn why_a_container_cannot_start_is_told() {
    for (reason, message, kind, name, pattern) in [
        (
            "ImagePullBackOff",
            "Back-off pulling image \"pay:1\": manifest for pay:1 not found: manifest unknown",
            "Deployment",
            "pay",
            "incorrect_image_reference",
        ),
        (
            "ErrImagePull",
            "failed to resolve reference: failed to do request: dial tcp: lookup registry.rig: no such host",
            "Deployment",
            "pay",
            "image_registry_dns_failure",
        ),
        (
            "ErrImagePull",
            "failed to authorize: failed to fetch anonymous token: 401 Unauthorized",
            "Deployment",
            "pay",
            "missing_image_pull_secret",
        ),
        (
            "CreateContainerConfigError",
            "secret \"pay-key\" not found",
            "Secret",
            "pay-key",
            "missing_secret_binding",
        ),
        (
            "CreateContainerConfigError",
            "configmap \"pay-conf\" not found",
            "ConfigMap",
            "pay-conf",
            "missing_config_object",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &waiting(reason, message));
        assert_root(snapshot, kind, name, pattern);
    }
}

/// Guarantees: what keeps a pod from every node is told from the scheduler's words and its own.
#[test]
fn why_no_node_takes_a_pod_is_told() {
    let on = |key: &str, value: Value| json!({key: value});
    for (spec, message, pattern) in [
        (
            json!({}),
            "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu. preemption: 0/3 nodes are available",
            "cpu_capacity_mismatch",
        ),
        (json!({}), "0/3 nodes are available: 3 Insufficient memory.", "memory_capacity_mismatch"),
        (
            on("nodeSelector", json!({"disk": "ssd"})),
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            "node_selector_mismatch",
        ),
        (
            json!({}),
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            "node_affinity_mismatch",
        ),
        (
            json!({}),
            "0/3 nodes are available: 3 node(s) had untolerated taint {team: infra}.",
            "taint_toleration_mismatch",
        ),
        (
            json!({}),
            "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 node(s) were unschedulable.",
            "node_cordon_mismatch",
        ),
        (
            json!({}),
            "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.",
            "pod_anti_affinity_conflict",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &spec, &unschedulable(message));
        assert_root(snapshot, "Deployment", "pay", pattern);
    }
}

/// Guarantees: a refusal to make pods names the quota or the account that it comes from.
#[test]
fn who_refuses_pods_is_told() {
    for (message, kind, name, pattern) in [
        (
            "Error creating: pods \"pay-5f4ddbf799-x\" is forbidden: exceeded quota: team, requested: requests.memory=1Gi, used: requests.memory=4Gi, limited: requests.memory=4Gi",
            "ResourceQuota",
            "team",
            "namespace_memory_quota_exceeded",
        ),
        (
            "Error creating: pods \"pay-5f4ddbf799-x\" is forbidden: error looking up service account shop/payer: serviceaccount \"payer\" not found",
            "ServiceAccount",
            "payer",
            "missing_service_account",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        let template = json!({"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": [{"name": "pay", "image": "pay:1"}]}});
        snapshot.object("Deployment", "pay", &json!({"spec": {"replicas": 1, "template": template},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]}}));
        snapshot.object(
            "ReplicaSet",
            "pay-5f4ddbf799",
            &json!({"metadata": {"ownerReferences": [
            {"kind": "Deployment", "name": "pay", "controller": true}]}, "spec": {"replicas": 1}}),
        );
        snapshot.event("ReplicaSet", "pay-5f4ddbf799", "FailedCreate", message);
        // An alert has the story told before all was seen.
        snapshot.alert(5, "pay");
        assert_root(snapshot, kind, name, pattern);
    }
}

/// Guarantees: a policy that keeps a caller out, who says that nobody answers, is named, and one that lets it
/// in is not; what was said is told as it was said.
#[test]
fn a_policy_that_keeps_a_caller_out_is_told() {
    for (from, guilty) in [
        (json!([]), true),
        (json!([{"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}]}]), false),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &Value::Null);
        snapshot.object(
            "NetworkPolicy",
            "closed",
            &json!({"spec": {"policyTypes": ["Ingress"],
            "podSelector": {"matchLabels": {"app": "pay"}}, "ingress": from}}),
        );
        let words = "call to pay failed: dial tcp 10.0.0.1:80: i/o timeout";
        let record = json!({"severityNumber": 17, "body": {"stringValue": words}});
        snapshot.says(3, "cart", "app", record);
        snapshot.alert(5, "cart");
        if guilty {
            assert_root(snapshot, "NetworkPolicy", "closed", "network_policy_blocks");
        } else {
            let (kind, ..) = root(&snapshot.stories());
            assert_ne!(kind, "NetworkPolicy");
        }
    }
    let mut snapshot = Snapshot::well();
    let words = "couldn't find key DB_PASS in Secret shop/pay-db";
    snapshot.app("pay", &json!({}), &waiting("CreateContainerConfigError", words));
    let [story] = &snapshot.stories()[..] else { panic!("not one") };
    assert_eq!(story.title, format!("pay does not work: {words}"));
}

/// Guarantees: of a claim that is not bound it is told what no volume has.
#[test]
fn why_a_claim_is_not_bound_is_told() {
    let volume = |rest: Value| {
        let mut volume = json!({"spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast"}, "status": {"phase": "Available"}});
        merge(&mut volume, &rest);
        volume
    };
    for (volume, pattern) in [
        (volume(json!({"spec": {"capacity": {"storage": "1Gi"}}})), "pvc_capacity_mismatch"),
        (volume(json!({"spec": {"accessModes": ["ReadOnlyMany"]}})), "pvc_access_mode_mismatch"),
        (volume(json!({"spec": {"storageClassName": "slow"}})), "pvc_storage_class_mismatch"),
        (
            volume(json!({"spec": {"claimRef": {"name": "other", "namespace": "shop"}}})),
            "pv_binding_occupied",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.object("PersistentVolume", "vol-1", &volume);
        snapshot.object("PersistentVolumeClaim", "pay-data", &json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}, "status": {"phase": "Pending"}}));
        snapshot.event(
            "PersistentVolumeClaim",
            "pay-data",
            "FailedBinding",
            "no persistent volumes available for this claim",
        );
        let spec =
            json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "pay-data"}}]});
        let said = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        snapshot.app("pay", &spec, &unschedulable(said));
        assert_root(snapshot, "PersistentVolumeClaim", "pay-data", pattern);
    }
}

/// Guarantees: a Service that selects no pod, one whose port no container has, and a route to what does not
/// exist are named, though every pod is well.
#[test]
fn what_leads_nowhere_is_told() {
    let service = |rest: Value| {
        let mut service = json!({"spec": {"selector": {"app": "pay"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        merge(&mut service, &rest);
        service
    };
    for (kind, object, pattern) in [
        (
            "Service",
            service(json!({"spec": {"selector": {"app": "payment"}}})),
            "service_selector_mismatch",
        ),
        (
            "Service",
            service(json!({"spec": {"ports": [{"port": 80, "targetPort": 9999}]}})),
            "service_port_mapping_mismatch",
        ),
        (
            "Service",
            service(
                json!({"spec": {"ports": [{"port": 80, "targetPort": 8080, "protocol": "UDP"}]}}),
            ),
            "service_protocol_mismatch",
        ),
        (
            "Ingress",
            json!({"spec": {"rules": [{"http": {"paths": [{"backend": {"service": {"name": "paid", "port": {"number": 80}}}}]}}]}}),
            "gateway_misroute",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &Value::Null);
        snapshot.object(kind, "pay", &object);
        assert_root(snapshot, kind, "pay", pattern);
    }
}

/// Guarantees: of nodes, probes, addresses and replicas that are wrong the wrong one is told.
#[test]
fn nodes_probes_addresses_and_replicas_that_are_wrong_are_told() {
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &json!({"phase": "Running"}));
    snapshot.node("node-1", "False", "KubeletNotReady", "container runtime is down");
    assert_root(snapshot, "Node", "node-1", "containerd_unavailable");

    for (port, said, pattern) in [
        (
            9090,
            "Liveness probe failed: Get \"http://10.0.0.9:9090/\": dial tcp 10.0.0.9:9090: connect: connection refused",
            "liveness_probe_incorrect_port",
        ),
        (
            8080,
            "Liveness probe failed: HTTP probe failed with statuscode: 404",
            "liveness_probe_incorrect_protocol",
        ),
        (
            8080,
            "Liveness probe failed: Get \"http://10.0.0.9:8080/\": context deadline exceeded",
            "liveness_probe_incorrect_timing",
        ),
    ] {
        let mut snapshot = Snapshot::well();
        let probe = json!({"containers": [{"name": "pay", "image": "pay:1", "ports": [{"containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": port, "path": "/"}}}]});
        snapshot.app(
            "pay",
            &probe,
            &waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container=pay"),
        );
        snapshot.event("Pod", "pay-5f4ddbf799-ddmxg", "Unhealthy", said);
        assert_root(snapshot, "Deployment", "pay", pattern);
    }

    let mut snapshot = Snapshot::well();
    snapshot.object(
        "Service",
        "db",
        &json!({"spec": {"clusterIP": "10.0.0.7", "ports": [{"port": 3306}]}}),
    );
    let env = json!({"containers": [{"name": "pay", "image": "pay:1", "ports": [{"containerPort": 8080}],
        "env": [{"name": "MYSQL_HOST", "value": "db"}, {"name": "MYSQL_PORT", "value": "3307"}]}]});
    snapshot.app(
        "pay",
        &env,
        &waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container=pay"),
    );
    assert_root(snapshot, "Deployment", "pay", "mysql_invalid_port");

    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &Value::Null);
    let env = json!({"containers": [{"name": "till", "image": "till:1", "ports": [{"containerPort": 8080}],
        "env": [{"name": "PAY_URL", "value": "http://pay:80/v1"}]}]});
    snapshot.app("till", &env, &Value::Null);
    snapshot.object(
        "Deployment",
        "pay",
        &json!({"spec": {"replicas": 0, "template": {"metadata": {"labels": {"app": "pay"}},
        "spec": {"containers": [{"name": "pay"}]}}}}),
    );
    assert_root(snapshot, "Deployment", "pay", "deployment_zero_replicas");
}

/// A pod whose container is started anew and ends again, with these last words.
fn crashes(code: i64, reason: &str, message: &str) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "pay", "ready": false, "restartCount": 14,
        "state": {"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off 5m0s restarting failed container=pay pod=pay-5f4ddbf799-ddmxg_shop(0c7d)"}},
        "lastState": {"terminated": {"exitCode": code, "reason": reason, "message": message,
            "finishedAt": "2026-11-21T23:59:00Z"}}}]})
}

/// Guarantees: why a container ends again and again is read from its last words by the patterns, and the object
/// that the words name is blamed; where no pattern knows them they are quoted, and it is only a hypothesis.
#[test]
fn what_a_container_said_last_is_told() {
    for (code, message, kind, name, pattern, quoted) in [
        (
            1,
            "*****\nAPPLICATION FAILED TO START\n*****\n\nFailed to configure a DataSource: 'url' attribute is not specified and no embedded datasource could be configured.\n",
            "Deployment",
            "pay",
            "setting_missing",
            "'url' attribute is not specified",
        ),
        (
            2,
            "flag provided but not defined: -sidecar-imge\nUsage of /pay:\n",
            "Deployment",
            "pay",
            "setting_invalid",
            "-sidecar-imge",
        ),
        (
            1,
            "FATAL: password authentication failed for user \"pay\"\n\tat a.b(C.java:1)\n",
            "Deployment",
            "pay",
            "credentials_refused",
            "FATAL: password",
        ),
        (
            1,
            r#"HTTP response body: {"kind":"Status","message":"configmaps \"index\" is forbidden: User \"system:serviceaccount:shop:till\" cannot get resource \"configmaps\"","code":403}"#,
            "ServiceAccount",
            "till",
            "rights_missing",
            "cannot get resource",
        ),
        (
            1,
            r#"HTTP response body: {"message":"configmaps \"index\" not found","code":404}"#,
            "ConfigMap",
            "index",
            "missing_config_object",
            "does not exist",
        ),
        (
            1,
            "wget: bad address 'ledger.shop.svc.cluster.local'",
            "Service",
            "ledger",
            "dependency_not_up",
            "which does not exist",
        ),
        (
            1,
            "opening store\nstore: invariant violated: page 17\ngoroutine 1 [running]:\n",
            "Deployment",
            "pay",
            "bad_config_crash_loop",
            "invariant violated: page 17",
        ),
        (127, "", "Deployment", "pay", "bad_command", "not found"),
        (139, "", "Deployment", "pay", "native_crash", "SIGSEGV"),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &crashes(code, "Error", message));
        let stories = snapshot.stories();
        let [story] = &stories[..] else { panic!("{stories:#?}") };
        let (k, n, _, p) = root(&stories);
        assert_eq!((&*k, &*n, &*p), (kind, name, pattern), "{story:#?}");
        assert!(story.title.contains(quoted), "{}", story.title);
        let unknown = matches!(pattern, "bad_config_crash_loop" | "native_crash");
        assert!(!unknown || story.confidence < 0.7, "{story:#?}");
        assert!(!story.recommendations.is_empty());
    }
    let mut snapshot = Snapshot::well();
    let limit =
        json!({"containers": [{"name": "pay", "resources": {"limits": {"memory": "96Mi"}}}]});
    snapshot.app("pay", &limit, &crashes(137, "OOMKilled", ""));
    let [story] = &snapshot.stories()[..] else { panic!("not one") };
    assert!(story.title.contains("at its limit of 96Mi"), "{}", story.title);
}

/// Guarantees: of two workloads that do not run the one that the other cannot reach is the cause, in one story.
#[test]
fn what_is_not_reached_is_the_cause() {
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &crashes(1, "Error", "PANIC: no valid checkpoint record"));
    let mut till = crashes(1, "Error", "dial tcp: connect to pay.shop.svc:80: connection refused");
    till["containerStatuses"][0]["name"] = json!("till");
    snapshot.app("till", &json!({}), &till);
    let stories = snapshot.stories();
    let [story] = &stories[..] else { panic!("{stories:#?}") };
    let (kind, name, ..) = root(&stories);
    assert_eq!((&*kind, &*name), ("Deployment", "pay"), "{story:#?}");
    assert!(story.title.contains("PANIC: no valid checkpoint record"), "{}", story.title);
}

/// Guarantees: what is past is no story: restarts of last week, Events of pods that are well, a Job whose later
/// run went well, pods that were evicted and have others in their place.
#[test]
fn what_is_past_is_no_story() {
    let mut snapshot = Snapshot::well();
    let restarts = json!({"containerStatuses": [{"name": "pay", "ready": true, "restartCount": 9,
        "state": {"running": {"startedAt": "2026-11-20T03:00:00Z"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-15T03:00:00Z"}}}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-15T03:00:00Z"}]});
    snapshot.app("pay", &json!({}), &Value::Null);
    snapshot.object("Pod", "pay-5f4ddbf799-ddmxg", &json!({
        "metadata": {"labels": {"app": "pay", "pod-template-hash": "5f4ddbf799"}, "ownerReferences": [
            {"kind": "ReplicaSet", "name": "pay-5f4ddbf799", "controller": true}]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "pay", "image": "pay:1"}]}, "status": restarts}));
    snapshot.event(
        "ReplicaSet",
        "pay-5f4ddbf799",
        "FailedCreate",
        "error looking up service account shop/pay: serviceaccount \"pay\" not found",
    );
    let said = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    snapshot.event("Pod", "pay-5f4ddbf799-ddmxg", "FailedScheduling", said);
    snapshot.object("Pod", "pay-5f4ddbf799-xxxxx", &json!({
        "metadata": {"labels": {"app": "pay", "pod-template-hash": "5f4ddbf799"}, "ownerReferences": [
            {"kind": "ReplicaSet", "name": "pay-5f4ddbf799", "controller": true}]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "pay", "image": "pay:1"}]},
        "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}}));
    let template = json!({"spec": {"containers": [{"name": "main", "image": "r:1"}]}});
    snapshot.object(
        "CronJob",
        "settle",
        &json!({"spec": {"jobTemplate": {"spec": {"template": template}}}}),
    );
    for (name, made, condition) in [
        (
            "settle-1",
            "2026-11-20T22:00:00Z",
            json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}),
        ),
        ("settle-2", "2026-11-21T22:00:00Z", json!({"type": "Complete", "status": "True"})),
    ] {
        snapshot.object(
            "Job",
            name,
            &json!({"metadata": {"creationTimestamp": made, "ownerReferences": [
            {"kind": "CronJob", "name": "settle", "controller": true}]},
            "spec": {"template": template}, "status": {"conditions": [condition]}}),
        );
    }
    let words = "retrying after a while: connection refused once";
    let record = json!({"severityNumber": 17, "body": {"stringValue": words}});
    snapshot.says(3, "pay", "app", record);
    let stories = snapshot.stories();
    assert!(stories.iter().all(|story| story.confidence < 0.4), "{stories:#?}");
}

/// Guarantees: a newest Job that gave up is told with what its pods said; pods that no node takes since one has no
/// disk left are laid to that node; an autoscaler that sees nothing is told, but not as if all were lost.
#[test]
fn jobs_nodes_and_autoscalers_that_are_wrong_are_told() {
    let mut snapshot = Snapshot::well();
    let template = json!({"spec": {"containers": [{"name": "main", "image": "r:1"}]}});
    snapshot.object(
        "Job",
        "settle",
        &json!({"spec": {"template": template}, "status": {"failed": 4,
        "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
            "message": "Job has reached the specified backoff limit"}]}}),
    );
    snapshot.object("Pod", "settle-abcde", &json!({"metadata": {"ownerReferences": [
        {"kind": "Job", "name": "settle", "controller": true}]}, "spec": {"nodeName": "node-1"},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "main", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "ORA-01017: invalid username/password",
                "finishedAt": "2026-11-21T23:50:00Z"}}}]}}));
    assert_root(snapshot, "Job", "settle", "credentials_refused");

    let mut snapshot = Snapshot::well();
    snapshot.object("Node", "node-1", &json!({
        "spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True",
            "reason": "KubeletHasDiskPressure", "message": "kubelet has disk pressure",
            "lastTransitionTime": "2026-11-21T23:00:00Z"}]}}));
    let said = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.";
    snapshot.app("pay", &json!({}), &unschedulable(said));
    let (kind, name, _, pattern) = root(&snapshot.stories());
    assert_eq!((&*kind, &*name, &*pattern), ("Node", "node-1", "node_disk_pressure"));

    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &Value::Null);
    snapshot.object(
        "HorizontalPodAutoscaler",
        "pay",
        &json!({"spec": {"scaleTargetRef": {"kind": "Deployment",
        "name": "pay"}}, "status": {"conditions": [{"type": "ScalingActive", "status": "False",
        "reason": "FailedGetResourceMetric", "message": "missing request for cpu in container pay",
        "lastTransitionTime": "2026-11-21T23:00:00Z"}]}}),
    );
    let stories = snapshot.stories();
    let [story] = &stories[..] else { panic!("{stories:#?}") };
    assert_eq!(root(&stories).0, "HorizontalPodAutoscaler");
    assert!((0.4..0.7).contains(&story.confidence), "{story:#?}");
}

/// Guarantees: a policy that keeps who it selects from asking for names is told; a server that refuses is no file
/// that may not be read; a limit that pods do not keep is named.
#[test]
fn what_is_not_there_to_be_asked_is_told() {
    let mut snapshot = Snapshot::well();
    snapshot.object(
        "NetworkPolicy",
        "out",
        &json!({"spec": {"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "pay"}},
            "egress": [{"ports": [{"port": 5432}]}]}}),
    );
    let words = "dial tcp: lookup cart.shop.svc on 10.96.0.10:53: read udp: i/o timeout";
    snapshot.app("pay", &json!({}), &crashes(1, "Error", words));
    let (kind, name, _, pattern) = root(&snapshot.stories());
    assert_eq!((&*kind, &*name, &*pattern), ("NetworkPolicy", "out", "network_policy_blocks"));

    let mut snapshot = Snapshot::well();
    let words = "PUT https://vault.sec:8200/v1/login Code: 403. Errors: * permission denied";
    snapshot.app("pay", &json!({}), &crashes(1, "Error", words));
    assert_root(snapshot, "Deployment", "pay", "credentials_refused");

    let mut snapshot = Snapshot::well();
    let said = "pods \"pay-x\" is forbidden: maximum memory usage per Container is 256Mi, but limit is 512Mi";
    let template = json!({"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": [{"name": "pay", "image": "pay:1"}]}});
    snapshot.object("LimitRange", "small", &json!({"spec": {"limits": []}}));
    snapshot.object("Deployment", "pay", &json!({"spec": {"replicas": 1, "template": template},
        "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": said}]}}));
    let (kind, name, ..) = root(&snapshot.stories());
    assert_eq!((&*kind, &*name), ("LimitRange", "small"));
}

/// Guarantees: nodes that say that they are still there, and leases that are renewed, do not make a cluster one that
/// moves.
#[test]
fn a_heartbeat_is_no_change() {
    let message = "Back-off pulling image \"registry.shop/pay:9\": not found";
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &waiting("ImagePullBackOff", message));
    snapshot.beat("node-1");
    let stories = snapshot.stories();
    let (kind, name, ..) = root(&stories);
    assert_eq!((&*kind, &*name), ("Deployment", "pay"), "{stories:#?}");
    let told = stories[0].recommendations.len();
    assert!(
        told > 0 && stories[0].chain.iter().any(|link| link.what.contains("pay:9")),
        "{stories:#?}"
    );
}

/// Guarantees: what a pod logged counts also where its lines come before the objects.
#[test]
fn lines_before_the_objects_count() {
    let mut snapshot = Snapshot::default();
    let resource = [
        text("k8s.namespace.name", "shop"),
        text("k8s.pod.name", "pay-5f4ddbf799-ddmxg"),
        text("k8s.container.name", "pay"),
    ];
    let line = r#"unable to start: no matches for kind "CronJob" in version "batch/v1beta1""#;
    let record = json!({"timeUnixNano": START.to_string(), "severityNumber": 17, "severityText": "ERROR",
        "body": {"stringValue": line}});
    let body = json!({"resourceLogs": [{"resource": {"attributes": resource},
        "scopeLogs": [{"scope": {"name": "app"}, "logRecords": [record]}]}]});
    snapshot.seen.push(request(Signal::Logs, &body));
    let well = Snapshot::well();
    snapshot.second = well.second;
    snapshot.seen.extend(well.seen);
    snapshot.app("pay", &json!({}), &crashes(1, "Error", ""));
    assert_root(snapshot, "Deployment", "pay", "api_version_removed");
}

impl Snapshot {
    /// So many seconds go by, in which a node says now and then that it is there.
    fn passes(&mut self, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.second += 500;
            self.beat("node-1");
        }
    }

    /// Where requests for `pay` go.
    fn ingress(&mut self, verb: &str, version: u64, backend: &str) {
        let object = json!({"kind": "Ingress", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "pay",
            "namespace": "shop", "uid": "Ingress-pay", "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-11-20T03:00:00Z"},
            "spec": {"rules": [{"http": {"paths": [{"backend": {"service": {"name": backend, "port": {"number": 80}}}}]}}]}});
        self.watched(verb, "ingresses", &object);
    }
}

/// Guarantees: where no requests are seen, what somebody breaks without anything that is seen to fail of it is told
/// with the change; what was put right again, or has only just come, is not.
#[test]
fn what_came_to_be_wrong_is_told_with_its_change() {
    let history = |broken: u64, after: Option<u64>| {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &json!({}), &Value::Null);
        snapshot.ingress("ADDED", 1, "pay");
        snapshot.passes(60);
        snapshot.ingress("MODIFIED", 2, "paid");
        snapshot.passes(broken);
        if let Some(after) = after {
            snapshot.ingress("MODIFIED", 3, "pay");
            snapshot.passes(after);
        }
        snapshot.stories()
    };
    let stories = history(180, None);
    let (kind, name, _, pattern) = root(&stories);
    assert_eq!((&*kind, &*name, &*pattern), ("Ingress", "pay", "gateway_misroute"), "{stories:#?}");
    let root = stories[0].root_cause.clone().unwrap();
    assert!(
        root.change.is_some() || stories[0].chain.iter().any(|link| link.what.contains("paid"))
    );
    let put_back = |advice: &String| advice.starts_with("put it back: kubectl");
    assert!(stories[0].recommendations.iter().any(put_back), "{stories:#?}");
    assert!(history(180, Some(60)).is_empty());
    assert!(history(20, None).is_empty());
}

/// Guarantees: a new pod that waits for its volume is told of, though its object only says that it is being created.
#[test]
fn a_pod_that_waits_for_its_volume_is_told_of() {
    let pending = |version: u64| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "pay-5f4ddbf799-czc6d", "namespace": "shop",
            "uid": "pay-czc6d", "resourceVersion": version.to_string(), "labels": {"app": "pay"},
            "ownerReferences": [{"kind": "Deployment", "name": "pay", "controller": true}]},
            "spec": {"nodeName": "node-1", "volumes": [{"name": "conf", "configMap": {"name": "pay-conf"}}]},
            "status": {"phase": "Pending", "containerStatuses": [{"name": "pay", "ready": false,
                "state": {"waiting": {"reason": "ContainerCreating"}}}]}})
    };
    let mut snapshot = Snapshot::well();
    snapshot.object("ConfigMap", "pay-conf", &json!({"data": {"a": "b"}}));
    let mounts = json!({"volumes": [{"name": "conf", "configMap": {"name": "pay-conf"}}]});
    snapshot.app("pay", &mounts, &Value::Null);
    snapshot.passes(30);
    let gone = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "pay-conf", "namespace": "shop",
        "uid": "ConfigMap-pay-conf"}});
    snapshot.watched("DELETED", "configmaps", &gone);
    snapshot.passes(30);
    snapshot.watched("ADDED", "pods", &pending(1));
    for count in 1..4 {
        let at = tapio_proto::model::Time((START + snapshot.second * SECOND / 50) as i64);
        let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "pay.f", "namespace": "shop", "uid": "f"},
            "type": "Warning", "reason": "FailedMount", "count": count, "lastTimestamp": at.to_string(),
            "message": "MountVolume.SetUp failed for volume \"conf\" : configmap \"pay-conf\" not found",
            "involvedObject": {"kind": "Pod", "name": "pay-5f4ddbf799-czc6d", "namespace": "shop"}});
        snapshot.watched(if count == 1 { "ADDED" } else { "MODIFIED" }, "events", &event);
        snapshot.passes(40);
        snapshot.watched("MODIFIED", "pods", &pending(1 + count));
    }
    assert_root(snapshot, "ConfigMap", "pay-conf", "missing_config_object");
}
