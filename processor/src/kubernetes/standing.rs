//! What was already wrong when the cluster was first seen: nobody's change was there to see, so the objects
//! as they stand, and what was said of them, must tell which of them is wrong.

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{
    cluster::Cluster,
    links,
    objects::pod_template,
    owners, unfit,
    value::{at, boolean, list, number, plain, quantity, text},
};
use crate::correlation::weights::weights;

/// Findings told at most.
const MOST: usize = 50;

/// An object that is wrong as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The object.
    pub object: Entity,
    /// Where it shows.
    pub workload: Entity,
    /// The service of that.
    pub service: String,
    /// Which failure it is.
    pub pattern: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// 0 to 1.
    pub confidence: f64,
    /// Since when, as far as the objects say.
    pub since: Time,
}

/// What was said of objects: Kubernetes Events, and errors of their logs.
pub type Said = BTreeMap<Entity, Vec<String>>;

/// A workload with its pods and all that is said of it.
pub(super) struct Sick<'a> {
    pub(super) workload: &'a Entity,
    pub(super) spec: &'a Value,
    pub(super) pods: Vec<(&'a Entity, &'a Value)>,
    /// Sentences, and the same in lower case.
    words: Vec<String>,
    pub(super) said: String,
    pub(super) since: Time,
}

impl Cluster {
    /// All that is wrong as it stands, the surest first.
    pub fn standing(&self, said: &Said, now: Time) -> Vec<Finding> {
        let mut pods: BTreeMap<Entity, Vec<(&Entity, &Value)>> = BTreeMap::new();
        for pod in self.objects.of_kind("Pod") {
            let Some(value) = self.object(pod) else { continue };
            if text(value, &["status", "phase"]) != "Succeeded" {
                let top = owners::top(&self.objects, pod);
                pods.entry(top).or_default().push((pod, value));
            }
        }
        let mut out = Vec::new();
        for (workload, object) in self.objects.all_workloads() {
            let Some((_, spec)) = pod_template(&workload.kind, &object.value) else { continue };
            let mut sick = Sick {
                workload,
                spec,
                pods: pods.get(workload).cloned().unwrap_or_default(),
                words: Vec::new(),
                said: String::new(),
                since: created(&object.value).unwrap_or(now).min(now),
            };
            sick.listen(&object.value, said);
            self.workload(&sick, &object.value, &mut out);
        }
        self.control_plane(&pods, said, now, &mut out);
        self.nodes(&pods, said, now, &mut out);
        self.routes(now, &mut out);
        self.filters(said, now, &mut out);
        out.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.object.cmp(&b.object)));
        out.truncate(MOST);
        out
    }

    fn found(
        &self,
        sick: &Sick<'_>,
        object: Entity,
        pattern: &'static str,
        what: String,
    ) -> Finding {
        Finding {
            service: self.service_name(sick.workload),
            workload: sick.workload.clone(),
            advice: format!(
                "look at it: kubectl{} describe {} {}",
                if object.namespace.is_empty() {
                    String::new()
                } else {
                    format!(" -n {}", object.namespace)
                },
                object.kind.to_lowercase(),
                object.name
            ),
            object,
            pattern,
            what,
            confidence: weights().standing.plain,
            since: sick.since,
        }
    }

    fn service_name(&self, workload: &Entity) -> String {
        let services = self.services_of(workload);
        let same = services.iter().find(|s| s.name == workload.name);
        same.or(services.first()).map_or(&workload.name, |s| &s.name).to_string()
    }

    /// One workload, and why it does not run.
    fn workload(&self, sick: &Sick<'_>, value: &Value, out: &mut Vec<Finding>) {
        let namespace = &*sick.workload.namespace;
        let wanted = match &*sick.workload.kind {
            "Pod" | "Job" | "CronJob" => 1,
            "DaemonSet" => number(value, &["status", "desiredNumberScheduled"]).unwrap_or(0),
            _ => number(value, &["spec", "replicas"]).unwrap_or(1),
        };
        if wanted == 0 {
            self.zero(sick, out);
            return;
        }
        let seen = sick.pods.iter().filter(|(_, pod)| is_ready(pod)).count();
        let told = ["readyReplicas", "numberReady"].map(|key| number(value, &["status", key]));
        let ready = (seen as i64).max(if sick.pods.is_empty() {
            told.into_iter().flatten().max().unwrap_or(0)
        } else {
            0
        });
        let restarts = sick.pods.iter().map(|(_, pod)| restarts(pod)).max().unwrap_or(0);
        let over = matches!(&*sick.workload.kind, "Job" | "CronJob");
        let is_sick = (ready < wanted && !over) || (restarts >= 3 && self.is_snapshot());
        if let Some(found) = self.address(sick, is_sick) {
            out.push(found);
        }
        if !is_sick && !over {
            return;
        }
        let said = &sick.said;
        let says = |all: &[&str]| all.iter().any(|part| said.contains(part));
        let own = sick.workload.clone();
        let around = |part: &str| sick.around(part);
        if says(&["exceeded quota"]) {
            let pattern = quota(said);
            let name = between(said, "exceeded quota: ", ",").unwrap_or("quota");
            let quota = Entity::new("ResourceQuota", namespace, name);
            out.push(self.found(sick, quota, pattern, around("exceeded quota")));
        } else if says(&["serviceaccount"]) && says(&["serviceaccount \""]) && says(&["not found"])
        {
            let name = between(said, "serviceaccount \"", "\"").unwrap_or_default();
            let account = Entity::new("ServiceAccount", namespace, name);
            out.push(self.found(
                sick,
                account,
                "missing_service_account",
                around("serviceaccount \""),
            ));
        } else if says(&["violates podsecurity"]) {
            out.push(self.found(sick, own, "pod_security_denied", around("violates podsecurity")));
        } else if says(&["failed calling webhook"]) {
            out.push(self.found(sick, own, "webhook_down", around("failed calling webhook")));
        } else if says(&[
            "errimagepull",
            "imagepullbackoff",
            "failed to pull image",
            "invalidimagename",
            "errimageneverpull",
        ]) {
            out.push(self.image(sick));
        } else if let Some(found) = self.missing(sick) {
            out.push(found);
        } else if let Some(found) = self.unscheduled(sick) {
            out.push(found);
        } else if says(&[
            "failedmount",
            "mountvolume",
            "failedattachvolume",
            "unable to attach or mount",
        ]) {
            let denied = says(&["permission denied", "access denied", "operation not permitted"]);
            let pattern =
                if denied { "volume_mount_permission_denied" } else { "volume_mount_fails" };
            out.push(self.found(sick, own, pattern, around("mount")));
        } else if says(&["oomkilled"]) {
            out.push(self.found(sick, own, "oom_killed", around("oomkilled")));
        } else if says(&["address already in use", "bind: address", "port is already allocated"]) {
            let many = list(sick.spec, &["containers"]).len() > 1;
            let pattern = if many { "service_sidecar_port_conflict" } else { "port_conflict" };
            out.push(self.found(sick, own, pattern, around("address")));
        } else if let Some(found) = self.probe(sick) {
            out.push(found);
        } else if let Some((pattern, part)) = complaint(sick) {
            out.push(self.found(sick, own, pattern, around(part)));
        } else if says(&[
            "crashloopbackoff",
            "runcontainererror",
            "createcontainererror",
            "back-off restarting",
        ]) {
            let bad =
                ["executable file not found", "no such file or directory", "exec format error"];
            let pattern = if says(&bad) { "bad_command" } else { "bad_config_crash_loop" };
            let mut found = self.found(sick, own, pattern, around("back-off"));
            let w = &weights().standing;
            found.confidence = if says(&bad) { w.bad_command } else { w.crashes };
            out.push(found);
        }
        for found in out.iter_mut().filter(|found| found.workload == *sick.workload) {
            let core = &*sick.workload.namespace == "kube-system";
            let name = &*sick.workload.name;
            if core && name.contains("kube-proxy") {
                found.pattern = "kube_proxy_unavailable";
            } else if core && name.contains("dns") {
                found.pattern = "dns_broken";
            }
        }
    }

    /// Scaled to nothing, though others count on it.
    fn zero(&self, sick: &Sick<'_>, out: &mut Vec<Finding>) {
        let services = self.services_of(sick.workload);
        if services.is_empty() {
            return;
        }
        let core = &*sick.workload.namespace == "kube-system" && sick.workload.name.contains("dns");
        let counted_on = core
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
        found.advice = format!(
            "scale it up: kubectl -n {} scale {} {} --replicas=1",
            sick.workload.namespace,
            sick.workload.kind.to_lowercase(),
            sick.workload.name
        );
        let w = &weights().standing;
        found.confidence = if counted_on { w.zero_counted_on } else { w.zero };
        out.push(found);
    }

    fn image(&self, sick: &Sick<'_>) -> Finding {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let wanted = list(sick.spec, &["imagePullSecrets"]);
        let namespace = &*sick.workload.namespace;
        let gone = wanted.iter().map(|s| Entity::new("Secret", namespace, text(s, &["name"])));
        let gone = gone.filter(|_| self.objects.of("Secret", namespace).next().is_some());
        let mut gone = gone.filter(|secret| !self.exists(secret));
        let (pattern, part) = if says(&["no such host", "server misbehaving", "name resolution"]) {
            ("image_registry_dns_failure", "lookup")
        } else if gone.next().is_some()
            || says(&[
                "unable to retrieve some image pull secrets",
                "unauthorized",
                "authentication required",
                "no basic auth",
                "403 forbidden",
                "401",
            ])
        {
            ("missing_image_pull_secret", "pull")
        } else if says(&["connection refused", "i/o timeout", "context deadline exceeded"]) {
            ("registry_unreachable", "pull")
        } else if says(&["toomanyrequests", "429"]) {
            ("registry_rate_limit", "pull")
        } else if says(&["exec format error", "no matching manifest"]) {
            ("image_architecture", "manifest")
        } else {
            ("incorrect_image_reference", "image")
        };
        let mut found = self.found(sick, sick.workload.clone(), pattern, sick.around(part));
        found.confidence = weights().standing.image;
        found
    }

    /// A ConfigMap or Secret that is referred to and is not there.
    fn missing(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        for (kind, mark, pattern) in [
            ("Secret", "secret \"", "missing_secret_binding"),
            ("ConfigMap", "configmap \"", "missing_config_object"),
        ] {
            let mut rest = &*sick.said;
            while let Some(at) = rest.find(mark) {
                rest = &rest[at + mark.len()..];
                let Some((name, tail)) = rest.split_once('"') else { break };
                if tail.trim_start().starts_with("not found") {
                    let object =
                        Entity::new(kind, namespace, name.rsplit('/').next().unwrap_or(name));
                    let what = format!(
                        "{kind} {} does not exist, and {} needs it",
                        object.name,
                        sick.workload.path()
                    );
                    let mut found = self.found(sick, object, pattern, what);
                    found.confidence = weights().standing.missing;
                    return Some(found);
                }
            }
        }
        if sick.said.contains("couldn't find key") {
            let what = sick.around("couldn't find key");
            return Some(self.found(sick, sick.workload.clone(), "missing_config_key", what));
        }
        // What no event says the references do.
        let stuck = sick.pods.iter().any(|(_, pod)| {
            waits(pod, "ContainerCreating") || waits(pod, "CreateContainerConfigError")
        });
        let object = self.objects.get(sick.workload)?;
        let gone = links::references(&sick.workload.kind, &object.value, namespace)
            .into_iter()
            .map(|(_, to)| to)
            .find(|to| {
                matches!(&*to.kind, "Secret" | "ConfigMap")
                    && self.objects.of(&to.kind, namespace).next().is_some()
                    && !self.exists(to)
            })?;
        stuck.then(|| {
            let pattern = if &*gone.kind == "Secret" {
                "missing_secret_binding"
            } else {
                "missing_config_object"
            };
            let what = format!(
                "{} {} does not exist, and {} needs it",
                gone.kind,
                gone.name,
                sick.workload.path()
            );
            self.found(sick, gone, pattern, what)
        })
    }

    /// Why no node takes its pods.
    fn unscheduled(&self, sick: &Sick<'_>) -> Option<Finding> {
        if let Some((claim, pattern, what)) = self.claim(sick) {
            let mut found = self.found(sick, claim, pattern, what);
            found.confidence = weights().standing.claim;
            return Some(found);
        }
        let pending: Vec<&(&Entity, &Value)> = sick
            .pods
            .iter()
            .filter(|(_, pod)| {
                text(pod, &["status", "phase"]) == "Pending"
                    && text(pod, &["spec", "nodeName"]).is_empty()
            })
            .collect();
        let said = sick.last("nodes are available");
        if pending.is_empty() && said.is_none() {
            return None;
        }
        let own = sick.workload.clone();
        let Some(said) = said else {
            let unheard =
                pending.iter().all(|(_, pod)| list(pod, &["status", "conditions"]).is_empty());
            if !unheard {
                return None;
            }
            let what =
                format!("pods of {} are Pending and no scheduler has looked at them", own.path());
            let mut found = self.found(
                sick,
                Entity::new("Pod", "kube-system", "kube-scheduler"),
                "kube_scheduler_unavailable",
                what,
            );
            found.service = "kube-scheduler".to_owned();
            found.confidence = weights().standing.unheard;
            return Some(found);
        };
        let pattern = unfit::why(&said.to_lowercase(), sick.spec)?;
        let mut found = self.found(sick, own, pattern, said.to_owned());
        found.confidence = weights().standing.unfit;
        Some(found)
    }

    /// The claim that keeps a workload from starting, and why no volume fits it.
    fn claim(&self, sick: &Sick<'_>) -> Option<(Entity, &'static str, String)> {
        let namespace = &*sick.workload.namespace;
        let object = self.objects.get(sick.workload)?;
        let mut claims: Vec<Entity> =
            links::references(&sick.workload.kind, &object.value, namespace)
                .into_iter()
                .map(|(_, to)| to)
                .filter(|to| &*to.kind == "PersistentVolumeClaim")
                .collect();
        for (_, pod) in &sick.pods {
            for volume in list(pod, &["spec", "volumes"]) {
                let name = text(volume, &["persistentVolumeClaim", "claimName"]);
                if !name.is_empty() {
                    claims.push(Entity::new("PersistentVolumeClaim", namespace, name));
                }
            }
        }
        let claim = claims.into_iter().find(|claim| {
            self.object(claim).is_some_and(|value| text(value, &["status", "phase"]) == "Pending")
        })?;
        let value = self.object(&claim)?;
        let volumes: Vec<&Value> =
            self.objects.of_kind("PersistentVolume").filter_map(|v| self.object(v)).collect();
        let classes: Vec<&str> =
            self.objects.of_kind("StorageClass").map(|class| &*class.name).collect();
        let (pattern, why) = unfit::claim(value, &claim, &volumes, &classes);
        Some((claim.clone(), pattern, format!("claim {} is not bound: {why}", claim.name)))
    }

    /// A probe that asks for what the program does not answer.
    fn probe(&self, sick: &Sick<'_>) -> Option<Finding> {
        let kinds = [
            ("livenessProbe", "liveness probe failed"),
            ("startupProbe", "startup probe failed"),
            ("readinessProbe", "readiness probe failed"),
        ];
        for (part, mark) in kinds {
            if !sick.said.contains(mark) {
                continue;
            }
            let words = sick.around(mark);
            for container in list(sick.spec, &["containers"]) {
                let Some(probe) = at(container, &[part]) else { continue };
                let pattern = unfit::probe(part, probe, container, &words.to_lowercase());
                let mut found = self.found(sick, sick.workload.clone(), pattern, words.clone());
                found.confidence = weights().standing.probe;
                return Some(found);
            }
        }
        None
    }

    /// An address in its environment that leads nowhere.
    fn address(&self, sick: &Sick<'_>, is_sick: bool) -> Option<Finding> {
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
                    let seen = self.objects.of("Service", &service.namespace).count() > 1;
                    let named = first.parse::<u8>().is_err() && first != "localhost";
                    let complains = is_sick || !sick.said.is_empty();
                    if inside && seen && named && complains {
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
                        found.confidence = if is_sick { w.host_sick } else { w.host };
                        return Some(found);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Nodes that are not ready, where anything runs on them.
    fn nodes(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for node in self.objects.of_kind("Node") {
            let Some(value) = self.object(node) else { continue };
            let bad = list(value, &["status", "conditions"])
                .iter()
                .find(|c| text(c, &["type"]) == "Ready" && text(c, &["status"]) != "True");
            let Some(bad) = bad else { continue };
            let mut words = format!("{}: {}", text(bad, &["reason"]), text(bad, &["message"]));
            let events = said.get(node).map(|all| all.join("; ")).unwrap_or_default();
            let all = format!("{words} {events}").to_lowercase();
            let pattern = if ["container runtime", "containerd", "pleg", "cri-o", "dockershim"]
                .iter()
                .any(|w| all.contains(w))
            {
                "containerd_unavailable"
            } else if all.contains("cni") || all.contains("network plugin") {
                "node_network_not_ready"
            } else if all.contains("stopped posting") || all.contains("nodestatusunknown") {
                "kubelet_unavailable"
            } else {
                "node_not_ready"
            };
            let on = pods.iter().filter(|(workload, pods)| {
                &*workload.namespace != "kube-system"
                    && pods.iter().any(|(_, pod)| {
                        text(pod, &["spec", "nodeName"]) == &*node.name && !is_ready(pod)
                    })
            });
            let mut on: Vec<Entity> = on.map(|(workload, _)| workload.clone()).collect();
            if on.is_empty() {
                on.push(node.clone());
            }
            words.truncate(words.char_indices().nth(300).map_or(words.len(), |(at, _)| at));
            out.extend(on.into_iter().map(|workload| Finding {
                service: self.service_name(&workload),
                workload,
                object: node.clone(),
                pattern,
                what: format!("node {} is not ready: {words}", node.name),
                advice: format!("look at the node: kubectl describe node {}", node.name),
                confidence: weights().standing.node,
                since: created(value).unwrap_or(now).min(now),
            }));
        }
    }

    /// The scheduler, which no workload but the node itself runs.
    fn control_plane(
        &self,
        pods: &BTreeMap<Entity, Vec<(&Entity, &Value)>>,
        said: &Said,
        now: Time,
        out: &mut Vec<Finding>,
    ) {
        for (pod, value) in
            pods.values().flatten().filter(|(pod, _)| &*pod.namespace == "kube-system")
        {
            if !pod.name.starts_with("kube-scheduler") || is_ready(value) {
                continue;
            }
            let words = said.get(*pod).and_then(|all| all.first()).cloned().unwrap_or_default();
            out.push(Finding {
                object: (*pod).clone(),
                workload: (*pod).clone(),
                service: "kube-scheduler".to_owned(),
                pattern: "kube_scheduler_unavailable",
                what: format!("pod {} is not ready: {words}", pod.name),
                advice: format!("look at it: kubectl -n kube-system describe pod {}", pod.name),
                confidence: weights().standing.scheduler,
                since: created(value).unwrap_or(now).min(now),
            });
        }
    }

    /// Services and routes that lead nowhere.
    fn routes(&self, now: Time, out: &mut Vec<Finding>) {
        for service in self.objects.of_kind("Service") {
            let Some(value) = self.object(service) else { continue };
            let selects = at(value, &["spec", "selector"]).and_then(Value::as_object);
            if selects.is_none_or(serde_json::Map::is_empty) {
                continue;
            }
            let since = created(value).unwrap_or(now).min(now);
            let behind = self.workloads_of(service);
            let mut tell = |workload: Entity, pattern, what: String, confidence| {
                out.push(Finding {
                    object: service.clone(),
                    workload,
                    service: service.name.to_string(),
                    pattern,
                    advice: format!(
                        "mend it: kubectl -n {} edit service {}",
                        service.namespace, service.name
                    ),
                    what,
                    confidence,
                    since,
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
                    pattern: "gateway_misroute",
                    what,
                    advice: format!(
                        "mend it: kubectl -n {} edit {} {}",
                        route.namespace,
                        kind.to_lowercase(),
                        route.name
                    ),
                    confidence: weights().standing.misroute,
                    since: created(value).unwrap_or(now).min(now),
                });
            }
        }
    }

    /// NetworkPolicies that let nobody, or not those who complain of it, reach a service.
    fn filters(&self, said: &Said, now: Time, out: &mut Vec<Finding>) {
        const UNANSWERED: [&str; 4] =
            ["timeout", "timed out", "deadline exceeded", "no route to host"];
        let complaints: Vec<(&Entity, String)> = said
            .iter()
            .map(|(on, words)| (on, words.join("; ").to_lowercase()))
            .filter(|(_, words)| UNANSWERED.iter().any(|part| words.contains(part)))
            .collect();
        if complaints.is_empty() {
            return;
        }
        for policy in self.objects.of_kind("NetworkPolicy") {
            let Some(value) = self.object(policy) else { continue };
            for (workload, object) in self.objects.workloads(&policy.namespace) {
                let labels = pod_template(&workload.kind, &object.value).and_then(|(l, _)| l);
                let selector = at(value, &["spec", "podSelector", "matchLabels"]);
                if !links::matches(selector, labels) {
                    continue;
                }
                let services = self.services_of(workload);
                let unanswered = complaints.iter().find(|(on, words)| {
                    let by = owners::top(&self.objects, on);
                    by != *workload
                        && !self.lets_in(value, &by)
                        && services.iter().any(|service| names(words, &service.name))
                });
                let Some((on, _)) = unanswered else { continue };
                out.push(Finding {
                    object: policy.clone(),
                    workload: workload.clone(),
                    service: self.service_name(workload),
                    pattern: "network_policy_blocks",
                    what: format!(
                        "NetworkPolicy {} does not let {} reach {}, and its calls are not answered",
                        policy.name,
                        owners::top(&self.objects, on).path(),
                        workload.path()
                    ),
                    advice: format!(
                        "allow those who need it: kubectl -n {} edit networkpolicy {}",
                        policy.namespace, policy.name
                    ),
                    confidence: weights().standing.plain,
                    since: created(value).unwrap_or(now).min(now),
                });
            }
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

impl Sick<'_> {
    /// All that is said of it: its own conditions, those of its pods, events, errors it logged.
    fn listen(&mut self, value: &Value, said: &Said) {
        let mut all: Vec<String> = said.get(self.workload).cloned().unwrap_or_default();
        for condition in list(value, &["status", "conditions"]) {
            if text(condition, &["type"]) == "ReplicaFailure" {
                all.push(text(condition, &["message"]).to_owned());
            }
        }
        for (pod, value) in &self.pods {
            all.extend(said.get(*pod).cloned().unwrap_or_default());
            for condition in list(value, &["status", "conditions"]) {
                if text(condition, &["reason"]) == "Unschedulable" {
                    all.push(text(condition, &["message"]).to_owned());
                }
            }
            for status in statuses(value) {
                for state in [
                    &["state", "waiting"][..],
                    &["state", "terminated"],
                    &["lastState", "terminated"],
                ] {
                    if let Some(state) = at(status, state) {
                        all.push(format!(
                            "{}: {}",
                            text(state, &["reason"]),
                            text(state, &["message"])
                        ));
                    }
                }
            }
        }
        self.said = all.join("; ").to_lowercase();
        self.words = all;
    }

    /// The first sentence with this part, which is in lower case, less the reason in front of its message.
    fn around(&self, part: &str) -> String {
        let found = self.words.iter().find(|words| words.to_lowercase().contains(part));
        let words = found.map_or(&*self.said, |words| words);
        let is_reason = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let told = match words.split_once(": ") {
            Some((reason, "")) => reason,
            Some((reason, message)) if is_reason(reason) => message,
            _ => words,
        };
        told.chars().take(300).collect()
    }

    /// The last sentence with this part.
    fn last(&self, part: &str) -> Option<&str> {
        let mut found = self.words.iter().rev();
        found.find(|words| words.to_lowercase().contains(part)).map(|words| &**words)
    }
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(move |part| list(pod, &["status", part]))
}

fn restarts(pod: &Value) -> i64 {
    statuses(pod).filter_map(|status| number(status, &["restartCount"])).max().unwrap_or(0)
}

fn waits(pod: &Value, reason: &str) -> bool {
    statuses(pod).any(|status| text(status, &["state", "waiting", "reason"]) == reason)
}

fn is_ready(pod: &Value) -> bool {
    let ready = list(pod, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Ready");
    match ready {
        Some(ready) => text(ready, &["status"]) == "True",
        None => {
            let mut all = statuses(pod).peekable();
            all.peek().is_some() && all.all(|status| boolean(status, &["ready"]) == Some(true))
        }
    }
}

fn created(value: &Value) -> Option<Time> {
    Time::parse_rfc3339(text(value, &["metadata", "creationTimestamp"]))
}

/// What a workload's own words complain of, and where.
fn complaint(sick: &Sick<'_>) -> Option<(&'static str, &'static str)> {
    const ALL: [(&str, &str); 12] = [
        ("too many connections", "db_connection_exhaustion"),
        ("remaining connection slots", "db_connection_exhaustion"),
        ("--read-only", "db_read_only"),
        ("read_only", "db_read_only"),
        ("read-only transaction", "db_read_only"),
        ("access denied for user", "mysql_invalid_credentials"),
        ("password authentication failed", "mysql_invalid_credentials"),
        ("no such host", "service_dns_resolution_failure"),
        ("name resolution", "service_dns_resolution_failure"),
        ("name or service not known", "service_dns_resolution_failure"),
        ("permission denied", "volume_mount_permission_denied"),
        ("no space left on device", "disk_full"),
    ];
    ALL.iter().find(|(part, _)| sick.said.contains(part)).map(|(part, pattern)| (*pattern, *part))
}

/// Does a text in lower case speak of something by its whole name?
fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + name.len()..].starts_with(part))
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

/// The names and values of the variables of a pod's containers.
fn variables(spec: &Value) -> impl Iterator<Item = (&str, &str)> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(move |part| list(spec, &[part]))
        .flat_map(|container| list(container, &["env"]))
        .map(|variable| (text(variable, &["name"]), text(variable, &["value"])))
        .filter(|(_, value)| !value.is_empty())
}

/// The host and the port of an address or URL; `None` for what is none.
fn host_port(value: &str) -> Option<(&str, Option<i64>)> {
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

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = &text[text.find(from)? + from.len()..];
    Some(rest.split(to).next().unwrap_or(rest).trim())
}

/// A quantity of a volume or claim.
pub(super) fn storage(value: &Value, path: &[&str]) -> Option<f64> {
    at(value, path).and_then(quantity)
}
