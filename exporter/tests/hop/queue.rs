//! What was acknowledged arrives: the queue, its retries, its end.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tapio_exporter::{
    Exporter, FileStorageConfig, OtlpGrpcConfig, Storage, ask_replay, holdings, otlp_grpc,
};
use tapio_proto::{Accepted, Code, Consumer, Pending, Request, Signal, Status};
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

/// Refuses the requests below a number of spans, each time, and takes the others.
struct Picky(Status, Arc<Script>);

impl Consumer for Picky {
    fn consume(&self, request: Request) -> Pending<'_> {
        match request.items {
            0..10 => {
                let status = self.0.clone();
                Box::pin(async move { Err(status) })
            }
            _ => self.1.consume(request),
        }
    }
}

#[tokio::test]
async fn requests_that_the_backend_never_takes_do_not_hold_up_the_others() {
    let good = Script::new(|_| Ok(Accepted::default()));
    let never = Status::new(Code::DeadlineExceeded, "too slow");
    let backend = receiver(Arc::new(Picky(never, good.clone()))).await;
    let exporter =
        exporter(Door::Grpc, &backend, quick(json!({"num_consumers": 2, "queue_size": 100})));
    for n in 0..8 {
        exporter.consume(spans(n * 100, 1)).await.unwrap();
    }
    for n in 10..50 {
        exporter.consume(spans(n * 100, 20)).await.unwrap();
    }
    until("the good ones arrived", || good.seen().len() == 40).await;
    assert_eq!(exporter.queue_size(Signal::Traces), 8, "the others are kept");
    let left = exporter.shutdown(Duration::from_millis(200)).await;
    assert_eq!((left.requests, left.items), (8, 8));
}

/// A storage below the folder for temporary files, and its folder.
pub(crate) fn storage(name: &str, dead_letters_max_mib: u64) -> (Arc<Storage>, PathBuf) {
    let folder = std::env::temp_dir().join(format!("tapio-hop-{}-{name}", std::process::id()));
    drop(std::fs::remove_dir_all(&folder));
    let config = json!({
        "directory": folder, "create_directory": true, "max_mib": 1, "dead_letters_max_mib": dead_letters_max_mib
    });
    let config: FileStorageConfig = serde_json::from_value(config).unwrap();
    (Storage::open(&config).unwrap(), folder)
}

/// An exporter with a storage that it uses for its dead letters, and if told so for its queue.
pub(crate) fn with_storage(
    address: SocketAddr,
    storage: &Arc<Storage>,
    on_disk: bool,
    queue: Value,
    tally: Arc<Tally>,
) -> Arc<Exporter> {
    let mut config = quick(queue);
    config["endpoint"] = format!("http://{address}").into();
    let mut config: OtlpGrpcConfig = serde_json::from_value(config).unwrap();
    config.sending_queue.storage = on_disk.then(|| "file_storage".to_owned());
    config.sending_queue.opened = Some(storage.clone());
    Arc::new(otlp_grpc("otlp", &config, tally).unwrap())
}

#[tokio::test]
async fn what_is_left_in_memory_at_the_end_is_parked_also_what_is_under_way() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_secs(60);
    let backend = receiver(script).await;
    let (storage, folder) = storage("memory", 10);
    let queue = json!({"num_consumers": 3});
    let exporter = with_storage(
        backend.grpc_address().unwrap(),
        &storage,
        false,
        queue,
        Arc::new(Tally::default()),
    );
    for n in 0..30 {
        exporter.consume(spans(n * 10, 10)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let left = exporter.shutdown(Duration::from_millis(100)).await;
    assert_eq!((left.requests, left.items, left.kept), (0, 0, 30));
    let held = holdings(&folder).unwrap();
    assert_eq!((held.len(), held[0].requests, held[0].items), (1, 30, 300));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn when_the_dead_letters_are_full_what_is_refused_stays_in_the_queue() {
    let refuses = Script::new(|_| Err(Status::new(Code::InvalidArgument, "no")));
    let backend = receiver(refuses).await;
    let (storage, folder) = storage("full", 1);
    let tally = Arc::new(Tally::default());
    let address = backend.grpc_address().unwrap();
    let exporter = with_storage(address, &storage, false, json!({}), tally.clone());
    // Each about 280 KB: three find room.
    for n in 0..5 {
        exporter.consume(spans(n * 10_000, 9_000)).await.unwrap();
    }
    until("three are parked", || tally.0.lock().unwrap()[1] == 27_000).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(exporter.queue_size(Signal::Traces), 2);
    assert_eq!(holdings(&folder).unwrap()[0].requests, 3);
    drop(exporter);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_on_disk_at_its_limit_takes_again_when_it_was_delivered() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_secs(1);
    let backend = receiver(script.clone()).await;
    let (storage, folder) = storage("limit", 1);
    let queue = json!({"block_on_overflow": true, "queue_size": 1000});
    let address = backend.grpc_address().unwrap();
    let exporter = with_storage(address, &storage, true, queue, Arc::new(Tally::default()));
    let load = tokio::spawn({
        let exporter = exporter.clone();
        async move {
            // 3.5 MiB through 1 MiB of disk.
            for n in 0..50 {
                exporter.consume(spans(n * 10_000, 2_000)).await.unwrap();
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!load.is_finished(), "the limit was not held");
    assert!(exporter.queue_disk_bytes(Signal::Traces).unwrap() <= 1 << 20);
    *script.delay.lock().unwrap() = Duration::ZERO;
    load.await.unwrap();
    until("all arrived", || script.seen().len() == 50).await;
    assert_eq!(exporter.shutdown(Duration::from_secs(5)).await.kept, 0);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_arrives_once_the_backend_takes_it() {
    let script = Script::new(|n| match n {
        0..5 => Err(Status::new(Code::InvalidArgument, "no")),
        _ => Ok(Accepted::default()),
    });
    let backend = receiver(script.clone()).await;
    let (storage, folder) = storage("replay", 1);
    let tally = Arc::new(Tally::default());
    let address = backend.grpc_address().unwrap();
    let exporter = with_storage(address, &storage, true, json!({}), tally.clone());
    for n in 0..5 {
        exporter.consume(span(n)).await.unwrap();
    }
    until("all are parked", || tally.0.lock().unwrap()[1] == 5).await;
    assert_eq!(script.seen().len(), 0);
    ask_replay(&folder, "otlp").unwrap();
    until("all arrived", || script.seen().len() == 5).await;
    until("nothing is left", || holdings(&folder).unwrap().iter().all(|held| held.requests == 0))
        .await;
    drop(exporter);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Guarantees: what an exporter's queue in memory holds when it gives way, under way included, is delivered by
/// its successor: from its queue, though that is smaller, from its queue on disk, or directly. Nobody waits for
/// the backend of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_delivers_what_was_queued() {
    for on_disk in [Some(false), Some(true), None] {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let before = exporter_at(Door::Grpc, nobody, quick(json!({})), Arc::default());
        for n in 0..50 {
            before.consume(span(n)).await.unwrap();
        }
        let script = Script::new(|_| Ok(Accepted::default()));
        let backend = receiver(script.clone()).await;
        let address = backend.grpc_address().unwrap();
        let (storage, folder) = storage("heir", 1);
        let heir = match on_disk {
            Some(on_disk) => {
                let queue = json!({"queue_size": 10});
                with_storage(address, &storage, on_disk, queue, Arc::default())
            }
            None => exporter_at(
                Door::Grpc,
                address,
                json!({"sending_queue": {"enabled": false}}),
                Arc::default(),
            ),
        };
        let started = std::time::Instant::now();
        before.halt().await;
        assert!(before.consume(span(99)).await.unwrap_err().is_retryable());
        let late = tokio::time::sleep(Duration::from_secs(10));
        let left = before.hand_over(&heir, late).await;
        assert_eq!((left.requests, left.kept), (0, 0), "{on_disk:?}");
        until("all arrived", || script.seen().len() == 50).await;
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert_eq!(before.queue_size(Signal::Traces), 0);
        until("nothing is counted any more", || heir.queue_size(Signal::Traces) == 0).await;
        heir.consume(span(50)).await.unwrap();
        assert_eq!(heir.shutdown(Duration::from_secs(5)).await.kept, 0);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Guarantees: what the successor cannot take either is among the dead letters in the end, as at a shutdown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_successor_takes_is_parked() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (storage, folder) = storage("no_heir", 1);
    let before = with_storage(nobody, &storage, false, json!({}), Arc::default());
    for n in 0..5 {
        before.consume(span(n)).await.unwrap();
    }
    before.halt().await;
    let config = json!({"sending_queue": {"enabled": false}});
    let heir = exporter_at(Door::Grpc, nobody, config, Arc::default());
    let late = tokio::time::sleep(Duration::from_millis(300));
    let left = before.hand_over(&heir, late).await;
    assert_eq!((left.requests, left.kept), (0, 5));
    assert_eq!(holdings(&folder).unwrap()[0].requests, 5);
    std::fs::remove_dir_all(folder).unwrap();
}
