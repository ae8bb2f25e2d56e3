//! How requests to services went over a time, counted on as windows come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::{Cell, Key, LATE, OTHER, ServiceId, SpanKind, Windows};
use crate::streaming::WINDOW;

/// How requests went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Of the others, those that took longer than they may; to the width of a bucket, 19 %.
    pub slow: u64,
}

impl Tally {
    fn add(&mut self, cell: &Cell, within: Option<Duration>) {
        self.requests += u64::from(cell.count);
        self.failed += u64::from(cell.errors());
        if let Some(within) = within {
            let good = u64::from(cell.count.saturating_sub(cell.errors()));
            let nanos = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
            self.slow += (good as f64 * cell.took.share_over(nanos)).round() as u64;
        }
    }

    fn plus(self, other: Tally) -> Tally {
        Tally {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            slow: self.slow + other.slow,
        }
    }
}

/// Requests to one service from one time to another; what windows said is kept when these are gone.
#[derive(Clone, Debug, Default)]
pub struct Count {
    since: Time,
    until: Time,
    within: Option<Duration>,
    /// Windows before this one are in `settled`.
    from: Time,
    settled: Parts,
    fresh: Parts,
}

/// As the service's own spans have it, by operation, and as its callers' have.
#[derive(Clone, Debug, Default)]
struct Parts {
    own: BTreeMap<Arc<str>, Tally>,
    callers: Tally,
}

impl Count {
    /// From when to when, and how long a good answer may take. Another beginning, or another limit, begins
    /// anew from the windows that there are.
    pub fn aim(&mut self, since: Time, until: Time, within: Option<Duration>) {
        if (self.since, self.within) != (since, within) {
            *self = Count { since, within, from: since.bucket(WINDOW), ..Count::default() };
        }
        self.until = until.max(since);
    }

    /// By operation, as the service's own spans have it.
    pub fn operations(&self) -> impl Iterator<Item = (&Arc<str>, Tally)> {
        let names: BTreeSet<&Arc<str>> =
            self.settled.own.keys().chain(self.fresh.own.keys()).collect();
        let of = |parts: &Parts, name| parts.own.get(name).copied().unwrap_or_default();
        names
            .into_iter()
            .map(move |name| (name, of(&self.settled, name).plus(of(&self.fresh, name))))
    }

    /// All operations together.
    pub fn own(&self) -> Tally {
        self.operations().fold(Tally::default(), |sum, (_, tally)| sum.plus(tally))
    }

    /// As its callers have it.
    pub fn callers(&self) -> Tally {
        self.settled.callers.plus(self.fresh.callers)
    }
}

impl Windows {
    /// Does it answer requests?
    pub fn serves(&self, service: &Entity) -> bool {
        let ids: BTreeSet<ServiceId> = self.ids(&service.namespace, &service.name).collect();
        let newest = self.slots.each.values().rev().take(12).flat_map(|slot| slot.cells.keys());
        newest.into_iter().any(|key| ids.contains(&key.service) && key.kind == SpanKind::Server)
    }

    /// Requests that a service was asked in each window from `from` on, up to `to`.
    pub fn asked(&self, service: &Entity, from: Time, to: Time) -> Vec<u64> {
        let ids: BTreeSet<ServiceId> = self.ids(&service.namespace, &service.name).collect();
        let from = from.bucket(WINDOW);
        let mut counts = vec![0; ((to.0 - from.0) / WINDOW).max(0) as usize + 1];
        for (bucket, slot) in self.slots.each.range(from..=to.max(from)) {
            let of = |(key, _): &(&Key, &Cell)| {
                ids.contains(&key.service) && key.kind == SpanKind::Server
            };
            let asked = slot.cells.iter().filter(of).map(|(_, cell)| u64::from(cell.count));
            if let Some(count) = counts.get_mut(((bucket.0 - from.0) / WINDOW) as usize) {
                *count = asked.sum();
            }
        }
        counts
    }

    /// Counts on: one walk over the windows that are new to any of them, or to which more may have come.
    pub fn count<'a>(&self, counts: impl Iterator<Item = (&'a Entity, &'a mut Count)>, now: Time) {
        let mut all: Vec<&mut Count> = Vec::new();
        let mut of: HashMap<&Entity, Vec<usize>> = HashMap::new();
        for (service, count) in counts {
            count.fresh = Parts::default();
            of.entry(service).or_default().push(all.len());
            all.push(count);
        }
        let Some(from) = all.iter().map(|count| count.from).min() else { return };
        let ids: Vec<Option<&Vec<usize>>> = self
            .called
            .iter()
            .map(|(namespace, name)| of.get(&Entity::new("Service", namespace, name)))
            .collect();
        let closed = (now - LATE).bucket(WINDOW);
        for (bucket, slot) in self.slots.each.range(from..=now.max(from)) {
            for (key, cell) in &slot.cells {
                let is_own = matches!(key.kind, SpanKind::Server | SpanKind::Consumer);
                let address = if is_own { OTHER.into() } else { self.addressed(key.peer) };
                let asked = match key.kind {
                    SpanKind::Client | SpanKind::Producer if !address.is_empty() => {
                        of.get(self.meant(key.service, &address).entity())
                    }
                    _ if is_own => ids[key.service.0 as usize],
                    _ => None,
                };
                for at in asked.into_iter().flatten() {
                    let count = &mut all[*at];
                    if *bucket < count.from || *bucket > count.until {
                        continue;
                    }
                    let within = count.within;
                    let parts =
                        if *bucket < closed { &mut count.settled } else { &mut count.fresh };
                    if is_own {
                        let operation = self.operations.name(key.operation);
                        let operation = operation.cloned().unwrap_or_else(|| OTHER.into());
                        parts.own.entry(operation).or_default().add(cell, within);
                    } else {
                        parts.callers.add(cell, within);
                    }
                }
            }
        }
        for count in all {
            count.from = count.from.max(closed);
        }
    }
}
