//! How objects hang together: what a pod template refers to, whom a Service selects, who owns whom.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tapio_proto::model::{Entity, Relation};

use super::{
    objects::{Link, Objects, controller, is_workload, pod_template},
    rules,
    value::{at, list, text},
};

/// The edges that hold because of this object.
pub(super) fn of(objects: &Objects, entity: &Entity, value: &Value) -> BTreeSet<Link> {
    let mut links = BTreeSet::new();
    let mut link = |relation, from: Entity, to: &Entity| {
        if !from.name.is_empty() && !to.name.is_empty() {
            links.insert((relation, from, to.clone()));
        }
    };
    if let Some(owner) = controller(value).filter(|_| &*entity.kind != "EndpointSlice") {
        link(Relation::Owns, owner, entity);
    }
    match &*entity.kind {
        "Pod" => {
            link(
                Relation::RunsOn,
                Entity::new("Node", "", text(value, &["spec", "nodeName"])),
                entity,
            );
            // What the template does not say: the claims that a StatefulSet made for this pod.
            claims(value, &["spec"], &entity.namespace)
                .for_each(|claim| link(Relation::Mounts, claim, entity));
        }
        "HorizontalPodAutoscaler" => {
            let target = |field| text(value, &["spec", "scaleTargetRef", field]);
            link(
                Relation::Scales,
                entity.clone(),
                &Entity::new(target("kind"), &entity.namespace, target("name")),
            );
        }
        kind if ROUTES.contains(&kind) => {
            backends(value, &entity.namespace)
                .for_each(|service| link(Relation::Routes, service, entity));
        }
        kind if rules::GRANTS.contains(&kind) => {
            link(Relation::Grants, rules::role(entity, value), entity)
        }
        kind if rules::WEBHOOKS.contains(&kind) => {
            rules::asked(value).for_each(|service| link(Relation::Admits, service, entity))
        }
        _ => {}
    }
    if is_workload(&entity.kind, value) {
        for (relation, object) in references(&entity.kind, value, &entity.namespace) {
            link(relation, object, entity);
        }
        let here = ["Service"].into_iter().chain(LIMITS).flat_map(|kind| {
            objects.of(kind, &entity.namespace).map(|(other, object)| (other, &object.value))
        });
        let all = rules::RULES.into_iter().flat_map(|kind| {
            let alive = objects.ever_of(kind).filter(|(_, object)| object.deleted.is_none());
            alive.map(|(other, object)| (other, &object.value))
        });
        let dns = resolver();
        let dns = objects.alive(&dns).map(|object| (&dns, &object.value));
        for (other, of) in here.chain(all).chain(dns) {
            links.extend(rules::between(other, of, entity, value));
        }
    }
    links
}

/// The Service that resolves names for the cluster, whatever serves it (Kubernetes DNS specification).
pub(super) fn resolver() -> Entity {
    Entity::new("Service", "kube-system", "kube-dns")
}

/// Kinds that lead requests from outside to Services.
pub(super) const ROUTES: [&str; 4] = ["Ingress", "HTTPRoute", "GRPCRoute", "TCPRoute"];

/// Kinds that limit every workload of their namespace.
pub(super) const LIMITS: [&str; 2] = ["ResourceQuota", "LimitRange"];

/// Does the Service's selector match the labels that the workload gives its pods?
pub(super) fn selects(service: &Value, kind: &str, workload: &Value) -> bool {
    let Some(selector) = at(service, &["spec", "selector"]).and_then(Value::as_object) else {
        return false;
    };
    let labels = pod_template(kind, workload).and_then(|(labels, _)| labels);
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Do pods of these labels match a selector's `matchLabels`? One without any selects all.
pub(super) fn matches(wanted: Option<&Value>, labels: Option<&Value>) -> bool {
    let wanted = wanted.and_then(Value::as_object);
    wanted.into_iter().flatten().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// Does a label selector choose what has these labels? One that asks for nothing chooses all.
pub(super) fn chosen(selector: &Value, labels: Option<&Value>) -> bool {
    let none = Map::new();
    may_choose(selector, labels.and_then(Value::as_object).unwrap_or(&none), &|_| true)
}

/// Does a label selector choose what has these labels, of which only some keys are `known`? By the others it may.
pub(super) fn may_choose(
    selector: &Value,
    labels: &Map<String, Value>,
    known: &dyn Fn(&str) -> bool,
) -> bool {
    let wanted = at(selector, &["matchLabels"]).and_then(Value::as_object);
    let mut wanted = wanted.into_iter().flatten().filter(|(key, _)| known(key));
    let mut asked = list(selector, &["matchExpressions"]).iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && asked.all(|one| {
            let key = text(one, &["key"]);
            let has = labels.get(key);
            let listed = || has.is_some_and(|has| list(one, &["values"]).contains(has));
            !known(key)
                || match text(one, &["operator"]) {
                    "In" => listed(),
                    "NotIn" => !listed(),
                    "Exists" => has.is_some(),
                    "DoesNotExist" => has.is_none(),
                    _ => true,
                }
        })
}

/// ConfigMaps, Secrets and claims that a workload's pods need, and their ServiceAccount, whether
/// these objects exist or not.
pub(super) fn references(
    kind: &str,
    workload: &Value,
    namespace: &str,
) -> BTreeSet<(Relation, Entity)> {
    let mut found = BTreeSet::new();
    let Some((_, spec)) = pod_template(kind, workload) else { return found };
    let mut refer = |relation, kind: &str, name: &str| {
        if !name.is_empty() {
            found.insert((relation, Entity::new(kind, namespace, name)));
        }
    };
    let volumes = || list(spec, &["volumes"]).iter();
    let projected = || {
        volumes().flat_map(|volume| {
            list(volume, &["projected", "sources"]).iter().map(move |source| (volume, source))
        })
    };
    let containers = || {
        let lists = ["containers", "initContainers", "ephemeralContainers"].into_iter();
        lists.flat_map(|part| list(spec, &[part]))
    };
    // The kubelet renews what is mounted, but not below a `subPath`; variables are fixed at the start.
    let renewed = |volume: &Value| {
        let name = text(volume, &["name"]);
        containers().flat_map(|container| list(container, &["volumeMounts"])).any(|mount| {
            text(mount, &["name"]) == name
                && text(mount, &["subPath"]).is_empty()
                && text(mount, &["subPathExpr"]).is_empty()
        })
    };
    let env_from = || containers().flat_map(|container| list(container, &["envFrom"]));
    let env = || containers().flat_map(|container| list(container, &["env"]));

    let mut config = |volume: Option<&Value>, name: &str| {
        let relation = match volume.is_some_and(renewed) {
            true => Relation::UsesConfig,
            false => Relation::UsesConfigAtStart,
        };
        refer(relation, "ConfigMap", name);
    };
    volumes().for_each(|volume| config(Some(volume), text(volume, &["configMap", "name"])));
    projected().for_each(|(volume, of)| config(Some(volume), text(of, &["configMap", "name"])));
    env_from().for_each(|source| config(None, text(source, &["configMapRef", "name"])));
    env().for_each(|variable| {
        config(None, text(variable, &["valueFrom", "configMapKeyRef", "name"]))
    });

    let mut secret = |volume: Option<&Value>, name: &str| {
        let relation = match volume.is_some_and(renewed) {
            true => Relation::UsesSecret,
            false => Relation::UsesSecretAtStart,
        };
        refer(relation, "Secret", name);
    };
    volumes().for_each(|volume| secret(Some(volume), text(volume, &["secret", "secretName"])));
    projected().for_each(|(volume, of)| secret(Some(volume), text(of, &["secret", "name"])));
    env_from().for_each(|source| secret(None, text(source, &["secretRef", "name"])));
    env().for_each(|variable| secret(None, text(variable, &["valueFrom", "secretKeyRef", "name"])));
    list(spec, &["imagePullSecrets"]).iter().for_each(|pull| secret(None, text(pull, &["name"])));

    refer(Relation::UsesSecretAtStart, "ServiceAccount", text(spec, &["serviceAccountName"]));
    found.extend(claims(spec, &[], namespace).map(|claim| (Relation::Mounts, claim)));
    found
}

/// The claims that a pod spec mounts.
fn claims<'a>(
    value: &'a Value,
    spec: &[&str],
    namespace: &'a str,
) -> impl Iterator<Item = Entity> + 'a {
    let path: Vec<&str> = spec.iter().copied().chain(["volumes"]).collect();
    list(value, &path)
        .iter()
        .map(|volume| text(volume, &["persistentVolumeClaim", "claimName"]))
        .filter(|claim| !claim.is_empty())
        .map(move |claim| Entity::new("PersistentVolumeClaim", namespace, claim))
}

/// The Services behind an Ingress or a route of the Gateway API.
fn backends<'a>(value: &'a Value, namespace: &'a str) -> impl Iterator<Item = Entity> + 'a {
    let rules = || list(value, &["spec", "rules"]).iter();
    let paths = rules()
        .flat_map(|rule| list(rule, &["http", "paths"]))
        .map(|path| text(path, &["backend", "service", "name"]));
    let routes = rules()
        .flat_map(|rule| list(rule, &["backendRefs"]))
        .map(|backend| text(backend, &["name"]));
    [text(value, &["spec", "defaultBackend", "service", "name"])]
        .into_iter()
        .chain(paths)
        .chain(routes)
        .filter(|name| !name.is_empty())
        .map(move |name| Entity::new("Service", namespace, name))
}
