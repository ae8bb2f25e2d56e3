//! What is to go and cannot: pods on a node that is drained, pods and namespaces that finalizers keep.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Said, Saying};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links,
        value::{at, boolean, list, number, text},
    },
};

/// What goes at all is gone by then.
const LONG: Duration = Duration::from_secs(600);

impl Cluster {
    /// PodDisruptionBudgets that never let a pod go, where a node is closed and nothing else is left on it, or
    /// where it was said that pods may not be evicted.
    pub(super) fn drains(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        let closed: Vec<(&Entity, &Value)> = self
            .objects
            .of_kind("Node")
            .filter_map(|node| Some((node, self.object(node)?)))
            .filter(|(_, value)| is_closed(value))
            .collect();
        let budgets: Vec<(&Entity, &Value)> = self
            .objects
            .of_kind("PodDisruptionBudget")
            .filter_map(|budget| Some((budget, self.object(budget)?)))
            .filter(|(_, value)| is_tight(value))
            .collect();
        if budgets.is_empty() {
            return;
        }
        for (node, value) in closed {
            // Those that a drain is to move.
            let here = pods.iter().flat_map(|(of, all)| all.iter().map(move |pod| (of, *pod)));
            let here: Vec<(&Entity, (&Entity, &Value))> = here
                .filter(|(of, (_, pod))| {
                    let mirror =
                        at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]);
                    text(pod, &["spec", "nodeName"]) == &*node.name
                        && text(pod, &["status", "phase"]) == "Running"
                        && !matches!(&*of.kind, "DaemonSet" | "Node")
                        && mirror.is_none()
                })
                .collect();
            let budget = |pod: &(&Entity, &Value)| {
                budgets.iter().find(|(budget, value)| {
                    let labels = at(pod.1, &["metadata", "labels"]);
                    budget.namespace == pod.0.namespace
                        && at(value, &["spec", "selector"])
                            .is_some_and(|selector| links::chosen(selector, labels))
                })
            };
            let refused = |pod: &Entity| {
                let speaks = |saying: &&Saying| {
                    saying.message.contains("disruption budget")
                        || saying.message.contains("PDB") && saying.message.contains(&*pod.name)
                };
                let mut all = [pod, node].into_iter().filter_map(|of| said.get(of)).flatten();
                all.find(speaks).map(|saying| saying.time)
            };
            let held: Vec<_> =
                here.iter().filter_map(|(of, pod)| Some((*of, *pod, budget(pod)?))).collect();
            let alone = held.len() == here.len();
            for (budget, value_of) in &budgets {
                let mine: Vec<_> = held.iter().filter(|(_, _, of)| of.0 == *budget).collect();
                let Some((workload, (pod, _), _)) = mine.first() else { continue };
                let time = mine.iter().filter_map(|(_, (pod, _), _)| refused(pod)).min();
                if time.is_none() && !alone {
                    continue;
                }
                let w = &weights().standing;
                let status = |key| number(value_of, &["status", key]).unwrap_or(0);
                let what = format!(
                    "PodDisruptionBudget {} asks for {} of {} pods, so that none may go, and node {} is closed with {} on it",
                    budget.name,
                    status("desiredHealthy"),
                    status("expectedPods"),
                    node.name,
                    pod.name
                );
                let taints = list(value, &["spec", "taints"]);
                let begun =
                    taints.iter().find_map(|of| Time::parse_rfc3339(text(of, &["timeAdded"])));
                out.push(Finding {
                    object: (*budget).clone(),
                    workload: (*workload).clone(),
                    service: self.service_name(workload),
                    pattern: "C14_drain_blocked".to_owned(),
                    title: format!("node {} cannot be drained: {what}", node.name),
                    what,
                    mechanism: "a drain asks for each pod whether it may go, and waits as long as its budget says no".to_owned(),
                    advice: vec![
                        format!(
                            "give it one more pod than the budget asks for: kubectl -n {} scale {} {} --replicas={}",
                            workload.namespace,
                            workload.kind.to_lowercase(),
                            workload.name,
                            status("expectedPods") + 1
                        ),
                        format!(
                            r#"or let one go at a time: kubectl -n {} patch pdb {} --type=merge -p '{{"spec":{{"minAvailable":null,"maxUnavailable":1}}}}'"#,
                            budget.namespace, budget.name
                        ),
                    ],
                    confidence: if time.is_some() { w.blind } else { w.zero },
                    since: begun.or(time).unwrap_or(now).min(now),
                    ..Finding::default()
                });
            }
        }
    }

    /// Pods and namespaces that were to go long ago, and that finalizers keep.
    pub(super) fn kept(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        let asked = |value: &Value| {
            let time = Time::parse_rfc3339(text(value, &["metadata", "deletionTimestamp"]))?;
            (time + LONG <= now).then_some(time)
        };
        let mut tell = |object: &Entity, workload: &Entity, pattern: &str, why: &str, since| {
            let namespace = match &*object.namespace {
                "" => String::new(),
                of => format!(" -n {of}"),
            };
            let (kind, name) = (object.kind.to_lowercase(), &object.name);
            let what = format!("{kind} {name} was to go and cannot: {why}");
            out.push(Finding {
                object: object.clone(),
                workload: workload.clone(),
                service: self.service_name(workload),
                pattern: pattern.to_owned(),
                title: what.clone(),
                what,
                mechanism: "what has a finalizer stays until whoever put it there takes it off, and nothing of the same name can be made before".to_owned(),
                advice: vec![
                    format!("see what keeps it: kubectl{namespace} get {kind} {name} -o yaml"),
                    "bring the controller back that owns the finalizer; only if that is gone for good take it off by hand".to_owned(),
                ],
                confidence: weights().standing.probe,
                since,
                ..Finding::default()
            });
        };
        for (workload, all) in pods {
            for (pod, value) in all {
                let finalizers = list(value, &["metadata", "finalizers"]);
                let finalizers: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
                let Some(since) = asked(value).filter(|_| !finalizers.is_empty()) else { continue };
                let why = format!("finalizer {}", finalizers.join(", "));
                tell(pod, workload, "pod_deletion_blocked", &why, since);
            }
        }
        for namespace in self.objects.of_kind("Namespace") {
            let Some(value) = self.object(namespace) else { continue };
            let Some(since) = asked(value) else { continue };
            let conditions = list(value, &["status", "conditions"]).iter();
            let mut why: Vec<&Value> = conditions
                .filter(|of| {
                    text(of, &["status"]) == "True" && text(of, &["type"]).starts_with("Namespace")
                })
                .collect();
            // The finalizers say more than that something is left.
            why.sort_by_key(|of| text(of, &["type"]) == "NamespaceContentRemaining");
            if let Some(why) = why.first() {
                let why = text(why, &["message"]);
                tell(namespace, namespace, "namespace_terminating", why, since);
            }
        }
    }
}

/// Is a node closed, by people or by who takes nodes away?
fn is_closed(node: &Value) -> bool {
    let taken = |taint: &Value| {
        let key = text(taint, &["key"]);
        key.starts_with("karpenter.sh/disrupt") || key == "ToBeDeletedByClusterAutoscaler"
    };
    boolean(node, &["spec", "unschedulable"]) == Some(true)
        || list(node, &["spec", "taints"]).iter().any(taken)
}

/// Does a budget let none go though all its pods are well?
fn is_tight(budget: &Value) -> bool {
    let status = |key| number(budget, &["status", key]);
    let (healthy, expected) = (status("currentHealthy"), status("expectedPods"));
    status("disruptionsAllowed") == Some(0)
        && expected.is_some_and(|expected| expected > 0)
        && healthy >= expected
        && status("desiredHealthy") >= expected
}
