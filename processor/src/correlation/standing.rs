//! What was wrong when the cluster was first seen, as hypotheses.
//!
//! What broke later has a change or a state to begin with, and is judged by that. Here is what nobody saw
//! begin: a snapshot of a cluster; and what only Events tell of, where the objects are not seen.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    rows::State,
    weights::weights,
};
use crate::{
    kubernetes::{Cluster, Finding},
    story::Facts,
};

/// Kind of the symptom.
pub const STANDING: &str = "standing";
/// What nobody saw begin began at least so long ago.
const YOUNG: Duration = Duration::from_secs(60);

/// What is wrong with the objects now and was so from the beginning.
#[derive(Debug, Default)]
pub struct Standing {
    found: Vec<Finding>,
}

impl Standing {
    /// Looks at the `end` of a recording that shows nothing but what there is: there all that is wrong counts,
    /// whenever it was told. While a cluster moves its changes and states tell more.
    pub fn look(
        &mut self,
        cluster: &Cluster,
        facts: &Facts,
        now: Time,
        end: bool,
    ) -> Option<&[Finding]> {
        if !end || !cluster.is_snapshot() {
            return None;
        }
        self.found = cluster.standing(&facts.said(Time(i64::MIN)), now);
        for found in &mut self.found {
            found.since = found.since.min(now - YOUNG);
        }
        Some(&self.found)
    }

    /// Adds what was found. It read the objects themselves: of the same workload it knows better than who
    /// only saw that something is wrong and that nothing was changed.
    pub fn join(&self, judged: &mut Vec<Hypothesis>) {
        let w = &weights().standing;
        for found in self.found.iter().filter(|found| found.confidence >= w.certain) {
            let same = judged.iter_mut().filter(|h| h.workload == found.workload);
            for other in same.filter(|h| h.change.is_none() && h.told.is_none()) {
                other.confidence = other.confidence.min(found.confidence - w.below);
            }
        }
        judged.extend(self.found.iter().map(|found| hypothesis(found, FROM_THE_BEGINNING)));
    }
}

/// Adds why workloads do not run whose objects are not seen, by what Kubernetes says of them.
pub fn heard(cluster: &Cluster, facts: &Facts, states: &[State], judged: &mut Vec<Hypothesis>) {
    let mut unseen: BTreeMap<Entity, (Time, Vec<(Entity, String)>)> = BTreeMap::new();
    for state in states.iter().filter(|state| CANNOT_RUN.contains(&state.kind.as_str())) {
        let named = |kind: &str, name: &str| Entity::new(kind, &state.entity_namespace, name);
        let workload = named(&state.workload_kind, &state.workload_name);
        let on = named(&state.entity_kind, &state.entity_name);
        if workload.name.is_empty() || [&workload, &on].iter().any(|e| cluster.object(e).is_some())
        {
            continue;
        }
        let (since, all) = unseen.entry(workload).or_insert((state.onset, Vec::new()));
        *since = (*since).min(state.onset);
        all.push((on, format!("{}: {}", state.reason, state.message)));
    }
    let Some((first, _)) = unseen.values().min_by_key(|(since, _)| *since) else { return };
    let mut said = facts.said(*first - YOUNG);
    // What is said of its pods is said of it.
    for (workload, (_, all)) in &unseen {
        let mut words = said.remove(workload).unwrap_or_default();
        for (on, own) in all {
            words.extend(said.get(on).into_iter().flatten().cloned().chain([own.clone()]));
        }
        words.dedup();
        said.insert(workload.clone(), words);
    }
    let w = &weights().standing;
    for (workload, (since, _)) in &unseen {
        let Some(found) = cluster.unseen(workload, *since, &said) else { continue };
        let same = judged.iter_mut().filter(|h| h.workload == found.workload);
        for other in same.filter(|h| h.change.is_none() && found.confidence >= w.certain) {
            other.confidence = other.confidence.min(found.confidence - w.below);
        }
        judged.push(hypothesis(&found, OBJECTS_UNSEEN));
    }
}

/// States in which a workload does not run.
const CANNOT_RUN: [&str; 4] =
    ["container.waiting", "pod.unschedulable", "pod.evicted", "deployment.replica_failure"];
/// Why a finding says nothing of who is to blame for it.
const FROM_THE_BEGINNING: &str =
    "it was so when the cluster was first seen; who changed what before is not known";
const OBJECTS_UNSEEN: &str =
    "Kubernetes says so in its events; the objects are not seen, so who changed what is not known";

fn hypothesis(found: &Finding, reason: &str) -> Hypothesis {
    Hypothesis {
        cause: found.object.clone(),
        relation: if found.object == found.workload { "self" } else { "uses" }.to_owned(),
        workload: found.workload.clone(),
        service: found.service.clone(),
        pattern: found.pattern.to_owned(),
        change: None,
        cause_time: found.since,
        effect_time: found.since,
        evidence: 1.0,
        rivals: 0,
        confidence: found.confidence,
        measured: None,
        told: Some(Box::new(Told {
            title: format!("{} does not work: {}", found.service, found.what),
            mechanism: found.what.clone(),
            what: found.what.clone(),
            change: None,
            reasons: vec![reason.to_owned()],
            advice: vec![found.advice.clone()],
            outside: false,
        })),
    }
}
