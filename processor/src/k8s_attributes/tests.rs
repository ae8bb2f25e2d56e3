//! Resources of pods of a cluster that was seen, and of pods that were not.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use serde_json::{Value, json};
use tapio_proto::{Metadata, Signal, model::Time};

use super::{K8sAttributes, K8sAttributesConfig};
use crate::{
    attributes::tests::{list, sent_by, text},
    kubernetes::{Cluster, Directory, Verb},
};

fn time(seconds: i64) -> Time {
    Time(1_795_000_000_000_000_000 + seconds * 1_000_000_000)
}

fn pod(name: &str, uid: &str, ip: &str, owner: (&str, &str)) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "creationTimestamp": "2026-11-22T01:00:00Z",
            "labels": {"app": "cart", "app.kubernetes.io/name": "cart-app", "pod-template-hash": "5f4ddbf799"},
            "annotations": {"resource.opentelemetry.io/team": "checkout", "note": "x"},
            "ownerReferences": [{"kind": owner.0, "name": owner.1, "uid": "o-1", "controller": true}],
        },
        "spec": {"nodeName": "n1", "hostname": "h", "containers": [{"name": "cart", "image": "registry:5000/shop/cart:1.2@sha256:ab"}]},
        "status": {
            "podIP": ip, "startTime": "2026-11-22T01:00:05Z", "phase": "Running",
            "containerStatuses": [{
                "name": "cart", "containerID": "containerd://c0ffee", "restartCount": 2,
                "imageID": format!("registry:5000/shop/cart@sha256:{}", "a".repeat(64)),
            }],
        },
    })
}

/// A namespace, a node, and a Deployment with one pod at 10.0.0.1; a Job's pod at 10.0.0.2.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for object in [
        json!({"kind": "Namespace", "metadata": {"name": "shop", "uid": "ns-1", "labels": {"tier": "gold"}}}),
        json!({"kind": "Namespace", "metadata": {"name": "kube-system", "uid": "cluster-1"}}),
        json!({"kind": "Node", "metadata": {"name": "n1", "uid": "node-1", "labels": {"zone": "a"}}}),
        json!({"kind": "Deployment", "metadata": {"name": "cart", "namespace": "shop", "uid": "d-1", "labels": {"owner": "me"}}}),
        json!({"kind": "ReplicaSet", "metadata": {"name": "cart-5f4ddbf799", "namespace": "shop", "uid": "o-1",
            "ownerReferences": [{"kind": "Deployment", "name": "cart", "uid": "d-1", "controller": true}]}}),
        pod("cart-5f4ddbf799-ddmxg", "p-1", "10.0.0.1", ("ReplicaSet", "cart-5f4ddbf799")),
        pod("backup-28123456-abcde", "p-2", "10.0.0.2", ("Job", "backup-28123456")),
    ] {
        cluster.observe(Verb::Added, object, time(0), &mut Vec::new());
    }
    cluster
}

/// The attributes of a resource that had these, as texts.
fn described(
    config: Value,
    cluster: &Cluster,
    resource: &[(&str, Value)],
) -> BTreeMap<String, String> {
    described_of(None, config, cluster, resource)
}

/// The same of a request that came from an address.
fn described_of(
    peer: Option<[u8; 4]>,
    config: Value,
    cluster: &Cluster,
    resource: &[(&str, Value)],
) -> BTreeMap<String, String> {
    let config: K8sAttributesConfig = serde_json::from_value(config).unwrap();
    config.check().unwrap();
    let directory = Arc::new(Directory::default());
    let missed = Arc::new(AtomicU64::new(0));
    let input = json!({"resourceSpans": [{"resource": {"attributes": list(resource)}, "scopeSpans": [{"spans": [{}]}]}]});
    let sender =
        peer.map(|peer| Arc::new(Metadata { peer: Some(peer.into()), ..Metadata::default() }));
    let out = sent_by(sender, Signal::Traces, input, |next| {
        let processor = K8sAttributes::new(&config, directory.clone(), missed, next).unwrap();
        directory.refresh(cluster, time(0));
        Arc::new(processor)
    });
    let attributes = out["resourceSpans"][0]["resource"]["attributes"].as_array().cloned();
    let value = |value: &Value| match value["stringValue"].as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    attributes
        .unwrap_or_default()
        .iter()
        .map(|a| (a["key"].as_str().unwrap().to_owned(), value(&a["value"])))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_default_attributes_of_a_pod_found_by_its_address() {
    let found = described(json!({}), &cluster(), &[("k8s.pod.ip", text("10.0.0.1"))]);
    let expected = [
        ("container.image.name", "registry:5000/shop/cart"),
        ("container.image.tag", "1.2"),
        ("k8s.deployment.name", "cart"),
        ("k8s.namespace.name", "shop"),
        ("k8s.node.name", "n1"),
        ("k8s.pod.ip", "10.0.0.1"),
        ("k8s.pod.name", "cart-5f4ddbf799-ddmxg"),
        ("k8s.pod.start_time", "2026-11-22T01:00:00Z"),
        ("k8s.pod.uid", "p-1"),
    ];
    assert_eq!(found, pairs(&expected));
}

#[test]
fn every_attribute_of_the_collectors_list_is_served() {
    let metadata = json!([
        "k8s.pod.hostname",
        "k8s.replicaset.name",
        "k8s.replicaset.uid",
        "k8s.deployment.uid",
        "k8s.node.uid",
        "k8s.cluster.uid",
        "k8s.container.name",
        "container.id",
        "container.image.repo_digests",
        "service.name",
        "service.namespace",
        "service.version",
        "service.instance.id",
    ]);
    let found = described(
        json!({"extract": {"metadata": metadata}}),
        &cluster(),
        &[("k8s.pod.uid", text("p-1"))],
    );
    let digest = format!(
        "{{\"arrayValue\":{{\"values\":[{{\"stringValue\":\"registry:5000/shop/cart@sha256:{}\"}}]}}}}",
        "a".repeat(64)
    );
    let expected = [
        ("container.id", "c0ffee"),
        ("container.image.repo_digests", digest.as_str()),
        ("k8s.cluster.uid", "cluster-1"),
        ("k8s.container.name", "cart"),
        ("k8s.deployment.uid", "d-1"),
        ("k8s.node.uid", "node-1"),
        ("k8s.pod.hostname", "h"),
        ("k8s.pod.uid", "p-1"),
        ("k8s.replicaset.name", "cart-5f4ddbf799"),
        ("k8s.replicaset.uid", "o-1"),
        ("service.instance.id", "shop.cart-5f4ddbf799-ddmxg.cart"),
        ("service.name", "cart-app"),
        ("service.namespace", "shop"),
        ("service.version", "1.2@sha256:ab"),
    ];
    assert_eq!(found, pairs(&expected));

    let of_a_job = described(
        json!({"extract": {"metadata": ["k8s.job.name", "k8s.job.uid", "k8s.cronjob.name"]}}),
        &cluster(),
        &[("container.id", text("c0ffee")), ("k8s.pod.uid", text("p-2"))],
    );
    assert_eq!(of_a_job["k8s.job.name"], "backup-28123456");
    assert_eq!(of_a_job["k8s.job.uid"], "o-1");
    assert_eq!(of_a_job["k8s.cronjob.name"], "backup");
}

#[test]
fn labels_and_annotations_of_the_pod_and_of_what_is_around_it() {
    let config = json!({"extract": {
        "metadata": [],
        "labels": [
            {"key": "app"},
            {"key": "app", "tag_name": "application"},
            {"key_regex": "app.kubernetes.io/(.*)", "tag_name": "$1"},
            {"key": "tier", "from": "namespace"},
            {"key_regex": "zo.*", "from": "node"},
            {"key": "owner", "from": "deployment"},
            {"key": "none"},
        ],
        "annotations": [{"key": "note", "tag_name": "note", "from": "pod"}],
        "otel_annotations": true,
    }});
    let found = described(config, &cluster(), &[("k8s.pod.uid", text("p-1"))]);
    let expected = [
        ("application", "cart"),
        ("k8s.deployment.label.owner", "me"),
        ("k8s.namespace.labels.tier", "gold"),
        ("k8s.node.labels.zone", "a"),
        ("k8s.pod.labels.app", "cart"),
        ("k8s.pod.uid", "p-1"),
        ("name", "cart-app"),
        ("note", "x"),
        ("team", "checkout"),
    ];
    assert_eq!(found, pairs(&expected));
}

#[test]
fn what_a_resource_says_already_is_right() {
    let found = described(
        json!({"extract": {"metadata": ["k8s.node.name", "k8s.deployment.name"]}}),
        &cluster(),
        &[
            ("k8s.pod.ip", text("10.0.0.1")),
            ("k8s.node.name", text("mine")),
            ("k8s.deployment.name", text("")),
        ],
    );
    assert_eq!(found["k8s.node.name"], "mine");
    assert_eq!(found["k8s.deployment.name"], "cart");
}

#[test]
fn pods_are_found_by_the_first_association_that_applies() {
    let config = json!({
        "extract": {"metadata": ["k8s.pod.uid"]},
        "pod_association": [
            {"sources": [{"from": "resource_attribute", "name": "k8s.pod.ip"}]},
            {"sources": [{"from": "resource_attribute", "name": "k8s.pod.name"}, {"from": "resource_attribute", "name": "k8s.namespace.name"}]},
            {"sources": [{"from": "resource_attribute", "name": "container.id"}]},
            {"sources": [{"from": "connection"}]},
        ],
    });
    let uid = |resource: &[(&str, &str)]| {
        let resource: Vec<_> = resource.iter().map(|(key, value)| (*key, text(value))).collect();
        described(config.clone(), &cluster(), &resource).remove("k8s.pod.uid")
    };
    let name = ("k8s.pod.name", "cart-5f4ddbf799-ddmxg");
    assert_eq!(uid(&[("k8s.pod.ip", "10.0.0.2")]).as_deref(), Some("p-2"));
    assert_eq!(uid(&[name, ("k8s.namespace.name", "shop")]).as_deref(), Some("p-1"));
    assert_eq!(uid(&[name, ("k8s.namespace.name", "other")]), None);
    assert_eq!(uid(&[("k8s.pod.ip", "10.0.0.9"), ("container.id", "c0ffee")]), None);
    assert_eq!(uid(&[("host.name", "10.0.0.1")]), None);
    let default = described(
        json!({"extract": {"metadata": ["k8s.pod.uid"]}}),
        &cluster(),
        &[("host.name", text("10.0.0.1"))],
    );
    assert_eq!(default["k8s.pod.uid"], "p-1");
}

#[test]
fn a_pod_is_found_by_the_address_that_its_request_came_from() {
    let of = |config: Value, resource: &[(&str, Value)]| {
        described_of(Some([10, 0, 0, 1]), config, &cluster(), resource)
    };
    let metadata = json!({"metadata": ["k8s.pod.uid", "k8s.pod.ip"]});
    let expected = pairs(&[("k8s.pod.ip", "10.0.0.1"), ("k8s.pod.uid", "p-1")]);
    assert_eq!(of(json!({"extract": metadata}), &[]), expected);
    let by_connection = json!([
        {"sources": [{"from": "resource_attribute", "name": "k8s.pod.ip"}]},
        {"sources": [{"from": "connection"}]},
    ]);
    let config = json!({"extract": metadata, "pod_association": by_connection});
    assert_eq!(of(config.clone(), &[]), expected);
    let other = of(config, &[("k8s.pod.ip", text("10.0.0.2"))]);
    assert_eq!(other["k8s.pod.uid"], "p-2");

    let passed = of(json!({"passthrough": true}), &[("host", text("h"))]);
    assert_eq!(passed, pairs(&[("host", "h"), ("k8s.pod.ip", "10.0.0.1")]));
}

#[test]
fn pods_that_are_filtered_out_are_not_spoken_of() {
    let uid = |config: Value| {
        let mut config = config;
        config["extract"] = json!({"metadata": ["k8s.pod.name"]});
        described(config, &cluster(), &[("k8s.pod.ip", text("10.0.0.1"))])
            .contains_key("k8s.pod.name")
    };
    assert!(uid(json!({"filter": {"namespace": "shop", "node": "n1"}})));
    assert!(!uid(json!({"filter": {"namespace": "other"}})));
    assert!(!uid(json!({"filter": {"node": "n2"}})));
    assert!(uid(
        json!({"filter": {"labels": [{"key": "app", "value": "cart"}, {"key": "x", "op": "does-not-exist"}]}})
    ));
    assert!(!uid(
        json!({"filter": {"labels": [{"key": "app", "value": "cart", "op": "not-equals"}]}})
    ));
    assert!(!uid(json!({"filter": {"fields": [{"key": "status.phase", "value": "Failed"}]}})));
    assert!(!uid(json!({"exclude": {"pods": [{"name": "^cart-"}]}})));
}

/// Scenario: Tapio has not seen the pod, nor any object.
/// Guarantees: what the resource says itself is used; nothing is made up.
#[test]
fn an_unknown_pod_is_described_by_what_its_resource_says() {
    let config = json!({"extract": {
        "metadata": ["k8s.pod.name", "k8s.deployment.name", "service.namespace"],
        "deployment_name_from_replicaset": true,
    }});
    let found = described(
        config,
        &Cluster::default(),
        &[("k8s.namespace.name", text("shop")), ("k8s.replicaset.name", text("cart-5f4ddbf799"))],
    );
    assert_eq!(
        found,
        pairs(&[
            ("k8s.deployment.name", "cart"),
            ("k8s.namespace.name", "shop"),
            ("k8s.replicaset.name", "cart-5f4ddbf799"),
            ("service.namespace", "shop"),
        ])
    );
}

/// Scenario: a pod is deleted, and another one gets its address.
/// Guarantees: the address is the new one's; what the old one still sends is known by its uid for two minutes.
#[test]
fn an_address_belongs_to_the_pod_that_is_there() {
    let mut cluster = cluster();
    let old = pod("cart-5f4ddbf799-ddmxg", "p-1", "10.0.0.1", ("ReplicaSet", "cart-5f4ddbf799"));
    cluster.observe(Verb::Deleted, old, time(10), &mut Vec::new());
    let uid = |cluster: &Cluster, key, value: &str| {
        let config = json!({"extract": {"metadata": ["k8s.pod.uid", "k8s.node.name"]}});
        described(config, cluster, &[(key, text(value))])
    };
    assert_eq!(uid(&cluster, "k8s.pod.ip", "10.0.0.1")["k8s.pod.uid"], "p-1");
    let new = pod("web-1", "p-3", "10.0.0.1", ("StatefulSet", "web"));
    cluster.observe(Verb::Added, new, time(11), &mut Vec::new());
    assert_eq!(uid(&cluster, "k8s.pod.ip", "10.0.0.1")["k8s.pod.uid"], "p-3");
    assert_eq!(uid(&cluster, "k8s.pod.uid", "p-1")["k8s.node.name"], "n1");

    let later = crate::kubernetes::Snapshot::of(&cluster, time(200));
    assert!(later.by_uid("p-1").is_none() && later.by_uid("p-3").is_some());
}

#[test]
fn what_cannot_work_or_be_served_is_said() {
    let check = |config: Value| {
        let config: K8sAttributesConfig = serde_json::from_value(config).unwrap();
        config.check().unwrap_err()
    };
    assert_eq!(check(json!({"auth_type": "magic"})), "invalid authType for kubernetes: magic");
    assert_eq!(
        check(json!({"extract": {"metadata": ["k8s.pod.color"]}})),
        "\"k8s.pod.color\" is not a supported metadata field"
    );
    assert_eq!(
        check(json!({"extract": {"labels": [{"key": "a", "from": "moon"}]}})),
        "moon is not a valid choice for From. Must be one of: pod, namespace, deployment, statefulset, daemonset, job, node"
    );
    assert_eq!(
        check(json!({"extract": {"labels": [{"key": "a", "key_regex": "b"}]}})),
        "Out of Key or KeyRegex only one option is expected to be configured at a time, currently Key:a and KeyRegex:b"
    );
    assert_eq!(
        check(json!({"filter": {"labels": [{"key": "a", "value": "b", "op": "like"}]}})),
        "'like' is not a valid label filter operation for key=a, value=b"
    );
    assert_eq!(
        check(json!({"filter": {"node_from_env_var": "TAPIO_TEST_NOT_SET"}})),
        "filter: `node_from_env_var` is configured but envvar \"TAPIO_TEST_NOT_SET\" is not set"
    );
    let unserved = |config: Value| {
        let config: K8sAttributesConfig = serde_json::from_value(config).unwrap();
        config.unserved().unwrap_or_default()
    };
    assert_eq!(unserved(json!({})), "");
    let by = |from: &str, name: &str| {
        unserved(
            json!({"pod_association": [{"sources": [{"from": from, "name": name}]}], "wait_for_metadata": true}),
        )
    };
    assert!(by("connection", "").starts_with("'wait_for_metadata'"));
    assert!(by("resource_attribute", "app").contains("by app (no way to a pod)"));
    let usual = json!([{"sources": [{"from": "resource_attribute", "name": "k8s.pod.name"}, {"from": "resource_attribute", "name": "k8s.namespace.name"}]}]);
    assert_eq!(unserved(json!({"pod_association": usual})), "");
    assert!(by("resource_attribute", "k8s.pod.uid").starts_with("'wait_for_metadata'"));
}
