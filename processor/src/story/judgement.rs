//! Why a story is believed, what speaks against it, and what was ruled out.

use std::{collections::BTreeSet, time::Duration};

use tapio_proto::model::Entity;

use super::{
    assemble::{Failure, Teller, View},
    group::front,
    words::{self, names},
};
use crate::patterns::Pattern;

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

    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = unseen(self.view);
        if self.best.rivals > 0 {
            doubts.push(format!(
                "{} other change(s) upstream of {} in the half hour before",
                self.best.rivals, self.best.workload.name
            ));
        }
        if self.best.pattern.is_empty() {
            let this = if self.best.change.is_some() { "this change" } else { "this state" };
            doubts.push(format!("no known mechanism leads from {this} to this failure; it is only near in time and upstream"));
        }
        doubts
    }

    pub(super) fn ruled_out(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let mut out = Vec::new();
        let failing: BTreeSet<&Entity> = order.iter().map(|(s, _)| s).collect();
        let root = front(self.best);
        let mut well = BTreeSet::new();
        for (s, _) in order {
            well.extend(
                self.view.graph.callees(s).filter(|c| !failing.contains(c) && **c != root).cloned(),
            );
        }
        if !well.is_empty() {
            out.push(format!(
                "{}: no errors of their own beyond what is usual",
                names(well.iter())
            ));
        }
        let from = self.best.cause_time - Duration::from_secs(1800);
        let blamed: BTreeSet<&Entity> = self.plot.hypotheses.iter().map(|h| &h.cause).collect();
        let mut others = BTreeSet::new();
        for row in self.view.facts.changes_between(from, self.best.effect_time) {
            if Some(row.change) != self.best.change && !blamed.contains(&row.entity()) {
                others.insert(row.entity());
            }
        }
        out.extend(others.iter().take(3).map(|o| format!("the change of {o}: nothing that fails depends on it, or no known mechanism leads from it to this failure")));
        out
    }
}

/// Signals that a story could not look at.
pub(super) fn unseen(view: &View<'_>) -> Vec<String> {
    let all = ["traces", "logs", "metrics", "kubernetes", "kernel"].into_iter();
    let unseen: Vec<&str> = all.filter(|signal| !view.sighted.contains(signal)).collect();
    if unseen.is_empty() { Vec::new() } else { vec![format!("not seen: {}", unseen.join(", "))] }
}
