//! What Tapio tells about itself, beside what a Collector tells about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::sleep;

use crate::e2e::{
    backend::{Backend, Inbox},
    client::{self, Grpc},
    parts,
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request},
};

/// Metrics of a Collector's page that Tapio's does not have, and why.
const NOT_IN_TAPIO: &[(&str, &str)] = &[
    (
        "otelcol_process_runtime_heap_alloc",
        "of Go's garbage collector; otelcol_process_memory_rss is there",
    ),
    ("otelcol_process_runtime_total_alloc", "of Go's garbage collector"),
    ("otelcol_process_runtime_total_sys_memory", "of Go's garbage collector"),
    (
        "rpc_server_call_duration",
        "level detailed only: Tapio does not time requests where they meet the socket",
    ),
    ("rpc_client_call_duration", "level detailed only: as above"),
    ("http_server_request_duration", "level detailed only: as above"),
    ("http_server_request_body_size", "level detailed only: as above"),
    ("http_server_response_body_size", "level detailed only: as above"),
    ("http_client_request_duration", "level detailed only: as above"),
    ("http_client_request_body_size", "level detailed only: as above"),
    (
        "otelcol_exporter_queue_batch_send_size_bytes",
        "level detailed only: the exporter tells items, not bytes",
    ),
];

/// Metrics that the Collector makes when they first count something, and Tapio at its start, so that an
/// alert has a zero to compare with.
const BEFORE_THE_FIRST: &[&str] = &[
    "otelcol_exporter_enqueue_failed_",
    "otelcol_exporter_send_failed_",
    "otelcol_processor_batch_batch_size_trigger_send",
];

/// The family and what is told of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    help: String,
    kind: String,
    /// Sets of label names, one for each way in which its series are labelled.
    labels: BTreeSet<Vec<String>>,
}

type Page = BTreeMap<String, Family>;

fn read(text: &str) -> Page {
    let mut page = Page::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help has a text");
            family = name.to_owned();
            page.entry(family.clone()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a kind");
            page.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').expect("labels end").0;
            let names = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            let mut names: Vec<_> = names.map(|(name, _)| name.to_owned()).collect();
            names.sort();
            page.entry(family.clone()).or_default().labels.insert(names);
        }
    }
    page
}

/// One of the two programs, with a page of its metrics.
struct Side {
    program: Program,
    grpc: u16,
    http: u16,
    metrics: u16,
    name: &'static str,
}

impl Side {
    async fn start(
        name: &'static str,
        program: &Path,
        folder: &Path,
        backend: u16,
        (level, without): (&str, bool),
    ) -> Self {
        let (grpc, http, metrics) = (free_port(), free_port(), free_port());
        let pipeline = "{receivers: [otlp], processors: [batch], exporters: [otlp_grpc, otlp_grpc/dead, debug]}";
        let config = format!(
            "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
processors:
  batch: {{timeout: 20ms}}
exporters:
  otlp_grpc: {{endpoint: 127.0.0.1:{backend}, tls: {{insecure: true}}}}
  otlp_grpc/dead: {{endpoint: 127.0.0.1:9, tls: {{insecure: true}}, retry_on_failure: {{enabled: false}}}}
  debug:
service:
  telemetry:
    metrics:
      level: {level}
      readers:
        - pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}, without_scope_info: {without}, without_type_suffix: {without}, without_units: {without}}}}}}}
  pipelines:
    traces: {pipeline}
    metrics: {pipeline}
    logs: {pipeline}
"
        );
        let file = folder.join(format!("{name}.yaml"));
        fs::write(&file, config).expect("the case's folder is writable");
        let mut command = Command::new(program);
        command.arg("--config").arg(&file);
        let mut program = Program::start(name, command, folder);
        for port in [grpc, http, metrics] {
            program.listens(port).await;
        }
        Self { program, grpc, http, metrics, name }
    }

    /// The same load for both: every signal over both transports, and one request that nobody can read.
    async fn load(&self) {
        let mut grpc = Grpc::connect(self.grpc).await.expect("it listens");
        for signal in Signal::ALL {
            let body = || request((0..20).map(|number| record(signal, number)));
            let reply = grpc.export(signal, body()).await.expect("it answers");
            assert_eq!(reply.code, 0, "{}: {}", self.name, reply.message);
            let reply = client::post(self.http, signal, body()).await.expect("it answers");
            assert_eq!(reply.status, 200, "{}", self.name);
        }
        let json = [("content-type", "application/json")];
        let reply = client::http("POST", self.http, "/v1/traces", &json, "{bad".into()).await;
        assert_eq!(reply.expect("it answers").status, 400);
    }

    /// The page, once it tells of a failure to send and of the last signal.
    async fn page(&self) -> Page {
        for _ in 0..500 {
            let reply = client::http("GET", self.metrics, "/metrics", &[], Bytes::new()).await;
            let text = String::from_utf8_lossy(&reply.expect("the page answers").body).into_owned();
            let counts = |name: &str| {
                text.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"))
            };
            let items = ["spans", "metric_points", "log_records"];
            if items.iter().all(|item| {
                counts(&format!("otelcol_exporter_send_failed_{item}"))
                    && counts(&format!("otelcol_exporter_sent_{item}"))
            }) {
                return read(&text);
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not count what was sent:\n{}", self.name, self.program.tail())
    }
}

/// Every metric of the Collector's page is on Tapio's with the same type, help and labels, or is in the
/// list above; at every level and in both styles.
pub(crate) fn metrics_as_the_collectors() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    block_on(async {
        let backend = Backend::start(free_port(), Inbox::default(), Duration::ZERO).await;
        for (level, without) in
            [("basic", true), ("normal", true), ("normal", false), ("detailed", true)]
        {
            let folder = folder(&format!("metrics_{level}_{without}"));
            let style = (level, without);
            let theirs = Side::start("otelcol", &otelcol, &folder, backend.port, style).await;
            let tapio = Path::new(env!("CARGO_BIN_EXE_tapio"));
            let ours = Side::start("tapio", tapio, &folder, backend.port, style).await;
            theirs.load().await;
            ours.load().await;
            compare(&theirs.page().await, &ours.page().await, style);
        }
    });
    Ok(())
}

fn compare(theirs: &Page, ours: &Page, (level, without): (&str, bool)) {
    let listed = |name: &str| {
        NOT_IN_TAPIO.iter().any(|(known, _)| {
            // Suffixes of the other style.
            let suffixes = ["", "_bytes", "_seconds", "_total", "_bytes_total"];
            name.strip_prefix(known).is_some_and(|rest| suffixes.contains(&rest))
        })
    };
    let mut wrong = Vec::new();
    let (mut same, mut absent) = (0, Vec::new());
    for (name, their) in theirs {
        match ours.get(name) {
            None if listed(name) => absent.push(name.as_str()),
            None => wrong.push(format!("{name} is missing: {}", their.help)),
            Some(our) => {
                if our != their {
                    // Labels: what the Collector's series carry must be there.
                    let labels = their.labels.is_subset(&our.labels);
                    if our.help != their.help || our.kind != their.kind || !labels {
                        wrong
                            .push(format!("{name}: the Collector's is {their:?}, Tapio's {our:?}"));
                        continue;
                    }
                }
                same += 1;
            }
        }
    }
    let early = |name: &str| BEFORE_THE_FIRST.iter().any(|start| name.starts_with(start));
    let extra = ours.keys().filter(|name| {
        !theirs.contains_key(*name)
            && !name.starts_with("tapio_")
            && !name.contains("profile_samples")
            && !early(name)
    });
    wrong.extend(extra.map(|name| format!("{name} is on no Collector's page")));
    println!(
        "    level {level}, without suffixes {without}: {same} alike, {} not in Tapio",
        absent.len()
    );
    assert!(wrong.is_empty(), "at level {level}:\n{}", wrong.join("\n"));
}

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
