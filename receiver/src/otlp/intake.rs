//! What both doors do with a request's bytes: account, check, count, hand on, report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tapio_proto::{
    Accepted, Code, Metadata, Next, Outcome, Request, Signal, Status, check,
    transport::{Compression, Exchange},
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use super::{Consumers, Limit, Observer, Transport, Verdict, body::Message};
use crate::timers::{Timer, Timers};

/// Bytes of bodies that may be in memory at a time, over all connections of a receiver: without
/// it, every stream of every connection could hold a request of the largest size. What HTTP/2 has
/// received and nobody has read yet is not in it; its windows bound that.
const MAX_IN_FLIGHT: usize = 128 << 20;
/// Bodies are accounted in units of this many bytes.
const UNIT: usize = 1024;
/// For room to become free.
const ROOM_LIMIT: Duration = Duration::from_secs(10);
/// Requests that may wait for it; the next ones are refused at once, as each holds a window.
const MAX_WAITING: usize = 64;

/// What a sender waits whose request a stopping receiver gives back.
const COME_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Intake {
    consumers: Consumers,
    observer: Arc<dyn Observer>,
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    timers: Timers,
    /// Requests that are in a pipeline.
    under_way: AtomicUsize,
    /// They are told to come again: the receiver stops.
    over: AtomicBool,
    told: Notify,
}

impl Intake {
    /// `largest` is the most that one request may hold, decompressed and converted.
    pub(super) fn new(consumers: Consumers, observer: Arc<dyn Observer>, largest: usize) -> Self {
        let units = MAX_IN_FLIGHT.max(largest.saturating_mul(3)).div_ceil(UNIT);
        Intake {
            consumers,
            observer,
            room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            timers: Timers::default(),
            under_way: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            told: Notify::new(),
        }
    }

    /// Whether requests are in a pipeline.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Answers the requests that are in a pipeline, and those that still come: later, elsewhere.
    pub(super) fn refuse_the_rest(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }

    /// What becomes of a request in the pipeline, unless the receiver stops before.
    async fn pass(&self, next: &Next, request: Request) -> Outcome {
        let _under_way = UnderWay::new(&self.under_way);
        // From here on it hears of the end.
        let told = self.told.notified();
        if self.over.load(Ordering::SeqCst) {
            return Err(stopping());
        }
        tokio::select! {
            biased;
            outcome = next.consume(request) => outcome,
            () = told => Err(stopping()),
        }
    }

    pub(super) fn serves(&self, signal: Signal) -> bool {
        self.consumers.get(signal).is_some()
    }

    /// Whether requests that are compressed in this way pass unopened.
    pub(super) fn passes_closed(&self, signal: Signal, compression: Compression) -> bool {
        compression != Compression::None
            && !self.observer.wants_items()
            && self.consumers.get(signal).is_some_and(|next| next.takes_closed(compression))
    }

    /// Room for a body that has not begun to arrive.
    pub(super) fn room(&self) -> Room {
        Room { room: Arc::clone(&self.room), waiting: Arc::clone(&self.waiting), bytes: 0 }
    }

    /// A limit that begins now.
    pub(super) fn timer(&self, limit: Duration) -> Timer {
        self.timers.start(limit)
    }

    /// A request that has come, counted as malformed unless something better becomes of it: also
    /// when it is dropped because the sender went away or its time ran out.
    pub(super) fn counted(&self, signal: Signal, transport: Transport) -> Counted<'_> {
        let verdict = Some(Verdict::Malformed);
        Counted { intake: self, signal, transport, items: 0, verdict }
    }

    pub(super) fn limited(&self, transport: Transport, limit: Limit) {
        self.observer.limited(transport, limit);
    }

    /// Now, if somebody wants to know how long it takes.
    pub(super) fn clock(&self) -> Option<Instant> {
        self.observer.measures().then(Instant::now)
    }

    /// A gRPC call that has come. One that is dropped was cancelled.
    pub(super) fn call(&self, signal: Signal) -> Call<'_> {
        Call { intake: self, signal, started: self.clock(), code: Code::Cancelled }
    }

    pub(super) fn exchanged(&self, exchange: &Exchange<'_>) {
        self.observer.exchanged(exchange);
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

/// A gRPC call that is told when it ends.
pub(super) struct Call<'a> {
    intake: &'a Intake,
    signal: Signal,
    started: Option<Instant>,
    code: Code,
}

impl Call<'_> {
    pub(super) fn ended(mut self, outcome: &Outcome) {
        self.code = outcome.as_ref().map_or_else(|status| status.code, |_| Code::Ok);
    }

    /// It was no call, so it is not told.
    pub(super) fn was_none(mut self) {
        self.started = None;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(started) = self.started {
            self.intake.observer.called(self.signal, self.code, started.elapsed());
        }
    }
}

/// A request on its way to being counted.
pub(super) struct Counted<'a> {
    intake: &'a Intake,
    signal: Signal,
    transport: Transport,
    items: usize,
    verdict: Option<Verdict>,
}

impl Counted<'_> {
    pub(super) fn signal(&self) -> Signal {
        self.signal
    }

    /// It was not the request's fault.
    pub(super) fn refused(&mut self) {
        self.verdict = Some(Verdict::Refused);
    }

    /// Hands the request on.
    pub(super) async fn consume(
        mut self,
        message: Message,
        metadata: Option<Arc<Metadata>>,
    ) -> Outcome {
        let signal = self.signal;
        let Message { bytes, came, room: _room } = message;
        let mut request = Request { signal, bytes, items: 0, metadata, came };
        if request.is_closed().is_none() {
            if request.bytes.is_empty() {
                self.verdict = None;
                return Ok(Accepted::default());
            }
            request.items = check(signal, &request.bytes)
                .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        }
        let Some(next) = self.intake.consumers.get(signal) else {
            return Err(Status::new(Code::Unimplemented, "no pipeline for this signal"));
        };
        self.items = request.items;
        self.refused();
        let outcome = self.intake.pass(next, request).await;
        if outcome.is_ok() {
            self.verdict = Some(Verdict::Accepted);
        }
        outcome
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(verdict) = self.verdict {
            self.intake.observer.received(self.signal, self.transport, verdict, self.items);
        }
    }
}

/// A request in a pipeline.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stopping() -> Status {
    Status::unavailable("the receiver is shutting down").with_retry_after(COME_AGAIN)
}

/// Room that a body takes, held until it is dropped.
pub(super) struct Room {
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    bytes: usize,
}

impl Room {
    /// Takes room for more bytes, which it waits for if it must.
    pub(super) async fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let after = self.bytes.saturating_add(bytes);
        let units = after.div_ceil(UNIT) - self.bytes.div_ceil(UNIT);
        let units = u32::try_from(units).map_err(|_| NoRoom)?;
        let permit = match self.room.try_acquire_many(units) {
            Ok(permit) => permit,
            Err(_) => {
                let _turn = self.waiting.try_acquire().map_err(|_| NoRoom)?;
                match timeout(ROOM_LIMIT, self.room.acquire_many(units)).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(NoRoom),
                }
            }
        };
        permit.forget();
        self.bytes = after;
        Ok(())
    }

    /// Gives back what `bytes` bytes do not need.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.room.add_permits(self.bytes.div_ceil(UNIT) - bytes.div_ceil(UNIT));
        self.bytes = bytes;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Too many bytes of other requests are in memory.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes of requests in flight")]
pub(super) struct NoRoom;

impl From<NoRoom> for Status {
    fn from(error: NoRoom) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Status { retry_after, ..Status::new(Code::Unavailable, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_as_bytes_come_and_all_of_it_is_given_back() {
        struct Nobody;
        impl Observer for Nobody {
            fn received(&self, _: Signal, _: Transport, _: Verdict, _: usize) {}
        }
        let intake = Intake::new(Consumers::default(), Arc::new(Nobody), 1);
        let all = intake.room.available_permits();
        let mut room = intake.room();
        for _ in 0..3000 {
            room.grow(1).await.unwrap();
        }
        assert_eq!(all - intake.room.available_permits(), 3);
        room.grow(10_000).await.unwrap();
        room.shrink(1);
        assert_eq!(all - intake.room.available_permits(), 1);
        drop(room);
        assert_eq!(intake.room.available_permits(), all);
    }
}
