//! `sending_queue: batch:`: what leaves the queue is merged or cut, and nothing of it is lost.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tapio_exporter::holdings;
use tapio_proto::{
    Accepted, BatchObserver, Batching, CanBatch, Code, Consumer, Metadata, Outcome, PartialSuccess,
    Request, Signal, Status,
    view::{Record, RequestView},
};
use tokio::time::Instant;

use crate::{
    queue::{storage, with_storage},
    support::{Door, Script, Tally, exporter_at, quick, receiver, spans, until},
};

type Rig = (Arc<Script>, tapio_receiver::Handle, Arc<tapio_exporter::Exporter>, Arc<Tally>);

async fn rig(batch: Value, answer: impl Fn(usize) -> Outcome + Send + Sync + 'static) -> Rig {
    rig_with(json!({"batch": batch, "num_consumers": 2}), answer).await
}

async fn rig_with(queue: Value, answer: impl Fn(usize) -> Outcome + Send + Sync + 'static) -> Rig {
    let script = Script::new(answer);
    let backend = receiver(script.clone()).await;
    let tally = Arc::new(Tally::default());
    let queue = quick(queue);
    let exporter = exporter_at(Door::Grpc, backend.grpc_address().unwrap(), queue, tally.clone());
    (script, backend, exporter, tally)
}

fn taken(_: usize) -> Outcome {
    Ok(Accepted::default())
}

fn items(script: &Script) -> Vec<usize> {
    let mut items: Vec<_> = script.seen().iter().map(|request| request.items).collect();
    items.sort_unstable();
    items
}

#[tokio::test]
async fn a_batch_leaves_when_it_is_large_enough_or_its_time_is_up() {
    let batch = json!({"min_size": 10, "flush_timeout": "300ms"});
    let (script, _backend, exporter, tally) = rig(batch, taken).await;
    let started = Instant::now();
    for n in 0..6 {
        exporter.consume(spans(n * 4, 4)).await.unwrap();
    }
    until("two are full", || items(&script) == [12, 12]).await;
    assert!(started.elapsed() < Duration::from_millis(250), "they waited for no time");
    exporter.consume(spans(100, 1)).await.unwrap();
    let alone = Instant::now();
    until("one is due", || items(&script) == [1, 12, 12]).await;
    assert!(alone.elapsed() >= Duration::from_millis(250), "it waited for company");
    until("all counted", || *tally.0.lock().unwrap() == [25, 0, 0]).await;
    let bytes: Bytes = [spans(0, 4), spans(4, 4), spans(8, 4)]
        .iter()
        .map(|r| r.bytes.clone())
        .collect::<Vec<_>>()
        .concat()
        .into();
    assert!(script.seen().iter().any(|request| request.bytes == bytes), "merged is concatenated");
}

/// What a `batch` processor hears of batches: their items, and whether they were full.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(usize, bool)>>>);

impl BatchObserver for Heard {
    fn left(&self, items: usize, _: usize, full: bool) {
        self.0.lock().unwrap().push((items, full));
    }
}

fn asked(min_items: usize, heard: &Heard) -> Arc<Batching> {
    Arc::new(Batching {
        timeout: Duration::from_millis(300),
        min_items,
        max_items: usize::MAX,
        metadata_keys: Vec::new(),
        observer: Box::new(heard.clone()),
    })
}

/// Guarantees: a `batch` processor's batches are made in the queue, whose senders are answered at once, and
/// count there as one request each; they are made for as long as the processor lives, and nobody else can ask
/// for other ones meanwhile.
#[tokio::test]
async fn a_processor_leaves_its_batches_to_the_queue() {
    let (script, _backend, exporter, _) = rig_with(json!({"queue_size": 2}), taken).await;
    let (heard, signal) = (Heard::default(), Signal::Traces);
    let tens = asked(10, &heard);
    // Its workers wait for requests already.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(exporter.can_batch(signal, &tens), CanBatch::Yes);
    exporter.batch(signal, &tens);
    assert_eq!(exporter.can_batch(signal, &asked(10, &heard)), CanBatch::Yes);
    assert_eq!(exporter.can_batch(signal, &asked(11, &heard)), CanBatch::No);
    assert_eq!(exporter.can_batch(Signal::Logs, &asked(11, &heard)), CanBatch::Yes);
    let started = Instant::now();
    for n in 0..5 {
        exporter.consume(spans(n, 1)).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_millis(200), "nobody waited");
    until("one is due", || items(&script) == [5]).await;
    assert_eq!(*heard.0.lock().unwrap(), [(5, false)]);
    exporter.consume(spans(10, 7)).await.unwrap();
    exporter.consume(spans(20, 7)).await.unwrap();
    until("one is full", || items(&script) == [5, 14]).await;
    assert_eq!(*heard.0.lock().unwrap(), [(5, false), (14, true)]);
    drop(tens);
    assert_eq!(exporter.can_batch(signal, &asked(11, &heard)), CanBatch::Yes);
    exporter.consume(spans(30, 1)).await.unwrap();
    until("it comes alone", || items(&script) == [1, 5, 14]).await;
    assert_eq!(heard.0.lock().unwrap().len(), 2);
}

/// The ids of the spans that arrived, in order.
fn ids(script: &Script) -> Vec<u64> {
    let mut ids = Vec::new();
    for request in script.seen() {
        for group in RequestView::new(Signal::Traces, &request.bytes).resources() {
            for record in group.unwrap().scopes().flat_map(|scope| scope.unwrap().records()) {
                let Record::Span(span) = record.unwrap() else { panic!("no span") };
                ids.push(u64::from_be_bytes(span.span_id.try_into().unwrap()));
            }
        }
    }
    ids.sort_unstable();
    ids
}

fn of_ten() -> Value {
    json!({"min_size": 10, "max_size": 10, "flush_timeout": "100ms"})
}

#[tokio::test]
async fn batches_are_filled_to_their_maximum_and_no_further() {
    let batch = json!({"min_size": 10, "max_size": 10, "flush_timeout": "2s"});
    let (script, _backend, exporter, tally) = rig(batch, taken).await;
    for (first, count) in [(0, 6), (6, 6), (12, 30)] {
        exporter.consume(spans(first, count)).await.unwrap();
    }
    until("all have left", || items(&script) == [2, 10, 10, 10, 10]).await;
    assert_eq!(ids(&script), (0..42).collect::<Vec<_>>());
    until("all are settled", || exporter.queue_size(Signal::Traces) == 0).await;
    assert_eq!(*tally.0.lock().unwrap(), [42, 0, 0]);
}

#[tokio::test]
async fn what_is_larger_than_the_least_size_does_not_wait() {
    let batch = json!({"min_size": 4, "max_size": 10, "flush_timeout": "60s"});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    exporter.consume(spans(0, 24)).await.unwrap();
    until("all have left", || items(&script) == [4, 10, 10]).await;
}

#[tokio::test]
async fn pieces_are_no_larger_in_bytes_where_the_sizer_says_so() {
    let max = spans(0, 10).bytes.len() + 5;
    let batch =
        json!({"sizer": "bytes", "min_size": max, "max_size": max, "flush_timeout": "100ms"});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    for (first, count) in [(0, 4), (4, 40), (44, 1)] {
        exporter.consume(spans(first, count)).await.unwrap();
    }
    until("all have arrived", || ids(&script) == (0..45).collect::<Vec<_>>()).await;
    assert!(script.seen().iter().all(|request| request.bytes.len() <= max));
    assert!(script.seen().len() <= 7, "pieces are full: {:?}", items(&script));
    // A span that is too large by itself travels all the same.
    let batch = json!({"sizer": "bytes", "min_size": 9, "max_size": 9, "flush_timeout": "100ms"});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    exporter.consume(spans(0, 3)).await.unwrap();
    until("each alone", || items(&script) == [1, 1, 1]).await;
}

#[tokio::test]
async fn a_piece_that_is_refused_for_now_is_sent_again_and_no_other_twice() {
    // Longer than a worker waits for.
    let (script, _backend, exporter, tally) = rig(of_ten(), |n| match n {
        1..7 => Err(Status::new(Code::Unavailable, "not now")),
        _ => Ok(Accepted::default()),
    })
    .await;
    exporter.consume(spans(0, 35)).await.unwrap();
    until("all counted", || *tally.0.lock().unwrap() == [35, 0, 0]).await;
    assert_eq!((items(&script), ids(&script)), (vec![5, 10, 10, 10], (0..35).collect()));
}

#[tokio::test]
async fn only_the_piece_that_is_refused_for_good_is_a_dead_letter() {
    let script = Script::new(|n| match n {
        1 => Err(Status::new(Code::InvalidArgument, "bad")),
        _ => Ok(Accepted::default()),
    });
    let backend = receiver(script.clone()).await;
    for on_disk in [false, true] {
        let (storage, folder) = storage(&format!("piece-{on_disk}"), 1);
        let (address, tally) = (backend.grpc_address().unwrap(), Arc::new(Tally::default()));
        let queue = json!({"batch": of_ten()});
        let exporter = with_storage(address, &storage, on_disk, queue, tally.clone());
        script.again();
        exporter.consume(spans(0, 25)).await.unwrap();
        until("all counted", || *tally.0.lock().unwrap() == [15, 10, 0]).await;
        assert_eq!(ids(&script), (0..10).chain(20..25).collect::<Vec<_>>());
        until("all are settled", || exporter.queue_size(Signal::Traces) == 0).await;
        assert_eq!(exporter.shutdown(Duration::from_secs(5)).await.kept, 0);
        let held = holdings(&folder).unwrap();
        let dead = held.iter().find(|held| held.signal.is_none()).unwrap();
        assert_eq!((dead.requests, dead.items), (1, 10));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Scenario: the backend has taken one piece of three and is silent when the exporter ends.
/// Guarantees: in memory, what it did not take is a dead letter; on disk, the next start sends all of it.
#[tokio::test]
async fn what_is_left_of_a_request_at_the_end_is_kept() {
    for on_disk in [false, true] {
        let script = Script::new(taken);
        let backend = receiver(script.clone()).await;
        let (storage, folder) = storage(&format!("rest-{on_disk}"), 1);
        let start = || {
            let (queue, tally) = (json!({"batch": of_ten()}), Arc::new(Tally::default()));
            with_storage(backend.grpc_address().unwrap(), &storage, on_disk, queue, tally)
        };
        let exporter = start();
        *script.delay.lock().unwrap() = Duration::from_millis(200);
        exporter.consume(spans(0, 25)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        *script.delay.lock().unwrap() = Duration::from_secs(60);
        until("one was taken", || items(&script) == [10]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let left = exporter.shutdown(Duration::from_millis(100)).await;
        assert_eq!((left.requests, left.items, left.kept), (0, 0, 1));
        let held = holdings(&folder).unwrap();
        let held = held.iter().find(|held| held.requests > 0).unwrap();
        let (signal, items) = if on_disk { (Some(Signal::Traces), 25) } else { (None, 15) };
        assert_eq!((held.signal, held.requests, held.items), (signal, 1, items));
        *script.delay.lock().unwrap() = Duration::ZERO;
        let exporter = start();
        if !on_disk {
            tapio_exporter::ask_replay(&folder, "otlp").unwrap();
        }
        let all = |script: &Script| {
            let mut ids = ids(script);
            ids.dedup();
            ids == (0..25).collect::<Vec<_>>()
        };
        until("the rest arrived", || all(&script)).await;
        until("all are settled", || exporter.queue_size(Signal::Traces) == 0).await;
        drop(exporter);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn senders_that_wait_are_told_what_became_of_all_pieces() {
    let refuse = |code| {
        move |n| match n {
            1 => Err(Status::new(code, "no")),
            _ => Ok(Accepted::default()),
        }
    };
    let ask = async |script: Arc<Script>| {
        let backend = receiver(script.clone()).await;
        let mut config = quick(json!({"wait_for_result": true, "batch": of_ten()}));
        config["retry_on_failure"] = json!({"enabled": false});
        let tally = Arc::new(Tally::default());
        let exporter = exporter_at(Door::Grpc, backend.grpc_address().unwrap(), config, tally);
        (exporter.consume(spans(0, 25)).await, items(&script))
    };
    assert_eq!(ask(Script::new(taken)).await, (Ok(Accepted::default()), vec![5, 10, 10]));
    let partial = PartialSuccess { rejected: 10, message: "no".to_owned() };
    let (answer, items) = ask(Script::new(refuse(Code::InvalidArgument))).await;
    assert_eq!((answer, items), (Ok(Accepted { partial: Some(partial) }), vec![5, 10]));
    // It may be sent again as a whole, so the rest is not sent.
    let (answer, items) = ask(Script::new(refuse(Code::Unavailable))).await;
    assert_eq!((answer.unwrap_err().code, items), (Code::Unavailable, vec![10]));
}

#[tokio::test]
async fn bytes_are_counted_where_the_sizer_says_so() {
    let one = spans(0, 1).bytes.len();
    let batch = json!({"sizer": "bytes", "min_size": 3 * one, "flush_timeout": "60s"});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    for n in 0..3 {
        exporter.consume(spans(n, 1)).await.unwrap();
    }
    until("three are enough", || items(&script) == [3]).await;
}

#[tokio::test]
async fn senders_of_different_partitions_are_not_merged() {
    let batch = json!({"flush_timeout": "200ms", "partition": {"metadata_keys": ["X-Tenant"]}});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    for (n, tenant) in [(0, Some("a")), (1, Some("b")), (2, Some("a")), (3, None), (4, Some("b"))] {
        let headers = tenant.map(|tenant| ("x-tenant".to_owned(), Bytes::from(tenant)));
        let metadata = Metadata { headers: headers.into_iter().collect(), ..Metadata::default() };
        let request = Request { metadata: Some(Arc::new(metadata)), ..spans(n, 1) };
        exporter.consume(request).await.unwrap();
    }
    until("three batches", || items(&script) == [1, 2, 2]).await;
}

#[tokio::test]
async fn one_that_is_refused_for_good_does_not_condemn_its_neighbours() {
    // The merged one and then the second of the three.
    let (script, _backend, exporter, tally) =
        rig(json!({"min_size": 3, "flush_timeout": "60s"}), |n| match n {
            0 | 2 => Err(Status::new(Code::InvalidArgument, "bad")),
            _ => Ok(Accepted::default()),
        })
        .await;
    for n in 0..3 {
        exporter.consume(spans(n, 1)).await.unwrap();
    }
    until("two arrived, one did not", || *tally.0.lock().unwrap() == [2, 1, 0]).await;
    assert_eq!(items(&script), [1, 1]);
}

#[tokio::test]
async fn a_batch_that_is_gathered_leaves_at_the_end() {
    let (script, _backend, exporter, _) = rig(json!({"flush_timeout": "60s"}), taken).await;
    for n in 0..5 {
        exporter.consume(spans(n, 1)).await.unwrap();
    }
    let left = exporter.shutdown(Duration::from_secs(5)).await;
    assert_eq!((left.requests, items(&script)), (0, vec![5]));
}

#[tokio::test]
async fn senders_that_wait_are_told_what_became_of_their_part() {
    let script = Script::new(|_| {
        let partial = PartialSuccess { rejected: 3, message: "three".to_owned() };
        Ok(Accepted { partial: Some(partial) })
    });
    let backend = receiver(script.clone()).await;
    let queue =
        quick(json!({"wait_for_result": true, "batch": {"min_size": 4, "flush_timeout": "60s"}}));
    let tally = Arc::new(Tally::default());
    let exporter = exporter_at(Door::Grpc, backend.grpc_address().unwrap(), queue, tally);
    let (one, two) = tokio::join!(exporter.consume(spans(0, 2)), exporter.consume(spans(2, 2)));
    let rejected = [one, two].map(|outcome| outcome.unwrap().partial.unwrap().rejected);
    assert_eq!(rejected.iter().sum::<i64>(), 3);
}
