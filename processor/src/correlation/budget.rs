//! The time that a correlation pass may take. One that takes longer is cut, and made up for on a
//! smaller window; when passes are quick again the window grows back.

use std::time::Duration;

/// The window is halved twice with each step down.
const STEPS: u32 = 2;
/// So many passes in a row that had three quarters of their time left bring the window one step back.
const CALM: u32 = 30;

/// How much of the past a pass looks at, given how long passes take.
#[derive(Debug)]
pub struct Budget {
    time: Duration,
    step: u32,
    calm: u32,
    deferred: bool,
    cuts: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(Duration::from_secs(5))
    }
}

impl Budget {
    /// Passes may take `time`.
    pub fn new(time: Duration) -> Self {
        Budget { time, step: 0, calm: 0, deferred: false, cuts: 0 }
    }

    /// The time of the next pass. On the smallest window a pass is finished however long it takes, or
    /// nothing would ever be told; its queries have a limit of their own.
    pub fn time(&self) -> Option<Duration> {
        (self.step < STEPS).then_some(self.time)
    }

    /// What the next pass looks at of a window that is `whole` long.
    pub fn of(&self, whole: Duration) -> Duration {
        whole / (1 << (2 * self.step))
    }

    /// Is the whole window looked at?
    pub fn is_whole(&self) -> bool {
        self.step == 0
    }

    /// A pass took too long: it is to be made again, on less.
    pub fn cut(&mut self) {
        self.cuts += 1;
        self.deferred = true;
        self.calm = 0;
        self.step = (self.step + 1).min(STEPS);
    }

    /// A pass took so long.
    pub fn finished(&mut self, took: Duration) {
        self.deferred = false;
        self.calm = if took <= self.time / 4 { self.calm + 1 } else { 0 };
        if self.step > 0 && self.calm >= CALM {
            self.step -= 1;
            self.calm = 0;
        }
    }

    /// Is there a pass that was cut and not made up for?
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Passes that were cut so far.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// What stories lack because of it.
    pub fn lacks(&self, whole: Duration) -> Option<String> {
        (self.step > 0).then(|| {
            let left = self.of(whole).as_secs();
            let left = if left < 60 { format!("{left} s") } else { format!("{} min", left / 60) };
            format!(
                "a pass over the whole window took longer than {:?}, so only the last {left} were looked at",
                self.time
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_is_cut_shrinks_the_window_until_passes_are_quick_again() {
        let (whole, slow, quick) =
            (Duration::from_secs(7200), Duration::from_secs(3), Duration::from_millis(10));
        let mut budget = Budget::default();
        assert_eq!((budget.time(), budget.lacks(whole)), (Some(Duration::from_secs(5)), None));
        budget.cut();
        assert!(budget.is_deferred());
        assert_eq!(budget.of(whole), Duration::from_secs(1800));
        assert!(budget.lacks(whole).is_some_and(|lacks| lacks.ends_with("30 min were looked at")));
        budget.cut();
        assert_eq!((budget.time(), budget.of(whole)), (None, Duration::from_secs(450)));
        for _ in 0..100 {
            budget.finished(slow);
        }
        assert_eq!(budget.of(whole), Duration::from_secs(450), "it would be cut again");
        for _ in 0..2 * CALM {
            budget.finished(quick);
        }
        assert!(!budget.is_deferred());
        assert_eq!((budget.of(whole), budget.lacks(whole), budget.cuts()), (whole, None, 2));
    }
}
