//! A service that fails by itself, while nothing that it asks fails as early, is where to look, though nothing says
//! why.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Time};

use super::{
    EFFECT, hypotheses::Hypothesis, suspects::Graph, symptoms::Symptoms, weights::weights,
};
use crate::{story::lasts, streaming::Windows};

/// Of a host outside that so many calls could not reach it is not known whether it fails; nor that it does not.
const REFUSED: u64 = 3;
/// A call that fails begins so long before who made it fails.
const SLACK: Duration = Duration::from_secs(10);

/// Adds each such service of which nothing else is told.
pub fn judge(
    judged: &mut Vec<Hypothesis>,
    failing: &BTreeMap<Entity, Time>,
    (symptoms, windows, graph): (&Symptoms, &Windows, &Graph),
) {
    let (w, worth) = (&weights().failing, weights().judgement.worth);
    for (service, onset) in failing {
        let own = ["error_ratio", "log_errors"].into_iter();
        let Some(active) = own.filter_map(|kind| symptoms.get(kind, service)).next() else {
            continue;
        };
        if !lasts(service, *onset, symptoms) {
            continue;
        }
        let workload = graph.workload(service);
        let explained = judged.iter().any(|h| h.workload == workload && h.confidence >= worth);
        let below = graph.downstream(service);
        let fails =
            |s: &Entity| s != service && failing.get(s).is_some_and(|at| *at <= *onset + EFFECT);
        if explained || below.iter().any(|s| fails(s) || graph.hosts(s).any(fails)) {
            continue;
        }
        let refused = |host| windows.call_errors(host, *onset - SLACK) >= REFUSED;
        if below.iter().any(|s| graph.hosts(s).any(refused)) {
            continue;
        }
        let share = (active.symptom.value - active.symptom.baseline).clamp(0.0, 1.0);
        let confidence = w.deepest + w.deepest_share * share;
        let found =
            Hypothesis::by_itself(workload, service, "service_errors", (*onset, confidence));
        judged.push(Hypothesis { evidence: share, ..found });
    }
}
