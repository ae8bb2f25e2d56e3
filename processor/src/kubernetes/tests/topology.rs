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
