//! The command that puts a change back: only one that can be pasted, that shows no credential and that
//! destroys nothing.

use serde_json::{Map, Value};
use tapio_proto::model::Entity;

use super::{
    diff::{Field, is_noise},
    redact::{self, REDACTED},
    value::{at, plain},
};

/// Longest patch that anybody would paste, in bytes.
const MAX_PATCH: usize = 2000;

/// The command that turns `new` back into `old`; empty when there is none.
pub(super) fn command(entity: &Entity, old: &Value, new: &Value, fields: &[Field]) -> String {
    let hidden = |side: &Option<String>| side.as_ref().is_some_and(|text| text.contains(REDACTED));
    if &*entity.kind == "Secret"
        || fields.iter().any(|field| hidden(&field.old))
        || !can_be_pasted(entity)
    {
        return String::new();
    }
    let kind = entity.kind.to_ascii_lowercase();
    let namespace = if entity.namespace.is_empty() {
        String::new()
    } else {
        format!(" -n {}", entity.namespace)
    };
    let template =
        !fields.is_empty() && fields.iter().all(|field| field.path.starts_with("spec.template."));
    if template && kind == "deployment" {
        // Without the revision `undo` would go back one from whatever runs by then.
        let revision = at(old, &["metadata", "annotations", "deployment.kubernetes.io/revision"]);
        let revision = revision.map(plain).unwrap_or_default();
        if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_digit()) {
            return String::new();
        }
        let name = &entity.name;
        return format!(
            "kubectl{namespace} rollout undo deployment/{name} --to-revision={revision}"
        );
    }
    let patch = merge_patch(&entity.kind, old, new, &mut Vec::new()).to_string();
    if patch.len() > MAX_PATCH || patch == "{}" || redact::text(&patch) != patch {
        return String::new();
    }
    format!(
        "kubectl{namespace} patch {kind} {} --type merge -p '{}'",
        entity.name,
        patch.replace('\'', r"'\''")
    )
}

/// The command that takes away what was just added, of the kinds that only forbid: nothing is lost with them.
pub(super) fn of_added(entity: &Entity) -> String {
    const KINDS: [&str; 7] = [
        "NetworkPolicy",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "ResourceQuota",
        "LimitRange",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
    ];
    if !KINDS.contains(&&*entity.kind) || !can_be_pasted(entity) {
        return String::new();
    }
    let kind = entity.kind.to_ascii_lowercase();
    match &*entity.namespace {
        "" => format!("kubectl delete {kind} {}", entity.name),
        namespace => format!("kubectl -n {namespace} delete {kind} {}", entity.name),
    }
}

/// Names reach a shell here: those that Kubernetes allows need no quotes (RFC 1123, and `:` in RBAC).
fn can_be_pasted(entity: &Entity) -> bool {
    let plain = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
    };
    let starts = |name: &str| name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    [&*entity.kind, &*entity.name].into_iter().all(|name| plain(name) && starts(name))
        && plain(&entity.namespace)
        && (entity.namespace.is_empty() || starts(&entity.namespace))
}

/// The JSON merge patch (RFC 7386) from `new` to `old`, of the fields of intent.
fn merge_patch<'a>(kind: &str, old: &'a Value, new: &'a Value, path: &mut Vec<&'a str>) -> Value {
    let mut patch = Map::new();
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Value::Object(patch);
    };
    for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
        path.push(key);
        let intent = match path.as_slice() {
            ["apiVersion" | "kind" | "status", ..] => false,
            ["metadata"] => true,
            ["metadata", part] => matches!(*part, "labels" | "annotations"),
            path => !is_noise(kind, path),
        };
        match (old.get(key), new.get(key)) {
            _ if !intent => {}
            (was, is) if was == is => {}
            (Some(was @ Value::Object(_)), Some(is @ Value::Object(_))) => {
                let inner = merge_patch(kind, was, is, path);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(key.clone(), inner);
                }
            }
            (was, _) => {
                patch.insert(key.clone(), was.cloned().unwrap_or(Value::Null));
            }
        }
        path.pop();
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::diff::diff;
    use serde_json::json;

    fn undo(kind: &str, old: Value, new: Value) -> String {
        command(&Entity::new(kind, "shop", "x"), &old, &new, &diff(kind, &old, &new))
    }

    #[test]
    fn a_changed_field_is_patched_back() {
        let (old, new) = (
            json!({"data": {"pool.json": "{\"max\": 8}\n"}}),
            json!({"data": {"pool.json": "{\"max\": 200}\n", "it's": "new"}}),
        );
        assert_eq!(
            undo("ConfigMap", old, new),
            r#"kubectl -n shop patch configmap x --type merge -p '{"data":{"pool.json":"{\"max\": 8}\n","it'\''s":null}}'"#
        );
        assert_eq!(
            undo(
                "Service",
                json!({"spec": {"selector": {"a": "b"}}}),
                json!({"spec": {"selector": {"a": "b", "track": "stable"}}})
            ),
            r#"kubectl -n shop patch service x --type merge -p '{"spec":{"selector":{"track":null}}}'"#
        );
    }

    #[test]
    fn a_rollout_is_undone_as_one() {
        let spec = |image: &str, revision: Value| json!({"metadata": {"annotations": revision}, "spec": {"template": {"spec": {"containers": [{"name": "a", "image": image}]}}}});
        let second = || json!({"deployment.kubernetes.io/revision": "2"});
        assert_eq!(
            undo("Deployment", spec("a:1", second()), spec("a:2", second())),
            "kubectl -n shop rollout undo deployment/x --to-revision=2"
        );
        assert_eq!(undo("Deployment", spec("a:1", json!({})), spec("a:2", json!({}))), "");
        // Others keep no revision in the object: the template itself is put back.
        assert_eq!(
            undo("StatefulSet", spec("a:1", json!({})), spec("a:2", json!({}))),
            r#"kubectl -n shop patch statefulset x --type merge -p '{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"a:1"}]}}}}'"#
        );
    }

    /// Guarantees: what only forbids is taken away again by its name, and nothing else is ever deleted.
    #[test]
    fn what_was_added_is_deleted_only_where_it_holds_nothing() {
        let of =
            |kind: &str, namespace: &str, name: &str| of_added(&Entity::new(kind, namespace, name));
        assert_eq!(
            of("NetworkPolicy", "data", "deny"),
            "kubectl -n data delete networkpolicy deny"
        );
        assert_eq!(
            of("ValidatingWebhookConfiguration", "", "guard"),
            "kubectl delete validatingwebhookconfiguration guard"
        );
        for (kind, name) in [("Deployment", "x"), ("Secret", "x"), ("NetworkPolicy", "x; rm -rf ~")]
        {
            assert_eq!(of(kind, "data", name), "");
        }
    }

    #[test]
    fn no_command_shows_a_credential_or_smuggles_one_in() {
        assert_eq!(undo("Secret", json!({"data": {"a": 1}}), json!({"data": {"a": 2}})), "");
        assert_eq!(
            undo(
                "ConfigMap",
                json!({"data": {"password": "hunter2"}}),
                json!({"data": {"password": "x"}})
            ),
            ""
        );
        let (old, new) = (
            json!({"data": {"f": "url=a://u:hunter2@h\nn=1\n"}}),
            json!({"data": {"f": "url=a://u:hunter2@h\nn=2\n"}}),
        );
        assert_eq!(undo("ConfigMap", old.clone(), new.clone()), "");
        let fields = diff("ConfigMap", &json!({"data": {"n": "1"}}), &json!({"data": {"n": "2"}}));
        let entity = Entity::new("ConfigMap", "shop", "x; rm -rf ~");
        assert_eq!(
            command(&entity, &json!({"data": {"n": "1"}}), &json!({"data": {"n": "2"}}), &fields),
            ""
        );
    }
}
