//! Memory pressure: who sees it tells those who can do with less.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether the process is short of memory. The analysis gives way first: it can do without a while
/// of telemetry, its senders cannot.
#[derive(Debug, Default)]
pub struct Pressure {
    on: AtomicBool,
    times: AtomicU64,
}

impl Pressure {
    /// Says how it stands now.
    pub fn set(&self, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on && on {
            self.times.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Is memory short now?
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// How often it began.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }
}
