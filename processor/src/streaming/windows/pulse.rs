//! Services that were asked steadily and are asked no more: the requests that do not come.

use std::time::Duration;

use tapio_proto::model::{Entity, Time};

use super::{ServiceId, Windows};
use crate::streaming::Map;

/// A pause that is shorter is one that any service may have.
const LEAST: Duration = Duration::from_secs(60);
/// So long it must have been asked before it can be missed.
const STEADY: Duration = Duration::from_secs(300);
/// A pause that is not so many times as long as the longest before it is one of them.
const LONGER: f64 = 4.0;
/// Requests that would have come by now.
const MISSED: f64 = 30.0;
/// What was longer ago than one to two of these is forgotten.
const TURN: Duration = Duration::from_secs(900);

/// A service that is asked no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// The service.
    pub service: Entity,
    /// When the next request would have come.
    pub since: Time,
    /// Requests a second before.
    pub usual: f64,
    /// Its longest pause before, s.
    pub within: f64,
}

/// How a service is asked.
#[derive(Clone, Copy)]
struct Pulse {
    /// The end of the newest request.
    last: Time,
    /// This turn and the one before.
    turns: [Turn; 2],
}

#[derive(Clone, Copy)]
struct Turn {
    since: Time,
    count: u64,
    /// The longest pause, ns.
    longest: i64,
}

impl Turn {
    fn new(since: Time) -> Self {
        Turn { since, count: 0, longest: 0 }
    }
}

/// How services are asked.
#[derive(Default)]
pub(super) struct Pulses {
    each: Map<ServiceId, Pulse>,
}

impl Pulses {
    /// A request ended then, which stands for `weight`.
    pub(super) fn beat(&mut self, service: ServiceId, end: Time, weight: u32) {
        let pulse = self
            .each
            .entry(service)
            .or_insert_with(|| Pulse { last: end, turns: [Turn::new(end); 2] });
        if pulse.turns[0].since + TURN < end {
            pulse.turns = [Turn::new(end), pulse.turns[0]];
        }
        let turn = &mut pulse.turns[0];
        turn.count += u64::from(weight);
        turn.longest = turn.longest.max(end.0.saturating_sub(pulse.last.0));
        pulse.last = pulse.last.max(end);
    }

    /// Only these services are left.
    pub(super) fn retain(&mut self, here: impl Fn(&ServiceId) -> bool) {
        self.each.retain(|service, _| here(service));
    }
}

impl Pulse {
    /// Is it missed: since when, how often it came before, and its longest pause?
    fn missed(&self, now: Time) -> Option<(Time, f64, f64)> {
        let first = self.turns[0].since.min(self.turns[1].since);
        let steady = self.last.seconds_since(first);
        let count = self.turns[0].count + self.turns[1].count;
        let usual = count as f64 / steady.max(1.0);
        let longest = self.turns[0].longest.max(self.turns[1].longest) as f64 / 1e9;
        let pause = now.seconds_since(self.last);
        let is_missed = steady >= STEADY.as_secs_f64()
            && pause >= LEAST.as_secs_f64()
            && pause >= LONGER * longest
            && pause * usual >= MISSED;
        is_missed.then(|| (self.last + Duration::from_secs_f64(1.0 / usual), usual, longest))
    }
}

impl Windows {
    /// Services that were asked steadily and are asked no more, under whatever name they send.
    pub fn silent(&self, now: Time) -> Vec<Silent> {
        let missed = |id: &ServiceId| self.pulses.each.get(id).and_then(|p| p.missed(now));
        let mut silent: Vec<Silent> = Vec::new();
        for id in self.pulses.each.keys() {
            let Some((since, usual, within)) = missed(id) else { continue };
            let service = self.entity(*id);
            // By another of its names it may still be asked.
            let is_asked = |id| self.pulses.each.contains_key(&id) && missed(&id).is_none();
            if !self.ids(&service.namespace, &service.name).any(is_asked) {
                silent.push(Silent { service, since, usual, within });
            }
        }
        silent.sort_by(|a, b| (&a.service, a.since).cmp(&(&b.service, b.since)));
        silent.dedup_by(|later, first| later.service == first.service);
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: f64) -> Time {
        Time((s * 1e9) as i64)
    }

    /// Of one who is asked each `every` seconds for so many seconds.
    fn pulse(every: f64, for_: f64) -> Pulse {
        let mut pulses = Pulses::default();
        let mut end = 0.0;
        while end <= for_ {
            pulses.beat(ServiceId(0), at(end), 1);
            end += every;
        }
        pulses.each[&ServiceId(0)]
    }

    #[test]
    fn who_is_asked_steadily_is_missed_when_it_is_asked_no_more() {
        let pulse = pulse(0.5, 3600.0);
        assert_eq!(pulse.missed(at(3650.0)), None);
        let (since, usual, longest) = pulse.missed(at(3661.0)).unwrap_or_default();
        assert_eq!(
            (since.seconds_since(at(3600.0)).round(), usual.round(), longest),
            (0.0, 2.0, 0.5)
        );
    }

    #[test]
    fn who_is_asked_seldom_or_was_not_for_long_is_not_missed() {
        assert_eq!(pulse(30.0, 3600.0).missed(at(3700.0)), None);
        assert!(pulse(30.0, 3600.0).missed(at(3600.0 + 1000.0)).is_some());
        assert_eq!(pulse(0.5, 200.0).missed(at(900.0)), None);
    }

    #[test]
    fn a_pause_like_one_before_is_none_to_be_missed_for() {
        let mut pulses = Pulses::default();
        for s in (0..3600).filter(|s| s % 600 < 480) {
            pulses.beat(ServiceId(0), at(f64::from(s)), 1);
        }
        let pulse = pulses.each[&ServiceId(0)];
        assert_eq!(pulse.missed(at(3480.0 + 400.0)), None);
        assert!(pulse.missed(at(3480.0 + 500.0)).is_some());
    }
}
