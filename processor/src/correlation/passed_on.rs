//! What is only passed on: errors that a service logs because it was told them, and requests that lose time or steps
//! because what they ask does.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Time};

use super::{
    EFFECT,
    arises::Arising,
    hypotheses::Hypothesis,
    suspects::{self, Graph},
    symptoms::Symptoms,
    weights::weights,
};
use crate::story::front;

/// Requests are judged for so long after they were made.
const IN_SIGHT: Duration = Duration::from_secs(60);

/// What was found to be passed on, and when it last was: while its requests are in sight it is told no more,
/// though the explanation is over.
#[derive(Debug, Default)]
pub struct PassedOn {
    /// By pattern and service.
    words: BTreeMap<(String, Entity), Time>,
    /// By service and kind.
    arising: BTreeMap<(Entity, &'static str), Time>,
}

/// These are explained now; what was so too long ago is forgotten.
fn explain<K: Ord>(known: &mut BTreeMap<K, Time>, these: impl IntoIterator<Item = K>, now: Time) {
    known.extend(these.into_iter().map(|what| (what, now)));
    known.retain(|_, at| *at + IN_SIGHT >= now);
}

impl PassedOn {
    /// Takes out what a service logs of an error that may be what it was told by a service that it asks, or what
    /// it comes to when that one is away: where that one says the same, or is sick for a reason of its own, it is
    /// that one's. `by_words` says of a hypothesis whether it stands on words.
    pub fn take_relayed(
        &mut self,
        judged: &mut Vec<Hypothesis>,
        (failing, sick): (&BTreeMap<Entity, Time>, &BTreeMap<Entity, Time>),
        (graph, now): (&Graph, Time),
        by_words: impl Fn(&Hypothesis) -> bool,
    ) {
        let said: Vec<(String, Entity)> =
            judged.iter().filter(|h| by_words(h)).map(|h| (h.pattern.clone(), front(h))).collect();
        if said.is_empty() {
            return;
        }
        let worth = weights().judgement.worth;
        let reasons: BTreeMap<Entity, Time> = judged
            .iter()
            .filter(|h| h.confidence >= worth && !by_words(h))
            .filter_map(|h| {
                let front = front(h);
                let since = failing.get(&front).or_else(|| sick.get(&h.workload))?;
                Some((front, *since))
            })
            .collect();
        let asks = |from: &Entity, to: &Entity| from != to && graph.downstream(from).contains(to);
        let passed_on = |h: &Hypothesis| {
            let here = front(h);
            let same = said.iter().filter(|(pattern, _)| *pattern == h.pattern);
            let reason = reasons.iter().filter(|(_, since)| {
                by_words(h) && h.change.is_none() && **since <= h.effect_time + EFFECT
            });
            // Of two that ask each other neither is the first.
            same.map(|(_, on)| on)
                .chain(reason.map(|(on, _)| on))
                .any(|on| asks(&here, on) && !asks(on, &here))
        };
        let name = |h: &Hypothesis| (h.pattern.clone(), front(h));
        let relays: Vec<_> = judged.iter().filter(|h| passed_on(h)).map(name).collect();
        explain(&mut self.words, relays, now);
        judged.retain(|h| !self.words.contains_key(&name(h)));
    }

    /// What arises in requests and no failure explains: requests that lose steps because what they ask
    /// fails, or is not there, are an effect of that, also while they are still in sight when it is over.
    pub fn unexplained(
        &mut self,
        arising: &[Arising],
        symptoms: &Symptoms,
        (graph, now): (&Graph, Time),
    ) -> Vec<Arising> {
        let fails = suspects::fails(symptoms, graph);
        let since = |service: &Entity| fails.get(&graph.workload(service));
        let explained = |arising: &&Arising| {
            graph.downstream(&arising.service).iter().any(|service| {
                since(service).is_some_and(|(onset, sick)| {
                    (*sick || *service != arising.service) && *onset <= arising.onset + EFFECT
                })
            })
        };
        let name = |arising: &Arising| (arising.service.clone(), arising.kind);
        explain(&mut self.arising, arising.iter().filter(explained).map(name), now);
        let open = |arising: &&Arising| !self.arising.contains_key(&name(arising));
        arising.iter().filter(open).cloned().collect()
    }
}
