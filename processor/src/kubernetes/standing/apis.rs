//! What others ask that is not well: the API server's extensions, and who makes devices known. Where these fail
//! what others say of it is only an effect.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{
    Finding,
    address::{host_port, variables},
    beneath::follows,
    sick::statuses,
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        objects::pod_template,
        value::{boolean, list, text},
    },
};

/// Proxies of meshes, and how the workloads are named that tell them what to do.
const PROXIES: [(&str, &str); 3] = [
    ("istio-proxy", "istiod"),
    ("linkerd-proxy", "linkerd-"),
    ("kuma-sidecar", "kuma-control-plane"),
];

/// The pattern of a workload that only says that it is not ready.
const UNREADY: &str = "reports_not_ready";

impl Cluster {
    /// Lays what lacks an API of an extension to who should serve it.
    pub(super) fn apis(&self, out: &mut [Finding]) {
        for api in self.objects.of_kind("APIService") {
            let Some(value) = self.object(api) else { continue };
            let away = list(value, &["status", "conditions"])
                .iter()
                .any(|of| text(of, &["type"]) == "Available" && text(of, &["status"]) == "False");
            let group = text(value, &["spec", "group"]);
            if !away || group.is_empty() {
                continue;
            }
            let of = |key| text(value, &["spec", "service", key]);
            let service = Entity::new("Service", of("namespace"), of("name"));
            let behind = self.workloads_of(&service);
            let roots = out.iter().filter(|found| behind.contains(&found.workload));
            let Some(root) = surest(roots) else { continue };
            for found in out.iter_mut().filter(|found| found.workload != root.workload) {
                let lacks = match found.pattern.as_str() {
                    "autoscaler_blind" => {
                        found.what.contains(group)
                            || group == "metrics.k8s.io" && found.what.contains("resource")
                    }
                    "namespace_terminating" => found.what.contains(group),
                    _ => false,
                };
                if lacks {
                    let what = format!("{}, which {} serves", found.what, root.workload.path());
                    follows(found, &root, what);
                }
            }
        }
    }

    /// Is this the Service of an extension of the API server?
    pub(super) fn serves_an_api(&self, service: &Entity) -> bool {
        self.objects.of_kind("APIService").filter_map(|api| self.object(api)).any(|api| {
            text(api, &["spec", "service", "name"]) == &*service.name
                && text(api, &["spec", "service", "namespace"]) == &*service.namespace
        })
    }

    /// Lays what finds no device to who should make the devices of the nodes known.
    pub(super) fn devices(&self, out: &mut [Finding]) {
        let plugin = |found: &&Finding| {
            &*found.workload.kind == "DaemonSet" && found.workload.name.contains("device-plugin")
        };
        let plugins: Vec<Finding> = out.iter().filter(plugin).cloned().collect();
        for plugin in plugins {
            let maker = plugin.workload.name.split('-').next().unwrap_or_default();
            let mut asked = false;
            for found in out.iter_mut().filter(|found| found.pattern == "failed_scheduling") {
                let lacks = found.what.split("Insufficient ").skip(1).any(|rest| {
                    let resource = rest.split([',', ' ']).next().unwrap_or_default();
                    resource.split_once('/').is_some_and(|(of, _)| of.starts_with(maker))
                });
                if lacks {
                    let mut root = plugin.clone();
                    root.confidence = root.confidence.max(weights().standing.probe);
                    let what = format!(
                        "{} makes no devices known: {}",
                        plugin.workload.path(),
                        found.what
                    );
                    follows(found, &root, what);
                    asked = true;
                }
            }
            if asked {
                let own = out.iter_mut().filter(|found| found.workload == plugin.workload);
                own.for_each(|own| own.confidence = own.confidence.max(weights().standing.probe));
            }
        }
    }

    /// Lays it to the control plane of a mesh where of a pod only the proxy is not ready.
    pub(super) fn proxies(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        out: &mut [Finding],
    ) {
        for (proxy, plane) in PROXIES {
            let root = out.iter().find(|found| found.workload.name.starts_with(plane));
            let Some(root) = root.cloned() else { continue };
            let only = |(_, pod): &(&Entity, &Value)| {
                let mut not_ready =
                    statuses(pod).filter(|of| boolean(of, &["ready"]) == Some(false)).peekable();
                not_ready.peek().is_some() && not_ready.all(|of| text(of, &["name"]) == proxy)
            };
            let waits = |found: &&mut Finding| {
                found.workload.namespace != root.workload.namespace
                    && pods.get(&found.workload).is_some_and(|all| all.iter().any(only))
            };
            for found in out.iter_mut().filter(waits) {
                let what = format!(
                    "the proxy of {} is not ready, and {} is not either: {}",
                    found.workload.path(),
                    root.workload.path(),
                    found.what
                );
                follows(found, &root, what);
            }
        }
    }

    /// Lays it to what a workload asks by its environment, where it only says that it is not ready and that is not
    /// well.
    pub(super) fn needs(&self, out: &mut [Finding]) {
        let worth = weights().judgement.worth;
        for at in 0..out.len() {
            let found = &out[at];
            let object = self.objects.get(&found.workload).filter(|_| found.pattern == UNREADY);
            let template = object.and_then(|of| pod_template(&found.workload.kind, &of.value));
            let Some((_, spec)) = template else { continue };
            let hosts = variables(spec).filter_map(|(_, value)| host_port(value));
            let behind = hosts.flat_map(|(host, _)| {
                let mut labels = host.split('.');
                let name = labels.next().unwrap_or_default();
                let space = labels.next().unwrap_or(&found.workload.namespace);
                self.workloads_of(&Entity::new("Service", space, name))
            });
            let behind: Vec<Entity> = behind.filter(|of| *of != found.workload).collect();
            let sick = |other: &&Finding| {
                behind.contains(&other.workload)
                    && other.pattern != UNREADY
                    && other.confidence >= worth
            };
            let roots = out.iter().filter(sick);
            let Some(root) = surest(roots) else { continue };
            let found = &mut out[at];
            let what = format!(
                "{} needs {}, and is not ready: {}",
                found.workload.path(),
                root.workload.path(),
                found.what
            );
            follows(found, &root, what);
        }
    }
}

fn surest<'a>(all: impl Iterator<Item = &'a Finding>) -> Option<Finding> {
    all.max_by(|a, b| a.confidence.total_cmp(&b.confidence)).cloned()
}
