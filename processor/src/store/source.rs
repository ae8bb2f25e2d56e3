//! The store as DataFusion sees it: tables that are read when a query runs, not when it is planned.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    common::config::Dialect,
    error::Result,
    execution::{
        SendableRecordBatchStream, TaskContext,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
    prelude::SessionConfig,
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

/// The settings that every session over the store has: one partition, so that the same rows give
/// the same answer in the same order; PostgreSQL's dialect, so that one text runs everywhere;
/// no dynamic filters, because a kept plan must carry nothing from one run to the next.
pub fn session() -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(1).with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    config
}

/// A runtime whose queries together use at most `memory` bytes, and no disk.
pub fn runtime(memory: usize) -> Result<Arc<RuntimeEnv>> {
    RuntimeEnvBuilder::new()
        .with_memory_limit(memory, 1.0)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
}
