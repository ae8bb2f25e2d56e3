//! NetworkPolicies as Kubernetes reads them: all that speak of a pod together, with all that a selector can ask.

use serde_json::{Value, json};

use super::{Snapshot, assert_root, root};

/// Who complains, `cart`, is not answered by `pay`, where these policies are; `tier` is a label of the namespace.
fn unanswered(tier: Option<&str>, policies: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::well();
    snapshot.app("pay", &json!({}), &Value::Null);
    if let Some(tier) = tier {
        snapshot.object("Namespace", "shop", &json!({"metadata": {"labels": {"tier": tier}}}));
    }
    for (nth, spec) in policies.iter().enumerate() {
        snapshot.object("NetworkPolicy", &format!("policy-{nth}"), &json!({"spec": spec}));
    }
    let record = json!({"severityNumber": 17, "body": {"stringValue": "call to pay failed: dial tcp: i/o timeout"}});
    snapshot.says(3, "cart", "app", record);
    snapshot.alert(5, "cart");
    snapshot
}

fn into(rule: &Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "pay"}}, "ingress": [rule]})
}

fn out_to(rule: &Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Egress"], "egress": [rule]})
}

fn expression(operator: &str, values: &Value) -> Value {
    json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}})
}

/// Guarantees: a policy that keeps a caller out is told by whatever it asks for: expressions, namespaces, addresses,
/// ports, and what may go out.
#[test]
fn a_policy_that_keeps_a_caller_out_is_told_by_all_that_it_asks() {
    let namespace = |selector: &Value| json!({"from": [{"namespaceSelector": selector}]});
    let named =
        json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["bank"]}]);
    for (tier, spec) in [
        (None, into(&json!({"from": [expression("In", &json!(["mail", "search"]))]}))),
        (None, into(&json!({"from": [expression("NotIn", &json!(["cart"]))]}))),
        (None, into(&json!({"from": [expression("DoesNotExist", &json!([]))]}))),
        (Some("front"), into(&namespace(&json!({"matchLabels": {"tier": "core"}})))),
        (None, into(&namespace(&json!({"matchExpressions": named})))),
        (None, into(&json!({"from": [{"ipBlock": {"cidr": "192.168.0.0/16"}}]}))),
        (
            None,
            into(
                &json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/24"]}}]}),
            ),
        ),
        (None, into(&json!({"from": [{"podSelector": {}}], "ports": [{"port": 80}]}))),
        (None, into(&json!({"ports": [{"port": 8080, "protocol": "UDP"}]}))),
        (None, out_to(&json!({"to": [expression("In", &json!(["mail"]))]}))),
        (None, out_to(&json!({"ports": [{"port": 5000, "endPort": 6000}]}))),
    ] {
        let (kind, name, _, pattern) =
            root(&unanswered(tier, std::slice::from_ref(&spec)).stories());
        assert_eq!(
            (&*kind, &*name, &*pattern),
            ("NetworkPolicy", "policy-0", "network_policy_blocks"),
            "{spec}"
        );
    }
    let (deny, others) = (
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
        into(&json!({"from": [
        {"podSelector": {"matchLabels": {"app": "mail"}}}]})),
    );
    let snapshot = unanswered(None, &[deny, others]);
    assert_root(snapshot, "NetworkPolicy", "policy-1", "network_policy_blocks");
}

/// Guarantees: a policy that lets the caller in, or may, is not told; nor is one beside which another lets it in.
#[test]
fn a_policy_that_lets_a_caller_in_or_may_is_not_told() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let unspoken = json!({"podSelector": {"matchExpressions": [
        {"key": "app", "operator": "NotIn", "values": ["pay"]}]}, "policyTypes": ["Ingress"]});
    for (tier, policies) in [
        (None, vec![into(&json!({"from": [expression("NotIn", &json!(["mail"]))]}))]),
        (None, vec![into(&json!({"from": [expression("Exists", &json!([]))]}))]),
        (
            Some("core"),
            vec![into(
                &json!({"from": [{"namespaceSelector": {"matchLabels": {"tier": "core"}}}]}),
            )],
        ),
        (
            None,
            vec![into(
                &json!({"from": [{"namespaceSelector": {"matchLabels": {"tier": "core"}}}]}),
            )],
        ),
        (None, vec![into(&json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}))]),
        (None, vec![into(&json!({"ports": [{"port": 8000, "endPort": 9000}]}))]),
        (
            None,
            vec![deny, into(&json!({"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}]}))],
        ),
        (None, vec![unspoken]),
        (None, vec![out_to(&json!({"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}))]),
    ] {
        let (kind, name, ..) = root(&unanswered(tier, &policies).stories());
        assert_ne!(kind, "NetworkPolicy", "{name} of {policies:?}");
    }
}
