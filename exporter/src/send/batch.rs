//! `sending_queue: batch:`: requests leave the queue merged, by concatenation, and cut where they are too large.
//!
//! The queue keeps each request until all of it is delivered, so nothing that was acknowledged depends on a
//! batch that is still being gathered. So a `batch` processor in front of it leaves the gathering to it. Of a request that is cut one piece is under way at a time; what is left of it
//! is next in the queue when that is settled.

use std::{
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tapio_proto::{Batching, Metadata, Most, Request, transport::GoDuration};
use tokio::{
    sync::{Mutex, Notify},
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
    /// A batch grows no larger; 0 is no limit. A request is cut where a batch is full: between its spans, log
    /// records or data points. Only one of these that is larger by itself, in bytes, travels so.
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
    /// Of the queue's own configuration.
    own: Option<Arc<Rule>>,
    /// Of a `batch` processor in front of it, for as long as that lives.
    asked: RwLock<Option<Asked>>,
    /// There is another rule.
    changed: Notify,
    open: Mutex<Vec<Open>>,
}

struct Asked {
    batching: Weak<Batching>,
    rule: Arc<Rule>,
}

/// How requests are merged.
pub(super) struct Rule {
    flush: Duration,
    min: usize,
    max: usize,
    sizer: Sizer,
    keys: Vec<String>,
    /// Who wants to know of each batch.
    asked: Weak<Batching>,
}

/// Requests that leave as one.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    rule: Option<Arc<Rule>>,
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
    /// Without `batch` requests leave as they are, until a processor asks for it.
    pub(super) fn new(config: Option<&BatchConfig>, sizer: Option<Sizer>) -> Self {
        let own = config.map(|config| Rule {
            flush: *config.flush_timeout,
            min: config.min_size,
            max: if config.max_size == 0 { usize::MAX } else { config.max_size },
            sizer: config.sizer(sizer),
            keys: config.partition.metadata_keys.clone(),
            asked: Weak::new(),
        });
        Gatherer {
            own: own.map(Arc::new),
            asked: RwLock::default(),
            changed: Notify::new(),
            open: Mutex::default(),
        }
    }

    /// Whether it merges so already, or is free to.
    pub(super) fn can_batch(&self, batching: &Batching) -> bool {
        let asked = self.asked.read().unwrap_or_else(PoisonError::into_inner);
        let other = asked.as_ref().and_then(|asked| asked.batching.upgrade());
        self.own.is_some() || other.is_none_or(|other| other.is_like(batching))
    }

    /// Merges so, unless it has a rule of its own.
    pub(super) fn batch(&self, batching: &Arc<Batching>) {
        let Batching { timeout, min_items, max_items, metadata_keys, .. } = &**batching;
        let batching = Arc::downgrade(batching);
        let rule = Rule {
            flush: *timeout,
            min: *min_items,
            max: *max_items,
            sizer: Sizer::Items,
            keys: metadata_keys.clone(),
            asked: batching.clone(),
        };
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        if asked.as_ref().is_none_or(|asked| asked.batching.strong_count() == 0) {
            *asked = Some(Asked { batching, rule: Arc::new(rule) });
            drop(asked);
            self.changed.notify_waiters();
        }
    }

    /// How requests are merged now.
    fn rule(&self) -> Option<Arc<Rule>> {
        self.own.clone().or_else(|| self.asked())
    }

    fn asked(&self) -> Option<Arc<Rule>> {
        let asked = self.asked.read().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.as_ref().filter(|asked| asked.batching.strong_count() > 0)?;
        Some(Arc::clone(&asked.rule))
    }

    /// Requests of a load as the queue counts them: behind a `batch` processor those of a batch are one.
    pub(super) fn requests(&self, load: &Load) -> usize {
        match self.asked().filter(|_| self.own.is_none()) {
            Some(rule) => load.requests.min(load.items.div_ceil(rule.min.max(1))),
            None => load.requests,
        }
    }

    /// The next batch; `None` when the queue is closed and everything has left.
    pub(super) async fn next(&self, lane: &Queue) -> Option<Batch> {
        // Registered before the look: a rule that comes in between is not missed.
        let changed = self.changed.notified();
        if self.rule().is_none() {
            // What was gathered before a processor that asked for it went away.
            if let Ok(mut open) = self.open.try_lock()
                && let Some(batch) = open.pop()
            {
                return Some(batch.leaves(None, false));
            }
            tokio::select! {
                biased;
                () = changed => {}
                popped = lane.pop() => return popped.map(Batch::alone),
            }
        }
        let mut open = self.open.lock().await;
        loop {
            let rule = self.rule();
            let now = Instant::now();
            let due = match rule {
                Some(_) => open.iter().position(|batch| batch.due <= now),
                None => open.len().checked_sub(1),
            };
            if let Some(due) = due {
                return Some(open.swap_remove(due).leaves(rule, false));
            }
            let popped = match open.iter().map(|batch| batch.due).min() {
                None => lane.pop().await,
                Some(due) => match timeout_at(due, lane.pop()).await {
                    Ok(popped) => popped,
                    Err(_) => continue,
                },
            };
            // Closed: nothing more comes, and nobody waits for company.
            let Some(entry) = popped else {
                return open.pop().map(|batch| batch.leaves(rule, false));
            };
            let Some(rule) = rule else { return Some(Batch::alone(entry)) };
            if let Some(full) = rule.add(&mut open, entry) {
                return Some(full.leaves(Some(rule), true));
            }
        }
    }
}

impl Open {
    fn leaves(self, rule: Option<Arc<Rule>>, full: bool) -> Batch {
        let asked = rule.as_ref().and_then(|rule| rule.asked.upgrade());
        if let Some(asked) = asked {
            asked.observer.left(self.load.items, self.load.bytes, full);
        }
        Batch { entries: self.entries, rule }
    }
}

impl Batch {
    pub(super) fn alone(entry: Entry) -> Self {
        Batch { entries: vec![entry], rule: None }
    }

    /// Headers that all of its requests have in common.
    pub(super) fn keys(&self) -> &[String] {
        self.rule.as_ref().map_or(&[], |rule| &rule.keys)
    }
}

impl Rule {
    /// Puts a request to the others of its partition, or as much of it as there is room for; the batch that has
    /// to leave now, if one has.
    fn add(&self, open: &mut Vec<Open>, mut entry: Entry) -> Option<Open> {
        let key = self.key(entry.parcel.request());
        let at = open.iter().position(|batch| batch.key == key);
        if let Some(at) = at {
            let batch = &mut open[at];
            entry.parcel.cut(self.most(self.max.saturating_sub(self.sizer.of(&batch.load))));
            let load = batch.load.plus(entry.load());
            if self.sizer.of(&load) <= self.max && load.bytes <= MAX_BYTES {
                let full = self.is_full(load, &entry);
                batch.entries.push(entry);
                batch.load = load;
                return full.then(|| open.swap_remove(at));
            }
        }
        entry.parcel.cut(self.most(self.max));
        let load = entry.load();
        let full = self.is_full(load, &entry);
        let due = Instant::now() + if full { Duration::ZERO } else { self.flush };
        let fresh = Open { key, entries: vec![entry], load, due };
        match at {
            Some(at) => Some(std::mem::replace(&mut open[at], fresh)),
            None if full => Some(fresh),
            None => {
                open.push(fresh);
                (open.len() > MAX_OPEN).then(|| open.remove(0))
            }
        }
    }

    /// Whether a batch of which this is the last leaves now: it is large enough, or could be no larger.
    fn is_full(&self, load: Load, last: &Entry) -> bool {
        self.sizer.of(&load) >= self.min || last.parcel.goes_on()
    }

    fn most(&self, size: usize) -> Most {
        match self.sizer {
            Sizer::Bytes => Most::Bytes(size),
            Sizer::Items | Sizer::Requests => Most::Items(size),
        }
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
/// headers that partition them.
pub(super) fn merged(batch: &Batch) -> Option<Request> {
    let (entries, keys) = (&batch.entries, batch.keys());
    let (first, others) = entries.split_first()?;
    if others.is_empty() {
        return Some(first.parcel.to_send());
    }
    let len = entries.iter().map(|entry| entry.parcel.bytes().len()).sum();
    let mut bytes = BytesMut::with_capacity(len);
    entries.iter().for_each(|entry| bytes.extend_from_slice(entry.parcel.bytes()));
    let Request { signal, metadata, .. } = first.parcel.request();
    let same = others.iter().all(|entry| entry.parcel.request().metadata == *metadata);
    let common = |metadata: &Arc<Metadata>| {
        let common = |name: &String| keys.iter().any(|key| key.eq_ignore_ascii_case(name));
        let headers = metadata.headers.iter().filter(|(name, _)| common(name)).cloned().collect();
        Arc::new(Metadata { headers, ..Metadata::default() })
    };
    let items = entries.iter().map(|entry| entry.parcel.items()).sum();
    Some(Request {
        metadata: if same { metadata.clone() } else { metadata.as_ref().map(common) },
        ..Request::new(*signal, bytes.freeze(), items)
    })
}
