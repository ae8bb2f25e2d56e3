//! What can be asked about a cluster: how its objects hang together now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    sync::Arc,
};

use serde_json::Value;
use tapio_proto::model::{Entity, Relation, Time};

use super::{
    cluster::Cluster,
    links,
    objects::{Link, pod_template},
    owners, rules,
    value::{at, list, quantity, text},
};

/// By workload, the nodes and the claims that its pods stand on.
pub type Carriers = BTreeMap<Entity, BTreeSet<(Relation, Entity)>>;

impl Cluster {
    /// What the object was when it was last seen, without what is large and tells nothing; also
    /// for a while after it was deleted. Values of Secrets are not in it.
    pub fn object(&self, entity: &Entity) -> Option<&Value> {
        self.objects.get(entity).map(|object| &*object.value)
    }

    /// When the first object was seen.
    pub fn began(&self) -> Option<Time> {
        self.started
    }

    /// Was nothing seen but what there is: no object changed or went?
    pub fn is_snapshot(&self) -> bool {
        !self.moved
    }

    /// Is the object there, as far as is known?
    pub fn exists(&self, entity: &Entity) -> bool {
        self.objects.alive(entity).is_some()
    }

    /// The workload that a pod belongs to: by owner references where the pod was seen, else by how
    /// controllers name pods. `None` when neither tells.
    pub fn workload_of(&self, namespace: &str, pod: &str) -> Option<Entity> {
        let entity = Entity::new("Pod", namespace, pod);
        let top = owners::top(&self.objects, &entity);
        (top != entity || self.objects.get(&entity).is_some()).then_some(top)
    }

    /// The workload of a pod as [`Cluster::workload_of`] has it; a pod that is not seen and whose name tells no
    /// workload stands for itself.
    pub fn bearer(&self, namespace: &str, pod: &str) -> Option<Entity> {
        let known = self.workload_of(namespace, pod);
        known.or_else(|| self.unowned(&Entity::new("Pod", namespace, pod)))
    }

    /// Of a pod of which nothing is known the Deployment, where its name ends in two parts as if generated; else
    /// itself.
    pub(super) fn unowned(&self, entity: &Entity) -> Option<Entity> {
        let known = &*entity.kind != "Pod" || self.objects.get(entity).is_some();
        if known || entity.name.is_empty() {
            return None;
        }
        let generated = |part: &str, length: RangeInclusive<usize>| {
            let plain = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            plain && length.contains(&part.len())
        };
        let parts = entity.name.rsplit_once('-').and_then(|(rest, tail)| {
            let (owner, hash) = rest.rsplit_once('-')?;
            let hashed = generated(hash, 8..=10) && hash.bytes().any(|b| b.is_ascii_digit());
            (generated(tail, 5..=5) && hashed).then_some(owner)
        });
        Some(match parts {
            Some(owner) => Entity::new("Deployment", &entity.namespace, owner),
            None => entity.clone(),
        })
    }

    /// The workload that an object belongs to or is; `None` for what runs nothing.
    pub(super) fn workload_above(&self, entity: &Entity) -> Option<Entity> {
        const WORKLOADS: [&str; 6] =
            ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];
        let top = owners::top(&self.objects, entity);
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

    /// The Services that are there, with the workloads whose pods they select.
    pub fn selected(&self) -> BTreeMap<Entity, Vec<Entity>> {
        let mut selected: BTreeMap<Entity, Vec<Entity>> = BTreeMap::new();
        for (workload, object) in self.objects.all_workloads() {
            for (relation, _, service) in &object.links {
                if *relation == Relation::Selects {
                    selected.entry(service.clone()).or_default().push(workload.clone());
                }
            }
        }
        selected
    }

    /// The workloads by the names under which their telemetry may come: as their containers declare it
    /// (`OTEL_SERVICE_NAME`), as they or their Services are called, as they are labelled.
    pub fn running(&self) -> [BTreeMap<Arc<str>, BTreeSet<Entity>>; 3] {
        let mut names: [BTreeMap<Arc<str>, BTreeSet<Entity>>; 3] = Default::default();
        let [declared, called, labelled] = &mut names;
        for (workload, object) in self.objects.all_workloads() {
            let add = |names: &mut BTreeMap<Arc<str>, BTreeSet<Entity>>, name: &str| {
                if !name.is_empty() {
                    names.entry(name.into()).or_default().insert(workload.clone());
                }
            };
            add(called, &workload.name);
            for (relation, _, service) in &object.links {
                if *relation == Relation::Selects {
                    add(called, &service.name);
                }
            }
            let Some((labels, spec)) = pod_template(&workload.kind, &object.value) else {
                continue;
            };
            let label = labels.and_then(|labels| labels.get("app.kubernetes.io/name"));
            add(labelled, label.and_then(Value::as_str).unwrap_or_default());
            for container in list(spec, &["containers"]) {
                for variable in list(container, &["env"]) {
                    if text(variable, &["name"]) == "OTEL_SERVICE_NAME" {
                        add(declared, text(variable, &["value"]));
                    }
                }
            }
        }
        names
    }

    /// Does anything run in the namespace?
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.objects.workloads(namespace).next().is_some()
    }

    /// The pod of this name, where only one namespace has one.
    pub fn pod_named(&self, name: &str) -> Option<Entity> {
        if name.is_empty() {
            return None;
        }
        let pods = self.objects.namespaces().map(|namespace| Entity::new("Pod", namespace, name));
        let mut pods = pods.filter(|pod| self.objects.alive(pod).is_some());
        let pod = pods.next()?;
        pods.next().is_none().then_some(pod)
    }

    /// IP addresses, with the Service or the workload whose they are. Pods on their node's own network
    /// have none of their own.
    pub fn addresses(&self) -> BTreeMap<IpAddr, Entity> {
        let mut ips = BTreeMap::new();
        let mut add = |ip: Option<&str>, owner: &Entity| {
            if let Some(Ok(ip)) = ip.map(str::parse::<IpAddr>) {
                ips.insert(ip.to_canonical(), owner.clone());
            }
        };
        for pod in self.objects.of_kind("Pod") {
            let Some(value) = self.object(pod) else { continue };
            let over = matches!(text(value, &["status", "phase"]), "Succeeded" | "Failed");
            if over || super::value::boolean(value, &["spec", "hostNetwork"]) == Some(true) {
                continue;
            }
            let workload = owners::top(&self.objects, pod);
            add(at(value, &["status", "podIP"]).and_then(Value::as_str), &workload);
            for ip in list(value, &["status", "podIPs"]) {
                add(Some(text(ip, &["ip"])), &workload);
            }
        }
        for service in self.objects.of_kind("Service") {
            let Some(value) = self.object(service) else { continue };
            add(at(value, &["spec", "clusterIP"]).and_then(Value::as_str), service);
            for part in ["clusterIPs", "externalIPs"] {
                for ip in list(value, &["spec", part]) {
                    add(ip.as_str(), service);
                }
            }
            for entry in list(value, &["status", "loadBalancer", "ingress"]) {
                add(Some(text(entry, &["ip"])), service);
            }
        }
        ips
    }

    /// The workload that resolves names for the cluster.
    pub fn resolver(&self) -> Option<Entity> {
        self.workloads_of(&links::resolver()).into_iter().next()
    }

    /// The CronJobs that last ran at `since` or later: when that was, and their schedules.
    pub fn scheduled_since(&self, since: Time) -> BTreeMap<Entity, (Time, String)> {
        let ran = |cron: &Entity| {
            let value = self.object(cron)?;
            let ran = Time::parse_rfc3339(text(value, &["status", "lastScheduleTime"]))?;
            let schedule = text(value, &["spec", "schedule"]).to_owned();
            (ran >= since).then(|| (cron.clone(), (ran, schedule)))
        };
        self.objects.of_kind("CronJob").filter_map(ran).collect()
    }

    /// By workload, what its pods stand on: their nodes, and the claims that they mount; for pods that wait for a
    /// node those that are closed to them.
    pub fn carriers(&self) -> Carriers {
        let mut carriers = Carriers::new();
        let mut closed = None;
        for pod in self.objects.of_kind("Pod") {
            let Some(object) = self.objects.alive(pod) else { continue };
            let carry = |relation| matches!(relation, Relation::RunsOn | Relation::Mounts);
            let mut stand =
                object.links.iter().filter(|(relation, ..)| carry(*relation)).peekable();
            let waits = text(&object.value, &["spec", "nodeName"]).is_empty();
            if stand.peek().is_some() || waits {
                let on = carriers.entry(owners::top(&self.objects, pod)).or_default();
                on.extend(stand.map(|(relation, from, _)| (*relation, from.clone())));
                if waits {
                    let closed = closed.get_or_insert_with(|| self.closed_nodes());
                    on.extend(closed.iter().map(|node| (Relation::RunsOn, node.clone())));
                }
            }
        }
        carriers
    }

    /// Nodes that take no new pod, or none without a toleration.
    fn closed_nodes(&self) -> Vec<Entity> {
        let is_closed = |node: &&Entity| {
            self.object(node).is_some_and(|value| {
                let keeps_out = |taint: &Value| text(taint, &["effect"]).starts_with("No");
                super::value::boolean(value, &["spec", "unschedulable"]) == Some(true)
                    || list(value, &["spec", "taints"]).iter().any(keeps_out)
            })
        };
        self.objects.of_kind("Node").filter(is_closed).cloned().collect()
    }

    /// Everything by which a workload can be broken, with how it bears on it: itself, what it
    /// refers to (also what does not exist any more), the Services that select it, the routes to these, also one
    /// that led there until it was changed, what scales it, limits it, filters its traffic, grants it rights and admits its pods, the nodes of its pods and
    /// the claims these mount (`carriers`). Sorted, each once.
    pub fn upstream(&self, workload: &Entity, carriers: &Carriers) -> Vec<(Relation, Entity)> {
        let mut found = BTreeSet::from([(Relation::Owns, workload.clone())]);
        let namespace = &*workload.namespace;
        if let Some(object) = self.objects.get(workload) {
            found.extend(links::references(&workload.kind, &object.value, namespace));
            found.extend(self.policies(workload, &object.value));
        }
        let services = self.services_of(workload);
        found.extend(services.iter().map(|service| (Relation::Selects, service.clone())));
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
                // The APIs from which it reads what it scales by.
                let apis = self.objects.of_kind("APIService");
                let measures = apis.filter(|api| api.name.ends_with(".metrics.k8s.io"));
                found.extend(measures.map(|api| (Relation::Scales, api.clone())));
            }
        }
        for kind in links::ROUTES {
            for (route, object) in self.objects.of(kind, namespace) {
                let to = |(_, from, _): &Link| services.contains(from);
                if object.links.iter().any(to) {
                    found.insert((Relation::Routes, route.clone()));
                }
            }
        }
        let routes = services.iter().map(|service| (Relation::Routes, service.clone()));
        for was in routes.chain([(Relation::Grants, workload.clone())]) {
            let parted = self.parted.get(&was).cloned().flatten();
            found.extend(parted.map(|by| (was.0, by)));
        }
        let displaced = self.displaced.get(workload).cloned().flatten();
        found.extend(displaced.map(|by| (Relation::Displaces, by)));
        for (relation, on) in carriers.get(workload).into_iter().flatten() {
            let taken = self.crowded.get(on).and_then(Option::as_ref);
            let by = taken.map(|(by, _)| by).filter(|by| *by != workload);
            found.extend(by.map(|by| (Relation::Crowds, by.clone())));
            found.insert((*relation, on.clone()));
        }
        found.into_iter().collect()
    }

    /// What the cluster's rules say of a workload: policies that filter its traffic, bindings that grant
    /// its ServiceAccount rights, webhooks that are asked about its pods, its namespace. Also rules that
    /// were deleted: their going is what may be felt.
    fn policies(&self, workload: &Entity, value: &Value) -> Vec<(Relation, Entity)> {
        let namespace = &*workload.namespace;
        let mut found = vec![(Relation::Limits, Entity::new("Namespace", "", namespace))];
        for (rule, object) in rules::RULES.into_iter().flat_map(|kind| self.objects.ever_of(kind)) {
            let Some(relation) = rules::ruled(rule, &object.value, workload, value) else {
                continue;
            };
            found.push((relation, rule.clone()));
            match relation {
                Relation::Grants => found.push((relation, rules::role(rule, &object.value))),
                Relation::Admits => {
                    found.extend(rules::asked(&object.value).map(|service| (relation, service)))
                }
                _ => {}
            }
        }
        found
    }

    /// The memory limit of a container in bytes, if it has one: as the pod has it, else as its
    /// workload's template, else as the `k8s_cluster` metrics say. An empty name is the pod's first
    /// container.
    pub fn memory_limit(&self, namespace: &str, pod: &str, container: &str) -> Option<f64> {
        self.limit("memory", namespace, pod, container)
    }

    /// The node that a pod is on, how many cores the node has, and since when the pod is there.
    pub fn place(&self, namespace: &str, pod: &str) -> Option<(Entity, f64, Option<Time>)> {
        let pod = &self.objects.alive(&Entity::new("Pod", namespace, pod))?.value;
        let node = Entity::new("Node", "", text(pod, &["spec", "nodeName"]));
        let cores = at(self.object(&node)?, &["status", "capacity", "cpu"]).and_then(quantity)?;
        let made = Time::parse_rfc3339(text(pod, &["metadata", "creationTimestamp"]));
        Some((node, cores, made))
    }

    /// The node that a pod is on.
    pub fn node_of(&self, pod: &Entity) -> Option<Entity> {
        let name = text(&self.objects.get(pod)?.value, &["spec", "nodeName"]);
        (!name.is_empty()).then(|| Entity::new("Node", "", name))
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
