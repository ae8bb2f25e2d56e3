//! SIGHUP: another configuration, the same acknowledgements.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::sleep;

use super::accounting::{Load, assert_arrived};
use crate::e2e::{
    backend::{Backend, Inbox},
    client::{self, Grpc},
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request},
};

/// What a run changes between reloads.
#[derive(Clone, Copy)]
struct Shape {
    processors: &'static str,
    queue_size: usize,
    receiver: &'static str,
}

/// A Tapio whose configuration is written again and again.
struct Rig {
    program: Program,
    file: PathBuf,
    grpc: u16,
    metrics: u16,
    backend: u16,
}

impl Rig {
    async fn start(folder: &Path, backend: u16, shape: Shape) -> Self {
        let (grpc, metrics, file) = (free_port(), free_port(), folder.join("tapio.yaml"));
        fs::write(&file, config((grpc, metrics, backend), shape)).expect("the folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
        command.arg("--config").arg(&file);
        let mut program = Program::start("tapio", command, folder);
        for port in [grpc, metrics] {
            program.listens(port).await;
        }
        let mut rig = Self { program, file, grpc, metrics, backend };
        rig.told("Everything is ready", 1).await;
        rig
    }

    /// Waits until the log has the words so many times.
    async fn told(&mut self, words: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.program.output().matches(words).count() < times {
            self.program.assert_alive();
            assert!(Instant::now() < deadline, "no {words:?} in:\n{}", self.program.tail());
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn reload(&mut self, shape: Shape) {
        let before = self.program.output().matches("Everything is ready").count();
        let text = config((self.grpc, self.metrics, self.backend), shape);
        fs::write(&self.file, text).expect("the folder is writable");
        self.program.signal("HUP");
        self.told("Everything is ready", before + 1).await;
    }

    /// The sum of a metric over its series.
    async fn value(&self, name: &str) -> f64 {
        let page = self.metrics().await;
        let values = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn metrics(&self) -> String {
        let page = client::http("GET", self.metrics, "/metrics", &[], Bytes::new()).await;
        String::from_utf8_lossy(&page.expect("the page answers").body).into_owned()
    }
}

fn config((grpc, metrics, backend): (u16, u16, u16), shape: Shape) -> String {
    let Shape { processors, queue_size, receiver } = shape;
    let pipeline =
        format!("{{receivers: [otlp], processors: [{processors}], exporters: [otlp_grpc]}}");
    format!(
        "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}{receiver}}}
processors:
  batch: {{timeout: 20ms}}
  memory_limiter: {{check_interval: 1s, limit_mib: 1000}}
  tapio:
exporters:
  otlp_grpc:
    endpoint: 127.0.0.1:{backend}
    tls: {{insecure: true}}
    compression: none
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0s}}
    sending_queue: {{queue_size: {queue_size}, num_consumers: 4}}
service:
  telemetry:
    metrics:
      readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}}}}}}}}}]
  pipelines:
    traces: {pipeline}
    logs: {pipeline}
"
    )
}

const PLAIN: Shape = Shape { processors: "tapio", queue_size: 200, receiver: "" };
/// Other pipelines, and the queue counts as before.
const LIMITED: Shape = Shape { processors: "memory_limiter, tapio", ..PLAIN };
const BATCHED: Shape = Shape { processors: "memory_limiter, batch, tapio", ..PLAIN };

/// Under load: pipelines exchanged, the exporter exchanged, a bad file in between, the backend away.
pub(crate) fn under_load() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::from_millis(1)).await;
        let port = backend.port;
        let mut rig = Rig::start(&folder("reload_under_load"), port, PLAIN).await;
        let mut load = Load::start(rig.grpc);
        load.until("200 acknowledged at first", |c| c.acked() >= 200).await;
        let mut longest = Duration::ZERO;
        for round in 0..10 {
            let queue_size = if round % 2 == 0 { 200 } else { 150 };
            let shape = if round % 3 == 0 { PLAIN } else { BATCHED };
            let analysed = rig.value("tapio_analysis_requests").await;
            let sent = rig.value("otelcol_exporter_sent_spans").await;
            let (before, start) = (load.counts.acked(), Instant::now());
            rig.reload(Shape { queue_size, ..shape }).await;
            longest = longest.max(start.elapsed());
            assert!(
                rig.value("tapio_analysis_requests").await >= analysed,
                "the analysis began anew"
            );
            assert!(rig.value("otelcol_exporter_sent_spans").await >= sent, "counting began anew");
            load.until("50 more acknowledged after a reload", |c| c.acked() >= before + 50).await;
        }
        fs::write(&rig.file, "receivers: {otlp: {protocols: {grpc: {endpont: x}}}}")
            .expect("writable");
        rig.program.signal("HUP");
        rig.told("The one of before goes on running", 1).await;
        assert!(rig.program.output().contains("tapio.yaml:1:"), "{}", rig.program.tail());
        let before = load.counts.acked();
        load.until("50 more after a bad file", |c| c.acked() >= before + 50).await;

        // With the backend away, what is queued outlives a reload that leaves the exporter as it is.
        rig.reload(PLAIN).await;
        backend.kill().await;
        let refused = load.counts.refused.load(Ordering::Relaxed);
        load.until("refusals while the backend is gone", |c| {
            c.refused.load(Ordering::Relaxed) >= refused + 100
        })
        .await;
        rig.reload(LIMITED).await;
        let page = rig.metrics().await;
        let queued = page.lines().find_map(|line| {
            line.strip_prefix(
                "otelcol_exporter_queue_size{data_type=\"traces\",exporter=\"otlp_grpc\"} ",
            )
        });
        assert!(
            queued.is_some_and(|size| size.parse::<f64>().is_ok_and(|size| size > 100.0)),
            "{queued:?}"
        );
        let backend = Backend::start(port, inbox.clone(), Duration::ZERO).await;
        let before = load.counts.acked();
        load.until("100 more after its return", |c| c.acked() >= before + 100).await;

        let refused = load.counts.refused.load(Ordering::Relaxed);
        let acked = load.stop().await;
        rig.program.stop_well().await;
        println!("    12 reloads, the longest {longest:?}");
        assert_arrived(&acked, refused, &inbox);
        backend.kill().await;
    });
    Ok(())
}

/// A changed receiver listens anew; a configuration that cannot start gives way to the one of before.
pub(crate) fn changed_receiver() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let mut rig = Rig::start(&folder("reload_receiver"), backend.port, PLAIN).await;
        let send = |port: u16, number: u64| async move {
            let mut grpc = Grpc::connect(port).await.expect("it listens");
            let body = request([record(Signal::Traces, number)]);
            grpc.export(Signal::Traces, body).await.expect("it answers").code
        };
        assert_eq!(send(rig.grpc, 1).await, 0);
        rig.reload(Shape { receiver: ", max_recv_msg_size_mib: 8", ..PLAIN }).await;
        assert_eq!(send(rig.grpc, 2).await, 0);

        // The port of the metrics page is somebody else's for the receiver: it cannot start there.
        let taken = fs::read_to_string(&rig.file).expect("it is ours").replacen(
            &format!("127.0.0.1:{}", rig.grpc),
            &format!("127.0.0.1:{}", backend.port),
            1,
        );
        fs::write(&rig.file, taken).expect("writable");
        rig.program.signal("HUP");
        rig.told("The one of before goes on running", 1).await;
        assert!(
            rig.program.output().contains("failed to start \\\"otlp\\\" receiver"),
            "{}",
            rig.program.tail()
        );
        rig.program.listens(rig.grpc).await;
        assert_eq!(send(rig.grpc, 3).await, 0);
        rig.program.stop_well().await;
        assert_eq!(inbox.len(), 3);
    });
    Ok(())
}

/// Guarantees: acked = delivered, and intake is open within two seconds, when a reload corrects the address of an
/// exporter whose backend is dead, also when the exporter has another name then, or another extension to stand
/// on; the metrics tell that the reload went well.
pub(crate) fn corrected_address() -> Result<(), Skipped> {
    block_on(async {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let shape = Shape { queue_size: 100_000, ..PLAIN };
        let mut rig = Rig::start(&folder("reload_address"), free_port(), shape).await;
        let mut load = Load::start(rig.grpc);
        load.until("200 acknowledged", |c| c.acked() >= 200).await;
        rig.backend = backend.port;
        let started = Instant::now();
        rig.reload(shape).await;
        let before = load.counts.acked();
        load.until("one more acknowledged", |c| c.acked() > before).await;
        let took = started.elapsed();
        println!("    open again after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        let acked = load.stop().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while rig.value("otelcol_exporter_queue_size").await > 0.0 {
            assert!(Instant::now() < deadline, "it is not delivered:\n{}", rig.program.tail());
            sleep(Duration::from_millis(50)).await;
        }
        assert_arrived(&acked, 0, &inbox);
        let page = rig.metrics().await;
        assert!(page.contains("tapio_config_reloads{result=\"success\"} 1"), "{page}");
        assert!(page.contains("tapio_config_reloads{result=\"failure\"} 0"), "{page}");
        assert!(page.contains("tapio_config_last_success_time "), "{page}");
        rig.program.stop_well().await;
        backend.kill().await;
    });
    Ok(())
}

/// Guarantees: a renamed exporter does not hold up a reload, and a program that is told to stop during one, or
/// soon after, is gone within one limit.
pub(crate) fn told_to_stop() -> Result<(), Skipped> {
    block_on(async {
        let shape = Shape { queue_size: 100_000, ..PLAIN };
        let mut rig = Rig::start(&folder("reload_stop"), free_port(), shape).await;
        let mut load = Load::start(rig.grpc);
        load.until("100 acknowledged", |c| c.acked() >= 100).await;
        load.stop().await;
        let renamed = fs::read_to_string(&rig.file)
            .expect("it is ours")
            .replace("otlp_grpc", "otlp_grpc/new");
        fs::write(&rig.file, renamed).expect("writable");
        let started = Instant::now();
        rig.program.signal("HUP");
        rig.told("Everything is ready", 2).await;
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        // This one waits until the exporter of before is gone.
        rig.program.signal("HUP");
        sleep(Duration::from_millis(300)).await;
        let started = Instant::now();
        let status = rig.program.stop(Duration::from_secs(29)).await;
        println!("    gone after {:?}", started.elapsed());
        assert!(status.success());
    });
    Ok(())
}
