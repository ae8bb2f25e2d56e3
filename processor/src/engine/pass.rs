//! The passes: once a second of event time the queries judge what the accumulators hold, and stories are told of it.

use std::{cell::OnceCell, collections::BTreeMap, time::Duration};

use tapio_proto::model::{Edge, Entity, Evidence, Row as _, Symptom, Time};

use super::Engine;
use crate::{
    correlation::{
        CorrelationError,
        arises::{Arising, Around, arises},
        backends,
        breaker::Part,
        crowds, deepest, fills, hypotheses, nodes, outside,
        releases::Scene,
        rows::{Answer, Front, Level, Params, PatternRow, Reach, State, Sum, Window},
        silence, surge,
        suspects::{self, Graph, is_domain},
        twins, units,
        weights::weights,
    },
    ingest::asked_beyond,
    pressure::Resolution,
    story::{Telling, View, text},
    streaming::{Blame, KEPT, Resource, Twin, Windows},
    tables::StoryRow,
};

/// Time from one pass of the queries to the next.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// Records may come this much later than the newest seen before a pass no longer waits for them.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Windows to which something came so lately are judged.
const RECENT: Duration = Duration::from_secs(15);
/// How far back causes are looked for.
pub(super) const LOOKBACK: Duration = Duration::from_secs(2 * 3600);
/// Calls older than this say nothing of who calls whom now.
const CALLS: Duration = Duration::from_secs(900);
/// Standard errors above chance from which on a ratio is sick.
const Z: f64 = 4.0;
/// Requests that a past must hold before it can be a baseline.
const LEAST: i64 = 30;
/// Time from one pass to the next while nothing comes.
const IDLE: Duration = Duration::from_secs(15);
/// After so many passes what an incident needs is made ready.
const SETTLED: u64 = 60;
/// After silence this long passes are not made up for; nothing could have changed in between.
const HOLE: Duration = Duration::from_secs(120);

impl Engine {
    /// The passes that are due.
    pub(super) fn passes(&mut self) -> Vec<Telling> {
        let mut tellings = Vec::new();
        let clock = self.clock.now();
        if self.next == Time::default() || clock + HOLE < self.next {
            self.next = clock.bucket(STEP.as_nanos() as i64) + STEP;
            return tellings;
        }
        if self.next + HOLE < clock {
            tellings.extend(self.pass(self.next));
            self.next = (clock - GRACE).bucket(STEP.as_nanos() as i64);
        }
        while self.next + GRACE <= clock {
            let at = self.next;
            tellings.extend(self.pass(at));
            self.next = at + STEP;
        }
        tellings
    }

    /// One run of the DataFusion gear at event time `now`.
    pub(super) fn pass(&mut self, now: Time) -> Vec<Telling> {
        let mut overdue = Vec::new();
        self.cluster.overdue(now, &mut overdue);
        self.dirty |= !overdue.is_empty();
        self.take(overdue);
        let strained = self.strains.now(now);
        if self.requests.settle(now) | (strained != self.strained) {
            // Asked for only where one is strained that sends no spans.
            let graph = OnceCell::new();
            let graph =
                || graph.get_or_init(|| Graph::new(&self.windows, &self.identity, now - CALLS));
            let around = Around {
                suffers: &|service| {
                    let kinds = ["latency", "error_ratio"].into_iter();
                    let active = kinds.filter_map(|kind| self.symptoms.get(kind, service));
                    active.map(|active| active.symptom.onset).min()
                },
                callers: &|service| graph().callers(service).cloned().collect(),
                beyond: &|line| asked_beyond(line, &self.identity, &self.cluster),
            };
            self.arising = arises(&self.requests, &self.identity, &strained, &around);
            for arising in &mut self.arising {
                let idle = |of: &Entity| crowds::is_idle(&self.levels, &self.cluster, of, now);
                let workloads = self.identity.workloads(&arising.service);
                arising.look_at_cpu(!workloads.is_empty() && workloads.iter().all(idle));
            }
            self.strained = strained;
            self.dirty |= !self.arising.is_empty();
        }
        // While nothing comes only time goes on, and what it ends need not end to the second.
        let idle = self.symptoms.is_empty() && !self.stories.any_open() || now < self.passed + IDLE;
        if !std::mem::take(&mut self.dirty) && idle {
            return Vec::new();
        }
        self.passed = now;
        self.plans.begin(now, self.budget.time());
        let told = self.try_pass(now);
        self.made = (self.made.0 + 1, self.made.1 + self.plans.took());
        match told {
            Ok(tellings) => {
                self.budget.finished(self.plans.took());
                tellings
            }
            // It is deferred to the next, which looks at less.
            Err(CorrelationError::Cut(_)) => {
                self.budget.cut();
                self.dirty = true;
                Vec::new()
            }
            Err(error) => {
                self.budget.finished(self.plans.took());
                self.fail(&error);
                Vec::new()
            }
        }
    }

    fn try_pass(&mut self, now: Time) -> Result<Vec<Telling>, CorrelationError> {
        self.began.get_or_insert(now);
        self.publish(now)?;
        self.symptoms.judge(&mut self.plans, &mut self.windows, (now, now - RECENT))?;
        // Where there are spans they tell more.
        if !self.sighted.contains("traces") {
            self.symptoms.worse(&self.series.judge(now + STEP));
        }
        let windows = &self.windows;
        let heard = (now, self.began.unwrap_or(now));
        let mut graph = Graph::new(&self.windows, &self.identity, now - CALLS);
        let complaints = self.complaints.judge(heard, |service| speaks(service, windows, &graph));
        self.symptoms.complain(&complaints);
        let complaining = self.complaints.edges(now);
        complaining
            .filter(|(caller, callee)| !windows.tells_of(caller) || is_domain(callee))
            .for_each(|(caller, callee)| graph.calls(caller, callee));
        self.series.edges().for_each(|(caller, callee)| graph.calls(caller, callee));
        self.topology.calls(&graph, now);
        let filling = self.fills.judge(now).to_vec();
        self.symptoms.fill(&filling, |filling| fills::bearer(filling, &graph));
        for event in self.announced.news(&filling, &graph) {
            self.found(event);
        }
        let arising = self.passed_on.unexplained(&self.arising, &self.symptoms, (&graph, now));
        let worth = weights().judgement.worth;
        let roots: Vec<Arising> =
            arising.iter().filter(|a| a.confidence >= worth).cloned().collect();
        self.symptoms.arise(&roots);
        let slower = self.releases.slower(now, |space, name| self.identity.service(space, name));
        self.symptoms.beside(&slower, now);
        self.alerts(now, &graph);
        self.stand(now);
        let silent = silence::entries(&self.windows, &graph, now);
        for event in silence::news(&silent, &self.symptoms, &graph) {
            self.found(event);
        }
        self.symptoms.fall_silent(&silent, now);
        let symptoms = self.symptoms.rows();
        self.store.table(Symptom::TABLE)?.replace(vec![Symptom::batch(&symptoms)?])?;
        self.likely.leave_out(self.plans.breakers.patterns_out(now));
        if let Some(patterns) = self.likely.rows(&symptoms, now, now - self.budget.of(LOOKBACK)) {
            self.store.table(PatternRow::TABLE)?.replace(vec![PatternRow::batch(patterns)?])?;
        }
        if self.symptoms.is_empty() && !self.stories.any_open() {
            if self.made.0 >= SETTLED {
                self.plans.prepare(hypotheses::QUERY);
            }
            return Ok(Vec::new());
        }
        let failing = suspects::failing(&self.symptoms);
        let sick = suspects::sick(&self.symptoms, &graph);
        self.crowd(now);
        let (reach, fronts) = suspects::reach(&failing, &sick, &graph, &self.cluster);
        let judged = if reach.is_empty() {
            Vec::new()
        } else {
            self.store.table(Reach::TABLE)?.replace(vec![Reach::batch(&reach)?])?;
            self.store.table(Front::TABLE)?.replace(vec![Front::batch(&fronts)?])?;
            let judged = self.judged(&symptoms, now)?;
            self.honest(judged)
        };
        let mut judged = judged;
        if !self.releases.is_empty() {
            let scene = Scene {
                now,
                failing: &failing,
                roots: &slower
                    .iter()
                    .map(|slower| (slower.service.clone(), slower.since))
                    .chain(roots.iter().map(|a| (a.service.clone(), a.onset)))
                    .collect(),
                slower: &slower,
                symptoms: &self.symptoms,
                graph: &graph,
                facts: &self.facts,
                windows: &self.windows,
            };
            judged.extend(self.releases.judge(&scene));
        }
        self.standing.join(&mut judged, &self.facts);
        let states = self.states.rows();
        self.standing.heard(&self.cluster, &self.facts, &states, &mut judged);
        judged.extend(fills::hypotheses(&filling, &graph, &self.cluster, &self.facts));
        if states.iter().any(|state| state.kind == "unit.failed") {
            let mut wrong = sick.clone();
            for (service, onset) in &failing {
                wrong.entry(graph.workload(service)).or_insert(*onset);
            }
            judged.extend(units::hypotheses(&states, &wrong, &self.homes, &graph, &self.cluster));
        }
        let speaks = |service: &Entity| speaks(service, &self.windows, &graph);
        let seen = (&self.symptoms, &self.windows, &graph);
        backends::judge(&mut judged, &failing, seen, speaks);
        self.passed_on.take_relayed(&mut judged, (&failing, &sick), (&graph, now), |h| {
            self.patterns.by_words(&h.pattern)
        });
        deepest::judge(&mut judged, &failing, (&self.symptoms, &self.windows, &graph));
        let mut all: Vec<_> = arising
            .iter()
            .map(|a| hypotheses::Hypothesis::measured(a, graph.workload(&a.service)))
            .collect();
        let busy = self.strains.nodes(now);
        nodes::judge(&mut all, &busy, (&arising, &self.strained), (&self.homes, &graph));
        if !self.sighted.contains("traces") {
            all.extend(self.series.blamed().iter().map(by_metrics));
        }
        let mut judged = with_measured(judged, all);
        let twins = self.twins(&failing);
        let told = twins::judge(&twins, &failing, &graph, &self.cluster);
        twins::hold(&mut judged, told, &twins, (&self.facts, &self.symptoms));
        let (asked, changed) = ((&self.windows, &graph), (&self.cluster, &self.facts));
        surge::judge(&mut judged, &failing, asked, changed);
        silence::hold(&mut judged, &failing, (&self.symptoms, &graph), |h| {
            self.patterns.get(&h.pattern).is_some_and(|pattern| pattern.by_silence())
        });
        outside::mark(&mut judged, &self.patterns, &graph);
        let groups = crate::story::groups(&judged, &self.symptoms, &graph, now);
        let lacks = self.lacks();
        let view = View {
            now,
            cluster: &self.cluster,
            windows: &self.windows,
            symptoms: &self.symptoms,
            graph: &graph,
            patterns: &self.patterns,
            facts: &self.facts,
            sighted: &self.sighted,
            lacks: &lacks,
            importance: &self.importance,
        };
        let tellings = self.stories.update(groups, &view);
        if !tellings.is_empty() || self.stories.any_open() {
            self.publish_stories(now)?;
        }
        Ok(tellings)
    }

    /// What the queries judge. Where they fail because of a pattern that is left out, and the others speak.
    fn judged(
        &mut self,
        symptoms: &[Symptom],
        now: Time,
    ) -> Result<Vec<hypotheses::Hypothesis>, CorrelationError> {
        match hypotheses::judge(&mut self.plans) {
            Ok(judged) => {
                self.plans.breakers.patterns_work(now);
                self.plans.breakers.works(Part::Query, hypotheses::QUERY);
                return Ok(judged);
            }
            Err(cut @ CorrelationError::Cut(_)) => return Err(cut),
            Err(_) => {}
        }
        let table = self.store.table(PatternRow::TABLE)?.clone();
        for one in self.likely.each() {
            table.replace(vec![PatternRow::batch(std::slice::from_ref(&one))?])?;
            match hypotheses::judge(&mut self.plans) {
                Ok(_) => {}
                Err(cut @ CorrelationError::Cut(_)) => {
                    table.replace(vec![PatternRow::batch(self.likely.all())?])?;
                    return Err(cut);
                }
                Err(error) => {
                    let breakers = &mut self.plans.breakers;
                    breakers.fails(Part::Pattern, &one.pattern, error.to_string(), now);
                }
            }
        }
        self.likely.leave_out(self.plans.breakers.patterns_out(now));
        let since = now - self.budget.of(LOOKBACK);
        self.likely.rows(symptoms, now, since);
        table.replace(vec![PatternRow::batch(self.likely.all())?])?;
        hypotheses::judge_if_well(&mut self.plans)
    }

    /// What passes have to do without, in words.
    fn lacks(&self) -> Vec<String> {
        let mut lacks: Vec<String> = self.budget.lacks(LOOKBACK).into_iter().collect();
        lacks.extend(match self.resolution {
            Resolution::Full => None,
            Resolution::Sampled => {
                Some("memory is short, so one request of spans in eight stands for all".to_owned())
            }
            _ => Some(
                "memory is short, so one request of spans in eight stands for all, and rows of spans, log records and points are not kept"
                    .to_owned(),
            ),
        });
        let out = self.isolated();
        lacks.extend(
            out.iter().map(|i| format!("the {} {} fails and is left out", i.part.name(), i.name)),
        );
        lacks
    }

    /// Who takes the processors of a node from the others on it.
    fn crowd(&mut self, now: Time) {
        let mut facts = Vec::new();
        for taker in crowds::takers(&self.levels, &self.cluster, now) {
            let message = taker.to_string();
            let takes = (&taker.workload, &taker.node);
            self.cluster.takes_cpu(takes, taker.since, &message, now, &mut facts);
        }
        self.take(facts);
    }

    /// What is wrong with the objects of a recording, though nothing that is told of fails.
    fn stand(&mut self, now: Time) {
        if !self.recorded && !self.ending {
            return;
        }
        let untold = self.stories.all().is_empty() && !self.sighted.contains("traces");
        let seen = (&self.cluster, &self.facts);
        if let Some(found) = self.standing.look(seen, now, self.ending, untold) {
            self.symptoms.stand(found, now);
        }
    }

    /// The pods of services that have several, before and since they fail; those that do not, since the first
    /// of the others does.
    fn twins(&self, failing: &BTreeMap<Entity, Time>) -> BTreeMap<Entity, Vec<Twin>> {
        let Some(first) = failing.values().min() else { return BTreeMap::new() };
        let several = self.instances.several();
        let named = several.map(|names| (self.identity.service(names.0, names.1), names));
        named
            .map(|(service, (namespace, name))| {
                let onset = *failing.get(&service).unwrap_or(first);
                let twins = self.instances.twins(namespace, name, onset);
                (service, twins)
            })
            .collect()
    }

    /// What alerts say is wrong is a symptom of the service that they name.
    fn alerts(&mut self, now: Time, graph: &Graph) {
        let identity = &self.identity;
        let named = self.releases.alerts(now).filter_map(|alert| {
            let service = match &*alert.service {
                "" => graph.named(&format!("{} {}", alert.name, alert.text))?,
                service => {
                    let told = identity.service(&alert.namespace, service);
                    // Who sends alerts seldom knows of namespaces.
                    if graph.knows(&told) { told } else { graph.named(service).unwrap_or(told) }
                }
            };
            Some((service, alert))
        });
        self.symptoms.alerted(named, now);
    }

    /// "Nothing was changed" cannot be said of a workload whose objects are not seen.
    fn honest(&self, mut judged: Vec<hypotheses::Hypothesis>) -> Vec<hypotheses::Hypothesis> {
        let seen = |workload: &Entity| self.cluster.object(workload).is_some();
        for blind in judged.iter_mut().filter(|h| h.change.is_none() && !seen(&h.workload)) {
            blind.confidence = blind.confidence.min(weights().judgement.unseen);
        }
        judged
    }

    pub(super) fn publish(&mut self, now: Time) -> Result<(), CorrelationError> {
        self.columns.flush(&self.store)?;
        self.identity.refresh(&self.cluster, now);
        self.windows.name(&self.identity, &self.cluster);
        let since = (!self.budget.is_whole()).then(|| now - self.budget.of(KEPT));
        let [windows, answers, sums] = self.windows.publish(since, now - RECENT)?;
        self.store.table(Window::TABLE)?.replace(windows)?;
        self.store.table(Answer::TABLE)?.replace(answers)?;
        self.store.table(Sum::TABLE)?.replace(sums)?;
        let cluster = &self.cluster;
        let levels = self.levels.rows(
            now - Duration::from_secs(600),
            |namespace, pod| cluster.bearer(namespace, pod),
            |namespace, pod, container, resource| match resource {
                Resource::Memory => cluster.memory_limit(namespace, pod, container),
                Resource::Cpu => cluster.cpu_limit(namespace, pod, container),
            },
        );
        self.store.table(Level::TABLE)?.replace(vec![Level::batch(&levels)?])?;
        self.store.table(State::TABLE)?.replace(vec![State::batch(&self.states.rows())?])?;
        let lookback = now - self.budget.of(LOOKBACK);
        let params = Params::new(now, lookback, now - RECENT, (Z, LEAST));
        self.store.table(Params::TABLE)?.replace(vec![Params::batch(&[params])?])?;
        if let Some(edges) = self.topology.news() {
            self.store.table(Edge::TABLE)?.replace(vec![Edge::batch(&edges)?])?;
        }
        Ok(())
    }

    pub(super) fn publish_stories(&self, now: Time) -> Result<(), CorrelationError> {
        let all = self.stories.all();
        let rows: Vec<StoryRow> = all
            .iter()
            .map(|(s, e)| StoryRow::new(s, text::render(s, e, now, self.threshold)))
            .collect();
        let evidence: Vec<Evidence> = all.iter().flat_map(|(_, e)| e.iter().cloned()).collect();
        self.store.table(StoryRow::TABLE)?.replace(vec![StoryRow::batch(&rows)?])?;
        self.store.table(Evidence::TABLE)?.replace(vec![Evidence::batch(&evidence)?])?;
        Ok(())
    }
}

/// Do spans or metrics tell of the service's own requests, be it by another of its names?
fn speaks(service: &Entity, windows: &Windows, graph: &Graph) -> bool {
    let names = graph.services(&graph.workload(service));
    names.iter().chain([service]).any(|one| windows.tells_of(one))
}

/// A service that does worse while all that it calls does well: what is wrong is in it.
fn by_metrics(blame: &Blame) -> hypotheses::Hypothesis {
    let (worse, w) = (&blame.worse, &weights().metrics);
    let pattern = if worse.kind == "latency" { "service_slow" } else { "service_errors" };
    let confidence = if blame.borne_out {
        w.borne_out + w.borne_out_share * blame.share
    } else {
        w.alone_share * blame.share
    };
    let (service, since) = (&worse.service, worse.during.0);
    let itself =
        hypotheses::Hypothesis::by_itself(service.clone(), service, pattern, (since, confidence));
    hypotheses::Hypothesis { evidence: blame.share, ..itself }
}

/// Joins what is measured to what was judged. It says in which service, and a change of that service says
/// why; so where there is one it speaks.
fn with_measured(
    mut judged: Vec<hypotheses::Hypothesis>,
    measured: Vec<hypotheses::Hypothesis>,
) -> Vec<hypotheses::Hypothesis> {
    let w = &weights().judgement;
    for mut new in measured {
        let changed = judged
            .iter()
            .filter(|h| h.change.is_some() && h.workload == new.workload)
            .map(|h| h.confidence)
            .filter(|confidence| *confidence >= w.worth)
            .fold(None, |most: Option<f64>, next| Some(most.map_or(next, |m| m.max(next))));
        if let Some(changed) = changed {
            new.confidence = new.confidence.min(changed - w.below_change);
        }
        judged.push(new);
    }
    judged.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    judged
}
