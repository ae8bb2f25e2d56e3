//! Who refuses a workload's pods before they are made.

use tapio_proto::model::Entity;

use super::{Finding, sick::Sick};
use crate::kubernetes::cluster::Cluster;

impl Cluster {
    /// Who refuses its pods.
    pub(super) fn refused(&self, sick: &Sick<'_>) -> Option<Finding> {
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
        } else if said.contains("unable to validate against any security context") {
            (own, "pod_security_denied", "security context")
        } else if said.contains("admission webhook \"") && said.contains("denied the request") {
            (own, "admission_denied", "denied the request")
        } else if said.contains("validatingadmissionpolicy '") && said.contains("denied request") {
            (own, "admission_denied", "denied request")
        } else if said.contains("failed calling webhook") {
            let part = "failed calling webhook";
            let name = between(said, "failed calling webhook \"", "\"").unwrap_or_default();
            let trusted = !["x509", "certificate", "tls: "].iter().any(|w| said.contains(w));
            let pattern = if trusted { "webhook_down" } else { "webhook_not_trusted" };
            let Some(of) = self.webhook(name) else {
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
