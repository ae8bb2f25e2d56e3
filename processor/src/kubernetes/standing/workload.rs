//! Why a workload does not run.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    Finding, Known, Saying, Watch, death,
    sick::{Sick, flaps, is_ready, is_stuck, is_young, waits},
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links, unfit,
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
        let stuck = stuck || snapshot && overdue.is_some();
        let over = matches!(&*sick.workload.kind, "Job" | "CronJob");
        let is_sick = (ready < wanted && !over) || again || stuck;
        if let Some(found) = self.address(sick, is_sick) {
            out.push(found);
        }
        if let Some(found) = self.missed(sick, value).filter(|_| snapshot) {
            out.push(found);
            return;
        }
        let is_sick = if over { self.run(sick) } else { is_sick };
        if !is_sick {
            if snapshot && !over {
                out.extend(self.misses(sick, known));
                out.extend(self.writes_nothing(sick, known));
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
        let Some(mut found) = self.why(sick, known).or_else(unsaid) else { return };
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

    /// Who refuses its pods.
    fn refused(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        let said = &sick.said;
        let own = sick.workload.clone();
        let (object, pattern, part) = if said.contains("exceeded quota") {
            let name = between(said, "exceeded quota: ", ",").unwrap_or("quota");
            (Entity::new("ResourceQuota", namespace, name), quota(said), "exceeded quota")
        } else if said.contains("serviceaccount \"") && said.contains("not found") {
            let name = between(said, "serviceaccount \"", "\"").unwrap_or_default();
            let account = Entity::new("ServiceAccount", namespace, name);
            (account, "missing_service_account", "serviceaccount \"")
        } else if said.contains(" usage per ") {
            let mut limits = self.objects.of("LimitRange", namespace);
            let limit = limits.next().map_or(own, |(limit, _)| limit.clone());
            (limit, "limit_range_violated", " usage per ")
        } else if said.contains("violates podsecurity") {
            (own, "pod_security_denied", "violates podsecurity")
        } else if said.contains("failed calling webhook") {
            let part = "failed calling webhook";
            let name = between(said, "failed calling webhook \"", "\"").unwrap_or_default();
            let trusted = !["x509", "certificate", "tls: "].iter().any(|w| said.contains(w));
            let pattern = if trusted { "webhook_down" } else { "webhook_not_trusted" };
            let Some(of) = self.asks(name) else {
                return Some(self.found(sick, own, pattern, sick.around(part)));
            };
            let mut found = self.found(sick, of.clone(), pattern, sick.around(part));
            found.advice.push(format!(
                "bring back who answers for it; until then nothing is made that it is asked about, unless its failurePolicy is Ignore: kubectl edit {} {}",
                of.kind.to_lowercase(),
                of.name
            ));
            return Some(found);
        } else {
            return None;
        };
        Some(self.found(sick, object, pattern, sick.around(part)))
    }

    /// The configuration of a webhook, by the webhook's name.
    fn asks(&self, name: &str) -> Option<&Entity> {
        let kinds = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
        kinds.into_iter().flat_map(|kind| self.objects.of_kind(kind)).find(|of| {
            let hooks = self.object(of).map(|of| list(of, &["webhooks"]));
            hooks.into_iter().flatten().any(|hook| text(hook, &["name"]) == name)
        })
    }

    /// A volume that cannot be mounted.
    fn unmounted(&self, sick: &Sick<'_>) -> Option<Finding> {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let fails =
            ["failedmount", "mountvolume", "failedattachvolume", "unable to attach or mount"];
        if !says(&fails) {
            return None;
        }
        let denied = says(&["permission denied", "access denied", "operation not permitted"]);
        let pattern = if denied { "volume_mount_permission_denied" } else { "volume_mount_fails" };
        Some(self.found(sick, sick.workload.clone(), pattern, sick.around("mount")))
    }

    /// An image that cannot be pulled, and why.
    fn image(&self, sick: &Sick<'_>) -> Option<Finding> {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let fails = [
            "errimagepull",
            "imagepullbackoff",
            "failed to pull image",
            "invalidimagename",
            "errimageneverpull",
        ];
        if !says(&fails) {
            return None;
        }
        let wanted = list(sick.spec, &["imagePullSecrets"]);
        let namespace = &*sick.workload.namespace;
        let gone = wanted.iter().map(|s| Entity::new("Secret", namespace, text(s, &["name"])));
        let gone = gone.filter(|_| self.objects.of("Secret", namespace).next().is_some());
        let mut gone = gone.filter(|secret| !self.exists(secret));
        let (pattern, part) = if says(&["no such host", "server misbehaving", "name resolution"]) {
            ("image_registry_dns_failure", "lookup")
        } else if gone.next().is_some()
            || says(&[
                "unable to retrieve some image pull secrets",
                "unauthorized",
                "authentication required",
                "no basic auth",
                "403 forbidden",
                "401",
            ])
        {
            ("missing_image_pull_secret", "pull")
        } else if says(&["connection refused", "i/o timeout", "context deadline exceeded"]) {
            ("registry_unreachable", "pull")
        } else if says(&["toomanyrequests", "429"]) {
            ("registry_rate_limit", "pull")
        } else if says(&["exec format error", "no matching manifest"]) {
            ("image_architecture", "manifest")
        } else {
            ("incorrect_image_reference", "image")
        };
        let mut found = self.found(sick, sick.workload.clone(), pattern, sick.around(part));
        found.confidence = weights().standing.image;
        Some(found)
    }

    /// A ConfigMap or Secret that is referred to and is not there.
    fn missing(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        for (kind, mark, pattern) in [
            ("Secret", "secret \"", "missing_secret_binding"),
            ("ConfigMap", "configmap \"", "missing_config_object"),
            // As the API server says it to a program that asks for one.
            ("Secret", "secrets \"", "missing_secret_binding"),
            ("ConfigMap", "configmaps \"", "missing_config_object"),
        ] {
            let mut rest = &*sick.said;
            while let Some(at) = rest.find(mark) {
                rest = &rest[at + mark.len()..];
                let Some((name, tail)) = rest.split_once('"') else { break };
                if tail.trim_start().starts_with("not found") {
                    let object =
                        Entity::new(kind, namespace, name.rsplit('/').next().unwrap_or(name));
                    let what = format!(
                        "{kind} {} does not exist, and {} needs it",
                        object.name,
                        sick.workload.path()
                    );
                    let mut found = self.found(sick, object, pattern, what);
                    found.confidence = weights().standing.missing;
                    return Some(found);
                }
            }
        }
        if sick.said.contains("couldn't find key") {
            let what = sick.around("couldn't find key");
            let mut object = sick.workload.clone();
            for kind in ["Secret", "ConfigMap"] {
                let of = what.split(&format!(" in {kind} ")).nth(1).unwrap_or_default();
                let path = of.split_whitespace().next().unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                if !name.is_empty() {
                    object = Entity::new(kind, namespace, name);
                }
            }
            return Some(self.found(sick, object, "missing_config_key", what));
        }
        // What no event says the references do.
        let stuck = sick.pods.iter().any(|(_, pod)| {
            waits(pod, "ContainerCreating") || waits(pod, "CreateContainerConfigError")
        });
        let object = self.objects.get(sick.workload)?;
        let gone = links::references(&sick.workload.kind, &object.value, namespace)
            .into_iter()
            .map(|(_, to)| to)
            .find(|to| {
                matches!(&*to.kind, "Secret" | "ConfigMap")
                    && self.objects.of(&to.kind, namespace).next().is_some()
                    && !self.exists(to)
            })?;
        stuck.then(|| {
            let pattern = if &*gone.kind == "Secret" {
                "missing_secret_binding"
            } else {
                "missing_config_object"
            };
            let what = format!(
                "{} {} does not exist, and {} needs it",
                gone.kind,
                gone.name,
                sick.workload.path()
            );
            self.found(sick, gone, pattern, what)
        })
    }

    /// Why no node takes its pods.
    fn unscheduled(&self, sick: &Sick<'_>) -> Option<Finding> {
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
            let mut found = self.found(
                sick,
                Entity::new("Pod", "kube-system", "kube-scheduler"),
                "kube_scheduler_unavailable",
                what,
            );
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

/// Which resource a quota lacks, by the words of the refusal.
fn quota(said: &str) -> &'static str {
    let asked = between(said, "requested: ", "used:").unwrap_or(said);
    [
        ("storage", "namespace_storage_quota_exceeded"),
        ("persistentvolumeclaims", "namespace_storage_quota_exceeded"),
        ("services", "namespace_service_quota_exceeded"),
        ("memory", "namespace_memory_quota_exceeded"),
        ("cpu", "namespace_cpu_quota_exceeded"),
        ("pods", "namespace_pod_quota_exceeded"),
    ]
    .iter()
    .find(|(word, _)| asked.contains(word))
    .map_or("quota_exceeded", |(_, pattern)| pattern)
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = &text[text.find(from)? + from.len()..];
    Some(rest.split(to).next().unwrap_or(rest).trim())
}
