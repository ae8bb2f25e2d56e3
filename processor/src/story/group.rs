//! What belongs together: a hypothesis and all the failing services that it explains.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use crate::correlation::{
    arises::{SLOW_BACKEND, STEPS},
    hypotheses::Hypothesis,
    suspects::{Graph, failing, sick},
    symptoms::Symptoms,
    weights::weights,
};

/// A state that lasts shorter is part of any rollout and wakes nobody.
const SICK_FOR: Duration = Duration::from_secs(10);
/// Failing that nothing explains is told after this long.
const UNEXPLAINED_FOR: Duration = Duration::from_secs(20);
/// What fails may seem to begin so long before its cause: a request that was under way when the cause
/// came, and the start of the window in which it ended.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A callee that is to blame fails already the first request that fails its caller, and is called so
/// soon in it; what fails later may be what the caller cuts short.
const FIRST_CALL: Duration = Duration::from_secs(1);
/// Who waits for a host outside is slow before its calls to it fail.
const WAITED: Duration = Duration::from_secs(30);

/// Symptoms by which a service fails those who ask it.
const FAILURES: [&str; 5] = ["error_ratio", "latency", "call_errors", "log_errors", "alert"];

/// One incident as it stands now.
#[derive(Debug)]
pub struct Group {
    /// What explains it, best first; empty when nothing does.
    pub hypotheses: Vec<Hypothesis>,
    /// The same explanation on other workloads: a node that takes several down, a resolver for all.
    pub siblings: Vec<Hypothesis>,
    /// Services that fail because of it, and since when.
    pub services: BTreeMap<Entity, Time>,
    /// Workloads that could be blamed for what nothing explains, if they did not fail since a host outside fails
    /// them.
    pub failed_from_outside: BTreeSet<Entity>,
}

/// Splits what is wrong now into incidents: the hypothesis that explains most takes its failing
/// services with it, then the next, until what is left has no explanation.
pub fn groups(
    hypotheses: &[Hypothesis],
    symptoms: &Symptoms,
    graph: &Graph,
    now: Time,
) -> Vec<Group> {
    let failing = failing(symptoms);
    let sick = sick(symptoms, graph);
    // What was wrong once and is well now explains nothing that fails today.
    let (outside, hypotheses): (Vec<&Hypothesis>, Vec<&Hypothesis>) = hypotheses
        .iter()
        .filter(|h| sick.contains_key(&h.workload) || failing.contains_key(&front(h)))
        .partition(|h| h.is_bare() && blames_outside(h, &failing, graph));
    let mut uncovered: BTreeSet<Entity> = failing.keys().cloned().collect();
    let mut told: BTreeSet<Entity> = BTreeSet::new();
    let mut groups: Vec<Group> = Vec::new();
    loop {
        let best = hypotheses
            .iter()
            .copied()
            .filter(|h| h.confidence >= weights().judgement.worth && !told.contains(&h.workload))
            .map(|h| {
                let same = hypotheses.iter().filter(|other| same_explanation(h, other));
                (h, same.flat_map(|other| covered(other, &failing, graph)).collect::<BTreeSet<_>>())
            })
            .filter(|(h, covers)| {
                covers.iter().any(|s| uncovered.contains(s))
                    || (sick.get(&h.workload).is_some_and(|since| *since + SICK_FOR <= now)
                        && !graph
                            .downstream(&front(h))
                            .iter()
                            .any(|s| told.contains(&graph.workload(s))))
            })
            .map(|(h, covers)| {
                let share = covers.iter().filter(|s| uncovered.contains(*s)).count() as f64
                    / failing.len().max(1) as f64;
                (h.confidence + weights().judgement.covers * share, h, covers)
            })
            .fold(None, |best: Option<(f64, &Hypothesis, BTreeSet<Entity>)>, next| match best {
                Some(best) if best.0 >= next.0 => Some(best),
                _ => Some(next),
            });
        let Some((_, best, covers)) = best else { break };
        // Whoever speaks for it below: what is told is not chosen again, or this would not end.
        told.insert(best.workload.clone());
        // Of a resolver that is gone, that nobody's names resolve says more than that it has no pods, and is as
        // sure.
        let resolves = hypotheses
            .iter()
            .filter(|h| best.relation == "self" && h.relation == "resolves")
            .filter(|h| !h.pattern.is_empty() && h.cause == best.cause && h.change == best.change)
            .max_by(|a, b| a.confidence.total_cmp(&b.confidence));
        let best = &match resolves {
            Some(h) => {
                Hypothesis { confidence: h.confidence.max(best.confidence), ..Hypothesis::clone(h) }
            }
            None => best.clone(),
        };
        let is_best = |h: &Hypothesis| h.workload == best.workload && same_explanation(h, best);
        let mut chosen = vec![best.clone()];
        chosen.extend(
            hypotheses
                .iter()
                .copied()
                .filter(|h| !is_best(h) && related(h, best, &covers, graph))
                .take(4)
                .cloned(),
        );
        told.extend(covers.iter().map(|s| graph.workload(s)));
        told.insert(best.workload.clone());
        let siblings: Vec<Hypothesis> = hypotheses
            .iter()
            .copied()
            .filter(|h| h.workload != best.workload && same_explanation(best, h))
            .cloned()
            .collect();
        told.extend(siblings.iter().map(|h| h.workload.clone()));
        // Each failing service belongs to one incident: the first that explains it.
        let services = covers
            .iter()
            .filter(|s| uncovered.contains(*s))
            .filter_map(|s| failing.get(s).map(|since| (s.clone(), *since)))
            .collect();
        uncovered.retain(|s| !covers.contains(s) && !told.contains(&graph.workload(s)));
        groups.push(Group {
            hypotheses: chosen,
            siblings,
            services,
            failed_from_outside: BTreeSet::new(),
        });
    }
    // What fails only in the eyes of those who are sick themselves may well be what they cut short: a host
    // outside, or a service that answers all others as ever.
    let cut_short = |service: &Entity| match graph.outside(service) {
        Some(callers) => callers.iter().all(|c| told.contains(&graph.workload(c))),
        None => {
            let mut sick = graph.callers(service).filter(|c| failing.contains_key(*c)).peekable();
            let fails = |kind| symptoms.get(kind, service).is_some();
            !fails("error_ratio")
                && !fails("log_errors")
                && !fails("latency")
                && sick.peek().is_some()
                && sick.all(|c| told.contains(&graph.workload(c)))
        }
    };
    let rest: BTreeMap<Entity, Time> = uncovered
        .into_iter()
        .filter(|s| !cut_short(s))
        .filter_map(|s| failing.get(&s).map(|since| (s.clone(), *since)))
        .filter(|(s, since)| lasts(s, *since, symptoms))
        .collect();
    if !rest.is_empty() {
        groups.push(Group {
            hypotheses: Vec::new(),
            siblings: Vec::new(),
            services: rest,
            failed_from_outside: outside.iter().map(|h| h.workload.clone()).collect(),
        });
    }
    groups
}

fn same_explanation(a: &Hypothesis, b: &Hypothesis) -> bool {
    a.cause == b.cause && a.change == b.change && a.pattern == b.pattern
}

/// Has it been seen failing for so long? A blip that only fades has not.
pub(crate) fn lasts(service: &Entity, since: Time, symptoms: &Symptoms) -> bool {
    let seen = FAILURES.iter().filter_map(|kind| symptoms.get(kind, service));
    seen.map(|active| active.symptom.last).max().is_some_and(|last| since + UNEXPLAINED_FOR <= last)
}

/// Does the workload, or what it calls, fail since a host outside fails it? That tells more than a
/// change that is only near in time.
fn blames_outside(h: &Hypothesis, failing: &BTreeMap<Entity, Time>, graph: &Graph) -> bool {
    let front = front(h);
    let since = failing.get(&front);
    // Who is failed goes on in another way than it used to.
    let steps = h.measured.as_ref().is_some_and(|arising| arising.kind == STEPS);
    let waits = h.measured.as_ref().is_some_and(|arising| arising.pattern == SLOW_BACKEND);
    let soon = if waits { WAITED } else { FIRST_CALL };
    (steps || h.confidence < weights().outside.certain)
        && graph
            .downstream(&front)
            .iter()
            .filter(|s| **s == front || failing.contains_key(*s))
            .flat_map(|s| graph.hosts(s))
            .filter_map(|host| failing.get(host))
            .any(|outside| since.is_none_or(|since| *outside <= *since + soon))
}

/// Failing services that the hypothesis explains: the one where it shows, and its failing callers, be it
/// through callers that fail too little to be told apart from luck. What failed before the cause came is not
/// its effect, nor is what is asked only by that.
fn covered(h: &Hypothesis, failing: &BTreeMap<Entity, Time>, graph: &Graph) -> BTreeSet<Entity> {
    let after = |s: &Entity| failing.get(s).is_some_and(|at| *at + UNDER_WAY >= h.cause_time);
    let mut covers = BTreeSet::new();
    // Under whichever name the workload fails.
    let mut next = graph.services(&h.workload);
    next.push(front(h));
    let mut seen: BTreeSet<Entity> = next.iter().cloned().collect();
    while let Some(at) = next.pop() {
        if after(&at) {
            covers.insert(at.clone());
        }
        for caller in graph.callers(&at) {
            if (after(caller) || graph.passes_on(caller)) && seen.insert(caller.clone()) {
                next.push(caller.clone());
            }
        }
    }
    covers
}

fn related(h: &Hypothesis, best: &Hypothesis, covers: &BTreeSet<Entity>, graph: &Graph) -> bool {
    (h.cause != best.cause || h.pattern != best.pattern)
        && (h.workload == best.workload || covers.iter().any(|s| graph.workload(s) == h.workload))
}

/// The service where a hypothesis shows first.
pub(crate) fn front(h: &Hypothesis) -> Entity {
    Entity::new("Service", &h.workload.namespace, &h.service)
}
