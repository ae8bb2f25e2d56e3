//! Nodes and the scheduler that are not ready.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Said, Saying, Shown, created, sick::is_ready, words};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{list, text},
    },
};

/// Memory that was used up so long ago is free again.
const LATELY: Duration = Duration::from_secs(3600);

/// Taints that a node gets by its state, not by people.
const STATES: [&str; 5] = [
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

impl Cluster {
    /// Nodes that are not ready or under pressure, where anything runs on them.
    pub(super) fn nodes(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for node in self.objects.of_kind("Node") {
            let Some(value) = self.object(node) else { continue };
            let Some((bad, pattern, state)) = ailment(value, said.get(node)) else { continue };
            let mut words = format!("{}: {}", text(bad, &["reason"]), text(bad, &["message"]));
            words.truncate(words.char_indices().nth(300).map_or(words.len(), |(at, _)| at));
            let pressure = pattern.contains("pressure");
            let there = |pod: &Value| text(pod, &["spec", "nodeName"]) == &*node.name;
            let suffers = |pod: &Value| {
                let there = there(pod);
                let evicted = text(pod, &["status", "reason"]) == "Evicted";
                there && !is_ready(pod) && (!pressure || evicted)
            };
            let on = pods.iter().filter(|(workload, pods)| {
                &*workload.namespace != "kube-system" && pods.iter().any(|(_, pod)| suffers(pod))
            });
            let mut on: Vec<Entity> = on.map(|(workload, _)| workload.clone()).collect();
            if on.is_empty() {
                on.push(node.clone());
            }
            // A clock that nobody sets is felt by those who say so.
            let clock = pattern == "clock_skew";
            let mut confidence = weights().standing.node;
            if clock {
                on = out
                    .iter()
                    .filter(|f| f.pattern == pattern)
                    .map(|f| f.workload.clone())
                    .collect();
                on.retain(|of| {
                    pods.get(of).is_some_and(|all| all.iter().any(|(_, pod)| there(pod)))
                });
                out.retain(|found| found.pattern != pattern || !on.contains(&found.workload));
                let felt = !on.is_empty() || self.off(&pods_on(pods, node), said);
                confidence = if felt { weights().standing.plain } else { weights().standing.blind };
                if on.is_empty() {
                    on.push(node.clone());
                }
            }
            let since = Time::parse_rfc3339(text(bad, &["lastTransitionTime"]));
            let since = since.or_else(|| created(value)).unwrap_or(now).min(now);
            let what = format!("node {} {state}: {words}", node.name);
            let names: Vec<&str> = on.iter().map(|workload| &*workload.name).collect();
            let title = match on.as_slice() {
                [one] if one == node => what.clone(),
                _ => format!("{what}; on it: {}", names.join(", ")),
            };
            out.extend(on.iter().map(|workload| Finding {
                service: self.service_name(workload),
                workload: workload.clone(),
                object: node.clone(),
                pattern: pattern.to_owned(),
                title: title.clone(),
                what: what.clone(),
                confidence,
                since,
                ..Finding::default()
            }));
        }
    }

    /// The node whose state keeps pods away, of which a scheduler speaks by the taint of that state.
    pub(super) fn tainted(&self, said: &str) -> Option<Finding> {
        let taint = STATES.iter().find(|taint| said.contains(**taint))?;
        let has = |node: &&Entity| {
            let taints = self.object(node).map(|value| list(value, &["spec", "taints"]));
            taints.into_iter().flatten().any(|of| text(of, &["key"]) == *taint)
        };
        let node = self.objects.of_kind("Node").find(has)?;
        let (bad, pattern, state) = ailment(self.object(node)?, None)?;
        Some(Finding {
            object: node.clone(),
            pattern: pattern.to_owned(),
            what: format!("node {} {state}: {}", node.name, text(bad, &["message"])),
            ..Finding::default()
        })
    }

    /// Nodes whose memory is used up, where what runs on them is killed that has no limit of its own, or several are.
    pub(super) fn exhausted(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut [Finding],
    ) {
        for node in self.objects.of_kind("Node") {
            let all = said.get(node).into_iter().flatten();
            let lacks = |saying: &&Saying| {
                let system = saying.reason == "SystemOOM"
                    || saying.reason == "OOMKilling" && !saying.message.contains("cgroup");
                system && saying.time + LATELY > now
            };
            let told: Vec<&Saying> = all.filter(lacks).collect();
            let Some(last) = told.iter().max_by_key(|saying| saying.time) else { continue };
            let here = |found: &&mut Finding| {
                let on =
                    |(_, pod): &(&Entity, &Value)| text(pod, &["spec", "nodeName"]) == &*node.name;
                matches!(found.pattern.as_str(), "oom_killed" | "killed")
                    && pods.get(&found.workload).is_some_and(|all| all.iter().any(on))
            };
            let mut victims: Vec<&mut Finding> = out.iter_mut().filter(here).collect();
            let unlimited = victims.iter().any(|found| !found.what.contains("at its limit"));
            if victims.len() < 2 && !unlimited {
                continue;
            }
            let names: Vec<String> =
                victims.iter().map(|found| found.workload.name.to_string()).collect();
            let what = format!(
                "node {} ran out of memory, {} times: {}",
                node.name,
                told.len(),
                words::telling(&last.message)
            );
            for found in &mut victims {
                let of = std::mem::take(&mut found.what);
                found.shown.push(Shown { time: last.time, on: node.clone(), what: what.clone() });
                (found.object, found.pattern) = (node.clone(), "node_out_of_memory".to_owned());
                found.title = format!("{what}; on it: {}", names.join(", "));
                found.mechanism = format!(
                    "the pods on the node use more memory than it has, and the kernel kills some, whatever their limits are: {of}"
                );
                found.what.clone_from(&what);
                found.advice.clear();
                found.known = false;
                found.confidence = weights().standing.plain;
            }
        }
    }

    /// Does anybody of these say that clocks disagree?
    fn off(&self, pods: &[&Entity], said: &Said) -> bool {
        let words = ["token used before issued", "is before", "not yet valid", "in the future"];
        pods.iter().filter_map(|pod| said.get(*pod)).flatten().any(|saying| {
            saying.kind == "log.error" && words.iter().any(|part| saying.message.contains(part))
        })
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
            // With its node all that is on it is away.
            let node = Entity::new("Node", "", text(value, &["spec", "nodeName"]));
            let of_node = self.object(&node).and_then(|node| ailment(node, None));
            if of_node.is_some_and(|(bad, ..)| text(bad, &["type"]) == "Ready") {
                continue;
            }
            let words = said.get(*pod).and_then(|all| all.first());
            let words = words.map(Saying::words).unwrap_or_default();
            out.push(Finding {
                object: (*pod).clone(),
                workload: (*pod).clone(),
                service: "kube-scheduler".to_owned(),
                pattern: "kube_scheduler_unavailable".to_owned(),
                what: format!("pod {} is not ready: {words}", pod.name),
                confidence: weights().standing.scheduler,
                since: created(value).unwrap_or(now).min(now),
                ..Finding::default()
            });
        }
    }
}

/// The pods on a node.
fn pods_on<'a>(
    pods: &BTreeMap<Entity, Vec<(&'a Entity, &Value)>>,
    node: &Entity,
) -> Vec<&'a Entity> {
    let here = |(_, pod): &&(&Entity, &Value)| text(pod, &["spec", "nodeName"]) == &*node.name;
    pods.values().flatten().filter(here).map(|(on, _)| *on).collect()
}

/// The condition of a node that is bad, which failure that is, and the state in words.
fn ailment<'a>(
    node: &'a Value,
    said: Option<&Vec<Saying>>,
) -> Option<(&'a Value, &'static str, &'static str)> {
    let conditions = list(node, &["status", "conditions"]);
    let is = |kind: &str, bad: fn(&str) -> bool| {
        conditions.iter().find(|c| text(c, &["type"]) == kind && bad(text(c, &["status"])))
    };
    if let Some(bad) = is("Ready", |status| status != "True") {
        let events: Vec<String> = said.into_iter().flatten().map(Saying::words).collect();
        let words = format!("{}: {}", text(bad, &["reason"]), text(bad, &["message"]));
        let all = format!("{words} {}", events.join("; ")).to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| all.contains(part));
        let pattern = if says(&["container runtime", "containerd", "pleg", "cri-o", "dockershim"]) {
            "containerd_unavailable"
        } else if says(&["cni", "network plugin"]) {
            "node_network_not_ready"
        } else if says(&["stopped posting", "nodestatusunknown"]) {
            "kubelet_unavailable"
        } else {
            "node_not_ready"
        };
        return Some((bad, pattern, "is not ready"));
    }
    [
        ("DiskPressure", "node_disk_pressure", "has too little disk"),
        ("MemoryPressure", "node_memory_pressure", "has too little memory"),
        ("PIDPressure", "node_pid_pressure", "has too many processes"),
        ("NTPProblem", "clock_skew", "keeps no time"),
    ]
    .into_iter()
    .find_map(|(kind, pattern, state)| Some((is(kind, |status| status == "True")?, pattern, state)))
}
