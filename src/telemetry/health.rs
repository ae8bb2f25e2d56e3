//! Whether the hop is ready, and since when; and what each component is doing.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

/// Starting until it is ready, and then stopping.
#[derive(Debug)]
pub(crate) struct Health(Mutex<Now>);

#[derive(Clone, Debug)]
struct Now {
    state: State,
    since: Since,
    started: SystemTime,
    pipelines: Vec<Running>,
    extensions: Vec<String>,
}

/// What the whole is doing. A component has no state of its own: it starts, runs and stops with all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Ok,
    Stopping,
}

/// The names of what runs in one pipeline, for those who look from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) receivers: Vec<String>,
    pub(crate) processors: Vec<String>,
    pub(crate) exporters: Vec<String>,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Instant,
}

/// All that is known at one moment.
pub(crate) struct Seen {
    pub(crate) state: State,
    /// When the state began.
    pub(crate) since: Since,
    /// When the process began.
    pub(crate) started: SystemTime,
    pub(crate) pipelines: Vec<Running>,
    pub(crate) extensions: Vec<String>,
}

impl Health {
    /// The state changes now; to what it is already is no change.
    pub(crate) fn set(&self, state: State) {
        let mut now = self.lock();
        if now.state != state {
            (now.state, now.since) = (state, Since::now());
        }
    }

    /// What runs from now on.
    pub(crate) fn runs(&self, pipelines: Vec<Running>, extensions: Vec<String>) {
        let mut now = self.lock();
        (now.pipelines, now.extensions) = (pipelines, extensions);
    }

    /// `None` while starting and stopping.
    pub(crate) fn ready_since(&self) -> Option<Since> {
        let now = self.lock();
        (now.state == State::Ok).then_some(now.since)
    }

    pub(crate) fn seen(&self) -> Seen {
        let Now { state, since, started, pipelines, extensions } = self.lock().clone();
        Seen { state, since, started, pipelines, extensions }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        let since = Since::now();
        Health(Mutex::new(Now {
            state: State::Starting,
            since,
            started: since.wall,
            pipelines: Vec::new(),
            extensions: Vec::new(),
        }))
    }
}

impl Since {
    fn now() -> Self {
        Since { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}
