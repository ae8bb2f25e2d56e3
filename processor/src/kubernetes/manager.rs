//! Who changed an object, and when: `metadata.managedFields`.

use serde_json::Value;
use tapio_proto::model::Time;

use super::value::{list, text};

/// A change of an object as its field managers tell it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Author<'a> {
    /// The field manager: `kubectl-patch`, `helm`, `argocd-controller`; empty when unknown.
    pub(super) manager: &'a str,
    /// The API server's time of the write, to the second, but never after the object was seen.
    pub(super) time: Time,
    /// The subresource through which it was written; empty for the object itself.
    pub(super) subresource: &'a str,
}

/// The author of the change of `path`: the newest entry that owns a field of that section of the
/// object, else the newest that is no status report. Entries from before `since` (when the object
/// was last seen unchanged) made earlier changes; without a newer one the change is nobody's and was
/// made when it was seen.
pub(super) fn author<'a>(
    object: &'a Value,
    path: &str,
    since: Option<Time>,
    seen: Time,
) -> Author<'a> {
    let newest = |owner: bool| {
        list(object, &["metadata", "managedFields"])
            .iter()
            .filter(|entry| text(entry, &["subresource"]) != "status")
            .filter(|entry| !owner || owns(entry, path))
            .filter_map(|entry| Some((time_of(entry, since, seen)?, entry)))
            .max_by_key(|(time, _)| *time)
    };
    match newest(true).or_else(|| newest(false)) {
        Some((time, entry)) => Author {
            manager: text(entry, &["manager"]),
            time,
            subresource: text(entry, &["subresource"]),
        },
        None => Author { manager: "", time: seen, subresource: "" },
    }
}

/// When the newest write of any kind was made, else when the object was seen.
pub(super) fn written(object: &Value, since: Option<Time>, seen: Time) -> Time {
    let entries = list(object, &["metadata", "managedFields"]).iter();
    entries.filter_map(|entry| time_of(entry, since, seen)).max().unwrap_or(seen)
}

/// The entry of the newest write that is no status report, when it was made at most five seconds
/// before the object was seen, and what it owns: all that tells of a change when the state before
/// was never seen.
pub(super) fn latest(object: &Value, seen: Time) -> Option<(Author<'_>, &Value)> {
    let since = seen - std::time::Duration::from_secs(5);
    let entries = list(object, &["metadata", "managedFields"]).iter();
    entries
        .filter(|entry| text(entry, &["subresource"]) != "status")
        .filter_map(|entry| Some((time_of(entry, Some(since), seen)?, entry)))
        .max_by_key(|(time, _)| *time)
        .and_then(|(time, entry)| {
            let author = Author {
                manager: text(entry, &["manager"]),
                time,
                subresource: text(entry, &["subresource"]),
            };
            Some((author, entry.get("fieldsV1")?))
        })
}

/// Controllers of the control plane: what they write by themselves nobody intended. Scaling by the
/// HorizontalPodAutoscaler goes through the `scale` subresource and counts.
pub(super) fn is_system(author: Author<'_>) -> bool {
    const SYSTEM: [&str; 6] = [
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-apiserver",
        "cloud-controller-manager",
        "k3s",
    ];
    SYSTEM.contains(&author.manager) && author.subresource != "scale"
}

/// The entry's time if the write came after `since`; entries have whole seconds.
fn time_of(entry: &Value, since: Option<Time>, seen: Time) -> Option<Time> {
    const SECOND: i64 = 1_000_000_000;
    let time = Time::parse_rfc3339(text(entry, &["time"]))?;
    let fresh = since.is_none_or(|since| time >= since.bucket(SECOND))
        && time <= Time(seen.0.saturating_add(SECOND));
    fresh.then_some(time.min(seen))
}

/// Does the entry own a field of the section in which the path lies? Sections are the top level, and
/// one level more below `metadata`.
fn owns(entry: &Value, path: &str) -> bool {
    let mut steps = path.split(['.', '[']);
    let Some(top) = steps.next().and_then(|top| entry.get("fieldsV1")?.get(format!("f:{top}")))
    else {
        return false;
    };
    path.strip_prefix("metadata.").is_none()
        || steps.next().is_some_and(|part| top.get(format!("f:{part}")).is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn time(text: &str) -> Time {
        Time::parse_rfc3339(text).unwrap()
    }

    fn object() -> Value {
        json!({"metadata": {"managedFields": [
            {"manager": "kubectl-client-side-apply", "time": "2026-11-22T03:00:23Z", "fieldsV1": {"f:spec": {}, "f:data": {}}},
            {"manager": "kubectl-patch", "time": "2026-11-22T03:11:17Z", "fieldsV1": {"f:data": {}}},
            {"manager": "kube-controller-manager", "time": "2026-11-22T03:11:18Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
            {"manager": "labeller", "time": "2026-11-22T03:11:17Z", "fieldsV1": {"f:metadata": {"f:labels": {}}}}]}})
    }

    #[test]
    fn the_newest_owner_of_the_section_did_it() {
        let (object, since, seen) =
            (object(), Some(time("2026-11-22T03:10:00Z")), time("2026-11-22T03:11:17.294Z"));
        let by = |path| author(&object, path, since, seen);
        assert_eq!(
            (by("data.pool.json").manager, by("data.pool.json").time),
            ("kubectl-patch", time("2026-11-22T03:11:17Z"))
        );
        assert_eq!(by("metadata.labels.a").manager, "labeller");
    }

    #[test]
    fn an_entry_from_before_is_not_the_author() {
        let (object, seen) = (object(), time("2026-11-22T03:13:47.868Z"));
        let by = author(&object, "data.x", Some(time("2026-11-22T03:11:18Z")), seen);
        assert_eq!((by.manager, by.time), ("", seen));
    }

    #[test]
    fn no_time_lies_after_the_observation() {
        let object = json!({"metadata": {"managedFields": [{"manager": "m", "time": "2026-11-22T03:11:18Z", "fieldsV1": {"f:data": {}}}]}});
        let seen = time("2026-11-22T03:11:17.900Z");
        assert_eq!(author(&object, "data.x", None, seen).time, seen);
        assert_eq!(written(&object, None, seen), seen);
    }
}
