//! A real Collector in front, a real Collector behind: the same items but for `tapio.*` attributes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::e2e::{
    client::Grpc,
    items::Items,
    parts,
    program::{Program, Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request},
};

/// Items in a request to the first Collector.
const BATCH: u64 = 1_000;

pub(crate) fn grpc_100k() -> Result<(), Skipped> {
    numbered("collector_grpc", Way::GRPC, 100_000)
}

pub(crate) fn http() -> Result<(), Skipped> {
    numbered("collector_http", Way::HTTP, 20_000)
}

pub(crate) fn json() -> Result<(), Skipped> {
    numbered("collector_json", Way::JSON, 20_000)
}

/// How the Collectors and Tapio speak to each other.
#[derive(Clone, Copy)]
struct Way {
    /// The first Collector's exporter to Tapio.
    front: &'static str,
    to_http: bool,
    /// Tapio's exporter to the second Collector.
    hop: (&'static str, &'static str),
    from_http: bool,
    /// Tapio's processors.
    processors: &'static str,
}

impl Way {
    const GRPC: Way = Way {
        front: "otlp_grpc: {tls: {insecure: true}, ",
        to_http: false,
        hop: ("otlp_grpc", "tls: {insecure: true}, "),
        from_http: false,
        processors: "tapio",
    };
    const HTTP: Way = Way {
        front: "otlp_http: {",
        to_http: true,
        hop: ("otlp_http", ""),
        from_http: true,
        processors: "batch, tapio",
    };
    const JSON: Way = Way {
        front: "otlp_http: {encoding: json, ",
        to_http: true,
        hop: ("otlp_http", "encoding: json, "),
        from_http: true,
        processors: "tapio",
    };
}

/// Collector -> Tapio -> Collector; both Collectors write what they receive to files in the folder.
struct Chain {
    folder: PathBuf,
    port: u16,
    front: Program,
    tapio: Tapio,
    back: Program,
}

impl Chain {
    async fn start(case: &str, way: Way) -> Result<Self, Skipped> {
        let otelcol = parts::collector()?.join("otelcol");
        let folder = folder(case);
        let endpoint = |over_http: bool, grpc: u16, http: u16| {
            if over_http {
                format!("\"http://127.0.0.1:{http}\"")
            } else {
                format!("\"127.0.0.1:{grpc}\"")
            }
        };
        let (grpc, http) = (free_port(), free_port());
        let mut back = collector(&otelcol, &folder, "back", (grpc, http), "");
        back.listens(grpc).await;
        let exporter =
            format!("{{{}endpoint: {}}}", way.hop.1, endpoint(way.from_http, grpc, http));
        let tapio = Tapio::start(&folder, way.processors, (way.hop.0, &exporter)).await;
        let hop =
            format!("{}endpoint: {}}}", way.front, endpoint(way.to_http, tapio.grpc, tapio.http));
        let port = free_port();
        let mut front = collector(&otelcol, &folder, "front", (port, free_port()), &hop);
        front.listens(port).await;
        Ok(Self { folder, port, front, tapio, back })
    }

    /// Stops one after the other, so that each hands on what it has, and compares. Returns how many
    /// items of each signal the first Collector received.
    async fn stop_and_compare(mut self) -> Vec<(Signal, u64)> {
        self.front.stop_well().await;
        println!("    tapio: peak RSS {} MiB", self.tapio.program.peak_rss_mib());
        self.tapio.program.stop_well().await;
        self.back.stop_well().await;
        let compared = Signal::ALL.map(|signal| {
            let file = |name| self.folder.join(format!("{name}-{}.jsonl", signal.items_name()));
            let sent = Items::read(&file("front"), signal);
            let total = sent.total;
            Items::read(&file("back"), signal).assert_same(sent, signal);
            (signal, total)
        });
        compared.to_vec()
    }
}

/// Starts a Collector that writes all it receives to files and, when `hop` is an exporter, sends it
/// there. One file exporter for each signal: a shared one is closed by the first pipeline that stops.
fn collector(otelcol: &Path, folder: &Path, name: &str, ports: (u16, u16), hop: &str) -> Program {
    let (grpc, http) = ports;
    let mut config = format!(
        "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: 127.0.0.1:{grpc}}}
      http: {{endpoint: 127.0.0.1:{http}}}
processors:
  batch: {{send_batch_size: 2000, send_batch_max_size: 4000}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
"
    );
    let mut exporters = String::from("exporters:\n");
    let also = hop.split_once(':').map(|(id, body)| {
        exporters += &format!("  {id}:{body}\n");
        format!("{id}, ")
    });
    for signal in Signal::ALL {
        let (file, also) =
            (format!("file/{}", signal.items_name()), also.as_deref().unwrap_or_default());
        let path = folder.join(format!("{name}-{}.jsonl", signal.items_name()));
        exporters += &format!("  {file}: {{path: {}}}\n", path.display());
        let pipeline = signal.http_path().trim_start_matches("/v1/");
        config += &format!(
            "    {pipeline}: {{receivers: [otlp], processors: [batch], exporters: [{also}{file}]}}\n"
        );
    }
    let path = folder.join(format!("{name}.yaml"));
    fs::write(&path, config + &exporters).expect("the case's folder is writable");
    let mut command = Command::new(otelcol);
    command.arg("--config").arg(format!("file:{}", path.display()));
    Program::start(name, command, folder)
}

fn numbered(case: &str, way: Way, items: u64) -> Result<(), Skipped> {
    block_on(async {
        let chain = Chain::start(case, way).await?;
        let mut grpc = Grpc::connect(chain.port).await.expect("it listens");
        for first in (0..items).step_by(BATCH as usize) {
            for signal in Signal::ALL {
                let body = request((first..first + BATCH).map(|number| record(signal, number)));
                let reply = grpc.export(signal, body).await.expect("the Collector answers");
                assert_eq!(reply.code, 0, "{}", reply.message);
            }
        }
        for (signal, compared) in chain.stop_and_compare().await {
            assert_eq!(compared, items, "{} compared", signal.items_name());
        }
        Ok(())
    })
}

/// A real SDK as the sender. How much it sends is its own affair; what it sent arrives.
pub(crate) fn telemetrygen() -> Result<(), Skipped> {
    block_on(async {
        let chain = Chain::start("telemetrygen", Way::GRPC).await?;
        let telemetrygen = parts::collector()?.join("telemetrygen");
        for (signal, count) in
            [("traces", "--traces"), ("logs", "--logs"), ("metrics", "--metrics")]
        {
            let mut command = Command::new(&telemetrygen);
            command.args([
                signal,
                "--otlp-insecure",
                "--rate",
                "0",
                count,
                "2000",
                "--otlp-endpoint",
            ]);
            command.arg(format!("127.0.0.1:{}", chain.port));
            let mut program =
                Program::start(&format!("telemetrygen-{signal}"), command, &chain.folder);
            assert!(program.ends(Duration::from_secs(60)).await.success(), "{}", program.tail());
        }
        for (signal, compared) in chain.stop_and_compare().await {
            assert!(compared >= 2000, "{} compared: {compared}", signal.items_name());
        }
        Ok(())
    })
}
