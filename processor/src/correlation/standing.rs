//! What was wrong when the cluster was first seen, as hypotheses.
//!
//! What broke later has a change or a state to begin with, and is judged by that. Here is what nobody saw
//! begin: a snapshot of a cluster; and what only Events tell of, where the objects are not seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    rows::State,
    weights::weights,
};
use crate::{
    kubernetes::{Cluster, Finding, Known, Saying, Shown},
    patterns::{Pattern, Patterns},
    story::{Facts, fill},
};

/// Kind of the symptom.
pub const STANDING: &str = "standing";
/// What nobody saw begin began at least so long ago.
const YOUNG: Duration = Duration::from_secs(60);
/// After so long all that there is has been seen once.
const LISTED: Duration = Duration::from_secs(10);

/// What is wrong with the objects now and was so from the beginning.
#[derive(Debug, Default)]
pub struct Standing {
    found: Vec<Finding>,
    /// What was wrong when the cluster had been looked at for the first time, by object and pattern.
    first: Option<BTreeSet<(Entity, String)>>,
    patterns: Patterns,
    known: Vec<Known>,
}

impl Standing {
    /// Holds what is said against these patterns.
    pub fn new(patterns: &Patterns) -> Self {
        let (found, known) = (Vec::new(), Known::of(patterns));
        Standing { found, first: None, patterns: patterns.clone(), known }
    }

    /// Looks at the `end` of a recording that shows nothing but what there is: there all that is wrong counts,
    /// whenever it was told. While a cluster moves its changes and states tell more; where these tell nothing
    /// (`untold`), what was wrong at the first look and still is does.
    pub fn look(
        &mut self,
        (cluster, facts): (&Cluster, &Facts),
        now: Time,
        end: bool,
        untold: bool,
    ) -> Option<&[Finding]> {
        let moves = !cluster.is_snapshot();
        let begun = cluster.began().is_some_and(|began| began + LISTED <= now);
        if !end {
            if self.first.is_none() && begun {
                let found = cluster.standing(&facts.said(Time(i64::MIN)), &self.known, now);
                self.first = Some(found.iter().map(key).collect());
            }
            return None;
        }
        if moves && !untold {
            return None;
        }
        self.found = cluster.standing(&facts.said(Time(i64::MIN)), &self.known, now);
        if moves {
            let first = self.first.take().unwrap_or_default();
            self.found.retain(|found| first.contains(&key(found)));
        }
        for found in &mut self.found {
            found.since = found.since.min(now - YOUNG);
        }
        Some(&self.found)
    }

    /// Adds what was found. It read the objects themselves, with what is past and what is not: of the same
    /// workload it knows better than who only saw that something is wrong and that nothing was changed.
    pub fn join(&self, judged: &mut Vec<Hypothesis>) {
        let below = weights().standing.below;
        for other in judged.iter_mut().filter(|h| h.change.is_none() && h.told.is_none()) {
            let same = self.found.iter().filter(|found| found.workload == other.workload);
            let best = same.map(|found| found.confidence).max_by(f64::total_cmp);
            if let Some(best) = best {
                other.confidence = other.confidence.min(best - below);
            }
        }
        let read = |found| self.hypothesis(found, FROM_THE_BEGINNING);
        judged.extend(self.found.iter().map(read));
    }

    /// Adds why workloads do not run whose objects are not seen, by what Kubernetes says of them.
    pub fn heard(
        &self,
        cluster: &Cluster,
        facts: &Facts,
        states: &[State],
        judged: &mut Vec<Hypothesis>,
    ) {
        let mut unseen: BTreeMap<Entity, (Time, Vec<Saying>)> = BTreeMap::new();
        for state in states.iter().filter(|state| CANNOT_RUN.contains(&state.kind.as_str())) {
            let named = |kind: &str, name: &str| Entity::new(kind, &state.entity_namespace, name);
            let workload = named(&state.workload_kind, &state.workload_name);
            let on = named(&state.entity_kind, &state.entity_name);
            if workload.name.is_empty()
                || [&workload, &on].iter().any(|e| cluster.object(e).is_some())
            {
                continue;
            }
            let (since, all) = unseen.entry(workload).or_insert((state.onset, Vec::new()));
            *since = (*since).min(state.onset);
            all.push(Saying {
                on,
                kind: state.kind.clone(),
                reason: state.reason.clone(),
                message: state.message.clone(),
                container: String::new(),
                time: state.last,
            });
        }
        let Some((first, _)) = unseen.values().min_by_key(|(since, _)| *since) else { return };
        let mut said = facts.said(*first - YOUNG);
        // What is said of its pods is said of it.
        for (workload, (_, all)) in &unseen {
            let mut words = said.remove(workload).unwrap_or_default();
            for own in all {
                words.extend(said.get(&own.on).into_iter().flatten().cloned().chain([own.clone()]));
            }
            words.dedup();
            said.insert(workload.clone(), words);
        }
        let w = &weights().standing;
        for (workload, (since, _)) in &unseen {
            let Some(found) = cluster.unseen(workload, *since, &said, &self.known) else {
                continue;
            };
            let same = judged.iter_mut().filter(|h| h.workload == found.workload);
            for other in same.filter(|h| h.change.is_none() && found.confidence >= w.certain) {
                other.confidence = other.confidence.min(found.confidence - w.below);
            }
            judged.push(self.hypothesis(&found, OBJECTS_UNSEEN));
        }
    }

    fn hypothesis(&self, found: &Finding, reason: &str) -> Hypothesis {
        let told = match self.patterns.get(&found.pattern).filter(|_| found.known) {
            Some(pattern) => by_pattern(found, pattern),
            None => plainly(found),
        };
        let mut shown = found.shown.clone();
        let other = found.object != found.workload && !found.known && !found.effect;
        if other || shown.is_empty() {
            let on = found.object.clone();
            shown.insert(0, Shown { time: found.since, on, what: found.what.clone() });
        }
        Hypothesis {
            cause: found.object.clone(),
            relation: if found.object == found.workload { "self" } else { "uses" }.to_owned(),
            workload: found.workload.clone(),
            service: found.service.clone(),
            pattern: found.pattern.clone(),
            change: None,
            cause_time: found.since,
            effect_time: found.since,
            evidence: 1.0,
            rivals: 0,
            confidence: found.confidence,
            measured: None,
            told: Some(Box::new(Told { reasons: vec![reason.to_owned()], shown, ..told })),
        }
    }
}

fn key(found: &Finding) -> (Entity, String) {
    (found.object.clone(), found.pattern.clone())
}

/// Told in its own words.
fn plainly(found: &Finding) -> Told {
    let title = format!("{} does not work: {}", found.service, found.what);
    let either = |own: &str, other: String| if own.is_empty() { other } else { own.to_owned() };
    Told {
        title: either(&found.title, title),
        mechanism: found.mechanism.clone(),
        what: found.what.clone(),
        advice: found.advice.clone(),
        ..Told::default()
    }
}

/// Told in the words of its pattern, with what was said. Nobody saw a change, so nothing can be put back.
fn by_pattern(found: &Finding, pattern: &Pattern) -> Told {
    let values = BTreeMap::from([
        ("object", found.object.to_string()),
        ("kind", found.object.kind.to_string()),
        ("namespace", found.workload.namespace.to_string()),
        ("name", found.object.name.to_string()),
        ("workload", found.workload.path()),
        ("workload_name", found.workload.name.to_string()),
        ("workload_kind", found.workload.kind.to_lowercase()),
        ("service", found.service.clone()),
    ]);
    let because = match found.mechanism.as_str() {
        "" => String::new(),
        named => format!(", because of {named}"),
    };
    let said = match found.what.as_str() {
        "" => String::new(),
        said => format!(": {said}"),
    };
    let mut advice = found.advice.clone();
    for remedy in pattern.r#do.iter().filter(|remedy| !remedy.run.contains("{undo}")) {
        let (say, run) = (fill(&remedy.say, &values), fill(&remedy.run, &values));
        let say = say.strip_prefix("or ").unwrap_or(&say).to_owned();
        advice.push(if run.is_empty() { say } else { format!("{say}: {run}") });
    }
    if !pattern.prevent.is_empty() {
        advice.push(format!("prevent: {}", fill(&pattern.prevent, &values)));
    }
    let what =
        if found.what.is_empty() { fill(&pattern.title, &values) } else { found.what.clone() };
    Told {
        title: format!("{}{because}{said}", fill(&pattern.title, &values)),
        mechanism: fill(&pattern.mechanism, &values),
        what,
        advice,
        ..Told::default()
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
