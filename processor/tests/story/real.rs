//! Faults made on a real cluster: each is told as what it is, and a change that harms nobody is not told.

use crate::{only, played::whole};

fn told(recording: &str, (kind, name, pattern): (&str, &str, &str), affected: &[&str]) {
    let played = whole(recording);
    let (story, _) = only(&played.stories);
    let root = story.root_cause.as_ref().unwrap();
    let blamed = (root.kind.as_str(), root.name.as_str(), root.pattern.as_str());
    assert_eq!(blamed, (kind, name, pattern), "{story:?}");
    assert!(story.confidence >= 0.7, "{story:?}");
    assert_eq!(story.affected.services, affected);
    for telling in &played.tellings {
        let told = telling.story().0;
        let root = told.root_cause.as_ref().map(|root| root.name.as_str());
        assert!(root == Some(name) || told.confidence < 0.7, "told before: {told:?}");
    }
}

/// Guarantees: a pool that was made too small is told as that, through clients that pass its error on.
#[test]
fn a_smaller_pool_is_told() {
    let affected = ["inventory", "catalog", "checkout", "frontend"];
    told("pool-shrunk", ("ConfigMap", "inventory-pool", "pool_shrunk"), &affected);
}

/// Guarantees: a database without spans that was scaled to zero is told, not the pool of its client.
#[test]
fn a_database_that_is_gone_is_told() {
    let affected = ["inventory-db", "inventory", "catalog", "checkout", "frontend"];
    told("database-gone", ("StatefulSet", "inventory-db", "scaled_to_zero"), &affected);
}

/// Guarantees: a host that does not exist is told from what the service logs of it.
#[test]
fn a_wrong_host_is_told() {
    told("wrong-host", ("Deployment", "checkout", "wrong_endpoint"), &["checkout", "frontend"]);
}

/// Guarantees: a node that was closed is told as the cause of all pods that wait for it.
#[test]
fn a_closed_node_is_told() {
    let affected = ["checkout", "payment", "frontend"];
    told("node-closed", ("Node", "rig-node", "node_closed"), &affected);
}

/// Guarantees: who took the place of pods of a lower priority is told, not those that had to go.
#[test]
fn who_preempts_is_told() {
    told("preempted", ("Deployment", "cruncher", "displaced"), &["cart"]);
}

/// Guarantees: pods that are not replaced are told though no object says so: whoever would write it is down.
#[test]
fn pods_that_nothing_replaces_are_told() {
    let affected = ["payment", "checkout", "frontend"];
    told("not-replaced", ("Deployment", "payment", "pods_not_replaced"), &affected);
}

/// Guarantees: what does more than it did, because somebody wanted it to, is no story.
#[test]
fn a_feature_that_is_switched_on_is_no_story() {
    let played = whole("feature-on");
    for telling in &played.tellings {
        let (story, _) = telling.story();
        assert!(story.confidence < 0.4, "{} ({})", story.title, story.confidence);
    }
}
