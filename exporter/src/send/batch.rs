//! `sending_queue: batch:`: requests leave the queue merged, by concatenation.
//!
//! The queue keeps each request until the merged one is delivered, so nothing that was acknowledged
//! depends on a batch that is still being gathered.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tapio_proto::{Metadata, Request, Signal, transport::GoDuration};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::queue::{Entry, Load, Queue, Sizer};

/// `batch:` of a `sending_queue`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// A batch leaves after this, however small it is.
    pub flush_timeout: GoDuration,
    /// A batch leaves when it is as large as this.
    pub min_size: usize,
    /// A batch grows no larger; 0 is no limit. A request that is larger by itself travels alone
    /// and whole.
    pub max_size: usize,
    /// What the two sizes count; the queue's sizer when absent.
    pub sizer: Option<Sizer>,
    /// Which requests may be merged with one another.
    pub partition: PartitionConfig,
}

/// `partition:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PartitionConfig {
    /// Headers of the sender (`include_metadata`) that requests of one batch have in common.
    pub metadata_keys: Vec<String>,
}

/// Merged requests stay below what gRPC servers accept by default, 4 MiB; requests that were
/// small enough by themselves must not fail because they were merged.
const MAX_BYTES: usize = 4_000_000;
/// Batches that are gathered at a time; with more partitions than that the oldest leaves early.
const MAX_OPEN: usize = 1_000;

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            flush_timeout: GoDuration::from_millis(200),
            min_size: 8192,
            max_size: 0,
            sizer: None,
            partition: PartitionConfig::default(),
        }
    }
}

impl BatchConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub(super) fn check(&self, queue: Option<Sizer>, queue_size: usize) -> Result<(), String> {
        let sizer = self.sizer(queue);
        if sizer == Sizer::Requests {
            return Err(
                "batch: `batch` supports only `items` or `bytes` sizer, found \"requests\"".into(),
            );
        }
        if self.flush_timeout.is_zero() {
            return Err("batch: `flush_timeout` must be positive, found 0".into());
        }
        let (min, max) = (self.min_size, self.max_size);
        if max > 0 && max < min {
            return Err(format!(
                "batch: `max_size` ({max}) must be greater or equal to `min_size` ({min})"
            ));
        }
        if queue.unwrap_or_default() == sizer && min > queue_size {
            return Err("`min_size` must be less than or equal to `queue_size`".into());
        }
        let mut keys: Vec<_> =
            self.partition.metadata_keys.iter().map(|key| key.to_lowercase()).collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!(
                "batch::partition: duplicate entry in metadata_keys: {:?} (case-insensitive)",
                pair[0]
            )),
            None => Ok(()),
        }
    }

    /// Of its own, or the queue's if that is set.
    fn sizer(&self, queue: Option<Sizer>) -> Sizer {
        self.sizer.or(queue).unwrap_or(Sizer::Items)
    }
}

/// Merges what comes out of one queue. Its workers share it: one gathers, the others send.
pub(super) struct Gatherer {
    flush: Duration,
    min: usize,
    max: usize,
    sizer: Sizer,
    pub(super) keys: Vec<String>,
    open: Mutex<Vec<Open>>,
}

/// The values of a partition's headers; a header that is absent is none of them.
type Key = Vec<Vec<Bytes>>;

/// A batch that is gathered.
struct Open {
    key: Key,
    entries: Vec<Entry>,
    load: Load,
    due: Instant,
}

impl Gatherer {
    /// `None` where requests leave as they are: without `batch`, and profiles, which share one
    /// dictionary per request and would mix them up.
    pub(super) fn new(
        config: Option<&BatchConfig>,
        sizer: Option<Sizer>,
        signal: Signal,
    ) -> Option<Self> {
        let config = config.filter(|_| signal != Signal::Profiles)?;
        Some(Gatherer {
            flush: *config.flush_timeout,
            min: config.min_size,
            max: if config.max_size == 0 { usize::MAX } else { config.max_size },
            sizer: config.sizer(sizer),
            keys: config.partition.metadata_keys.clone(),
            open: Mutex::default(),
        })
    }

    /// The next batch; `None` when the queue is closed and everything has left.
    pub(super) async fn next(&self, lane: &Queue) -> Option<Vec<Entry>> {
        let mut open = self.open.lock().await;
        loop {
            let due = open.iter().map(|batch| batch.due).min();
            let popped = match due {
                None => lane.pop().await,
                Some(due) => match timeout_at(due, lane.pop()).await {
                    Ok(popped) => popped,
                    Err(_) => {
                        let now = Instant::now();
                        let due = open.iter().position(|batch| batch.due <= now);
                        match due {
                            Some(due) => return Some(open.swap_remove(due).entries),
                            None => continue,
                        }
                    }
                },
            };
            // Closed: nothing more comes, and nobody waits for company.
            let Some(entry) = popped else { return open.pop().map(|batch| batch.entries) };
            if let Some(full) = self.add(&mut open, entry) {
                return Some(full);
            }
        }
    }

    /// Puts a request to the others of its partition; the batch that has to leave now, if one has.
    fn add(&self, open: &mut Vec<Open>, entry: Entry) -> Option<Vec<Entry>> {
        let (key, one) = (self.key(&entry.request), Load::of(&entry.request));
        let fits = |load: Load| self.sizer.of(&load) <= self.max && load.bytes <= MAX_BYTES;
        let fresh = |key, entry| Open {
            key,
            entries: vec![entry],
            load: one,
            due: Instant::now() + self.flush,
        };
        let Some(at) = open.iter().position(|batch| batch.key == key) else {
            let alone = fresh(key, entry);
            if self.sizer.of(&one) >= self.min {
                return Some(alone.entries);
            }
            open.push(alone);
            return (open.len() > MAX_OPEN).then(|| open.remove(0).entries);
        };
        let batch = &mut open[at];
        if !fits(batch.load.plus(one)) {
            let full = std::mem::replace(batch, fresh(key, entry));
            return Some(full.entries);
        }
        batch.entries.push(entry);
        batch.load = batch.load.plus(one);
        let full = self.sizer.of(&batch.load) >= self.min;
        full.then(|| open.swap_remove(at).entries)
    }

    fn key(&self, request: &Request) -> Key {
        let values = |key: &String| match &request.metadata {
            Some(metadata) => metadata.header(key).cloned().collect(),
            None => Vec::new(),
        };
        self.keys.iter().map(values).collect()
    }
}

/// All requests of a batch as one. Of the senders' metadata it keeps all if they are the same, else the
/// headers that partition them: `keys`.
pub(super) fn merged(entries: &[Entry], keys: &[String]) -> Option<Request> {
    let (first, others) = entries.split_first()?;
    if others.is_empty() {
        return Some(first.request.clone());
    }
    let mut bytes =
        BytesMut::with_capacity(entries.iter().map(|entry| entry.request.bytes.len()).sum());
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.request.bytes));
    let metadata = &first.request.metadata;
    let same = others.iter().all(|entry| entry.request.metadata == *metadata);
    let common = |metadata: &Arc<Metadata>| {
        let common = |name: &String| keys.iter().any(|key| key.eq_ignore_ascii_case(name));
        let headers = metadata.headers.iter().filter(|(name, _)| common(name)).cloned().collect();
        Arc::new(Metadata { headers, ..Metadata::default() })
    };
    let items = entries.iter().map(|entry| entry.request.items).sum();
    Some(Request {
        metadata: if same { metadata.clone() } else { metadata.as_ref().map(common) },
        ..Request::new(first.request.signal, bytes.freeze(), items)
    })
}
