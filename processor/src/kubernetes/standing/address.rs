//! Addresses in the environment of programs: those that lead nowhere, and those that count on what is scaled to nothing.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{Finding, sick::Sick};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        objects::pod_template,
        rules,
        value::{list, number, text},
    },
};

impl Cluster {
    /// Scaled to nothing, though others count on it.
    pub(super) fn zero(&self, sick: &Sick<'_>, out: &mut Vec<Finding>) {
        let services = self.services_of(sick.workload);
        if services.is_empty() {
            return;
        }
        let core = &*sick.workload.namespace == "kube-system" && sick.workload.name.contains("dns");
        let counted_on = core
            || services.iter().any(|s| self.admits_by(s) || self.serves_an_api(s))
            || self.objects.all_workloads().any(|(other, object)| {
                other != sick.workload
                    && other.namespace == sick.workload.namespace
                    && pod_template(&other.kind, &object.value).is_some_and(|(_, spec)| {
                        variables(spec).any(|(_, value)| {
                            host_port(value).is_some_and(|(host, _)| {
                                services.iter().any(|s| host.split('.').next() == Some(&*s.name))
                            })
                        })
                    })
            });
        let what = format!(
            "{} has 0 replicas, and Service {} leads to it",
            sick.workload.path(),
            services[0].name
        );
        let pattern = if core { "dns_broken" } else { "deployment_zero_replicas" };
        let mut found = self.found(sick, sick.workload.clone(), pattern, what);
        found.advice = vec![format!(
            "scale it up: kubectl -n {} scale {} {} --replicas=1",
            sick.workload.namespace,
            sick.workload.kind.to_lowercase(),
            sick.workload.name
        )];
        let w = &weights().standing;
        found.confidence = if counted_on { w.zero_counted_on } else { w.zero };
        out.push(found);
    }

    /// Does a webhook without which nothing is made ask this Service?
    fn admits_by(&self, service: &Entity) -> bool {
        let all = rules::WEBHOOKS.into_iter().flat_map(|kind| self.objects.of_kind(kind));
        let all = all.filter_map(|of| self.object(of)).flat_map(|of| list(of, &["webhooks"]));
        all.filter(|hook| text(hook, &["failurePolicy"]) != "Ignore")
            .any(|hook| rules::asked_by(hook) == *service)
    }

    /// An address in its environment that leads nowhere.
    pub(super) fn address(&self, sick: &Sick<'_>, is_sick: bool) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        let all: Vec<(&str, &str)> = variables(sick.spec).collect();
        for (name, value) in &all {
            let stem = name.strip_suffix("_HOST").or(name.strip_suffix("_HOSTNAME"));
            let beside = stem.and_then(|stem| {
                all.iter().find(|(other, _)| other.strip_suffix("_PORT") == Some(stem))
            });
            let Some((host, port)) = host_port(value) else { continue };
            let port = port.or(beside.and_then(|(_, port)| port.parse().ok()));
            if port.is_none() && stem.is_none() && !value.contains("://") {
                continue;
            }
            let mut labels = host.split('.');
            let (first, second) = (labels.next().unwrap_or_default(), labels.next());
            let service = Entity::new("Service", second.unwrap_or(namespace), first);
            let known = self.object(&service).filter(|_| self.exists(&service));
            let database = ["sql", "postgres", "mongo", "database", "db_", "redis"]
                .iter()
                .any(|word| name.to_lowercase().contains(word) || host.contains(word));
            match (known, port) {
                (Some(known), Some(port)) => {
                    let ports = list(known, &["spec", "ports"]);
                    let has = ports.iter().any(|p| number(p, &["port"]) == Some(port));
                    if ports.is_empty() || has {
                        continue;
                    }
                    let what = format!(
                        "{name} of {} says port {port}, which Service {first} does not have",
                        sick.workload.path()
                    );
                    let pattern = if database {
                        "mysql_invalid_port"
                    } else {
                        "service_env_var_address_mismatch"
                    };
                    let mut found = self.found(sick, sick.workload.clone(), pattern, what);
                    let w = &weights().standing;
                    found.confidence = if is_sick { w.port_sick } else { w.port };
                    return Some(found);
                }
                (None, _) => {
                    let inside = second.is_none() || host.contains(".svc");
                    let count = self.objects.of("Service", &service.namespace).count();
                    let named = first.parse::<u8>().is_err() && first != "localhost";
                    let complains = is_sick || !sick.said.is_empty();
                    // A full name in the cluster means a Service, though nobody misses it yet.
                    let full = host.contains(".svc") && count > 0 && self.is_snapshot();
                    if inside && named && (count > 1 && complains || full) {
                        let what = format!(
                            "{name} of {} names {host}, which does not exist",
                            sick.workload.path()
                        );
                        let mut found = self.found(
                            sick,
                            sick.workload.clone(),
                            "service_env_var_address_mismatch",
                            what,
                        );
                        let w = &weights().standing;
                        found.confidence = match (is_sick, complains) {
                            (true, _) => w.host_sick,
                            (_, true) => w.host,
                            _ => w.host_unmissed,
                        };
                        return Some(found);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// The names and values of the variables of a pod's containers.
pub(super) fn variables(spec: &Value) -> impl Iterator<Item = (&str, &str)> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(move |part| list(spec, &[part]))
        .flat_map(|container| list(container, &["env"]))
        .map(|variable| (text(variable, &["name"]), text(variable, &["value"])))
        .filter(|(_, value)| !value.is_empty())
}

/// The host and the port of an address or URL; `None` for what is none.
pub(super) fn host_port(value: &str) -> Option<(&str, Option<i64>)> {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split(['/', '?', ',']).next().unwrap_or_default();
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port.parse::<i64>().ok()?)),
        None => (rest, None),
    };
    let well = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && host.bytes().any(|b| b.is_ascii_alphabetic());
    well.then_some((host, port))
}
