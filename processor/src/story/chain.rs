//! The causal chain of a story, and the evidence for each of its links.

use tapio_proto::model::{ChainLink, Change, Entity, Event, Evidence, Time};

use super::{
    assemble::{SLACK, Teller},
    dimension::Dimension,
    group::front,
    words,
};
use crate::{correlation::hypotheses::Hypothesis, streaming::Sample};

/// Source of what was read in objects as they stand.
pub(super) const OBJECTS: &str = "objects";
/// So many workloads besides the first that one cause reaches are told of together.
const MANY: usize = 3;

impl Teller<'_> {
    pub(super) fn evidence(&self, rows: &[&Change], events: &[&Event]) -> Vec<Evidence> {
        let mut all = Vec::new();
        let mut add = |time: Time,
                       role: &str,
                       on: &Entity,
                       (what, times): (String, usize),
                       (source, dimension): (&str, Dimension),
                       sample: Option<Sample>| {
            all.push(Evidence {
                story_id: self.plot.id.to_owned(),
                time,
                role: role.to_owned(),
                entity_kind: on.kind.to_string(),
                entity_namespace: on.namespace.to_string(),
                entity_name: on.name.to_string(),
                what,
                times: i64::try_from(times).unwrap_or(i64::MAX),
                source: source.to_owned(),
                dimension: dimension.name().to_owned(),
                trace_id: sample.map(|s| hex(&s.trace_id)),
                span_id: sample.map(|s| hex(&s.span_id)),
            });
        };
        if let Some(first) = rows.first() {
            let by =
                if first.actor.is_empty() { String::new() } else { format!(" by {}", first.actor) };
            let what = format!("{} {}{by}: {}", self.best.cause, first.verb, words::change(rows));
            let from = ("changes", Dimension::of_cause(self.best));
            add(self.best.cause_time, "cause", &self.best.cause, (what, 1), from, None);
        }
        if let Some(back) = self.put_back() {
            let from = ("changes", Dimension::of_cause(self.best));
            add(back, "effect", &self.best.cause, ("it is put back".to_owned(), 1), from, None);
        }
        let state = rows.is_empty() && self.best.cause != self.best.workload;
        if state && let Some(line) = words::lines(&self.cause_events()).first() {
            let from = ("events", Dimension::of_cause(self.best));
            add(line.first.time, "cause", &self.best.cause, (line.words(), line.times), from, None);
        }
        if let Some(measured) = &self.best.measured {
            let (what, from) = (measured.detail.clone(), ("requests", Dimension::Trace));
            add(self.best.cause_time, "cause", &measured.service, (what, 1), from, None);
            for (on, what, since) in &measured.effects {
                add(*since, "effect", on, (what.clone(), 1), from, None);
            }
        }
        // What was read in objects as they stand, of the workload and of those that fail with it.
        let read = |h: &'_ Hypothesis| h.told.as_ref().map(|t| t.shown.clone()).unwrap_or_default();
        let theirs = self.siblings().into_iter().flat_map(read);
        for (n, shown) in read(self.best).into_iter().chain(theirs).enumerate() {
            let role = if n == 0 { "cause" } else { "effect" };
            let from = (OBJECTS, Dimension::of_cause(self.best));
            add(shown.time, role, &shown.on, (shown.what, 1), from, None);
        }
        for line in words::lines(events) {
            let on = line.first.entity();
            let from = ("events", Dimension::of_event(line.first, &self.best.workload));
            add(line.first.time, "effect", &on, (line.words(), line.times), from, None);
        }
        let from = ("events", Dimension::Network);
        match self.together() {
            Some(all) => {
                for (on, what, time) in all {
                    add(time, "effect", &on, (what, 1), from, None);
                }
            }
            None => {
                for sibling in self.siblings() {
                    if let Some((what, time)) = self.out_of_service(sibling) {
                        add(time, "effect", &slices(&front(sibling)), (what, 1), from, None);
                    }
                }
            }
        }
        let root = front(self.best);
        for (service, failure) in self.order() {
            add(
                failure.since,
                "symptom",
                &service,
                (self.failure_words(&service, failure), 1),
                ("windows", Dimension::of_failure(&service, &root)),
                failure.sample,
            );
        }
        all.sort_by_key(|a| (a.time, role_rank(&a.role)));
        all
    }

    pub(super) fn chain(&self, rows: &[&Change], events: &[&Event]) -> Vec<ChainLink> {
        let best = self.best;
        let service = best.service.clone();
        let own = best.cause == best.workload;
        let what = match rows.is_empty() {
            _ if best.told.is_some() => {
                best.told.as_ref().map(|told| told.what.clone()).unwrap_or_default()
            }
            false => words::change(rows),
            true if own => self
                .view
                .patterns
                .get(&best.pattern)
                .map(|p| p.catalogue.clone())
                .unwrap_or_default(),
            true => {
                words::lines(&self.cause_events()).first().map(|l| l.words()).unwrap_or_default()
            }
        };
        let mut chain = Vec::new();
        if let Some(measured) = &best.measured {
            chain.push(link(&measured.service, &service, measured.detail.clone(), best.cause_time));
            for (on, what, since) in &measured.effects {
                chain.push(link(on, &on.name, what.clone(), *since));
            }
            return chain;
        }
        if !(own && rows.is_empty() && best.told.is_none()) {
            chain.push(link(&best.cause, if own { &service } else { "" }, what, best.cause_time));
        }
        if best.relation == "resolves"
            && let Some(dns) = self.view.cluster.resolver()
        {
            let dns = self.view.graph.service(&dns);
            let what = self.view.patterns.get(&best.pattern).map(|p| p.mechanism.clone());
            chain.push(link(&dns, &dns.name, what.unwrap_or_default(), best.effect_time));
        } else if let Some(all) = self.together() {
            chain.extend(all.into_iter().map(|(on, what, time)| link(&on, "", what, time)));
        } else {
            self.on_its_own(events, &mut chain);
        }
        for (s, failure) in self.order() {
            chain.push(link(&s, &s.name, self.failure_words(&s, failure), failure.since));
        }
        chain
    }

    /// What the cause does to its workload, and to the few others that it reaches.
    fn on_its_own(&self, events: &[&Event], chain: &mut Vec<ChainLink>) {
        let best = self.best;
        let service = &best.service;
        let lines = words::lines(events);
        if best.cause != best.workload
            && let Some(first) = lines.first()
        {
            chain.push(link(&best.workload, service, first.words(), first.first.time));
        }
        let mechanism = |l: &&words::Line<'_>| {
            matches!(
                l.first.r#type.as_str(),
                "container.terminated" | "container.waiting" | "pod.unschedulable" | "probe.failed"
            )
        };
        for line in lines.iter().filter(mechanism).take(3) {
            let e = line.first;
            let on = if e.container.is_empty() {
                e.entity()
            } else {
                Entity::new("Container", &e.entity_namespace, &e.container)
            };
            chain.push(link(&on, service, line.counted(), e.time));
        }
        if let Some(line) = lines.iter().find(|l| l.first.r#type == "endpoints.empty") {
            chain.push(link(&slices(&front(best)), "", line.counted(), line.first.time));
        }
        for sibling in self.siblings() {
            if let Some((words, time)) = self.out_of_service(sibling) {
                chain.push(link(&slices(&front(sibling)), "", words, time));
            }
        }
    }

    /// Where one cause reaches many workloads, what it does to all of them, told once: to their pods, and to
    /// the endpoints of their Services.
    fn together(&self) -> Option<Vec<(Entity, String, Time)>> {
        let siblings = self.siblings();
        if siblings.len() < MANY {
            return None;
        }
        let mut told = Vec::new();
        let mut all = vec![self.best];
        all.extend(siblings);
        for kind in ["pod.not_ready", "endpoints.empty"] {
            let hit: Vec<(&Hypothesis, &Event)> =
                all.iter().filter_map(|h| Some((*h, self.first(h, kind)?))).collect();
            let Some((_, first)) = hit.iter().min_by_key(|(_, event)| event.time) else { continue };
            let mut names: Vec<&str> = hit.iter().map(|(h, _)| h.service.as_str()).collect();
            names.dedup();
            let (on, of) = match kind {
                "pod.not_ready" => ("Pod", "pods are not ready"),
                _ => ("EndpointSlice", "Services have no ready endpoint"),
            };
            let one = hit.iter().all(|(h, _)| h.workload.namespace == self.best.workload.namespace);
            let namespace = if one { &*self.best.workload.namespace } else { "" };
            let what = format!("{of}: {}", words::some(&names, 8));
            told.push((Entity::new(on, namespace, "*"), what, first.time));
        }
        Some(told)
    }

    /// The first of this kind that befell a workload since the cause.
    fn first(&self, on: &Hypothesis, kind: &str) -> Option<&Event> {
        self.events_of(on).into_iter().find(|e| e.r#type == kind)
    }

    /// That a sibling's Service was left without endpoints, and when.
    pub(super) fn out_of_service(&self, sibling: &Hypothesis) -> Option<(String, Time)> {
        let around = self.events_of(sibling).into_iter();
        let empty: Vec<&Event> = around.filter(|e| e.r#type == "endpoints.empty").collect();
        words::lines(&empty).first().map(|line| (line.counted(), line.first.time))
    }

    fn cause_events(&self) -> Vec<&Event> {
        let cause = &self.best.cause;
        self.view.facts.around(
            cause,
            &cause.name,
            self.best.cause_time - SLACK,
            self.best.cause_time + SLACK,
        )
    }
}

/// The EndpointSlices of a Service.
fn slices(service: &Entity) -> Entity {
    Entity::new("EndpointSlice", &service.namespace, &format!("{}-*", service.name))
}

/// One link of a chain.
pub(super) fn link(on: &Entity, service: &str, what: String, time: Time) -> ChainLink {
    ChainLink {
        kind: on.kind.to_string(),
        namespace: on.namespace.to_string(),
        name: on.name.to_string(),
        service: service.to_owned(),
        what,
        time,
    }
}

fn role_rank(role: &str) -> u8 {
    match role {
        "cause" => 0,
        "effect" => 1,
        _ => 2,
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
