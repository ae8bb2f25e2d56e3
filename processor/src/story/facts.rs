//! The notable facts of late, kept where the story-teller can look them up.

use std::collections::VecDeque;

use tapio_proto::model::{Change, Entity, Event, Time};

use crate::{
    analysis::AnalysisConfig,
    kubernetes::{Said, Saying},
};

/// Different things said of one object.
const MOST_SAID: usize = 50;

/// Events and changes of late, in the order in which they were seen.
pub struct Facts {
    /// Kept of each sort; over it the oldest go.
    most: usize,
    events: VecDeque<Event>,
    changes: VecDeque<Change>,
}

impl Default for Facts {
    fn default() -> Self {
        let most = AnalysisConfig::default().buffer_events;
        Facts { most, events: VecDeque::new(), changes: VecDeque::new() }
    }
}

impl Facts {
    /// Keeps so many of each sort from now on, one at least.
    pub fn keep(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Keeps an event.
    pub fn event(&mut self, event: Event) {
        while self.events.len() >= self.most {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Keeps a row of a change.
    pub fn change(&mut self, change: Change) {
        while self.changes.len() >= self.most {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// The rows of one change.
    pub fn rows_of(&self, change: i64) -> Vec<&Change> {
        self.changes.iter().filter(|row| row.change == change).collect()
    }

    /// Changes made from `from` to `to`.
    pub fn changes_between(&self, from: Time, to: Time) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |row| row.time >= from && row.time <= to)
    }

    /// What was said since then of each object and of the workload that it belongs to: Kubernetes Events and
    /// errors of logs.
    pub fn said(&self, since: Time) -> Said {
        let mut said = Said::new();
        let bad = |e: &&Event| {
            e.time >= since
                && e.severity != "info"
                && matches!(
                    e.r#type.as_str(),
                    "k8s.event" | "probe.failed" | "log.error" | "log.said" | "unit.failed"
                )
        };
        for event in self.events.iter().filter(bad) {
            let on = event.entity();
            let saying = Saying {
                on: on.clone(),
                kind: match event.r#type.as_str() {
                    "log.said" => "log.error",
                    kind => kind,
                }
                .to_owned(),
                reason: event.reason.clone(),
                message: event.message.replace("\\\"", "\""),
                container: event.container.clone(),
                time: event.time,
            };
            let of =
                Entity::new(&event.workload_kind, &event.entity_namespace, &event.workload_name);
            for entity in [Some(on.clone()), Some(of).filter(|of| !of.name.is_empty() && *of != on)]
            {
                let Some(entity) = entity else { continue };
                let all = said.entry(entity).or_default();
                let same = |other: &Saying| {
                    (&other.on, &other.reason, &other.message)
                        == (&saying.on, &saying.reason, &saying.message)
                };
                if all.len() < MOST_SAID && !all.iter().any(same) {
                    all.push(saying.clone());
                }
            }
        }
        said
    }

    /// Events on a workload, on what it owns or on the service in front of it, from `from` to `to`,
    /// by the time they happened.
    pub fn around(&self, workload: &Entity, service: &str, from: Time, to: Time) -> Vec<&Event> {
        let mut found: Vec<&Event> = self
            .events
            .iter()
            .filter(|e| {
                e.time >= from && e.time <= to && *e.entity_namespace == *workload.namespace
            })
            .filter(|e| {
                (*e.workload_kind == *workload.kind && *e.workload_name == *workload.name)
                    || (*e.entity_kind == *workload.kind && *e.entity_name == *workload.name)
                    || (e.entity_kind == "Service" && e.entity_name == service)
            })
            .collect();
        found.sort_by_key(|e| (e.time, e.id));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_changes_are_kept_as_many_as_asked_for() {
        let mut facts = Facts::default();
        facts.keep(3);
        for change in 0..10 {
            facts.change(Change {
                change,
                time: Time(change),
                observed: Time(change),
                verb: "modified".to_owned(),
                entity_kind: "ConfigMap".to_owned(),
                entity_namespace: "shop".to_owned(),
                entity_name: "pool".to_owned(),
                path: "data.size".to_owned(),
                old: None,
                new: None,
                becomes: String::new(),
                actor: String::new(),
                undo: String::new(),
                revision: String::new(),
            });
        }
        let kept: Vec<i64> =
            facts.changes_between(Time(0), Time(100)).map(|row| row.change).collect();
        assert_eq!(kept, [7, 8, 9]);
    }
}
