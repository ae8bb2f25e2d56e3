//! An exporter: for each signal a queue and its workers, or straight to the backend.

mod ending;
mod replay;
mod worker;

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tapio_proto::{
    Accepted, Batching, CanBatch, Code, Consumer, Next, Outcome, Pending, Request, Signal, Status,
    transport::{Compression, Exchange},
};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, spawn_blocking},
};

use super::{
    SendConfig,
    queue::{Bound, Load, Overflow, Queue, QueueConfig},
    retry::{Duty, RetryConfig},
    sample::Sample,
    stored::Disk,
};
use crate::{
    net::ConfigError,
    storage::{DeadLetters, Log},
};

/// Is told what becomes of items, for the Collector's own metrics and Tapio's.
pub trait Observer: Send + Sync + 'static {
    /// The backend took them.
    fn sent(&self, signal: Signal, items: usize);
    /// They were given up: the backend refused them for good, or rejected them in part.
    fn send_failed(&self, signal: Signal, items: usize, status: &Status);
    /// The queue did not take them; the sender was told.
    fn enqueue_failed(&self, signal: Signal, items: usize);
    /// A request of an earlier run is sent from disk, perhaps for the second time.
    fn replayed(&self, _signal: Signal, _items: usize) {}
    /// A request was put among the dead letters.
    fn parked(&self, _signal: Signal, _items: usize) {}
    /// A record on disk cannot be read; it was set aside.
    fn corrupt(&self, _signal: Signal) {}
    /// A request came to the queue, whether or not there is room.
    fn offered(&self, _items: usize, _bytes: usize) {}
    /// Whether calls and exchanges are wanted; it is asked for each, and nothing is measured for none.
    fn measures(&self) -> bool {
        false
    }
    /// A gRPC call to the backend ended so.
    fn called(&self, _signal: Signal, _code: Code, _took: Duration) {}
    /// The backend answered an HTTP request, or did not.
    fn exchanged(&self, _exchange: &Exchange<'_>) {}
}

/// What a shutdown could not deliver in its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Requests that are lost.
    pub requests: usize,
    /// Spans, data points, log records in them.
    pub items: usize,
    /// Requests that are on disk, in the queue or among the dead letters.
    pub kept: usize,
}

/// A running exporter.
pub struct Exporter {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    /// A successor goes on with what is on disk.
    halted: AtomicBool,
    workers: tokio::sync::Mutex<JoinSet<()>>,
}

struct Shared {
    name: String,
    next: Next,
    retry: RetryConfig,
    queue: QueueConfig,
    lanes: Option<[Arc<Queue>; Signal::ALL.len()]>,
    dead: Option<Arc<DeadLetters>>,
    observer: Arc<dyn Observer>,
    dropped: Sample,
    parked: Sample,
    unparked: Sample,
}

/// What a sender should wait when the queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_secs(1);
/// Requests that are parked with one sync.
const PARK_BATCH: usize = 64;

impl Exporter {
    /// Puts queue and retries before `next`. Must be called within a tokio runtime; reads what is on
    /// disk, so it may block when there is a storage.
    pub fn start(
        name: &str,
        config: SendConfig,
        next: Next,
        observer: Arc<dyn Observer>,
    ) -> Result<Exporter, ConfigError> {
        let SendConfig { queue, retry } = config;
        let lanes = match queue.enabled {
            true => Some(lanes(name, &queue, &observer)?),
            false => None,
        };
        let storage = queue.opened.as_ref().filter(|_| queue.enabled);
        let dead = storage.map(|storage| Arc::new(storage.dead_letters(name)));
        if let Some(dead) = &dead {
            tell_dead_letters(name, dead);
        }
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            next,
            retry,
            queue,
            lanes,
            dead,
            observer,
            dropped: Sample::default(),
            parked: Sample::default(),
            unparked: Sample::default(),
        });
        let (closing, closed) = watch::channel(false);
        let mut workers = JoinSet::new();
        for (signal, lane) in Signal::ALL.into_iter().zip(shared.lanes.iter().flatten()) {
            for _ in 0..shared.queue.num_consumers {
                let (shared, lane) = (Arc::clone(&shared), Arc::clone(lane));
                workers.spawn(worker::work(shared, lane, signal, closed.clone()));
            }
        }
        if let Some(dead) = &shared.dead {
            workers.spawn(replay::watch_for_replay(Arc::clone(&shared), Arc::clone(dead), closed));
        }
        let halted = AtomicBool::new(false);
        Ok(Exporter { shared, closing, halted, workers: tokio::sync::Mutex::new(workers) })
    }

    /// The component's id in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How full the queue of a signal is, in what its sizer counts; 0 without a queue.
    pub fn queue_size(&self, signal: Signal) -> usize {
        self.shared.lane(signal).map_or(0, |lane| lane.size())
    }

    /// The capacity of the queue of a signal, in what its sizer counts; 0 without a queue.
    pub fn queue_capacity(&self, signal: Signal) -> usize {
        self.shared.lane(signal).map_or(0, |lane| lane.capacity())
    }

    /// Bytes of the queue of a signal that are in memory, and how many there may be (`max_mib`); `None` without
    /// a queue.
    pub fn queue_memory(&self, signal: Signal) -> Option<(usize, usize)> {
        self.shared.lane(signal).map(|lane| lane.memory())
    }

    /// What the queue of a signal takes on disk; `None` when it is in memory.
    pub fn queue_disk_bytes(&self, signal: Signal) -> Option<u64> {
        self.shared.lane(signal).and_then(|lane| lane.log()).map(Log::disk_bytes)
    }

    /// How many dead letters there are, and what they take on disk; `None` where none are kept.
    pub fn dead_letters(&self) -> Option<(usize, u64)> {
        self.shared.dead.as_ref().map(|dead| dead.known())
    }

    /// Whether it sends what is on disk below a directory: the queue of a signal, or, when they are replayed,
    /// the dead letters.
    pub fn sends_from(&self, directory: &Path, signal: Option<Signal>) -> bool {
        let queue = &self.shared.queue;
        let storage = match signal {
            Some(_) => queue.disk(),
            None => queue.opened.as_ref(),
        };
        queue.enabled && storage.is_some_and(|storage| storage.directory() == directory)
    }
}

/// Says what an earlier run has left for somebody to decide.
fn tell_dead_letters(name: &str, dead: &DeadLetters) {
    if let Err(error) = dead.count() {
        tracing::warn!(exporter = name, folder = %dead.folder().display(), %error, "The dead letters cannot be counted");
    }
    let (requests, bytes) = dead.known();
    if requests > 0 && !dead.replay_asked() {
        tracing::warn!(
            exporter = name,
            folder = %dead.folder().display(),
            requests,
            bytes,
            "Dead letters of an earlier run are on disk: `tapio queue list` tells why, `tapio queue replay {name}` sends them \
             again, `tapio queue drop {name}` deletes them."
        );
    }
}

/// The queues of all signals, each on what is on disk of it.
fn lanes(
    name: &str,
    config: &QueueConfig,
    observer: &Arc<dyn Observer>,
) -> Result<[Arc<Queue>; Signal::ALL.len()], ConfigError> {
    let open = |signal| -> io::Result<Arc<Queue>> {
        let Some(storage) = config.disk() else {
            return Ok(Arc::new(Queue::new(config, Load::default())));
        };
        let place = storage.place(name, signal);
        let backlog = Load::from(Log::open(&place)?);
        if backlog.requests > 0 {
            tracing::info!(
                exporter = name,
                folder = %place.folder.display(),
                requests = backlog.requests,
                items = backlog.items,
                "Undelivered requests of an earlier run are on disk and will be sent."
            );
        }
        let lane = Arc::new(Queue::new(config, backlog));
        let disk = Disk { queue: Arc::clone(&lane), observer: Arc::clone(observer), signal };
        lane.keep_in(Log::start(place, Arc::new(disk))?);
        Ok(lane)
    };
    let open = |signal| {
        open(signal).map_err(|error| {
            let folder = config.disk().map(|storage| storage.place(name, signal).folder);
            let folder = folder.unwrap_or_default();
            ConfigError::new("sending_queue::storage", format!("{}: {error}", folder.display()))
        })
    };
    let [traces, metrics, logs, profiles] = Signal::ALL.map(open);
    Ok([traces?, metrics?, logs?, profiles?])
}

impl Consumer for Exporter {
    /// A queue counts items and bytes.
    fn takes_closed(&self, compression: Compression) -> bool {
        self.shared.lanes.is_none() && self.shared.next.takes_closed(compression)
    }

    /// Unless senders wait for the backend's answer anyway.
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        match self.shared.lane(signal) {
            Some(lane)
                if !self.shared.queue.wait_for_result && lane.gatherer.can_batch(batching) =>
            {
                CanBatch::Yes
            }
            _ => CanBatch::No,
        }
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        if let Some(lane) = self.shared.lane(signal) {
            lane.gatherer.batch(batching);
        }
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            match self.shared.lane(request.signal) {
                Some(lane) => {
                    self.shared.enqueue(lane, request, self.shared.queue.block_on_overflow).await
                }
                None => {
                    let mut closing = self.closing.subscribe();
                    self.shared.send(request, &mut closing).await
                }
            }
        })
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Shared {
    fn lane(&self, signal: Signal) -> Option<&Arc<Queue>> {
        self.lanes.as_ref().map(|lanes| &lanes[signal as usize])
    }

    fn dead_folder(&self) -> &Path {
        self.dead.as_ref().map_or(Path::new(""), |dead| dead.folder())
    }

    fn refusal(&self, why: Overflow) -> Status {
        let full = |what: String| Status {
            retry_after: Some(QUEUE_FULL_WAIT),
            ..Status::new(Code::Unavailable, format!("sending queue is full{what}"))
        };
        let QueueConfig { queue_size, max_mib, .. } = &self.queue;
        match why {
            Overflow::Full(Bound::Size) => full(String::new()),
            Overflow::Full(Bound::Memory) => {
                full(format!(": it takes its {max_mib} MiB (sending_queue.max_mib)"))
            }
            Overflow::Full(Bound::Disk) => {
                let disk = self.queue.disk().map_or(0, |storage| storage.max_bytes() >> 20);
                full(format!(": it takes its {disk} MiB on disk (max_mib of the file_storage)"))
            }
            Overflow::TooLarge => Status::new(
                Code::ResourceExhausted,
                format!(
                    "the request is too large for the sending queue: it is more than queue_size ({queue_size}), max_mib ({max_mib}) or half of the disk's max_mib"
                ),
            ),
            Overflow::Closed => Status::new(Code::Unavailable, "the exporter is shutting down"),
        }
    }

    /// Acknowledges when the queue has the request, on disk if that is where it is.
    async fn enqueue(&self, lane: &Queue, request: Request, wait: bool) -> Outcome {
        let (signal, items) = (request.signal, request.items);
        let turned_away = |status: Status| {
            self.observer.enqueue_failed(signal, items);
            self.tell_rejected(signal, items, &status);
            Err(status)
        };
        let refuse = |why| turned_away(self.refusal(why));
        let load = Load::of(&request);
        self.observer.offered(load.items, load.bytes);
        let room = match wait {
            true => lane.reserve_or_wait(load).await,
            false => lane.reserve(load),
        };
        if let Err(why) = room {
            return refuse(why);
        }
        if let Some(log) = lane.log() {
            // From here on the request is the log's, whether or not the sender goes on waiting.
            return match log.append(request).await {
                Ok(Ok(())) => Ok(Accepted::default()),
                Ok(Err(status)) => turned_away(status),
                Err(_) => refuse(Overflow::Closed),
            };
        }
        let (done, outcome) = match self.queue.wait_for_result {
            true => {
                let (done, outcome) = oneshot::channel();
                (Some(done), Some(outcome))
            }
            false => (None, None),
        };
        if let Err(why) = lane.hold(request, done) {
            return refuse(why);
        }
        match outcome {
            None => Ok(Accepted::default()),
            Some(outcome) => outcome.await.unwrap_or_else(|_| Err(self.refusal(Overflow::Closed))),
        }
    }

    /// Sends for a sender that waits.
    async fn send(&self, request: Request, closing: &mut watch::Receiver<bool>) -> Outcome {
        let (signal, items) = (request.signal, request.items);
        let next = self.next.as_ref();
        let outcome = self.retry.send(&self.name, next, request, Duty::Senders, closing).await;
        match &outcome {
            Ok(accepted) => self.taken(signal, items, accepted),
            Err(status) => self.rejected(signal, items, status),
        }
        outcome
    }

    fn rejected(&self, signal: Signal, items: usize, status: &Status) {
        self.observer.send_failed(signal, items, status);
        self.tell_rejected(signal, items, status);
    }

    /// In the Collector's words. The logger tells of many such lines some.
    fn tell_rejected(&self, signal: Signal, items: usize, status: &Status) {
        let retry = match self.retry.enabled {
            true => "",
            false => " Try enabling retry_on_failure config option to retry on retryable errors.",
        };
        let queue = match self.queue.enabled {
            true => "",
            false => " Try enabling sending_queue to survive temporary failures.",
        };
        tracing::error!(
            exporter = self.name, signal = signal.name(), code = ?status.code, error = %status.message,
            rejected_items = items, "Exporting failed. Rejecting data.{retry}{queue}"
        );
    }

    fn taken(&self, signal: Signal, items: usize, accepted: &Accepted) {
        let Some(partial) = &accepted.partial else {
            return self.observer.sent(signal, items);
        };
        let rejected = usize::try_from(partial.rejected).unwrap_or(0).min(items);
        self.observer.sent(signal, items - rejected);
        if rejected > 0 {
            let status = Status::new(Code::InvalidArgument, partial.message.clone());
            self.observer.send_failed(signal, rejected, &status);
        }
        if self.dropped.speak() {
            tracing::warn!(
                exporter = self.name,
                message = partial.message,
                rejected = partial.rejected,
                items = signal.items_name(),
                "Partial success response"
            );
        }
    }

    /// What was acknowledged was refused for good: the dead letters take it. False when they do not,
    /// and it has to stay in the queue.
    async fn give_up(&self, request: Request, status: &Status) -> bool {
        let (signal, items) = (request.signal, request.items);
        if let Some(dead) = &self.dead {
            let reason = format!("{status}");
            if let Err(error) = park(dead, vec![request], &reason).await {
                if self.unparked.speak() {
                    tracing::error!(
                        exporter = self.name, %error, refusal = %status,
                        "What the backend refused for good cannot be kept among the dead letters. It stays in the queue."
                    );
                }
                return false;
            }
            self.observer.parked(signal, items);
            if self.parked.speak() {
                tracing::error!(
                    exporter = self.name, code = ?status.code, error = %status.message, items,
                    dead_letters = %dead.folder().display(),
                    "Exporting failed. The request was put among the dead letters (`tapio queue list`)."
                );
            }
        } else if self.dropped.speak() {
            tracing::error!(
                exporter = self.name, code = ?status.code, error = %status.message, dropped_items = items,
                "Exporting failed. Dropping data."
            );
        }
        self.observer.send_failed(signal, items, status);
        true
    }
}

/// Counts nothing.
struct Uncounted;

impl Observer for Uncounted {
    fn sent(&self, _: Signal, _: usize) {}
    fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
    fn enqueue_failed(&self, _: Signal, _: usize) {}
}

/// Writes dead letters where blocking is no harm.
async fn park(dead: &Arc<DeadLetters>, requests: Vec<Request>, reason: &str) -> io::Result<()> {
    let (dead, reason) = (Arc::clone(dead), reason.to_owned());
    match spawn_blocking(move || dead.park(&requests, &reason)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::other("writing was interrupted")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::net::test_support::Lines;

    struct Unseen;

    impl Observer for Unseen {
        fn sent(&self, _: Signal, _: usize) {}
        fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
        fn enqueue_failed(&self, _: Signal, _: usize) {}
    }

    /// A backend that refuses, or says nothing.
    struct Backend(Option<Status>);

    impl Consumer for Backend {
        fn consume(&self, _: Request) -> Pending<'_> {
            match &self.0 {
                Some(status) => Box::pin(std::future::ready(Err(status.clone()))),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    fn exporter(queue: QueueConfig, retries: bool, answer: Option<Status>) -> Exporter {
        let retry = RetryConfig { enabled: retries, ..RetryConfig::default() };
        let config = SendConfig::new(queue, retry).unwrap();
        Exporter::start("otlp", config, Arc::new(Backend(answer)), Arc::new(Unseen)).unwrap()
    }

    fn request(bytes: usize) -> Request {
        Request::new(Signal::Logs, Bytes::from(vec![0; bytes]), 7)
    }

    /// Guarantees: what is refused to a sender leaves an error in the log, in the Collector's words, with the
    /// cause: which bound of the queue is reached, or what the backend said.
    #[tokio::test]
    async fn what_is_refused_is_an_error_in_the_log() {
        let (lines, _listening) = Lines::listen();
        let small = |queue_size, max_mib| QueueConfig { queue_size, max_mib, ..Default::default() };
        for (queue, expected) in [
            (small(1, 256), "error=sending queue is full"),
            (small(9, 1), "sending queue is full: it takes its 1 MiB (sending_queue.max_mib)"),
        ] {
            let full = exporter(queue, true, None);
            full.consume(request(900 << 10)).await.unwrap();
            let status = full.consume(request(900 << 10)).await.unwrap_err();
            assert!(status.is_retryable() && status.retry_after.is_some(), "{status:?}");
            let lines = lines.take();
            let refused: Vec<_> = lines.iter().filter(|line| line.starts_with("ERROR")).collect();
            assert_eq!(refused.len(), 1, "{lines:?}");
            assert!(
                refused[0].starts_with("ERROR Exporting failed. Rejecting data. "),
                "{lines:?}"
            );
            assert!(refused[0].contains(expected), "{lines:?}");
            assert!(refused[0].contains("rejected_items=7"), "{lines:?}");
            assert_eq!(full.queue_memory(Signal::Logs).unwrap().0, 900 << 10);
        }
        let none = QueueConfig { enabled: false, ..QueueConfig::default() };
        let gone = Status::new(Code::Unavailable, "nobody there");
        let direct = exporter(none, false, Some(gone));
        direct.consume(request(1)).await.unwrap_err();
        let line = lines.take().pop().unwrap();
        assert!(line.contains("error=nobody there"), "{line}");
        assert!(line.contains("Try enabling sending_queue"), "{line}");
        assert!(line.contains("Try enabling retry_on_failure"), "{line}");
    }
}
