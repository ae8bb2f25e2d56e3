//! Certificates, disks, and what is to go and cannot; what is at its end or leads nowhere though all pods are well.

use serde_json::{Value, json};

use super::{Snapshot, assert_root, crashes, merge, root, unschedulable};

/// `pay` ends since the certificate of `till`, which is well, has expired.
fn distrusts() -> Snapshot {
    let mut snapshot = Snapshot::well();
    let spec = json!({"volumes": [{"name": "tls", "secret": {"secretName": "till-tls"}}]});
    snapshot.app("till", &spec, &Value::Null);
    let words = "Get \"https://till.shop.svc:443/x\": x509: certificate has expired or is not yet valid: current time 2026-11-21T23:00:00Z is after 2026-11-21T20:00:00Z";
    snapshot.app("pay", &json!({}), &crashes(1, "Error", words));
    snapshot
}

fn certificate(name: &str, ready: &str, since: &str, until: &str) -> Value {
    json!({"metadata": {"creationTimestamp": since}, "spec": {"secretName": format!("{name}-tls"), "dnsNames": ["shop.example.com"]},
        "status": {"notAfter": until, "conditions": [{"type": "Ready", "status": ready, "reason": "Expired",
            "message": "the order is invalid", "lastTransitionTime": since}]}})
}

/// Guarantees: a certificate that a caller does not trust is laid to who serves it, as far as that is known.
#[test]
fn an_expired_certificate_is_of_who_serves_it() {
    assert_root(distrusts(), "Deployment", "till", "certificate_expired");

    let mut snapshot = distrusts();
    snapshot.object("Secret", "till-tls", &json!({"type": "kubernetes.io/tls"}));
    assert_root(snapshot, "Secret", "till-tls", "certificate_expired");

    let mut snapshot = distrusts();
    let past = certificate("till", "False", "2026-11-21T20:00:00Z", "2026-11-21T20:00:00Z");
    snapshot.object("Certificate", "till", &past);
    assert_root(snapshot, "Certificate", "till", "certificate_expired");

    // It was renewed: only a new start reads the new one.
    let mut snapshot = distrusts();
    let renewed = certificate("till", "True", "2026-11-21T20:00:00Z", "2027-02-21T20:00:00Z");
    snapshot.object("Certificate", "till", &renewed);
    assert_root(snapshot, "Deployment", "till", "certificate_expired");
}

/// Guarantees: a certificate that is out of date, or not made in a while, is told though nobody says anything, and
/// is why a Secret is not there; one that was just asked for, and one that is well, are not.
#[test]
fn a_certificate_that_is_not_renewed_is_told() {
    for (ready, since, until, pattern) in [
        ("False", "2026-11-21T20:00:00Z", "2026-11-21T20:00:00Z", "certificate_expired"),
        ("False", "2026-11-21T20:00:00Z", "", "D10_certificate_not_issued"),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.object("Certificate", "front", &certificate("front", ready, since, until));
        assert_root(snapshot, "Certificate", "front", pattern);
    }
    let mut snapshot = Snapshot::well();
    snapshot.object("Certificate", "new", &certificate("new", "False", "2099-01-01T00:00:00Z", ""));
    let well = certificate("well", "True", "2026-11-20T20:00:00Z", "2027-02-21T20:00:00Z");
    snapshot.object("Certificate", "well", &well);
    let stories = snapshot.stories();
    assert!(stories.is_empty(), "{stories:#?}");

    let mut snapshot = Snapshot::well();
    snapshot.app(
        "pay",
        &json!({}),
        &super::waiting("CreateContainerConfigError", "secret \"pay-tls\" not found"),
    );
    snapshot.object("Certificate", "pay", &certificate("pay", "False", "2026-11-21T20:00:00Z", ""));
    assert_root(snapshot, "Certificate", "pay", "D10_certificate_not_issued");
}

/// Guarantees: a full disk is the claim's below whose mount it is spoken of, or the only claim's, or the node's that
/// has too little, or else the pod's own; also of who still runs.
#[test]
fn a_full_disk_is_named() {
    let spec = json!({"containers": [{"name": "pay", "image": "pay:1", "volumeMounts": [
        {"name": "d", "mountPath": "/data"}, {"name": "s", "mountPath": "/scratch"}]}],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "pay-data"}},
            {"name": "s", "emptyDir": {"sizeLimit": "1Gi"}}]});
    for (words, kind, name, told) in [
        (
            "write /data/wal: no space left on device",
            "PersistentVolumeClaim",
            "pay-data",
            "claim pay-data",
        ),
        (
            "could not extend file: No space left on device",
            "PersistentVolumeClaim",
            "pay-data",
            "claim pay-data",
        ),
        (
            "write /scratch/x: no space left on device",
            "Deployment",
            "pay",
            "emptyDir of at most 1Gi",
        ),
        ("write /srv/x: no space left on device", "Deployment", "pay", "in no volume"),
    ] {
        let mut snapshot = Snapshot::well();
        snapshot.app("pay", &spec, &crashes(1, "Error", words));
        let stories = snapshot.stories();
        let [story] = &stories[..] else { panic!("{stories:#?}") };
        let (k, n, ..) = root(&stories);
        assert_eq!((&*k, &*n), (kind, name), "{story:#?}");
        assert!(story.title.contains(told), "{}", story.title);
    }
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &spec, &crashes(1, "Error", "write /srv/x: no space left on device"));
    snapshot.object("Node", "node-1", &json!({"status": {"conditions": [{"type": "Ready", "status": "True"},
        {"type": "DiskPressure", "status": "True", "reason": "KubeletHasDiskPressure", "message": "kubelet has disk pressure",
            "lastTransitionTime": "2026-11-21T23:00:00Z"}]}}));
    assert_root(snapshot, "Node", "node-1", "node_disk_pressure");

    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &spec, &Value::Null);
    let words = "could not extend file: No space left on device";
    let record = json!({"severityNumber": 17, "body": {"stringValue": words}});
    snapshot.says(3, "pay", "app", record);
    assert_root(snapshot, "PersistentVolumeClaim", "pay-data", "disk_full");
}

/// Guarantees: a budget that lets no pod go is told where a closed node waits for it, by what was refused or by what
/// is left on the node, and never as if a service were down; else it is not.
#[test]
fn a_budget_that_holds_up_a_drain_is_told() {
    let drain = |closed: bool, said: bool, other: bool| {
        let mut snapshot = Snapshot::default();
        snapshot.object(
            "Node",
            "node-1",
            &json!({"spec": {"unschedulable": closed},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        snapshot.app("pay", &json!({}), &Value::Null);
        if other {
            snapshot.app("cart", &json!({}), &Value::Null);
        }
        snapshot.object("PodDisruptionBudget", "pay", &json!({"spec": {"minAvailable": 1,
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["pay"]}]}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}));
        if said {
            let words = "Cannot evict pod as it would violate the pod's disruption budget.";
            snapshot.event("Pod", "pay-5f4ddbf799-ddmxg", "EvictionBlocked", words);
        }
        snapshot.stories()
    };
    for (closed, said, other, told) in [
        (true, true, true, true),
        (true, false, false, true),
        (true, false, true, false),
        (false, false, false, false),
    ] {
        let stories = drain(closed, said, other);
        let (kind, name, ..) = root(&stories);
        assert_eq!((&*kind, &*name), if told { ("PodDisruptionBudget", "pay") } else { ("", "") });
        assert!(stories.iter().all(|story| story.confidence < 0.6), "{stories:#?}");
    }
}

/// Guarantees: what finalizers keep is told: a pod, a namespace.
#[test]
fn what_finalizers_keep_is_told() {
    let mut snapshot = Snapshot::well();
    snapshot.object("Namespace", "old", &json!({"metadata": {"deletionTimestamp": "2026-11-21T20:00:00Z"},
        "status": {"phase": "Terminating", "conditions": [{"type": "NamespaceFinalizersRemaining", "status": "True",
            "message": "Some content in the namespace has finalizers remaining: example.io/x in 1 resource instances"}]}}));
    assert_root(snapshot, "Namespace", "old", "namespace_terminating");

    let mut snapshot = Snapshot::well();
    snapshot.object("Pod", "lone", &json!({"metadata": {"deletionTimestamp": "2026-11-21T20:00:00Z",
        "finalizers": ["example.io/x"]}, "spec": {"nodeName": "node-1", "containers": [{"name": "a"}]},
        "status": {"phase": "Running"}}));
    assert_root(snapshot, "Pod", "lone", "pod_deletion_blocked");
}

/// Guarantees: what nobody waits for yet is told as well: a rollout that is overdue, runs of a CronJob that are
/// missed, an autoscaler at its most, an Ingress of no class, a Service without its load balancer.
#[test]
fn what_is_overdue_or_at_its_end_is_told() {
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &Value::Null);
    snapshot.object("Pod", "pay-77-x", &json!({"metadata": {"labels": {"app": "pay"}, "ownerReferences": [
        {"kind": "ReplicaSet", "name": "pay-77", "controller": true}]}, "spec": {"nodeName": "node-1", "containers": [{"name": "pay"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}}));
    snapshot.object(
        "ReplicaSet",
        "pay-77",
        &json!({"metadata": {"ownerReferences": [
        {"kind": "Deployment", "name": "pay", "controller": true}]}, "spec": {"replicas": 1}}),
    );
    let template = json!({"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": [{"name": "pay", "image": "pay:1",
        "ports": [{"containerPort": 8080}]}]}});
    snapshot.object("Deployment", "pay", &json!({"spec": {"replicas": 1, "template": template, "selector": {"matchLabels": {"app": "pay"}}},
        "status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "conditions": [{"type": "Progressing", "status": "False",
            "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"pay-77\" has timed out progressing."}]}}));
    assert_root(snapshot, "Deployment", "pay", "rollout_stuck");

    let mut snapshot = Snapshot::well();
    let template = json!({"spec": {"containers": [{"name": "main", "image": "r:1"}]}});
    snapshot.object(
        "CronJob",
        "settle",
        &json!({"spec": {"jobTemplate": {"spec": {"template": template}}},
        "status": {"lastScheduleTime": "2026-11-20T03:00:00Z"}}),
    );
    snapshot.event("CronJob", "settle", "TooManyMissedTimes", "too many missed start times: 120");
    assert_root(snapshot, "CronJob", "settle", "F12_cron_job_missed");

    for (used, told) in [(95, true), (52, false)] {
        let mut snapshot = Snapshot::well();
        snapshot.object("HorizontalPodAutoscaler", "cart", &json!({"spec": {"maxReplicas": 1,
            "scaleTargetRef": {"kind": "Deployment", "name": "cart"},
            "metrics": [{"resource": {"name": "cpu", "target": {"averageUtilization": 50}}}]},
            "status": {"currentMetrics": [{"resource": {"name": "cpu", "current": {"averageUtilization": used}}}],
                "conditions": [{"type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas"}]}}));
        let stories = snapshot.stories();
        assert_eq!(root(&stories).0, if told { "HorizontalPodAutoscaler" } else { "" });
        assert!(stories.iter().all(|story| story.confidence < 0.6), "{stories:#?}");
    }

    let mut snapshot = Snapshot::well();
    snapshot.object("IngressClass", "nginx", &json!({}));
    snapshot.object(
        "Ingress",
        "front",
        &json!({"spec": {"ingressClassName": "ngnix",
        "defaultBackend": {"service": {"name": "cart", "port": {"number": 80}}}}}),
    );
    assert_root(snapshot, "Ingress", "front", "gateway_misroute");

    let mut snapshot = Snapshot::well();
    snapshot.object(
        "Service",
        "edge",
        &json!({"spec": {"type": "LoadBalancer", "selector": {"app": "cart"},
        "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    snapshot.event(
        "Service",
        "edge",
        "SyncLoadBalancerFailed",
        "Error syncing load balancer: quota exceeded",
    );
    assert_root(snapshot, "Service", "edge", "load_balancer_fails");
}

/// Guarantees: a webhook without which nothing is made is named, or who should answer for it; a volume that still
/// holds a claim that went is not taken for a class that is missing.
#[test]
fn who_must_be_asked_and_what_is_held_is_told() {
    let refused = |rest: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = Snapshot::well();
        let said = "Internal error occurred: failed calling webhook \"check.io\": failed to call webhook: Post \"https://guard.shop.svc:443/v\": no endpoints available for service \"guard\"";
        let template = json!({"metadata": {"labels": {"app": "pay"}}, "spec": {"containers": [{"name": "pay", "image": "pay:1"}]}});
        snapshot.object("ValidatingWebhookConfiguration", "guards", &json!({"webhooks": [{"name": "check.io",
            "failurePolicy": "Fail", "clientConfig": {"service": {"name": "guard", "namespace": "shop"}}}]}));
        snapshot.object("Deployment", "pay", &json!({"spec": {"replicas": 1, "template": template},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": said}]}}));
        rest(&mut snapshot);
        snapshot
    };
    assert_root(refused(&|_| {}), "ValidatingWebhookConfiguration", "guards", "webhook_down");
    let snapshot = refused(&|snapshot| {
        let template = json!({"metadata": {"labels": {"app": "guard"}}, "spec": {"containers": [{"name": "guard"}]}});
        let ports = json!([{"port": 443}]);
        snapshot.object(
            "Service",
            "guard",
            &json!({"spec": {"selector": {"app": "guard"}, "ports": ports}}),
        );
        snapshot.object(
            "Deployment",
            "guard",
            &json!({"spec": {"replicas": 0, "template": template}}),
        );
    });
    assert_root(snapshot, "Deployment", "guard", "deployment_zero_replicas");

    let mut snapshot = Snapshot::well();
    snapshot.object("PersistentVolume", "vol-1", &json!({"spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "manual", "claimRef": {"name": "pay-data", "namespace": "shop"}}, "status": {"phase": "Released"}}));
    snapshot.object("PersistentVolumeClaim", "pay-data", &json!({"spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "manual", "resources": {"requests": {"storage": "5Gi"}}}, "status": {"phase": "Pending"}}));
    let spec =
        json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "pay-data"}}]});
    let said = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    snapshot.app("pay", &spec, &unschedulable(said));
    assert_root(snapshot, "PersistentVolumeClaim", "pay-data", "pv_binding_occupied");
}

/// Guarantees: a pod that was made just now need not be ready yet.
#[test]
fn a_pod_made_just_now_is_no_story() {
    for (made, silent) in [("2026-11-20T03:00:00Z", false), ("2099-01-01T00:00:00Z", true)] {
        let mut snapshot = Snapshot::well();
        let mut pod = json!({"metadata": {"creationTimestamp": made, "labels": {"app": "cart"}, "ownerReferences": [
            {"kind": "ReplicaSet", "name": "cart-5f4ddbf799", "controller": true}]}, "spec": {"containers": [{"name": "cart"}]}});
        merge(
            &mut pod,
            &json!({"status": unschedulable("0/3 nodes are available: 3 Insufficient cpu.")}),
        );
        snapshot.object("Pod", "cart-5f4ddbf799-zzzzz", &pod);
        assert_eq!(snapshot.stories().is_empty(), silent, "{made}");
    }
}
