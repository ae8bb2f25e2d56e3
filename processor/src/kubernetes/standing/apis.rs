//! What others ask that is not well: the API server's extensions, and who makes devices known. Where these fail
//! what others say of it is only an effect.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{Finding, beneath::follows, sick::statuses};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{boolean, list, text},
    },
};

/// Proxies of meshes, and how the workloads are named that tell them what to do.
const PROXIES: [(&str, &str); 3] = [
    ("istio-proxy", "istiod"),
    ("linkerd-proxy", "linkerd-"),
    ("kuma-sidecar", "kuma-control-plane"),
];

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
            let root = roots.max_by(|a, b| a.confidence.total_cmp(&b.confidence));
            let Some(root) = root.cloned() else { continue };
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
}
