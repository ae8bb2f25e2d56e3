//! The `batch` processor: merges requests by concatenation, and cuts those that are too large.
//!
//! Unlike the Collector's it acknowledges a request only when the merged one was acknowledged, of one
//! that was cut every piece: what a sender was told is taken is taken by the next hop. The price is the
//! sender's patience, at most `timeout` more, and never more than [`PATIENCE`]. The pieces of one request
//! leave one after another, so that no more than one of them is in memory beside it.
//!
//! Where exporters with a queue follow, nobody has to wait: the queue acknowledges, and merges as requests leave
//! it ([`BatchConfig::batching`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tapio_proto::{
    Accepted, BatchObserver, Batching, Consumer, Metadata, Most, Next, Outcome, Parcel,
    PartialSuccess, Pending, Request, Signal, Status, transport::GoDuration,
};
use tokio::{sync::oneshot, time::sleep};

/// `processors: batch:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// For the first request of a batch, up to [`PATIENCE`]; 0 sends at once.
    pub timeout: GoDuration,
    /// Items at which a batch leaves; 0 sends at once.
    pub send_batch_size: usize,
    /// Items that no batch exceeds; 0 is no limit. A request is cut where a batch is full: between its spans,
    /// log records or data points.
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

struct Shared {
    config: BatchConfig,
    next: Next,
    observer: Option<Box<dyn BatchObserver>>,
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

/// A request, or the piece of it that is its part of a batch.
struct Part {
    parcel: Parcel,
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

    /// The same for a queue that merges after it has acknowledged.
    pub fn batching(&self, observer: Box<dyn BatchObserver>) -> Batching {
        Batching {
            timeout: *self.timeout,
            min_items: if self.at_once() { 0 } else { self.send_batch_size },
            max_items: self.max(),
            metadata_keys: self.metadata_keys.clone(),
            observer,
        }
    }

    /// Nothing waits for company.
    fn at_once(&self) -> bool {
        self.timeout.is_zero() || self.send_batch_size == 0
    }

    fn max(&self) -> usize {
        if self.send_batch_max_size == 0 { usize::MAX } else { self.send_batch_max_size }
    }
}

impl Batch {
    /// Batches before `next`. Requests must be consumed within a tokio runtime.
    pub fn new(config: BatchConfig, next: Next) -> Self {
        Self::with(config, next, None)
    }

    /// The same, telling of each batch.
    pub fn observed(config: BatchConfig, next: Next, observer: Box<dyn BatchObserver>) -> Self {
        Self::with(config, next, Some(observer))
    }

    fn with(config: BatchConfig, next: Next, observer: Option<Box<dyn BatchObserver>>) -> Self {
        Batch { shared: Arc::new(Shared { config, next, observer, lanes: Default::default() }) }
    }
}

impl Consumer for Batch {
    fn consume(&self, request: Request) -> Pending<'_> {
        let config = &self.shared.config;
        let off = config.at_once() && config.send_batch_max_size == 0;
        // Profiles share one dictionary per request: concatenation would mix the dictionaries up.
        if off || request.signal == Signal::Profiles {
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
        let (done, outcome) = oneshot::channel();
        self.gather(key, Part { parcel: Parcel::new(request), done });
        outcome
    }

    /// Puts a request, or what is left of one, to the others of its kind: as much of it as there is room for.
    fn gather(self: &Arc<Self>, key: Key, mut part: Part) {
        let (config, max) = (&self.config, self.config.max());
        let signal = part.parcel.request().signal;
        // What takes long with a large one is done before others have to wait.
        part.parcel.cut(Most::Items(max));
        let mut lanes = self.lanes(signal);
        if let Some(lane) = lanes.open.get(&key) {
            part.parcel.cut(Most::Items(max.saturating_sub(lane.items)));
            let exceeds = lane.items + part.parcel.items() > max
                || lane.bytes + part.parcel.bytes().len() > MAX_BYTES;
            if exceeds {
                self.leave(signal, lanes.open.remove_entry(&key), true);
                part.parcel.cut(Most::Items(max));
            }
        }
        let limit = config.metadata_cardinality_limit;
        if limit > 0 && lanes.open.len() >= limit && !lanes.open.contains_key(&key) {
            let why = "too many batcher metadata-value combinations";
            return part.end(Err(Status::unavailable(why)));
        }
        lanes.generations += 1;
        let generation = lanes.generations;
        let lane =
            lanes.open.entry(key.clone()).or_insert_with(|| Lane { generation, ..Lane::default() });
        lane.items += part.parcel.items();
        lane.bytes += part.parcel.bytes().len();
        let goes_on = part.parcel.goes_on();
        lane.parts.push(part);
        if lane.items >= config.send_batch_size || config.at_once() || goes_on {
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
    }

    fn key(&self, request: &Request) -> Key {
        let values = |key: &String| match &request.metadata {
            Some(metadata) => metadata.header(key).cloned().collect(),
            None => Vec::new(),
        };
        self.config.metadata_keys.iter().map(values).collect()
    }

    /// The headers that a batch's requests have in common.
    fn metadata(&self, key: &Key) -> Option<Arc<Metadata>> {
        let names = self.config.metadata_keys.iter().map(|name| name.to_lowercase());
        let headers: Vec<_> = names
            .zip(key)
            .flat_map(|(name, values)| {
                values.iter().map(move |value| (name.clone(), value.clone()))
            })
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
        tokio::spawn(async move { shared.send(signal, &key, parts).await });
    }

    /// Also what a sender has sent who has gone away since: it may not send it again.
    async fn send(self: &Arc<Self>, signal: Signal, key: &Key, parts: Vec<Part>) {
        let metadata = self.metadata(key);
        let request = |bytes, items| Request {
            metadata: metadata.clone(),
            ..Request::new(signal, bytes, items)
        };
        let alone = |part: &Part| request(part.parcel.to_send().bytes, part.parcel.items());
        let merged = match parts.as_slice() {
            [] => return,
            [one] => alone(one),
            several => {
                let len = several.iter().map(|part| part.parcel.bytes().len()).sum();
                let mut merged = BytesMut::with_capacity(len);
                several.iter().for_each(|part| merged.extend_from_slice(part.parcel.bytes()));
                request(merged.freeze(), several.iter().map(|part| part.parcel.items()).sum())
            }
        };
        match self.next.consume(merged).await {
            Ok(Accepted { partial: Some(partial) }) => {
                let shares = share(&parts, partial);
                for (part, partial) in parts.into_iter().zip(shares) {
                    self.answer(key, part, Ok(Accepted { partial: Some(partial) }));
                }
            }
            // One request that the next hop will never take must not condemn its neighbours.
            Err(status) if parts.len() > 1 && !status.is_retryable() => {
                for part in parts {
                    let outcome = self.next.consume(alone(&part)).await;
                    self.answer(key, part, outcome);
                }
            }
            outcome => {
                for part in parts {
                    self.answer(key, part, outcome.clone());
                }
            }
        }
    }

    /// What came of a part of a batch: what is left of its request goes on, or its sender is told.
    fn answer(self: &Arc<Self>, key: &Key, mut part: Part, outcome: Outcome) {
        // Who may try again sends all of it again: what followed now would come twice.
        let again = matches!(&outcome, Err(status) if status.is_retryable());
        if again || !part.parcel.goes_on() {
            return part.end(outcome);
        }
        part.parcel.answered(outcome);
        self.gather(key.clone(), part);
    }

    fn lanes(&self, signal: Signal) -> MutexGuard<'_, Lanes> {
        // A lane is consistent between any two statements below the lock.
        self.lanes[signal as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Tells the sender what came of all of it, with this as the last.
    fn end(self, outcome: Outcome) {
        // A sender that has gone away needs no answer.
        let _ = self.done.send(self.parcel.ended(outcome));
    }
}

/// Which items of a merged request were rejected is not said, only how many: the count is shared
/// out so that its sum stays true, and everyone gets the message.
fn share(parts: &[Part], partial: PartialSuccess) -> Vec<PartialSuccess> {
    let mut left = partial.rejected;
    let share = |part: &Part| {
        let rejected = left.min(i64::try_from(part.parcel.items()).unwrap_or(i64::MAX));
        left -= rejected;
        PartialSuccess { rejected, message: partial.message.clone() }
    };
    parts.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tapio_proto::{
        Code,
        view::{Record, RequestView},
        wire::{put_fixed64_field, put_len_field, put_message},
    };

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

    /// Log records that are known by their times.
    fn logs(times: std::ops::Range<u64>) -> Request {
        let items = times.clone().count();
        let mut out = Vec::new();
        put_message(&mut out, 1, |group| {
            put_message(group, 2, |scope| {
                times.for_each(|time| put_message(scope, 2, |log| put_fixed64_field(log, 1, time)));
            });
        });
        Request::new(Signal::Logs, out.into(), items)
    }

    fn times(request: &Request) -> Vec<u64> {
        let groups = RequestView::new(Signal::Logs, &request.bytes).resources();
        let scopes = groups.flat_map(|group| group.unwrap().scopes());
        let records = scopes.flat_map(|scope| scope.unwrap().records());
        let time = |record| match record {
            Ok(Record::Log(log)) => log.time_unix_nano,
            _ => panic!("no log record"),
        };
        records.map(time).collect()
    }

    fn of_ten() -> BatchConfig {
        BatchConfig { send_batch_size: 10, send_batch_max_size: 10, ..BatchConfig::default() }
    }

    /// What the next hop got, by the items that each request holds and says it holds.
    fn sizes(next: &Next_) -> Vec<usize> {
        let seen = next.seen.lock().unwrap();
        seen.iter().for_each(|request| assert_eq!(times(request).len(), request.items));
        seen.iter().map(|request| request.items).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_filled_to_their_maximum_and_no_further() {
        let (batch, next) = batch(of_ten(), taken);
        let outcomes = send_all(&batch, vec![logs(0..6), logs(6..12), logs(12..111)]).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(Accepted::default())));
        let mut sizes = sizes(&next);
        sizes.sort_unstable();
        assert_eq!(sizes, [vec![1], vec![10; 11]].concat());
        let mut all: Vec<_> = next.seen.lock().unwrap().iter().flat_map(times).collect();
        all.sort_unstable();
        assert_eq!(all, (0..111).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fill_a_batch_waits_for_company() {
        let (batch, next) = batch(of_ten(), taken);
        let started = tokio::time::Instant::now();
        let first = batch.consume(logs(0..25));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(sizes(&next), [10, 10]);
        let (first, second) = tokio::join!(first, batch.consume(logs(25..30)));
        assert_eq!((first, second), (Ok(Accepted::default()), Ok(Accepted::default())));
        assert_eq!((sizes(&next), started.elapsed().as_millis()), (vec![10; 3], 100));
        assert_eq!(times(&next.seen.lock().unwrap()[2]), (20..30).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_the_maximum_holds_as_well() {
        let config = BatchConfig { timeout: GoDuration::from_secs(0), ..of_ten() };
        let (batch, next) = batch(config, taken);
        let started = tokio::time::Instant::now();
        send_all(&batch, vec![logs(0..25)]).await;
        send_all(&batch, vec![logs(25..30)]).await;
        assert_eq!((sizes(&next), started.elapsed()), (vec![10, 10, 5, 5], Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_acknowledged_before_every_piece_is() {
        let (batch, next) = batch(of_ten(), |request| match times(request).contains(&15) {
            true => Err(Status::new(Code::Unavailable, "gone")),
            false => Ok(Accepted::default()),
        });
        let outcomes = send_all(&batch, vec![logs(0..25)]).await;
        assert_eq!(outcomes, [Err(Status::new(Code::Unavailable, "gone"))]);
        // It comes again as a whole, so the rest of it is not sent.
        assert_eq!(sizes(&next), [10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_is_refused_for_good_is_so_many_rejected_items() {
        let (batch, next) = batch(of_ten(), |request| match times(request).contains(&15) {
            true => Err(Status::new(Code::InvalidArgument, "bad")),
            false => Ok(Accepted::default()),
        });
        let outcomes = send_all(&batch, vec![logs(0..25), logs(25..30)]).await;
        let partial = PartialSuccess { rejected: 10, message: "bad".to_owned() };
        let expected = [Ok(Accepted { partial: Some(partial) }), Ok(Accepted::default())];
        assert_eq!((outcomes, sizes(&next)), (expected.into(), vec![10; 3]));
    }

    #[tokio::test(start_paused = true)]
    async fn neighbours_of_a_piece_are_not_condemned_with_it() {
        let (batch, next) = batch(of_ten(), |request| match times(request).contains(&24) {
            true => Err(Status::new(Code::InvalidArgument, "bad")),
            false => Ok(Accepted::default()),
        });
        let first = batch.consume(logs(0..25));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (first, second) = tokio::join!(first, batch.consume(logs(25..30)));
        let partial = PartialSuccess { rejected: 5, message: "bad".to_owned() };
        assert_eq!(first, Ok(Accepted { partial: Some(partial) }));
        assert_eq!((second, sizes(&next)), (Ok(Accepted::default()), vec![10, 10, 10, 5, 5]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_not_filled_beyond_what_servers_take() {
        let (batch, next) = batch(of_ten(), taken);
        // So many bytes around the records, which each piece repeats.
        let large = |times, bytes| {
            let small: Request = logs(times);
            let mut out = Vec::new();
            put_message(&mut out, 1, |group| {
                put_len_field(group, 999, &vec![0; bytes]);
                // Without the tag and the length of the group that it was in.
                group.extend_from_slice(&small.bytes[2..]);
            });
            Request::new(Signal::Logs, out.into(), small.items)
        };
        send_all(&batch, vec![large(0..3, 2_000_000), large(3..11, 3_000_000)]).await;
        assert_eq!(sizes(&next), [3, 8]);
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
    async fn rejected_counts_of_pieces_stay_true_in_sum() {
        let (batch, _) = batch(of_ten(), |request| {
            let rejected = if request.items == 10 { 4 } else { 1 };
            Ok(Accepted { partial: Some(PartialSuccess { rejected, message: "some".to_owned() }) })
        });
        let outcomes = send_all(&batch, vec![logs(0..25), logs(25..32)]).await;
        let rejected: Vec<_> =
            outcomes.into_iter().map(|o| o.unwrap().partial.unwrap().rejected).collect();
        // Of 10, 10, 5 with 5 of the other, and its 2.
        assert_eq!(rejected.iter().sum::<i64>(), 4 + 4 + 4 + 1);
        assert!(rejected[1] >= 1, "{rejected:?}");
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
