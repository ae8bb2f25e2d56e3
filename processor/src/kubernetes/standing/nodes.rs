//! Nodes and the scheduler that are not ready.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Said, created, sick::is_ready};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{list, text},
    },
};

impl Cluster {
    /// Nodes that are not ready, where anything runs on them.
    pub(super) fn nodes(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for node in self.objects.of_kind("Node") {
            let Some(value) = self.object(node) else { continue };
            let bad = list(value, &["status", "conditions"])
                .iter()
                .find(|c| text(c, &["type"]) == "Ready" && text(c, &["status"]) != "True");
            let Some(bad) = bad else { continue };
            let mut words = format!("{}: {}", text(bad, &["reason"]), text(bad, &["message"]));
            let events = said.get(node).map(|all| all.join("; ")).unwrap_or_default();
            let all = format!("{words} {events}").to_lowercase();
            let pattern = if ["container runtime", "containerd", "pleg", "cri-o", "dockershim"]
                .iter()
                .any(|w| all.contains(w))
            {
                "containerd_unavailable"
            } else if all.contains("cni") || all.contains("network plugin") {
                "node_network_not_ready"
            } else if all.contains("stopped posting") || all.contains("nodestatusunknown") {
                "kubelet_unavailable"
            } else {
                "node_not_ready"
            };
            let on = pods.iter().filter(|(workload, pods)| {
                &*workload.namespace != "kube-system"
                    && pods.iter().any(|(_, pod)| {
                        text(pod, &["spec", "nodeName"]) == &*node.name && !is_ready(pod)
                    })
            });
            let mut on: Vec<Entity> = on.map(|(workload, _)| workload.clone()).collect();
            if on.is_empty() {
                on.push(node.clone());
            }
            words.truncate(words.char_indices().nth(300).map_or(words.len(), |(at, _)| at));
            out.extend(on.into_iter().map(|workload| Finding {
                service: self.service_name(&workload),
                workload,
                object: node.clone(),
                pattern,
                what: format!("node {} is not ready: {words}", node.name),
                advice: format!("look at the node: kubectl describe node {}", node.name),
                confidence: weights().standing.node,
                since: created(value).unwrap_or(now).min(now),
            }));
        }
    }

    /// The scheduler, which no workload but the node itself runs.
    pub(super) fn control_plane(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for (pod, value) in
            pods.values().flatten().filter(|(pod, _)| &*pod.namespace == "kube-system")
        {
            if !pod.name.starts_with("kube-scheduler") || is_ready(value) {
                continue;
            }
            let words = said.get(*pod).and_then(|all| all.first()).cloned().unwrap_or_default();
            out.push(Finding {
                object: (*pod).clone(),
                workload: (*pod).clone(),
                service: "kube-scheduler".to_owned(),
                pattern: "kube_scheduler_unavailable",
                what: format!("pod {} is not ready: {words}", pod.name),
                advice: format!("look at it: kubectl -n kube-system describe pod {}", pod.name),
                confidence: weights().standing.scheduler,
                since: created(value).unwrap_or(now).min(now),
            });
        }
    }
}
