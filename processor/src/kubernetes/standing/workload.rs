//! Why a workload does not run.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    Finding,
    sick::{Sick, is_ready, restarts, waits},
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links, unfit,
        value::{at, list, number, text},
    },
};

impl Cluster {
    /// One workload, and why it does not run.
    pub(super) fn workload(&self, sick: &Sick<'_>, value: &Value, out: &mut Vec<Finding>) {
        let namespace = &*sick.workload.namespace;
        let wanted = match &*sick.workload.kind {
            "Pod" | "Job" | "CronJob" => 1,
            // Of one that is not seen nobody knows; it is said to need what it has not.
            _ if value.is_null() => 1,
            "DaemonSet" => number(value, &["status", "desiredNumberScheduled"]).unwrap_or(0),
            _ => number(value, &["spec", "replicas"]).unwrap_or(1),
        };
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
        let restarts = sick.pods.iter().map(|(_, pod)| restarts(pod)).max().unwrap_or(0);
        let over = matches!(&*sick.workload.kind, "Job" | "CronJob");
        let is_sick = (ready < wanted && !over) || (restarts >= 3 && self.is_snapshot());
        if let Some(found) = self.address(sick, is_sick) {
            out.push(found);
        }
        if !is_sick && !over {
            return;
        }
        let said = &sick.said;
        let says = |all: &[&str]| all.iter().any(|part| said.contains(part));
        let own = sick.workload.clone();
        let around = |part: &str| sick.around(part);
        if says(&["exceeded quota"]) {
            let pattern = quota(said);
            let name = between(said, "exceeded quota: ", ",").unwrap_or("quota");
            let quota = Entity::new("ResourceQuota", namespace, name);
            out.push(self.found(sick, quota, pattern, around("exceeded quota")));
        } else if says(&["serviceaccount"]) && says(&["serviceaccount \""]) && says(&["not found"])
        {
            let name = between(said, "serviceaccount \"", "\"").unwrap_or_default();
            let account = Entity::new("ServiceAccount", namespace, name);
            out.push(self.found(
                sick,
                account,
                "missing_service_account",
                around("serviceaccount \""),
            ));
        } else if says(&["violates podsecurity"]) {
            out.push(self.found(sick, own, "pod_security_denied", around("violates podsecurity")));
        } else if says(&["failed calling webhook"]) {
            out.push(self.found(sick, own, "webhook_down", around("failed calling webhook")));
        } else if says(&[
            "errimagepull",
            "imagepullbackoff",
            "failed to pull image",
            "invalidimagename",
            "errimageneverpull",
        ]) {
            out.push(self.image(sick));
        } else if let Some(found) = self.missing(sick) {
            out.push(found);
        } else if let Some(found) = self.unscheduled(sick) {
            out.push(found);
        } else if says(&[
            "failedmount",
            "mountvolume",
            "failedattachvolume",
            "unable to attach or mount",
        ]) {
            let denied = says(&["permission denied", "access denied", "operation not permitted"]);
            let pattern =
                if denied { "volume_mount_permission_denied" } else { "volume_mount_fails" };
            out.push(self.found(sick, own, pattern, around("mount")));
        } else if says(&["oomkilled"]) {
            out.push(self.found(sick, own, "oom_killed", around("oomkilled")));
        } else if says(&["address already in use", "bind: address", "port is already allocated"]) {
            let many = list(sick.spec, &["containers"]).len() > 1;
            let pattern = if many { "service_sidecar_port_conflict" } else { "port_conflict" };
            out.push(self.found(sick, own, pattern, around("address")));
        } else if let Some(found) = self.probe(sick) {
            out.push(found);
        } else if let Some((pattern, part)) = complaint(sick) {
            out.push(self.found(sick, own, pattern, around(part)));
        } else if says(&[
            "crashloopbackoff",
            "runcontainererror",
            "createcontainererror",
            "back-off restarting",
        ]) {
            let bad =
                ["executable file not found", "no such file or directory", "exec format error"];
            let pattern = if says(&bad) { "bad_command" } else { "bad_config_crash_loop" };
            let mut found = self.found(sick, own, pattern, around("back-off"));
            let w = &weights().standing;
            found.confidence = if says(&bad) { w.bad_command } else { w.crashes };
            out.push(found);
        }
        for found in out.iter_mut().filter(|found| found.workload == *sick.workload) {
            let core = &*sick.workload.namespace == "kube-system";
            let name = &*sick.workload.name;
            if core && name.contains("kube-proxy") {
                found.pattern = "kube_proxy_unavailable";
            } else if core && name.contains("dns") {
                found.pattern = "dns_broken";
            }
        }
    }

    fn image(&self, sick: &Sick<'_>) -> Finding {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
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
        found
    }

    /// A ConfigMap or Secret that is referred to and is not there.
    fn missing(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        for (kind, mark, pattern) in [
            ("Secret", "secret \"", "missing_secret_binding"),
            ("ConfigMap", "configmap \"", "missing_config_object"),
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
            return Some(self.found(sick, sick.workload.clone(), "missing_config_key", what));
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
        let (pattern, why) = unfit::claim(value, &claim, &volumes, &classes);
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

/// What a workload's own words complain of, and where.
fn complaint(sick: &Sick<'_>) -> Option<(&'static str, &'static str)> {
    const ALL: [(&str, &str); 12] = [
        ("too many connections", "db_connection_exhaustion"),
        ("remaining connection slots", "db_connection_exhaustion"),
        ("--read-only", "db_read_only"),
        ("read_only", "db_read_only"),
        ("read-only transaction", "db_read_only"),
        ("access denied for user", "mysql_invalid_credentials"),
        ("password authentication failed", "mysql_invalid_credentials"),
        ("no such host", "service_dns_resolution_failure"),
        ("name resolution", "service_dns_resolution_failure"),
        ("name or service not known", "service_dns_resolution_failure"),
        ("permission denied", "volume_mount_permission_denied"),
        ("no space left on device", "disk_full"),
    ];
    ALL.iter().find(|(part, _)| sick.said.contains(part)).map(|(part, pattern)| (*pattern, *part))
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
