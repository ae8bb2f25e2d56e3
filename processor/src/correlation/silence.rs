//! Services that users asked steadily and that nobody asks any more. That alone is no failure, for those who ask may
//! have gone; it is one where what leads to the service was changed just before.

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::model::{Entity, Event, Severity, Time};

use super::{
    hypotheses::Hypothesis,
    suspects::{Graph, SICK_STATES},
    symptoms::{SILENCE, Symptoms},
};
use crate::streaming::{Silent, Windows};

/// The services where requests enter, and do no more. Who is asked by another service is asked no more by its
/// choice, or because nobody asks that one either.
pub fn entries(windows: &Windows, graph: &Graph, now: Time) -> Vec<Silent> {
    let mut silent = windows.silent(now);
    silent.retain(|silent| !graph.is_called(&silent.service));
    silent
}

/// A fact of each that has fallen silent since it was last asked.
pub fn news(all: &[Silent], symptoms: &Symptoms, graph: &Graph) -> Vec<Event> {
    let is_new = |silent: &&Silent| symptoms.get(SILENCE, &silent.service).is_none();
    let fact = |silent: &Silent| {
        let workload = graph.workload(&silent.service);
        let on = (&silent.service, Some(&workload));
        Event {
            message: words(silent),
            value: Some(silent.usual),
            ..Event::new(("spans", SILENCE), Severity::Warning, on, silent.since)
        }
    };
    all.iter().filter(is_new).map(fact).collect()
}

/// `web is asked no more, was 5.0 requests a second`
pub fn words(silent: &Silent) -> String {
    let Silent { service, usual, .. } = silent;
    format!("{} is asked no more, was {usual:.1} requests a second", service.name)
}

/// Of workloads that show nothing but silence only that is told which speaks of silence, as `tells` says of a
/// pattern.
pub fn hold(
    judged: &mut Vec<Hypothesis>,
    failing: &BTreeMap<Entity, Time>,
    (symptoms, graph): (&Symptoms, &Graph),
    tells: impl Fn(&Hypothesis) -> bool,
) {
    let of = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<Entity> {
        let those = symptoms.iter().filter(|active| wanted(&active.symptom.kind));
        those
            .map(|active| {
                let on = || graph.workload(&active.entity());
                active.workload.clone().unwrap_or_else(on)
            })
            .collect()
    };
    let silent = of(&|kind| kind == SILENCE);
    if silent.is_empty() {
        return;
    }
    let sick = of(&|kind| kind != SILENCE && SICK_STATES.contains(&kind));
    let fails = |workload: &Entity| {
        graph.services(workload).iter().any(|service| failing.contains_key(service))
    };
    judged.retain(|h| {
        !silent.contains(&h.workload)
            || sick.contains(&h.workload)
            || fails(&h.workload)
            || tells(h)
    });
}
