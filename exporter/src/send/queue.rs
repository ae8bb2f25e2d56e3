//! `sending_queue`: requests that were acknowledged, in memory, bounded in bytes whatever else
//! bounds them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Deserialize;
use tapio_proto::{Outcome, Request};
use tokio::sync::{Notify, oneshot};

use crate::net::ConfigError;

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
    /// What `queue_size` counts.
    pub sizer: Sizer,
    /// Let senders wait for room rather than refuse them.
    pub block_on_overflow: bool,
    /// Acknowledge only when the backend has.
    pub wait_for_result: bool,
    /// Capacity in MiB, whatever the sizer. Tapio's own key.
    pub max_mib: usize,
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

/// A request that waits, and whom to tell.
pub(super) struct Entry {
    pub(super) request: Request,
    pub(super) done: Option<oneshot::Sender<Outcome>>,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    /// No room now.
    Full,
    /// There can never be room: it is larger than the whole queue.
    TooLarge,
    /// The exporter is shutting down.
    Closed,
}

/// What a queue holds, under way included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) requests: usize,
    pub(super) items: usize,
    pub(super) bytes: usize,
}

pub(super) struct Queue {
    capacity: usize,
    sizer: Sizer,
    max_bytes: usize,
    state: Mutex<State>,
    work: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    load: Load,
    closed: bool,
}

/// Smaller requests are copied: as a slice they would pin the socket buffer that they came in.
const COPY_BELOW: usize = 8 << 10;

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            enabled: true,
            num_consumers: 10,
            queue_size: 1000,
            sizer: Sizer::Requests,
            block_on_overflow: false,
            wait_for_result: false,
            max_mib: 256,
        }
    }
}

impl QueueConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let positive = |value: usize, why| match value {
            0 => Err(ConfigError::new("sending_queue", why)),
            _ => Ok(()),
        };
        if !self.enabled {
            return Ok(());
        }
        positive(self.num_consumers, "`num_consumers` must be positive")?;
        positive(self.queue_size, "`queue_size` must be positive")?;
        positive(self.max_mib, "`max_mib` must be positive")
    }
}

impl Queue {
    pub(super) fn new(config: &QueueConfig) -> Self {
        Queue {
            capacity: config.queue_size,
            sizer: config.sizer,
            max_bytes: config.max_mib.saturating_mul(1 << 20),
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How full it is, counted by the sizer.
    pub(super) fn size(&self) -> usize {
        self.sizer.of(&self.state().load)
    }

    pub(super) fn load(&self) -> Load {
        self.state().load
    }

    /// Takes a request, or gives it back with the reason.
    pub(super) fn push(&self, mut entry: Entry) -> Result<(), (Entry, Overflow)> {
        let one = Load::of(&entry.request);
        if self.sizer.of(&one) > self.capacity || one.bytes > self.max_bytes {
            return Err((entry, Overflow::TooLarge));
        }
        let mut state = self.state();
        if state.closed {
            return Err((entry, Overflow::Closed));
        }
        let after = state.load.plus(one);
        if self.sizer.of(&after) > self.capacity || after.bytes > self.max_bytes {
            return Err((entry, Overflow::Full));
        }
        if one.bytes < COPY_BELOW {
            entry.request.bytes = Bytes::copy_from_slice(&entry.request.bytes);
        }
        state.load = after;
        state.waiting.push_back(entry);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes a request, waiting for room if there is none; the caller bounds the wait.
    pub(super) async fn push_or_wait(&self, mut entry: Entry) -> Result<(), (Entry, Overflow)> {
        loop {
            // Registered before the attempt: room that comes in between is not missed.
            let room = self.room.notified();
            match self.push(entry) {
                Err((back, Overflow::Full)) => entry = back,
                other => return other,
            }
            room.await;
        }
    }

    /// The oldest request; `None` when the queue is closed and empty.
    pub(super) async fn pop(&self) -> Option<Entry> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.state();
                if let Some(entry) = state.waiting.pop_front() {
                    let more = !state.waiting.is_empty();
                    drop(state);
                    if more {
                        // Several pushes may have left one permit: pass it on.
                        self.work.notify_one();
                    }
                    return Some(entry);
                }
                if state.closed {
                    self.work.notify_one();
                    return None;
                }
            }
            work.await;
        }
    }

    /// A request that was popped is settled, delivered or given up: its room is free.
    pub(super) fn done(&self, load: Load) {
        let mut state = self.state();
        state.load = state.load.minus(load);
        drop(state);
        self.room.notify_waiters();
    }

    /// Takes no more; what is in it can still be popped.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements below the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    pub(super) fn of(request: &Request) -> Self {
        Load { requests: 1, items: request.items, bytes: request.bytes.len() }
    }

    fn plus(self, other: Load) -> Load {
        Load {
            requests: self.requests + other.requests,
            items: self.items + other.items,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Load) -> Load {
        Load {
            requests: self.requests - other.requests,
            items: self.items - other.items,
            bytes: self.bytes - other.bytes,
        }
    }
}

impl Sizer {
    fn of(self, load: &Load) -> usize {
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

    fn entry(bytes: usize, items: usize) -> Entry {
        let bytes = Bytes::from(vec![0; bytes]);
        Entry { request: Request::new(Signal::Logs, bytes, items), done: None }
    }

    fn queue(sizer: Sizer, queue_size: usize) -> Queue {
        Queue::new(&QueueConfig { sizer, queue_size, max_mib: 1, ..QueueConfig::default() })
    }

    fn overflow(result: Result<(), (Entry, Overflow)>) -> Option<Overflow> {
        result.err().map(|(_, why)| why)
    }

    #[tokio::test]
    async fn each_sizer_counts_its_own() {
        for (sizer, size) in [(Sizer::Requests, 2), (Sizer::Items, 14), (Sizer::Bytes, 200)] {
            let queue = queue(sizer, size);
            assert_eq!(overflow(queue.push(entry(100, 7))), None);
            assert_eq!(overflow(queue.push(entry(100, 7))), None);
            assert_eq!(overflow(queue.push(entry(100, 7))), Some(Overflow::Full), "{sizer:?}");
            assert_eq!(queue.size(), size);
            // What was popped is still held until it is settled.
            let popped = queue.pop().await.unwrap();
            assert_eq!(overflow(queue.push(entry(100, 7))), Some(Overflow::Full));
            queue.done(Load::of(&popped.request));
            assert_eq!(overflow(queue.push(entry(100, 7))), None);
        }
    }

    #[test]
    fn bytes_bound_it_whatever_the_sizer() {
        let queue = queue(Sizer::Requests, 1000);
        assert_eq!(overflow(queue.push(entry((1 << 20) + 1, 1))), Some(Overflow::TooLarge));
        assert_eq!(overflow(queue.push(entry(1 << 19, 1))), None);
        assert_eq!(overflow(queue.push(entry((1 << 19) + 1, 1))), Some(Overflow::Full));
        assert_eq!(overflow(queue.push(entry(1 << 19, 1))), None);
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
            assert_eq!(overflow(queue.push(entry(1, 1))), None);
        }
        queue.close();
        assert_eq!(overflow(queue.push(entry(1, 1))), Some(Overflow::Closed));
        let mut sum = 0;
        for worker in workers {
            sum += worker.await.unwrap();
        }
        assert_eq!(sum, 5);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it() {
        let queue = Arc::new(queue(Sizer::Requests, 1));
        assert_eq!(overflow(queue.push(entry(1, 1))), None);
        let waiter = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { overflow(queue.push_or_wait(entry(2, 1)).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        let first = queue.pop().await.unwrap();
        queue.done(Load::of(&first.request));
        assert_eq!(waiter.await.unwrap(), None);
        assert_eq!(queue.pop().await.unwrap().request.bytes.len(), 2);
    }
}
