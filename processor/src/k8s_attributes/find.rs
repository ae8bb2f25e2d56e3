//! Which pod a resource is, and whether it is one to speak of.

use std::net::IpAddr;

use regex::Regex;
use serde_json::Value;
use tapio_proto::edit::AttributeList;

use super::config::{AssociationConfig, ConditionConfig, K8sAttributesConfig, SourceConfig};
use crate::{
    attributes::compile,
    kubernetes::{
        Snapshot,
        value::{at, text},
    },
};

/// Attributes by which a pod can be found; others only tell apart what these find.
pub(super) const FINDS: [&str; 5] =
    ["container.id", "host.name", "k8s.pod.ip", "k8s.pod.name", "k8s.pod.uid"];
/// The sender's address, among the sources.
pub(super) const SENDER: &str = "connection";
/// What a pod says of itself that is not to be told of.
const IGNORE: &str = "opentelemetry.io/k8s-processor/ignore";

/// How pods are found.
pub(super) struct Find {
    associations: Vec<Vec<SourceConfig>>,
    node: String,
    namespace: String,
    fields: Vec<ConditionConfig>,
    labels: Vec<ConditionConfig>,
    excluded: Vec<Regex>,
}

impl Find {
    pub(super) fn new(config: &K8sAttributesConfig) -> Result<Self, String> {
        let filter = &config.filter;
        let node = match filter.node_from_env_var.as_str() {
            "" => filter.node.clone(),
            variable => std::env::var(variable).unwrap_or_default(),
        };
        let mut excluded: Vec<&str> =
            config.exclude.pods.iter().map(|pod| pod.name.as_str()).collect();
        if excluded.is_empty() {
            excluded = vec!["jaeger-agent", "jaeger-collector"];
        }
        let sources = |association: &AssociationConfig| association.sources.clone();
        Ok(Find {
            associations: config.pod_association.iter().map(sources).collect(),
            node,
            namespace: filter.namespace.clone(),
            fields: filter.fields.clone(),
            labels: filter.labels.clone(),
            excluded: excluded.into_iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// By what a resource is to be found: names of attributes, or [`SENDER`], with their values; nothing
    /// if no association applies.
    pub(super) fn identity<'l>(
        &'l self,
        attributes: &'l AttributeList<'_>,
        peer: Option<&'l str>,
    ) -> Vec<(&'l str, &'l str)> {
        if self.associations.is_empty() {
            let address = ["k8s.pod.ip", "ip"]
                .into_iter()
                .find_map(|key| present(attributes, key))
                .or(peer)
                .or_else(|| present(attributes, "host.name").filter(|name| is_address(name)));
            return address.map(|address| (SENDER, address)).into_iter().collect();
        }
        let configured = self.associations.iter().find_map(|association| {
            let sources = association.iter().map(|source| resolved(source, attributes, peer));
            // The first association whose sources are all there decides, as in the Collector.
            let sources: Option<Vec<_>> = sources.collect();
            sources.filter(|sources| !sources.is_empty())
        });
        configured.unwrap_or_default()
    }

    /// The pod that this identity, or else the attributes of the resource, point to.
    pub(super) fn pod<'s>(
        &self,
        identity: &[(&str, &str)],
        attributes: &AttributeList<'_>,
        snapshot: &'s Snapshot,
    ) -> Option<&'s Value> {
        found(identity, snapshot)
            .or_else(|| by_itself(attributes, snapshot))
            .filter(|pod| self.speaks_of(pod))
    }

    /// Is the sender's address of use?
    pub(super) fn wants_sender(&self) -> bool {
        let sources = || self.associations.iter().flatten();
        self.associations.is_empty() || sources().any(|source| source.from == SENDER)
    }

    fn speaks_of(&self, pod: &Value) -> bool {
        let label = |key: &str| at(pod, &["metadata", "labels", key]).and_then(Value::as_str);
        let field = |path: &str| {
            let path: Vec<_> = path.split('.').collect();
            at(pod, &path).and_then(Value::as_str)
        };
        let ignored = text(pod, &["metadata", "annotations", IGNORE]);
        (self.node.is_empty() || text(pod, &["spec", "nodeName"]) == self.node)
            && (self.namespace.is_empty()
                || text(pod, &["metadata", "namespace"]) == self.namespace)
            && self.labels.iter().all(|condition| holds(condition, label(&condition.key)))
            && self.fields.iter().all(|condition| holds(condition, field(&condition.key)))
            && !ignored.trim().eq_ignore_ascii_case("true")
            && !self.excluded.iter().any(|name| name.is_match(text(pod, &["metadata", "name"])))
    }
}

/// What Kubernetes' selectors say of a value that may be missing.
fn holds(condition: &ConditionConfig, value: Option<&str>) -> bool {
    match condition.op.as_str() {
        "exists" => value.is_some(),
        "does-not-exist" => value.is_none(),
        "not-equals" => value != Some(&condition.value),
        _ => value == Some(&condition.value),
    }
}

/// A source and its value, if there is one that is of use.
fn resolved<'l>(
    source: &'l SourceConfig,
    attributes: &'l AttributeList<'_>,
    peer: Option<&'l str>,
) -> Option<(&'l str, &'l str)> {
    if source.from == SENDER {
        return Some((SENDER, peer?));
    }
    let value = present(attributes, &source.name)?;
    (source.name != "host.name" || is_address(value)).then_some((source.name.as_str(), value))
}

/// The pod that has all of these.
fn found<'s>(sources: &[(&str, &str)], snapshot: &'s Snapshot) -> Option<&'s Value> {
    let value = |wanted: &str| sources.iter().find(|(name, _)| *name == wanted).map(|(_, v)| *v);
    let pod = value("k8s.pod.uid")
        .and_then(|uid| snapshot.by_uid(uid))
        .or_else(|| snapshot.by_container(value("container.id")?))
        .or_else(|| {
            let address = ["k8s.pod.ip", SENDER, "host.name"].into_iter().find_map(value);
            snapshot.by_address(address?)
        })
        .or_else(|| snapshot.by_name(value("k8s.namespace.name"), value("k8s.pod.name")?))?;
    let agrees = |(name, value): &(&str, &str)| match *name {
        "k8s.pod.uid" => text(pod, &["metadata", "uid"]) == *value,
        "k8s.pod.name" => text(pod, &["metadata", "name"]) == *value,
        "k8s.namespace.name" => text(pod, &["metadata", "namespace"]) == *value,
        "k8s.node.name" => text(pod, &["spec", "nodeName"]) == *value,
        _ => true,
    };
    sources.iter().all(agrees).then_some(pod)
}

/// What a resource says of itself: an agent or a Collector in front may have told which pod it is.
fn by_itself<'s>(attributes: &AttributeList<'_>, snapshot: &'s Snapshot) -> Option<&'s Value> {
    if let Some(uid) = present(attributes, "k8s.pod.uid") {
        return snapshot.by_uid(uid);
    }
    let namespace = present(attributes, "k8s.namespace.name")?;
    snapshot.by_name(Some(namespace), present(attributes, "k8s.pod.name")?)
}

fn present<'l>(attributes: &'l AttributeList<'_>, key: &str) -> Option<&'l str> {
    attributes.text(key).filter(|value| !value.is_empty())
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}
