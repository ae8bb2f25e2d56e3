//! Whether a change of a NetworkPolicy takes a way from anybody: policies only ever allow, so that one more
//! caller in a rule, or one more policy beside others, takes nothing, whatever fails a little later.

use std::collections::BTreeSet;

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    becomes, links,
    objects::{Object, Objects, pod_template},
    value::{at, list, plain, text},
};

/// Most pairs of workloads that are looked at; beyond them nothing is said.
const MAX_PAIRS: usize = 200_000;
/// The label that every namespace has: its name.
const NAME: &str = "kubernetes.io/metadata.name";
/// A side of a policy: its field, the peers in its rules, its type.
pub(super) type Side = (&'static str, &'static str, &'static str);
/// Both sides.
pub(super) const SIDES: [Side; 2] = [("ingress", "from", "Ingress"), ("egress", "to", "Egress")];

/// What policies let pass become with a change of one of them: `less` where some workload, or the world, loses
/// a way that it had, `more` where nobody does, nothing where no workload is known that it holds for.
pub(super) fn direction(
    objects: &Objects,
    policy: &Entity,
    before: Option<&Value>,
    after: Option<&Value>,
) -> &'static str {
    let namespace = &*policy.namespace;
    let others: Vec<&Value> = objects
        .of("NetworkPolicy", namespace)
        .filter(|(other, _)| *other != policy)
        .map(|(_, object)| &*object.value)
        .collect();
    let with = |one: Option<&'_ Value>| -> Vec<Value> {
        others.iter().copied().chain(one).cloned().collect()
    };
    let (was, is) = (with(before), with(after));
    let (mut met, mut pairs) = (false, 0);
    for (_, object) in objects.workloads(namespace) {
        let labels = labels(object);
        let held = |policy: Option<&Value>| policy.is_some_and(|policy| holds(policy, labels));
        if !held(before) && !held(after) {
            continue;
        }
        met = true;
        let peers = objects.all_workloads().map(|(peer, object)| Peer::new(objects, peer, object));
        for peer in peers.chain([Peer::world()]) {
            for side in SIDES {
                let had = ways(&was, namespace, labels, &peer, side);
                let has = ways(&is, namespace, labels, &peer, side);
                if had.iter().any(|way| !covers(&has, way)) {
                    return becomes::LESS;
                }
            }
            pairs += 1;
            if pairs > MAX_PAIRS {
                return "";
            }
        }
    }
    if met { becomes::MORE } else { "" }
}

/// Who is at the other end.
struct Peer<'a> {
    namespace: &'a str,
    /// Its namespace's labels, where that is known.
    of_namespace: Option<&'a Value>,
    labels: Option<&'a Value>,
    inside: bool,
}

impl<'a> Peer<'a> {
    fn new(objects: &'a Objects, workload: &'a Entity, object: &'a Object) -> Self {
        let namespace = objects.alive(&Entity::new("Namespace", "", &workload.namespace));
        Peer {
            namespace: &workload.namespace,
            of_namespace: namespace
                .map(|object| at(&object.value, &["metadata", "labels"]).unwrap_or(&Value::Null)),
            labels: labels(object),
            inside: true,
        }
    }

    /// Somebody who is no pod of this cluster.
    fn world() -> Self {
        Peer { namespace: "", of_namespace: None, labels: None, inside: false }
    }
}

fn labels(object: &Object) -> Option<&Value> {
    let kind = text(&object.value, &["kind"]);
    pod_template(kind, &object.value).and_then(|(labels, _)| labels)
}

/// Does a policy speak of pods of these labels?
pub(super) fn holds(policy: &Value, labels: Option<&Value>) -> bool {
    at(policy, &["spec", "podSelector"]).is_none_or(|selector| links::chosen(selector, labels))
}

/// Does a policy say anything of this side?
pub(super) fn speaks(policy: &Value, (field, _, kind): (&str, &str, &str)) -> bool {
    let types = list(policy, &["spec", "policyTypes"]);
    if types.is_empty() {
        return kind == "Ingress" || !list(policy, &["spec", field]).is_empty();
    }
    types.iter().any(|of| of.as_str() == Some(kind))
}

/// The ways that policies leave between pods of these labels and a peer: ports, `*` for all; of addresses
/// with the block, since it is not known who is in it.
fn ways(
    policies: &[Value],
    namespace: &str,
    labels: Option<&Value>,
    peer: &Peer<'_>,
    side: (&str, &str, &str),
) -> BTreeSet<String> {
    let here = |policy: &&Value| speaks(policy, side) && holds(policy, labels);
    let mut of_it = policies.iter().filter(here).peekable();
    if of_it.peek().is_none() {
        return BTreeSet::from(["*".to_owned()]);
    }
    let mut ways = BTreeSet::new();
    for rule in of_it.flat_map(|policy| list(policy, &["spec", side.0])) {
        let ports = list(rule, &["ports"]).iter().map(|port| {
            format!("{}/{}", at(port, &["port"]).map(plain).unwrap_or_default(), end(port))
        });
        let ports: Vec<String> = ports.collect();
        let ports = if ports.is_empty() { vec!["*".to_owned()] } else { ports };
        let peers = list(rule, &[side.1]);
        if peers.is_empty() || peers.iter().any(|of| admits(of, namespace, peer)) {
            ways.extend(ports.iter().cloned());
        }
        for block in peers.iter().filter_map(|of| at(of, &["ipBlock"])) {
            ways.extend(ports.iter().map(|port| format!("{port} {}", plain(block))));
        }
    }
    ways
}

fn end(port: &Value) -> String {
    let of = |field| at(port, &[field]).map(plain).unwrap_or_default();
    format!("{}/{}", of("endPort"), of("protocol"))
}

/// Is a way among these, or does one of them hold for more?
fn covers(ways: &BTreeSet<String>, way: &str) -> bool {
    let port = way.split(' ').next().unwrap_or_default();
    ways.contains("*") || ways.contains(way) || ways.contains(port)
}

/// Is this peer one whom an entry of a rule names? Addresses are looked at as ways of their own.
fn admits(of: &Value, namespace: &str, peer: &Peer<'_>) -> bool {
    if !peer.inside || at(of, &["ipBlock"]).is_some() {
        return false;
    }
    let pods = at(of, &["podSelector"]);
    let right_namespace = match at(of, &["namespaceSelector"]) {
        None => peer.namespace == namespace,
        Some(selector) => may_mean(selector, peer.namespace, peer.of_namespace),
    };
    right_namespace && pods.is_none_or(|selector| links::chosen(selector, peer.labels))
}

/// May a selector mean this namespace? Of one whose labels are not known only the name is.
pub(super) fn may_mean(selector: &Value, namespace: &str, labels: Option<&Value>) -> bool {
    let mut all = labels.and_then(Value::as_object).cloned().unwrap_or_default();
    all.entry(NAME.to_owned()).or_insert_with(|| namespace.into());
    links::may_choose(selector, &all, &|key| labels.is_some() || key == NAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use tapio_proto::model::Time;

    use super::*;
    use crate::kubernetes::{Cluster, Fact, Verb};

    fn policy(name: &str, ingress: Value) -> Value {
        json!({"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "data", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podSelector": {"matchLabels": {"app": "pg"}}, "policyTypes": ["Ingress"], "ingress": ingress}})
    }

    fn caller(app: &str) -> Value {
        json!([{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}]}])
    }

    /// What the newest of these changes of policies is told to become; `pg` runs in `data`, who asks in `shop`.
    fn told(changes: &[(Verb, Value)]) -> String {
        let mut cluster = Cluster::default();
        let mut out = Vec::new();
        let start = Time::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        for (namespace, app) in [("data", "pg"), ("shop", "web"), ("shop", "jobs")] {
            let workload = json!({"kind": "Deployment", "metadata": {"name": app, "namespace": namespace},
                "spec": {"template": {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "a"}]}}}});
            cluster.observe(Verb::Listed, workload, start, &mut out);
        }
        for (nth, (verb, value)) in changes.iter().enumerate() {
            let at = start + std::time::Duration::from_secs(1 + nth as u64);
            cluster.observe(*verb, value.clone(), at, &mut out);
        }
        let rows = out.into_iter().rev().find_map(|fact| match fact {
            Fact::Change(rows) => Some(rows),
            _ => None,
        });
        rows.unwrap().pop().unwrap().becomes
    }

    /// Guarantees: a policy is told to take something only if some workload, or the world, loses a way that it
    /// had: one more caller, and one more policy where there is one already, take nothing.
    #[test]
    fn a_policy_takes_something_only_where_somebody_loses_a_way() {
        let (web, both) = (caller("web"), json!([caller("web")[0], caller("jobs")[0]]));
        let add = |value: &Value| (Verb::Added, policy("pg", value.clone()));
        let modify = |value: &Value| (Verb::Modified, policy("pg", value.clone()));
        assert_eq!(told(&[add(&json!([]))]), "less");
        assert_eq!(told(&[add(&web)]), "less");
        assert_eq!(told(&[add(&json!([{}]))]), "more");
        assert_eq!(told(&[add(&web), modify(&both)]), "more");
        assert_eq!(told(&[add(&both), modify(&web)]), "less");
        let other = (Verb::Added, policy("other", caller("jobs")));
        assert_eq!(told(&[add(&web), other.clone()]), "more");
        assert_eq!(told(&[add(&web), other, (Verb::Deleted, policy("pg", web.clone()))]), "less");
        assert_eq!(told(&[add(&web), (Verb::Deleted, policy("pg", web.clone()))]), "more");
        let port =
            |port: u16| json!([{"from": caller("web")[0]["from"], "ports": [{"port": port}]}]);
        assert_eq!(told(&[add(&port(5432)), modify(&port(5433))]), "less");
        assert_eq!(told(&[add(&port(5432)), modify(&web)]), "more");
        let block = |cidr: &str| json!([{"from": [{"ipBlock": {"cidr": cidr}}]}]);
        assert_eq!(told(&[add(&block("10.0.0.0/8")), modify(&block("10.1.0.0/16"))]), "less");
    }
}
