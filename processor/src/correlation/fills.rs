//! What will be full soon: told before it is, with the time that is left, and what was changed when it began.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Change, Entity, Event, Severity, Time};

use super::{
    hypotheses::{Hypothesis, Told},
    suspects::Graph,
    weights::weights,
};
use crate::{
    kubernetes::Cluster,
    story::Facts,
    streaming::{Filling, Vessel},
};

/// Kind of the symptom.
pub const FILLING: &str = "filling";
/// It is this full and full within so long, and has grown for so long.
const NEARLY: f64 = 0.8;
const SOON: Duration = Duration::from_secs(600);
const GROWN: Duration = Duration::from_secs(300);
/// What was told, remembered.
const MOST: usize = 10_000;
/// A change so long before the growth, or so soon after what is known of its beginning, may be its reason.
const BEFORE: Duration = Duration::from_secs(300);
const AFTER: Duration = Duration::from_secs(30);

/// Is it time to tell it?
pub fn is_soon(filling: &Filling) -> bool {
    filling.share >= NEARLY && filling.left <= SOON && filling.since + GROWN <= filling.last
}

/// What was told to fill, and since when it does.
#[derive(Debug, Default)]
pub struct Announced(BTreeMap<(Vessel, Entity), Time>);

impl Announced {
    /// Facts of what it is time to tell and was not yet: each growth once.
    pub fn news(&mut self, all: &[Filling], graph: &Graph) -> Vec<Event> {
        let mut news = Vec::new();
        for filling in all.iter().filter(|filling| is_soon(filling)) {
            let on = bearer(filling, graph);
            if self.0.len() >= MOST {
                self.0.clear();
            }
            let known = self.0.insert((filling.vessel, on.clone()), filling.since);
            if known.is_some_and(|since| filling.since <= since + GROWN) {
                continue;
            }
            let of = (&on, Some(&on));
            news.push(Event {
                reason: "fills".to_owned(),
                message: words(filling),
                value: Some(filling.share),
                ..Event::new(("metrics", FILLING), Severity::Warning, of, filling.last)
            });
        }
        news
    }
}

/// The workload, or the node, that fills.
pub fn bearer(filling: &Filling, graph: &Graph) -> Entity {
    match &*filling.on.kind {
        "Service" => graph.workload(&filling.on),
        _ => filling.on.clone(),
    }
}

/// What fills, in words: `memory of container cart is 92 % full, grows by 2.9 % a minute since 02:14:20 and is
/// full in 3 minutes at this rate`.
pub fn words(filling: &Filling) -> String {
    let name = match (filling.vessel, &*filling.name) {
        (_, "") => String::new(),
        (Vessel::Memory, name) => format!(" of container {name}"),
        (_, name) => format!(" {name}"),
    };
    format!(
        "{}{name} is {:.0} % full, grows by {:.1} % a minute since {} and {}",
        filling.vessel.words(),
        filling.share * 100.0,
        filling.a_minute * 100.0,
        filling.since.clock(),
        left(filling)
    )
}

fn left(filling: &Filling) -> String {
    match filling.left.as_secs().div_ceil(60) {
        0 | 1 => "is full within a minute at this rate".to_owned(),
        minutes => format!("is full in {minutes} minutes at this rate"),
    }
}

/// What comes of it.
fn mechanism(vessel: Vessel) -> &'static str {
    match vessel {
        Vessel::Memory => {
            "more and more memory is taken and not given back; at its limit the kernel kills the container"
        }
        Vessel::Volume => "more is written than is deleted; when it is full writes fail",
        Vessel::NodeDisk => {
            "more is written than is deleted; before it is full the kubelet evicts pods"
        }
        Vessel::NodeMemory => {
            "more and more memory is taken on it; before it is full the kubelet evicts pods"
        }
        Vessel::Pool => {
            "connections are held longer or not given back; without a free one requests wait and time out"
        }
        Vessel::Files => "files or connections are opened and not closed; at the limit none can be",
    }
}

/// Why each is about to fail.
pub fn hypotheses(
    all: &[Filling],
    graph: &Graph,
    cluster: &Cluster,
    facts: &Facts,
) -> Vec<Hypothesis> {
    let w = &weights().filling;
    let soon: Vec<&Filling> = all.iter().filter(|filling| is_soon(filling)).collect();
    if soon.is_empty() {
        return Vec::new();
    }
    let carriers = cluster.carriers();
    let told = soon.into_iter().map(|filling| {
        let workload = bearer(filling, graph);
        let upstream = cluster.upstream(&workload, &carriers);
        let bears = |row: &&Change| {
            let on = row.entity();
            let used = |(relation, cause): &(tapio_proto::model::Relation, Entity)| {
                *cause == on && relation.name().starts_with("uses_")
            };
            !row.path.starts_with("metadata.")
                && row.path != "spec.replicas"
                && (on == workload || upstream.iter().any(used))
        };
        let (from, to) = (filling.since - BEFORE, filling.since + AFTER);
        let changed = facts.changes_between(from, to).filter(bears).max_by_key(|row| row.time);
        hypothesis(filling, workload, changed, if changed.is_some() { w.changed } else { w.alone })
    });
    told.collect()
}

fn hypothesis(
    filling: &Filling,
    workload: Entity,
    changed: Option<&Change>,
    confidence: f64,
) -> Hypothesis {
    let what = words(filling);
    let cause = changed.map_or_else(|| workload.clone(), Change::entity);
    let because = changed.map(|_| format!(", because {} {} was changed", cause.kind, cause.name));
    let mut advice = Vec::new();
    let mut reasons = vec![what.clone()];
    match changed {
        Some(row) => {
            reasons.push(format!("it began to grow when {cause} was changed"));
            if !row.undo.is_empty() {
                advice.push(format!("put the change back: {}", row.undo));
            }
        }
        None => reasons.push(
            "nothing that is known to bear on it was changed when it began to grow".to_owned(),
        ),
    }
    advice.push(match filling.vessel {
        Vessel::Memory => format!(
            "buy time by a restart before it is killed: kubectl -n {} rollout restart {}/{}",
            workload.namespace,
            workload.kind.to_lowercase(),
            workload.name
        ),
        Vessel::Volume | Vessel::NodeDisk => {
            "make room on it, or enlarge it, before writes fail".to_owned()
        }
        Vessel::NodeMemory => {
            format!(
                "see who takes it: kubectl top pods -A --sort-by=memory; node {}",
                workload.name
            )
        }
        Vessel::Pool | Vessel::Files => {
            "find what is taken and not given back, and restart it before there is none left"
                .to_owned()
        }
    });
    let subject = match &*workload.kind {
        "Node" => format!("node {}", workload.name),
        _ => workload.path(),
    };
    Hypothesis {
        cause_time: changed.map_or(filling.since, |row| row.time),
        change: changed.map(|row| row.change),
        relation: if cause == workload { "self" } else { "uses_config" }.to_owned(),
        service: workload.name.to_string(),
        pattern: filling.vessel.pattern().to_owned(),
        effect_time: filling.since,
        evidence: 1.0,
        rivals: 0,
        confidence,
        measured: None,
        told: Some(Box::new(Told {
            title: format!(
                "the {} of {subject} {}{}",
                filling.vessel.words(),
                left(filling),
                because.unwrap_or_default()
            ),
            mechanism: mechanism(filling.vessel).to_owned(),
            what,
            change: None,
            reasons,
            advice,
            outside: false,
            ..Told::default()
        })),
        cause,
        workload,
    }
}

/// Memory that was so full just before its container died was the reason, where nobody says another.
pub const KILLED: f64 = 0.9;
/// Just before: it is measured every so often.
pub const JUST_BEFORE: Duration = Duration::from_secs(60);
