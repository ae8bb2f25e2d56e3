//! The DataFusion gear: symptoms and hypotheses, judged in SQL over the reduced tables.
//!
//! [`arises`] says in which service requests lose time or steps, [`releases`] which release brought it about, [`identity`] who is who, [`symptoms`] keeps what is wrong and since when, [`suspects`] says which objects could bring that
//! about, [`hypotheses`] reads the judgement of `queries/hypotheses.sql`.

pub mod arises;
pub mod breaker;
pub mod budget;
pub mod hypotheses;
pub mod identity;
pub mod likely;
pub mod releases;
pub mod rows;
pub mod standing;
pub mod states;
pub mod suspects;
pub mod symptoms;
pub mod units;
pub(crate) mod weights;

use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;

use breaker::{Breakers, Part};
use tapio_proto::model::Time;

use crate::store::{ColumnError, Queries, QueryError, Rows, StoreError};

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

/// Kept plans, run from a thread of their own: DataFusion is asynchronous, the engine is not.
pub struct Plans {
    queries: Queries,
    runtime: Option<tokio::runtime::Runtime>,
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
            runtime: None,
            breakers: Breakers::default(),
            now: Time::default(),
            began: Instant::now(),
            time: None,
        })
    }

    /// A pass at event time `now` begins, which is cut when it has taken this long.
    pub fn begin(&mut self, now: Time, time: Option<Duration>) {
        (self.now, self.began, self.time) = (now, Instant::now(), time);
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

    /// The rows of one query.
    pub fn rows(&mut self, name: &str) -> Result<Rows, CorrelationError> {
        let left = self.time.map(|time| time.saturating_sub(self.took()));
        let cut = || CorrelationError::Cut(name.to_owned());
        if left == Some(Duration::ZERO) {
            return Err(cut());
        }
        let failed = |message: String| QueryError { query: name.to_owned(), message };
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|e| failed(format!("no runtime: {e}")))?,
        };
        let batches: Option<Result<Vec<RecordBatch>, QueryError>> = runtime.block_on(async {
            let run = self.queries.run(name);
            match left {
                Some(left) => tokio::time::timeout(left, run).await.ok(),
                None => Some(run.await),
            }
        });
        self.runtime = Some(runtime);
        Ok(Rows::new(&batches.ok_or_else(cut)??)?)
    }
}
