//! Requests that metrics counted, in the windows of the time over which they did.

use std::{collections::BTreeSet, time::Duration};

use tapio_proto::model::{Entity, Time};

use super::{Cell, Failures, Key, ServiceId, SpanFact, SpanKind, Windows};
use crate::streaming::WINDOW;

/// Of the time over which they were counted, so much of its end they are put to, evenly: what is known at the
/// end of a minute may have begun with it, but must not seem to be there before its cause.
const SPREAD: Duration = Duration::from_secs(20);
/// What a service counts over is forgotten when it has not for so long.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Requests of one service that ended alike.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// Whose they are.
    pub service: ServiceId,
    /// Who counts: who answers or who asks.
    pub kind: SpanKind,
    /// What is asked for.
    pub operation: &'a str,
    /// Who is asked, as it is addressed; empty for those who answer.
    pub peer: &'a str,
    /// Since when, and until when.
    pub during: (Time, Time),
    /// How many there were.
    pub requests: u64,
    /// They failed, and why as far as that is known.
    pub failed: Option<&'a str>,
    /// How many took about so many nanoseconds.
    pub took: &'a [(u64, u64)],
    /// The engine's time when they came in.
    pub arrived: Time,
}

impl Windows {
    /// Adds requests that were counted.
    pub fn add_counted(&mut self, counted: &Counted<'_>) {
        let (since, until) = counted.during;
        self.heard = self.heard.max(counted.arrived);
        let length = Duration::from_secs_f64(until.seconds_since(since).max(0.0));
        self.cadence.insert(counted.service, (length, counted.arrived));
        let key = Key {
            service: counted.service,
            kind: counted.kind,
            operation: self.operation(counted.operation, counted.arrived),
            peer: self.address(counted.peer, counted.arrived),
        };
        let last = Time(until.0 - 1).bucket(WINDOW);
        let first = since.max(until - SPREAD).bucket(WINDOW).min(last);
        let parts = ((last.0 - first.0) / WINDOW + 1).unsigned_abs();
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        for part in 0..parts {
            // One after the other, the last window first: few requests are as good as any at the end.
            let upto = |n: u64| (n + part) / parts;
            let requests = upto(counted.requests) - upto(0);
            let mut before = 0;
            let took = counted.took.iter().map(|(nanos, n)| {
                let share = upto(before + n) - upto(before);
                before += n;
                (*nanos, share)
            });
            let took: Vec<(u64, u64)> = took.collect();
            if requests == 0 && took.iter().all(|(_, n)| *n == 0) {
                continue;
            }
            let window = Time(first.0 + part as i64 * WINDOW);
            let slot = self.slots.each.entry(window).or_default();
            slot.unpublish();
            let cells = &mut self.cells;
            let cell = slot.cells.entry(key).or_insert_with(|| {
                *cells += 1;
                Cell::new(counted.arrived)
            });
            cell.count = cell.count.saturating_add(small(requests));
            cell.looked = cell.looked.saturating_add(small(requests));
            cell.arrived = cell.arrived.max(counted.arrived);
            for (nanos, n) in took.into_iter().filter(|(_, n)| *n > 0) {
                cell.took.add(nanos, small(n));
                cell.sum_ns = cell.sum_ns.saturating_add(nanos.saturating_mul(n));
            }
            if counted.failed.is_some() && requests > 0 {
                let first = window.max(since);
                let fresh = Failures { count: 0, looked: 0, first, arrived: counted.arrived };
                let failures = cell.failures.get_or_insert_with(|| Box::new(fresh));
                failures.count = failures.count.saturating_add(small(requests));
                failures.looked = failures.looked.saturating_add(small(requests));
                failures.first = failures.first.min(first);
                failures.arrived = failures.arrived.max(counted.arrived);
                self.failed = self.failed.max(counted.arrived);
            }
        }
        self.tell_call(counted, key.peer);
        self.shrink();
    }

    /// Who calls whom by it, and what callers saw.
    fn tell_call(&mut self, counted: &Counted<'_>, peer: u32) {
        let end = Time(counted.during.1.0 - 1);
        let span = SpanFact {
            service: counted.service,
            operation: counted.operation,
            kind: counted.kind,
            peer: counted.peer,
            start: end,
            end,
            failed: counted.failed.is_some(),
            error: counted.failed.unwrap_or_default(),
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            arrived: counted.arrived,
            weight: 1,
            followed: false,
        };
        if span.failed && counted.requests > 0 {
            self.keep_failure(&span, peer);
        }
        self.link(&span, peer);
    }

    /// Do spans or metrics tell of requests that the service answers or sends?
    pub fn tells_of(&self, service: &Entity) -> bool {
        let ids: BTreeSet<ServiceId> = self.ids(&service.namespace, &service.name).collect();
        let slots = self.slots.each.values().rev();
        !ids.is_empty()
            && slots.flat_map(|slot| slot.cells.keys()).any(|key| ids.contains(&key.service))
    }

    /// How long it takes until more may come of a service whose requests metrics count; of one that its callers
    /// count, of any.
    pub fn cadence(&self, service: &Entity) -> Duration {
        let now = self.heard;
        let fresh = |(_, last): &&(Duration, Time)| *last + FORGOTTEN >= now;
        let own = self.ids(&service.namespace, &service.name);
        let own = own.filter_map(|id| self.cadence.get(&id)).filter(fresh).max();
        let any = || self.cadence.values().filter(fresh).max();
        own.or_else(any).map_or(Duration::ZERO, |(length, _)| *length)
    }
}
