//! States of the cluster that hold: open from the fact that begins one to the fact that ends it, however
//! long that takes and whatever the ring of events has room for.

use std::collections::BTreeMap;

use tapio_proto::model::{Entity, Event};

use super::rows::State;

/// States kept open; over it the oldest goes.
const MOST: usize = 20_000;

/// What begins a state, and what ends it. A pod's end ends all of its states.
const ENDS: [(&str, &str); 11] = [
    ("unit.failed", "unit.active"),
    ("endpoints.empty", "endpoints.ready"),
    ("pod.not_ready", "pod.ready"),
    ("container.waiting", "pod.ready"),
    ("container.waiting", "pod.running"),
    ("pod.unschedulable", "pod.ready"),
    ("node.not_ready", "node.ready"),
    ("deployment.unavailable", "deployment.available"),
    ("deployment.replica_failure", "deployment.replicas_created"),
    ("pod.failed", "pod.deleted"),
    ("pod.evicted", "pod.deleted"),
];

/// The states that are open now.
#[derive(Debug, Default)]
pub struct States {
    open: BTreeMap<(String, Entity), State>,
}

impl States {
    /// Takes a fact of the cluster in.
    pub fn event(&mut self, event: &Event) {
        let entity = event.entity();
        let bad = event.severity != "info";
        if bad && ENDS.iter().any(|(begins, _)| *begins == event.r#type) {
            self.begin(event, entity);
            return;
        }
        for (kind, ended_by) in ENDS {
            let key = (kind.to_owned(), entity.clone());
            let ends = *ended_by == event.r#type || event.r#type == "pod.deleted";
            // What is said of an earlier time, only later, ends nothing that began since.
            if ends && self.open.get(&key).is_some_and(|state| state.last <= event.time) {
                self.open.remove(&key);
            }
        }
    }

    fn begin(&mut self, event: &Event, entity: Entity) {
        if self.open.len() >= MOST {
            let oldest = self.open.iter().min_by_key(|(_, state)| state.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.open.remove(&oldest);
            }
        }
        let state = self.open.entry((event.r#type.clone(), entity)).or_insert_with(|| State {
            kind: event.r#type.clone(),
            entity_kind: event.entity_kind.clone(),
            entity_namespace: event.entity_namespace.clone(),
            entity_name: event.entity_name.clone(),
            workload_kind: String::new(),
            workload_name: String::new(),
            onset: event.time,
            last: event.time,
            times: 0,
            reason: String::new(),
            message: String::new(),
        });
        state.onset = state.onset.min(event.time);
        state.times += 1;
        if state.last <= event.time {
            state.last = event.time;
            (state.reason, state.message) = (event.reason.clone(), event.message.clone());
        }
        if !event.workload_name.is_empty() {
            (state.workload_kind, state.workload_name) =
                (event.workload_kind.clone(), event.workload_name.clone());
        }
    }

    /// An object is gone, and its states with it.
    pub fn gone(&mut self, entity: &Entity) {
        self.open.retain(|(_, on), _| on != entity);
    }

    /// The `states` table.
    pub fn rows(&self) -> Vec<State> {
        self.open.values().cloned().collect()
    }
}
