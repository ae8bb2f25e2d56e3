//! What both doors do with a request's bytes: check, count, hand on, report.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tapio_proto::{Accepted, Code, Outcome, Request, Signal, Status, check};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Consumers, Observer, Transport, Verdict};

/// Bytes of bodies that may be in memory at a time, over all connections: without it, every
/// stream of every connection could hold a request of the largest size.
const MAX_IN_FLIGHT: usize = 512 << 20;
/// Bodies are accounted in units of this many bytes.
const UNIT: usize = 1024;
/// For room to become free.
const ROOM_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Intake {
    consumers: Consumers,
    observer: Arc<dyn Observer>,
    room: Arc<Semaphore>,
}

impl Intake {
    pub(super) fn new(consumers: Consumers, observer: Arc<dyn Observer>) -> Self {
        Intake { consumers, observer, room: Arc::new(Semaphore::new(MAX_IN_FLIGHT / UNIT)) }
    }

    pub(super) fn serves(&self, signal: Signal) -> bool {
        self.consumers.get(signal).is_some()
    }

    /// Waits for room for a body of at most `len` bytes; it is held as long as the permit.
    pub(super) async fn room(&self, len: usize) -> Result<Room, Status> {
        let units = u32::try_from(len.min(MAX_IN_FLIGHT).div_ceil(UNIT)).unwrap_or(u32::MAX);
        match timeout(ROOM_LIMIT, Arc::clone(&self.room).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Room(permit)),
            _ => Err(Status {
                retry_after: Some(Duration::from_secs(1)),
                ..Status::new(Code::Unavailable, "too many bytes of requests in flight")
            }),
        }
    }

    /// Hands a whole request on and counts it.
    pub(super) async fn consume(
        &self,
        signal: Signal,
        transport: Transport,
        bytes: Bytes,
    ) -> Outcome {
        if bytes.is_empty() {
            return Ok(Accepted::default());
        }
        let items = match check(signal, &bytes) {
            Ok(items) => items,
            Err(error) => {
                self.malformed(signal, transport);
                return Err(Status::new(Code::InvalidArgument, error.to_string()));
            }
        };
        let Some(next) = self.consumers.get(signal) else {
            return Err(Status::new(Code::Unimplemented, "no pipeline for this signal"));
        };
        // A request that is dropped while it waits (the sender went away, or its time ran out)
        // was not accepted; the guard counts it all the same.
        let mut guard =
            Counted { intake: self, signal, transport, items, verdict: Verdict::Refused };
        let outcome = next.consume(Request { signal, bytes, items }).await;
        if outcome.is_ok() {
            guard.verdict = Verdict::Accepted;
        }
        outcome
    }

    pub(super) fn malformed(&self, signal: Signal, transport: Transport) {
        self.observer.received(signal, transport, Verdict::Malformed, 0);
    }
}

/// Room for a body, held until it is dropped.
pub(super) struct Room(OwnedSemaphorePermit);

impl Room {
    /// Gives back what a body of `len` bytes does not need after all.
    pub(super) fn shrink(&mut self, len: usize) {
        let spare = self.0.num_permits().saturating_sub(len.div_ceil(UNIT));
        drop(self.0.split(spare));
    }
}

struct Counted<'a> {
    intake: &'a Intake,
    signal: Signal,
    transport: Transport,
    items: usize,
    verdict: Verdict,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.intake.observer.received(self.signal, self.transport, self.verdict, self.items);
    }
}
