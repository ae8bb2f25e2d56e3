//! What time it is, by the clocks of all who send.
//!
//! Nobody's clock is right by itself. A sender moves the time on by what it says, as long as that is near;
//! one that says something else is a vote. When enough vote the same the time follows them, ahead or
//! back; one sender alone is followed when nobody else speaks.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::Time;

/// Clocks that differ less than this agree: exporters send every so often.
const NEAR: i64 = 15_000_000_000;
/// A vote counts for so long, ns.
const HEARD: i64 = 120_000_000_000;
/// A sender is believed to have gone back when it has said so for this long, ns: of what it sends some may
/// always come late.
const BACK: i64 = 60_000_000_000;
/// What is further off than this is believed when so many said the like one after the other, in one request or
/// in several, and nobody said anything else: after a hole in everything it is simply later.
const REPEATED: u32 = 8;
const ASTRAY: i64 = 3_600_000_000_000;
/// The year 2200; what claims to be later has no clock at all.
const LATEST: Time = Time(7_258_118_400_000_000_000);
/// Senders remembered.
const MOST_SENDERS: usize = 20_000;

/// What one sender's clock says against the engine's.
#[derive(Debug)]
struct Vote {
    /// By how much it is ahead, ns; what comes late makes it no slower.
    ahead: i64,
    /// What it said when it first said less than that; it did so ever since.
    less: Option<Time>,
    heard: Time,
}

/// The time that the senders agree on.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Time,
    votes: BTreeMap<u64, Vote>,
    last: Option<u64>,
    /// How many in a row were far off, and what the last of them said.
    astray: (u32, Time),
    /// When one that was far off was last contradicted: others went on as before.
    contradicted: Option<Time>,
}

impl Clock {
    /// The time by now.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Without anybody saying so: the wall's clock went on.
    pub(crate) fn went_on(&mut self, to: Time) {
        if to < LATEST {
            self.now = self.now.max(to);
        }
    }

    /// Is what claims to be of this time wrong about it? Within the hour it is, after its sender was heard;
    /// what is further off could be the first to say that time has passed, unless others speak too.
    pub(crate) fn doubts(&self, time: Time) -> bool {
        let off = |other: Time| other.0.abs_diff(self.now.0);
        off(time) <= ASTRAY.unsigned_abs()
            || time >= LATEST
            || self.contradicted.is_some_and(|then| off(then) <= HEARD.unsigned_abs())
    }

    /// A sender says that it is `says`.
    pub(crate) fn heard(&mut self, sender: u64, says: Time) {
        if says <= Time::default() || says >= LATEST {
            return;
        }
        if self.now == Time::default() {
            self.now = says;
        }
        let mut ahead = says.0.saturating_sub(self.now.0);
        if ahead.abs() > ASTRAY {
            let (times, last) = self.astray;
            let alike = says.0.saturating_sub(last.0).abs() <= ASTRAY;
            self.astray = (if alike { times + 1 } else { 1 }, says);
            if self.astray.0 < REPEATED {
                return;
            }
        } else {
            if (1..REPEATED).contains(&self.astray.0) {
                self.contradicted = Some(self.now);
            }
            self.astray.0 = 0;
        }
        let alone = self.last.replace(sender) == Some(sender);
        let before = self.votes.get(&sender).map(|vote| vote.ahead);
        if (1..=NEAR).contains(&ahead) {
            self.now = says;
            ahead = 0;
        } else if let Some(before) =
            before.filter(|before| alone && ahead > *before && ahead > NEAR)
        {
            // Nobody said anything since it last spoke: time has passed by as much as it says.
            self.now = self.now + Duration::from_nanos((ahead - before).unsigned_abs());
            ahead = before;
        }
        self.vote(sender, ahead, says);
        if ahead.abs() > NEAR {
            self.follow();
        }
    }

    fn vote(&mut self, sender: u64, ahead: i64, says: Time) {
        let now = self.now;
        if self.votes.len() >= MOST_SENDERS && !self.votes.contains_key(&sender) {
            self.votes.pop_first();
        }
        let vote = self.votes.entry(sender).or_insert(Vote { ahead, less: None, heard: now });
        vote.heard = now;
        let since = *vote.less.get_or_insert(says);
        if ahead >= vote.ahead || says.0 - since.0 > BACK {
            (vote.ahead, vote.less) = (ahead, None);
        }
    }

    /// The time is what a quarter of the senders, and two at least, have reached.
    fn follow(&mut self) {
        let oldest = Time(self.now.0.saturating_sub(HEARD));
        let mut ahead: Vec<i64> = self
            .votes
            .values()
            .filter(|vote| vote.heard >= oldest)
            .map(|vote| vote.ahead)
            .collect();
        let needed = ahead.len().div_ceil(4).max(2).min(ahead.len());
        let Some(at) = ahead.len().checked_sub(needed) else { return };
        let (_, by, _) = ahead.select_nth_unstable(at);
        let by = *by;
        if by.abs() <= NEAR {
            return;
        }
        self.now = Time(self.now.0.saturating_add(by));
        let now = self.now;
        self.votes.retain(|_, vote| {
            let counted = vote.heard >= oldest;
            vote.ahead -= by;
            vote.heard = now;
            counted
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_795_316_400;

    fn at(second: i64) -> Time {
        Time((START + second) * 1_000_000_000)
    }

    #[test]
    fn one_that_is_ahead_does_not_set_the_time_whoever_speaks_first() {
        for (first, second) in [(1, 2), (2, 1)] {
            let mut clock = Clock::default();
            for now in 0..300 {
                for sender in [first, second] {
                    let skew = if sender == 1 { 60 } else { 0 };
                    clock.heard(sender, at(now + skew));
                }
                assert!(now < 10 || (now - 1..=now + 1).map(at).any(|t| t == clock.now()), "{now}");
            }
        }
    }

    #[test]
    fn one_that_speaks_seldom_does_not_hold_the_time_up() {
        let mut clock = Clock::default();
        for now in 0..300 {
            clock.heard(1, at(now));
            if now % 60 == 0 {
                clock.heard(2, at(now - 10));
            }
            assert_eq!(clock.now(), at(now));
        }
        for now in 1..100 {
            clock.heard(3, at(300 + now * 125));
        }
        assert_eq!(clock.now(), at(300 + 99 * 125));
    }

    #[test]
    fn after_a_hole_of_hours_all_need_to_say_so_but_once() {
        let mut clock = Clock::default();
        for now in (0..1500).step_by(300).chain((30_000..31_500).step_by(300)) {
            (1..36).for_each(|sender| clock.heard(sender, at(now)));
            assert_eq!(clock.now(), at(now));
        }
        // One that is astray is not believed while others speak.
        for now in 31_201..31_300 {
            clock.heard(1, at(now + 100_000));
            clock.heard(2, at(now));
            assert_eq!(clock.now(), at(now));
        }
    }

    #[test]
    fn when_all_jump_the_time_jumps_and_when_one_errs_it_comes_back() {
        let mut clock = Clock::default();
        for now in (0..60).chain(660..720) {
            (1..10).for_each(|sender| clock.heard(sender, at(now)));
        }
        assert_eq!(clock.now(), at(719));
        let mut clock = Clock::default();
        for now in 0..180 {
            clock.heard(1, at(if now == 60 { 1860 } else { now }));
        }
        assert_eq!(clock.now(), at(179));
    }
}
