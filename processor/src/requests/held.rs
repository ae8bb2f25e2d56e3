//! Spans and lines of requests that may not be complete yet.

use std::collections::{HashMap, VecDeque};

use tapio_proto::model::Time;

use super::{Line, Part};

/// A request is complete when nothing of it has come for this long, ns: exporters send what they have
/// every few seconds.
const QUIET: i64 = 6_000_000_000;
/// Requests held.
const MOST: usize = 50_000;
/// Spans and lines held of one.
const MOST_PARTS: usize = 1_000;
/// Spans a second above which only a share of the requests is put together.
const BUDGET: u32 = 6_000;

/// A request as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) last: Time,
    pub(super) parts: Vec<Part>,
    pub(super) lines: Vec<Line>,
}

/// All that are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    open: HashMap<[u8; 16], Open>,
    due: VecDeque<(Time, [u8; 16])>,
    /// Only requests of which the hash ends with so many zero bits.
    bits: u32,
    second: i64,
    offered: u32,
}

impl Held {
    pub(super) fn wants(&mut self, trace_id: &[u8], now: Time) -> bool {
        let second = now.0.div_euclid(1_000_000_000);
        if second != self.second {
            let kept = self.offered >> self.bits;
            if kept > BUDGET {
                self.bits = (self.bits + 1).min(20);
            } else if kept < BUDGET / 4 {
                self.bits = self.bits.saturating_sub(1);
            }
            (self.second, self.offered) = (second, 0);
        }
        self.offered = self.offered.saturating_add(1);
        if self.bits == 0 {
            return trace_id.len() == 16;
        }
        let Some(Ok(low)) = trace_id.get(8..16).map(<[u8; 8]>::try_from) else { return false };
        let hash = u64::from_be_bytes(low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash >> (64 - self.bits) == 0
    }

    fn of(&mut self, trace_id: &[u8], now: Time) -> Option<&mut Open> {
        let id: [u8; 16] = trace_id.try_into().ok()?;
        if !self.open.contains_key(&id) {
            if self.open.len() >= MOST {
                return None;
            }
            self.due.push_back((Time(now.0 + QUIET), id));
        }
        let open = self.open.entry(id).or_default();
        open.last = open.last.max(now);
        (open.parts.len() + open.lines.len() < MOST_PARTS).then_some(open)
    }

    pub(super) fn part(&mut self, trace_id: &[u8], part: Part, now: Time) {
        if let Some(open) = self.of(trace_id, now) {
            open.parts.push(part);
        }
    }

    pub(super) fn line(&mut self, trace_id: &[u8], line: Line, now: Time) {
        if let Some(open) = self.of(trace_id, now) {
            open.lines.push(line);
        }
    }

    /// The next request that is complete by now.
    pub(super) fn due(&mut self, now: Time) -> Option<Open> {
        while let Some((at, id)) = self.due.front().copied() {
            if at > now {
                return None;
            }
            self.due.pop_front();
            let last = self.open.get(&id).map(|open| open.last.0 + QUIET)?;
            if last <= now.0 {
                return self.open.remove(&id);
            }
            self.due.push_back((Time(last), id));
        }
        None
    }
}
