//! Which log records are no application's: Kubernetes objects and events, and changes, and what each
//! shape of them says.

use serde_json::{Map, Value};
use tapio_proto::model::{Change, Entity, Time};

use super::{
    cluster::{Cluster, Verb, outside},
    events::{Report, container},
    fact::Fact,
    notice, redact,
    value::{cut, number, plain, text},
};

/// Scope of records that tell of changes outside Kubernetes.
const CHANGE_SCOPE: &str = "tapio.change";
/// Longest value in a row of such a change, in characters.
const MAX_VALUE: usize = 200;

/// A log record that is no application's, read.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Name of the instrumentation scope; the `k8sobjects` receiver often leaves it empty.
    pub scope: String,
    /// `eventName` of the record.
    pub event_name: String,
    /// `severityText` of the record.
    pub severity: String,
    /// The record's own time; `None` where it has none, as those of `k8sobjects`.
    pub time: Option<Time>,
    /// When the Collector saw it.
    pub observed: Option<Time>,
    /// Attributes of the resource.
    pub resource: Map<String, Value>,
    /// Attributes of the record.
    pub attributes: Map<String, Value>,
    /// The body.
    pub body: Value,
}

/// The shape of a record, told by its scope and the names of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Receiver `k8s_objects`: an object.
    Object,
    /// Receiver `k8s_events`: an Event.
    Event,
    /// Scope `tapio.change`.
    Change,
    /// An alert, a provider's status, a unit's state.
    Notice,
}

/// The shape of a record with this scope, `eventName` and these attribute names; `None` for application
/// logs.
pub(super) fn shape<'a>(
    scope: &str,
    event_name: &str,
    mut attributes: impl Iterator<Item = &'a [u8]>,
) -> Option<Shape> {
    if notice::NAMES.contains(&event_name) {
        return Some(Shape::Notice);
    }
    if scope == CHANGE_SCOPE {
        return Some(Shape::Change);
    }
    attributes.find_map(|key| match key {
        b"k8s.resource.name" => Some(Shape::Object),
        b"k8s.event.reason" | b"k8s.event.uid" => Some(Shape::Event),
        _ => None,
    })
}

impl Cluster {
    /// One log record. True when it is a Kubernetes object or event or a change, and so no
    /// application's log; the facts that follow are added to `out`.
    pub fn record(&mut self, record: Record, out: &mut Vec<Fact>) -> bool {
        let seen = record.observed.or(record.time).unwrap_or_default();
        let keys = record.attributes.keys().map(String::as_bytes);
        match shape(&record.scope, &record.event_name, keys) {
            None => return false,
            Some(Shape::Notice) => return self.notice(&record, seen, out),
            Some(Shape::Object) => self.watched(record, seen, out),
            Some(Shape::Event) => {
                let report = event(&record, seen);
                self.report(&report, seen, out);
            }
            Some(Shape::Change) => return self.outside_change(&record, seen, out),
        }
        true
    }

    fn watched(&mut self, record: Record, seen: Time, out: &mut Vec<Fact>) {
        let mut body = record.body;
        let (verb, mut object) = match body.get_mut("object").map(Value::take) {
            Some(object) => (verb(text(&body, &["type"])), object),
            None => (Some(Verb::Listed), body),
        };
        // Items of a list need not repeat their kind.
        if let Some(fields) = object.as_object_mut().filter(|fields| !fields.contains_key("kind")) {
            let plural =
                record.attributes.get("k8s.resource.name").and_then(Value::as_str).unwrap_or("");
            fields.insert("kind".into(), Value::String(kind(plural)));
        }
        if let Some(verb) = verb {
            self.observe(verb, object, seen, out);
        }
    }

    /// A deployment, a commit, a feature flag.
    fn outside_change(&mut self, record: &Record, seen: Time, out: &mut Vec<Fact>) -> bool {
        let of = |key: &str| record.attributes.get(key).map(plain).unwrap_or_default();
        let resource = |key: &str| record.resource.get(key).map(plain).unwrap_or_default();
        let namespace = [resource("k8s.namespace.name"), resource("service.namespace")]
            .into_iter()
            .find(|name| !name.is_empty());
        let entity = |kind: &str| {
            Entity::new(kind, namespace.as_deref().unwrap_or(""), &resource("service.name"))
        };
        let time = record.time.unwrap_or(seen);
        let side = |text: String| (!text.is_empty()).then(|| cut(&redact::text(&text), MAX_VALUE));
        let name =
            if record.event_name.is_empty() { of("event.name") } else { record.event_name.clone() };
        let row =
            |numbers, kind: &str| outside(numbers, &entity(kind), time, seen, &of("user.name"));
        let mut release = notice::release(record, &name, time);
        let change = match &*name {
            "deployment" => {
                // The same deployment is told at each step; it was made at the first.
                let key = format!("{} {}", entity("Deployment"), release.key());
                let told = self.releases.entry(&key).clone();
                let (number, before) = match told {
                    Some((number, before)) => (number, before),
                    None => {
                        let running = self.releases.entry(&entity("Deployment").to_string());
                        let before = running.take().map(|(_, version)| version).unwrap_or_default();
                        *running = Some((0, release.version.clone()));
                        (0, before)
                    }
                };
                release.before = before.clone();
                if number != 0 {
                    release.change = number;
                    out.push(Fact::Release(Box::new(release)));
                    return true;
                }
                let change = Change {
                    path: "service.version".into(),
                    old: side(before.clone()),
                    new: side(release.version.clone()),
                    revision: release.id.clone(),
                    ..row(&mut self.numbers, "Deployment")
                };
                *self.releases.entry(&key) = Some((change.change, before));
                change
            }
            "vcs.commit" => Change {
                path: cut(&release.files, MAX_VALUE),
                new: side(release.name.clone()),
                revision: release.id.clone(),
                ..row(&mut self.numbers, "Service")
            },
            "feature_flag.change" => Change {
                path: format!("feature_flag.{}", release.name),
                old: side(release.before.clone()),
                new: side(release.version.clone()),
                revision: release.id.clone(),
                ..row(&mut self.numbers, "Service")
            },
            _ => return false,
        };
        release.change = change.change;
        out.push(Fact::Change(vec![change]));
        out.push(Fact::Release(Box::new(release)));
        true
    }
}

fn verb(word: &str) -> Option<Verb> {
    match word {
        "ADDED" => Some(Verb::Added),
        "MODIFIED" => Some(Verb::Modified),
        "DELETED" => Some(Verb::Deleted),
        // Bookmarks and errors of the watch say nothing of an object.
        _ => None,
    }
}

/// The kind of a resource by its plural: `configmaps` is `ConfigMap`.
fn kind(plural: &str) -> String {
    const KINDS: [&str; 30] = [
        "ConfigMap",
        "ControllerRevision",
        "CronJob",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "EndpointSlice",
        "Endpoints",
        "Event",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Job",
        "Lease",
        "LimitRange",
        "Namespace",
        "NetworkPolicy",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodDisruptionBudget",
        "PriorityClass",
        "ReplicaSet",
        "ReplicationController",
        "ResourceQuota",
        "Secret",
        "Service",
        "ServiceAccount",
        "StatefulSet",
        "StorageClass",
    ];
    let singular = |kind: &str| match kind.to_ascii_lowercase() {
        kind if kind.ends_with("ss") => format!("{kind}es"),
        kind if kind.ends_with('y') => format!("{}ies", &kind[..kind.len() - 1]),
        kind if kind.ends_with('s') => kind,
        kind => format!("{kind}s"),
    };
    KINDS
        .iter()
        .find(|kind| singular(kind) == plural)
        .map_or_else(|| plural.to_owned(), |kind| (*kind).to_owned())
}

/// An Event as the `k8s_events` receiver writes it.
fn event(record: &Record, seen: Time) -> Report {
    let attributes = Value::Object(record.attributes.clone());
    let resource = |key: &str| record.resource.get(key).map(plain).unwrap_or_default();
    let of = |key: &str| text(&attributes, &[key]).to_owned();
    let namespace = [resource("k8s.namespace.name"), of("k8s.namespace.name")]
        .into_iter()
        .find(|name| !name.is_empty());
    let kind = resource("k8s.object.kind");
    // A Node has no namespace, though its Events have one.
    let namespace = namespace
        .filter(|_| !matches!(&*kind, "Node" | "PersistentVolume" | "Namespace"))
        .unwrap_or_default();
    let name = resource("k8s.object.name");
    Report {
        id: [of("k8s.event.uid"), of("k8s.event.name")]
            .into_iter()
            .find(|id| !id.is_empty())
            .unwrap_or_default(),
        node: if kind == "Node" { name.clone() } else { resource("k8s.node.name") },
        entity: Entity::new(&kind, &namespace, &name),
        related: None,
        reason: of("k8s.event.reason"),
        message: plain(&record.body),
        warning: record.severity != "Normal",
        container: container(&resource("k8s.object.fieldpath")),
        count: number(&attributes, &["k8s.event.count"]).unwrap_or(1).max(1),
        time: record.time.unwrap_or(seen).min(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_are_kinds() {
        for (plural, expected) in [
            ("configmaps", "ConfigMap"),
            ("ingresses", "Ingress"),
            ("networkpolicies", "NetworkPolicy"),
            ("endpoints", "Endpoints"),
            ("storageclasses", "StorageClass"),
            ("widgets", "widgets"),
        ] {
            assert_eq!(kind(plural), expected);
        }
    }
}
