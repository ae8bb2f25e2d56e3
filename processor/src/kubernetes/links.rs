//! How objects hang together: what a pod template refers to, whom a Service selects, who owns whom.

use std::collections::BTreeSet;

use serde_json::Value;
use tapio_proto::model::{Entity, Relation};

use super::{
    objects::{Link, Objects, controller, is_workload, pod_template},
    value::{at, boolean, list, text},
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
        kind if GRANTS.contains(&kind) => link(Relation::Grants, role(entity, value), entity),
        kind if WEBHOOKS.contains(&kind) => {
            asked(value).for_each(|service| link(Relation::Admits, service, entity))
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
        let rules = RULES.into_iter().flat_map(|kind| {
            let alive = objects.ever_of(kind).filter(|(_, object)| object.deleted.is_none());
            alive.map(|(other, object)| (other, &object.value))
        });
        let dns = resolver();
        let dns = objects.alive(&dns).map(|object| (&dns, &object.value));
        for (other, of) in here.chain(rules).chain(dns) {
            links.extend(between(other, of, entity, value));
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

/// Kinds that say what traffic pods may have. Those of Istio without a selector hold for their namespace, and in
/// its root namespace for all.
const FILTERS: [&str; 3] = ["NetworkPolicy", "PeerAuthentication", "AuthorizationPolicy"];
const GRANTS: [&str; 2] = ["RoleBinding", "ClusterRoleBinding"];
const WEBHOOKS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
/// Kinds that rule over workloads that they need not name.
pub(super) const RULES: [&str; 7] =
    [FILTERS[0], FILTERS[1], FILTERS[2], GRANTS[0], GRANTS[1], WEBHOOKS[0], WEBHOOKS[1]];

/// Where an object may bear on workloads: everywhere, or in its own namespace alone; nowhere if of itself it
/// bears on none.
pub(super) fn bears(entity: &Entity) -> Option<Where> {
    let kind = &*entity.kind;
    let istio = &*entity.namespace == "istio-system" && FILTERS[1..].contains(&kind);
    if *entity == resolver() || entity.namespace.is_empty() && RULES.contains(&kind) || istio {
        Some(Where::Everywhere)
    } else if kind == "Service" || LIMITS.contains(&kind) || RULES.contains(&kind) {
        Some(Where::InItsNamespace)
    } else {
        None
    }
}

/// Which workloads an object may bear on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Everywhere,
    InItsNamespace,
}

/// The edges by which a Service, a limit or a rule bears on a workload.
pub(super) fn between(
    entity: &Entity,
    value: &Value,
    workload: &Entity,
    workload_value: &Value,
) -> impl Iterator<Item = Link> {
    let here = entity.namespace == workload.namespace;
    let dns = *entity == resolver() && is_resolved(&workload.kind, workload_value);
    let dns = dns.then(|| (Relation::Resolves, entity.clone(), workload.clone()));
    let bears = match &*entity.kind {
        "Service" if here && selects(value, &workload.kind, workload_value) => {
            Some((Relation::Selects, workload.clone(), entity.clone()))
        }
        kind if here && LIMITS.contains(&kind) => {
            Some((Relation::Limits, entity.clone(), workload.clone()))
        }
        _ => rules(entity, value, workload, workload_value)
            .map(|relation| (relation, entity.clone(), workload.clone())),
    };
    bears.into_iter().chain(dns)
}

/// How a rule bears on a workload: a policy filters its traffic, a binding grants rights to its ServiceAccount,
/// a webhook is asked about its pods.
pub(super) fn rules(
    rule: &Entity,
    value: &Value,
    workload: &Entity,
    workload_value: &Value,
) -> Option<Relation> {
    let (labels, spec) = pod_template(&workload.kind, workload_value)?;
    let here = rule.namespace == workload.namespace;
    let bears = match &*rule.kind {
        "NetworkPolicy" => {
            here && matches(at(value, &["spec", "podSelector", "matchLabels"]), labels)
        }
        kind if FILTERS.contains(&kind) => {
            let wanted = at(value, &["spec", "selector", "matchLabels"]);
            let mesh_wide = wanted.is_none() && &*rule.namespace == "istio-system";
            mesh_wide || here && matches(wanted, labels)
        }
        kind if GRANTS.contains(&kind) => {
            let account = match text(spec, &["serviceAccountName"]) {
                "" => "default",
                name => name,
            };
            let is_its = |subject: &Value| {
                text(subject, &["kind"]) == "ServiceAccount"
                    && text(subject, &["name"]) == account
                    && text(subject, &["namespace"]) == &*workload.namespace
            };
            (rule.namespace.is_empty() || here) && list(value, &["subjects"]).iter().any(is_its)
        }
        kind => {
            let hooks = list(value, &["webhooks"]);
            WEBHOOKS.contains(&kind) && (hooks.is_empty() || hooks.iter().any(is_of_pods))
        }
    };
    bears.then_some(match &*rule.kind {
        kind if FILTERS.contains(&kind) => Relation::Filters,
        kind if GRANTS.contains(&kind) => Relation::Grants,
        _ => Relation::Admits,
    })
}

/// Is a webhook asked about pods? One of which it is not said may be.
fn is_of_pods(hook: &Value) -> bool {
    let rules = list(hook, &["rules"]);
    let names = |rule: &Value, part: &str, wanted: &[&str]| {
        let named = list(rule, &[part]);
        named.is_empty()
            || named.iter().filter_map(Value::as_str).any(|name| wanted.contains(&name))
    };
    let of_pods = |rule: &Value| {
        names(rule, "apiGroups", &["", "*"])
            && names(rule, "resources", &["pods", "pods/*", "*", "*/*"])
    };
    rules.is_empty() || rules.iter().any(of_pods)
}

/// Do a workload's pods ask the cluster's resolver for names?
fn is_resolved(kind: &str, workload: &Value) -> bool {
    pod_template(kind, workload).is_some_and(|(_, spec)| {
        let of_node = boolean(spec, &["hostNetwork"]) == Some(true);
        match text(spec, &["dnsPolicy"]) {
            "" | "ClusterFirst" => !of_node,
            policy => policy == "ClusterFirstWithHostNet",
        }
    })
}

/// The role that a binding grants.
pub(super) fn role(binding: &Entity, value: &Value) -> Entity {
    let role = |part| text(value, &["roleRef", part]);
    let of = if role("kind") == "Role" { &*binding.namespace } else { "" };
    Entity::new(role("kind"), of, role("name"))
}

/// The Services that a webhook configuration asks.
pub(super) fn asked(value: &Value) -> impl Iterator<Item = Entity> {
    list(value, &["webhooks"])
        .iter()
        .map(|hook| {
            let of = |part| text(hook, &["clientConfig", "service", part]);
            Entity::new("Service", of("namespace"), of("name"))
        })
        .filter(|service| !service.name.is_empty())
}

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
