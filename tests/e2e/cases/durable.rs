//! With `file_storage`, what was acknowledged outlives the process.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
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
    program::{Setup, Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request, span_numbers},
};

const STORAGE: (&str, &str) = ("file_storage", "{directory: storage, create_directory: true}");
const RETRY: &str = "retry_on_failure: {initial_interval: 50ms, max_interval: 200ms}";
/// Spans in a request.
pub(super) const SPANS: u64 = 50;

fn exporter(port: u16, queue: &str) -> String {
    format!(
        "{{endpoint: \"127.0.0.1:{port}\", tls: {{insecure: true}}, compression: none, timeout: 2s, {RETRY}, sending_queue: {queue}}}"
    )
}

/// Senders that connect again when the hop is gone, and never send a request twice.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<u64>>>,
    pub(super) refused: Arc<AtomicU64>,
    /// Requests without an answer, of which nothing was promised.
    pub(super) unknown: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Load {
    pub(super) fn start(port: u16) -> Self {
        let (stop, acked) = <(Arc<AtomicBool>, Arc<Mutex<Vec<u64>>>)>::default();
        let (refused, unknown, next) =
            <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (stop, acked) = (stop.clone(), acked.clone());
            let (refused, unknown, next) = (refused.clone(), unknown.clone(), next.clone());
            tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut grpc: Grpc = match connection.take() {
                        Some(grpc) => grpc,
                        None => match Grpc::connect(port).await {
                            Ok(grpc) => grpc,
                            Err(_) => {
                                sleep(Duration::from_millis(20)).await;
                                continue;
                            }
                        },
                    };
                    let first = next.fetch_add(SPANS, Ordering::Relaxed);
                    let Ok(reply) = grpc.export(Signal::Traces, batch(first)).await else {
                        unknown.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    if reply.code == 0 {
                        acked.lock().unwrap().push(first);
                    } else {
                        assert!(matches!(reply.code, 8 | 14), "{}: {}", reply.code, reply.message);
                        refused.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(5)).await;
                    }
                    connection = Some(grpc);
                }
            });
        }
        Self { stop, acked, refused, unknown, tasks }
    }

    fn acked(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    pub(super) async fn more(&self, count: usize) {
        let wanted = self.acked() + count;
        until("more is acknowledged", || self.acked() >= wanted).await;
    }

    pub(super) async fn stop(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a sender failed");
        }
        self.acked.lock().unwrap().clone()
    }
}

fn batch(first: u64) -> bytes::Bytes {
    request((first..first + SPANS).map(|n| record(Signal::Traces, n)))
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !so() {
        assert!(Instant::now() < deadline, "waited 90 s in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every span of these requests is at the backend; says how many came twice.
async fn arrive(acked: &[u64], inbox: &Inbox) {
    let missing = || {
        let (mut delivered, mut arrivals) = (HashSet::new(), 0);
        for received in inbox.all() {
            for number in span_numbers(&received.message) {
                arrivals += 1;
                delivered.insert(number);
            }
        }
        let lost = acked.iter().flat_map(|first| *first..first + SPANS);
        (lost.filter(|number| !delivered.contains(number)).count(), arrivals, delivered.len())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (lost, arrivals, delivered) = missing();
        if lost == 0 || Instant::now() > deadline {
            println!(
                "    acked {} spans, delivered {delivered} ({} twice), acked but LOST {lost}",
                acked.len() as u64 * SPANS,
                arrivals - delivered
            );
            assert_eq!(lost, 0, "acknowledged but lost");
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Sends so many requests, all of which must be taken.
async fn send(tapio: &Tapio, count: u64) -> Vec<u64> {
    let mut grpc = Grpc::connect(tapio.grpc).await.expect("it listens");
    let firsts: Vec<_> = (0..count).map(|n| n * SPANS).collect();
    for first in &firsts {
        let reply = grpc.export(Signal::Traces, batch(*first)).await.expect("an answer");
        assert_eq!(reply.code, 0, "{}", reply.message);
    }
    firsts
}

pub(crate) fn stopped_on_disk() -> Result<(), Skipped> {
    block_on(async {
        let port = free_port();
        let exporter = exporter(port, "{storage: file_storage, queue_size: 5000}");
        let folder = folder("stopped_on_disk");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &exporter), &[STORAGE]);
        let mut tapio = setup.run("first", &[]).await;
        let acked = send(&tapio, 4000).await;
        let first = tapio.program.peak_rss_mib();
        let started = Instant::now();
        tapio.program.stop_well().await;
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "nothing on disk has to be waited for"
        );
        let listed = setup.queue(&["list"]);
        assert!(listed.contains("otlp_grpc  traces: 4000 requests, 200000 items"), "{listed}");
        let inbox = Inbox::default();
        let _backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        let mut tapio = setup.run("second", &[]).await;
        arrive(&acked, &inbox).await;
        let second = tapio.program.peak_rss_mib();
        println!("    peak RSS {first} MiB with the backend away, {second} MiB after the start");
        assert_eq!(tapio.counter("tapio_queue_replayed_requests").await, 4000);
        tapio.program.stop_well().await;
    });
    Ok(())
}

/// An exporter that has left the configuration sends no more what it has on disk.
pub(crate) fn left_behind() -> Result<(), Skipped> {
    block_on(async {
        let exporter = exporter(free_port(), "{storage: file_storage}");
        let folder = folder("left_behind");
        let setup = Setup::new(&folder, "", ("otlp_grpc/old", &exporter), &[STORAGE]);
        let mut tapio = setup.run("first", &[]).await;
        send(&tapio, 7).await;
        tapio.program.stop_well().await;
        let setup = Setup::new(&folder, "", ("otlp_grpc/new", &exporter), &[STORAGE]);
        let mut tapio = setup.run("second", &[]).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let told = loop {
            let log = tapio.program.output();
            let told = log.lines().find(|line| line.contains("that no pipeline names any more"));
            if let Some(told) = told {
                break told.to_owned();
            }
            assert!(Instant::now() < deadline, "{log}");
            sleep(Duration::from_millis(20)).await;
        };
        for words in ["otlp_grpc/old", "7", "350", "rm -r '", "storage/otlp_grpc%2Fold/traces'"] {
            assert!(told.contains(words), "{words} is not in {told}");
        }
        tapio.program.stop_well().await;
    });
    Ok(())
}

/// Guarantees: what is on disk of an exporter that runs, and keeps its queue elsewhere now, is told at the start with
/// folder, count and remedy: with its queue off, and in memory. At a reload into another directory it is handed over. A Collector's
/// files are told as well, and nobody's data is touched.
pub(crate) fn moved() -> Result<(), Skipped> {
    block_on(async {
        let port = free_port();
        let on_disk = exporter(port, "{storage: file_storage}");
        let folder = folder("moved");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &on_disk), &[STORAGE]);
        let mut tapio = setup.run("first", &[]).await;
        send(&tapio, 7).await;
        tapio.program.stop_well().await;
        let mut database = vec![0; 4096];
        database[16..20].copy_from_slice(&[0xED, 0xDA, 0x0C, 0xED]);
        fs::write(folder.join("storage/exporter_otlp_grpc__traces"), database).unwrap();
        for queue in ["{enabled: false}", "{}"] {
            let elsewhere = exporter(port, queue);
            let setup = Setup::new(&folder, "", ("otlp_grpc", &elsewhere), &[STORAGE]);
            let mut tapio = setup.run("second", &[]).await;
            let told = told(&tapio, "keeps none there any more").await;
            for words in ["7", "350", "sending_queue::storage", "storage/otlp_grpc/traces'"] {
                assert!(told.contains(words), "{words} is not in {told}");
            }
            let told = self::told(&tapio, "A Collector's file_storage").await;
            for words in ["exporter_otlp_grpc__traces", "otelcol_exporter_queue_size"] {
                assert!(told.contains(words), "{words} is not in {told}");
            }
            let listed = setup.queue(&["list"]);
            assert!(listed.contains("otlp_grpc  traces: 7 requests"), "{listed}");
            assert!(listed.contains("exporter_otlp_grpc__traces: of a Collector's"), "{listed}");
            tapio.program.stop_well().await;
        }
        let gone = free_port();
        let nowhere = exporter(gone, "{storage: file_storage}");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &nowhere), &[STORAGE]);
        let mut tapio = setup.run("third", &[]).await;
        let file = folder.join("tapio.yaml");
        let other = fs::read_to_string(&file).unwrap();
        let other = other.replace("{directory: storage,", "{directory: other,");
        fs::write(file, other).unwrap();
        tapio.program.signal("HUP");
        // What was in the directory of before is handed to the queue in the new one.
        until("the new directory is there", || folder.join("other/otlp_grpc/traces").is_dir())
            .await;
        until("it is handed over", || {
            let listed = setup.queue(&["list"]);
            listed.contains("otlp_grpc  traces: 7 requests, 350 items")
                && !setup.queue(&["list", "--directory", "storage"]).contains("requests")
        })
        .await;
        tapio.program.stop_well().await;
        let inbox = Inbox::default();
        let _backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        let other = ("file_storage", "{directory: other, create_directory: true}");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &on_disk), &[other]);
        let mut tapio = setup.run("fourth", &[]).await;
        until("it is sent where its queue is again", || inbox.len() == 7).await;
        tapio.program.stop_well().await;
    });
    Ok(())
}

/// Waits for a line of the log with these words.
async fn told(tapio: &Tapio, words: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let log = tapio.program.output();
        if let Some(line) = log.lines().find(|line| line.contains(words)) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "{words} is not in {log}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The Collector drops its memory queue here: 72,192 of 103,424 acknowledged spans.
pub(crate) fn stopped_in_memory() -> Result<(), Skipped> {
    block_on(async {
        let port = free_port();
        let exporter = exporter(port, "{}");
        let folder = folder("stopped_in_memory");
        let setup = Setup::new(&folder, "tapio", ("otlp_grpc/a", &exporter), &[STORAGE]);
        let mut tapio = setup.run("first", &[]).await;
        let acked = send(&tapio, 500).await;
        tapio.program.stop_well().await;
        let log = tapio.program.output();
        assert!(log.contains("storage/otlp_grpc%2Fa/dead"), "the log names the place: {log}");
        let listed = setup.queue(&["list"]);
        assert!(
            listed.contains("otlp_grpc/a  dead letters: 500 requests, 25000 items"),
            "{listed}"
        );
        assert!(listed.contains("500: not delivered when Tapio was stopped"), "{listed}");
        let inbox = Inbox::default();
        let _backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        let mut tapio = setup.run("second", &[]).await;
        // Dead letters of an earlier run show, in the log and as metrics.
        let line = told(&tapio, "Dead letters of an earlier run").await;
        assert!(line.contains("500") && line.contains("queue replay otlp_grpc/a"), "{line}");
        assert_eq!(tapio.counter("tapio_queue_dead_letters").await, 500);
        assert!(tapio.counter("tapio_queue_dead_letters_disk_bytes").await > 10_000);
        let said = setup.queue(&["replay"]);
        assert!(said.contains("otlp_grpc/a: 500 requests (25000 items) go back"), "{said}");
        arrive(&acked, &inbox).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while tapio.counter("tapio_queue_dead_letters").await > 0 {
            assert!(Instant::now() < deadline, "the metric still shows what was replayed");
            sleep(Duration::from_millis(100)).await;
        }
        tapio.program.stop_well().await;
        assert_eq!(setup.queue(&["list"]), "Nothing is on disk.\n");
    });
    Ok(())
}

pub(crate) fn refused_for_good() -> Result<(), Skipped> {
    block_on(async {
        let folder = folder("refused_for_good");
        // A hop without a pipeline for traces says UNIMPLEMENTED, which is final.
        let backend = Setup::new(&folder, "", ("debug", "{}"), &[]);
        let config = fs::read_to_string(folder.join("tapio.yaml")).unwrap();
        let traces = config.lines().filter(|line| !line.starts_with("    traces:"));
        let config = traces.collect::<Vec<_>>().join("\n");
        fs::write(folder.join("tapio.yaml"), config).unwrap();
        let mut refusing = backend.run("refusing", &[]).await;
        let exporter = exporter(refusing.grpc, "{storage: file_storage}");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &exporter), &[STORAGE]);
        let mut tapio = setup.run("tapio", &[]).await;
        send(&tapio, 20).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while tapio.counter("tapio_queue_parked_requests").await < 20 {
            assert!(Instant::now() < deadline, "{}", tapio.program.tail());
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(tapio.counter("otelcol_exporter_send_failed_spans").await, 1000);
        assert!(tapio.program.output().contains("put among the dead letters"));
        let listed = setup.queue(&["list"]);
        assert!(listed.contains("dead letters: 20 requests, 1000 items"), "{listed}");
        // Sent again, refused again, kept again.
        setup.queue(&["replay", "otlp_grpc"]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while tapio.counter("tapio_queue_parked_requests").await < 40 {
            assert!(Instant::now() < deadline, "{}", tapio.program.tail());
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(tapio.counter("tapio_queue_replayed_requests").await, 20);
        let dropped = setup.queue(&["drop", "--all"]);
        assert_eq!(dropped, "otlp_grpc: deleted 20 requests (1000 items).\n");
        tapio.program.stop_well().await;
        refusing.program.stop_well().await;
        assert_eq!(setup.queue(&["list"]), "Nothing is on disk.\n");
    });
    Ok(())
}

/// The storage is a file system of 4 MiB.
pub(crate) fn disk_full() -> Result<(), Skipped> {
    let folder = folder("disk_full");
    fs::create_dir(folder.join("small")).unwrap();
    let script = "mount -t tmpfs -o size=4m tapio small && exec \"$@\"";
    let before = ["unshare", "-rm", "sh", "-c", script, "sh"];
    let tried =
        Command::new(before[0]).args(&before[1..]).arg("true").current_dir(&folder).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return Err(Skipped("no small file system can be mounted (unshare -rm)".into()));
    }
    block_on(async {
        let port = free_port();
        let exporter = exporter(port, "{storage: file_storage, queue_size: 100000}");
        let storage = ("file_storage", "{directory: small/storage, create_directory: true}");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &exporter), &[storage]);
        let mut tapio = setup.run("tapio", &before).await;
        let mut load = Load::start(setup.grpc());
        until("the disk is full", || load.refused.load(Ordering::Relaxed) >= 50).await;
        assert!(tapio.program.output().contains("No space left on device"));
        let inbox = Inbox::default();
        let _backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        load.more(1000).await;
        if let Some(ended) = load.tasks.try_join_next() {
            ended.expect("a sender failed");
        }
        let refused = load.refused.load(Ordering::Relaxed);
        let acked = load.stop().await;
        println!("    {refused} requests were refused");
        arrive(&acked, &inbox).await;
        tapio.program.stop_well().await;
    });
    Ok(())
}

pub(crate) fn flipped() -> Result<(), Skipped> {
    block_on(async {
        let port = free_port();
        let exporter = exporter(port, "{storage: file_storage}");
        let folder = folder("flipped");
        let setup = Setup::new(&folder, "", ("otlp_grpc", &exporter), &[STORAGE]);
        let mut tapio = setup.run("first", &[]).await;
        let mut acked = send(&tapio, 100).await;
        tapio.program.kill();
        // Within every fifth record, all of which have the same size.
        let segment = segment(&folder);
        let mut bytes = fs::read(&segment).unwrap();
        let size = bytes.len() / 100;
        (0..20).for_each(|n| bytes[size * 5 * n + 100] ^= 16);
        fs::write(&segment, bytes).unwrap();
        let inbox = Inbox::default();
        let _backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        let mut tapio = setup.run("second", &[]).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while tapio.counter("tapio_queue_corrupt_records").await < 20 {
            assert!(Instant::now() < deadline, "{}", tapio.program.tail());
            sleep(Duration::from_millis(50)).await;
        }
        let log = tapio.program.output();
        let named = log.matches("storage/otlp_grpc/corrupt/traces-").count();
        assert_eq!(named, 20, "the log names each file: {log}");
        let listed = setup.queue(&["list"]);
        assert!(
            listed.contains("otlp_grpc  damaged records that were set aside: 20 files"),
            "{listed}"
        );
        until("the others arrive", || inbox.len() >= 80).await;
        let found: HashSet<_> =
            inbox.all().iter().flat_map(|received| span_numbers(&received.message)).collect();
        let before = acked.len();
        acked.retain(|first| found.contains(first));
        assert_eq!((before, acked.len()), (100, 80));
        arrive(&acked, &inbox).await;
        tapio.program.stop_well().await;
    });
    Ok(())
}

fn segment(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder.join("storage/otlp_grpc/traces")).unwrap();
    files
        .find_map(|file| {
            let path = file.unwrap().path();
            path.extension().is_some_and(|extension| extension == "log").then_some(path)
        })
        .expect("a segment")
}
