//! An object against its last known state, field by field: what people and tools intend, not what
//! controllers report.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    redact::{self, REDACTED},
    text,
    value::{at, cut, plain, text as text_at},
};

/// Longest value in a row, in characters.
const MAX_VALUE: usize = 200;
/// Most rows of one change; beyond them one row counts the rest.
const MAX_ROWS: usize = 64;
/// A subtree that came or went is told by its leaves up to this many, else as one value.
const MAX_LEAVES: usize = 4;
/// What identifies an element of a list, best first.
const KEYS: [&str; 9] =
    ["name", "key", "type", "containerPort", "port", "mountPath", "host", "ip", "path"];

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    /// From the top, dotted, elements of lists by name: `spec.template.spec.containers[cart].image`.
    pub(super) path: String,
    /// As text, redacted and cut; `None` when the field was not there.
    pub(super) old: Option<String>,
    /// As text, redacted and cut; `None` when the field is gone.
    pub(super) new: Option<String>,
}

/// The fields of intent that differ between two states of one object of this kind.
pub(super) fn diff(kind: &str, old: &Value, new: &Value) -> Vec<Field> {
    let mut walk =
        Walk { kind, path: Vec::new(), names: Vec::new(), fields: Vec::new(), dropped: 0 };
    for key in keys(old, new) {
        match key {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for part in ["labels", "annotations"] {
                    let of =
                        |object| at(object, &["metadata", part]).cloned().unwrap_or(Value::Null);
                    walk.inside("metadata", |walk| walk.field(part, &of(old), &of(new)));
                }
            }
            key => walk.field(
                key,
                old.get(key).unwrap_or(&Value::Null),
                new.get(key).unwrap_or(&Value::Null),
            ),
        }
    }
    walk.finish()
}

/// A value as a row may hold it, at this dotted path.
pub(super) fn shown(kind: &str, path: &[&str], value: &Value) -> String {
    if kind == "Secret" && matches!(path.first(), Some(&("data" | "stringData"))) {
        return REDACTED.to_owned();
    }
    if path.first() == Some(&"binaryData") {
        return format!("({} bytes)", plain(value).len() / 4 * 3);
    }
    cut(&redact::value(path, &plain(value)), MAX_VALUE)
}

/// Is this a field that controllers and tools write for themselves?
pub(super) fn is_noise(kind: &str, path: &[&str]) -> bool {
    match path {
        ["metadata", "labels", label] => {
            matches!(
                *label,
                "pod-template-hash" | "controller-revision-hash" | "pod-template-generation"
            ) || label.starts_with("statefulset.kubernetes.io/")
        }
        ["metadata", "annotations", annotation] => is_noisy_annotation(annotation),
        ["spec", "template", "metadata", "creationTimestamp"] => true,
        [
            "spec",
            "clusterIP" | "clusterIPs" | "ipFamilies" | "ipFamilyPolicy" | "healthCheckNodePort",
        ] => kind == "Service",
        ["spec", "nodeName" | "tolerations"] => kind == "Pod",
        ["spec", "podCIDR" | "podCIDRs" | "providerID"] => kind == "Node",
        ["spec", "volumeName"] => kind == "PersistentVolumeClaim",
        ["spec", "claimRef", ..] => kind == "PersistentVolume",
        ["spec", "finalizers"] => kind == "Namespace",
        ["secrets"] => kind == "ServiceAccount",
        [.., "caBundle"] => true,
        _ => false,
    }
}

fn is_noisy_annotation(annotation: &str) -> bool {
    const EXACT: [&str; 8] = [
        "kubectl.kubernetes.io/last-applied-configuration",
        "control-plane.alpha.kubernetes.io/leader",
        "endpoints.kubernetes.io/last-change-trigger-time",
        "node.alpha.kubernetes.io/ttl",
        "deprecated.daemonset.template.generation",
        "autoscaling.alpha.kubernetes.io/conditions",
        "autoscaling.alpha.kubernetes.io/current-metrics",
        "kubernetes.io/change-cause",
    ];
    const PREFIXES: [&str; 6] = [
        "deployment.kubernetes.io/",
        "pv.kubernetes.io/",
        "volume.kubernetes.io/",
        "volume.beta.kubernetes.io/",
        "volumes.kubernetes.io/",
        "batch.kubernetes.io/",
    ];
    EXACT.contains(&annotation) || PREFIXES.iter().any(|prefix| annotation.starts_with(prefix))
}

/// The walk down both trees at once.
struct Walk<'a> {
    kind: &'a str,
    /// Rendered steps of the path: `.name` or `[name]`.
    path: Vec<String>,
    /// The same steps as bare names.
    names: Vec<String>,
    fields: Vec<Field>,
    dropped: usize,
}

impl Walk<'_> {
    fn inside(&mut self, name: &str, walk: impl FnOnce(&mut Self)) {
        self.step(
            if self.path.is_empty() { name.to_owned() } else { format!(".{name}") },
            name,
            walk,
        );
    }

    fn step(&mut self, rendered: String, name: &str, walk: impl FnOnce(&mut Self)) {
        self.path.push(rendered);
        self.names.push(name.to_owned());
        let noise = is_noise(self.kind, &self.names.iter().map(String::as_str).collect::<Vec<_>>());
        if !noise {
            walk(self);
        }
        self.path.pop();
        self.names.pop();
    }

    fn field(&mut self, name: &str, old: &Value, new: &Value) {
        self.inside(name, |walk| walk.values(old, new));
    }

    fn values(&mut self, old: &Value, new: &Value) {
        match (old, new) {
            _ if old == new || plain(old) == plain(new) => {}
            (Value::Object(_), Value::Object(_)) => {
                keys(old, new).into_iter().for_each(|key| {
                    self.field(
                        key,
                        old.get(key).unwrap_or(&Value::Null),
                        new.get(key).unwrap_or(&Value::Null),
                    );
                });
            }
            (Value::Object(one), Value::Null) | (Value::Null, Value::Object(one)) => {
                self.subtree(one, old, new)
            }
            (Value::Array(a), Value::Array(b)) => self.lists(a, b),
            (Value::Array(a), Value::Null) => self.lists(a, &[]),
            (Value::Null, Value::Array(b)) => self.lists(&[], b),
            (Value::String(a), Value::String(b)) if self.is_text() => self.texts(a, b),
            _ => self.row(Some(old), Some(new)),
        }
    }

    /// An object that came or went: its leaves when they are few.
    fn subtree(&mut self, one: &Map<String, Value>, old: &Value, new: &Value) {
        match leaves(&Value::Object(one.clone())) {
            0 => {}
            count if count <= MAX_LEAVES || self.names.len() < 2 => one.keys().for_each(|key| {
                self.field(
                    key,
                    old.get(key).unwrap_or(&Value::Null),
                    new.get(key).unwrap_or(&Value::Null),
                );
            }),
            _ => self.row(Some(old), Some(new)),
        }
    }

    fn lists(&mut self, old: &[Value], new: &[Value]) {
        let (old, new) =
            (without_node_taints(&self.names, old), without_node_taints(&self.names, new));
        let Some(key) = KEYS.into_iter().find(|key| identifies(key, &old) && identifies(key, &new))
        else {
            if old.len() == new.len() && old.iter().chain(&new).all(|value| value.is_object()) {
                for (index, (old, new)) in old.iter().zip(&new).enumerate() {
                    self.step(format!("[{index}]"), &index.to_string(), |walk| {
                        walk.values(old, new)
                    });
                }
            } else if old != new {
                let whole = |list: Vec<&Value>| {
                    (!list.is_empty()).then(|| list.into_iter().cloned().collect::<Value>())
                };
                self.row(whole(old).as_ref(), whole(new).as_ref());
            }
            return;
        };
        let find = |list: &[&Value], name: &str| {
            list.iter().find(|value| name_of(key, value) == name).copied().cloned()
        };
        let mut told = BTreeSet::new();
        for name in old.iter().chain(&new).map(|value| name_of(key, value)) {
            if told.insert(name.clone()) {
                let (old, new) = (find(&old, &name), find(&new, &name));
                self.step(format!("[{name}]"), &name, |walk| walk.element(key, old, new));
            }
        }
    }

    /// An element of a list, known by `key`; an element that came or went always leaves a row.
    fn element(&mut self, key: &str, old: Option<Value>, new: Option<Value>) {
        match (old, new) {
            (Some(old), Some(new)) => self.values(&old, &new),
            (Some(one), None) => self.lone(key, one, false),
            (None, Some(one)) => self.lone(key, one, true),
            (None, None) => {}
        }
    }

    fn lone(&mut self, key: &str, mut one: Value, added: bool) {
        if let Some(fields) = one.as_object_mut() {
            fields.shift_remove(key);
        }
        let rows = self.fields.len() + self.dropped;
        let few = (1..=MAX_LEAVES).contains(&leaves(&one));
        match (few, added) {
            (true, true) => self.values(&Value::Null, &one),
            (true, false) => self.values(&one, &Value::Null),
            _ => {}
        }
        if self.fields.len() + self.dropped == rows {
            if added { self.row(None, Some(&one)) } else { self.row(Some(&one), None) }
        }
    }

    /// Values in which people keep whole files.
    fn is_text(&self) -> bool {
        self.kind != "Secret"
            && self.names.len() == 2
            && self.names.first().is_some_and(|top| top == "data")
    }

    fn texts(&mut self, old: &str, new: &str) {
        if let Some((old_tree, new_tree)) = text::trees(old, new) {
            // Comments, order and spacing leave no row: nothing that a reader of the file would see.
            self.values(&old_tree, &new_tree);
        } else if old.contains('\n') || new.contains('\n') {
            let (old, new) = text::differing_lines(old, new);
            let side = |lines: String| (!lines.is_empty()).then_some(Value::String(lines));
            self.row(side(old).as_ref(), side(new).as_ref());
        } else {
            self.row(Some(&Value::from(old)), Some(&Value::from(new)));
        }
    }

    fn row(&mut self, old: Option<&Value>, new: Option<&Value>) {
        if self.fields.len() >= MAX_ROWS {
            self.dropped += 1;
            return;
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let side = |value: Option<&Value>| {
            value.filter(|value| !value.is_null()).map(|value| shown(self.kind, &names, value))
        };
        let (old, new) = (side(old), side(new));
        if old.is_some() || new.is_some() {
            self.fields.push(Field { path: self.path.concat(), old, new });
        }
    }

    fn finish(mut self) -> Vec<Field> {
        if self.dropped > 0 {
            let more = format!("({} more fields)", self.dropped);
            self.fields.push(Field { path: "…".into(), old: None, new: Some(more) });
        }
        self.fields
    }
}

/// The keys of both objects, sorted: the order in which they arrive differs from record to record.
fn keys<'a>(old: &'a Value, new: &'a Value) -> BTreeSet<&'a str> {
    let of =
        |value: &'a Value| value.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    of(old).chain(of(new)).collect()
}

fn name_of(key: &str, value: &Value) -> String {
    value.get(key).map(plain).unwrap_or_default()
}

/// Does this key tell every element of the list from the others?
fn identifies(key: &str, list: &[&Value]) -> bool {
    let mut names = BTreeSet::new();
    list.iter().all(|value| {
        value.get(key).is_some_and(|name| !name.is_null() && names.insert(plain(name)))
    })
}

/// The node controller taints nodes by itself; a cordon shows in `spec.unschedulable`.
fn without_node_taints<'a>(names: &[String], list: &'a [Value]) -> Vec<&'a Value> {
    let taints = names.last().is_some_and(|name| name == "taints");
    list.iter()
        .filter(|taint| !(taints && text_at(taint, &["key"]).starts_with("node.kubernetes.io/")))
        .collect()
}

/// How many scalars a tree holds.
fn leaves(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Object(fields) => fields.values().map(leaves).sum(),
        Value::Array(values) if values.iter().all(|value| !value.is_object()) => {
            usize::from(!values.is_empty())
        }
        Value::Array(values) => values.iter().map(leaves).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(kind: &str, old: Value, new: Value) -> Vec<(String, Option<String>, Option<String>)> {
        diff(kind, &old, &new).into_iter().map(|field| (field.path, field.old, field.new)).collect()
    }

    fn row(path: &str, old: &str, new: &str) -> (String, Option<String>, Option<String>) {
        let side = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (path.to_owned(), side(old), side(new))
    }

    #[test]
    fn elements_are_known_by_name_not_by_place() {
        let old = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "log", "image": "log:1"}, {"name": "cart", "image": "shop:1.4.0", "ports": [{"containerPort": "8080"}], "env": [{"name": "A", "value": "1"}]}]}}}});
        let new = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "cart", "image": "shop:1.4.1", "ports": [{"containerPort": 8080}], "env": [{"name": "KEEP_SESSION_BYTES", "value": "64k"}, {"name": "A", "value": "1"}]},
            {"name": "log", "image": "log:1"}]}}}});
        assert_eq!(
            rows("Deployment", old, new),
            [
                row("spec.template.spec.containers[cart].env[KEEP_SESSION_BYTES].value", "", "64k"),
                row("spec.template.spec.containers[cart].image", "shop:1.4.0", "shop:1.4.1"),
            ]
        );
    }

    #[test]
    fn texts_in_config_maps_are_diffed_inside() {
        let old = json!({"data": {"pool.json": "{\"max_connections\": 8, \"kib\": 1}\n", "Corefile": "a\nb\nc\n", "level": "info"}});
        let new = json!({"data": {"pool.json": "{\"max_connections\": 200, \"kib\": 1}\n", "Corefile": "a\nB\nc\n", "level": "debug"}});
        assert_eq!(
            rows("ConfigMap", old, new),
            [
                row("data.Corefile", "b", "B"),
                row("data.level", "info", "debug"),
                row("data.pool.json.max_connections", "8", "200"),
            ]
        );
    }

    #[test]
    fn secrets_are_never_shown() {
        let old = json!({"data": {"api-key": "b2xk"}});
        let new = json!({"data": {"api-key": "bmV3", "more": "eA=="}});
        assert_eq!(
            rows("Secret", old, new),
            [row("data.api-key", REDACTED, REDACTED), row("data.more", "", REDACTED)]
        );
    }

    #[test]
    fn what_controllers_write_is_no_change() {
        let old = json!({"metadata": {"generation": 1, "annotations": {"deployment.kubernetes.io/revision": "1"}}, "status": {"replicas": 1},
            "spec": {"taints": []}});
        let new = json!({"metadata": {"generation": 2, "annotations": {"deployment.kubernetes.io/revision": "2"}, "labels": {"pod-template-hash": "x"}},
            "status": {"replicas": 0}, "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}], "template": {}}});
        assert_eq!(rows("Node", old, new), []);
    }

    #[test]
    fn a_restart_by_hand_is_a_change() {
        let path = "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt";
        let new = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-22T03:11:39Z"}}}}});
        assert_eq!(
            rows("Deployment", json!({"spec": {"template": {}}}), new),
            [row(path, "", "2026-11-22T03:11:39Z")]
        );
    }

    #[test]
    fn large_changes_are_counted_beyond_a_limit() {
        let new: Map<String, Value> = (0..100).map(|i| (format!("k{i:03}"), json!("v"))).collect();
        let rows = rows("ConfigMap", json!({"data": {}}), json!({"data": new}));
        assert_eq!(rows.len(), MAX_ROWS + 1);
        assert_eq!(rows.last(), Some(&row("…", "", "(36 more fields)")));
    }

    #[test]
    fn selectors_and_scalar_lists() {
        assert_eq!(
            rows(
                "Service",
                json!({"spec": {"selector": {"a": "b"}}}),
                json!({"spec": {"selector": {"a": "b", "track": "stable"}}})
            ),
            [row("spec.selector.track", "", "stable")]
        );
        assert_eq!(
            rows("Pod", json!({"spec": {"args": ["a", "b"]}}), json!({"spec": {"args": ["a"]}})),
            [row("spec.args", "[\"a\",\"b\"]", "[\"a\"]")]
        );
    }
}
