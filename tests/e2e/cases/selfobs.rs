//! What Tapio tells about itself.

use std::{fs, process::Command, time::Duration};

use tokio::time::sleep;

use crate::e2e::{
    backend::{Backend, Inbox},
    client::Grpc,
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
