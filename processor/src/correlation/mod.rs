//! The DataFusion gear: symptoms and hypotheses, judged in SQL over the reduced tables.
//!
//! [`identity`] who is who; [`symptoms`] keeps what is wrong and since when; [`suspects`] says which objects could
//! bring that about, and [`hypotheses`] reads the judgement of `queries/hypotheses.sql`. Beside it, [`arises`] says
//! in which service requests lose time or steps, [`backends`] what is said of those that say nothing themselves,
//! [`twins`] whether it is one pod or one node, [`deepest`] who fails though nothing that it asks does,
//! [`passed_on`] what is only an effect of that, [`releases`] which release brought it about, [`surge`] whether users
//! ask too much, [`silence`] whom they ask no more, [`crowds`] who takes the processors of a node, [`fills`] what will
//! be full soon, [`outside`] what is not run here.

pub mod arises;
pub mod backends;
pub mod breaker;
pub mod budget;
pub mod crowds;
pub mod deepest;
pub mod fills;
pub mod hypotheses;
pub mod identity;
pub mod likely;
pub mod nodes;
pub mod outside;
pub mod passed_on;
pub mod releases;
pub mod rows;
pub mod silence;
pub mod standing;
pub mod states;
pub mod surge;
pub mod suspects;
pub mod symptoms;
pub mod twins;
pub mod units;
pub mod versions;
pub(crate) mod weights;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use arrow::record_batch::RecordBatch;
use breaker::{Breakers, Part};
use tapio_proto::model::Time;
use tokio::runtime::Runtime;

use crate::store::{ColumnError, Limits, Queries, QueryError, Rows, StoreError};

/// An effect may seem to begin so long before its cause.
const EFFECT: Duration = Duration::from_secs(30);

/// A pass over the tables that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CorrelationError {
    /// A query failed or was cut at its limit of time or memory.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The pass was over its time in this query.
    #[error("the pass was cut in query `{0}`: its time was over")]
    Cut(String),
    /// Weights that no confidence can be made from.
    #[error("processor/weights.yaml: {0}")]
    Weights(String),
    /// A query's result lacks a column that is read from it.
    #[error(transparent)]
    Column(#[from] ColumnError),
    /// Rows that do not make a batch.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// A table that is not as declared.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came of a query; nothing when its time was over.
type Outcome = Option<Result<Vec<RecordBatch>, QueryError>>;

/// Kept plans, run from the engine's thread: DataFusion is asynchronous, the engine is not.
pub struct Plans {
    queries: Queries,
    /// One for each query that runs at once; the first is that of the engine's own thread.
    runtimes: Vec<Runtime>,
    workers: usize,
    /// What came of those that were run ahead, at once.
    ahead: BTreeMap<String, Outcome>,
    /// What failed and is left out.
    pub breakers: Breakers,
    now: Time,
    began: Instant,
    time: Option<Duration>,
}

impl Plans {
    /// The queries in `queries/` over a store; nothing is planned before the first run.
    pub fn new(store: &crate::store::Store) -> Result<Self, CorrelationError> {
        weights::check()?;
        let queries = Queries::new(store, crate::files::QUERIES)?;
        Ok(Plans {
            queries,
            runtimes: Vec::new(),
            workers: 1,
            ahead: BTreeMap::new(),
            breakers: Breakers::default(),
            now: Time::default(),
            began: Instant::now(),
            time: None,
        })
    }

    /// So many queries may run at once; each runs as it does alone, and answers the same.
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// A query may take so long.
    pub fn with_query_time(mut self, time: Duration) -> Self {
        self.queries = self.queries.with_limits(Limits { time, ..Limits::default() });
        self
    }

    /// A pass at event time `now` begins, which is cut when it has taken this long.
    pub fn begin(&mut self, now: Time, time: Option<Duration>) {
        (self.now, self.began, self.time) = (now, Instant::now(), time);
        self.ahead.clear();
    }

    /// Runs queries that do not need each other at once, as far as there are workers: their rows are there
    /// when they are asked for.
    pub fn run_ahead(&mut self, names: &[&str]) {
        let lets = |name: &&&str| self.breakers.lets(Part::Query, name, self.now);
        let names: Vec<&str> = names.iter().filter(lets).copied().collect();
        let at_once = self.workers.min(names.len());
        if at_once < 2 || (0..at_once).any(|at| self.runtime(at).is_err()) {
            return;
        }
        let (queries, left, next) = (&self.queries, self.left(), AtomicUsize::new(0));
        let work = |runtime: &Runtime| {
            let mut done = Vec::new();
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(((*name).to_owned(), outcome(queries, runtime, name, left)));
            }
            done
        };
        let (own, others) = self.runtimes[..at_once].split_at(1);
        self.ahead = thread::scope(|scope| {
            let others: Vec<_> =
                others.iter().map(|runtime| scope.spawn(|| work(runtime))).collect();
            let mut done: Vec<_> = own.iter().flat_map(work).collect();
            // One whose thread died is run again when it is asked for.
            done.extend(others.into_iter().filter_map(|other| other.join().ok()).flatten());
            done.into_iter().collect()
        });
    }

    /// What is left of the pass's time.
    fn left(&self) -> Option<Duration> {
        self.time.map(|time| time.saturating_sub(self.took()))
    }

    fn runtime(&mut self, at: usize) -> std::io::Result<&Runtime> {
        while self.runtimes.len() <= at {
            let made = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            self.runtimes.push(made);
        }
        Ok(&self.runtimes[at])
    }

    /// How long the pass has taken so far.
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// The rows of one query; none while it fails, which is told elsewhere and stops nothing.
    pub fn rows_if_well(&mut self, name: &str) -> Result<Option<Rows>, CorrelationError> {
        if !self.breakers.lets(Part::Query, name, self.now) {
            return Ok(None);
        }
        match self.rows(name) {
            Ok(rows) => {
                self.breakers.works(Part::Query, name);
                Ok(Some(rows))
            }
            Err(cut @ CorrelationError::Cut(_)) => Err(cut),
            Err(error) => {
                self.breakers.fails(Part::Query, name, error.to_string(), self.now);
                Ok(None)
            }
        }
    }

    /// Plans a query, unless it is, while nothing is wrong, so that the first pass of an incident need not. Where
    /// it cannot be planned that pass says so.
    pub fn prepare(&mut self, name: &str) {
        if self.runtime(0).is_ok() {
            let _ = self.runtimes[0].block_on(self.queries.prepare(name));
        }
    }

    /// The rows of one query.
    pub fn rows(&mut self, name: &str) -> Result<Rows, CorrelationError> {
        let cut = || CorrelationError::Cut(name.to_owned());
        let known = self.ahead.remove(name);
        let left = self.left();
        if known.is_none() && left == Some(Duration::ZERO) {
            return Err(cut());
        }
        let outcome = match known {
            Some(outcome) => outcome,
            None => {
                let failed =
                    |e| QueryError { query: name.to_owned(), message: format!("no runtime: {e}") };
                self.runtime(0).map_err(failed)?;
                outcome(&self.queries, &self.runtimes[0], name, left)
            }
        };
        Ok(Rows::new(&outcome.ok_or_else(cut)??)?)
    }
}

/// Runs a query to its end, or to that of the time that is left.
fn outcome(queries: &Queries, runtime: &Runtime, name: &str, left: Option<Duration>) -> Outcome {
    runtime.block_on(async {
        let run = queries.run(name);
        match left {
            Some(left) => tokio::time::timeout(left, run).await.ok(),
            None => Some(run.await),
        }
    })
}
