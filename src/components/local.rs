//! Exporters that stay on this machine, and what only shapes the flow.

use std::sync::Arc;

use serde::Deserialize;
use tapio_exporter::{Debug, DebugConfig, Fanout, File, FileConfig};
use tapio_processor::{
    attributes::{Attributes, AttributesConfig, Resource, ResourceConfig},
    batch::{Batch, BatchConfig, PATIENCE},
    memory_limiter::{MemoryLimiter, MemoryLimiterConfig},
};
use tapio_proto::{CanBatch, Next, Signal};

use super::{
    Context, Outputs, Stage, Stop, nothing_to_stop,
    observe::{BatchCounts, Counted},
};

/// The body of a component that has no keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) fn check_file(config: &FileConfig) -> Result<(), String> {
    config.check().map_err(|error| error.to_string())
}

pub(super) async fn start_file(config: FileConfig, context: Context) -> Result<Stage, String> {
    let file = File::open(&config).map_err(|error| error.to_string())?;
    Ok(Stage::new(Counted::around(Arc::new(file), &context), nothing_to_stop()))
}

pub(super) fn check_debug(config: &DebugConfig) -> Result<(), String> {
    config.check().map_err(|error| error.to_string())
}

pub(super) async fn start_debug(config: DebugConfig, context: Context) -> Result<Stage, String> {
    let debug = Debug::new(context.id.as_str(), config).map_err(|error| error.to_string())?;
    Ok(Stage::new(Counted::around(Arc::new(debug), &context), nothing_to_stop()))
}

pub(super) async fn start_batch(
    config: BatchConfig,
    context: Context,
    signal: Signal,
    next: Next,
) -> Result<Stage, String> {
    let batching = config.batching(Box::new(BatchCounts::new(&context)));
    if next.can_batch(signal, &batching) == CanBatch::Yes {
        let batching = Arc::new(batching);
        next.batch(signal, &batching);
        // As long as this is not stopped, the rule is held.
        let stop: Stop = Box::new(move || {
            drop(batching);
            Box::pin(async {})
        });
        return Ok(Stage::new(next, stop));
    }
    if *config.timeout > PATIENCE {
        tracing::warn!(
            processor = context.id.as_str(),
            timeout = ?config.timeout,
            used = ?PATIENCE,
            "Senders wait for their batch to leave; a longer timeout than this is not used."
        );
    }
    // Nothing to drain: who waits for a batch has not been told that it is taken.
    let batch = Batch::observed(config, next, batching.observer);
    Ok(Stage::new(Arc::new(batch), nothing_to_stop()))
}

pub(super) async fn start_memory_limiter(
    config: MemoryLimiterConfig,
    context: Context,
    _: Signal,
    next: Next,
) -> Result<Stage, String> {
    let pressure = Arc::clone(&context.host.pressure);
    Ok(Stage::new(Arc::new(MemoryLimiter::new(&config, next, pressure)), nothing_to_stop()))
}

pub(super) async fn start_attributes(
    config: AttributesConfig,
    _: Context,
    signal: Signal,
    next: Next,
) -> Result<Stage, String> {
    Ok(Stage::new(Arc::new(Attributes::new(&config, signal, next)?), nothing_to_stop()))
}

pub(super) async fn start_resource(
    config: ResourceConfig,
    _: Context,
    _: Signal,
    next: Next,
) -> Result<Stage, String> {
    Ok(Stage::new(Arc::new(Resource::new(&config, next)?), nothing_to_stop()))
}

/// Receives nothing: the head of a pipeline that is fed by stories alone, or a placeholder.
pub(super) async fn start_nop_receiver(_: Nothing, _: Context, _: Outputs) -> Result<Stop, String> {
    Ok(nothing_to_stop())
}

/// Takes everything and forgets it.
pub(super) async fn start_nop_exporter(_: Nothing, _: Context) -> Result<Stage, String> {
    Ok(Stage::new(Fanout::of(Vec::new()), nothing_to_stop()))
}

/// The `forward` connector: what one pipeline sends is what the next one receives.
pub(super) fn forward(outputs: Outputs) -> Outputs {
    outputs
}
