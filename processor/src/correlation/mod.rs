//! The DataFusion gear: symptoms and hypotheses, judged in SQL over the reduced tables.
//!
//! [`arises`] says in which service requests lose time or steps, [`releases`] which release brought it about, [`identity`] who is who, [`symptoms`] keeps what is wrong and since when, [`suspects`] says which objects could bring that
//! about, [`hypotheses`] reads the judgement of `queries/hypotheses.sql`.

pub mod arises;
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

use arrow::record_batch::RecordBatch;

use crate::store::{ColumnError, Queries, QueryError, Rows, StoreError};

/// A pass over the tables that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CorrelationError {
    /// A query failed or was cut at its limit of time or memory.
    #[error(transparent)]
    Query(#[from] QueryError),
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
}

impl Plans {
    /// The queries in `queries/` over a store; nothing is planned before the first run.
    pub fn new(store: &crate::store::Store) -> Result<Self, QueryError> {
        Ok(Plans { queries: Queries::new(store, crate::files::QUERIES)?, runtime: None })
    }

    /// The rows of one query.
    pub fn rows(&mut self, name: &str) -> Result<Rows, CorrelationError> {
        let failed = |message: String| QueryError { query: name.to_owned(), message };
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|e| failed(format!("no runtime: {e}")))?,
        };
        let batches: Result<Vec<RecordBatch>, QueryError> =
            runtime.block_on(self.queries.run(name));
        self.runtime = Some(runtime);
        Ok(Rows::new(&batches?)?)
    }
}
