//! The `batch` processor: merges requests by concatenation.
//!
//! Unlike the Collector's it acknowledges a request only when the merged one was acknowledged:
//! what a sender was told is taken is taken by the next hop. The price is the sender's patience,
//! at most `timeout` more, and never more than [`PATIENCE`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tapio_proto::{
    Accepted, Consumer, Metadata, Next, Outcome, PartialSuccess, Pending, Request, Signal, Status,
    transport::GoDuration,
};
use tokio::{sync::oneshot, time::sleep};

/// `processors: batch:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// For the first request of a batch, up to [`PATIENCE`]; 0 turns batching off.
    pub timeout: GoDuration,
    /// Items at which a batch leaves; 0 turns batching off.
    pub send_batch_size: usize,
    /// Items that a batch does not exceed; 0 is no limit. A request that is larger by itself
    /// travels alone and whole.
    pub send_batch_max_size: usize,
    /// Headers of the sender (`include_metadata`) that requests of one batch have in common, and that
    /// the batch keeps.
    pub metadata_keys: Vec<String>,
    /// Batches of different headers that are gathered at a time; 0 is no limit.
    pub metadata_cardinality_limit: usize,
}

/// Merges requests on their way to the next consumer.
pub struct Batch {
    shared: Arc<Shared>,
}

/// Is told of each batch that leaves, for the Collector's own metrics.
pub trait Observer: Send + Sync + 'static {
    /// Its size, and whether it left because it was full and not because its time was up.
    fn left(&self, items: usize, bytes: usize, full: bool);
}

struct Shared {
    config: BatchConfig,
    next: Next,
    observer: Option<Box<dyn Observer>>,
    lanes: [Mutex<Lanes>; Signal::ALL.len()],
}

/// The batches of one signal that are being collected, by the headers that they have in common.
#[derive(Default)]
struct Lanes {
    open: HashMap<Key, Lane>,
    /// Counts batches, so that a timer knows whether its own has left.
    generations: u64,
}

/// The values of each of `metadata_keys`.
type Key = Vec<Vec<Bytes>>;

#[derive(Default)]
struct Lane {
    parts: Vec<Part>,
    items: usize,
    bytes: usize,
    generation: u64,
}

struct Part {
    bytes: Bytes,
    items: usize,
    done: oneshot::Sender<Outcome>,
}

/// Senders give up after 5 or 10 s, and would send again what was about to leave.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Merged requests stay below what gRPC servers accept by default, 4 MiB; requests that were
/// small enough by themselves must not fail because Tapio merged them.
const MAX_BYTES: usize = 4_000_000;

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig {
            timeout: GoDuration::from_millis(200),
            send_batch_size: 8192,
            send_batch_max_size: 0,
            metadata_keys: Vec::new(),
            metadata_cardinality_limit: 1000,
        }
    }
}

impl BatchConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        if self.send_batch_max_size > 0 && self.send_batch_max_size < self.send_batch_size {
            return Err(
                "send_batch_max_size must be greater or equal to send_batch_size".to_owned()
            );
        }
        let mut keys: Vec<_> = self.metadata_keys.iter().map(|key| key.to_lowercase()).collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(format!("duplicate entry in metadata_keys: {:?} (case-insensitive)", pair[0]))
            }
            None => Ok(()),
        }
    }

    fn is_off(&self) -> bool {
        self.timeout.is_zero() || self.send_batch_size == 0
    }
}

impl Batch {
    /// Batches before `next`. Requests must be consumed within a tokio runtime.
    pub fn new(config: BatchConfig, next: Next) -> Self {
        Self::with(config, next, None)
    }

    /// The same, telling of each batch.
    pub fn observed(config: BatchConfig, next: Next, observer: Box<dyn Observer>) -> Self {
        Self::with(config, next, Some(observer))
    }

    fn with(config: BatchConfig, next: Next, observer: Option<Box<dyn Observer>>) -> Self {
        Batch { shared: Arc::new(Shared { config, next, observer, lanes: Default::default() }) }
    }
}

impl Consumer for Batch {
    fn consume(&self, request: Request) -> Pending<'_> {
        // Profiles share one dictionary per request: concatenation would mix the dictionaries up.
        if self.shared.config.is_off() || request.signal == Signal::Profiles {
            return self.shared.next.consume(request);
        }
        let outcome = self.shared.add(request);
        Box::pin(async move {
            outcome.await.unwrap_or_else(|_| Err(Status::unavailable("the batch was interrupted")))
        })
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn add(self: &Arc<Self>, request: Request) -> oneshot::Receiver<Outcome> {
        let key = self.key(&request);
        let Request { signal, bytes, items, .. } = request;
        let (done, outcome) = oneshot::channel();
        let config = &self.config;
        let mut lanes = self.lanes(signal);
        let max_items = match config.send_batch_max_size {
            0 => usize::MAX,
            max => max,
        };
        let exceeds =
            |lane: &Lane| lane.items + items > max_items || lane.bytes + bytes.len() > MAX_BYTES;
        if lanes.open.get(&key).is_some_and(exceeds) {
            self.leave(signal, lanes.open.remove_entry(&key), true);
        }
        let limit = config.metadata_cardinality_limit;
        if limit > 0 && lanes.open.len() >= limit && !lanes.open.contains_key(&key) {
            let why = "too many batcher metadata-value combinations";
            let _ = done.send(Err(Status::unavailable(why)));
            return outcome;
        }
        lanes.generations += 1;
        let generation = lanes.generations;
        let lane =
            lanes.open.entry(key.clone()).or_insert_with(|| Lane { generation, ..Lane::default() });
        lane.items += items;
        lane.bytes += bytes.len();
        lane.parts.push(Part { bytes, items, done });
        if lane.items >= config.send_batch_size {
            self.leave(signal, lanes.open.remove_entry(&key), true);
        } else if lane.generation == generation {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                sleep((*shared.config.timeout).min(PATIENCE)).await;
                let mut lanes = shared.lanes(signal);
                if lanes.open.get(&key).is_some_and(|lane| lane.generation == generation) {
                    shared.leave(signal, lanes.open.remove_entry(&key), false);
                }
            });
        }
        outcome
    }

    fn key(&self, request: &Request) -> Key {
        let values = |key: &String| match &request.metadata {
            Some(metadata) => metadata.header(key).cloned().collect(),
            None => Vec::new(),
        };
        self.config.metadata_keys.iter().map(values).collect()
    }

    /// The headers that a batch's requests have in common.
    fn metadata(&self, key: Key) -> Option<Arc<Metadata>> {
        let names = self.config.metadata_keys.iter().map(|name| name.to_lowercase());
        let headers: Vec<_> = names
            .zip(key)
            .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
            .collect();
        (!headers.is_empty()).then(|| Arc::new(Metadata { headers, ..Metadata::default() }))
    }

    /// Sends a batch on, on a task of its own: it belongs to several senders, and one that goes
    /// away must not take the others' requests with it.
    fn leave(self: &Arc<Self>, signal: Signal, batch: Option<(Key, Lane)>, full: bool) {
        let Some((key, Lane { parts, items, bytes, .. })) = batch else { return };
        if let Some(observer) = &self.observer {
            observer.left(items, bytes, full);
        }
        let shared = Arc::clone(self);
        let metadata = shared.metadata(key);
        tokio::spawn(async move { shared.send(signal, parts, metadata).await });
    }

    /// Also what a sender has sent who has gone away since: it may not send it again.
    async fn send(&self, signal: Signal, parts: Vec<Part>, metadata: Option<Arc<Metadata>>) {
        let request = |bytes, items| Request {
            metadata: metadata.clone(),
            ..Request::new(signal, bytes, items)
        };
        let items = parts.iter().map(|part| part.items).sum();
        let bytes = match parts.as_slice() {
            [] => return,
            [one] => one.bytes.clone(),
            several => {
                let len = several.iter().map(|part| part.bytes.len()).sum();
                let mut merged = BytesMut::with_capacity(len);
                several.iter().for_each(|part| merged.extend_from_slice(&part.bytes));
                merged.freeze()
            }
        };
        match self.next.consume(request(bytes, items)).await {
            Ok(Accepted { partial: Some(partial) }) => share(parts, partial),
            // One request that the next hop will never take must not condemn its neighbours.
            Err(status) if parts.len() > 1 && !status.is_retryable() => {
                for Part { bytes, items, done } in parts {
                    let outcome = self.next.consume(request(bytes, items)).await;
                    let _ = done.send(outcome);
                }
            }
            outcome => {
                for part in parts {
                    let _ = part.done.send(outcome.clone());
                }
            }
        }
    }

    fn lanes(&self, signal: Signal) -> MutexGuard<'_, Lanes> {
        // A lane is consistent between any two statements below the lock.
        self.lanes[signal as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which items of a merged request were rejected is not said, only how many: the count is shared
/// out so that its sum stays true, and everyone gets the message.
fn share(parts: Vec<Part>, partial: PartialSuccess) {
    let mut left = partial.rejected;
    for part in parts {
        let rejected = left.min(i64::try_from(part.items).unwrap_or(i64::MAX));
        left -= rejected;
        let partial = PartialSuccess { rejected, message: partial.message.clone() };
        let _ = part.done.send(Ok(Accepted { partial: Some(partial) }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tapio_proto::Code;

    use super::*;

    /// Answers by script, the last answer for ever; keeps what came.
    struct Next_ {
        seen: Mutex<Vec<Request>>,
        answer: fn(&Request) -> Outcome,
    }

    impl Consumer for Next_ {
        fn consume(&self, request: Request) -> Pending<'_> {
            let outcome = (self.answer)(&request);
            self.seen.lock().unwrap().push(request);
            Box::pin(async move { outcome })
        }
    }

    fn batch(config: BatchConfig, answer: fn(&Request) -> Outcome) -> (Arc<Batch>, Arc<Next_>) {
        let next = Arc::new(Next_ { seen: Mutex::default(), answer });
        (Arc::new(Batch::new(config, Arc::clone(&next) as Next)), next)
    }

    fn request(bytes: &'static [u8], items: usize) -> Request {
        Request::new(Signal::Logs, Bytes::from_static(bytes), items)
    }

    fn taken(_: &Request) -> Outcome {
        Ok(Accepted::default())
    }

    async fn send_all(batch: &Arc<Batch>, requests: Vec<Request>) -> Vec<Outcome> {
        let tasks: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let batch = Arc::clone(batch);
                tokio::spawn(async move { batch.consume(request).await })
            })
            .collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap());
        }
        outcomes
    }

    #[tokio::test(start_paused = true)]
    async fn merged_is_concatenated_and_everyone_is_answered() {
        let (batch, next) = batch(BatchConfig::default(), taken);
        let outcomes = send_all(&batch, vec![request(b"one", 1), request(b"two", 2)]).await;
        assert!(outcomes.iter().all(Result::is_ok));
        let seen = next.seen.lock().unwrap();
        assert_eq!((seen.len(), &seen[0].bytes[..], seen[0].items), (1, &b"onetwo"[..], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_acknowledged_before_the_next_hop_did() {
        let refuse = |_: &Request| Err(Status::new(Code::Unavailable, "gone"));
        let (batch, _) = batch(BatchConfig::default(), refuse);
        for outcome in send_all(&batch, vec![request(b"one", 1), request(b"two", 2)]).await {
            assert_eq!(outcome.unwrap_err().message, "gone");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let config = BatchConfig {
            send_batch_size: 2,
            timeout: GoDuration::from_secs(60),
            ..BatchConfig::default()
        };
        let (batch, next) = batch(config, taken);
        let started = tokio::time::Instant::now();
        send_all(&batch, vec![request(b"one", 1), request(b"two", 1)]).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(next.seen.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn max_size_is_not_exceeded() {
        let config =
            BatchConfig { send_batch_size: 10, send_batch_max_size: 10, ..BatchConfig::default() };
        let (batch, next) = batch(config, taken);
        send_all(&batch, vec![request(b"a", 6), request(b"b", 6), request(b"c", 99)]).await;
        let mut items: Vec<_> = next.seen.lock().unwrap().iter().map(|r| r.items).collect();
        items.sort_unstable();
        assert_eq!(items, [6, 6, 99]);
    }

    #[tokio::test(start_paused = true)]
    async fn senders_with_other_headers_are_not_merged_and_the_headers_stay() {
        let config =
            BatchConfig { metadata_keys: vec!["X-Tenant".into()], ..BatchConfig::default() };
        let (batch, next) = batch(config, taken);
        let of = |tenant: &'static str, bytes| {
            let headers = vec![
                ("x-tenant".to_owned(), Bytes::from_static(tenant.as_bytes())),
                ("x-other".to_owned(), Bytes::from_static(bytes)),
            ];
            let metadata = Metadata { headers, ..Metadata::default() };
            Request { metadata: Some(Arc::new(metadata)), ..request(bytes, 1) }
        };
        send_all(&batch, vec![of("a", b"1"), of("b", b"2"), of("a", b"3"), request(b"4", 1)]).await;
        let mut seen: Vec<_> = next
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(|request| {
                let headers = request.metadata.as_ref().map(|metadata| metadata.headers.clone());
                (request.bytes.clone(), headers.unwrap_or_default())
            })
            .collect();
        seen.sort();
        let tenant = |value: &'static str| vec![("x-tenant".to_owned(), Bytes::from(value))];
        assert_eq!(
            seen,
            [("13".into(), tenant("a")), ("2".into(), tenant("b")), ("4".into(), vec![])]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn more_combinations_of_headers_than_allowed_are_refused() {
        let config = BatchConfig {
            metadata_keys: vec!["x".into()],
            metadata_cardinality_limit: 1,
            ..BatchConfig::default()
        };
        let (batch, _) = batch(config, taken);
        let headers = vec![("x".to_owned(), Bytes::from_static(b"1"))];
        let metadata = Some(Arc::new(Metadata { headers, ..Metadata::default() }));
        let other = Request { metadata, ..request(b"b", 1) };
        let outcomes = send_all(&batch, vec![request(b"a", 1), other]).await;
        assert!(outcomes[0].is_ok());
        assert!(outcomes[1].as_ref().unwrap_err().message.contains("too many batcher"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_request_does_not_condemn_its_neighbours() {
        let (batch, _) = batch(BatchConfig::default(), |request| {
            let bad = request.bytes.windows(3).any(|bytes| bytes == b"bad");
            if bad { Err(Status::new(Code::InvalidArgument, "bad")) } else { taken(request) }
        });
        let outcomes =
            send_all(&batch, vec![request(b"one", 1), request(b"bad", 1), request(b"two", 1)])
                .await;
        assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_counts_stay_true_in_sum() {
        let (batch, _) = batch(BatchConfig::default(), |_| {
            let partial = PartialSuccess { rejected: 5, message: "some".to_owned() };
            Ok(Accepted { partial: Some(partial) })
        });
        let outcomes = send_all(&batch, vec![request(b"a", 3), request(b"b", 3)]).await;
        let rejected: Vec<_> =
            outcomes.into_iter().map(|o| o.unwrap().partial.unwrap().rejected).collect();
        assert_eq!(rejected.iter().sum::<i64>(), 5);
        assert!(rejected.iter().all(|n| *n <= 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_by_one_who_went_away_is_sent_on() {
        let (batch, next) = batch(BatchConfig::default(), taken);
        drop(batch.consume(request(b"gone", 1)));
        send_all(&batch, vec![request(b"here", 1)]).await;
        assert_eq!(&next.seen.lock().unwrap()[0].bytes[..], b"gonehere");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_senders_do() {
        let config = BatchConfig { timeout: GoDuration::from_secs(60), ..BatchConfig::default() };
        let (batch, _) = batch(config, taken);
        let started = tokio::time::Instant::now();
        send_all(&batch, vec![request(b"one", 1)]).await;
        assert_eq!(started.elapsed(), PATIENCE);
    }
}
