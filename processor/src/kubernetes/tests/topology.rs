//! How objects hang together.

use serde_json::json;
use tapio_proto::model::{Entity, Relation};

use super::{
    super::{Fact, Verb},
    Test, deployment, object, pod,
};

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
        .upstream(&cart, &test.0.carriers())
        .iter()
        .map(|(relation, entity)| format!("{} {}", relation.name(), entity))
        .collect();
    for expected in [
        "owns Deployment shop/cart",
        "uses_config ConfigMap shop/pool",
        "uses_config_at_start ConfigMap shop/telemetry",
        "uses_secret_at_start Secret shop/bank",
        "uses_secret_at_start Secret shop/registry",
        "uses_secret_at_start Secret shop/tls",
        "uses_secret_at_start ServiceAccount shop/carter",
        "mounts PersistentVolumeClaim shop/disk",
    ] {
        assert!(upstream.iter().any(|told| told == expected), "{expected} is not in {upstream:?}");
    }
    assert!(!test.0.exists(&Entity::new("Secret", "shop", "bank")));
}

#[test]
fn rules_bear_on_the_workloads_that_they_are_about() {
    let hook = json!({"webhooks": [{
        "clientConfig": {"service": {"namespace": "guard", "name": "gate"}},
        "rules": [{"apiGroups": [""], "resources": ["pods"]}],
    }]});
    let of_others =
        json!({"webhooks": [{"rules": [{"apiGroups": ["apps"], "resources": ["deployments"]}]}]});
    let binding = |account: &str| {
        let subject = json!({"kind": "ServiceAccount", "namespace": "shop", "name": account});
        json!({"subjects": [subject], "roleRef": {"kind": "ClusterRole", "name": "view"}})
    };
    let filters = |app: &str| json!({"spec": {"podSelector": {"matchLabels": {"app": app}}}});
    let anywhere = |kind: &str, name: &str, rest: serde_json::Value| {
        let mut object = object(kind, name, 1, "01:00:00", rest);
        object["metadata"].as_object_mut().unwrap().remove("namespace");
        object
    };
    let rules = || {
        vec![
            anywhere("ValidatingWebhookConfiguration", "gate", hook.clone()),
            anywhere("MutatingWebhookConfiguration", "others", of_others.clone()),
            anywhere("ClusterRoleBinding", "reads", binding("carter")),
            anywhere("ClusterRoleBinding", "others-read", binding("other")),
            object("NetworkPolicy", "closed", 1, "01:00:00", filters("cart")),
            object("NetworkPolicy", "others-closed", 1, "01:00:00", filters("other")),
        ]
    };
    let cart = || deployment(2, "01:00:00", ("True", 1), json!({"app": "cart"}));
    let rules_first = rules().into_iter().chain([cart()]).collect::<Vec<_>>();
    let rules_last = [cart()].into_iter().chain(rules()).collect::<Vec<_>>();
    for order in [rules_first, rules_last] {
        let mut test = Test::new();
        let mut begun: Vec<String> = Vec::new();
        for object in order {
            let facts = test.see(Verb::Listed, object, "03:00:00");
            begun.extend(facts.iter().filter_map(|fact| match fact {
                Fact::EdgeBegin(relation, from, to, _) => {
                    Some(format!("{from} {} {to}", relation.name()))
                }
                _ => None,
            }));
        }
        begun.retain(|edge| !edge.contains(" uses_") && !edge.contains(" mounts "));
        begun.sort();
        assert_eq!(
            begun,
            [
                "ClusterRole view grants ClusterRoleBinding others-read",
                "ClusterRole view grants ClusterRoleBinding reads",
                "ClusterRoleBinding reads grants Deployment shop/cart",
                "NetworkPolicy shop/closed filters Deployment shop/cart",
                "Service guard/gate admits ValidatingWebhookConfiguration gate",
                "ValidatingWebhookConfiguration gate admits Deployment shop/cart",
            ]
        );
        let opened = object("NetworkPolicy", "closed", 2, "03:01:00", filters("other"));
        let facts = test.see(Verb::Modified, opened, "03:01:00");
        assert!(facts.iter().any(|fact| matches!(fact, Fact::EdgeEnd(Relation::Filters, ..))));
        let gone = anywhere("ClusterRoleBinding", "reads", binding("carter"));
        let facts = test.see(Verb::Deleted, gone, "03:02:00");
        let ended = facts.iter().filter(|fact| matches!(fact, Fact::EdgeEnd(Relation::Grants, ..)));
        assert_eq!(ended.count(), 2);
    }
}

#[test]
fn the_resolver_bears_on_all_whose_pods_ask_it() {
    let dns = || {
        let mut dns = object("Service", "kube-dns", 1, "01:00:00", json!({"spec": {}}));
        dns["metadata"]["namespace"] = json!("kube-system");
        dns
    };
    let resolves = |facts: &[Fact]| {
        facts.iter().any(|fact| matches!(fact, Fact::EdgeBegin(Relation::Resolves, ..)))
    };
    let cart = || deployment(2, "01:00:00", ("True", 1), json!({"app": "cart"}));
    let mut test = Test::new();
    test.see(Verb::Listed, cart(), "03:00:00");
    assert!(resolves(&test.see(Verb::Listed, dns(), "03:00:00")));
    let mut of_node = cart();
    of_node["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let mut test = Test::new();
    test.see(Verb::Listed, dns(), "03:00:00");
    assert!(!resolves(&test.see(Verb::Listed, of_node, "03:00:00")));
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
