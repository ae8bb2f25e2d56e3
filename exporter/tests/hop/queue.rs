//! What was acknowledged arrives: the queue, its retries, its end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::json;
use tapio_proto::{Accepted, Code, Consumer, Status};
use tokio::net::TcpListener;

use crate::support::{
    Door, Script, Tally, exporter, exporter_at, quick, receiver, receiver_with, span, spans, until,
};

#[tokio::test]
async fn a_backend_that_comes_later_gets_everything() {
    for door in [Door::Grpc, Door::Http] {
        // A port on which nobody listens yet.
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let tally = Arc::new(Tally::default());
        let exporter = exporter_at(door, address, quick(json!({})), tally.clone());
        for n in 0..50 {
            exporter.consume(span(n)).await.unwrap();
        }
        let script = Script::new(|_| Ok(Accepted::default()));
        let endpoint = json!({"endpoint": address.to_string()});
        let any = json!({"endpoint": "127.0.0.1:0"});
        let (grpc, http) = if door == Door::Grpc { (endpoint, any) } else { (any, endpoint) };
        let _backend = receiver_with(script.clone(), grpc, http).await;
        until("all arrived", || script.seen().len() == 50).await;
        until("all counted", || *tally.0.lock().unwrap() == [50, 0, 0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_restarted_under_load_loses_nothing_that_was_acknowledged() {
    for door in [Door::Grpc, Door::Http] {
        let script = Script::new(|_| Ok(Accepted::default()));
        let backend = receiver(script.clone()).await;
        let address = match door {
            Door::Grpc => backend.grpc_address(),
            Door::Http => backend.http_address(),
        };
        let address = address.unwrap();
        let tally = Arc::new(Tally::default());
        let exporter = exporter_at(door, address, quick(json!({"queue_size": 200})), tally);
        let load = tokio::spawn({
            let exporter = exporter.clone();
            async move {
                let mut acked = BTreeSet::new();
                for n in 0..600 {
                    match exporter.consume(span(n)).await {
                        Ok(_) => {
                            acked.insert(span(n).bytes);
                        }
                        Err(status) => assert_eq!(status.message, "sending queue is full"),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                acked
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Cut hard: requests under way get no answer.
        *script.delay.lock().unwrap() = Duration::from_secs(60);
        tokio::time::sleep(Duration::from_millis(20)).await;
        backend.shutdown(Duration::ZERO).await;
        *script.delay.lock().unwrap() = Duration::ZERO;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let endpoint = json!({"endpoint": address.to_string()});
        let any = json!({"endpoint": "127.0.0.1:0"});
        let (grpc, http) = if door == Door::Grpc { (endpoint, any) } else { (any, endpoint) };
        let _again = receiver_with(script.clone(), grpc, http).await;
        let acked = load.await.unwrap();
        assert!(acked.len() > 100, "the load was refused: {}", acked.len());
        until("everything acknowledged arrived", || {
            let seen: BTreeSet<_> =
                script.seen().into_iter().map(|request| request.bytes).collect();
            acked.is_subset(&seen)
        })
        .await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_secs(60);
    let backend = receiver(script).await;
    let exporter = exporter(Door::Grpc, &backend, quick(json!({"queue_size": 3})));
    for n in 0..3 {
        exporter.consume(span(n)).await.unwrap();
    }
    let status = exporter.consume(span(3)).await.unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (Code::Unavailable, "sending queue is full")
    );
    assert!(status.retry_after.is_some());
    let signal = span(0).signal;
    assert_eq!((exporter.queue_size(signal), exporter.queue_capacity(signal)), (3, 3));
    // One that could never fit must not be sent again and again.
    let config = quick(json!({"queue_size": 3, "sizer": "items"}));
    let exporter = self::exporter(Door::Grpc, &backend, config);
    let status = exporter.consume(spans(0, 4)).await.unwrap_err();
    assert!(!status.is_retryable(), "{status:?}");
}

#[tokio::test]
async fn exhausted_without_retry_info_does_not_lose_what_was_acknowledged() {
    let script = Script::new(|n| match n {
        0..5 => Err(Status::new(Code::ResourceExhausted, "too fast")),
        _ => Ok(Accepted::default()),
    });
    let backend = receiver(script.clone()).await;
    let exporter = exporter(Door::Grpc, &backend, quick(json!({"num_consumers": 1})));
    for n in 0..3 {
        exporter.consume(span(n)).await.unwrap();
    }
    until("all arrived", || script.seen().len() == 3).await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_dropped_and_counted() {
    let script = Script::new(|n| match n {
        0 => Err(Status::new(Code::InvalidArgument, "no")),
        _ => Ok(Accepted::default()),
    });
    let backend = receiver(script.clone()).await;
    let tally = Arc::new(Tally::default());
    let config = quick(json!({"num_consumers": 1}));
    let exporter = exporter_at(Door::Grpc, backend.grpc_address().unwrap(), config, tally.clone());
    exporter.consume(spans(0, 4)).await.unwrap();
    exporter.consume(spans(4, 3)).await.unwrap();
    until("both settled", || *tally.0.lock().unwrap() == [3, 4, 0]).await;
}

#[tokio::test]
async fn wait_for_result_answers_with_the_backends_answer() {
    let script = Script::new(|n| match n {
        0 => Err(Status::new(Code::Unavailable, "try again")),
        1 => Err(Status::new(Code::ResourceExhausted, "no more")),
        _ => Ok(Accepted::default()),
    });
    let backend = receiver(script).await;
    let exporter = exporter(Door::Grpc, &backend, quick(json!({"wait_for_result": true})));
    let status = exporter.consume(span(0)).await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (Code::ResourceExhausted, "no more"));
    exporter.consume(span(1)).await.unwrap();
}

#[tokio::test]
async fn block_on_overflow_waits_for_room() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_millis(20);
    let backend = receiver(script.clone()).await;
    let config = quick(json!({"queue_size": 1, "block_on_overflow": true}));
    let exporter = exporter(Door::Grpc, &backend, config);
    for n in 0..20 {
        exporter.consume(span(n)).await.unwrap();
    }
    until("all arrived", || script.seen().len() == 20).await;
}

#[tokio::test]
async fn a_shutdown_delivers_what_is_queued() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_millis(20);
    let backend = receiver(script.clone()).await;
    let exporter = exporter(Door::Grpc, &backend, quick(json!({})));
    for n in 0..40 {
        exporter.consume(span(n)).await.unwrap();
    }
    let left = exporter.shutdown(Duration::from_secs(10)).await;
    assert_eq!((left.requests, script.seen().len()), (0, 40));
    assert_eq!(exporter.consume(span(41)).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn a_shutdown_without_a_backend_is_limited_and_says_what_is_lost() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let exporter = exporter_at(Door::Grpc, address, quick(json!({})), Default::default());
    for n in 0..30 {
        exporter.consume(spans(n * 10, 10)).await.unwrap();
    }
    let left = exporter.shutdown(Duration::from_millis(300)).await;
    assert_eq!((left.requests, left.items), (30, 300));
}

#[tokio::test]
async fn a_backend_that_comes_back_during_the_shutdown_gets_it_all() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Retries that would come far too late if the shutdown did not hurry them.
    let slow = json!({"retry_on_failure": {"initial_interval": "1h", "max_interval": "1h"}});
    let exporter = exporter_at(Door::Grpc, address, slow, Default::default());
    for n in 0..30 {
        exporter.consume(span(n)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let script = Script::new(|_| Ok(Accepted::default()));
    let shutdown = tokio::spawn(async move { exporter.shutdown(Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let grpc = json!({"endpoint": address.to_string()});
    let _backend = receiver_with(script.clone(), grpc, json!({"endpoint": "127.0.0.1:0"})).await;
    assert_eq!(shutdown.await.unwrap().requests, 0);
    assert_eq!(script.seen().len(), 30);
}
