//! Services and routes that lead nowhere, NetworkPolicies that let too few in.

use std::collections::BTreeSet;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{
    Finding, Said, Watch, created,
    sick::Sick,
    ways::{End, Port},
    words,
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links,
        objects::pod_template,
        unfit,
        value::{at, list, number, plain, text},
    },
};

/// Words of somebody who got no answer at all.
const UNANSWERED: [&str; 4] = ["timeout", "timed out", "deadline exceeded", "no route to host"];

impl Cluster {
    /// Services and routes that lead nowhere.
    pub(super) fn routes(&self, said: &Said, now: Time, out: &mut Vec<Finding>) {
        self.balancers(said, now, out);
        for service in self.objects.of_kind("Service") {
            let Some(value) = self.object(service) else { continue };
            let selects = at(value, &["spec", "selector"]).and_then(Value::as_object);
            if selects.is_none_or(serde_json::Map::is_empty) {
                continue;
            }
            let since = created(value).unwrap_or(now).min(now);
            let behind = self.workloads_of(service);
            let mut tell = |workload: Entity, pattern: &str, what: String, confidence| {
                out.push(Finding {
                    object: service.clone(),
                    workload,
                    service: service.name.to_string(),
                    pattern: String::from(pattern),
                    advice: vec![format!(
                        "mend it: kubectl -n {} edit service {}",
                        service.namespace, service.name
                    )],
                    what,
                    confidence,
                    since,
                    ..Finding::default()
                });
            };
            let pods = self.objects.of("Pod", &service.namespace);
            let labelled = pods.filter(|(_, pod)| {
                links::matches(
                    at(value, &["spec", "selector"]),
                    at(&pod.value, &["metadata", "labels"]),
                )
            });
            if behind.is_empty() && labelled.count() == 0 {
                let alone = |(workload, _): &(&Entity, _)| self.services_of(workload).is_empty();
                let mut near = self.objects.workloads(&service.namespace).filter(alone);
                let like = |(workload, _): &(&Entity, _)| {
                    workload.name == service.name
                        || workload.name.starts_with(&*service.name)
                        || service.name.starts_with(&*workload.name)
                };
                let Some((workload, _)) = near.find(like) else { continue };
                let what = format!(
                    "Service {} selects no pod, though {} runs",
                    service.name,
                    workload.path()
                );
                tell(
                    workload.clone(),
                    "service_selector_mismatch",
                    what,
                    weights().standing.selects_nothing,
                );
                continue;
            }
            for workload in behind {
                let Some(object) = self.objects.get(&workload) else { continue };
                let Some((_, spec)) = pod_template(&workload.kind, &object.value) else { continue };
                if let Some((pattern, what)) = unfit::port(value, spec) {
                    let what = format!("Service {}: {what}", service.name);
                    tell(workload, pattern, what, weights().standing.wrong_port);
                    break;
                }
            }
        }
        for kind in ["Ingress", "HTTPRoute", "VirtualService"] {
            for route in self.objects.of_kind(kind) {
                let Some(value) = self.object(route) else { continue };
                out.extend(self.unsecured(route, value, said, now));
                let Some((service, what)) = self.misroute(route, value) else { continue };
                out.push(Finding {
                    object: route.clone(),
                    workload: route.clone(),
                    service,
                    pattern: "gateway_misroute".to_owned(),
                    what,
                    advice: vec![format!(
                        "mend it: kubectl -n {} edit {} {}",
                        route.namespace,
                        kind.to_lowercase(),
                        route.name
                    )],
                    confidence: weights().standing.misroute,
                    since: created(value).unwrap_or(now).min(now),
                    ..Finding::default()
                });
            }
        }
    }

    /// NetworkPolicies that do not let those who complain of it reach a service.
    pub(super) fn filters(&self, all: &[Sick<'_>], now: Time, out: &mut Vec<Finding>) {
        if self.objects.of_kind("NetworkPolicy").next().is_none() {
            return;
        }
        let addresses = self.addresses();
        let at_end = |of: &Entity| {
            let sick = all.iter().find(|sick| sick.workload == of)?;
            let object = self.objects.get(of)?;
            Some(End::of(sick, pod_template(&of.kind, &object.value).and_then(|(l, _)| l)))
        };
        let mut seen = BTreeSet::new();
        for sick in all.iter().filter(|sick| sick.watch != Watch::Words) {
            let by = sick.workload;
            let Some(from) = at_end(by) else { continue };
            for saying in &sick.heard {
                let words = saying.message.to_lowercase();
                let unanswered = UNANSWERED.iter().any(|part| words.contains(part));
                let unresolved = saying.message.lines().any(words::unresolved);
                if !unanswered && !unresolved {
                    continue;
                }
                let mut tell = |to: Option<&Entity>, at: &End<'_>, ports: &[Port]| {
                    let shut = self.shut(&from, at, ports);
                    let Some(((policy, side), others)) = shut.split_first() else { return false };
                    let there = to.map_or("the DNS of the cluster".to_owned(), Entity::path);
                    // Where it is felt: at who is not reached, or at who may not send.
                    let of = if side.2 == "Ingress" { to.unwrap_or(by) } else { by };
                    if seen.insert(((*policy).clone(), of.clone())) {
                        let port = ports.iter().find_map(|port| port.number);
                        let port = port.filter(|_| self.shut(&from, at, &[]).is_empty());
                        let on = port.map_or(String::new(), |port| format!(" on port {port}"));
                        let others: Vec<&str> = others.iter().map(|(of, _)| &*of.name).collect();
                        let nor = match others.is_empty() {
                            true => String::new(),
                            false => format!(" (nor does {})", others.join(", ")),
                        };
                        let what = format!(
                            "NetworkPolicy {} does not let {} reach {there}{on}{nor}, and its calls are not answered",
                            policy.name,
                            by.path(),
                        );
                        out.push(self.filter(policy, of, (&by.path(), &there), what, now));
                    }
                    true
                };
                let dns = self.resolver().and_then(|of| at_end(&of));
                let ask = [Port { number: Some(53), protocol: "UDP".to_owned() }];
                if unresolved && tell(None, &End::resolver(dns), &ask) || !unanswered {
                    continue;
                }
                for service in self.spoken(&saying.message, &by.namespace, &addresses) {
                    let Some(value) = self.object(&service) else { continue };
                    let behind = match &*service.kind {
                        "Service" => self.workloads_of(&service),
                        _ => vec![service.clone()],
                    };
                    let ends = behind.iter().map(|to| at_end(to).filter(|_| to != by));
                    let Some(ends) = ends.collect::<Option<Vec<_>>>() else { continue };
                    let ports = |at: &End<'_>| at.ports(value, &words);
                    // Of several behind one Service any may answer.
                    if let Some((to, at)) = behind.first().zip(ends.first())
                        && ends.iter().all(|at| !self.shut(&from, at, &ports(at)).is_empty())
                    {
                        tell(Some(to), at, &ports(at));
                    }
                }
            }
        }
    }

    fn filter(
        &self,
        policy: &Entity,
        workload: &Entity,
        (by, to): (&str, &str),
        what: String,
        now: Time,
    ) -> Finding {
        let since = self.object(policy).and_then(created);
        Finding {
            object: policy.clone(),
            workload: workload.clone(),
            service: self.service_name(workload),
            pattern: "network_policy_blocks".to_owned(),
            title: format!("{by} cannot reach {to}: NetworkPolicy {} does not let it", policy.name),
            what,
            advice: vec![format!(
                "allow those who need it: kubectl -n {} edit networkpolicy {}",
                policy.namespace, policy.name
            )],
            confidence: weights().standing.plain,
            since: since.unwrap_or(now).min(now),
            ..Finding::default()
        }
    }

    /// Services that get no address from outside, as who should give it says.
    fn balancers(&self, said: &Said, now: Time, out: &mut Vec<Finding>) {
        for service in self.objects.of_kind("Service") {
            let Some(value) = self.object(service) else { continue };
            let has = !list(value, &["status", "loadBalancer", "ingress"]).is_empty();
            if has || text(value, &["spec", "type"]) != "LoadBalancer" {
                continue;
            }
            let fails = |reason: &str| {
                reason.contains("LoadBalancer") && reason.contains("Fail")
                    || reason == "AllocationFailed"
            };
            let mut all = said.get(service).into_iter().flatten().rev();
            let Some(saying) = all.find(|saying| fails(&saying.reason)) else { continue };
            let workload = self.workloads_of(service).into_iter().next();
            out.push(Finding {
                object: service.clone(),
                workload: workload.unwrap_or_else(|| service.clone()),
                service: service.name.to_string(),
                pattern: "load_balancer_fails".to_owned(),
                what: format!("Service {} gets no load balancer: {}", service.name, words::telling(&saying.message)),
                mechanism: "who asks from outside has no address to ask until the provider gives the Service one".to_owned(),
                confidence: weights().standing.probe,
                since: created(value).unwrap_or(now).min(now),
                ..Finding::default()
            });
        }
    }

    /// The class of an Ingress that does not exist, if others do.
    fn classless(&self, route: &Entity, value: &Value) -> Option<(String, String)> {
        let class = text(value, &["spec", "ingressClassName"]);
        let served = !list(value, &["status", "loadBalancer", "ingress"]).is_empty();
        let classes: Vec<&str> =
            self.objects.of_kind("IngressClass").map(|class| &*class.name).collect();
        if served || class.is_empty() || classes.is_empty() || classes.contains(&class) {
            return None;
        }
        let (service, _) = unfit::backends(value).into_iter().next()?;
        Some((
            service,
            format!(
                "Ingress {} is of class {class}, which does not exist, so that nobody serves it; there is {}",
                route.name,
                classes.join(", ")
            ),
        ))
    }

    fn misroute(&self, route: &Entity, value: &Value) -> Option<(String, String)> {
        if let Some(classless) = self.classless(route, value) {
            return Some(classless);
        }
        let seen = self.objects.of("Service", &route.namespace).next().is_some();
        for (name, port) in unfit::backends(value) {
            let mut labels = name.split('.');
            let first = labels.next().unwrap_or_default();
            let service = Entity::new("Service", labels.next().unwrap_or(&route.namespace), first);
            if !seen || first.is_empty() || first == "*" {
                continue;
            }
            let Some(known) = self.object(&service).filter(|_| self.exists(&service)) else {
                return Some((
                    first.to_owned(),
                    format!(
                        "{} {} leads to Service {name}, which does not exist",
                        route.kind, route.name
                    ),
                ));
            };
            let has = |p: &Value| {
                plain(&port) == text(p, &["name"])
                    || number(p, &["port"]).map(|n| n.to_string()) == Some(plain(&port))
            };
            let ports = list(known, &["spec", "ports"]);
            if !port.is_null() && !ports.is_empty() && !ports.iter().any(has) {
                return Some((
                    first.to_owned(),
                    format!(
                        "{} {} leads to port {} of Service {name}, which has none such",
                        route.kind,
                        route.name,
                        plain(&port)
                    ),
                ));
            }
        }
        None
    }
}

/// Does a text in lower case speak of something by its whole name?
pub(super) fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + name.len()..].starts_with(part))
}
