//! The topology in time: every edge between objects and between services, since when it holds and until when it did.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{Edge, Entity, Relation, Time};

use crate::correlation::suspects::Graph;

/// Edges kept, and as many that have ended.
const MOST_EDGES: usize = 100_000;
/// How often calls are written down.
const CALLS_EVERY: Duration = Duration::from_secs(10);

/// All edges, those that have ended lately included.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    open: BTreeMap<(Relation, Entity, Entity), Edge>,
    ended: Vec<Edge>,
    changed: bool,
    calls_seen: Time,
}

impl Topology {
    /// Who calls whom is an edge like others: since it was seen, until it was no longer.
    pub(crate) fn calls(&mut self, graph: &Graph, now: Time) {
        if (self.calls_seen..self.calls_seen + CALLS_EVERY).contains(&now) {
            return;
        }
        self.calls_seen = now;
        let calls: BTreeSet<(Relation, Entity, Entity)> = graph
            .all_calls()
            .map(|(callee, caller)| (Relation::Calls, callee.clone(), caller.clone()))
            .collect();
        let known = self.open.keys().filter(|(relation, ..)| *relation == Relation::Calls);
        let gone: Vec<_> = known.filter(|edge| !calls.contains(*edge)).cloned().collect();
        for (relation, callee, caller) in gone {
            self.ends(relation, callee, caller, now);
        }
        for (relation, callee, caller) in calls {
            self.begins(relation, callee, caller, now);
        }
    }

    /// An edge holds from then on.
    pub(crate) fn begins(&mut self, relation: Relation, from: Entity, to: Entity, time: Time) {
        if self.open.contains_key(&(relation, from.clone(), to.clone())) {
            return;
        }
        let edge = Edge {
            relation: relation.name().to_owned(),
            from_kind: from.kind.to_string(),
            from_namespace: from.namespace.to_string(),
            from_name: from.name.to_string(),
            to_kind: to.kind.to_string(),
            to_namespace: to.namespace.to_string(),
            to_name: to.name.to_string(),
            valid_from: time,
            valid_to: None,
        };
        if self.open.len() < MOST_EDGES {
            self.open.insert((relation, from, to), edge);
            self.changed = true;
        }
    }

    /// An edge holds no longer.
    pub(crate) fn ends(&mut self, relation: Relation, from: Entity, to: Entity, time: Time) {
        if let Some(mut edge) = self.open.remove(&(relation, from, to)) {
            edge.valid_to = Some(time);
            if self.ended.len() >= MOST_EDGES {
                self.ended.drain(..MOST_EDGES / 10);
            }
            self.ended.push(edge);
            self.changed = true;
        }
    }

    /// An object is gone, and its edges with it.
    pub(crate) fn gone(&mut self, entity: &Entity, time: Time) {
        let of_it = self.open.keys().filter(|(_, from, to)| from == entity || to == entity);
        let of_it: Vec<_> = of_it.cloned().collect();
        for (relation, from, to) in of_it {
            self.ends(relation, from, to, time);
        }
    }

    /// The `topology` table, if it is another one than when this was last asked.
    pub(crate) fn news(&mut self) -> Option<Vec<Edge>> {
        std::mem::take(&mut self.changed)
            .then(|| self.ended.iter().chain(self.open.values()).cloned().collect())
    }
}
