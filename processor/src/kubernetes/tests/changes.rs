//! What is somebody's change, and what is not.

use serde_json::{Value, json};
use tapio_proto::model::Entity;

use super::{
    super::{Fact, Verb},
    Test, at, changes, object,
};

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
