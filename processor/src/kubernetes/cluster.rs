//! The cluster as it was last seen, and what each observation of it tells that was not known.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::Value;
use tapio_proto::model::{Change, ChangeVerb, Entity, Relation, Severity, Time};

use super::{
    bounded::Bounded,
    changes, conditions, endpoints,
    events::Report,
    fact::{Fact, Happened, Numbers, change},
    heard::{self, Heard},
    latch::Latch,
    links, metrics,
    objects::{Limits, Link, Object, Objects},
    owners, passage,
    pod::Pod,
    rules::{self, Where},
    template,
    value::{at, list, number, text},
};

/// Most Services, Kubernetes Events, metric series and releases that are remembered, each.
const MAX_MEMORIES: usize = 50_000;

/// Pods that wait for a scheduler and are watched.
const MOST_UNLOOKED: usize = 1000;
/// A scheduler looks at a new pod within seconds.
const UNLOOKED: Duration = Duration::from_secs(60);

/// A controller makes a pod anew within a second of its end.
const UNREPLACED: Duration = Duration::from_secs(20);

/// A webhook that still cannot be asked is told again after so long.
const RETOLD: Duration = Duration::from_secs(600);

/// How an object was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// In a list of what is there.
    Listed,
    /// `ADDED` of a watch: new, or there when the watch began.
    Added,
    /// `MODIFIED` of a watch.
    Modified,
    /// `DELETED` of a watch.
    Deleted,
}

/// What is remembered of a Service beside its object.
#[derive(Debug, Default)]
struct Service {
    endpoints: Latch,
    /// The workload that it selects, or selected when it last selected any.
    workload: Option<Entity>,
}

/// The latest state of each object of a cluster, and the memory of what was told.
#[derive(Debug)]
pub struct Cluster {
    pub(super) objects: Objects,
    pub(super) numbers: Numbers,
    pub(super) metrics: metrics::Memory,
    /// Deployments of the `tapio.change` scope that were told, with the number of the change and the
    /// version before; and by name what runs, with its version.
    pub(super) releases: Bounded<String, Option<(i64, String)>>,
    /// Units of systemd by node and name: are they down?
    pub(super) units: Bounded<String, bool>,
    /// Records that were too large or too deep to be an object.
    pub(super) refused: u64,
    services: Bounded<Entity, Service>,
    /// Kubernetes Events: how often and when last.
    events: Bounded<String, Option<(i64, Time)>>,
    /// Pods that no scheduler has looked at, and when that is too long.
    unlooked: BTreeSet<(Time, Entity)>,
    /// What owns pods that were deleted, and when one in their place is overdue.
    unreplaced: BTreeSet<(Time, Entity)>,
    /// Workloads whose pods had to make room, and whose pods came in their place last.
    pub(super) displaced: Bounded<Entity, Option<Entity>>,
    /// Configurations of webhooks that could not be asked, and when that was told.
    webhooks: Bounded<Entity, Option<Time>>,
    /// The route that led to a Service, and the binding that gave a workload rights, until it was changed; the last
    /// of each.
    pub(super) parted: Bounded<(Relation, Entity), Option<Entity>>,
    /// By node, the workload that last took its processors, and when.
    pub(super) crowded: Bounded<Entity, Option<(Entity, Time)>>,
    /// States of objects that are not seen, as far as Events tell of them.
    pub(super) heard: Heard,
    /// When the first object was seen.
    pub(super) started: Option<Time>,
    /// An object changed or went.
    pub(super) moved: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster::new(Limits::default())
    }
}

impl Cluster {
    /// An empty cluster that keeps so much at most.
    pub fn new(limits: Limits) -> Self {
        Cluster {
            objects: Objects::new(limits),
            numbers: Numbers::default(),
            metrics: metrics::Memory::new(MAX_MEMORIES),
            releases: Bounded::new(MAX_MEMORIES),
            units: Bounded::new(MAX_MEMORIES),
            webhooks: Bounded::new(MAX_MEMORIES),
            refused: 0,
            services: Bounded::new(MAX_MEMORIES),
            events: Bounded::new(MAX_MEMORIES),
            unlooked: BTreeSet::new(),
            unreplaced: BTreeSet::new(),
            displaced: Bounded::new(MAX_MEMORIES),
            crowded: Bounded::new(MAX_MEMORIES),
            parted: Bounded::new(MAX_MEMORIES),
            heard: Heard::new(),
            started: None,
            moved: false,
        }
    }

    /// One observation of an object, and the facts that follow. `value` is the object as the API
    /// server gives it; numbers may be text. What has no kind and name is ignored.
    pub fn observe(&mut self, verb: Verb, value: Value, seen: Time, out: &mut Vec<Fact>) {
        let entity = Entity::new(
            text(&value, &["kind"]),
            text(&value, &["metadata", "namespace"]),
            text(&value, &["metadata", "name"]),
        );
        if entity.kind.is_empty() || entity.name.is_empty() {
            return;
        }
        self.overdue(seen, out);
        if &*entity.kind == "Event" {
            if verb != Verb::Deleted {
                self.report(&Report::from_object(&value, seen), seen, out);
            }
            return;
        }
        let pending = verb != Verb::Deleted && heard::is_pending(&value);
        self.unhear_of(&entity, pending, seen, out);
        let started = *self.started.get_or_insert(seen);
        let before = self.objects.take(&entity);
        if !self.moved && matches!(verb, Verb::Modified | Verb::Deleted) {
            let known = before.as_ref().filter(|before| before.deleted.is_none());
            let beats = known.is_some_and(|known| changes::is_heartbeat(&known.value, &value));
            self.moved = &*entity.kind != "Lease" && (verb == Verb::Deleted || !beats);
        }
        if before.as_ref().is_some_and(|before| is_stale(before, &value, verb)) {
            if let Some(before) = before {
                self.objects.put(entity, before);
            }
            return;
        }
        let seen_again = changes::Seen {
            entity: &entity,
            verb,
            value: &value,
            before: before.as_ref(),
            started,
            seen,
        };
        if let Some(mut rows) = seen_again.changes(&mut self.numbers) {
            if &*entity.kind == "NetworkPolicy" {
                let was = before.as_ref().filter(|object| object.deleted.is_none());
                let is = Some(&value).filter(|_| verb != Verb::Deleted);
                let was = was.map(|object| &*object.value);
                // What it was before the first look is not known.
                let unseen = was.is_none() && rows.iter().any(|row| row.verb == "modified");
                let becomes = passage::direction(&self.objects, &entity, was, is);
                for row in rows.iter_mut().filter(|_| !unseen) {
                    row.becomes = becomes.to_owned();
                }
            }
            out.push(Fact::Change(rows));
        }
        let told = out.len();
        match verb {
            Verb::Deleted => self.deleted(entity, value, before, seen, out),
            Verb::Listed | Verb::Added | Verb::Modified => {
                self.present(entity, verb, value, before, seen, out)
            }
        }
        self.tell_webhook(told, out);
    }

    /// What was told from there on may name a webhook that could not be asked: the configuration that has it
    /// is told of as well, once in a while.
    fn tell_webhook(&mut self, from: usize, out: &mut Vec<Fact>) {
        let calls = out.iter().skip(from).find_map(|fact| match fact {
            Fact::Event(event) => {
                let (_, rest) = event.message.split_once("failed calling webhook \"")?;
                let (name, _) = rest.split_once('"')?;
                Some((name.to_owned(), event.clone()))
            }
            _ => None,
        });
        let Some((name, event)) = calls else { return };
        let Some(configuration) = self.webhook(&name).cloned() else { return };
        let last = self.webhooks.entry(&configuration);
        if last.is_some_and(|last| event.time < last + RETOLD) {
            return;
        }
        *last = Some(event.time);
        let fact = self.event(Happened {
            source: &event.source,
            time: event.time,
            reason: &name,
            message: &event.message,
            ..Happened::new("webhook.failing", Severity::Warning, &configuration, event.observed)
        });
        out.push(fact);
    }

    /// The configuration of a webhook, by the webhook's name.
    pub(super) fn webhook(&self, name: &str) -> Option<&Entity> {
        let has = |entity: &&Entity| {
            let hooks = self.object(entity).map(|value| list(value, &["webhooks"]));
            hooks.into_iter().flatten().any(|hook| text(hook, &["name"]) == name)
        };
        rules::WEBHOOKS.into_iter().find_map(|kind| self.objects.of_kind(kind).find(has))
    }

    /// What should have happened by now and did not.
    pub fn overdue(&mut self, now: Time, out: &mut Vec<Fact>) {
        self.tell_unlooked(now, out);
        self.tell_unreplaced(now, out);
        self.unhear(now, out);
    }

    /// A workload takes the processors of a node since then, as `message` says; told once while it does.
    pub fn takes_cpu(
        &mut self,
        (workload, node): (&Entity, &Entity),
        since: Time,
        message: &str,
        now: Time,
        out: &mut Vec<Fact>,
    ) {
        let known = self.crowded.entry(node).replace((workload.clone(), now));
        if known.is_some_and(|(known, last)| known == *workload && since <= last) {
            return;
        }
        let fact = self.event(Happened {
            source: "metrics",
            time: since,
            message,
            node: &node.name,
            ..Happened::new("cpu.taken", Severity::Warning, workload, now)
        });
        out.push(fact);
    }

    /// A Kubernetes Event, unless it was told with this count and time.
    pub(super) fn report(&mut self, report: &Report, seen: Time, out: &mut Vec<Fact>) {
        let told = self.events.entry(&report.id);
        if told.is_some_and(|(count, time)| report.count <= count && report.time <= time) {
            return;
        }
        *told = Some((report.count, report.time));
        if report.reason == "Preempted"
            && let Some(by) = report.related.clone().or_else(|| self.preemptor(&report.message))
        {
            let top = |pod| owners::top(&self.objects, pod);
            let (victim, by) = (top(&report.entity), top(&by));
            if victim != by {
                *self.displaced.entry(&victim) = Some(by);
            }
        }
        self.hear(report, seen, out);
        if let Some(happened) = report.happened(seen) {
            let (told, fact) = (out.len(), self.event(happened));
            out.push(fact);
            self.tell_webhook(told, out);
        }
    }

    /// The pod that another had to make room for, where the Event does not refer to it: by its uid, or before
    /// Kubernetes 1.27 by its name.
    fn preemptor(&self, message: &str) -> Option<Entity> {
        let said = message.strip_prefix("Preempted by ")?;
        let by = said.strip_prefix("pod ").unwrap_or(said).split_whitespace().next()?;
        if let Some((namespace, name)) = by.split_once('/') {
            return Some(Entity::new("Pod", namespace, name));
        }
        let is = |pod: &&Entity| self.object(pod).is_some_and(|value| uid(value) == by);
        self.objects.of_kind("Pod").find(is).cloned()
    }

    /// Numbers an event and finds the workload that it belongs to.
    pub(super) fn event(&mut self, happened: Happened<'_>) -> Fact {
        let workload = match &*happened.entity.kind {
            "Service" => {
                let selected = self.workloads_of(happened.entity).into_iter().next();
                selected.or_else(|| self.services.get(happened.entity)?.workload.clone())
            }
            "HorizontalPodAutoscaler" => self.objects.get(happened.entity).and_then(|scaler| {
                let scales = |link: &&Link| link.0 == Relation::Scales;
                scaler.links.iter().find(scales).map(|(_, _, to)| to.clone())
            }),
            _ => self.workload_above(happened.entity).or_else(|| self.unowned(happened.entity)),
        };
        self.numbers.event(happened, workload)
    }

    fn present(
        &mut self,
        entity: Entity,
        verb: Verb,
        mut value: Value,
        before: Option<Object>,
        seen: Time,
        out: &mut Vec<Fact>,
    ) {
        // An object of the same name that was made anew has its own history.
        let same = before
            .as_ref()
            .is_some_and(|before| before.deleted.is_none() && uid(&before.value) == uid(&value));
        let seen_before = before.as_ref().filter(|_| same).map(|before| before.seen);
        let (before_value, mut object) = match before {
            Some(mut before) => (std::mem::take(&mut before.value), before),
            None => (Arc::default(), Object::default()),
        };
        if !same {
            (object.latches, object.containers) = Default::default();
        }
        let (mut latches, mut containers) =
            (std::mem::take(&mut object.latches), std::mem::take(&mut object.containers));
        let write_time = super::manager::written(&value, seen_before, seen);
        changes::slim(&entity.kind, &mut value);
        object.seen = seen;
        object.deleted = None;
        let value = Arc::new(value);
        object.value = Arc::clone(&value);
        self.objects.put(entity.clone(), object);
        let rewritten = match &*entity.kind == "Pod" && !same && verb == Verb::Added {
            true => template::rewritten(&self.objects, &value),
            false => None,
        };
        self.watch_unlooked(&entity, Some(&value));

        let mut told = Vec::new();
        let mut tell = |happened: Happened<'_>| told.push(self.event(happened));
        if &*entity.kind == "Pod" {
            let pod = Pod {
                entity: &entity,
                value: &value,
                listed: verb == Verb::Listed,
                before: seen_before,
                written: write_time,
                seen,
            };
            pod.tell(&mut containers, &mut latches, &mut tell);
        }
        if let Some(message) = &rewritten {
            let happened = Happened::new("pod.rewritten", Severity::Warning, &entity, seen);
            tell(Happened { time: write_time, reason: "SpecDiffers", message, ..happened });
        }
        let state = conditions::State { entity: &entity, value: &value, written: write_time, seen };
        state.tell(&mut latches, &mut tell);
        let agents_down = template::node_of_agent(&value).filter(|_| breaks(&told));
        if let Some(node) = agents_down {
            let message = format!("{} of {node} is down", entity.name);
            let on = Entity::new("Node", "", node);
            let happened = Happened::new("node.agent_down", Severity::Warning, &on, seen);
            let (reason, time) = (&*entity.name, write_time);
            told.push(self.event(Happened { time, reason, message: &message, node, ..happened }));
        }
        out.append(&mut told);
        if let Some(object) = self.objects.get_mut(&entity) {
            (object.latches, object.containers) = (latches, containers);
        }
        self.slice(&entity, &value, write_time, seen, out);
        self.relink(&entity, &before_value, &value, write_time, out);
    }

    fn deleted(
        &mut self,
        entity: Entity,
        mut value: Value,
        before: Option<Object>,
        seen: Time,
        out: &mut Vec<Fact>,
    ) {
        changes::slim(&entity.kind, &mut value);
        let mut object = before.unwrap_or_default();
        if let Some(owner) = object.controller.clone().filter(|_| &*entity.kind == "Pod") {
            let known = self.unreplaced.iter().any(|(_, other)| *other == owner);
            if !known && self.unreplaced.len() < MOST_UNLOOKED {
                self.unreplaced.insert((seen + UNREPLACED, owner));
            }
        }
        let ended = std::mem::take(&mut object.links);
        (object.latches, object.containers) = Default::default();
        let value = Arc::new(value);
        (object.value, object.seen, object.deleted) = (Arc::clone(&value), seen, Some(seen));
        self.objects.put(entity.clone(), object);
        self.watch_unlooked(&entity, None);
        if &*entity.kind == "Pod" {
            let node = text(&value, &["spec", "nodeName"]);
            let fact = self.event(Happened {
                node,
                ..Happened::new("pod.deleted", Severity::Info, &entity, seen)
            });
            out.push(fact);
        }
        self.slice(&entity, &value, seen, seen, out);
        ended.iter().for_each(|link| self.part(link));
        tell_links(ended.iter(), [].into_iter(), seen, out);
        self.bear_on_workloads(&entity, None, seen, out);
        out.push(Fact::Gone(entity, seen));
    }

    /// A pod that waits for a scheduler has no condition at all: what looks at it writes one.
    fn watch_unlooked(&mut self, entity: &Entity, value: Option<&Value>) {
        if &*entity.kind != "Pod" {
            return;
        }
        let waits = value.filter(|value| {
            text(value, &["status", "phase"]) == "Pending"
                && text(value, &["spec", "nodeName"]).is_empty()
                && list(value, &["status", "conditions"]).is_empty()
                && at(value, &["metadata", "deletionTimestamp"]).is_none()
        });
        let created = waits
            .and_then(|value| Time::parse_rfc3339(text(value, &["metadata", "creationTimestamp"])));
        match created {
            Some(created) if self.unlooked.len() < MOST_UNLOOKED => {
                self.unlooked.insert((created + UNLOOKED, entity.clone()));
            }
            _ if self.unlooked.is_empty() => {}
            _ => self.unlooked.retain(|(_, pod)| pod != entity),
        }
    }

    /// Tells of the pods that have waited too long for a scheduler.
    fn tell_unlooked(&mut self, seen: Time, out: &mut Vec<Fact>) {
        while self.unlooked.first().is_some_and(|(due, _)| *due <= seen) {
            let Some((due, pod)) = self.unlooked.pop_first() else { return };
            let fact = self.event(Happened {
                time: due - UNLOOKED,
                reason: "NotLookedAt",
                message: "no scheduler has looked at the pod for a minute",
                ..Happened::new("pod.unschedulable", Severity::Error, &pod, seen)
            });
            out.push(fact);
        }
    }

    /// Tells of workloads whose pods went and that got none in their place, though they want more.
    fn tell_unreplaced(&mut self, seen: Time, out: &mut Vec<Fact>) {
        while self.unreplaced.first().is_some_and(|(due, _)| *due <= seen) {
            let Some((due, owner)) = self.unreplaced.pop_first() else { return };
            let Some(object) = self.objects.alive(&owner) else { continue };
            // Where there is no room for all objects those that are missing here may be there.
            if self.objects.dropped > 0 {
                continue;
            }
            let wanted = number(&object.value, &["spec", "replicas"]).unwrap_or(0);
            let namespace = &owner.namespace;
            let there = self.objects.of("Pod", namespace).filter(|(_, pod)| {
                pod.controller.as_ref() == Some(&owner)
                    && at(&pod.value, &["metadata", "deletionTimestamp"]).is_none()
            });
            let missing = wanted - there.count() as i64;
            if missing <= 0 {
                continue;
            }
            let message =
                format!("{missing} of {wanted} pods are missing, and no new one was made");
            let fact = self.event(Happened {
                time: due - UNREPLACED,
                reason: "NotReplaced",
                message: &message,
                value: Some(missing as f64),
                ..Happened::new("pods.missing", Severity::Error, &owner, seen)
            });
            out.push(fact);
        }
    }

    /// An EndpointSlice changed: does its Service still have a ready endpoint?
    fn slice(
        &mut self,
        entity: &Entity,
        value: &Value,
        time: Time,
        seen: Time,
        out: &mut Vec<Fact>,
    ) {
        if &*entity.kind != "EndpointSlice" {
            return;
        }
        let Some(service) = endpoints::service_of(&entity.namespace, value) else { return };
        let count = endpoints::count(&self.objects, &service);
        let selected = self.workloads_of(&service).into_iter().next();
        let known = self.services.entry(&service);
        known.workload = selected.or(known.workload.take());
        let turn = known.endpoints.observe(count.ready == 0, time, seen);
        let message = count.sentence();
        if let Some((what, severity)) = endpoints::Count::fact(turn) {
            let value = Some(count.not_ready as f64);
            let fact = self.event(Happened {
                time,
                message: &message,
                value,
                ..Happened::new(what, severity, &service, seen)
            });
            out.push(fact);
        }
    }

    /// Brings the edges up to date with the object.
    fn relink(
        &mut self,
        entity: &Entity,
        before: &Value,
        value: &Value,
        time: Time,
        out: &mut Vec<Fact>,
    ) {
        let links = links::of(&self.objects, entity, value);
        let Some(object) = self.objects.get_mut(entity) else { return };
        let old = std::mem::replace(&mut object.links, links.clone());
        tell_links(old.difference(&links), links.difference(&old), time, out);
        old.difference(&links).for_each(|link| self.part(link));
        let told = ["/spec", "/subjects", "/webhooks"];
        if before.is_null() || told.iter().any(|part| before.pointer(part) != value.pointer(part)) {
            self.bear_on_workloads(entity, Some(value), time, out);
        }
    }

    /// Who was carried by an edge may miss it.
    fn part(&mut self, (relation, from, to): &Link) {
        let (carried, by) = match relation {
            Relation::Routes => (from, to),
            Relation::Grants => (to, from),
            _ => return,
        };
        *self.parted.entry(&(*relation, carried.clone())) = Some(by.clone());
    }

    /// A Service, a limit or a rule came, changed or went (`None`): on which workloads does it bear now?
    fn bear_on_workloads(
        &mut self,
        entity: &Entity,
        value: Option<&Value>,
        time: Time,
        out: &mut Vec<Fact>,
    ) {
        let Some(bears) = rules::bears(entity) else { return };
        let all = (bears == Where::Everywhere).then(|| self.objects.all_workloads());
        let here = (bears != Where::Everywhere).then(|| self.objects.workloads(&entity.namespace));
        let bears =
            |link: &Link| link.1 == *entity || (link.0 == Relation::Selects && link.2 == *entity);
        let mut updates = Vec::new();
        for (workload, object) in all.into_iter().flatten().chain(here.into_iter().flatten()) {
            let old: BTreeSet<Link> =
                object.links.iter().filter(|link| bears(link)).cloned().collect();
            let new: BTreeSet<Link> = value
                .into_iter()
                .flat_map(|value| rules::between(entity, value, workload, &object.value))
                .collect();
            if old != new {
                updates.push((workload.clone(), old, new));
            }
        }
        for (workload, old, new) in updates {
            tell_links(old.difference(&new), new.difference(&old), time, out);
            old.difference(&new).for_each(|link| self.part(link));
            if let Some(object) = self.objects.get_mut(&workload) {
                object.links.retain(|link| !old.contains(link));
                object.links.extend(new);
            }
        }
    }

    /// How many objects were forgotten because there was no room, and records refused because they
    /// were too large or too deep.
    pub fn losses(&self) -> Losses {
        Losses { forgotten: self.objects.dropped, refused: self.refused }
    }

    /// Another number after any object has changed.
    pub fn version(&self) -> u64 {
        self.objects.version()
    }

    /// How many objects are kept.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Was no object seen yet?
    pub fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }
}

/// What a [`Cluster`] could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Objects forgotten because there was no room.
    pub forgotten: u64,
    /// Records refused because they were too large or too deep to be an object.
    pub refused: u64,
}

fn tell_links<'a>(
    ended: impl Iterator<Item = &'a Link>,
    begun: impl Iterator<Item = &'a Link>,
    time: Time,
    out: &mut Vec<Fact>,
) {
    out.extend(ended.cloned().map(|(relation, from, to)| Fact::EdgeEnd(relation, from, to, time)));
    out.extend(
        begun.cloned().map(|(relation, from, to)| Fact::EdgeBegin(relation, from, to, time)),
    );
}

/// Does one of these take a pod out of service?
fn breaks(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| match fact {
        Fact::Event(event) => {
            event.r#type == "pod.not_ready"
                || (event.r#type.starts_with("container.") && event.severity == "error")
        }
        _ => false,
    })
}

fn uid(value: &Value) -> &str {
    text(value, &["metadata", "uid"])
}

/// Was this very state, or a later one, seen before? Lists and watches reach us by different ways
/// and may overtake each other. Resource versions of one object grow (KEP-5504).
fn is_stale(before: &Object, value: &Value, verb: Verb) -> bool {
    let version = |value: &Value| super::value::number(value, &["metadata", "resourceVersion"]);
    if uid(&before.value) != uid(value) || uid(value).is_empty() {
        return false;
    }
    match (version(&before.value), version(value)) {
        (Some(known), Some(now)) => {
            now < known || (now == known && verb != Verb::Deleted) || before.deleted.is_some()
        }
        _ => before.deleted.is_some(),
    }
}

/// The row of a change from outside Kubernetes, see [`change`].
pub(super) fn outside(
    numbers: &mut Numbers,
    entity: &Entity,
    time: Time,
    seen: Time,
    actor: &str,
) -> Change {
    change(numbers.change(), ChangeVerb::Modified, entity, time, seen, actor)
}
