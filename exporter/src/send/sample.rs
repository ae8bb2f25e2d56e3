//! A trouble that comes with each request is told a few times, then now and then, as the Collector does.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_secs(10);
const FIRST: u64 = 10;
const THEREAFTER: u64 = 100;

/// One kind of message.
#[derive(Default)]
pub(super) struct Sample(Mutex<Option<(Instant, u64)>>);

impl Sample {
    /// Whether to tell it this time: the first ten within ten seconds, then each hundredth.
    pub(super) fn speak(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = match *state {
            Some((since, count)) if since.elapsed() < TICK => (since, count + 1),
            _ => (Instant::now(), 1),
        };
        *state = Some((since, count));
        count <= FIRST || (count - FIRST).is_multiple_of(THEREAFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_are_told_and_then_each_hundredth() {
        let sample = Sample::default();
        assert_eq!((0..1000).filter(|_| sample.speak()).count(), 10 + 9);
    }
}
