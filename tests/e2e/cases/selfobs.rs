//! What Tapio tells about itself.

use std::{fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use tapio_processor::replay::Recording;
use tokio::time::sleep;

use crate::e2e::{
    backend::{Backend, Inbox},
    client::{self, Grpc},
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request},
};

/// Tapio sends its traces and metrics to itself: each span that it makes would make another one.
pub(crate) fn traces_to_itself() -> Result<(), Skipped> {
    block_on(async {
        let (inbox, folder) = (Inbox::default(), folder("traces_to_itself"));
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let (grpc, http) = (free_port(), free_port());
        let pipeline = "{receivers: [otlp], exporters: [otlp_grpc]}";
        let config = format!(
            "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
exporters:
  otlp_grpc: {{endpoint: 127.0.0.1:{}, tls: {{insecure: true}}, sending_queue: {{enabled: false}}}}
service:
  telemetry:
    metrics:
      readers:
        - periodic: {{interval: 200, exporter: {{otlp: {{protocol: http/protobuf, endpoint: 'http://127.0.0.1:{http}'}}}}}}
        - periodic: {{interval: 200, exporter: {{otlp: {{protocol: grpc, endpoint: '127.0.0.1:{grpc}', insecure: true}}}}}}
    traces:
      sampler: {{always_on: {{}}}}
      processors:
        - batch: {{schedule_delay: 50, exporter: {{otlp: {{protocol: grpc, endpoint: '127.0.0.1:{grpc}', insecure: true}}}}}}
  pipelines:
    traces: {pipeline}
    metrics: {pipeline}
    logs: {pipeline}
",
            backend.port
        );
        let file = folder.join("tapio.yaml");
        fs::write(&file, config).expect("the case's folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
        command.arg("--config").arg(&file);
        let mut tapio = Program::start("tapio", command, &folder);
        tapio.listens(grpc).await;
        let mut client = Grpc::connect(grpc).await.expect("it listens");
        for number in 0..5 {
            let body = request([record(Signal::Logs, number)]);
            assert_eq!(client.export(Signal::Logs, body).await.expect("it answers").code, 0);
        }
        // Long enough for a loop to have shown itself many times over.
        sleep(Duration::from_secs(2)).await;
        tapio.stop_well().await;
        let received = inbox.all();
        let of =
            |path: &str| received.iter().filter(|one| one.path.contains(path)).collect::<Vec<_>>();
        let text = |name: &str| {
            let traces = of("TraceService");
            let texts = traces
                .iter()
                .map(|one| String::from_utf8_lossy(&one.message).matches(name).count());
            texts.sum::<usize>()
        };
        println!(
            "    {} requests of logs, {} of own metrics, {} of own spans",
            of("LogsService").len(),
            of("MetricsService").len(),
            of("TraceService").len()
        );
        assert_eq!(of("LogsService").len(), 5);
        assert_eq!(text("receiver/otlp/LogsReceived"), 5);
        assert_eq!(text("exporter/otlp_grpc/logs"), 5);
        assert_eq!(
            text("TraceDataReceived") + text("MetricsReceived"),
            0,
            "it traced its own telemetry"
        );
        assert!(of("MetricsService").len() >= 10, "both pushes arrive");
    });
    Ok(())
}

/// A pattern of the user's makes the judgement fail, while a recorded incident passes: the pattern is left out, health
/// and a metric name it, health stays 200, for a restart would not help, and the story is told without it.
pub(crate) fn left_out() -> Result<(), Skipped> {
    block_on(async {
        let folder = folder("left_out");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let good =
            fs::read_to_string(here.join("processor/patterns/config_change_memory_growth.yaml"));
        let good = good.expect("it is a pattern of ours");
        let (head, _) = good.split_once("\ntests:").expect("it has tests");
        // More nanoseconds than a number has room for: well formed, and fails when it is judged.
        let bad = head.lines().map(|line| match line.split(':').next() {
            Some("id") => "id: mine",
            Some("within") => "within: 9999999999h",
            _ => line,
        });
        let bad = bad.chain(["tests: []"]).collect::<Vec<_>>().join("\n");
        fs::create_dir_all(folder.join("patterns")).expect("the case's folder is writable");
        fs::write(folder.join("patterns/mine.yaml"), bad).expect("the case's folder is writable");
        let [grpc, metrics, health] = [(); 3].map(|()| free_port());
        let pipeline = "{receivers: [otlp], processors: [tapio], exporters: [nop]}";
        let config = format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{grpc}}}}}}}}}
processors: {{tapio: {{patterns: [{}]}}}}
exporters: {{nop: }}
extensions: {{healthcheckv2: {{use_v2: true, http: {{endpoint: 127.0.0.1:{health}}}}}}}
service:
  extensions: [healthcheckv2]
  telemetry: {{metrics: {{readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}}}}}}}}}]}}}}
  pipelines: {{traces: {pipeline}, metrics: {pipeline}, logs: {pipeline}}}
",
            folder.join("patterns").display()
        );
        let file = folder.join("tapio.yaml");
        fs::write(&file, config).expect("the case's folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
        command.arg("--config").arg(&file);
        let mut tapio = Program::start("tapio", command, &folder);
        tapio.listens(grpc).await;
        let page = async |port, path| {
            let reply = client::http("GET", port, path, &[], Bytes::new()).await;
            let reply = reply.expect("the page answers");
            (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
        };
        let (status, body) = page(health, "/status?verbose").await;
        assert!(status == 200 && !body.contains("mine"), "{status} {body}");

        let mut recording = Recording::open(&[here.join("tests/recordings/pool-oom")])
            .expect("the recording is the repository's");
        let mut client = Grpc::connect(grpc).await.expect("it listens");
        while let Some((_, request)) = recording.next_request() {
            let signal = match request.signal {
                tapio_proto::Signal::Traces => Signal::Traces,
                tapio_proto::Signal::Metrics => Signal::Metrics,
                _ => Signal::Logs,
            };
            assert_eq!(client.export(signal, request.bytes).await.expect("it answers").code, 0);
        }
        let mut told = String::new();
        for _ in 0..1_200 {
            told = page(metrics, "/metrics").await.1;
            if all_told(&told) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(all_told(&told), "{told}");
        let (status, body) = page(health, "/status?verbose").await;
        let line = "the pattern mine fails and is left out: ";
        assert!(status == 200 && body.contains(line), "{status} {body}");
        assert!(body.contains("StatusRecoverableError"), "{body}");
        tapio.stop_well().await;
    });
    Ok(())
}

/// The page of metrics names the pattern that is left out, and a story was opened.
fn all_told(page: &str) -> bool {
    let named = |line: &str| {
        line.starts_with("tapio_analysis_isolated_part{")
            && line.contains(r#"name="mine""#)
            && line.contains(r#"part="pattern""#)
            && line.ends_with(" 1")
    };
    let opened = |line: &str| line.starts_with("tapio_stories_opened") && !line.ends_with(" 0");
    page.lines().any(named) && page.lines().any(opened)
}
