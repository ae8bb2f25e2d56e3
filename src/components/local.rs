//! Exporters that stay on this machine, and the processors that only shape the flow.

use std::sync::Arc;

use tapio_exporter::{Debug, DebugConfig, File, FileConfig};
use tapio_processor::{
    batch::{Batch, BatchConfig, PATIENCE},
    memory_limiter::{MemoryLimiter, MemoryLimiterConfig},
};
use tapio_proto::{Next, Signal};

use super::{Context, Stage, nothing_to_stop, observe::Counted};

pub(super) fn check_file(config: &FileConfig) -> Result<(), String> {
    if config.path.as_os_str().is_empty() { Err("path must be non-empty".into()) } else { Ok(()) }
}

pub(super) async fn start_file(config: FileConfig, context: Context) -> Result<Stage, String> {
    let file = File::open(&config).map_err(|error| error.to_string())?;
    Ok(Stage { next: Counted::around(Arc::new(file), &context), stop: nothing_to_stop() })
}

pub(super) async fn start_debug(config: DebugConfig, context: Context) -> Result<Stage, String> {
    Ok(Stage {
        next: Counted::around(Arc::new(Debug::new(config)), &context),
        stop: nothing_to_stop(),
    })
}

pub(super) async fn start_batch(
    config: BatchConfig,
    context: Context,
    _: Signal,
    next: Next,
) -> Result<Stage, String> {
    if *config.timeout > PATIENCE {
        tracing::warn!(
            processor = context.id.as_str(),
            timeout = ?config.timeout,
            used = ?PATIENCE,
            "Senders wait for their batch to leave; a longer timeout than this is not used."
        );
    }
    // Nothing to drain: who waits for a batch has not been told that it is taken.
    Ok(Stage { next: Arc::new(Batch::new(config, next)), stop: nothing_to_stop() })
}

pub(super) async fn start_memory_limiter(
    config: MemoryLimiterConfig,
    context: Context,
    _: Signal,
    next: Next,
) -> Result<Stage, String> {
    let pressure = Arc::clone(&context.host.pressure);
    Ok(Stage {
        next: Arc::new(MemoryLimiter::new(&config, next, pressure)),
        stop: nothing_to_stop(),
    })
}
