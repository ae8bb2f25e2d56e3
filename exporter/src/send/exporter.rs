//! An exporter: for each signal a queue and its workers, or straight to the backend.

use std::{
    io,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tapio_proto::{
    Accepted, Batching, CanBatch, Code, Consumer, Next, Outcome, Pending, Request, Signal, Status,
    transport::{Compression, Exchange},
};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    SendConfig,
    batch::{self, Batch},
    queue::{Bound, Entry, Load, Overflow, Queue, QueueConfig},
    retry::{self, Duty, RetryConfig},
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
/// Attempts for which a worker waits; after them the request goes behind the others, so that a few
/// which the backend cannot take do not hold up the rest.
const ATTEMPTS_IN_A_ROW: u32 = 3;
/// What cannot be parked is tried again after this.
const UNPARKED_WAIT: Duration = Duration::from_secs(30);
/// How often it is looked whether dead letters are to be replayed.
const REPLAY_LOOK: Duration = Duration::from_secs(2);
/// For what is under way when an exporter gives way to its successor.
const HALT_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether a queue is empty.
const EMPTY_LOOK: Duration = Duration::from_millis(50);
/// Requests that are written to a successor's disk with one sync.
const INHERIT_BATCH: usize = 256;
/// For the log's thread to end.
const LOG_LIMIT: Duration = Duration::from_secs(10);
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
                workers.spawn(work(shared, lane, signal, closed.clone()));
            }
        }
        if let Some(dead) = &shared.dead {
            workers.spawn(watch_for_replay(Arc::clone(&shared), Arc::clone(dead), closed));
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

    /// Takes no more and delivers what it has, for at most `limit`. What is on disk stays there as
    /// soon as the backend does not take it; what is left in memory is put among the dead letters if
    /// there is a storage. Says what was left.
    pub async fn shutdown(&self, limit: Duration) -> Leftover {
        self.shutdown_when(sleep(limit)).await
    }

    /// The same, until something happens.
    pub async fn shutdown_when(&self, late: impl Future<Output = ()>) -> Leftover {
        self.end_workers(late).await;
        let mut left = Leftover::default();
        for lane in self.shared.lanes.iter().flatten() {
            let load = lane.load();
            if let Some(log) = lane.log() {
                if !self.halted.load(Ordering::Relaxed) {
                    left.kept += load.requests;
                    self.close_log(log).await;
                }
                continue;
            }
            let (parked, items) = self.park_all(lane.drain()).await;
            left.kept += parked;
            left.requests += load.requests - parked.min(load.requests);
            left.items += load.items - items.min(load.items);
        }
        self.tell(&left);
        left
    }

    /// Whoever waits for the backend's answer, without a queue, gets it after the next attempt. For a
    /// shutdown, which such requests hold up.
    pub fn hurry(&self) {
        if self.shared.lanes.is_none() {
            self.closing.send_replace(true);
        }
    }

    /// Takes no more and tries no more, for a successor is to go on: what is under way has a second to
    /// end. What is on disk is given free; what is in memory waits for [`Exporter::hand_over`].
    pub async fn halt(&self) {
        self.shared.lanes.iter().flatten().for_each(|lane| lane.abandon());
        self.end_workers(sleep(HALT_LIMIT)).await;
        if self.halted.swap(true, Ordering::Relaxed) {
            return;
        }
        for lane in self.shared.lanes.iter().flatten() {
            if let Some(log) = lane.log() {
                self.close_log(log).await;
            }
        }
    }

    /// Gives what a halted exporter has in memory to its successor: into its queue, over its bounds if it
    /// must be, for it was acknowledged. Without a queue there it is sent that way, until it is late. What
    /// the successor does not take ends as at a shutdown. What is on disk in a place that the successor does
    /// not look at is sent by it as well, and stays there when it is late.
    pub async fn hand_over(&self, to: &Arc<Exporter>, late: impl Future<Output = ()>) -> Leftover {
        let mut late = pin!(late);
        let disk = self.shared.queue.disk().filter(|_| self.shared.lanes.is_some());
        if disk.is_some_and(|storage| !to.sends_from(storage.directory(), Some(Signal::Traces))) {
            self.send_from_disk(to, late.as_mut()).await;
        } else if let Some(lanes) = &self.shared.lanes {
            let taken = match &to.shared.lanes {
                Some(theirs) => {
                    let mut taken = 0;
                    for (ours, theirs) in lanes.iter().zip(theirs) {
                        taken += to.shared.inherit(ours, theirs).await;
                    }
                    taken
                }
                None => {
                    let [traces, metrics, logs, profiles] =
                        lanes.each_ref().map(|lane| self.send_by(lane, to));
                    let sending = async { tokio::join!(traces, metrics, logs, profiles) };
                    tokio::select! {
                        (traces, metrics, logs, profiles) = sending => {
                            traces + metrics + logs + profiles
                        }
                        () = late.as_mut() => 0,
                    }
                }
            };
            if taken > 0 {
                tracing::info!(
                    exporter = self.name(),
                    requests = taken,
                    "What was in the queue goes on by the new settings."
                );
            }
        }
        self.shutdown(Duration::ZERO).await
    }

    /// Opens the queue on disk once more, with the successor behind it, until it is empty.
    async fn send_from_disk(&self, to: &Arc<Exporter>, late: impl Future<Output = ()>) {
        let (name, next) = (self.shared.name.clone(), Arc::clone(to) as Next);
        let config =
            SendConfig { queue: self.shared.queue.clone(), retry: self.shared.retry.clone() };
        // It is the successor that counts.
        let start = move || Exporter::start(&name, config, next, Arc::new(Uncounted));
        let courier = match spawn_blocking(start).await {
            Ok(Ok(courier)) => courier,
            Ok(Err(error)) => {
                tracing::warn!(exporter = self.name(), %error, "What is on disk cannot be handed over");
                return;
            }
            Err(_) => return,
        };
        let emptied = async {
            while courier.shared.lanes.iter().flatten().any(|lane| lane.load().requests > 0) {
                sleep(EMPTY_LOOK).await;
            }
        };
        tokio::select! {
            () = emptied => {}
            () = late => {}
        }
        courier.shutdown(Duration::ZERO).await;
    }

    /// Sends what is in a queue by an exporter that has none; how many requests it took.
    async fn send_by(&self, lane: &Queue, to: &Exporter) -> usize {
        let mut taken = 0;
        while let Some(request) = lane.first() {
            let status = match to.consume(request).await {
                Ok(_) => {
                    taken += 1;
                    lane.settle_first();
                    continue;
                }
                Err(status) => status,
            };
            if status.is_retryable() {
                sleep(retry::LAST_INTERVAL).await;
            } else if let Some(request) = lane.first() {
                if !self.shared.give_up(request, &status).await {
                    break;
                }
                lane.settle_first();
            }
        }
        taken
    }

    /// Takes no more and lets the workers end by themselves, until it is late.
    async fn end_workers(&self, late: impl Future<Output = ()>) {
        self.closing.send_replace(true);
        self.shared.lanes.iter().flatten().for_each(|lane| lane.close());
        let mut workers = self.workers.lock().await;
        let drained = async { while workers.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = drained => true,
            () = late => false,
        };
        if !in_time {
            workers.shutdown().await;
        }
    }

    async fn close_log(&self, log: &Log) {
        if timeout(LOG_LIMIT, log.close()).await.is_err() {
            tracing::warn!(
                exporter = self.name(),
                "the disk is slow: what was delivered last may be sent again after the next start"
            );
        }
    }

    /// Parks what is left of a queue in memory; how many requests and items.
    async fn park_all(&self, mut requests: Vec<Request>) -> (usize, usize) {
        let Some(dead) = &self.shared.dead else { return (0, 0) };
        let (mut parked, mut items) = (0, 0);
        while !requests.is_empty() {
            let some = requests.split_off(requests.len().saturating_sub(PARK_BATCH));
            let (count, sum) =
                (some.len(), some.iter().map(|request| request.items).sum::<usize>());
            for request in &some {
                self.shared.observer.parked(request.signal, request.items);
            }
            let reason = "not delivered when Tapio was stopped";
            if let Err(error) = park(dead, some, reason).await {
                tracing::error!(exporter = self.name(), %error, "Could not park undelivered data");
                break;
            }
            (parked, items) = (parked + count, items + sum);
        }
        (parked, items)
    }

    fn tell(&self, left: &Leftover) {
        if left.kept > 0 {
            tracing::warn!(
                exporter = self.name(),
                requests = left.kept,
                dead_letters = %self.shared.dead_folder().display(),
                "Shut down with undelivered data. It is on disk: what was in a queue on disk is sent as soon as an exporter of this \
                 name has its queue there again, what was in memory is among the dead letters (`tapio queue list`)."
            );
        }
        if left.requests > 0 && self.shared.queue.wait_for_result {
            tracing::warn!(
                exporter = self.name(),
                requests = left.requests,
                items = left.items,
                "Shut down while senders waited for the backend's answer. They were told that their requests are not taken."
            );
        } else if left.requests > 0 {
            tracing::error!(
                exporter = self.name(),
                requests = left.requests,
                items = left.items,
                "Shut down with undelivered data: the backend did not take it in time. \
                 What was acknowledged of it is lost; a `file_storage` extension would have kept it."
            );
        }
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

impl Drop for Exporter {
    fn drop(&mut self) {
        // Where it was not shut down, the logs' threads end all the same.
        self.shared.lanes.iter().flatten().filter_map(|lane| lane.log()).for_each(|log| {
            drop(log.close());
        });
    }
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

    /// Takes what is in memory of a halted queue; how many requests.
    async fn inherit(&self, from: &Queue, to: &Queue) -> usize {
        let entries = from.take_all();
        let Some(log) = to.log() else {
            let taken = entries.len();
            entries.into_iter().for_each(|entry| to.adopt(entry));
            return taken;
        };
        let (mut taken, mut entries) = (0, entries.into_iter().peekable());
        while entries.peek().is_some() {
            let mut writing = Vec::new();
            for entry in entries.by_ref().take(INHERIT_BATCH) {
                // A sender that waits for the backend still has its request, and is told to come again.
                if entry.done.is_none() {
                    let request = entry.parcel.left();
                    to.make_room(Load::of(&request));
                    writing.push((entry, log.append(request)));
                }
            }
            for (entry, written) in writing {
                match written.await {
                    Ok(Ok(())) => taken += 1,
                    // It ends as at a shutdown.
                    _ => from.adopt(entry),
                }
            }
        }
        taken
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

async fn work(
    shared: Arc<Shared>,
    lane: Arc<Queue>,
    signal: Signal,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let batch = match signal {
            // Each has a dictionary of its own, which would be mixed up with the others'.
            Signal::Profiles => lane.pop().await.map(Batch::alone),
            _ => lane.gatherer.next(&lane).await,
        };
        let Some(batch) = batch else { return };
        // One request that the backend never takes must not condemn its neighbours.
        for refused in deliver(&shared, &lane, batch, &mut closing).await {
            deliver(&shared, &lane, Batch::alone(refused), &mut closing).await;
        }
    }
}

/// Sends requests as one, until they are settled or wait for their next turn; of those that are sent piece by
/// piece, until the piece is. Those of several that were refused for good come back, to be tried one by one.
async fn deliver(
    shared: &Shared,
    lane: &Queue,
    batch: Batch,
    closing: &mut watch::Receiver<bool>,
) -> Vec<Entry> {
    let request = batch::merged(&batch);
    let mut entries = batch.entries;
    let Some(request) = request else { return entries };
    // With `wait_for_result` the senders still have the requests.
    let duty = match entries.iter().all(|entry| entry.done.is_some()) {
        true => Duty::Senders,
        false => Duty::Ours,
    };
    // Of those that were tried before, the one that was tried most often.
    let before = entries.iter().filter_map(|entry| entry.attempts);
    let before = before.max_by_key(|attempts| attempts.failed);
    let mut attempts = before.unwrap_or_else(|| shared.retry.attempts());
    let (signal, items) = (request.signal, request.items);
    let later = |entries: Vec<Entry>, attempts, wait| {
        for mut entry in entries {
            entry.attempts = Some(attempts);
            lane.delay(entry, wait);
        }
        Vec::new()
    };
    let outcome = loop {
        let status = match shared.next.consume(request.clone()).await {
            Ok(accepted) => break Ok(accepted),
            Err(status) => status,
        };
        if is_left(lane, &entries, closing) {
            return later(entries, attempts, Duration::ZERO);
        }
        let Some(wait) = shared.retry.next(&mut attempts, &status, duty) else {
            break Err(status);
        };
        retry::told(&shared.name, &status, wait);
        if attempts.failed >= ATTEMPTS_IN_A_ROW {
            return later(entries, attempts, wait);
        }
        retry::pause(wait, closing).await;
        if lane.is_abandoned() {
            return later(entries, attempts, Duration::ZERO);
        }
    };
    match (&outcome, duty) {
        (Ok(accepted), _) => shared.taken(signal, items, accepted),
        (Err(_), _) if entries.len() > 1 => {
            entries.iter_mut().for_each(|entry| entry.attempts = None);
            return entries;
        }
        (Err(status), Duty::Senders) => shared.rejected(signal, items, status),
        (Err(status), Duty::Ours) => {
            if !shared.give_up(request, status).await {
                return later(entries, attempts, UNPARKED_WAIT);
            }
        }
    }
    let mut outcome = outcome;
    // Who may try again sends all of it again: what followed now would come twice.
    let again = matches!(&outcome, Err(status) if duty == Duty::Senders && status.is_retryable());
    for mut entry in entries {
        let items = entry.parcel.items();
        let share = share(&mut outcome, items);
        if entry.parcel.goes_on() && !again {
            entry.parcel.answered(share);
            entry.attempts = None;
            lane.go_on(entry, items);
            continue;
        }
        lane.done(entry.ticket(), entry.held());
        if let (Some(log), Some(at)) = (lane.log(), entry.at) {
            log.settle(at);
        }
        if let Some(done) = entry.done {
            // A sender that has gone away needs no answer.
            let _ = done.send(entry.parcel.ended(share));
        }
    }
    Vec::new()
}

/// Whether requests that the backend has just not taken are left to whoever comes next: a successor, or,
/// as they are on disk, the next start.
fn is_left(lane: &Queue, entries: &[Entry], closing: &watch::Receiver<bool>) -> bool {
    if *closing.borrow() && entries.iter().any(|entry| entry.at.is_some()) {
        lane.abandon();
    }
    lane.is_abandoned()
}

/// What one of several requests is told. Which items of a merged one were rejected is not known, only
/// how many: the count is shared out so that its sum stays true.
fn share(outcome: &mut Outcome, items: usize) -> Outcome {
    let mut mine = outcome.clone();
    if let (Ok(Accepted { partial: Some(left) }), Ok(Accepted { partial: Some(mine) })) =
        (outcome, &mut mine)
    {
        mine.rejected = left.rejected.min(i64::try_from(items).unwrap_or(i64::MAX));
        left.rejected -= mine.rejected;
    }
    mine
}

/// Puts dead letters back into the queue when `tapio queue replay` asks for it.
async fn watch_for_replay(
    shared: Arc<Shared>,
    dead: Arc<DeadLetters>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        // The next look counts again, and what cannot be read the replay tells.
        drop(on_disk(&dead, DeadLetters::count).await);
        // A look at one name in a folder: not worth a thread.
        if dead.replay_asked() {
            tokio::select! {
                outcome = replay(&shared, &dead) => {
                    if let Err(error) = outcome {
                        tracing::error!(
                            exporter = shared.name, dead_letters = %dead.folder().display(), %error,
                            "The replay of the dead letters was broken off; it is tried again."
                        );
                    }
                }
                _ = closing.wait_for(|closing| *closing) => return,
            }
        }
        tokio::select! {
            () = sleep(REPLAY_LOOK) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

async fn replay(shared: &Shared, dead: &Arc<DeadLetters>) -> io::Result<()> {
    let (mut requests, mut items) = (0, 0);
    let segments = on_disk(dead, |dead| dead.begin_replay()).await?;
    for segment in segments {
        let mut from = Some(0);
        while let Some(at) = from {
            let (some, next) = on_disk(dead, move |dead| dead.read(segment, at)).await?;
            for request in some {
                (requests, items) = (requests + 1, items + request.items);
                shared.observer.replayed(request.signal, request.items);
                back_into_queue(shared, dead, request).await;
            }
            from = next;
        }
        on_disk(dead, move |dead| dead.replayed(segment)).await?;
    }
    on_disk(dead, |dead| dead.end_replay()).await?;
    tracing::info!(exporter = shared.name, requests, items, "Dead letters are in the queue again.");
    Ok(())
}

/// Not given up before it is in the queue, or among the dead letters again.
async fn back_into_queue(shared: &Shared, dead: &Arc<DeadLetters>, request: Request) {
    let Some(lane) = shared.lane(request.signal) else { return };
    loop {
        let Err(status) = shared.enqueue(lane, request.clone(), true).await else { return };
        // It is larger than the queue has become, say; else the disk has no room now.
        if !status.is_retryable()
            && park(dead, vec![request.clone()], &status.to_string()).await.is_ok()
        {
            return shared.observer.parked(request.signal, request.items);
        }
        sleep(REPLAY_LOOK).await;
    }
}

async fn on_disk<T: Send + 'static>(
    dead: &Arc<DeadLetters>,
    what: impl FnOnce(&DeadLetters) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let dead = Arc::clone(dead);
    spawn_blocking(move || what(&dead)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
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
