//! Which workloads are under suspicion, and which objects can break them.
//!
//! What fails is explained downstream of it: a failing service by itself or by what it calls, a
//! workload by its own object, by what it reads, by the node it runs on. The graph stays in Rust;
//! the query is handed only the edges that matter now (the `reach` table).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tapio_proto::model::{Entity, Relation, Time};

use super::{
    arises,
    fills::FILLING,
    identity::{Identity, Many, Meant},
    rows::{Front, Reach},
    standing::STANDING,
    symptoms::{SILENCE, Symptoms},
};
use crate::{
    kubernetes::{Carriers, Cluster},
    streaming::Windows,
};

/// States of a workload that make it a suspect by itself, without anybody calling it.
pub const SICK_STATES: [&str; 14] = [
    STANDING,
    SILENCE,
    FILLING,
    "container.waiting",
    "container.terminated",
    "endpoints.empty",
    "pod.unschedulable",
    "pod.failed",
    "pod.evicted",
    "deployment.replica_failure",
    "pod.not_ready",
    arises::OWN_TIME,
    arises::WAY_TIME,
    arises::STEPS,
];

/// Who calls whom now, and which workload stands behind which service.
#[derive(Default)]
pub struct Graph {
    /// Caller to callees.
    callees: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Callee to callers.
    callers: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Service to workloads, the likeliest first.
    workloads: Many,
    /// Workload to services, the one that speaks for it first.
    services: Many,
    /// Hosts outside of what is known here, and who calls them.
    outside: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Services that fail a few requests more than usual, be it too few to be proven.
    erring: BTreeSet<Entity>,
}

impl Graph {
    /// The graph from the calls since `since`, with all services by their names here.
    pub fn new(windows: &Windows, identity: &Identity, since: Time) -> Self {
        let (workloads, services) = identity.all();
        let erring = windows.erring().clone();
        let mut graph = Graph { workloads, services, erring, ..Graph::default() };
        for (caller, callee) in windows.calls(since) {
            match callee {
                Meant::Outside(host) if looks_beyond(&host) => {
                    graph.outside.entry(host).or_default().insert(caller);
                }
                Meant::Inside(callee) | Meant::Outside(callee) if caller != callee => {
                    graph.callees.entry(caller.clone()).or_default().insert(callee.clone());
                    graph.callers.entry(callee).or_default().insert(caller);
                }
                _ => {}
            }
        }
        graph
    }

    /// Adds a call that metrics or logs tell of.
    pub fn calls(&mut self, caller: &Entity, callee: &Entity) {
        if callee.namespace.is_empty() && looks_beyond(callee) && !self.knows(callee) {
            self.outside.entry(callee.clone()).or_default().insert(caller.clone());
            return;
        }
        self.callees.entry(caller.clone()).or_default().insert(callee.clone());
        self.callers.entry(callee.clone()).or_default().insert(caller.clone());
    }

    /// Every call: the callee, or the host outside, and the caller.
    pub fn all_calls(&self) -> impl Iterator<Item = (&Entity, &Entity)> {
        let all = self.callers.iter().chain(&self.outside);
        all.flat_map(|(callee, callers)| callers.iter().map(move |caller| (callee, caller)))
    }

    /// The service and everything it calls, near before far.
    pub fn downstream(&self, service: &Entity) -> Vec<Entity> {
        walk(service, &self.callees)
    }

    /// The service and everything that calls it, near before far.
    pub fn upstream(&self, service: &Entity) -> Vec<Entity> {
        walk(service, &self.callers)
    }

    /// Does a workload serve requests that pass through the service, or send it some?
    fn works_for(&self, workload: &Entity, service: &Entity) -> bool {
        let (above, below) = (self.upstream(service), self.downstream(service));
        let related = above.iter().chain(&below);
        related.into_iter().any(|service| self.workloads(service).contains(workload))
    }

    /// May the service pass failures on: does it fail a few requests more than usual itself?
    pub fn passes_on(&self, service: &Entity) -> bool {
        self.erring.contains(service)
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

    /// The likeliest workload behind a service; the service itself where no cluster is known.
    pub fn workload(&self, service: &Entity) -> Entity {
        self.workloads.get(service).and_then(|all| all.first()).unwrap_or(service).clone()
    }

    /// All workloads behind a service.
    pub fn workloads(&self, service: &Entity) -> Vec<Entity> {
        let all = self.workloads.get(service).filter(|all| !all.is_empty());
        all.cloned().unwrap_or_else(|| vec![service.clone()])
    }

    /// The service that speaks for a workload; by name where none is known.
    pub fn service(&self, workload: &Entity) -> Entity {
        let front = self.services.get(workload).and_then(|all| all.first()).cloned();
        front.unwrap_or_else(|| Entity::new("Service", &workload.namespace, &workload.name))
    }

    /// All services that a workload runs as.
    pub fn services(&self, workload: &Entity) -> Vec<Entity> {
        let all = self.services.get(workload).filter(|all| !all.is_empty());
        all.cloned().unwrap_or_else(|| vec![self.service(workload)])
    }

    /// Is the service seen to call, to be called or to run?
    pub fn knows(&self, service: &Entity) -> bool {
        self.callees.contains_key(service)
            || self.callers.contains_key(service)
            || self.workloads.contains_key(service)
    }

    /// The service whose name a text holds; of several the longest.
    pub fn named(&self, text: &str) -> Option<Entity> {
        let text = text.to_lowercase();
        let known = self.callees.keys().chain(self.callers.keys()).chain(self.workloads.keys());
        let named = known.filter(|s| {
            let name = s.name.to_lowercase();
            text.match_indices(&name).any(|(at, _)| {
                let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
                apart(text[..at].chars().next_back())
                    && apart(text[at + name.len()..].chars().next())
            })
        });
        named.max_by_key(|s| s.name.len()).cloned()
    }
}

/// Is this the name or the address of a host that is not one of the cluster's own?
fn looks_beyond(host: &Entity) -> bool {
    match host.name.parse() {
        Ok(IpAddr::V4(ip)) => !(ip.is_private() || ip.is_loopback() || ip.is_link_local()),
        Ok(IpAddr::V6(ip)) => !(ip.is_unique_local() || ip.is_loopback()),
        Err(_) => is_domain(host),
    }
}

/// Is this the name of a host in a domain?
pub fn is_domain(host: &Entity) -> bool {
    let last = host.name.rsplit_once('.').map_or("", |(_, last)| last);
    last.bytes().any(|b| b.is_ascii_alphabetic())
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

/// Services that fail now, by their own spans or by their callers', and since when.
pub fn failing(symptoms: &Symptoms) -> BTreeMap<Entity, Time> {
    let mut failing: BTreeMap<Entity, Time> = BTreeMap::new();
    for active in symptoms.iter() {
        if matches!(
            active.symptom.kind.as_str(),
            "error_ratio" | "latency" | "call_errors" | "log_errors" | "alert"
        ) && active.times >= 2
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

/// Workloads that fail those who ask them with errors, or are in a bad state (true), and since when.
pub fn fails(symptoms: &Symptoms, graph: &Graph) -> BTreeMap<Entity, (Time, bool)> {
    let mut fails: BTreeMap<Entity, (Time, bool)> = BTreeMap::new();
    for active in symptoms.iter() {
        let kind = active.symptom.kind.as_str();
        let measured = [arises::OWN_TIME, arises::WAY_TIME, arises::STEPS].contains(&kind);
        let sick = SICK_STATES.contains(&kind) && !measured && ![FILLING, SILENCE].contains(&kind);
        if !sick && !matches!(kind, "error_ratio" | "call_errors" | "log_errors") {
            continue;
        }
        let entity = active.entity();
        let workload = active.workload.clone().unwrap_or_else(|| graph.workload(&entity));
        let known = fails.entry(workload).or_insert((active.symptom.onset, sick));
        *known = (known.0.min(active.symptom.onset), known.1 || sick);
    }
    fails
}

/// The `reach` and `fronts` tables: for each suspect, everything that can break it, and the services
/// that it runs as.
pub fn reach(
    failing: &BTreeMap<Entity, Time>,
    sick: &BTreeMap<Entity, Time>,
    graph: &Graph,
    cluster: &Cluster,
) -> (Vec<Reach>, Vec<Front>) {
    let mut suspects: BTreeSet<Entity> = sick.keys().cloned().collect();
    for service in failing.keys() {
        suspects.extend(graph.downstream(service).iter().flat_map(|s| graph.workloads(s)));
    }
    let resolver = cluster.resolver();
    let carriers = if suspects.is_empty() { Carriers::new() } else { cluster.carriers() };
    let of_resolver = resolver.as_ref().map(|dns| cluster.upstream(dns, &carriers));
    let (mut rows, mut fronts) = (BTreeSet::new(), BTreeSet::new());
    for workload in &suspects {
        let services = graph.services(workload);
        for service in &services {
            fronts.insert(Front {
                workload_kind: workload.kind.to_string(),
                workload_namespace: workload.namespace.to_string(),
                workload_name: workload.name.to_string(),
                service: service.name.to_string(),
            });
        }
        // Of its names the one that fails.
        let fails = services.iter().find(|service| failing.contains_key(service));
        let service = fails.cloned().unwrap_or_else(|| graph.service(workload));
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
        for service in &services {
            add(service, "selects");
            let callees = graph.callees(service).chain(graph.hosts(service));
            for callee in callees.filter(|callee| !services.contains(callee)) {
                add(callee, "calls");
            }
        }
        for (relation, cause) in cluster.upstream(workload, &carriers) {
            // Who asks, or is asked, has work to do because of what is wrong, or brings it.
            if relation != Relation::Crowds || !graph.works_for(&cause, &service) {
                add(&cause, relation.name());
            }
        }
        if let Some(dns) = resolver.as_ref().filter(|dns| *dns != workload) {
            add(dns, "resolves");
            for (relation, cause) in of_resolver.iter().flatten() {
                if relation.name().starts_with("uses_") {
                    add(cause, "resolves");
                }
            }
        }
    }
    (rows.into_iter().collect(), fronts.into_iter().collect())
}
