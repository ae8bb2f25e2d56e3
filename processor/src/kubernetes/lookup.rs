//! What can be asked about a cluster: how its objects hang together now.

use std::collections::BTreeSet;

use serde_json::Value;
use tapio_proto::model::{Entity, Relation};

use super::{
    cluster::Cluster,
    links,
    objects::pod_template,
    owners,
    value::{at, list, quantity, text},
};

impl Cluster {
    /// What the object was when it was last seen, without what is large and tells nothing; also
    /// for a while after it was deleted. Values of Secrets are not in it.
    pub fn object(&self, entity: &Entity) -> Option<&Value> {
        self.objects.get(entity).map(|object| &*object.value)
    }

    /// Is the object there, as far as is known?
    pub fn exists(&self, entity: &Entity) -> bool {
        self.objects.alive(entity).is_some()
    }

    /// The workload that a pod belongs to: by owner references where the pod was seen, else by how
    /// controllers name pods. `None` when neither tells.
    pub fn workload_of(&self, namespace: &str, pod: &str) -> Option<Entity> {
        let entity = Entity::new("Pod", namespace, pod);
        let value = self.objects.get(&entity).map(|object| &*object.value);
        let top = owners::top(&self.objects, &entity, value);
        (top != entity || value.is_some()).then_some(top)
    }

    /// The workload that an object belongs to or is; `None` for what runs nothing.
    pub(super) fn workload_above(&self, entity: &Entity) -> Option<Entity> {
        const WORKLOADS: [&str; 6] =
            ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];
        let value = self.objects.get(entity).map(|object| &*object.value);
        let top = owners::top(&self.objects, entity, value);
        let runs = || {
            self.objects
                .get(&top)
                .is_some_and(|object| pod_template(&top.kind, &object.value).is_some())
        };
        (&*top.kind != "Pod" && (WORKLOADS.contains(&&*top.kind) || runs())).then_some(top)
    }

    /// The Services whose selector matches the labels that the workload gives its pods; this needs
    /// no pod to be left.
    pub fn services_of(&self, workload: &Entity) -> Vec<Entity> {
        let Some(object) = self.objects.get(workload) else { return Vec::new() };
        let services = self.objects.of("Service", &workload.namespace);
        services
            .filter(|(_, service)| links::selects(&service.value, &workload.kind, &object.value))
            .map(|(service, _)| service.clone())
            .collect()
    }

    /// The workloads whose pods the Service selects.
    pub fn workloads_of(&self, service: &Entity) -> Vec<Entity> {
        let workloads = self.objects.workloads(&service.namespace);
        workloads
            .filter(|(workload, object)| {
                object.links.contains(&(
                    Relation::Selects,
                    Entity::clone(workload),
                    service.clone(),
                ))
            })
            .map(|(workload, _)| workload.clone())
            .collect()
    }

    /// All Services that are there.
    pub fn services(&self) -> Vec<Entity> {
        self.objects.of_kind("Service").cloned().collect()
    }

    /// The workload that resolves names for the cluster: the one behind the Service `kube-dns`, as
    /// it is called whatever serves it (Kubernetes DNS specification, `kube-system`).
    pub fn resolver(&self) -> Option<Entity> {
        self.workloads_of(&Entity::new("Service", "kube-system", "kube-dns")).into_iter().next()
    }

    /// Everything by which a workload can be broken, with how it bears on it: itself, what it
    /// refers to (also what does not exist any more), the Services that select it, what scales it and
    /// limits it, the nodes of its pods and the claims these mount. Sorted, each once.
    pub fn upstream(&self, workload: &Entity) -> Vec<(Relation, Entity)> {
        let mut found = BTreeSet::from([(Relation::Owns, workload.clone())]);
        let namespace = &*workload.namespace;
        if let Some(object) = self.objects.get(workload) {
            found.extend(links::references(&workload.kind, &object.value, namespace));
        }
        found.extend(
            self.services_of(workload).into_iter().map(|service| (Relation::Selects, service)),
        );
        for kind in links::LIMITS {
            found.extend(
                self.objects
                    .of(kind, namespace)
                    .map(|(limit, _)| (Relation::Limits, limit.clone())),
            );
        }
        for (scaler, object) in self.objects.of("HorizontalPodAutoscaler", namespace) {
            if object
                .links
                .iter()
                .any(|(relation, _, to)| *relation == Relation::Scales && to == workload)
            {
                found.insert((Relation::Scales, scaler.clone()));
            }
        }
        for (pod, object) in self.objects.of("Pod", namespace) {
            if owners::top(&self.objects, pod, Some(&object.value)) == *workload {
                let carriers = object.links.iter().filter(|(relation, ..)| {
                    matches!(relation, Relation::RunsOn | Relation::Mounts)
                });
                found.extend(carriers.map(|(relation, from, _)| (*relation, from.clone())));
            }
        }
        found.into_iter().collect()
    }

    /// The memory limit of a container in bytes, if it has one: as the pod has it, else as its
    /// workload's template, else as the `k8s_cluster` metrics say. An empty name is the pod's first
    /// container.
    pub fn memory_limit(&self, namespace: &str, pod: &str, container: &str) -> Option<f64> {
        self.limit("memory", namespace, pod, container)
    }

    /// The CPU limit of a container in cores, if it has one; see [`Cluster::memory_limit`].
    pub fn cpu_limit(&self, namespace: &str, pod: &str, container: &str) -> Option<f64> {
        self.limit("cpu", namespace, pod, container)
    }

    fn limit(&self, resource: &str, namespace: &str, pod: &str, container: &str) -> Option<f64> {
        let entity = Entity::new("Pod", namespace, pod);
        let of_template = |entity: &Entity| {
            let object = self.objects.get(entity)?;
            let (_, spec) = pod_template(&entity.kind, &object.value)?;
            let wanted =
                |found: &&Value| container.is_empty() || text(found, &["name"]) == container;
            let found = list(spec, &["containers"]).iter().find(wanted)?;
            at(found, &["resources", "limits", resource]).and_then(quantity)
        };
        of_template(&entity)
            .or_else(|| of_template(&self.workload_of(namespace, pod)?))
            .or_else(|| self.metrics.limit(resource, namespace, pod, container))
    }
}
