//! What is wrong with the objects as they stand, as hypotheses.
//!
//! What breaks while somebody looks has a change or a state to begin with, and is judged by that. Here is what
//! nobody saw begin: a snapshot of a cluster; what only Events tell of, where the objects are not seen; and, where
//! no requests are seen, what came to be wrong without anything that is seen to fail of it.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Change, Entity, Time};

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
/// Time from one look at a cluster that moves to the next.
const PAUSE: Duration = Duration::from_secs(30);
/// What came to be wrong so long ago and still is was no passing state.
const LASTS: Duration = Duration::from_secs(60);

/// What is wrong with the objects now.
#[derive(Debug, Default)]
pub struct Standing {
    found: Vec<Finding>,
    /// What was wrong at each look so far, by object and pattern, and the first look that saw it.
    seen: BTreeMap<(Entity, String), Time>,
    /// The first look and the last.
    looks: Option<(Time, Time)>,
    patterns: Patterns,
    known: Vec<Known>,
}

impl Standing {
    /// Holds what is said against these patterns.
    pub fn new(patterns: &Patterns) -> Self {
        let (found, known) = (Vec::new(), Known::of(patterns));
        Standing { found, patterns: patterns.clone(), known, ..Standing::default() }
    }

    /// Looks at the `end` of a recording that shows nothing but what there is: there all that is wrong counts,
    /// whenever it was told. While a cluster moves its changes and states tell more; where these tell nothing
    /// (`untold`), what has been wrong for long does, and it is looked at every now and then.
    pub fn look(
        &mut self,
        (cluster, facts): (&Cluster, &Facts),
        now: Time,
        end: bool,
        untold: bool,
    ) -> Option<&[Finding]> {
        let moves = !cluster.is_snapshot();
        let begun = cluster.began().is_some_and(|began| began + LISTED <= now);
        let due = begun && self.looks.is_none_or(|(_, last)| last + PAUSE <= now);
        if moves && !untold || !end && !due {
            return None;
        }
        let found = cluster.standing(&facts.said(Time(i64::MIN)), &self.known, now);
        let (first, _) = *self.looks.get_or_insert((now, now));
        self.looks = Some((first, now));
        // What does not move has been so since before.
        let new = if moves { now } else { first };
        let before = std::mem::take(&mut self.seen);
        let since = |found: &Finding| before.get(&key(found)).copied().unwrap_or(new);
        self.seen = found.iter().map(|found| (key(found), since(found))).collect();
        if !end {
            return None;
        }
        let lasting = found.into_iter().filter_map(|mut found| {
            let arose = *self.seen.get(&key(&found))?;
            found.since = if arose > first { arose } else { found.since.min(now - YOUNG) };
            (arose <= first.max(now - LASTS)).then_some(found)
        });
        self.found = lasting.collect();
        Some(&self.found)
    }

    /// Since when it is wrong, where it was not at the first look.
    fn arose(&self, found: &Finding) -> Option<Time> {
        let (first, _) = self.looks?;
        self.seen.get(&key(found)).copied().filter(|arose| *arose > first)
    }

    /// The last change of what is wrong before it was first seen to be wrong, where it was not from the beginning.
    fn changed<'a>(&self, found: &Finding, facts: &'a Facts) -> Option<&'a Change> {
        let arose = self.arose(found)?;
        let of_it = facts.changes_between(arose - PAUSE - PAUSE, arose);
        of_it.filter(|change| change.entity() == found.object).last()
    }

    /// Adds what was found. It read the objects themselves, with what is past and what is not: of the same
    /// workload it knows better than who only saw that something is wrong and that nothing was changed.
    pub fn join(&self, judged: &mut Vec<Hypothesis>, facts: &Facts) {
        let below = weights().standing.below;
        for other in judged.iter_mut().filter(|h| h.change.is_none() && h.told.is_none()) {
            let same = self.found.iter().filter(|found| found.workload == other.workload);
            let best = same.map(|found| found.confidence).max_by(f64::total_cmp);
            if let Some(best) = best {
                other.confidence = other.confidence.min(best - below);
            }
        }
        judged.extend(self.found.iter().map(|found| {
            let arose = self.arose(found).is_some();
            let reason = if arose { NOTHING_FAILS } else { FROM_THE_BEGINNING };
            self.hypothesis(found, self.changed(found, facts), reason)
        }));
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
            judged.push(self.hypothesis(&found, None, OBJECTS_UNSEEN));
        }
    }

    fn hypothesis(&self, found: &Finding, change: Option<&Change>, reason: &str) -> Hypothesis {
        let mut told = match self.patterns.get(&found.pattern).filter(|_| found.known) {
            Some(pattern) => by_pattern(found, pattern),
            None => plainly(found),
        };
        let undo = change.map(|change| &change.undo).filter(|undo| !undo.is_empty());
        told.advice.splice(0..0, undo.map(|undo| format!("put it back: {undo}")));
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
            change: change.map(|change| change.change),
            cause_time: change.map_or(found.since, |change| change.time),
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
const NOTHING_FAILS: &str =
    "it came to be so while it was looked at, and nothing that is seen fails of it";
const OBJECTS_UNSEEN: &str =
    "Kubernetes says so in its events; the objects are not seen, so who changed what is not known";
