//! Configurations that were written for the Collector, with only the program exchanged.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::sleep;

use crate::e2e::{
    backend::{Backend, Inbox},
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::{Signal, record, request},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// An address as a pod has one: the ports of the configurations are free there.
fn pod_ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// As the kubelet starts the container: the arguments and the environment of the chart's pod.
fn container(folder: &Path, ip: Ipv4Addr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapio"));
    command.arg(format!("--config={}", folder.join("conf/relay.yaml").display()));
    command.envs([("MY_POD_IP", ip.to_string().as_str()), ("GOMEMLIMIT", "3276MiB")]);
    for (name, value) in [
        ("OTEL_K8S_NODE_NAME", "node-1"),
        ("OTEL_K8S_NODE_IP", "10.0.0.1"),
        ("OTEL_K8S_NAMESPACE", "default"),
        ("OTEL_K8S_POD_NAME", "example-1"),
        ("OTEL_K8S_POD_IP", "10.0.0.2"),
        ("K8S_NODE_NAME", "node-1"),
    ] {
        command.env(name, value);
    }
    command
}

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("it is in the tree")
}

fn mount(folder: &Path, relay: &str) {
    fs::create_dir_all(folder.join("conf")).expect("the case's folder is writable");
    fs::write(folder.join("conf/relay.yaml"), relay).expect("the case's folder is writable");
}

/// The configuration without these components and what is below them.
fn without(relay: &str, keys: &[&str]) -> String {
    let mut dropping = false;
    let kept = relay.lines().filter(|line| {
        let below = line.starts_with("   ");
        dropping = keys.iter().any(|key| line.trim_start_matches("  ").starts_with(key)) && !below
            || dropping && below;
        !dropping
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// One HTTP exchange; status and body, or nothing if nobody answers.
fn exchange(ip: Ipv4Addr, port: u16, head: &str, body: &[u8]) -> Option<(u16, String)> {
    let address = SocketAddr::from((ip, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = format!(
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// As the kubelet probes: a GET, and what is not 2xx or 3xx has failed.
fn probe(ip: Ipv4Addr) -> bool {
    exchange(ip, 13133, "GET /", b"").is_some_and(|(status, _)| (200..400).contains(&status))
}

async fn ready(program: &mut Program, ip: Ipv4Addr) {
    let deadline = Instant::now() + PATIENCE;
    while !probe(ip) {
        program.assert_alive();
        assert!(Instant::now() < deadline, "never ready: {}", program.tail());
        sleep(Duration::from_millis(20)).await;
    }
}

fn send(ip: Ipv4Addr) {
    for signal in Signal::ALL {
        let body = request((0..10).map(|n| record(signal, n)));
        let answer = exchange(ip, 4318, &format!("POST {}", signal.http_path()), &body);
        assert_eq!(answer.expect("an answer").0, 200, "{signal:?}");
    }
}

/// Guarantees: of the chart's default values each component that Tapio does not have is named in one line
/// that says what to do; with the values of `deploy/helm-values.yaml` it runs, its probes, ports and end
/// are what the chart's pod expects.
pub(crate) fn helm_defaults() -> Result<(), Skipped> {
    block_on(async {
        let (folder, ip) = (folder("helm_defaults"), pod_ip());
        let relay = file("tests/swapped/helm-relay.yaml");
        mount(&folder, &relay);
        let Output { status, stderr, .. } = container(&folder, ip).output().expect("it starts");
        let told = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(1), "{told}");
        for receiver in ["jaeger", "prometheus", "zipkin"] {
            let lines: Vec<_> =
                told.lines().filter(|line| line.contains(&format!("\"{receiver}\""))).collect();
            let [line] = lines[..] else { panic!("one line for {receiver}: {told}") };
            assert!(line.contains("relay.yaml:"), "it has a place: {line}");
            assert!(line.contains("unknown type") && line.contains("keep the Collector"), "{line}");
        }
        assert_eq!(told.lines().count(), 4, "nothing but these three and a head: {told}");

        // As Helm merges values: a null takes the key away, the rest lies over the default.
        let values = file("deploy/helm-values.yaml");
        let (_, overlay) =
            values.split_once("\nconfig:\n").expect("the values configure something");
        let (nulls, rest): (Vec<_>, Vec<_>) =
            overlay.lines().partition(|line| line.ends_with(": null"));
        let gone: Vec<_> = nulls.iter().map(|line| line.trim().trim_end_matches(" null")).collect();
        mount(&folder, &without(&relay, &gone));
        let rest = rest.iter().map(|line| line.strip_prefix("  ").unwrap_or(line));
        let overlay = rest.filter(|line| *line != "receivers:").collect::<Vec<_>>().join("\n");
        fs::write(folder.join("overlay.yaml"), overlay).expect("the case's folder is writable");
        let mut command = container(&folder, ip);
        command.arg(format!("--config={}", folder.join("overlay.yaml").display()));
        let mut program = Program::start("tapio", command, &folder);
        ready(&mut program, ip).await;
        let (_, body) = exchange(ip, 13133, "GET /", b"").expect("an answer");
        assert!(body.starts_with("{\"status\":\"Server available\",\"upSince\":\""), "{body}");
        TcpStream::connect((ip, 4317)).expect("the port that the chart's Service names");
        send(ip);
        let (_, page) = exchange(ip, 8888, "GET /metrics", b"").expect("an answer");
        let line = "otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"http\"} 10";
        assert!(page.contains(line), "{page}");
        // terminationGracePeriodSeconds: 30
        let status = program.stop(Duration::from_secs(30)).await;
        assert!(status.success(), "{status}: {}", program.tail());
        assert!(!probe(ip));
        Ok(())
    })
}

/// Guarantees: a gateway's configuration runs as it is, and every signal arrives where it says.
pub(crate) fn gateway() -> Result<(), Skipped> {
    block_on(async {
        let (folder, ip) = (folder("gateway"), pod_ip());
        mount(&folder, &file("tests/swapped/gateway.yaml"));
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let mut command = container(&folder, ip);
        command.env("BACKEND", format!("127.0.0.1:{}", backend.port));
        command.env("STATE", folder.join("state"));
        let mut program = Program::start("tapio", command, &folder);
        ready(&mut program, ip).await;
        send(ip);
        let zpages = exchange(ip, 55679, "GET /debug/pipelinez", b"").expect("an answer");
        assert_eq!(zpages.0, 200);
        let deadline = Instant::now() + PATIENCE;
        while inbox.len() < 3 {
            assert!(Instant::now() < deadline, "{} arrived: {}", inbox.len(), program.tail());
            sleep(Duration::from_millis(20)).await;
        }
        let status = program.stop(Duration::from_secs(30)).await;
        assert!(status.success(), "{status}: {}", program.tail());
        let mut received = inbox.all();
        received.sort_by(|a, b| a.path.cmp(&b.path));
        let [metrics, traces, logs] = &received[..] else { panic!("{} requests", received.len()) };
        assert_eq!(traces.path, Signal::Traces.grpc_path());
        assert_eq!(traces.headers["x-scope-orgid"], "anonymous");
        assert_eq!(logs.path, "/otlp/v1/logs");
        assert_eq!(metrics.path, "/api/v1/otlp/v1/metrics");
        assert_eq!(metrics.headers["content-type"], "application/json");
        let has = |message: &Bytes, text: &str| {
            message.windows(text.len()).any(|window| window == text.as_bytes())
        };
        for received in &received {
            assert!(has(&received.message, "deployment.environment.name"), "{}", received.path);
            assert!(has(&received.message, "production"), "{}", received.path);
        }
        let log = program.output();
        let own = log.lines().find(|line| line.contains("Everything is ready")).unwrap_or_default();
        assert!(own.starts_with('{') && own.contains("\"level\":\"info\""), "{own}");
        Ok(())
    })
}
