//! Whether the hop is ready, and since when.

use std::{
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

/// Not ready while starting and while stopping.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<Since>>);

/// The moment from which the hop was ready, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Instant,
}

impl Health {
    /// Ready from now on, or not any more.
    pub(crate) fn set_ready(&self, ready: bool) {
        let since = ready.then(|| Since { wall: SystemTime::now(), monotonic: Instant::now() });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// `None` while starting and stopping.
    pub(crate) fn ready_since(&self) -> Option<Since> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
