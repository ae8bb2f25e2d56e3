//! Why a story is believed, what speaks against it, and what was ruled out.

use std::{collections::BTreeSet, time::Duration};

use tapio_proto::model::{Change, Entity, Time};

use super::{
    assemble::{Failure, Teller, View},
    group::front,
    words::{self, names},
};
use crate::patterns::Pattern;

/// What is put back helps within this time.
const HELPS: Duration = Duration::from_secs(60);
/// Nothing was wrong for so long.
const WELL: Duration = Duration::from_secs(15);
/// A beginning that is known as well as this, s, needs no word.
const NEAR: f64 = 10.0;
/// Changes of each sort that are ruled out by name.
const MOST_CHANGES: usize = 3;

impl Teller<'_> {
    pub(super) fn reasons(
        &self,
        pattern: Option<&Pattern>,
        mechanism: Option<String>,
        order: &[(Entity, &Failure)],
    ) -> Vec<String> {
        let mut reasons = Vec::new();
        let told = self.best.told.as_deref();
        if let (true, Some(mechanism)) = (pattern.is_some() || told.is_some(), mechanism) {
            reasons.push(format!("mechanism: {mechanism}"));
        }
        reasons.extend(told.iter().flat_map(|told| told.reasons.clone()));
        let lag = self.best.effect_time.seconds_since(self.best.cause_time);
        if self.best.change.is_some() {
            reasons.push(format!("the first effect came {} after the change", words::lasting(lag)));
        }
        if let Some(back) = self.put_back() {
            let well = self.plot.last_bad.max(back).seconds_since(back);
            reasons.push(format!(
                "it was put back at {}, and {} later all was well",
                back.clock(),
                words::lasting(well)
            ));
        }
        if self.best.rivals == 0 && self.best.change.is_some() {
            reasons.push(format!(
                "nothing else that {} depends on was changed in the half hour before",
                self.best.workload.name
            ));
        }
        let failing: BTreeSet<&Entity> = order.iter().map(|(s, _)| s).collect();
        let callers: Vec<&Entity> = self.view.graph.callers(&front(self.best)).collect();
        if !callers.is_empty() && callers.iter().all(|c| failing.contains(c)) {
            reasons.push(format!(
                "every caller of {} fails: {}",
                self.best.service,
                names(callers.into_iter())
            ));
        }
        reasons
    }

    pub(super) fn doubts(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let mut doubts = unseen(self.view);
        doubts.extend(self.open_questions(order));
        if self.best.rivals > 0 {
            doubts.push(format!(
                "{} other change(s) upstream of {} in the half hour before",
                self.best.rivals, self.best.workload.name
            ));
        }
        // Of the first only: what comes after follows from it.
        let vague = |f: &&Failure| f.within.is_some_and(|within| within >= NEAR);
        if let Some((service, f)) = order.first().filter(|(_, f)| vague(f)) {
            let within = words::lasting(f.within.unwrap_or_default());
            doubts
                .push(format!("since when {} does badly is known to {within} only", service.name));
        }
        let mut named = BTreeSet::from([&self.best.cause]);
        for other in self.plot.hypotheses.iter().skip(1) {
            if other.change.is_some() && named.insert(&other.cause) {
                doubts.push(format!(
                    "it may be the change of {} as well, {} before it shows ({:.2})",
                    other.cause,
                    words::lasting(other.effect_time.seconds_since(other.cause_time)),
                    other.confidence
                ));
            }
        }
        if self.best.pattern.is_empty() {
            let this = if self.best.change.is_some() { "this change" } else { "this state" };
            doubts.push(format!("no known mechanism leads from {this} to this failure; it is only near in time and upstream"));
        }
        doubts
    }

    /// When somebody put the guilty change back, if it helped.
    pub(super) fn put_back(&self) -> Option<Time> {
        let rows = self.view.facts.rows_of(self.best.change?);
        let undoes = |new: &&Change| {
            rows.iter().any(|row| {
                new.change != row.change
                    && new.entity() == row.entity()
                    && (&new.path, &new.new, &new.old) == (&row.path, &row.old, &row.new)
            })
        };
        let later = self.view.facts.changes_between(self.best.cause_time, self.view.now);
        let back = later.filter(undoes).map(|new| new.time).max()?;
        let (well, now) = (self.plot.last_bad, self.view.now);
        (well <= back + HELPS && well + WELL <= now).then_some(back)
    }

    /// Whom the failing services ask that is not among them, nor where it began.
    fn asked(&self, order: &[(Entity, &Failure)]) -> BTreeSet<&Entity> {
        let failing: BTreeSet<&Entity> = order.iter().map(|(s, _)| s).collect();
        let root = front(self.best);
        let asked = order.iter().flat_map(|(s, _)| self.view.graph.callees(s));
        asked.filter(|c| !failing.contains(c) && **c != root).collect()
    }

    /// What services ask of that is not looked at, or fails for another reason, cannot be ruled out.
    fn open_questions(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let asked = self.asked(order);
        let (sick, others): (Vec<&Entity>, Vec<&Entity>) =
            asked.into_iter().partition(|c| self.view.is_sick(c));
        let unheard: Vec<&Entity> = others.into_iter().filter(|c| !self.view.hears(c)).collect();
        let mut out = Vec::new();
        if !sick.is_empty() {
            out.push(format!("{}: not well either", names(sick.into_iter())));
        }
        if !unheard.is_empty() {
            out.push(format!(
                "{}: asked, but sends no telemetry that would show how it is",
                names(unheard.into_iter())
            ));
        }
        out
    }

    pub(super) fn ruled_out(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let mut out = Vec::new();
        let mut well = self.asked(order);
        well.retain(|c| !self.view.is_sick(c) && self.view.hears(c));
        if !well.is_empty() {
            out.push(format!(
                "{}: no errors of their own beyond what is usual",
                names(well.into_iter())
            ));
        }
        let (near, far) = self.other_changes(order);
        let far = far.iter().take(MOST_CHANGES);
        out.extend(far.map(|o| format!("the change of {o}: nothing that fails depends on it")));
        let near = near.iter().take(MOST_CHANGES);
        out.extend(near.map(|o| {
            format!("the change of {o}: no known mechanism leads from it to this failure")
        }));
        out
    }

    /// Objects that were changed in the half hour before besides the guilty one: those on which something that
    /// fails depends, and the others.
    fn other_changes(&self, order: &[(Entity, &Failure)]) -> (BTreeSet<Entity>, BTreeSet<Entity>) {
        let from = self.best.cause_time - Duration::from_secs(1800);
        let blamed: BTreeSet<&Entity> = self.plot.hypotheses.iter().map(|h| &h.cause).collect();
        let rows = self.view.facts.changes_between(from, self.best.effect_time);
        let others: BTreeSet<Entity> = rows
            .filter(|row| Some(row.change) != self.best.change)
            .map(Change::entity)
            .filter(|object| !blamed.contains(object))
            .collect();
        if others.is_empty() {
            return Default::default();
        }
        let (graph, carriers) = (self.view.graph, self.view.cluster.carriers());
        let root = front(self.best);
        let failing = order.iter().map(|(service, _)| service).chain([&root]);
        let below: BTreeSet<Entity> =
            failing.flat_map(|service| graph.downstream(service)).collect();
        let workloads: BTreeSet<Entity> =
            below.iter().flat_map(|service| graph.workloads(service)).collect();
        let mut needed: BTreeSet<Entity> = below;
        for workload in &workloads {
            let needs = self.view.cluster.upstream(workload, &carriers);
            needed.extend(needs.into_iter().map(|(_, object)| object));
        }
        needed.extend(workloads);
        others.into_iter().partition(|object| needed.contains(object))
    }
}

impl View<'_> {
    /// Does anything show that a service is not well?
    fn is_sick(&self, service: &Entity) -> bool {
        let workload = self.graph.workload(service);
        self.symptoms.iter().any(|active| {
            active.entity() == *service || active.workload.as_ref() == Some(&workload)
        })
    }

    /// Does a service tell how it is? What metrics tell of is told of by them.
    fn hears(&self, service: &Entity) -> bool {
        !self.sighted.contains("traces") || self.windows.hears(service)
    }
}

/// Signals that a story could not look at.
pub(super) fn unseen(view: &View<'_>) -> Vec<String> {
    let all = ["traces", "logs", "metrics", "kubernetes", "kernel"].into_iter();
    let unseen: Vec<&str> = all.filter(|signal| !view.sighted.contains(signal)).collect();
    if unseen.is_empty() { Vec::new() } else { vec![format!("not seen: {}", unseen.join(", "))] }
}
