//! Of the same line again and again, some: `service.telemetry.logs.sampling`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::telemetry::Sampling;

/// Different lines that are counted in one tick; more are all written.
const MOST: usize = 4096;

/// Counts lines by where they are written in the program.
pub(super) struct Sampler {
    tick: Duration,
    initial: u64,
    thereafter: u64,
    seen: Mutex<HashMap<usize, (Instant, u64)>>,
}

impl Sampler {
    pub(super) fn new(config: &Sampling) -> Self {
        Sampler {
            tick: *config.tick,
            initial: config.initial,
            thereafter: config.thereafter,
            seen: Mutex::default(),
        }
    }

    /// Is the line to be written? `place` tells lines apart.
    pub(super) fn takes(&self, place: usize, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST && !seen.contains_key(&place) {
            return true;
        }
        let (since, count) = seen.entry(place).or_insert((now, 0));
        if now.duration_since(*since) >= self.tick {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= self.initial
            || (self.thereafter > 0 && (*count - self.initial).is_multiple_of(self.thereafter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_and_then_every_nth_are_written_in_each_tick() {
        let sampler = Sampler::new(&Sampling { initial: 2, thereafter: 3, ..Sampling::default() });
        let start = Instant::now();
        let taken = |now| (1..=8).filter(|_| sampler.takes(1, now)).count();
        assert_eq!(taken(start), 4); // 1, 2, 5, 8
        assert!(sampler.takes(2, start), "another line has its own count");
        assert_eq!(taken(start + Duration::from_secs(10)), 4);
    }
}
