//! The engine: telemetry in, stories out, on the telemetry's own time.
//!
//! One engine serves the live stream and the replay. It is single-threaded and what it tells depends on
//! what it was given, in which order, and on nothing else; unless passes take too long, for then it makes
//! do with less and says so.

mod pass;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pass::{GRACE, LOOKBACK, STEP};
use tapio_proto::{
    Request, Signal,
    model::{Change, Edge, Event, Evidence, Row as _, Symptom, Time},
};

use crate::{
    analysis::AnalysisConfig,
    clock::Clock,
    correlation::{
        CorrelationError, Plans,
        arises::Arising,
        breaker::Isolated,
        budget::Budget,
        fills,
        identity::Identity,
        likely::Likely,
        passed_on::PassedOn,
        releases::Releases,
        rows::{Answer, Front, Level, NeedRow, Params, PatternRow, Reach, State, Sum, Window},
        standing::Standing,
        states::States,
        symptoms::Symptoms,
        units::Homes,
    },
    ingest::Columns,
    kubernetes::{Cluster, Fact},
    patterns::Patterns,
    pressure::Resolution,
    requests::Requests,
    store::{Keep, Store, StoreError, TableSpec},
    story::{Facts, Importance, Stories, Telling},
    streaming::{
        Complaints, Fills, Instances, Levels, Measures, Series, Share, Strain, Strains, Templates,
        Traces, Windows,
    },
    tables::StoryRow,
    topology::Topology,
    validator::Quarantined,
};

/// Bytes of rows that wait for the next pass.
const MOST_WAITING: usize = 8 << 20;
/// Spans looked at in a window: 200,000 a second.
const MOST_LOOKED: u64 = 1_000_000;
/// Log records looked at in a window: 20,000 a second.
const MOST_LINES: u64 = 100_000;
/// A pass over a recording, and each of its queries, may take so long.
const UNHURRIED: Duration = Duration::from_secs(600);

/// Where stories come from.
pub struct Engine {
    store: Arc<Store>,
    plans: Plans,
    patterns: Arc<Patterns>,
    pub(crate) cluster: Cluster,
    pub(crate) windows: Windows,
    /// How many spans, and log records, are looked at, and which traces span by span.
    pub(crate) flood: Share,
    pub(crate) lines: Share,
    pub(crate) traces: Traces,
    pub(crate) requests: Requests,
    arising: Vec<Arising>,
    passed_on: PassedOn,
    strained: Vec<Strain>,
    pub(crate) levels: Levels,
    pub(crate) series: Series,
    pub(crate) measures: Measures,
    pub(crate) complaints: Complaints,
    pub(crate) fills: Fills,
    announced: fills::Announced,
    pub(crate) strains: Strains,
    pub(crate) templates: Templates,
    pub(crate) columns: Columns,
    facts: Facts,
    topology: Topology,
    pub(crate) identity: Identity,
    pub(crate) sighted: BTreeSet<&'static str>,
    /// When the first pass was made.
    pub(crate) began: Option<Time>,
    states: States,
    standing: Standing,
    pub(crate) homes: Homes,
    /// What comes was recorded, and nobody waits for what is told of it.
    recorded: bool,
    /// No more telemetry comes.
    ending: bool,
    /// Lines that were kept though they may be nothing new.
    pub(crate) said: usize,
    pub(crate) releases: Releases,
    pub(crate) instances: Instances,
    likely: Likely,
    symptoms: Symptoms,
    pub(crate) stories: Stories,
    /// Below this confidence a story is told as a hypothesis.
    threshold: f64,
    importance: Importance,
    pub(crate) clock: Clock,
    next: Time,
    passed: Time,
    dirty: bool,
    /// Ids of facts found outside Kubernetes; negative, so that they never meet the cluster's own.
    fact_ids: i64,
    /// Spans and log records that were not looked at, and that others stand for.
    pub sampled: u64,
    /// What passes may take.
    pub(crate) budget: Budget,
    made: (u64, Duration),
    resolution: Resolution,
    /// Passes that failed, and why the last one did.
    pub failures: (u64, Option<String>),
}

/// Every table of the store, with its weight in the ring's bytes.
fn specs() -> Vec<TableSpec> {
    let mut specs: Vec<TableSpec> = Columns::tables()
        .into_iter()
        .map(|(name, schema, weight)| TableSpec { name, schema, keep: Keep::Ring { weight } })
        .collect();
    macro_rules! row {
        ($type:ty, $keep:expr) => {
            specs.push(TableSpec { name: <$type>::TABLE, schema: <$type>::schema(), keep: $keep })
        };
    }
    row!(Event, Keep::Ring { weight: 10 });
    row!(Change, Keep::Ring { weight: 5 });
    row!(Quarantined, Keep::Ring { weight: 1 });
    row!(Edge, Keep::Replace);
    row!(Window, Keep::Replace);
    row!(Answer, Keep::Replace);
    row!(Sum, Keep::Replace);
    row!(Level, Keep::Replace);
    row!(State, Keep::Replace);
    row!(Symptom, Keep::Replace);
    row!(Reach, Keep::Replace);
    row!(Front, Keep::Replace);
    row!(PatternRow, Keep::Replace);
    row!(NeedRow, Keep::Replace);
    row!(Params, Keep::Replace);
    row!(StoryRow, Keep::Replace);
    row!(Evidence, Keep::Replace);
    specs
}

/// A store of the same tables, each replaced whole: for a judgement over rows that are made up.
pub(crate) fn scratch(limit: usize) -> Result<Store, StoreError> {
    let whole = |spec: TableSpec| TableSpec { keep: Keep::Replace, ..spec };
    Store::new(limit, specs().into_iter().map(whole).collect::<Vec<_>>())
}

impl Engine {
    /// A store as the engine fills it: ring tables hold at most `limit` bytes together.
    pub fn store(limit: usize) -> Result<Arc<Store>, StoreError> {
        Ok(Arc::new(Store::new(limit, specs())?))
    }

    /// An engine over a store made by [`Engine::store`].
    pub fn new(store: Arc<Store>, patterns: Arc<Patterns>) -> Result<Self, CorrelationError> {
        patterns.publish(&store)?;
        Ok(Engine {
            plans: Plans::new(&store)?,
            standing: Standing::new(&patterns),
            likely: Likely::new(&patterns),
            store,
            patterns,
            cluster: Cluster::default(),
            windows: Windows::default(),
            flood: Share::new(MOST_LOOKED),
            lines: Share::new(MOST_LINES),
            traces: Traces::default(),
            requests: Requests::default(),
            arising: Vec::new(),
            passed_on: PassedOn::default(),
            strained: Vec::new(),
            levels: Levels::default(),
            series: Series::default(),
            measures: Measures::default(),
            complaints: Complaints::default(),
            fills: Fills::default(),
            announced: fills::Announced::default(),
            strains: Strains::default(),
            templates: Templates::default(),
            columns: Columns::default(),
            facts: Facts::default(),
            topology: Topology::default(),
            identity: Identity::default(),
            sighted: BTreeSet::new(),
            began: None,
            states: States::default(),
            homes: Homes::default(),
            recorded: false,
            ending: false,
            said: 0,
            releases: Releases::default(),
            instances: Instances::default(),
            symptoms: Symptoms::default(),
            stories: Stories::default(),
            threshold: AnalysisConfig::default().threshold,
            importance: Importance::default(),
            clock: Clock::default(),
            next: Time::default(),
            passed: Time::default(),
            dirty: false,
            fact_ids: 0,
            sampled: 0,
            budget: Budget::default(),
            made: (0, Duration::ZERO),
            resolution: Resolution::Full,
            failures: (0, None),
        })
    }

    /// The same with passes that may take so long.
    pub fn with_pass_budget(mut self, time: Duration) -> Self {
        self.budget = Budget::new(time);
        self
    }

    /// The same for a recording, for which nobody waits: passes take the time that they need, or what is told
    /// would depend on how busy the machine is.
    pub fn unhurried(mut self) -> Self {
        self.recorded = true;
        self.plans = self.plans.with_query_time(UNHURRIED);
        self.with_pass_budget(UNHURRIED)
    }

    /// Passes that took too long so far, and how much of the past passes look at now.
    pub fn cuts(&self) -> (u64, Duration) {
        (self.budget.cuts(), self.budget.of(LOOKBACK))
    }

    /// Passes made so far, and how long they took together.
    pub fn made(&self) -> (u64, Duration) {
        self.made
    }

    /// The same with other settings than the default ones.
    pub fn configured(mut self, config: &AnalysisConfig) -> Self {
        self.facts.keep(config.buffer_events);
        self.threshold = config.threshold;
        self.importance = config.importance.clone();
        self.plans = self.plans.with_workers(config.workers);
        self
    }

    /// Takes one request in: rows, accumulators, facts. Then makes every pass that is due.
    ///
    /// The request has passed [`tapio_proto::check`]; one that has not is left out as far as it is
    /// malformed.
    pub fn ingest(&mut self, request: &Request) -> Vec<Telling> {
        self.ingest_sample(request, 1)
    }

    /// As [`Engine::ingest`], of spans of which each stands for `weight` that passed: itself, and others
    /// that were not looked at.
    pub fn ingest_sample(&mut self, request: &Request, weight: u32) -> Vec<Telling> {
        match request.signal {
            Signal::Traces => self.spans(&request.bytes, weight),
            Signal::Logs => self.logs(&request.bytes),
            Signal::Metrics => self.points(&request.bytes),
            Signal::Profiles => {}
        }
        self.dirty = true;
        // Passes empty them into the store, but records whose time stands still, or that have none, make
        // no pass.
        if (self.columns.bytes() > MOST_WAITING || self.clock() == Time::default())
            && let Err(error) = self.columns.flush(&self.store)
        {
            self.fail(&error);
        }
        self.passes()
    }

    /// Moves the clock to `to` if that is later, and makes the passes that are due by then. Called
    /// with the wall clock when a live stream is silent.
    pub fn advance(&mut self, to: Time) -> Vec<Telling> {
        self.clock.went_on(to);
        self.passes()
    }

    /// The passes that are still due when no more telemetry comes.
    pub fn finish(&mut self) -> Vec<Telling> {
        let end = self.clock.now() + GRACE + STEP;
        (self.ending, self.dirty) = (true, true);
        let mut tellings = self.advance(end);
        while self.budget.is_deferred() {
            tellings.extend(self.pass(end));
        }
        if let Err(error) = self.publish(end).and_then(|()| self.publish_stories(end)) {
            self.fail(&error);
        }
        tellings
    }

    fn fail(&mut self, error: &CorrelationError) {
        self.failures = (self.failures.0 + 1, Some(error.to_string()));
    }

    /// All stories so far, by the time they opened.
    pub fn stories(&self) -> &Stories {
        &self.stories
    }

    /// The patterns in use.
    pub fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// The event time reached.
    pub fn clock(&self) -> Time {
        self.clock.now()
    }

    /// Queries and patterns that fail, and are left out.
    pub fn isolated(&self) -> Vec<Isolated> {
        self.plans.breakers.all()
    }

    /// Says how closely what comes is looked at from now on; sampling is with who gives it.
    pub fn resolve(&mut self, resolution: Resolution) {
        self.resolution = resolution;
        self.columns.rollups = resolution >= Resolution::Rollups;
    }

    /// Takes the cluster's facts in.
    pub(crate) fn take(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            match fact {
                Fact::Change(rows) => {
                    self.columns.changes(&rows);
                    rows.into_iter().for_each(|row| self.facts.change(row));
                }
                Fact::Event(event) => self.event(event),
                Fact::EdgeBegin(relation, from, to, time) => {
                    self.topology.begins(relation, from, to, time)
                }
                Fact::EdgeEnd(relation, from, to, time) => {
                    self.topology.ends(relation, from, to, time)
                }
                Fact::Gone(entity, time) => {
                    self.states.gone(&entity);
                    self.topology.gone(&entity, time);
                }
                Fact::Release(release) => self.releases.release(*release),
                Fact::Alert(alert) => self.releases.alert(alert),
                Fact::Provider(provider) => self.releases.provider(provider),
            }
        }
    }

    /// Keeps a fact found in logs, spans or metrics.
    pub(crate) fn found(&mut self, mut event: Event) {
        self.fact_ids -= 1;
        event.id = self.fact_ids;
        self.event(event);
    }

    /// A death that metrics count without its reason has one where memory was at its limit.
    fn explained(&self, mut event: Event) -> Event {
        let counted = event.r#type == "container.terminated" && event.source == "metrics";
        if counted && event.reason.is_empty() {
            let of = (&*event.entity_namespace, &*event.entity_name, &*event.container);
            let during = event.time - fills::JUST_BEFORE..event.time + STEP;
            let most = self.levels.most_memory(of, during);
            let share = most.zip(self.cluster.memory_limit(of.0, of.1, of.2));
            let share = share.map(|(most, limit)| most / limit.max(1.0));
            if let Some(share) = share.filter(|share| *share >= fills::KILLED) {
                event.reason = "OOMKilled".to_owned();
                event.message = format!("its memory was {:.0} % full just before", share * 100.0);
            }
        }
        event
    }

    fn event(&mut self, event: Event) {
        let event = self.explained(event);
        self.states.event(&event);
        self.likely.event(&event);
        self.columns.event(&event);
        self.facts.event(event);
    }
}
