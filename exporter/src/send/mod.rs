//! Keeping a request until it is delivered: the queue, the retries, and the workers between them.

mod batch;
mod exporter;
mod queue;
mod retry;
mod sample;
mod stored;

pub use exporter::{Exporter, Leftover, Observer};
pub use queue::{QueueConfig, Sizer};
pub use retry::RetryConfig;

use crate::net::ConfigError;

/// How an exporter sends: `sending_queue` and `retry_on_failure`, checked.
#[derive(Clone, Debug, Default)]
pub struct SendConfig {
    pub(crate) queue: QueueConfig,
    pub(crate) retry: RetryConfig,
}

impl SendConfig {
    /// Refuses what cannot work.
    pub fn new(queue: QueueConfig, retry: RetryConfig) -> Result<Self, ConfigError> {
        queue.check()?;
        retry.check()?;
        Ok(SendConfig { queue, retry })
    }
}
