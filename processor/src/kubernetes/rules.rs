//! What bears on workloads that it need not name: Services, limits, policies, bindings, webhooks.

use serde_json::Value;
use tapio_proto::model::{Entity, Relation};

use super::{
    links::{LIMITS, matches, resolver, selects},
    objects::{Link, pod_template},
    passage,
    value::{at, boolean, list, text},
};

/// Kinds that say what traffic pods may have. Those of Istio without a selector hold for their namespace, and in
/// its root namespace for all.
const FILTERS: [&str; 3] = ["NetworkPolicy", "PeerAuthentication", "AuthorizationPolicy"];
pub(super) const GRANTS: [&str; 2] = ["RoleBinding", "ClusterRoleBinding"];
pub(super) const WEBHOOKS: [&str; 2] =
    ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
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
        _ => ruled(entity, value, workload, workload_value)
            .map(|relation| (relation, entity.clone(), workload.clone())),
    };
    bears.into_iter().chain(dns)
}

/// How a rule bears on a workload: a policy filters its traffic, a binding grants rights to its ServiceAccount,
/// a webhook is asked about its pods.
pub(super) fn ruled(
    rule: &Entity,
    value: &Value,
    workload: &Entity,
    workload_value: &Value,
) -> Option<Relation> {
    let (labels, spec) = pod_template(&workload.kind, workload_value)?;
    let here = rule.namespace == workload.namespace;
    let bears = match &*rule.kind {
        "NetworkPolicy" => here && passage::holds(value, labels),
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
            let is_asked = |hook: &Value| {
                let meant = at(hook, &["namespaceSelector"]);
                is_of_pods(hook)
                    && meant.is_none_or(|s| passage::may_mean(s, &workload.namespace, None))
            };
            WEBHOOKS.contains(&kind) && (hooks.is_empty() || hooks.iter().any(is_asked))
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
    list(value, &["webhooks"]).iter().map(asked_by).filter(|service| !service.name.is_empty())
}

/// The Service that one webhook asks; without a name where it asks none.
pub(super) fn asked_by(hook: &Value) -> Entity {
    let of = |part| text(hook, &["clientConfig", "service", part]);
    Entity::new("Service", of("namespace"), of("name"))
}
