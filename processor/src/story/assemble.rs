//! Tells one incident: title, who is affected, what to do; [`chain`](super::chain) has the links and their
//! evidence, [`judgement`](super::judgement) what speaks for and against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::{
    Affected, Change, Entity, Event, Evidence, Hypothesis as Blame, Impact, RootCause, Story,
    StoryKind, StoryState, Time,
};

use super::{
    facts::Facts,
    group::front,
    impact::{self, Importance, Promise},
    unexplained::unexplained,
    words::{self, failure_words, narrative},
};
use crate::{
    correlation::{
        hypotheses::Hypothesis,
        suspects::Graph,
        symptoms::{SILENCE, Symptoms},
        weights::weights,
    },
    kubernetes::Cluster,
    patterns::{Pattern, Patterns},
    streaming::{Count, Sample, Windows},
};

/// Clock of a field manager has whole seconds; a first effect may seem to come before its cause.
pub(super) const SLACK: Duration = Duration::from_secs(2);
/// Services through which a failure travels before it is a cascade.
const CASCADES: usize = 2;

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
    /// What the pass had to do without, in words.
    pub lacks: &'a [String],
    /// What services promise, and what they are worth.
    pub importance: &'a Importance,
}

/// What is known of a failing service over the life of its story.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// First failing span, or onset of the slow-down.
    pub since: Time,
    /// How far from that it may have begun, s.
    pub within: Option<f64>,
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
    /// How requests went since it fails.
    pub count: Count,
    /// What it promises, and when that was asked.
    pub promise: Option<(Time, Promise)>,
}

/// What a story is told of.
pub(super) struct Plot<'a> {
    /// Id of the story.
    pub id: &'a str,
    /// When it was first told.
    pub opened: Time,
    /// When it ended.
    pub resolved: Option<Time>,
    /// The story that took it up, if it ended by that.
    pub into: Option<&'a str>,
    /// What explains it, best first.
    pub hypotheses: &'a [Hypothesis],
    /// The same explanation on other workloads.
    pub siblings: &'a BTreeMap<Entity, Hypothesis>,
    /// The services that fail.
    pub failures: &'a BTreeMap<Entity, Failure>,
    /// Last time anything of it was wrong.
    pub last_bad: Time,
}

impl Plot<'_> {
    /// How the story stands.
    pub(super) fn state(&self) -> StoryState {
        match (self.resolved, self.into) {
            (None, _) => StoryState::Open,
            (Some(_), None) => StoryState::Resolved,
            (Some(_), Some(_)) => StoryState::Merged,
        }
    }
}

/// A story and the evidence it stands on.
pub(super) fn assemble(plot: &Plot<'_>, view: &View<'_>) -> (Story, Vec<Evidence>) {
    let (mut story, evidence) = match plot.hypotheses.first() {
        Some(best) if best.told.as_ref().is_some_and(|told| told.outside) => {
            unexplained(plot, view)
        }
        Some(best) => Teller { plot, view, best }.tell(),
        None => unexplained(plot, view),
    };
    let (impact, doubts) = impact::impact(plot.failures, plot.last_bad, view);
    story.doubts.extend(doubts);
    for line in impact::lines(&impact) {
        story.narrative.push_str(&format!(" {line}."));
    }
    // Where it began does not count.
    let root = plot.hypotheses.first().map(front);
    let beyond = plot.failures.keys().filter(|s| Some(*s) != root.as_ref());
    if root.is_some() && beyond.count() >= CASCADES {
        story.kinds.push(StoryKind::Cascading);
    }
    story.impact = impact;
    (story, evidence)
}

/// Tells the story of a plot that a hypothesis explains.
pub(super) struct Teller<'a> {
    pub(super) plot: &'a Plot<'a>,
    pub(super) view: &'a View<'a>,
    pub(super) best: &'a Hypothesis,
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
        let told = self.best.told.as_deref();
        let title = told.map_or_else(
            || self.title(pattern, &values, change.as_deref()),
            |told| told.title.clone(),
        );
        let impact = self.impact(&order);
        let mechanism = match told {
            Some(told) => Some(told.mechanism.clone()).filter(|mechanism| !mechanism.is_empty()),
            None => pattern.map(|p| words::fill(&p.mechanism, &values)),
        };
        // A change with an identity of its own is called by that.
        let identity = rows.first().map(|row| row.revision.clone()).filter(|id| !id.is_empty());
        let identity = told.and_then(|told| told.change.clone()).or(identity);
        let story = Story {
            id: self.plot.id.to_owned(),
            state: self.plot.state(),
            title: title.clone(),
            confidence: self.sureness(),
            opened: self.plot.opened,
            resolved: self.plot.resolved,
            merged_into: self.plot.into.map(str::to_owned),
            root_cause: Some(RootCause {
                kind: self.best.cause.kind.to_string(),
                namespace: self.best.cause.namespace.to_string(),
                name: self.best.cause.name.to_string(),
                service: self.cause_service(),
                pattern: self.best.pattern.clone(),
                time: self.best.cause_time,
                change: identity.or_else(|| change.clone()),
                r#where: self.best.measured.as_ref().and_then(|m| m.place.clone()),
            }),
            reason: None,
            hypotheses: self.plot.hypotheses.iter().map(blame).collect(),
            narrative: narrative(&title, mechanism.as_deref(), &impact),
            chain,
            affected: self.affected(&order, &events),
            impact: Impact::default(),
            kinds: Vec::new(),
            again: None,
            earlier: Vec::new(),
            recommendations: self.recommendations(pattern, &values),
            reasons: self.reasons(pattern, mechanism, &order),
            doubts: self.doubts(&order),
            ruled_out: self.ruled_out(&order),
            incomplete: self.view.lacks.to_vec(),
        };
        (story, evidence)
    }

    /// What to do; nothing but to see to it that it does not come again where it was put back, and that helped.
    fn recommendations(
        &self,
        pattern: Option<&Pattern>,
        values: &BTreeMap<&'static str, String>,
    ) -> Vec<String> {
        let mut all = match &self.best.told {
            Some(told) => told.advice.clone(),
            None => recommendations(pattern, values),
        };
        if let Some(back) = self.put_back() {
            all.retain(|line| line.starts_with("prevent: "));
            let done =
                format!("nothing more: it was put back at {}, and that helped", back.clock());
            all.insert(0, done);
        }
        all
    }

    /// How sure the best hypothesis is; surer where what it blames was put back, and that helped.
    fn sureness(&self) -> f64 {
        let sure = sureness(self.best);
        match self.put_back() {
            Some(_) if !self.best.pattern.is_empty() => {
                sure + weights().judgement.put_back * (1.0 - sure)
            }
            _ => sure,
        }
    }

    /// What befell the workload of a hypothesis since its cause.
    pub(super) fn events_of(&self, of: &Hypothesis) -> Vec<&Event> {
        let until = self.plot.resolved.unwrap_or(self.view.now);
        self.view.facts.around(&of.workload, &of.service, of.cause_time - SLACK, until)
    }

    fn events(&self) -> Vec<&Event> {
        let all = self.events_of(self.best);
        // A container that comes up anew says what it always says at its start: new lines tell something
        // only while the cause works on the container that runs, up to its first death.
        let died = all.iter().find(|e| e.r#type == "container.terminated").map(|e| e.time);
        let anew = self.best.cause == self.best.workload;
        let stands = self.best.told.as_ref().is_some_and(|told| !told.shown.is_empty());
        let waits = all.iter().any(|e| e.r#type == "container.waiting");
        let tells = |e: &&Event| match e.r#type.as_str() {
            // Its pod says the same.
            "k8s.event" if waits && e.message.starts_with("Back-off restarting failed") => false,
            // What stands was read with what was said, less what is past.
            "k8s.event" | "probe.failed" | "container.terminated" | "log.said" if stands => false,
            "log.new" => !anew && died.is_none_or(|died| e.time < died),
            // The Deployment repeats what its pods and its Service say.
            "deployment.unavailable" => false,
            _ => e.severity != "info",
        };
        all.into_iter().filter(tells).collect()
    }

    /// Failing services in the order in which the failure travels: near the cause first.
    pub(super) fn order(&self) -> Vec<(Entity, &Failure)> {
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
            ("service", self.kubernetes_service()),
            ("change", words::change(rows)),
            ("path", first.map(|r| r.path.clone()).unwrap_or_default()),
            ("old", first.and_then(|r| r.old.clone()).unwrap_or_default()),
            ("new", first.and_then(|r| r.new.clone()).unwrap_or_default()),
            ("undo", first.map(|r| r.undo.clone()).unwrap_or_default()),
        ])
    }

    /// The Kubernetes Service in front of the workload, as commands name it.
    fn kubernetes_service(&self) -> String {
        let mut services = vec![front(self.best)];
        if &*self.best.cause.kind == "Service" {
            services.insert(0, self.best.cause.clone());
        }
        services.extend(self.view.graph.services(&self.best.workload));
        let service = services.into_iter().find(|s| self.view.cluster.object(s).is_some());
        service.map_or_else(|| self.best.service.clone(), |service| service.name.to_string())
    }

    fn title(
        &self,
        pattern: Option<&Pattern>,
        values: &BTreeMap<&'static str, String>,
        change: Option<&str>,
    ) -> String {
        let mut workload = self.best.workload.path();
        let more = self.plot.siblings.len();
        if more > 0 {
            workload = format!("{workload} (and {more} more)");
        }
        let effect = match pattern {
            Some(pattern) => {
                let mut values = values.clone();
                values.insert("workload", workload);
                words::fill(&pattern.title, &values)
            }
            None => format!("{workload} fails"),
        };
        let cause = &self.best.cause;
        match change {
            Some("deleted") => {
                format!("{effect}, because {} {} was deleted", cause.kind, cause.name)
            }
            Some("added") => format!("{effect}, because {} {} was added", cause.kind, cause.name),
            Some(_) => format!("{effect}, because {} {} was changed", cause.kind, cause.name),
            None if *cause != self.best.workload => {
                format!("{effect}, because of {} {}", cause.kind, cause.name)
            }
            None => effect,
        }
    }

    /// Workloads that fail for the same reason, those that users meet last.
    pub(super) fn siblings(&self) -> Vec<&Hypothesis> {
        let mut siblings: Vec<&Hypothesis> = self.plot.siblings.values().collect();
        siblings.sort_by_key(|h| {
            (!self.view.graph.is_called(&front(h)), h.effect_time, h.workload.clone())
        });
        siblings
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

    pub(super) fn failure_words(&self, service: &Entity, failure: &Failure) -> String {
        failure_words(service, failure, self.view.graph.is_called(service))
    }

    /// The services that users meet: failing ones that nothing inside calls.
    fn impact(&self, order: &[(Entity, &Failure)]) -> Vec<String> {
        let entry = order.iter().filter(|(s, _)| !self.view.graph.is_called(s));
        entry.map(|(s, failure)| self.failure_words(s, failure)).collect()
    }

    fn affected(&self, order: &[(Entity, &Failure)], events: &[&Event]) -> Affected {
        let mut services = Vec::new();
        let cut_off = |e: &&Event| matches!(e.r#type.as_str(), "endpoints.empty" | SILENCE);
        if !order.is_empty() || events.iter().any(cut_off) {
            services.push(self.best.service.clone());
        }
        if let Some(measured) = &self.best.measured {
            services = vec![self.best.service.clone()];
            services.extend(measured.effects.iter().map(|(on, _, _)| on.name.to_string()));
        }
        let siblings = self.siblings();
        let out = siblings.iter().filter(|s| self.out_of_service(s).is_some());
        services.extend(out.map(|s| s.service.clone()));
        for (service, _) in order {
            if !services.iter().any(|known| **known == *service.name) {
                services.push(service.name.to_string());
            }
        }
        let theirs = siblings.iter().flat_map(|sibling| self.events_of(sibling));
        let all = events.iter().copied().chain(theirs);
        let pods = all.filter(|e| e.entity_kind == "Pod").map(|e| e.entity().path());
        Affected { services, pods: pods.collect::<BTreeSet<_>>().into_iter().collect() }
    }
}

fn recommendations(
    pattern: Option<&Pattern>,
    values: &BTreeMap<&'static str, String>,
) -> Vec<String> {
    let Some(pattern) = pattern else {
        let undo = values.get("undo").map(String::as_str).unwrap_or_default();
        let object = values.get("object").map(String::as_str).unwrap_or_default();
        return if undo.is_empty() {
            vec![format!("look at {object}: nothing else that could explain it was seen")]
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

pub(super) fn blame(h: &Hypothesis) -> Blame {
    Blame {
        kind: h.cause.kind.to_string(),
        namespace: h.cause.namespace.to_string(),
        name: h.cause.name.to_string(),
        service: h.service.clone(),
        pattern: h.pattern.clone(),
        confidence: sureness(h),
        r#where: h.measured.as_ref().and_then(|m| m.place.clone()),
    }
}

/// How sure it is told to be.
fn sureness(h: &Hypothesis) -> f64 {
    round(weights().told(&h.pattern, h.confidence))
}

pub(super) fn round(confidence: f64) -> f64 {
    (confidence * 100.0).round() / 100.0
}
