//! Memory pressure: who sees it tells those who can do with less.

use std::sync::{Mutex, PoisonError};

/// Looks in a row at which memory was not short before one more is allowed again.
const CALM: u32 = 5;

/// How closely the analysis looks, best first. It gives way before anything else does: it can do without
/// a while of telemetry, its senders cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// At everything.
    #[default]
    Full,
    /// At one request of spans in eight, which stands for the others.
    Sampled,
    /// The same, and rows are not kept: only windows, series, levels and states.
    Rollups,
    /// At nothing.
    Paused,
}

impl Resolution {
    /// As metrics and texts name it.
    pub fn name(self) -> &'static str {
        match self {
            Resolution::Full => "full",
            Resolution::Sampled => "sampled",
            Resolution::Rollups => "rollups",
            Resolution::Paused => "paused",
        }
    }

    fn less(self) -> Self {
        match self {
            Resolution::Full => Resolution::Sampled,
            Resolution::Sampled => Resolution::Rollups,
            _ => Resolution::Paused,
        }
    }

    fn more(self) -> Self {
        match self {
            Resolution::Paused => Resolution::Rollups,
            Resolution::Rollups => Resolution::Sampled,
            _ => Resolution::Full,
        }
    }
}

/// Whether the process is short of memory, and since when in looks.
#[derive(Debug, Default)]
pub struct Pressure {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    on: bool,
    times: u64,
    calm: u32,
    resolution: Resolution,
}

impl Pressure {
    /// Says how it stands now. Each look at which memory is short takes the resolution one step down;
    /// each five in a row at which it is not, one step up.
    pub fn set(&self, on: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if on {
            state.times += u64::from(!state.on);
            state.resolution = state.resolution.less();
            state.calm = 0;
        } else {
            state.calm += 1;
            if state.calm >= CALM {
                state.resolution = state.resolution.more();
                state.calm = 0;
            }
        }
        state.on = on;
    }

    /// Is memory short now?
    pub fn is_on(&self) -> bool {
        self.state().on
    }

    /// How often it began.
    pub fn times(&self) -> u64 {
        self.state().times
    }

    /// How closely the analysis may look now.
    pub fn resolution(&self) -> Resolution {
        self.state().resolution
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolution_falls_step_by_step_and_comes_back_when_memory_is_free() {
        use Resolution::{Full, Paused, Rollups, Sampled};
        let pressure = Pressure::default();
        let after = |on: bool, looks: u32| {
            (0..looks).for_each(|_| pressure.set(on));
            pressure.resolution()
        };
        assert_eq!(pressure.resolution(), Full);
        assert_eq!([true; 4].map(|on| after(on, 1)), [Sampled, Rollups, Paused, Paused]);
        assert_eq!(pressure.times(), 1);
        assert_eq!((after(false, CALM - 1), pressure.is_on()), (Paused, false));
        assert_eq!(after(false, 1), Rollups);
        assert_eq!(after(true, 1), Paused, "not so soon");
        assert_eq!([CALM; 4].map(|looks| after(false, looks)), [Rollups, Sampled, Full, Full]);
        assert_eq!(pressure.times(), 2);
    }
}
