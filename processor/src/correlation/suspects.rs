//! Which workloads are under suspicion, and which objects can break them.
//!
//! What fails is explained downstream of it: a failing service by itself or by what it calls, a
//! workload by its own object, by what it reads, by the node it runs on. The graph stays in Rust;
//! the query is handed only the edges that matter now (the `reach` table).

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::model::{Entity, Time};

use super::{rows::Reach, symptoms::Symptoms};
use crate::{kubernetes::Cluster, streaming::Windows};

/// States of a workload that make it a suspect by itself, without anybody calling it.
const SICK_STATES: [&str; 7] = [
    "container.waiting",
    "container.terminated",
    "endpoints.empty",
    "pod.unschedulable",
    "pod.failed",
    "deployment.replica_failure",
    "pod.not_ready",
];

/// Who calls whom now, and which workload stands behind which service.
#[derive(Default)]
pub struct Graph {
    /// Caller to callees.
    callees: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Callee to callers.
    callers: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Service to workload.
    workloads: BTreeMap<Entity, Entity>,
    /// Hosts outside of what is known here, and who calls them.
    outside: BTreeMap<Entity, BTreeSet<Entity>>,
}

impl Graph {
    /// The graph from the calls since `since` and the workloads that each service was seen on.
    pub fn new(
        windows: &Windows,
        owners: &BTreeMap<Entity, Entity>,
        cluster: &Cluster,
        since: Time,
    ) -> Self {
        let known: BTreeSet<Entity> = windows
            .services()
            .into_iter()
            .map(|(namespace, name)| Entity::new("Service", &namespace, &name))
            .collect();
        let mut graph = Graph::default();
        for (service, workload) in owners {
            graph.workloads.insert(service.clone(), workload.clone());
        }
        for (edge, _) in windows.calls(since) {
            let caller = Entity::new("Service", &edge.namespace, &edge.caller);
            let Some(callee) = resolve(&edge.callee, &edge.namespace, &known, cluster) else {
                let host = Entity::new("Service", &edge.namespace, &edge.callee);
                graph.outside.entry(host).or_default().insert(caller);
                continue;
            };
            if caller != callee {
                graph.callees.entry(caller.clone()).or_default().insert(callee.clone());
                graph.callers.entry(callee).or_default().insert(caller);
            }
        }
        for service in cluster.services() {
            if let Some(workload) = cluster.workloads_of(&service).into_iter().next() {
                graph.workloads.entry(service).or_insert(workload);
            }
        }
        graph
    }

    /// The service and everything it calls, near before far.
    pub fn downstream(&self, service: &Entity) -> Vec<Entity> {
        walk(service, &self.callees)
    }

    /// The service and everything that calls it, near before far.
    pub fn upstream(&self, service: &Entity) -> Vec<Entity> {
        walk(service, &self.callers)
    }

    /// Does anything inside call this service?
    pub fn is_called(&self, service: &Entity) -> bool {
        self.callers.contains_key(service)
    }

    /// Direct callers.
    pub fn callers(&self, service: &Entity) -> impl Iterator<Item = &Entity> {
        self.callers.get(service).into_iter().flatten()
    }

    /// Who calls a host outside of what is known here; `None` when it is no such host.
    pub fn outside(&self, host: &Entity) -> Option<&BTreeSet<Entity>> {
        self.outside.get(host)
    }

    /// The hosts outside that a service calls.
    pub fn hosts<'a>(&'a self, service: &'a Entity) -> impl Iterator<Item = &'a Entity> {
        self.outside.iter().filter(|(_, callers)| callers.contains(service)).map(|(host, _)| host)
    }

    /// Direct callees.
    pub fn callees(&self, service: &Entity) -> impl Iterator<Item = &Entity> {
        self.callees.get(service).into_iter().flatten()
    }

    /// The workload behind a service; the service itself where no cluster is known.
    pub fn workload(&self, service: &Entity) -> Entity {
        self.workloads.get(service).unwrap_or(service).clone()
    }

    /// The service in front of a workload; by name where none is known.
    pub fn service(&self, workload: &Entity) -> Entity {
        let front =
            self.workloads.iter().find(|(_, w)| *w == workload).map(|(service, _)| service.clone());
        front.unwrap_or_else(|| Entity::new("Service", &workload.namespace, &workload.name))
    }
}

fn walk(from: &Entity, edges: &BTreeMap<Entity, BTreeSet<Entity>>) -> Vec<Entity> {
    let mut order = vec![from.clone()];
    let mut seen = BTreeSet::from([from.clone()]);
    let mut next = 0;
    while let Some(at) = order.get(next).cloned() {
        next += 1;
        for to in edges.get(&at).into_iter().flatten() {
            if seen.insert(to.clone()) {
                order.push(to.clone());
            }
        }
    }
    order
}

/// The service that an address means, seen from a namespace; a host that is none is left out here.
fn resolve(
    address: &str,
    namespace: &str,
    known: &BTreeSet<Entity>,
    cluster: &Cluster,
) -> Option<Entity> {
    let mut labels = address.split('.');
    let name = labels.next()?;
    let own = Entity::new("Service", namespace, name);
    let second = labels.next();
    let whole = Entity::new("Service", namespace, address);
    if known.contains(&whole) {
        return Some(whole);
    }
    match second {
        None => (known.contains(&own) || cluster.object(&own).is_some()).then_some(own),
        Some(second) => {
            let other = Entity::new("Service", second, name);
            (known.contains(&other) || cluster.object(&other).is_some()).then_some(other)
        }
    }
}

/// Services that fail now, by their own spans or by their callers', and since when.
pub fn failing(symptoms: &Symptoms) -> BTreeMap<Entity, Time> {
    let mut failing: BTreeMap<Entity, Time> = BTreeMap::new();
    for active in symptoms.iter() {
        if matches!(active.symptom.kind.as_str(), "error_ratio" | "latency" | "call_errors")
            && active.times >= 2
        {
            let onset = failing.entry(active.entity()).or_insert(active.symptom.onset);
            *onset = (*onset).min(active.symptom.onset);
        }
    }
    failing
}

/// Workloads that are in a bad state now, and since when.
pub fn sick(symptoms: &Symptoms, graph: &Graph) -> BTreeMap<Entity, Time> {
    let mut sick: BTreeMap<Entity, Time> = BTreeMap::new();
    for active in
        symptoms.iter().filter(|active| SICK_STATES.contains(&active.symptom.kind.as_str()))
    {
        let entity = active.entity();
        let workload = match &active.workload {
            Some(workload) => workload.clone(),
            None if &*entity.kind == "Service" => graph.workload(&entity),
            None => continue,
        };
        let onset = sick.entry(workload).or_insert(active.symptom.onset);
        *onset = (*onset).min(active.symptom.onset);
    }
    sick
}

/// The `reach` table: for each suspect, everything that can break it.
pub fn reach<'a>(
    failing: impl Iterator<Item = &'a Entity>,
    sick: impl Iterator<Item = &'a Entity>,
    graph: &Graph,
    cluster: &Cluster,
) -> Vec<Reach> {
    let mut suspects: BTreeSet<Entity> = sick.cloned().collect();
    for service in failing {
        suspects.extend(graph.downstream(service).iter().map(|s| graph.workload(s)));
    }
    let resolver = cluster.resolver();
    let mut rows = BTreeSet::new();
    for workload in &suspects {
        let service = graph.service(workload);
        let mut add = |cause: &Entity, relation: &str| {
            rows.insert(Reach {
                cause_kind: cause.kind.to_string(),
                cause_namespace: cause.namespace.to_string(),
                cause_name: cause.name.to_string(),
                relation: relation.to_owned(),
                workload_kind: workload.kind.to_string(),
                workload_namespace: workload.namespace.to_string(),
                workload_name: workload.name.to_string(),
                service: service.name.to_string(),
            });
        };
        add(workload, "self");
        add(&service, "selects");
        for callee in graph.callees(&service).chain(graph.hosts(&service)) {
            add(callee, "calls");
        }
        for (relation, cause) in cluster.upstream(workload) {
            add(&cause, relation.name());
        }
        if let Some(dns) = resolver.as_ref().filter(|dns| *dns != workload) {
            add(dns, "resolves");
            for (relation, cause) in cluster.upstream(dns) {
                if relation.name().starts_with("uses_") {
                    add(&cause, "resolves");
                }
            }
        }
    }
    rows.into_iter().collect()
}
