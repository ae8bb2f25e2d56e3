//! Services and routes that lead nowhere, NetworkPolicies that let too few in.

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Watch, created, sick::Sick};
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

impl Cluster {
    /// Services and routes that lead nowhere.
    pub(super) fn routes(&self, now: Time, out: &mut Vec<Finding>) {
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

    /// NetworkPolicies that let nobody, or not those who complain of it, reach a service.
    pub(super) fn filters(&self, all: &[Sick<'_>], now: Time, out: &mut Vec<Finding>) {
        const UNANSWERED: [&str; 4] =
            ["timeout", "timed out", "deadline exceeded", "no route to host"];
        let complaints: Vec<(&Entity, &str)> = all
            .iter()
            .filter(|sick| sick.watch != Watch::Words)
            .map(|sick| (sick.workload, &*sick.said))
            .filter(|(_, words)| UNANSWERED.iter().any(|part| words.contains(part)))
            .collect();
        if complaints.is_empty() {
            return;
        }
        for policy in self.objects.of_kind("NetworkPolicy") {
            let Some(value) = self.object(policy) else { continue };
            self.shut_out(policy, value, &complaints, now, out);
            self.shut_in(policy, value, &complaints, now, out);
        }
    }

    /// A policy that does not let in who complains that it is not answered.
    fn shut_out(
        &self,
        policy: &Entity,
        value: &Value,
        complaints: &[(&Entity, &str)],
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for (workload, object) in self.objects.workloads(&policy.namespace) {
            if !selects(value, workload, Some(&object.value)) {
                continue;
            }
            let services = self.services_of(workload);
            let unanswered = complaints.iter().find(|(by, words)| {
                *by != workload
                    && !self.lets_in(value, by)
                    && services.iter().any(|service| names(words, &service.name))
            });
            let Some((by, _)) = unanswered else { continue };
            let what = format!(
                "NetworkPolicy {} does not let {} reach {}, and its calls are not answered",
                policy.name,
                by.path(),
                workload.path()
            );
            let (by, to) = (by.path(), workload.path());
            out.push(self.filter(policy, workload, (&by, &to), what, (value, now)));
        }
    }

    /// A policy that does not let who complains ask for names, or reach whom it names.
    fn shut_in(
        &self,
        policy: &Entity,
        value: &Value,
        complaints: &[(&Entity, &str)],
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        let types = list(value, &["spec", "policyTypes"]);
        if !types.iter().any(|kind| kind.as_str() == Some("Egress")) {
            return;
        }
        let rules = list(value, &["spec", "egress"]);
        for (by, words) in complaints.iter().filter(|(by, _)| by.namespace == policy.namespace) {
            let object = self.objects.get(by).map(|object| &*object.value);
            if !selects(value, by, object) {
                continue;
            }
            let opens = |rule: &Value, port: i64| {
                let ports = list(rule, &["ports"]);
                ports.is_empty() || ports.iter().any(|p| number(p, &["port"]) == Some(port))
            };
            let asks_names =
                ["lookup ", "name resolution", ":53"].iter().any(|w| words.contains(w));
            let to = if asks_names && !rules.iter().any(|rule| opens(rule, 53)) {
                Some("the DNS of the cluster".to_owned())
            } else {
                let mut named = self.objects.of_kind("Service").filter(|service| {
                    let far = service.namespace != by.namespace;
                    let path = format!("{}.{}", service.name, service.namespace);
                    names(words, if far { &path } else { &service.name })
                });
                let shut = |service: &&Entity| {
                    let behind = self.workloads_of(service);
                    !behind.is_empty()
                        && behind.iter().all(|to| !rules.iter().any(|rule| self.leads(rule, to)))
                };
                named.find(shut).map(Entity::path)
            };
            let Some(to) = to else { continue };
            let what = format!(
                "NetworkPolicy {} does not let {} reach {to}, and its calls are not answered",
                policy.name,
                by.path()
            );
            out.push(self.filter(policy, by, (&by.path(), &to), what, (value, now)));
        }
    }

    /// Does a rule for what goes out lead to a workload? Where it cannot be told it does.
    fn leads(&self, rule: &Value, to: &Entity) -> bool {
        let object = self.objects.get(to).map(|object| &object.value);
        let labels = object.and_then(|o| pod_template(&to.kind, o)).and_then(|(l, _)| l);
        let peers = list(rule, &["to"]);
        peers.is_empty()
            || peers.iter().any(|peer| {
                let selector = at(peer, &["podSelector", "matchLabels"]);
                selector.is_none() || links::matches(selector, labels)
            })
    }

    fn filter(
        &self,
        policy: &Entity,
        workload: &Entity,
        (by, to): (&str, &str),
        what: String,
        (value, now): (&Value, Time),
    ) -> Finding {
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
            since: created(value).unwrap_or(now).min(now),
            ..Finding::default()
        }
    }

    /// May a workload send to the pods that a NetworkPolicy selects? Where it cannot be told it may.
    fn lets_in(&self, policy: &Value, from: &Entity) -> bool {
        let types = list(policy, &["spec", "policyTypes"]);
        if !types.is_empty() && !types.iter().any(|kind| kind.as_str() == Some("Ingress")) {
            return true;
        }
        let object = self.objects.get(from);
        let labels = object
            .and_then(|object| pod_template(&from.kind, &object.value))
            .and_then(|(labels, _)| labels);
        let admits = |peer: &Value| {
            let selector = at(peer, &["podSelector", "matchLabels"]);
            labels.is_none() || selector.is_none() || links::matches(selector, labels)
        };
        list(policy, &["spec", "ingress"]).iter().any(|rule| {
            let peers = list(rule, &["from"]);
            peers.is_empty() || peers.iter().any(admits)
        })
    }

    fn misroute(&self, route: &Entity, value: &Value) -> Option<(String, String)> {
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

/// Does a NetworkPolicy speak of the pods of a workload?
fn selects(policy: &Value, workload: &Entity, object: Option<&Value>) -> bool {
    let labels = object.and_then(|o| pod_template(&workload.kind, o)).and_then(|(l, _)| l);
    links::matches(at(policy, &["spec", "podSelector", "matchLabels"]), labels)
}

/// Does a text in lower case speak of something by its whole name?
pub(super) fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + name.len()..].starts_with(part))
}
