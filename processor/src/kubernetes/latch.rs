//! States that hold: a fact is told when a state begins and when it ends, not each time it is seen.

use std::time::Duration;

use tapio_proto::model::Time;

/// A bad state of something that was never seen well is its start-up for this long, then a fact.
const BIRTH: Duration = Duration::from_secs(60);

/// What an observation means against the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing that was not told before.
    None,
    /// It broke, or it is broken and that was not told yet.
    Broke,
    /// It was told to be broken and works again.
    Recovered,
    /// It works for the first time since it came to be.
    Born,
}

/// The memory of one state of one thing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latch {
    told_bad: bool,
    seen_good: bool,
    seen_bad: bool,
}

impl Latch {
    /// One observation; `since` is when the present state began.
    pub(super) fn observe(&mut self, bad: bool, since: Time, seen: Time) -> Turn {
        let lasting = since + BIRTH <= seen;
        match bad {
            true if !self.told_bad && (self.seen_good || lasting) => {
                self.told_bad = true;
                Turn::Broke
            }
            true => {
                self.seen_bad = true;
                Turn::None
            }
            false => {
                let turn = match (self.told_bad, self.seen_bad && !self.seen_good) {
                    (true, _) => Turn::Recovered,
                    (false, true) => Turn::Born,
                    (false, false) => Turn::None,
                };
                *self = Latch { told_bad: false, seen_good: true, seen_bad: false };
                turn
            }
        }
    }

    /// One observation of a state that is a fact from its first moment.
    pub(super) fn observe_at_once(&mut self, bad: bool, seen: Time) -> Turn {
        self.observe(bad, Time(i64::MIN / 2), seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(i64) -> Time = |seconds| Time(seconds * 1_000_000_000);

    #[test]
    fn a_start_up_is_no_failure_unless_it_lasts() {
        let mut latch = Latch::default();
        assert_eq!(latch.observe(true, T(0), T(5)), Turn::None);
        assert_eq!(latch.observe(true, T(0), T(60)), Turn::Broke);
        assert_eq!(latch.observe(true, T(0), T(61)), Turn::None);
        assert_eq!(latch.observe(false, T(62), T(62)), Turn::Recovered);
    }

    #[test]
    fn what_worked_breaks_at_once() {
        let mut latch = Latch::default();
        assert_eq!(latch.observe(true, T(0), T(1)), Turn::None);
        assert_eq!(latch.observe(false, T(2), T(2)), Turn::Born);
        assert_eq!(latch.observe(true, T(3), T(3)), Turn::Broke);
        assert_eq!(latch.observe(true, T(3), T(4)), Turn::None);
        assert_eq!(latch.observe(false, T(5), T(5)), Turn::Recovered);
        assert_eq!(latch.observe(false, T(5), T(6)), Turn::None);
    }
}
