//! Which observations of an object are somebody's change, and the rows of it.

use serde_json::Value;
use tapio_proto::model::{Change, ChangeVerb, Entity, Time};

use super::{
    becomes,
    cluster::Verb,
    diff::{self, Field},
    fact::{Numbers, change},
    manager::{self, Author},
    objects::{Object, controller},
    undo,
    value::{at, plain, text},
};

/// An object whose creation is at most this long before it was seen is new, in nanoseconds.
const NEW: i64 = 30_000_000_000;
/// Most fields that are told of a change of which only the field manager's list is known.
const MAX_OWNED: usize = 16;
/// Deepest field of a field manager's list that is followed.
const MAX_DEPTH: usize = 32;

/// An object seen once more.
pub(super) struct Seen<'a> {
    pub(super) entity: &'a Entity,
    pub(super) verb: Verb,
    pub(super) value: &'a Value,
    pub(super) before: Option<&'a Object>,
    /// When the first object of the cluster was seen.
    pub(super) started: Time,
    pub(super) seen: Time,
}

impl Seen<'_> {
    /// The rows of the change that somebody made, if somebody did.
    pub(super) fn changes(&self, numbers: &mut Numbers) -> Option<Vec<Change>> {
        if is_written_by_controllers(&self.entity.kind, self.value) || self.is_boilerplate() {
            return None;
        }
        match (self.verb, self.before.filter(|before| before.deleted.is_none())) {
            (Verb::Deleted, _) => self.whole(ChangeVerb::Deleted, numbers),
            (_, Some(before)) => self.modified(before, numbers),
            (Verb::Modified, None) if self.before.is_none() => self.modified_unseen(numbers),
            _ if self.is_new() => self.whole(ChangeVerb::Added, numbers),
            _ => None,
        }
    }

    /// Created after we began to look; or just now, when it comes as news and not in a list.
    fn is_new(&self) -> bool {
        let created = Time::parse_rfc3339(text(self.value, &["metadata", "creationTimestamp"]));
        created.is_some_and(|created| {
            created > self.started
                || (self.verb != Verb::Listed && created.0.saturating_add(NEW) >= self.seen.0)
        })
    }

    /// What the control plane puts into every namespace.
    fn is_boilerplate(&self) -> bool {
        match &*self.entity.kind {
            "ConfigMap" => &*self.entity.name == "kube-root-ca.crt",
            "ServiceAccount" => &*self.entity.name == "default",
            "Secret" => text(self.value, &["type"]) == "kubernetes.io/service-account-token",
            _ => false,
        }
    }

    fn whole(&self, verb: ChangeVerb, numbers: &mut Numbers) -> Option<Vec<Change>> {
        // Deleting leaves no trace in the field managers; creating does.
        let author = match verb {
            ChangeVerb::Deleted => Author { manager: "", time: self.deletion(), subresource: "" },
            _ => manager::author(self.value, "spec", None, self.seen),
        };
        (!manager::is_system(author)).then(|| {
            let undo = match verb {
                ChangeVerb::Added => undo::of_added(self.entity),
                _ => String::new(),
            };
            let number = numbers.change();
            let row = change(number, verb, self.entity, author.time, self.seen, author.manager);
            vec![Change { undo, ..row }]
        })
    }

    /// When the deletion was asked for; pods and objects with finalizers go only later.
    fn deletion(&self) -> Time {
        const LATEST: i64 = 3_600_000_000_000;
        Time::parse_rfc3339(text(self.value, &["metadata", "deletionTimestamp"]))
            .filter(|time| time.0.saturating_add(LATEST) >= self.seen.0)
            .map_or(self.seen, |time| time.min(self.seen))
    }

    fn modified(&self, before: &Object, numbers: &mut Numbers) -> Option<Vec<Change>> {
        let mut slim = self.value.clone();
        self::slim(&self.entity.kind, &mut slim);
        let mut fields = diff::diff(&self.entity.kind, &before.value, &slim);
        if fields.is_empty()
            && &*self.entity.kind == "Secret"
            && at(self.value, &["data"]).is_none()
        {
            fields = self.unseen_secret(before);
        }
        let undo = undo::command(self.entity, &before.value, &slim, &fields);
        self.rows(fields, Some(before.seen), &undo, numbers)
    }

    /// A Secret whose data never reaches us, as a careful Collector has it, was written all the same.
    fn unseen_secret(&self, before: &Object) -> Vec<Field> {
        let author = manager::author(self.value, "data", Some(before.seen), self.seen);
        if author.manager.is_empty() {
            return Vec::new();
        }
        let shown = Some(super::redact::REDACTED.to_owned());
        vec![Field { path: "data".into(), old: shown.clone(), new: shown }]
    }

    /// A change of an object of which the state before was never seen: the field manager's list
    /// tells which fields it owns, the object what they are now.
    fn modified_unseen(&self, numbers: &mut Numbers) -> Option<Vec<Change>> {
        let (author, owned) = manager::latest(self.value, self.seen)?;
        if manager::is_system(author)
            || at(self.value, &["metadata", "generation"])
                .is_some_and(|generation| plain(generation) == "1")
        {
            return None;
        }
        let mut paths = Vec::new();
        owned_paths(owned, self.value, &mut Vec::new(), &mut paths);
        paths.retain(|(names, ..)| is_intent(&self.entity.kind, names));
        if paths.is_empty() {
            return None;
        }
        let fields = if paths.len() <= MAX_OWNED {
            let field = |(names, rendered, value): (Vec<&str>, String, Option<&Value>)| Field {
                path: rendered,
                old: None,
                new: value.map(|value| diff::shown(&self.entity.kind, &names, value)),
            };
            paths.into_iter().map(field).collect()
        } else {
            // A whole manifest was applied: which of its fields are new cannot be known.
            let top = paths
                .iter()
                .filter_map(|(names, ..)| names.first())
                .find(|top| **top != "metadata");
            vec![Field {
                path: top.copied().unwrap_or("metadata").to_owned(),
                old: None,
                new: Some(format!("({} fields written)", paths.len())),
            }]
        };
        self.rows(fields, None, "", numbers)
    }

    fn rows(
        &self,
        fields: Vec<Field>,
        since: Option<Time>,
        undo: &str,
        numbers: &mut Numbers,
    ) -> Option<Vec<Change>> {
        let fields: Vec<_> = fields
            .into_iter()
            .map(|field| (manager::author(self.value, &field.path, since, self.seen), field))
            .filter(|(author, _)| !manager::is_system(*author))
            .collect();
        if fields.is_empty() {
            return None;
        }
        let number = numbers.change();
        let row = |(author, field): (Author<'_>, Field)| Change {
            becomes: if since.is_some() {
                becomes::direction(&field.path, field.old.as_deref(), field.new.as_deref())
            } else {
                ""
            }
            .to_owned(),
            path: field.path,
            old: field.old,
            new: field.new,
            undo: undo.to_owned(),
            ..change(
                number,
                ChangeVerb::Modified,
                self.entity,
                author.time,
                self.seen,
                author.manager,
            )
        };
        Some(fields.into_iter().map(row).collect())
    }
}

/// Do controllers write such objects, so that no change of one is anybody's intent?
fn is_written_by_controllers(kind: &str, value: &Value) -> bool {
    const KINDS: [&str; 9] = [
        "Event",
        "Lease",
        "EndpointSlice",
        "Endpoints",
        "ControllerRevision",
        "PodMetrics",
        "NodeMetrics",
        "CSIStorageCapacity",
        "VolumeAttachment",
    ];
    KINDS.contains(&kind) || controller(value).is_some()
}

/// Drops what is large or must not be kept and tells nothing: the books of the field managers, the
/// copy that `kubectl apply` keeps, the images on a node, the values of Secrets.
pub(super) fn slim(kind: &str, value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        status.shift_remove("images");
    }
    if kind == "Secret" {
        for part in ["data", "stringData"] {
            let Some(data) = value.get_mut(part).and_then(Value::as_object_mut) else { continue };
            data.values_mut().for_each(|value| *value = fingerprint(value));
        }
    }
}

/// Does an object say no more than that it is still there: is all as before but for versions and times?
pub(super) fn is_heartbeat(before: &Value, after: &Value) -> bool {
    const BEATS: [&str; 8] = [
        "resourceVersion",
        "managedFields",
        "images",
        "lastHeartbeatTime",
        "lastProbeTime",
        "lastUpdateTime",
        "observedGeneration",
        "kubectl.kubernetes.io/last-applied-configuration",
    ];
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let of = |all: &serde_json::Map<String, Value>| {
                all.keys().filter(|key| !BEATS.contains(&key.as_str())).count()
            };
            of(before) == of(after)
                && after
                    .iter()
                    .filter(|(key, _)| !BEATS.contains(&key.as_str()))
                    .all(|(key, value)| before.get(key).is_some_and(|old| is_heartbeat(old, value)))
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len() && before.iter().zip(after).all(|(a, b)| is_heartbeat(a, b))
        }
        (before, after) => before == after,
    }
}

/// Tells whether a value is another one than before, and nothing else of it. Fingerprints stay in
/// this process and are made before the value is kept.
fn fingerprint(value: &Value) -> Value {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    plain(value).hash(&mut hasher);
    Value::from(hasher.finish())
}

/// Is the field one of intent, not one that controllers keep for themselves?
fn is_intent(kind: &str, names: &[&str]) -> bool {
    let section = match names {
        ["metadata", part, ..] => matches!(*part, "labels" | "annotations"),
        [top, ..] => !matches!(*top, "status" | "apiVersion" | "kind"),
        [] => false,
    };
    section
        && !(1..=names.len())
            .any(|len| names.get(..len).is_some_and(|names| diff::is_noise(kind, names)))
}

/// The leaves of a `FieldsV1` tree (`f:name` a field, `k:{...}` an element by its keys), as names, as a
/// path and with the value that the object has there.
fn owned_paths<'a>(
    owned: &'a Value,
    value: &'a Value,
    names: &mut Vec<(&'a str, bool)>,
    out: &mut Vec<(Vec<&'a str>, String, Option<&'a Value>)>,
) {
    let fields = owned.as_object().into_iter().flatten();
    let mut steps: Vec<(&str, bool, &Value, Option<&Value>)> = Vec::new();
    for (key, inner) in fields {
        if let Some(name) = key.strip_prefix("f:") {
            steps.push((name, false, inner, value.get(name)));
        } else if let Some(keys) = key.strip_prefix("k:") {
            let Ok(Value::Object(keys)) = serde_json::from_str(keys) else { continue };
            let matches = |element: &&Value| {
                keys.iter().all(|(key, wanted)| element.get(key).map(plain) == Some(plain(wanted)))
            };
            let element = value.as_array().and_then(|elements| elements.iter().find(matches));
            let name = element
                .and_then(|element| keys.keys().next().and_then(|key| element.get(key)?.as_str()));
            steps.push((name.unwrap_or("?"), true, inner, element));
        }
    }
    steps.sort_by_key(|(name, ..)| *name);
    if (steps.is_empty() && !names.is_empty()) || names.len() >= MAX_DEPTH {
        let mut path = String::new();
        for (name, element) in names.iter() {
            match (element, path.is_empty()) {
                (true, _) => path.push_str(&format!("[{name}]")),
                (false, true) => path.push_str(name),
                (false, false) => path.push_str(&format!(".{name}")),
            }
        }
        out.push((
            names.iter().map(|(name, _)| *name).collect(),
            path,
            Some(value).filter(|value| !value.is_null()),
        ));
        return;
    }
    for (name, element, inner, value) in steps {
        names.push((name, element));
        owned_paths(inner, value.unwrap_or(&Value::Null), names, out);
        names.pop();
    }
}
