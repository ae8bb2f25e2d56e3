//! Databases and other backends that send no telemetry: what those who ask them say of them.
//!
//! One that several ask, and that all of them wait for or are failed by, is where to look: what they share is it.
//! Of one that a single service asks it is not known on which side of the calls the trouble is.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Time};

use super::{hypotheses::Hypothesis, suspects::Graph, symptoms::Symptoms, weights::weights};
use crate::{story::lasts, streaming::Windows};

/// The pattern of one that answers late, and of one that answers with errors or not at all.
const SLOW: &str = "backend_slow";
const FAILS: &str = "backend_fails";
/// Who fails earlier than this before it does not fail because of it.
const BEFORE: Duration = Duration::from_secs(30);
/// Who no longer asks it so long after it began to do badly does not speak for it.
const ASKED: Duration = Duration::from_secs(10);

/// Adds each backend that does badly in the eyes of all that ask it, as far as nothing tells why. `speaks` says
/// of a service whether it sends telemetry.
pub fn judge(
    judged: &mut Vec<Hypothesis>,
    failing: &BTreeMap<Entity, Time>,
    (symptoms, windows, graph): (&Symptoms, &Windows, &Graph),
    speaks: impl Fn(&Entity) -> bool,
) {
    let (w, worth) = (&weights().backends, weights().judgement.worth);
    for (service, onset) in failing {
        let speaks = speaks(service) || symptoms.get("log_errors", service).is_some();
        if speaks || graph.outside(service).is_some() || !lasts(service, *onset, symptoms) {
            continue;
        }
        let pattern = if symptoms.get("call_errors", service).is_some() {
            FAILS
        } else if symptoms.get("latency", service).is_some() {
            SLOW
        } else {
            continue;
        };
        let suffers =
            |caller: &&Entity| failing.get(*caller).is_some_and(|at| *at + BEFORE >= *onset);
        let (suffering, others): (Vec<_>, Vec<_>) = graph.callers(service).partition(suffers);
        let is_well_for_others = !others.is_empty() && {
            let still_ask = windows.calls(*onset + ASKED);
            let mut still_ask = still_ask.iter().filter(|(_, to)| to.entity() == service);
            still_ask.any(|(from, _)| others.contains(&from))
        };
        let workload = graph.workload(service);
        let explained =
            |of: &Entity| judged.iter().any(|h| h.workload == *of && h.confidence >= worth);
        // What the only one that asks it does wrong shows in the calls as well.
        let by_caller = match &suffering[..] {
            [] => continue,
            [one] => explained(&graph.workload(one)),
            _ => false,
        };
        if by_caller || is_well_for_others || explained(&workload) {
            continue;
        }
        let confidence = if suffering.len() > 1 { w.shared } else { w.alone };
        judged.push(Hypothesis::by_itself(workload, service, pattern, (*onset, confidence)));
    }
}
