//! The unified event: one row per notable fact, whatever its source; and changes, field by field.

use super::{entity::Entity, row::table, time::Time};

/// How bad a fact is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth keeping, not worth waking anybody.
    Info,
    /// Kubernetes `Warning`, a probe failing, a restart.
    Warning,
    /// A death, a refusal, a thing that is not there.
    Error,
}

impl Severity {
    /// The word in the `events` table.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

table! { "events" =>
    /// A notable fact. Times are the telemetry's own.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Event {
        /// Unique within a run, and the same in every replay of the same input.
        pub id: i64,
        /// When it happened.
        pub time: Time,
        /// When it was seen; never before `time` but for clock skew.
        pub observed: Time,
        /// What happened, dotted: `container.terminated`, `container.waiting`, `probe.failed`,
        /// `pod.unschedulable`, `endpoints.empty`, `k8s.event`, `log.error`, ...
        pub r#type: String,
        /// Who said so: `k8s.objects`, `k8s.events`, `traces`, `logs`, `metrics`.
        pub source: String,
        /// See [`Severity`].
        pub severity: String,
        /// The machine's word: `OOMKilled`, `ImagePullBackOff`, `Unhealthy`; may be empty.
        pub reason: String,
        /// The machine's sentence; may be empty.
        pub message: String,
        /// Kind of what it happened to.
        pub entity_kind: String,
        /// Namespace of what it happened to.
        pub entity_namespace: String,
        /// Name of what it happened to.
        pub entity_name: String,
        /// The workload (Deployment, StatefulSet, ...) it belongs to; empty when none.
        pub workload_kind: String,
        /// Name of that workload; empty when none.
        pub workload_name: String,
        /// Container name where it was one; else empty.
        pub container: String,
        /// Node where it happened, when known; else empty.
        pub node: String,
        /// A number that belongs to the fact (exit code, ready endpoints, bytes), if there is one.
        pub value: Option<f64>,
        /// How often it has happened so far, as the source counts.
        pub count: i64,
    }
}

impl Event {
    /// A fact of `on`, which belongs to `workload`, at `time`, without number, with nothing more known of it.
    pub fn new(
        (source, what): (&str, &str),
        severity: Severity,
        (on, workload): (&Entity, Option<&Entity>),
        time: Time,
    ) -> Self {
        let (kind, name) = workload.map_or(("", ""), |workload| (&*workload.kind, &*workload.name));
        Event {
            id: 0,
            time,
            observed: time,
            r#type: what.to_owned(),
            source: source.to_owned(),
            severity: severity.name().to_owned(),
            reason: String::new(),
            message: String::new(),
            entity_kind: on.kind.to_string(),
            entity_namespace: on.namespace.to_string(),
            entity_name: on.name.to_string(),
            workload_kind: kind.to_owned(),
            workload_name: name.to_owned(),
            container: String::new(),
            node: String::new(),
            value: None,
            count: 1,
        }
    }

    /// What it happened to.
    pub fn entity(&self) -> Entity {
        Entity::new(&self.entity_kind, &self.entity_namespace, &self.entity_name)
    }
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeVerb {
    /// It came to be.
    Added,
    /// A field of it changed.
    Modified,
    /// It was removed.
    Deleted,
}

impl ChangeVerb {
    /// The word in the `changes` table.
    pub fn name(self) -> &'static str {
        match self {
            ChangeVerb::Added => "added",
            ChangeVerb::Modified => "modified",
            ChangeVerb::Deleted => "deleted",
        }
    }
}

table! { "changes" =>
    /// One field of one object that somebody changed; a change of several fields is several rows
    /// with the same `change`. What controllers write by themselves (status, owned objects) is none.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Change {
        /// Number of the change; rows of one change share it.
        pub change: i64,
        /// When it was made (the field manager's time where there is one, else when it was seen).
        pub time: Time,
        /// When it was seen.
        pub observed: Time,
        /// See [`ChangeVerb`].
        pub verb: String,
        /// Kind of the changed object.
        pub entity_kind: String,
        /// Its namespace; empty for cluster-wide objects.
        pub entity_namespace: String,
        /// Its name.
        pub entity_name: String,
        /// The field, dotted from the top: `data.pool.json.max_connections`,
        /// `spec.template.spec.containers[cart].image`; empty when the whole object came or went.
        pub path: String,
        /// Value before, as text; null when the field was not there. Redacted where it looks like a credential.
        pub old: Option<String>,
        /// Value after, as text; null when the field is gone.
        pub new: Option<String>,
        /// `less`, `more` or `same`, where the two values are amounts that can be compared; of a NetworkPolicy
        /// `less` where it takes a way from some workload, `more` where it takes none; else empty.
        pub becomes: String,
        /// The field manager, user or tool that did it, where known; else empty.
        pub actor: String,
        /// A command that puts it back; the same in each row of a change; empty where none is known, or where
        /// it would show what is redacted.
        pub undo: String,
        /// Identity of the change where it has one of its own (deployment id, revision); else empty.
        pub revision: String,
    }
}

impl Change {
    /// What was changed.
    pub fn entity(&self) -> Entity {
        Entity::new(&self.entity_kind, &self.entity_namespace, &self.entity_name)
    }
}
