//! What comes out: facts, and the making of their rows.

use tapio_proto::model::{Change, ChangeVerb, Entity, Event, Relation, Severity, Time};

use super::{redact, value::cut};

/// Longest reason and message of an event, in characters.
const MAX_MESSAGE: usize = 1000;

/// Something that the cluster told.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most facts are events, and they live for one call")]
pub enum Fact {
    /// Somebody changed an object: the rows of one change.
    Change(Vec<Change>),
    /// Something happened.
    Event(Event),
    /// From here on this edge holds: how, from what carries, to what is carried.
    EdgeBegin(Relation, Entity, Entity, Time),
    /// From here on it holds no more.
    EdgeEnd(Relation, Entity, Entity, Time),
    /// An object is gone.
    Gone(Entity, Time),
    /// A release, a commit or a flag; its row comes before it.
    Release(Box<super::Release>),
    /// Somebody is told that something is wrong.
    Alert(super::Alert),
    /// What a provider says of itself.
    Provider(super::Provider),
}

/// The numbers of events and changes within a run.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    events: i64,
    changes: i64,
}

impl Numbers {
    /// The next change's number.
    pub(super) fn change(&mut self) -> i64 {
        self.changes += 1;
        self.changes
    }

    /// A row of the event, numbered.
    pub(super) fn event(&mut self, happened: Happened<'_>, workload: Option<Entity>) -> Fact {
        self.events += 1;
        let of = (happened.entity, workload.as_ref());
        let (source, what) = (happened.source, happened.what);
        Fact::Event(Event {
            id: self.events,
            observed: happened.seen,
            reason: cut(happened.reason, MAX_MESSAGE),
            message: cut(&redact::text(happened.message), MAX_MESSAGE),
            container: happened.container.to_owned(),
            node: happened.node.to_owned(),
            value: happened.value,
            count: happened.count,
            ..Event::new((source, what), happened.severity, of, happened.time)
        })
    }
}

/// An event before it has a number and a workload.
#[derive(Clone, Debug)]
pub(super) struct Happened<'a> {
    pub(super) what: &'a str,
    pub(super) source: &'a str,
    pub(super) severity: Severity,
    pub(super) entity: &'a Entity,
    pub(super) time: Time,
    pub(super) seen: Time,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
    pub(super) container: &'a str,
    pub(super) node: &'a str,
    pub(super) value: Option<f64>,
    pub(super) count: i64,
}

impl<'a> Happened<'a> {
    /// An event read from an object, at the time it was seen, with nothing more known of it.
    pub(super) fn new(what: &'a str, severity: Severity, entity: &'a Entity, seen: Time) -> Self {
        Happened {
            what,
            source: "k8s.objects",
            severity,
            entity,
            time: seen,
            seen,
            reason: "",
            message: "",
            container: "",
            node: "",
            value: None,
            count: 1,
        }
    }
}

/// A row of a change of a whole object, to be given its fields.
pub(super) fn change(
    number: i64,
    verb: ChangeVerb,
    entity: &Entity,
    time: Time,
    seen: Time,
    actor: &str,
) -> Change {
    Change {
        change: number,
        time,
        observed: seen,
        verb: verb.name().to_owned(),
        entity_kind: entity.kind.to_string(),
        entity_namespace: entity.namespace.to_string(),
        entity_name: entity.name.to_string(),
        path: String::new(),
        old: None,
        new: None,
        becomes: String::new(),
        actor: cut(actor, MAX_MESSAGE),
        undo: String::new(),
        revision: String::new(),
    }
}
