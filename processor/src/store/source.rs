//! The store as DataFusion sees it: tables that are read when a query runs, not when it is planned.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    common::{
        config::{ConfigOptions, Dialect},
        tree_node::{Transformed, TransformedResult, TreeNode},
    },
    error::Result,
    execution::{
        SendableRecordBatchStream, SessionStateBuilder, TaskContext,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan, coop::CooperativeExec, stream::RecordBatchStreamAdapter,
        streaming::PartitionStream,
    },
    prelude::{SessionConfig, SessionContext},
};
use futures_util::stream;

use super::Table;

/// A table as one partition whose rows are those at the time of execution.
#[derive(Debug)]
struct Source(Arc<Table>);

impl PartitionStream for Source {
    fn schema(&self) -> &SchemaRef {
        self.0.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.0.snapshot().into_iter().map(Ok);
        Box::pin(RecordBatchStreamAdapter::new(self.0.schema().clone(), stream::iter(batches)))
    }
}

/// The table for a session's catalogue.
pub fn provider(table: &Arc<Table>) -> Result<Arc<dyn TableProvider>> {
    let source = Arc::new(Source(table.clone()));
    Ok(Arc::new(StreamingTable::try_new(table.schema().clone(), vec![source])?))
}

/// A session over the store, which every reader makes for itself.
///
/// One partition, so that the same rows give the same answer in the same order; PostgreSQL's
/// dialect, so that one text runs everywhere; no dynamic filters, because a kept plan must carry
/// nothing from one run to the next. All queries together use at most `memory` bytes beyond the
/// tables', and no disk. The tables are to be registered under `database`.`public`.
pub fn session(database: &str, memory: usize) -> Result<SessionContext> {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(true)
        .with_default_catalog_and_schema(database, "public");
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(memory, 1.0)
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()?;
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(YieldAfterJoins));
    Ok(SessionContext::new_with_state(state.build()))
}

/// DataFusion gives way to other tasks where it reads a table. A join makes many rows of few, so
/// without a second such place above it a query can keep its thread, deaf to time limits and to
/// clients that leave, for as long as it takes.
#[derive(Debug)]
struct YieldAfterJoins;

impl PhysicalOptimizerRule for YieldAfterJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let multiplies = |node: &Arc<dyn ExecutionPlan>| {
            node.name().ends_with("JoinExec") || node.name() == "UnnestExec"
        };
        plan.transform_up(|node| {
            Ok(if multiplies(&node) {
                Transformed::yes(Arc::new(CooperativeExec::new(node)) as _)
            } else {
                Transformed::no(node)
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "yield_after_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
