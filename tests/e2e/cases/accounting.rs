//! An acknowledged item arrives, whatever happens to the backend.

use std::{
    collections::HashSet,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use crate::e2e::{
    backend::{Backend, Inbox},
    client::Grpc,
    parts,
    program::{Program, Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request, span_numbers},
};

/// Retries soon enough for a test, and never gives up.
const RETRY: &str =
    "retry_on_failure: {initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0s}";

/// MiB that may be resident at full load: the queue's bound of 256, the store's, and the program.
const LOADED_RSS_BOUND: u64 = 768;

/// Spans in a request.
const SPANS: u64 = 100;

/// Several connections that send numbered spans one request after another and never retry.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    pub(super) counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
pub(super) struct Counts {
    next: AtomicU64,
    acked: Mutex<Vec<u64>>,
    pub(super) refused: AtomicU64,
}

impl Counts {
    pub(super) fn acked(&self) -> usize {
        self.acked.lock().expect("nobody panics while holding it").len()
    }
}

impl Load {
    pub(super) fn start(port: u16) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (stop, counts) = (stop.clone(), counts.clone());
            tasks.spawn(async move {
                let mut grpc = Grpc::connect(port).await.expect("it listens");
                while !stop.load(Ordering::Relaxed) {
                    let first = counts.next.fetch_add(SPANS, Ordering::Relaxed);
                    let body = request((first..first + SPANS).map(|n| record(Signal::Traces, n)));
                    let reply = grpc.export(Signal::Traces, body).await.expect("the hop stays up");
                    if reply.code == 0 {
                        counts.acked.lock().expect("nobody panics while holding it").push(first);
                    } else {
                        assert_eq!(
                            reply.code, 14,
                            "UNAVAILABLE is the word for a full queue: {}",
                            reply.message
                        );
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        }
        Self { stop, counts, tasks }
    }

    /// Waits until `enough` holds.
    pub(super) async fn until(&mut self, what: &str, enough: impl Fn(&Counts) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !enough(&self.counts) {
            assert!(Instant::now() < deadline, "waited 60 s in vain: {what}");
            if let Some(ended) = self.tasks.try_join_next() {
                ended.expect("a sender failed");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops sending; the first numbers of the requests that were acknowledged.
    pub(super) async fn stop(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a sender failed");
        }
        self.counts.acked.lock().expect("nobody panics while holding it").clone()
    }
}

/// Fails unless every span of these requests is in the inbox.
pub(super) fn assert_arrived(acked: &[u64], refused: u64, inbox: &Inbox) {
    let mut delivered = HashSet::new();
    let mut arrivals = 0;
    for received in inbox.all() {
        for number in span_numbers(&received.message) {
            arrivals += 1;
            delivered.insert(number);
        }
    }
    let lost: Vec<_> = acked
        .iter()
        .flat_map(|first| *first..first + SPANS)
        .filter(|number| !delivered.contains(number))
        .collect();
    println!(
        "    acked {} spans, refused {} requests, delivered {} ({} twice), acked but LOST {}",
        acked.len() as u64 * SPANS,
        refused,
        delivered.len(),
        arrivals - delivered.len(),
        lost.len()
    );
    assert!(
        lost.is_empty(),
        "acknowledged but lost: {} spans, the first is {}",
        lost.len(),
        lost[0]
    );
}

pub(crate) fn backend_killed() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let port = backend.port;
        let exporter = format!(
            "{{endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}, compression: none, {RETRY}, sending_queue: {{queue_size: 100, num_consumers: 4}}}}"
        );
        let mut tapio =
            Tapio::start(&folder("backend_killed"), "tapio", ("otlp_grpc", &exporter)).await;
        let mut load = Load::start(tapio.grpc);
        load.until("200 acknowledged while the backend is well", |c| c.acked() >= 200).await;
        backend.kill().await;
        load.until("a refusal while the backend is gone", |c| {
            c.refused.load(Ordering::Relaxed) >= 100
        })
        .await;
        let before = load.counts.acked();
        let backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        load.until("200 acknowledged after its return", |c| c.acked() >= before + 200).await;
        let refused = load.counts.refused.load(Ordering::Relaxed);
        let acked = load.stop().await;
        tapio.program.assert_peak_rss_below(256);
        tapio.program.stop_well().await;
        assert_arrived(&acked, refused, &inbox);
        backend.kill().await;
    });
    Ok(())
}

pub(crate) fn stopped_with_a_queue() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::from_millis(20)).await;
        let exporter = format!(
            "{{endpoint: \"127.0.0.1:{}\", tls: {{insecure: true}}, compression: none, {RETRY}, sending_queue: {{queue_size: 1000, num_consumers: 1}}}}",
            backend.port
        );
        let mut tapio =
            Tapio::start(&folder("stopped_with_a_queue"), "tapio", ("otlp_grpc", &exporter)).await;
        let mut load = Load::start(tapio.grpc);
        load.until("100 acknowledged", |c| c.acked() >= 100).await;
        let refused = load.counts.refused.load(Ordering::Relaxed);
        let acked = load.stop().await;
        let waiting = acked.len().saturating_sub(inbox.len());
        assert!(waiting > 10, "the queue should still hold requests, or this case shows nothing");
        tapio.program.stop_well().await;
        println!("    {waiting} requests were waiting when it was told to stop");
        assert_arrived(&acked, refused, &inbox);
    });
    Ok(())
}

/// The backend is gone for a while at full load, everything else as it is by default.
pub(crate) fn loadgen_killed() -> Result<(), Skipped> {
    loadgen("loadgen_killed", "ok@3,closed@5,ok", "tapio", "sending_queue: {}")
}

/// As above, with a queue so short that it overflows behind the batch processor, which in the
/// Collector has acknowledged by then.
pub(crate) fn loadgen_overflow() -> Result<(), Skipped> {
    loadgen(
        "loadgen_overflow",
        "ok@2,closed@3,ok",
        "batch, tapio",
        "sending_queue: {queue_size: 10}",
    )
}

/// The backend refuses in ways that OTLP calls final, after the queue has acknowledged.
pub(crate) fn loadgen_exhausted() -> Result<(), Skipped> {
    loadgen("loadgen_exhausted", "ok@2,exhausted@3,unavailable@2,ok", "tapio", "sending_queue: {}")
}

/// The shared load generator sends as fast as it is answered and accounts for every item.
fn loadgen(case: &str, plan: &str, processors: &str, queue: &str) -> Result<(), Skipped> {
    let loadgen = parts::loadgen()?;
    let run = |folder: &Path, name: &str, arguments: &[&str]| {
        let mut command = Command::new(&loadgen);
        command.args(arguments).current_dir(folder);
        Program::start(name, command, folder)
    };
    block_on(async {
        let (folder, port) = (folder(case), free_port());
        let sink = ["sink", &port.to_string(), "--mode", plan, "--count-unique", "delivered"];
        let mut sink = run(&folder, "sink", &sink);
        sink.listens(port).await;
        let exporter = format!(
            "{{endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}, compression: none, {RETRY}, {queue}}}"
        );
        let mut tapio = Tapio::start(&folder, processors, ("otlp_grpc", &exporter)).await;
        let url = format!("http://127.0.0.1:{}", tapio.grpc);
        let send = ["send", &url, "trace", "512", "8", "0", "12", "none", "--count-unique", "sent"];
        let mut send = run(&folder, "send", &send);
        assert!(send.ends(Duration::from_secs(60)).await.success(), "{}", send.tail());
        tapio.program.assert_peak_rss_below(LOADED_RSS_BOUND);
        tapio.program.stop_well().await;
        // SIGTERM makes it write what it counted; its exit code says nothing.
        sink.stop(Duration::from_secs(10)).await;
        let mut check = run(&folder, "check", &["check", "sent", "delivered"]);
        let status = check.ends(Duration::from_secs(60)).await;
        check.output().lines().for_each(|line| println!("    {line}"));
        assert!(status.success(), "the load generator found losses");
        assert!(check.output().contains("acked but LOST 0"), "not the words that were expected");
    });
    Ok(())
}
