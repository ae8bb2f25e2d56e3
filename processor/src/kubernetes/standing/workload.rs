//! Why a workload does not run.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    Finding, Known, Saying, Watch, death,
    sick::{Sick, flaps, is_ready, is_stuck, is_young},
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        unfit,
        value::{at, list, number, text},
    },
};

const NOT_MADE: &str = "its pods are refused before they are made, so there is nothing to start";
const NO_IMAGE: &str = "no container starts before its image is there";
const NO_OBJECT: &str = "no container is made before all that it refers to is there";
const NO_NODE: &str = "a pod waits until a node takes it, with all that it asks for";
const NO_VOLUME: &str = "no container starts before the volumes of its pod are mounted";
const NO_PORT: &str = "two programs cannot listen on one port of a pod or of its node";
const NOT_PROBED: &str =
    "a container whose probe fails gets no requests, or is killed and started anew";

impl Cluster {
    /// One workload, and why it does not run.
    pub(super) fn workload(
        &self,
        sick: &mut Sick<'_>,
        value: &Value,
        known: &[Known],
        out: &mut Vec<Finding>,
    ) {
        let wanted = sick.wanted(value);
        if wanted == 0 {
            self.zero(sick, out);
            return;
        }
        let seen = sick.pods.iter().filter(|(_, pod)| is_ready(pod)).count();
        let told = ["readyReplicas", "numberReady"].map(|key| number(value, &["status", key]));
        let ready = (seen as i64).max(if sick.pods.is_empty() {
            told.into_iter().flatten().max().unwrap_or(0)
        } else {
            0
        });
        let snapshot = sick.watch == Watch::Objects { snapshot: true };
        let again = snapshot && sick.pods.iter().any(|(_, pod)| flaps(pod, sick.now));
        // One that was made just now may still come.
        let young = |pod: &Value| snapshot && is_young(pod, sick.now);
        let late = |(_, pod): &&(&Entity, &Value)| is_ready(pod) || !young(pod);
        let stuck = snapshot && sick.pods.iter().filter(late).any(|(_, pod)| is_stuck(pod));
        let coming = sick.pods.iter().filter(|(_, pod)| !is_ready(pod) && young(pod)).count();
        let ready = ready + coming as i64;
        let overdue = list(value, &["status", "conditions"]).iter().find(|condition| {
            text(condition, &["reason"]) == "ProgressDeadlineExceeded"
                && text(condition, &["status"]) == "False"
        });
        let refused = list(value, &["status", "conditions"]).iter().any(|condition| {
            text(condition, &["type"]) == "ReplicaFailure" && text(condition, &["status"]) == "True"
        });
        let stuck = stuck || snapshot && (overdue.is_some() || refused);
        let over = matches!(&*sick.workload.kind, "Job" | "CronJob");
        let is_sick = (ready < wanted && !over) || again || stuck;
        if let Some(found) = self.address(sick, is_sick) {
            out.push(found);
        }
        if let Some(found) = self.missed(sick, value).filter(|_| snapshot) {
            out.push(found);
            return;
        }
        if let Some(found) = self.endless(sick, value).filter(|_| snapshot) {
            out.push(found);
            return;
        }
        let is_sick = if over { self.run(sick) } else { is_sick };
        if !is_sick {
            if snapshot && !over {
                out.extend(self.misses(sick, known));
                out.extend(self.writes_nothing(sick, known).or_else(|| self.evicted(sick)));
            }
            return;
        }
        sick.since = sick.onset().unwrap_or(sick.since).min(sick.now);
        let unsaid = || {
            let what = format!("its rollout does not end: {}", text(overdue?, &["message"]));
            let mut found = self.found(sick, sick.workload.clone(), "rollout_stuck", what);
            found.confidence = weights().standing.blind;
            Some(found)
        };
        let why = || self.why(sick, known).or_else(|| self.evicted(sick));
        let Some(mut found) = why().or_else(|| self.waits_for(sick)).or_else(unsaid) else {
            return;
        };
        if found.pattern == "disk_full" {
            self.full(sick, &mut found);
        }
        let (core, name) = (&*sick.workload.namespace == "kube-system", &sick.workload.name);
        if core && name.contains("kube-proxy") {
            found.pattern = "kube_proxy_unavailable".to_owned();
        } else if core && name.contains("dns") {
            found.pattern = "dns_broken".to_owned();
        }
        let own = |saying: &&Saying| {
            saying.kind.starts_with("log.") || saying.message.contains("failed calling webhook")
        };
        found.complaints = sick.heard.iter().filter(own).map(|s| s.message.clone()).collect();
        found.shown.extend(death::shown(sick, &found));
        out.push(found);
    }

    /// It runs, but says that its disk is full.
    fn writes_nothing(&self, sick: &Sick<'_>, known: &[Known]) -> Option<Finding> {
        let mut found = self.known(sick, known).filter(|found| found.pattern == "disk_full")?;
        self.full(sick, &mut found);
        found.shown.extend(death::shown(sick, &found));
        Some(found)
    }

    /// What keeps it from running: what keeps its pods from being made, then from starting, then what it says
    /// itself, then how it ends.
    fn why(&self, sick: &Sick<'_>, known: &[Known]) -> Option<Finding> {
        let because = |why: &str, found: Finding| Finding { mechanism: why.to_owned(), ..found };
        let refused = self.refused(sick).map(|found| because(NOT_MADE, found));
        let image = || self.image(sick).map(|found| because(NO_IMAGE, found));
        let missing = || self.missing(sick).map(|found| because(NO_OBJECT, found));
        let nowhere = || self.unscheduled(sick).map(|found| because(NO_NODE, found));
        let unmounted = || self.unmounted(sick).map(|found| because(NO_VOLUME, found));
        let starts = refused.or_else(image).or_else(missing).or_else(nowhere).or_else(unmounted);
        if let Some(found) = starts.or_else(|| self.out_of_memory(sick)) {
            return Some(found);
        }
        let said = &sick.said;
        let says = |all: &[&str]| all.iter().any(|part| said.contains(part));
        if says(&["address already in use", "bind: address", "port is already allocated"]) {
            let many = list(sick.spec, &["containers"]).len() > 1;
            let pattern = if many { "service_sidecar_port_conflict" } else { "port_conflict" };
            let found = self.found(sick, sick.workload.clone(), pattern, sick.around("address"));
            return Some(because(NO_PORT, found));
        }
        // What says why by words comes before a probe that fails, what only knows the state after it.
        let explained = self.known(sick, known);
        let (words, state) = match explained {
            Some(found) if !found.what.is_empty() => (Some(found), None),
            state => (None, state),
        };
        let probe = || self.probe(sick).map(|found| because(NOT_PROBED, found));
        words.or_else(probe).or(state).or_else(|| self.death(sick))
    }

    /// A probe that asks for what the program does not answer.
    fn probe(&self, sick: &Sick<'_>) -> Option<Finding> {
        let kinds = [
            ("livenessProbe", "liveness probe failed"),
            ("startupProbe", "startup probe failed"),
            ("readinessProbe", "readiness probe failed"),
        ];
        for (part, mark) in kinds {
            if !sick.said.contains(mark) {
                continue;
            }
            let words = sick.around(mark);
            for container in list(sick.spec, &["containers"]) {
                let Some(probe) = at(container, &[part]) else { continue };
                let pattern = unfit::probe(part, probe, container, &words.to_lowercase());
                let mut found = self.found(sick, sick.workload.clone(), pattern, words.clone());
                found.confidence = weights().standing.probe;
                return Some(found);
            }
        }
        None
    }
}
