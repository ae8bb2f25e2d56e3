//! Tells one incident: title, chain, impact, reasons, what to do, and the evidence for each line.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{
    Affected, ChainLink, Change, Entity, Event, Evidence, Hypothesis as Blame, RootCause, Story,
    StoryState, Time,
};

use super::{facts::Facts, group::front, words};
use crate::{
    correlation::{hypotheses::Hypothesis, suspects::Graph, symptoms::Symptoms},
    kubernetes::Cluster,
    patterns::{Pattern, Patterns},
    streaming::{Sample, Windows},
};

/// Clock of a field manager has whole seconds; a first effect may seem to come before its cause.
const SLACK: Duration = Duration::from_secs(2);

/// Confidence that a host outside is to blame when calls to it fail and nothing inside explains it.
const OUTSIDE: f64 = 0.7;
/// Confidence in a story that blames nothing.
const WEAK: f64 = 0.3;

/// All that a story is told from.
pub struct View<'a> {
    /// Event time.
    pub now: Time,
    /// The objects.
    pub cluster: &'a Cluster,
    /// The spans' windows.
    pub windows: &'a Windows,
    /// What is wrong now.
    pub symptoms: &'a Symptoms,
    /// Who calls whom.
    pub graph: &'a Graph,
    /// The catalogue.
    pub patterns: &'a Patterns,
    /// Events and changes of late.
    pub facts: &'a Facts,
    /// Signals that have been seen at all: `traces`, `logs`, `metrics`, `kubernetes`, `kernel`.
    pub sighted: &'a BTreeSet<&'static str>,
}

/// What is known of a failing service over the life of its story.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// First failing span, or onset of the slow-down.
    pub since: Time,
    /// Start of the last window in which it failed.
    pub until: Time,
    /// `error_ratio`, `latency` or `call_errors`.
    pub kind: String,
    /// Value before.
    pub baseline: f64,
    /// Worst value.
    pub worst: f64,
    /// What its callers see.
    pub detail: String,
    /// One of the operator's own spans that shows it.
    pub sample: Option<Sample>,
}

/// What a story is told of.
pub(super) struct Plot<'a> {
    /// Id of the story.
    pub id: &'a str,
    /// When it was first told.
    pub opened: Time,
    /// When it ended.
    pub resolved: Option<Time>,
    /// What explains it, best first.
    pub hypotheses: &'a [Hypothesis],
    /// The same explanation on other workloads.
    pub siblings: &'a BTreeMap<Entity, Hypothesis>,
    /// The services that fail.
    pub failures: &'a BTreeMap<Entity, Failure>,
    /// Last time anything of it was wrong.
    pub last_bad: Time,
}

/// A story and the evidence it stands on.
pub(super) fn assemble(plot: &Plot<'_>, view: &View<'_>) -> (Story, Vec<Evidence>) {
    match plot.hypotheses.first() {
        Some(best) => Teller { plot, view, best }.tell(),
        None => unexplained(plot, view),
    }
}

struct Teller<'a> {
    plot: &'a Plot<'a>,
    view: &'a View<'a>,
    best: &'a Hypothesis,
}

impl Teller<'_> {
    fn tell(&self) -> (Story, Vec<Evidence>) {
        let rows =
            self.best.change.map(|change| self.view.facts.rows_of(change)).unwrap_or_default();
        let pattern = self.view.patterns.get(&self.best.pattern).map(|p| p.as_ref());
        let values = self.values(&rows);
        let events = self.events();
        let evidence = self.evidence(&rows, &events);
        let chain = self.chain(&rows, &events);
        let order = self.order();
        let change = (!rows.is_empty()).then(|| words::change(&rows));
        let title = self.title(pattern, &values, change.as_deref());
        let impact = self.impact(&order);
        let mechanism = pattern.map(|p| words::fill(&p.mechanism, &values));
        let story = Story {
            id: self.plot.id.to_owned(),
            state: if self.plot.resolved.is_some() {
                StoryState::Resolved
            } else {
                StoryState::Open
            },
            title: title.clone(),
            confidence: round(self.best.confidence),
            opened: self.plot.opened,
            resolved: self.plot.resolved,
            root_cause: Some(RootCause {
                kind: self.best.cause.kind.to_string(),
                namespace: self.best.cause.namespace.to_string(),
                name: self.best.cause.name.to_string(),
                service: self.cause_service(),
                pattern: self.best.pattern.clone(),
                time: self.best.cause_time,
                change: change.clone(),
                r#where: None,
            }),
            reason: None,
            hypotheses: self.plot.hypotheses.iter().map(blame).collect(),
            narrative: narrative(&title, mechanism.as_deref(), &impact),
            chain,
            affected: self.affected(&order, &events),
            recommendations: recommendations(pattern, &values),
            reasons: self.reasons(pattern, mechanism, &order),
            doubts: self.doubts(),
            ruled_out: self.ruled_out(&order),
        };
        (story, evidence)
    }

    fn events(&self) -> Vec<&Event> {
        let until = self.plot.resolved.unwrap_or(self.view.now);
        let all = self.view.facts.around(
            &self.best.workload,
            &self.best.service,
            self.best.cause_time - SLACK,
            until,
        );
        // A container that comes up anew says what it always says at its start: new lines tell something
        // only while the cause works on the container that runs, up to its first death.
        let died = all.iter().find(|e| e.r#type == "container.terminated").map(|e| e.time);
        let anew = self.best.cause == self.best.workload;
        let tells = |e: &&Event| match e.r#type.as_str() {
            "log.new" => !anew && died.is_none_or(|died| e.time < died),
            // The Deployment repeats what its pods and its Service say.
            "deployment.unavailable" => false,
            _ => e.severity != "info",
        };
        all.into_iter().filter(tells).collect()
    }

    /// Failing services in the order in which the failure travels: near the cause first.
    fn order(&self) -> Vec<(Entity, &Failure)> {
        let reach = self.view.graph.upstream(&front(self.best));
        let near = |service: &Entity| reach.iter().position(|s| s == service).unwrap_or(usize::MAX);
        let mut order: Vec<_> = self.plot.failures.iter().map(|(s, f)| (s.clone(), f)).collect();
        // A caller that users meet comes last however near it is.
        order
            .sort_by_key(|(s, f)| (!self.view.graph.is_called(s) && near(s) > 0, near(s), f.since));
        order
    }

    fn values(&self, rows: &[&Change]) -> BTreeMap<&'static str, String> {
        let cause = &self.best.cause;
        let first = rows.first();
        BTreeMap::from([
            ("object", cause.to_string()),
            ("kind", cause.kind.to_string()),
            ("namespace", self.best.workload.namespace.to_string()),
            ("name", cause.name.to_string()),
            ("workload", self.best.workload.path()),
            ("workload_name", self.best.workload.name.to_string()),
            ("workload_kind", self.best.workload.kind.to_lowercase()),
            ("service", self.best.service.clone()),
            ("change", words::change(rows)),
            ("path", first.map(|r| r.path.clone()).unwrap_or_default()),
            ("old", first.and_then(|r| r.old.clone()).unwrap_or_default()),
            ("new", first.and_then(|r| r.new.clone()).unwrap_or_default()),
            ("undo", first.map(|r| r.undo.clone()).unwrap_or_default()),
        ])
    }

    fn title(
        &self,
        pattern: Option<&Pattern>,
        values: &BTreeMap<&'static str, String>,
        change: Option<&str>,
    ) -> String {
        let effect = match pattern {
            Some(pattern) => words::fill(&pattern.title, values),
            None => format!("{} fails", self.best.workload.path()),
        };
        let cause = &self.best.cause;
        match change {
            Some("deleted") => {
                format!("{effect}, because {} {} was deleted", cause.kind, cause.name)
            }
            Some(_) => format!("{effect}, because {} {} was changed", cause.kind, cause.name),
            None if *cause != self.best.workload => {
                format!("{effect}, because of {} {}", cause.kind, cause.name)
            }
            None => effect,
        }
    }

    fn evidence(&self, rows: &[&Change], events: &[&Event]) -> Vec<Evidence> {
        let mut all = Vec::new();
        let mut add = |time: Time,
                       role: &str,
                       on: &Entity,
                       (what, times): (String, usize),
                       source: &str,
                       sample: Option<Sample>| {
            all.push(Evidence {
                story_id: self.plot.id.to_owned(),
                time,
                role: role.to_owned(),
                entity_kind: on.kind.to_string(),
                entity_namespace: on.namespace.to_string(),
                entity_name: on.name.to_string(),
                what,
                times: i64::try_from(times).unwrap_or(i64::MAX),
                source: source.to_owned(),
                trace_id: sample.map(|s| hex(&s.trace_id)),
                span_id: sample.map(|s| hex(&s.span_id)),
            });
        };
        if let Some(first) = rows.first() {
            let by =
                if first.actor.is_empty() { String::new() } else { format!(" by {}", first.actor) };
            let what = format!("{} {}{by}: {}", self.best.cause, first.verb, words::change(rows));
            add(self.best.cause_time, "cause", &self.best.cause, (what, 1), "changes", None);
        }
        for line in words::lines(events) {
            let on = line.first.entity();
            add(line.first.time, "effect", &on, (line.words(), line.times), "events", None);
        }
        for sibling in self.siblings() {
            if let Some((what, time)) = self.out_of_service(sibling) {
                add(time, "effect", &front(sibling), (what, 1), "events", None);
            }
        }
        for (service, failure) in self.order() {
            add(
                failure.since,
                "symptom",
                &service,
                (self.failure_words(&service, failure), 1),
                "windows",
                failure.sample,
            );
        }
        all.sort_by_key(|a| (a.time, role_rank(&a.role)));
        all
    }

    fn chain(&self, rows: &[&Change], events: &[&Event]) -> Vec<ChainLink> {
        let best = self.best;
        let service = best.service.clone();
        let own = best.cause == best.workload;
        let what = match rows.is_empty() {
            false => words::change(rows),
            true if own => self
                .view
                .patterns
                .get(&best.pattern)
                .map(|p| p.catalogue.clone())
                .unwrap_or_default(),
            true => {
                words::lines(&self.cause_events()).first().map(|l| l.words()).unwrap_or_default()
            }
        };
        let mut chain = Vec::new();
        if !(own && rows.is_empty()) {
            chain.push(link(&best.cause, if own { &service } else { "" }, what, best.cause_time));
        }
        let lines = words::lines(events);
        if !own && let Some(first) = lines.first() {
            chain.push(link(&best.workload, &service, first.words(), first.first.time));
        }
        let mechanism = |l: &&words::Line<'_>| {
            matches!(
                l.first.r#type.as_str(),
                "container.terminated" | "container.waiting" | "pod.unschedulable" | "probe.failed"
            )
        };
        for line in lines.iter().filter(mechanism).take(3) {
            let e = line.first;
            let on = if e.container.is_empty() {
                e.entity()
            } else {
                Entity::new("Container", &e.entity_namespace, &e.container)
            };
            chain.push(link(&on, &service, line.counted(), e.time));
        }
        if let Some(line) = lines.iter().find(|l| l.first.r#type == "endpoints.empty") {
            chain.push(link(&front(best), &service, line.counted(), line.first.time));
        }
        for sibling in self.siblings() {
            if let Some((words, time)) = self.out_of_service(sibling) {
                chain.push(link(&front(sibling), &sibling.service, words, time));
            }
        }
        for (s, failure) in self.order() {
            chain.push(link(&s, &s.name, self.failure_words(&s, failure), failure.since));
        }
        chain
    }

    /// Workloads that fail for the same reason, those that users meet last.
    fn siblings(&self) -> Vec<&Hypothesis> {
        let mut siblings: Vec<&Hypothesis> = self.plot.siblings.values().collect();
        siblings.sort_by_key(|h| {
            (!self.view.graph.is_called(&front(h)), h.effect_time, h.workload.clone())
        });
        siblings
    }

    /// That a sibling's Service was left without endpoints, and when.
    fn out_of_service(&self, sibling: &Hypothesis) -> Option<(String, Time)> {
        let until = self.plot.resolved.unwrap_or(self.view.now);
        let around = self.view.facts.around(
            &sibling.workload,
            &sibling.service,
            sibling.cause_time - SLACK,
            until,
        );
        let empty: Vec<&Event> =
            around.into_iter().filter(|e| e.r#type == "endpoints.empty").collect();
        words::lines(&empty).first().map(|line| (line.counted(), line.first.time))
    }

    /// The service that the cause belongs to: of a resolver the resolver's, else the one where it shows.
    fn cause_service(&self) -> String {
        let resolver =
            (self.best.relation == "resolves").then(|| self.view.cluster.resolver()).flatten();
        resolver.map_or_else(
            || self.best.service.clone(),
            |dns| self.view.graph.service(&dns).name.to_string(),
        )
    }

    fn cause_events(&self) -> Vec<&Event> {
        let cause = &self.best.cause;
        self.view.facts.around(
            cause,
            &cause.name,
            self.best.cause_time - SLACK,
            self.best.cause_time + SLACK,
        )
    }

    fn failure_words(&self, service: &Entity, failure: &Failure) -> String {
        failure_words(
            service,
            failure,
            self.view,
            self.plot.last_bad,
            self.view.graph.is_called(service),
        )
    }

    /// The services that users meet: failing ones that nothing inside calls.
    fn impact(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let entry = order.iter().filter(|(s, _)| !self.view.graph.is_called(s));
        entry.map(|(s, failure)| self.failure_words(s, failure)).collect()
    }

    fn affected(&self, order: &[(Entity, &Failure)], events: &[&Event]) -> Affected {
        let mut services = Vec::new();
        if !order.is_empty() || events.iter().any(|e| e.r#type == "endpoints.empty") {
            services.push(self.best.service.clone());
        }
        let siblings = self.siblings().into_iter().filter(|s| self.out_of_service(s).is_some());
        services.extend(siblings.map(|s| s.service.clone()));
        for (service, _) in order {
            if !services.iter().any(|known| **known == *service.name) {
                services.push(service.name.to_string());
            }
        }
        let pods = events.iter().filter(|e| e.entity_kind == "Pod").map(|e| e.entity_name.clone());
        Affected { services, pods: pods.collect::<BTreeSet<_>>().into_iter().collect() }
    }

    fn reasons(
        &self,
        pattern: Option<&Pattern>,
        mechanism: Option<String>,
        order: &[(Entity, &Failure)],
    ) -> Vec<String> {
        let mut reasons = Vec::new();
        if let (Some(_), Some(mechanism)) = (pattern, mechanism) {
            reasons.push(format!("mechanism: {mechanism}"));
        }
        let lag = self.best.effect_time.seconds_since(self.best.cause_time);
        if self.best.change.is_some() {
            reasons.push(format!("the first effect came {} after the change", words::lasting(lag)));
        }
        if self.best.rivals == 0 && self.best.change.is_some() {
            reasons.push(format!(
                "nothing else that {} depends on was changed",
                self.best.workload.name
            ));
        }
        let failing: BTreeSet<&Entity> = order.iter().map(|(s, _)| s).collect();
        let callers: Vec<&Entity> = self.view.graph.callers(&front(self.best)).collect();
        if !callers.is_empty() && callers.iter().all(|c| failing.contains(c)) {
            reasons.push(format!(
                "every caller of {} fails: {}",
                self.best.service,
                names(callers.into_iter())
            ));
        }
        reasons
    }

    fn doubts(&self) -> Vec<String> {
        let mut doubts = unseen(self.view);
        if self.best.rivals > 0 {
            doubts.push(format!(
                "{} other change(s) upstream of {} in the same time",
                self.best.rivals, self.best.workload.name
            ));
        }
        if self.best.pattern.is_empty() {
            doubts.push("no known mechanism leads from this change to this failure; it is only near in time and upstream".to_owned());
        }
        doubts
    }

    fn ruled_out(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let mut out = Vec::new();
        let failing: BTreeSet<&Entity> = order.iter().map(|(s, _)| s).collect();
        let root = front(self.best);
        let mut well = BTreeSet::new();
        for (s, _) in order {
            well.extend(
                self.view.graph.callees(s).filter(|c| !failing.contains(c) && **c != root).cloned(),
            );
        }
        if !well.is_empty() {
            out.push(format!(
                "{}: no errors of their own beyond what is usual",
                names(well.iter())
            ));
        }
        let from = self.best.cause_time - Duration::from_secs(1800);
        let mut others = BTreeSet::new();
        for row in self.view.facts.changes_between(from, self.plot.last_bad) {
            if Some(row.change) != self.best.change && row.entity() != self.best.cause {
                others.insert(row.entity());
            }
        }
        out.extend(others.iter().take(3).map(|o| format!("the change of {o}: nothing that fails depends on it, or no known mechanism leads from it to this failure")));
        out
    }
}

/// Signals that a story could not look at.
fn unseen(view: &View<'_>) -> Vec<String> {
    let all = ["traces", "logs", "metrics", "kubernetes", "kernel"].into_iter();
    let unseen: Vec<&str> = all.filter(|signal| !view.sighted.contains(signal)).collect();
    if unseen.is_empty() { Vec::new() } else { vec![format!("not seen: {}", unseen.join(", "))] }
}

/// Nothing inside explains it. Where the failing calls lead to a host outside, that is the answer;
/// elsewhere it is a hypothesis, and a weak one.
fn unexplained(plot: &Plot<'_>, view: &View<'_>) -> (Story, Vec<Evidence>) {
    let outside = |s: &Entity| view.graph.outside(s).is_some();
    let mut order: Vec<(&Entity, &Failure)> = plot.failures.iter().collect();
    let users_meet = |s: &Entity| !outside(s) && !view.graph.is_called(s);
    order.sort_by_key(|(s, f)| (!outside(s), users_meet(s), f.since));
    let words: Vec<String> = order
        .iter()
        .map(|(s, f)| failure_words(s, f, view, plot.last_bad, !users_meet(s)))
        .collect();
    let hosts = names(order.iter().map(|(s, _)| *s).filter(|s| outside(s)));
    let inside = names(order.iter().map(|(s, _)| *s).filter(|s| !outside(s)));
    let (title, confidence) = match (hosts.is_empty(), inside.is_empty()) {
        (false, false) => (
            format!(
                "{inside} cannot do without {hosts}, which is outside the cluster and does not answer as it should"
            ),
            OUTSIDE,
        ),
        (false, true) => (
            format!("calls to {hosts}, outside the cluster, fail; nothing inside fails with them"),
            WEAK,
        ),
        (true, _) => (format!("Nothing inside the cluster explains why {inside} fails"), WEAK),
    };
    let recommendation = match hosts.is_empty() {
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
        state: if plot.resolved.is_some() { StoryState::Resolved } else { StoryState::Open },
        title: title.clone(),
        confidence,
        opened: plot.opened,
        resolved: plot.resolved,
        root_cause: None,
        reason: Some("no_internal_cause".to_owned()),
        hypotheses: Vec::new(),
        chain,
        affected: Affected {
            services: order
                .iter()
                .filter(|(s, _)| !outside(s))
                .map(|(s, _)| s.name.to_string())
                .collect(),
            pods: Vec::new(),
        },
        narrative: narrative(&title, None, &words),
        recommendations: vec![recommendation],
        reasons: vec![
            "no change, state or resource upstream of them was seen that could bring this about"
                .to_owned(),
        ],
        doubts: unseen(view),
        ruled_out: Vec::new(),
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
        trace_id: f.sample.map(|s| hex(&s.trace_id)),
        span_id: f.sample.map(|s| hex(&s.span_id)),
    });
    (story, evidence.collect())
}

fn failure_words(
    service: &Entity,
    failure: &Failure,
    view: &View<'_>,
    until: Time,
    inner: bool,
) -> String {
    let who = if inner { service.name.to_string() } else { format!("users of {}", service.name) };
    if failure.kind == "latency" {
        return format!(
            "{who} wait: {:.0} ms in the median, was {:.0} ms",
            failure.worst, failure.baseline
        );
    }
    let served = view.windows.served(&service.namespace, &service.name, failure.since, until);
    let total: u64 = served.iter().map(|s| s.1).sum();
    let failed: u64 = served.iter().map(|s| s.2).sum();
    if failed == 0 {
        let seen = if failure.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", words::short(&failure.detail, 70))
        };
        return format!("calls to {} fail{seen}", service.name);
    }
    let operations: Vec<&str> =
        served.iter().filter(|s| s.2 * 10 >= failed).map(|s| &*s.0).take(3).collect();
    format!(
        "{who}: {} of requests fail ({} of {}), was {}; {}",
        words::percent(failed as f64 / total.max(1) as f64),
        words::count(failed),
        words::count(total),
        words::percent(failure.baseline),
        operations.join(", ")
    )
}

fn narrative(title: &str, mechanism: Option<&str>, impact: &[String]) -> String {
    let mut text = format!("{title}.");
    if let Some(mechanism) = mechanism {
        let mut first = mechanism.chars();
        if let Some(c) = first.next() {
            text.push(' ');
            text.extend(c.to_uppercase());
            text.push_str(first.as_str());
            text.push('.');
        }
    }
    for line in impact {
        text.push_str(&format!(" Impact: {line}."));
    }
    text
}

fn recommendations(
    pattern: Option<&Pattern>,
    values: &BTreeMap<&'static str, String>,
) -> Vec<String> {
    let Some(pattern) = pattern else {
        let undo = values.get("undo").map(String::as_str).unwrap_or_default();
        return if undo.is_empty() {
            Vec::new()
        } else {
            vec![format!("if nothing else explains it, undo the change: {undo}")]
        };
    };
    let mut out: Vec<String> = Vec::new();
    for remedy in &pattern.r#do {
        let (say, run) = (words::fill(&remedy.say, values), words::fill(&remedy.run, values));
        out.push(if run.is_empty() { say } else { format!("{say}: {run}") });
    }
    if !pattern.prevent.is_empty() {
        out.push(format!("prevent: {}", words::fill(&pattern.prevent, values)));
    }
    out
}

fn blame(h: &Hypothesis) -> Blame {
    Blame {
        kind: h.cause.kind.to_string(),
        namespace: h.cause.namespace.to_string(),
        name: h.cause.name.to_string(),
        service: h.service.clone(),
        pattern: h.pattern.clone(),
        confidence: round(h.confidence),
        r#where: None,
    }
}

fn link(on: &Entity, service: &str, what: String, time: Time) -> ChainLink {
    ChainLink {
        kind: on.kind.to_string(),
        namespace: on.namespace.to_string(),
        name: on.name.to_string(),
        service: service.to_owned(),
        what,
        time,
    }
}

fn names<'a>(entities: impl Iterator<Item = &'a Entity>) -> String {
    let all: Vec<&str> = entities.map(|e| &*e.name).collect();
    match all.len() {
        0..=4 => all.join(", "),
        n => format!("{} and {} more", all[..4].join(", "), n - 4),
    }
}

fn role_rank(role: &str) -> u8 {
    match role {
        "cause" => 0,
        "effect" => 1,
        _ => 2,
    }
}

fn round(confidence: f64) -> f64 {
    (confidence * 100.0).round() / 100.0
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
