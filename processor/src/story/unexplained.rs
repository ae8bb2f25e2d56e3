//! The story of a failure that nothing inside the cluster explains.

use std::time::Duration;

use tapio_proto::model::{Affected, Entity, Evidence, Impact, Story};

use super::{
    assemble::{Failure, Plot, View, blame, round},
    chain::{hex, link},
    dimension::Dimension,
    judgement::unseen,
    words::{failure_words, names, narrative},
};
use crate::correlation::weights::weights;

/// A caller may seem to fail this long before its callee: spans start with the caller, and what is slow
/// counts from the start of its window.
const SLACK: Duration = Duration::from_secs(10);

/// Are hosts outside to blame: did they fail first and not because their callers gave up, and are the objects
/// seen of what could have failed here instead?
fn is_certain(plot: &Plot<'_>, view: &View<'_>) -> bool {
    let graph = view.graph;
    let (hosts, inside): (Vec<_>, Vec<_>) =
        plot.failures.iter().partition(|(s, _)| graph.outside(s).is_some());
    let first = hosts.iter().map(|(_, f)| f.since).min();
    let gave_up = |f: &Failure| f.detail.to_lowercase().contains("cancel");
    hosts.iter().all(|(_, f)| !gave_up(f))
        && inside.iter().all(|(_, f)| first.is_some_and(|first| first <= f.since + SLACK))
        && inside.iter().any(|(s, _)| view.cluster.object(&graph.workload(s)).is_some())
}

/// Nothing inside explains it. Where the failing calls lead to a host outside, that is the answer;
/// elsewhere it is a hypothesis, and a weak one.
pub(super) fn unexplained(plot: &Plot<'_>, view: &View<'_>) -> (Story, Vec<Evidence>) {
    let outside = |s: &Entity| view.graph.outside(s).is_some();
    let mut order: Vec<(&Entity, &Failure)> = plot.failures.iter().collect();
    let users_meet = |s: &Entity| !outside(s) && !view.graph.is_called(s);
    order.sort_by_key(|(s, f)| (!outside(s), users_meet(s), f.since));
    let words: Vec<String> =
        order.iter().map(|(s, f)| failure_words(s, f, !users_meet(s))).collect();
    let hosts = names(order.iter().map(|(s, _)| *s).filter(|s| outside(s)));
    let inside = names(order.iter().map(|(s, _)| *s).filter(|s| !outside(s)));
    let w = &weights().outside;
    let (title, confidence) = match (hosts.is_empty(), inside.is_empty()) {
        (false, false) if !is_certain(plot, view) => (
            format!(
                "Nothing inside the cluster explains why {inside} fails; calls to {hosts} fail as well"
            ),
            w.faint,
        ),
        (false, false) => (
            format!(
                "{inside} cannot do without {hosts}, which is outside the cluster and does not answer as it should"
            ),
            w.certain,
        ),
        (false, true) => (
            format!(
                "calls to {hosts}, of which nothing is known here, fail; nothing else fails with them"
            ),
            w.weak,
        ),
        (true, _) => (format!("Nothing inside the cluster explains why {inside} fails"), w.weak),
    };
    let told = plot.hypotheses.first().and_then(|h| Some((h, h.told.as_deref()?)));
    let (title, confidence) = match told {
        Some((best, told)) => (told.title.clone(), round(best.confidence)),
        None => (title, confidence),
    };
    let recommendation = match hosts.is_empty() {
        _ if told.is_some() => told.map(|(_, told)| told.advice.join("; ")).unwrap_or_default(),
        true => {
            "look at what these services call outside the cluster, and at their own release history"
                .to_owned()
        }
        false => format!(
            "ask whoever runs {hosts}; if it can be done without for a while, switch it off"
        ),
    };
    let chain =
        order.iter().zip(&words).map(|((s, f), w)| link(s, &s.name, w.clone(), f.since)).collect();
    let story = Story {
        id: plot.id.to_owned(),
        state: plot.state(),
        title: title.clone(),
        confidence,
        opened: plot.opened,
        resolved: plot.resolved,
        merged_into: plot.into.map(str::to_owned),
        root_cause: None,
        reason: Some("no_internal_cause".to_owned()),
        hypotheses: plot.hypotheses.iter().skip(1).map(blame).collect(),
        chain,
        affected: Affected {
            services: order
                .iter()
                .filter(|(s, _)| !outside(s))
                .map(|(s, _)| s.name.to_string())
                .collect(),
            pods: Vec::new(),
        },
        impact: Impact::default(),
        kinds: Vec::new(),
        again: None,
        earlier: Vec::new(),
        narrative: narrative(&title, None, &words),
        recommendations: vec![recommendation],
        reasons: match told {
            Some((_, told)) => told.reasons.clone(),
            None => vec![
                "no change, state or resource upstream of them was seen that could bring this about"
                    .to_owned(),
            ],
        },
        doubts: unseen(view),
        ruled_out: Vec::new(),
        incomplete: view.lacks.to_vec(),
    };
    let evidence = order.iter().zip(words).map(|((s, f), what)| Evidence {
        story_id: plot.id.to_owned(),
        time: f.since,
        role: "symptom".to_owned(),
        entity_kind: s.kind.to_string(),
        entity_namespace: s.namespace.to_string(),
        entity_name: s.name.to_string(),
        what,
        times: 1,
        source: "windows".to_owned(),
        dimension: Dimension::Temporal.name().to_owned(),
        trace_id: f.sample.map(|s| hex(&s.trace_id)),
        span_id: f.sample.map(|s| hex(&s.span_id)),
    });
    (story, evidence.collect())
}
