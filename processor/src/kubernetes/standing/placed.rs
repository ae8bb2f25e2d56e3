//! Why no node takes the pods of a workload.

use std::time::Duration;

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{Finding, Saying, created, sick::Sick};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links, owners, unfit,
        value::{at, boolean, list, number, text},
    },
};

/// Who is displaced is made anew within so long after the one that took its place was.
const JUST_BEFORE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Why no node takes its pods.
    pub(super) fn unscheduled(&self, sick: &Sick<'_>) -> Option<Finding> {
        if let Some((claim, pattern, what)) = self.claim(sick) {
            let mut found = self.found(sick, claim, pattern, what);
            found.confidence = weights().standing.claim;
            return Some(found);
        }
        let pending: Vec<&(&Entity, &Value)> = sick
            .pods
            .iter()
            .filter(|(_, pod)| {
                text(pod, &["status", "phase"]) == "Pending"
                    && text(pod, &["spec", "nodeName"]).is_empty()
            })
            .collect();
        let said = sick.last("nodes are available");
        if pending.is_empty() && said.is_none() {
            return None;
        }
        let own = sick.workload.clone();
        let Some(said) = said else {
            let unheard =
                pending.iter().all(|(_, pod)| list(pod, &["status", "conditions"]).is_empty());
            if !unheard {
                return None;
            }
            let what =
                format!("pods of {} are Pending and no scheduler has looked at them", own.path());
            let mut found = self.found(sick, self.scheduler(), "kube_scheduler_unavailable", what);
            found.service = "kube-scheduler".to_owned();
            found.confidence = weights().standing.unheard;
            return Some(found);
        };
        if let Some(node) = self.tainted(said) {
            let what = format!("no node takes its pods; {}", node.what);
            let mut found = self.found(sick, node.object, &node.pattern, what);
            found.confidence = weights().standing.unfit - weights().standing.below;
            return Some(found);
        }
        if let Some(found) = self.closed(sick, said).or_else(|| self.displaced(sick, said)) {
            return Some(found);
        }
        let pattern = unfit::why(&said.to_lowercase(), sick.spec)?;
        let mut found = self.found(sick, own, pattern, said.to_owned());
        found.confidence = weights().standing.unfit;
        Some(found)
    }

    /// The claim that keeps a workload from starting, and why no volume fits it.
    fn claim(&self, sick: &Sick<'_>) -> Option<(Entity, &'static str, String)> {
        let namespace = &*sick.workload.namespace;
        let object = self.objects.get(sick.workload)?;
        let mut claims: Vec<Entity> =
            links::references(&sick.workload.kind, &object.value, namespace)
                .into_iter()
                .map(|(_, to)| to)
                .filter(|to| &*to.kind == "PersistentVolumeClaim")
                .collect();
        for (_, pod) in &sick.pods {
            for volume in list(pod, &["spec", "volumes"]) {
                let name = text(volume, &["persistentVolumeClaim", "claimName"]);
                if !name.is_empty() {
                    claims.push(Entity::new("PersistentVolumeClaim", namespace, name));
                }
            }
        }
        let claim = claims.into_iter().find(|claim| {
            self.object(claim).is_some_and(|value| text(value, &["status", "phase"]) == "Pending")
        })?;
        let value = self.object(&claim)?;
        let volumes: Vec<&Value> =
            self.objects.of_kind("PersistentVolume").filter_map(|v| self.object(v)).collect();
        let classes: Vec<&str> =
            self.objects.of_kind("StorageClass").map(|class| &*class.name).collect();
        let (mut pattern, mut why) = unfit::claim(value, &claim, &volumes, &classes);
        let refused =
            |saying: &&Saying| saying.on == claim && saying.reason == "ProvisioningFailed";
        if pattern == "claim_unbound"
            && let Some(refused) = sick.heard.iter().rev().find(refused)
        {
            why.clone_from(&refused.message);
            let lower = why.to_lowercase();
            if lower.contains("access mode") || lower.contains("accessmode") {
                pattern = "pvc_access_mode_mismatch";
            }
        }
        Some((claim.clone(), pattern, format!("claim {} is not bound: {why}", claim.name)))
    }

    /// The scheduler's pod, if it is seen.
    fn scheduler(&self) -> Entity {
        let of = |pod: &&Entity| {
            &*pod.namespace == "kube-system" && pod.name.starts_with("kube-scheduler")
        };
        let seen = self.objects.of_kind("Pod").find(of);
        seen.cloned().unwrap_or_else(|| Entity::new("Pod", "kube-system", "kube-scheduler"))
    }

    /// The node that is closed, where all that would take its pods are.
    fn closed(&self, sick: &Sick<'_>, said: &str) -> Option<Finding> {
        if !said.contains("unschedulable") {
            return None;
        }
        let spec = sick.pods.first().and_then(|(_, pod)| at(pod, &["spec"])).unwrap_or(sick.spec);
        let fit = self.objects.of_kind("Node").filter_map(|node| {
            let value = self.object(node)?;
            fits(spec, value).then_some((node, value))
        });
        let fit: Vec<(&Entity, &Value)> = fit.collect();
        let (node, _) = *fit.first()?;
        let open = |(_, value): &(&Entity, &Value)| {
            boolean(value, &["spec", "unschedulable"]) != Some(true)
        };
        if fit.iter().any(open) {
            return None;
        }
        let what =
            format!("node {} is closed (cordoned), and no other node fits it: {said}", node.name);
        let mut found = self.found(sick, node.clone(), "node_cordon_mismatch", what);
        found.confidence = weights().standing.unfit;
        Some(found)
    }

    /// Who took its place: pods of a higher priority that were placed just before its own were made anew.
    fn displaced(&self, sick: &Sick<'_>, said: &str) -> Option<Finding> {
        if !said.contains("Insufficient") && !said.contains("Too many pods") {
            return None;
        }
        let priority = |pod: &Value| number(pod, &["spec", "priority"]).unwrap_or(0);
        let waits = |pod: &Value| text(pod, &["spec", "nodeName"]).is_empty();
        let mut pending = sick.pods.iter().filter(|(_, pod)| waits(pod));
        let (by, pod) = pending.find_map(|(_, pod)| {
            let made = created(pod)?;
            let before = |other: &Value| {
                created(other).is_some_and(|time| time <= made && made <= time + JUST_BEFORE)
            };
            let mut others = self.objects.of_kind("Pod");
            let by = others.find(|other| {
                self.object(other).is_some_and(|other| {
                    !waits(other) && priority(other) > priority(pod) && before(other)
                })
            })?;
            Some((by, *pod))
        })?;
        let of = owners::top(&self.objects, by);
        if of == *sick.workload || &*of.kind == "Node" || &*of.kind == "DaemonSet" {
            return None;
        }
        let what = format!(
            "{} makes room for {}, whose priority is {} where its own is {}: {said}",
            sick.workload.path(),
            of.path(),
            self.object(by).map_or(0, priority),
            priority(pod)
        );
        let mut found = self.found(sick, of, "preempted", what);
        found.confidence = weights().standing.unfit - weights().standing.below;
        Some(found)
    }
}

/// May a pod be placed on a node, by the labels that it asks for?
fn fits(spec: &Value, node: &Value) -> bool {
    let labels = at(node, &["metadata", "labels"]);
    let has = |(key, value): (&String, &Value)| labels.and_then(|of| of.get(key)) == Some(value);
    let wanted = at(spec, &["nodeSelector"]).and_then(Value::as_object);
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = at(spec, &required).map(|of| list(of, &["nodeSelectorTerms"])).unwrap_or_default();
    wanted.into_iter().flatten().all(has)
        && (terms.is_empty() || terms.iter().any(|term| links::chosen(term, labels)))
}
