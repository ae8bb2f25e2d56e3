//! `sending_queue: batch:`: what leaves the queue is merged, and nothing of it is lost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use tapio_proto::{Accepted, Code, Consumer, Metadata, PartialSuccess, Request, Status};
use tokio::time::Instant;

use crate::support::{Door, Script, Tally, exporter_at, quick, receiver, spans, until};

async fn rig(
    batch: serde_json::Value,
    answer: impl Fn(usize) -> tapio_proto::Outcome + Send + Sync + 'static,
) -> (Arc<Script>, tapio_receiver::Handle, Arc<tapio_exporter::Exporter>, Arc<Tally>) {
    let script = Script::new(answer);
    let backend = receiver(script.clone()).await;
    let tally = Arc::new(Tally::default());
    let queue = quick(json!({"batch": batch, "num_consumers": 2}));
    let exporter = exporter_at(Door::Grpc, backend.grpc_address().unwrap(), queue, tally.clone());
    (script, backend, exporter, tally)
}

fn taken(_: usize) -> tapio_proto::Outcome {
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

#[tokio::test]
async fn a_batch_is_no_larger_than_it_may_be() {
    let batch = json!({"min_size": 10, "max_size": 10, "flush_timeout": "100ms"});
    let (script, _backend, exporter, _) = rig(batch, taken).await;
    for (first, count) in [(0, 6), (10, 6), (20, 30)] {
        exporter.consume(spans(first, count)).await.unwrap();
    }
    until("each has left", || items(&script) == [6, 6, 30]).await;
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
