//! `sending_queue`: requests that were acknowledged, bounded in bytes whatever else bounds them.
//!
//! Without `storage` all of it is in memory. With it, what is in memory is a window on the log.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use tapio_proto::{Outcome, Parcel, Request};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

use super::batch::{BatchConfig, Gatherer};
use super::retry::{Attempts, LAST_INTERVAL};
use crate::{
    net::ConfigError,
    storage::{Log, Position, Storage},
};

/// `sending_queue:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Without it the sender waits for the backend's answer, and gets it.
    pub enabled: bool,
    /// Requests under way to the backend at a time.
    pub num_consumers: usize,
    /// Capacity, counted by `sizer`; what is under way counts too.
    pub queue_size: usize,
    /// What `queue_size` counts; requests when absent.
    pub sizer: Option<Sizer>,
    /// Let senders wait for room rather than refuse them.
    pub block_on_overflow: bool,
    /// Acknowledge only when the backend has.
    pub wait_for_result: bool,
    /// Capacity in MiB of memory, whatever the sizer. Tapio's own key.
    pub max_mib: usize,
    /// The extension that keeps the queue on disk: acknowledged then means that the disk has it.
    pub storage: Option<String>,
    /// Merge requests as they leave.
    pub batch: Option<BatchConfig>,
    /// The storage that `storage` names, opened; without that name it keeps dead letters only.
    #[serde(skip)]
    pub opened: Option<Arc<Storage>>,
}

/// `sizer:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sizer {
    /// Requests.
    #[default]
    Requests,
    /// Spans, data points, log records.
    Items,
    /// Bytes of protobuf, uncompressed.
    Bytes,
}

/// A request that waits, or what is left of one that is sent piece by piece, and whom to tell.
pub(super) struct Entry {
    pub(super) parcel: Parcel,
    pub(super) done: Option<oneshot::Sender<Outcome>>,
    /// Its record, when it is on disk.
    pub(super) at: Option<Position>,
    /// Once it was tried.
    pub(super) attempts: Option<Attempts>,
    ticket: u64,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    /// No room now.
    Full(Bound),
    /// There can never be room: it is larger than the whole queue.
    TooLarge,
    /// The exporter is shutting down.
    Closed,
}

/// Which bound of a queue is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// `queue_size`
    Size,
    /// `max_mib`
    Memory,
    /// `max_mib` of the storage.
    Disk,
}

/// What a queue holds, under way included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) requests: usize,
    pub(super) items: usize,
    pub(super) bytes: usize,
}

pub(super) struct Queue {
    /// Merges what leaves.
    pub(super) gatherer: Gatherer,
    capacity: usize,
    sizer: Sizer,
    max_memory: usize,
    /// Bytes in memory from which on requests stay on disk, when there is a disk.
    window: usize,
    max_disk: Option<u64>,
    /// Set once, before the workers start.
    log: OnceLock<Log>,
    state: Mutex<State>,
    work: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// What was refused often, by when it is due; workers do not wait for it.
    delayed: BTreeMap<(Instant, u64), Entry>,
    /// What workers have that is nowhere else.
    under_way: HashMap<u64, Parcel>,
    load: Load,
    /// Bytes in memory, what is being written included.
    memory: usize,
    tickets: u64,
    more_on_disk: bool,
    reading: bool,
    closed: bool,
    /// Closed, and what is on disk is left there.
    abandoned: bool,
}

/// Smaller requests are copied: as a slice they would pin the socket buffer that they came in.
const COPY_BELOW: usize = 8 << 10;
/// Most bytes of a queue on disk that are also in memory.
const WINDOW: usize = 32 << 20;

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            enabled: true,
            num_consumers: 10,
            queue_size: 1000,
            sizer: None,
            block_on_overflow: false,
            wait_for_result: false,
            max_mib: 256,
            storage: None,
            batch: None,
            opened: None,
        }
    }
}

impl QueueConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let positive = |value: usize, why| match value {
            0 => Err(ConfigError::new("sending_queue", why)),
            _ => Ok(()),
        };
        if !self.enabled {
            return Ok(());
        }
        positive(self.num_consumers, "`num_consumers` must be positive")?;
        positive(self.queue_size, "`queue_size` must be positive")?;
        positive(self.max_mib, "`max_mib` must be positive")?;
        if let Some(batch) = &self.batch {
            let checked = batch.check(self.sizer, self.queue_size);
            checked.map_err(|why| ConfigError::new("sending_queue", why))?;
        }
        match self.wait_for_result && self.storage.is_some() {
            true => Err(ConfigError::new(
                "sending_queue",
                "`wait_for_result` is not supported with a persistent queue configured with `storage`",
            )),
            false => Ok(()),
        }
    }

    /// The storage of the queue itself.
    pub(super) fn disk(&self) -> Option<&Arc<Storage>> {
        self.opened.as_ref().filter(|_| self.storage.is_some())
    }
}

impl Entry {
    fn new(mut request: Request, fresh: bool) -> Self {
        if fresh && request.bytes.len() < COPY_BELOW {
            request.bytes = Bytes::copy_from_slice(&request.bytes);
        }
        let parcel = Parcel::new(request);
        Entry { parcel, done: None, at: None, attempts: None, ticket: 0 }
    }
}

impl Queue {
    /// With `backlog`, what a log has already.
    pub(super) fn new(config: &QueueConfig, backlog: Load) -> Self {
        let max_memory = config.max_mib.saturating_mul(1 << 20);
        let state = State { load: backlog, ..State::default() };
        Queue {
            gatherer: Gatherer::new(config.batch.as_ref(), config.sizer),
            capacity: config.queue_size,
            sizer: config.sizer.unwrap_or_default(),
            max_memory,
            window: WINDOW.min(max_memory / 2),
            max_disk: config.disk().map(|storage| storage.max_bytes()),
            log: OnceLock::new(),
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Keeps requests on disk from now on.
    pub(super) fn keep_in(&self, log: Log) {
        // It is called once.
        drop(self.log.set(log));
    }

    pub(super) fn log(&self) -> Option<&Log> {
        self.log.get()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How full it is, counted by the sizer.
    pub(super) fn size(&self) -> usize {
        self.count(&self.load())
    }

    pub(super) fn load(&self) -> Load {
        self.state().load
    }

    fn count(&self, load: &Load) -> usize {
        match self.sizer {
            Sizer::Requests => self.gatherer.requests(load),
            other => other.of(load),
        }
    }

    /// Bytes in memory, and how many there may be.
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.state().memory, self.max_memory)
    }

    /// Keeps room for a request, or says why there is none.
    pub(super) fn reserve(&self, one: Load) -> Result<(), Overflow> {
        let on_disk = self.log.get().map_or(0, Log::disk_bytes);
        let mut state = self.state();
        // Without a disk the two are the same.
        let (held, limit) = match self.max_disk {
            Some(limit) => (on_disk, limit),
            None => (0, u64::MAX),
        };
        let more = one.bytes as u64;
        // A part of the disk is taken by a segment that is settled and not closed yet.
        if self.count(&one) > self.capacity || one.bytes > self.max_memory || more > limit / 2 {
            return Err(Overflow::TooLarge);
        }
        if state.closed {
            return Err(Overflow::Closed);
        }
        let after = state.load.plus(one);
        let memory = state.memory + one.bytes;
        if self.count(&after) > self.capacity {
            return Err(Overflow::Full(Bound::Size));
        }
        if memory > self.max_memory {
            return Err(Overflow::Full(Bound::Memory));
        }
        if held.saturating_add(more) > limit {
            return Err(Overflow::Full(Bound::Disk));
        }
        (state.load, state.memory) = (after, memory);
        Ok(())
    }

    /// Keeps room, waiting for it if there is none; the caller bounds the wait.
    pub(super) async fn reserve_or_wait(&self, one: Load) -> Result<(), Overflow> {
        loop {
            // Registered before the attempt: room that comes in between is not missed.
            let room = self.room.notified();
            match self.reserve(one) {
                Err(Overflow::Full(_)) => room.await,
                other => return other,
            }
        }
    }

    /// Takes a request for which room was kept; refuses it when the queue was closed meanwhile, as
    /// nobody may be left to pop it.
    pub(super) fn hold(
        &self,
        request: Request,
        done: Option<oneshot::Sender<Outcome>>,
    ) -> Result<(), Overflow> {
        let load = Load::of(&request);
        let entry = Entry { done, ..Entry::new(request, true) };
        let mut state = self.state();
        if state.closed {
            drop(state);
            self.cancel(load);
            return Err(Overflow::Closed);
        }
        state.waiting.push_back(entry);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// What is due, or the oldest request; `None` when the queue is closed and empty.
    pub(super) async fn pop(&self) -> Option<Entry> {
        loop {
            let work = self.work.notified();
            let due = {
                let mut state = self.state();
                if state.abandoned {
                    self.work.notify_one();
                    return None;
                }
                self.read_ahead(&mut state);
                if let Some(entry) = state.take() {
                    if !state.delayed.is_empty() {
                        // Somebody else has to watch the time.
                        self.work.notify_one();
                    }
                    return Some(entry);
                }
                if state.closed && state.delayed.is_empty() && !state.more_on_disk {
                    self.work.notify_one();
                    return None;
                }
                state.delayed.keys().next().map(|(due, _)| *due)
            };
            match due {
                None => work.await,
                // What comes first, work or time, the loop looks at both.
                Some(due) => drop(timeout_at(due, work).await),
            }
        }
    }

    /// Asks the log for more before the workers have nothing.
    fn read_ahead(&self, state: &mut State) {
        if !state.more_on_disk || state.reading {
            return;
        }
        let waiting = state.waiting.len();
        if (waiting < 2 || state.memory < self.window / 2)
            && let Some(log) = self.log.get()
        {
            state.reading = true;
            log.read();
        }
    }

    /// A request that was popped comes back, to be tried again then.
    pub(super) fn delay(&self, mut entry: Entry, wait: Duration) {
        entry.parcel.put_back();
        let mut state = self.state();
        let wait = if state.closed { wait.min(LAST_INTERVAL) } else { wait };
        state.under_way.remove(&entry.ticket);
        state.delayed.insert((Instant::now() + wait, entry.ticket), entry);
        drop(state);
        self.work.notify_one();
    }

    /// A piece of a request that was popped is settled, and this is what is left of the request: next in turn.
    pub(super) fn go_on(&self, entry: Entry, settled: usize) {
        let mut state = self.state();
        state.load.items = state.load.items.saturating_sub(settled);
        drop(state);
        self.delay(entry, Duration::ZERO);
    }

    /// A request that was popped is settled, delivered or given up: its room is free.
    pub(super) fn done(&self, ticket: u64, load: Load) {
        let mut state = self.state();
        state.under_way.remove(&ticket);
        state.load = state.load.minus(load);
        state.memory = state.memory.saturating_sub(load.bytes);
        drop(state);
        self.room.notify_waiters();
    }

    /// A reserved request is not put: its room is free.
    pub(super) fn cancel(&self, load: Load) {
        self.done(0, load);
    }

    /// Takes no more; what is in it can still be popped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let latest = Instant::now() + LAST_INTERVAL;
        let delayed = std::mem::take(&mut state.delayed).into_iter();
        state.delayed =
            delayed.map(|((due, ticket), entry)| ((due.min(latest), ticket), entry)).collect();
        drop(state);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Gives out no more: what is on disk is safe there.
    pub(super) fn abandon(&self) {
        self.state().abandoned = true;
        self.work.notify_one();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// All that is in memory only, the oldest first, for another queue. Nothing may be popped any more.
    pub(super) fn take_all(&self) -> Vec<Entry> {
        let mut state = self.state();
        state.collect();
        if self.log.get().is_none() {
            (state.load, state.memory) = (Load::default(), 0);
        }
        std::mem::take(&mut state.waiting).into_iter().filter(|entry| entry.at.is_none()).collect()
    }

    /// The oldest of what is in memory only and was acknowledged. Nothing may be popped any more.
    pub(super) fn first(&self) -> Option<Request> {
        let mut state = self.state();
        state.collect();
        // A sender that waits for the backend still has its request, and is told to come again.
        state.waiting.retain(|entry| entry.done.is_none() && entry.at.is_none());
        state.waiting.front().map(|entry| entry.parcel.left())
    }

    /// What `first` gave is somebody else's now.
    pub(super) fn settle_first(&self) {
        let mut state = self.state();
        if let Some(entry) = state.waiting.pop_front() {
            state.load = state.load.minus(entry.held());
        }
    }

    /// Takes what was in another queue, whether or not there is room, and though it may be closed.
    pub(super) fn adopt(&self, entry: Entry) {
        self.make_room(entry.held());
        let entry = Entry { ticket: 0, attempts: None, ..entry };
        self.state().waiting.push_back(entry);
        self.work.notify_one();
    }

    /// Room for what has to be taken.
    pub(super) fn make_room(&self, one: Load) {
        let mut state = self.state();
        state.load = state.load.plus(one);
        state.memory += one.bytes;
    }

    /// What is in memory only, under way included, and was acknowledged. Nothing may be popped any more.
    pub(super) fn drain(&self) -> Vec<Request> {
        let mut state = self.state();
        let mut tickets: Vec<_> = state.under_way.drain().collect();
        let delayed = std::mem::take(&mut state.delayed).into_values();
        let entries = std::mem::take(&mut state.waiting).into_iter().chain(delayed);
        let ours = entries.filter(|entry| entry.done.is_none() && entry.at.is_none());
        tickets.extend(ours.map(|entry| (entry.ticket, entry.parcel)));
        tickets.sort_unstable_by_key(|(ticket, _)| *ticket);
        tickets.into_iter().map(|(_, parcel)| parcel.left()).collect()
    }

    // --- for the log's thread ---

    /// Whether there is room in memory for a request that is on disk.
    pub(super) fn has_room(&self, bytes: usize, fresh: bool) -> bool {
        let state = self.state();
        let after = if fresh { state.memory } else { state.memory + bytes };
        after <= self.window || state.waiting.is_empty()
    }

    /// Takes a request that is on disk.
    pub(super) fn put(&self, request: Request, at: Position, fresh: bool) {
        let bytes = request.bytes.len();
        let entry = Entry { at: Some(at), ..Entry::new(request, fresh) };
        let mut state = self.state();
        if !fresh {
            state.memory += bytes;
        }
        state.waiting.push_back(entry);
        drop(state);
        self.work.notify_one();
    }

    /// A request that was reserved is on disk only.
    pub(super) fn left_on_disk(&self, bytes: usize) {
        let mut state = self.state();
        state.memory = state.memory.saturating_sub(bytes);
        drop(state);
        self.room.notify_waiters();
    }

    /// Says whether there is more to read.
    pub(super) fn more_on_disk(&self, more: bool) {
        let mut state = self.state();
        (state.more_on_disk, state.reading) = (more, false);
        drop(state);
        self.work.notify_one();
    }

    /// A record on disk turned out not to be readable.
    pub(super) fn forget(&self, load: Load) {
        let mut state = self.state();
        state.load = state.load.minus(load);
        drop(state);
        self.room.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements below the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts all that is in memory into one line, the oldest first.
    fn collect(&mut self) {
        let under_way =
            std::mem::take(&mut self.under_way).into_iter().map(|(ticket, mut parcel)| {
                parcel.put_back();
                Entry { parcel, done: None, at: None, attempts: None, ticket }
            });
        let delayed = std::mem::take(&mut self.delayed).into_values();
        let mut tried: Vec<_> = under_way.chain(delayed).collect();
        tried.sort_by_key(|entry| entry.ticket);
        for entry in tried.into_iter().rev() {
            self.waiting.push_front(entry);
        }
    }

    fn take(&mut self) -> Option<Entry> {
        let due = self.delayed.first_entry().filter(|first| first.key().0 <= Instant::now());
        let mut entry = match due {
            Some(due) => due.remove(),
            None => self.waiting.pop_front()?,
        };
        if entry.ticket == 0 {
            self.tickets += 1;
            entry.ticket = self.tickets;
        }
        if entry.done.is_none() && entry.at.is_none() {
            self.under_way.insert(entry.ticket, entry.parcel.clone());
        }
        Some(entry)
    }
}

impl Entry {
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// What of the queue's load it still is: what is left of its items, but all of its bytes.
    pub(super) fn held(&self) -> Load {
        Load { items: self.parcel.items_left(), ..Load::of(self.parcel.request()) }
    }

    /// What is to be sent of it now.
    pub(super) fn load(&self) -> Load {
        Load { requests: 1, items: self.parcel.items(), bytes: self.parcel.bytes().len() }
    }
}

impl Load {
    pub(super) fn of(request: &Request) -> Self {
        Load { requests: 1, items: request.items, bytes: request.bytes.len() }
    }

    pub(super) fn plus(self, other: Load) -> Load {
        Load {
            requests: self.requests + other.requests,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Load) -> Load {
        Load {
            requests: self.requests.saturating_sub(other.requests),
            items: self.items.saturating_sub(other.items),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Sizer {
    pub(super) fn of(self, load: &Load) -> usize {
        match self {
            Sizer::Requests => load.requests,
            Sizer::Items => load.items,
            Sizer::Bytes => load.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tapio_proto::Signal;

    use super::*;

    fn request(bytes: usize, items: usize) -> Request {
        Request::new(Signal::Logs, Bytes::from(vec![0; bytes]), items)
    }

    fn queue(sizer: Sizer, queue_size: usize) -> Queue {
        let config =
            QueueConfig { sizer: Some(sizer), queue_size, max_mib: 1, ..QueueConfig::default() };
        Queue::new(&config, Load::default())
    }

    fn push(queue: &Queue, request: Request) -> Option<Overflow> {
        let room = queue.reserve(Load::of(&request));
        room.and_then(|()| queue.hold(request, None)).err()
    }

    #[tokio::test]
    async fn each_sizer_counts_its_own() {
        for (sizer, size) in [(Sizer::Requests, 2), (Sizer::Items, 14), (Sizer::Bytes, 200)] {
            let queue = queue(sizer, size);
            assert_eq!(push(&queue, request(100, 7)), None);
            assert_eq!(push(&queue, request(100, 7)), None);
            assert_eq!(
                push(&queue, request(100, 7)),
                Some(Overflow::Full(Bound::Size)),
                "{sizer:?}"
            );
            assert_eq!(queue.size(), size);
            // What was popped is still held until it is settled.
            let popped = queue.pop().await.unwrap();
            assert_eq!(push(&queue, request(100, 7)), Some(Overflow::Full(Bound::Size)));
            queue.done(popped.ticket(), popped.held());
            assert_eq!(push(&queue, request(100, 7)), None);
        }
    }

    #[test]
    fn bytes_bound_it_whatever_the_sizer() {
        let queue = queue(Sizer::Requests, 1000);
        assert_eq!(push(&queue, request((1 << 20) + 1, 1)), Some(Overflow::TooLarge));
        assert_eq!(push(&queue, request(1 << 19, 1)), None);
        assert_eq!(push(&queue, request((1 << 19) + 1, 1)), Some(Overflow::Full(Bound::Memory)));
        assert_eq!(queue.memory(), (1 << 19, 1 << 20));
        assert_eq!(push(&queue, request(1 << 19, 1)), None);
    }

    #[tokio::test]
    async fn closed_gives_out_what_it_has_to_everyone() {
        let queue = Arc::new(queue(Sizer::Requests, 10));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut n = 0;
                    while queue.pop().await.is_some() {
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for _ in 0..5 {
            assert_eq!(push(&queue, request(1, 1)), None);
        }
        queue.close();
        assert_eq!(push(&queue, request(1, 1)), Some(Overflow::Closed));
        let mut sum = 0;
        for worker in workers {
            sum += worker.await.unwrap();
        }
        assert_eq!(sum, 5);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it() {
        let queue = Arc::new(queue(Sizer::Requests, 1));
        assert_eq!(push(&queue, request(1, 1)), None);
        let waiter = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move {
                let request = request(2, 1);
                let room = queue.reserve_or_wait(Load::of(&request)).await;
                room.and_then(|()| queue.hold(request, None)).err()
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        let first = queue.pop().await.unwrap();
        queue.done(first.ticket(), first.held());
        assert_eq!(waiter.await.unwrap(), None);
        assert_eq!(queue.pop().await.unwrap().parcel.bytes().len(), 2);
    }
}
