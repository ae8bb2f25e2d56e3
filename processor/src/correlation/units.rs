//! Units of systemd that failed on a node, against the workloads that run there.

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::model::{Entity, Relation, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    rows::State,
    suspects::Graph,
    weights::weights,
};
use crate::kubernetes::Cluster;

/// Services whose nodes are remembered, and nodes of each.
const MOST: usize = 20_000;
const MOST_NODES: usize = 16;
/// What fails later than this after the unit has another reason, ns.
const WITHIN: i64 = 1_800_000_000_000;
/// What failed so long before it has as well, ns.
const SLACK: i64 = 60_000_000_000;

/// On which nodes services run, as their telemetry says.
#[derive(Debug, Default)]
pub struct Homes(BTreeMap<(String, String), BTreeSet<String>>);

impl Homes {
    /// A service was seen on a node.
    pub fn saw(&mut self, namespace: &str, service: &str, node: &str) {
        if node.is_empty() || service.is_empty() {
            return;
        }
        let key = (namespace.to_owned(), service.to_owned());
        if self.0.len() < MOST || self.0.contains_key(&key) {
            let nodes = self.0.entry(key).or_default();
            if nodes.len() < MOST_NODES && !nodes.contains(node) {
                nodes.insert(node.to_owned());
            }
        }
    }

    /// Was a service seen on a node?
    pub fn has(&self, service: &Entity, node: &str) -> bool {
        let known = self.0.iter().filter(|((_, name), _)| **name == *service.name);
        known.into_iter().any(|(_, nodes)| nodes.contains(node))
    }
}

/// Nodes whose failed units explain what is wrong with the workloads on them; `wrong` has these with
/// their onsets.
pub fn hypotheses(
    states: &[State],
    wrong: &BTreeMap<Entity, Time>,
    homes: &Homes,
    graph: &Graph,
    cluster: &Cluster,
) -> Vec<Hypothesis> {
    let w = &weights().units;
    let mut out = Vec::new();
    let carriers = cluster.carriers();
    for unit in states.iter().filter(|state| state.kind == "unit.failed") {
        let node = Entity::new("Node", "", &unit.entity_name);
        for (workload, onset) in wrong {
            let service = graph.service(workload);
            let on = (Relation::RunsOn, node.clone());
            let here = carriers.get(workload).is_some_and(|all| all.contains(&on))
                || homes.has(&service, &node.name);
            let since = onset.0 - unit.onset.0;
            if !here || !(-SLACK..=WITHIN).contains(&since) {
                continue;
            }
            let name = unit.reason.split(' ').next().unwrap_or_default();
            let pattern = pattern(name);
            let what = format!("{} on node {}", unit.reason, node.name);
            out.push(Hypothesis {
                cause: node.clone(),
                relation: Relation::RunsOn.name().to_owned(),
                workload: workload.clone(),
                service: service.name.to_string(),
                pattern: pattern.to_owned(),
                change: None,
                cause_time: unit.onset,
                effect_time: *onset,
                evidence: 1.0,
                rivals: 0,
                confidence: if pattern == "node_unit_failed" { w.other } else { w.known },
                measured: None,
                told: Some(Box::new(Told {
                    title: format!(
                        "{} fails with its node {}: {name} is down there",
                        service.name, node.name
                    ),
                    mechanism: format!("{what}: {}", unit.message),
                    what,
                    change: None,
                    reasons: vec![format!("{} runs on node {}", service.name, node.name)],
                    advice: vec![
                        format!(
                            "look at the unit on {}: systemctl status {name}; journalctl -u {name}",
                            node.name
                        ),
                        format!("keep pods away until it is well: kubectl cordon {}", node.name),
                    ],
                    outside: false,
                    ..Told::default()
                })),
            });
        }
    }
    out
}

/// Which failure a unit's is.
fn pattern(unit: &str) -> &'static str {
    let is = |names: &[&str]| names.iter().any(|name| unit.contains(name));
    if is(&["containerd", "crio", "cri-o", "docker"]) {
        "containerd_unavailable"
    } else if is(&["kubelet", "k3s", "rke2"]) {
        "kubelet_unavailable"
    } else if is(&["kube-proxy"]) {
        "kube_proxy_unavailable"
    } else {
        "node_unit_failed"
    }
}
