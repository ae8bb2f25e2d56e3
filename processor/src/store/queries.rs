//! SQL texts over the store, planned once and run many times.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use datafusion::{
    common::tree_node::{Transformed, TransformedResult, TreeNode},
    error::{DataFusionError, Result},
    execution::context::SQLOptions,
    physical_plan::{
        ExecutionPlan, execute_stream, execution_plan::reset_plan_states, limit::GlobalLimitExec,
        streaming::StreamingTableExec,
    },
    prelude::SessionContext,
};
use futures_util::TryStreamExt;
use tokio::sync::OnceCell;

use super::{Store, Table, provider, session};

/// Functions whose value DataFusion fixes when it plans, or that differ from run to run.
const UNREPEATABLE: [&str; 5] = ["now", "current_date", "current_time", "random", "uuid"];

/// What a query may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest run of one query.
    pub time: Duration,
    /// Memory of all running queries together, beyond the tables' own; and of one result. In bytes.
    pub memory: usize,
}

/// Queries by name, over one store.
///
/// Nothing of DataFusion is built before the first run. A text is planned at its first run and the
/// physical plan kept; time and other parameters come from a table, since `now()` and literals are
/// fixed in the plan. A text that wants its rows in an order says so with ORDER BY.
pub struct Queries {
    tables: Vec<Arc<Table>>,
    queries: BTreeMap<String, Query>,
    limits: Limits,
    context: OnceCell<SessionContext>,
}

struct Query {
    text: String,
    plan: OnceCell<Arc<dyn ExecutionPlan>>,
}

/// A query that could not be planned, or did not finish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query `{query}`: {message}")]
pub struct QueryError {
    /// The query's name.
    pub query: String,
    /// What went wrong, in one line.
    pub message: String,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { time: Duration::from_secs(5), memory: 256 << 20 }
    }
}

impl Queries {
    /// Queries as (name, text) over the tables of the store; an error when a name comes twice.
    pub fn new(store: &Store, texts: &[(&str, &str)]) -> Result<Self, QueryError> {
        let mut queries = BTreeMap::new();
        for (name, text) in texts {
            let query = Query { text: (*text).to_owned(), plan: OnceCell::new() };
            if queries.insert((*name).to_owned(), query).is_some() {
                return Err(error(name, "there are two of that name"));
            }
        }
        let tables = store.tables().cloned().collect();
        Ok(Queries { tables, queries, limits: Limits::default(), context: OnceCell::new() })
    }

    /// The same with other limits.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.queries.keys().map(String::as_str)
    }

    /// Plans every text; for a check before anything runs.
    pub async fn check(&self) -> Result<(), QueryError> {
        for name in self.names() {
            self.prepare(name).await?;
        }
        Ok(())
    }

    /// Plans a query that may be run later.
    pub async fn prepare(&self, name: &str) -> Result<(), QueryError> {
        self.plan(name).await.map(|_| ())
    }

    /// Runs a query over the rows as they are now.
    pub async fn run(&self, name: &str) -> Result<Vec<RecordBatch>, QueryError> {
        let plan = self.plan(name).await?.clone();
        let context = self.context(name).await?;
        // Joins and sorts keep what they read in the plan: without the reset they answer with old rows.
        let run = async { collect(reset_plan_states(plan)?, context, self.limits.memory).await };
        match tokio::time::timeout(self.limits.time, run).await {
            Ok(result) => result.map_err(|cause| error(name, &one_line(&cause))),
            Err(_) => Err(error(name, &format!("not done after {:?}, given up", self.limits.time))),
        }
    }

    async fn plan(&self, name: &str) -> Result<&Arc<dyn ExecutionPlan>, QueryError> {
        let Some(query) = self.queries.get(name) else {
            return Err(error(name, "there is no query of that name"));
        };
        let context = self.context(name).await?;
        let plan = query.plan.get_or_try_init(|| plan(context, &query.text)).await;
        plan.map_err(|cause| error(name, &one_line(&cause)))
    }

    async fn context(&self, name: &str) -> Result<&SessionContext, QueryError> {
        let context = self.context.get_or_try_init(|| async {
            let context = session("tapio", self.limits.memory)?;
            UNREPEATABLE.iter().for_each(|function| context.deregister_udf(function));
            for table in &self.tables {
                context.register_table(table.name(), provider(table)?)?;
            }
            Ok(context)
        });
        context.await.map_err(|cause: DataFusionError| error(name, &one_line(&cause)))
    }
}

async fn plan(context: &SessionContext, text: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let only_read =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let plan = context.sql_with_options(text, only_read).await?.create_physical_plan().await?;
    plan.transform_up(lift_limit).data()
}

/// A scan that has a limit adds to metrics of its own at every run, and no reset clears them:
/// the limit goes into a node above it.
fn lift_limit(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let scan = node.downcast_ref::<StreamingTableExec>();
    let Some((limit, all)) = scan.and_then(|scan| Some((scan.limit()?, scan.with_fetch(None)?)))
    else {
        return Ok(Transformed::no(node));
    };
    Ok(Transformed::yes(Arc::new(GlobalLimitExec::new(all, 0, Some(limit)))))
}

/// All rows of a run, up to `limit` bytes.
async fn collect(
    plan: Arc<dyn ExecutionPlan>,
    context: &SessionContext,
    limit: usize,
) -> Result<Vec<RecordBatch>> {
    let mut stream = execute_stream(plan, context.task_ctx())?;
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = stream.try_next().await? {
        bytes += batch.get_array_memory_size();
        if bytes > limit {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "the result is larger than {limit} bytes"
            )));
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn error(query: &str, message: &str) -> QueryError {
    QueryError { query: query.to_owned(), message: message.to_owned() }
}

/// The innermost message, without DataFusion's layers and line breaks.
fn one_line(cause: &DataFusionError) -> String {
    cause.strip_backtrace().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
impl Queries {
    /// What the kept plan's nodes have counted.
    pub(super) async fn metrics(&self, name: &str) -> usize {
        fn count(plan: &Arc<dyn ExecutionPlan>) -> usize {
            let own = plan.metrics().map_or(0, |set| set.iter().count());
            own + plan.children().into_iter().map(count).sum::<usize>()
        }
        self.plan(name).await.map_or(usize::MAX, count)
    }
}
