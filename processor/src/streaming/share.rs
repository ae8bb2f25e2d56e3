//! How many of a flood are looked at: as many as there is time for, the others by those that stand for them.

use tapio_proto::model::Time;

use super::WINDOW;

/// All, or one of two, four, eight, so that there are not too many in a window.
#[derive(Debug)]
pub struct Share {
    most: u64,
    /// One of `1 << shift`.
    shift: u32,
    window: Time,
    taken: u64,
}

impl Share {
    /// About so many in a window at most.
    pub const fn new(most: u64) -> Self {
        Share { most, shift: 0, window: Time(0), taken: 0 }
    }

    /// How many one that is looked at `now` stands for, as a power of two.
    pub fn shift(&mut self, now: Time) -> u32 {
        let window = now.bucket(WINDOW);
        if self.window != window {
            self.window = window;
            if self.taken < self.most / 4 {
                self.shift = self.shift.saturating_sub(1);
            }
            self.taken = 0;
        } else if self.taken >= self.most {
            self.shift = (self.shift + 1).min(31);
            self.taken = self.most / 2;
        }
        self.shift
    }

    /// So many more were looked at.
    pub fn took(&mut self, count: u64) {
        self.taken += count;
    }
}
