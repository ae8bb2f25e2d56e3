//! Many peers at a time that mean harm, or are only slow: memory stays bounded, and a good sender
//! is answered. The receiver runs in a process of its own, so that what it takes can be measured.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use tapio_proto::{Code, transport::Compression};

use crate::support::{Rig, call, framed, send, spans};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CHILD: &str = "TAPIO_TEST_RECEIVER";
const MAX_RSS_MIB: u64 = 256;

/// Not a test: the process that [`Victim`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_in_a_process_of_its_own() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // Large answers, so that those who do not read them are soon found out.
    let filler = "x".repeat(4000);
    let http = format!(
        r#"{{"read_header_timeout":"2s","write_timeout":"2s","response_headers":{{"x-filler":"{filler}"}}}}"#
    );
    let rig = Rig::with("{}", &http).await;
    println!("\nserving {} {}", rig.grpc(), rig.http());
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.seen();
        for limit in rig.counts.take_limits() {
            println!("\nlimit {limit}");
        }
    }
}

struct Victim {
    process: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    limits: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Victim {
    fn start() -> Victim {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attacks::receiver_in_a_process_of_its_own", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("serving ")).unwrap();
        let mut addresses = line.split(' ').skip(1).map(|address| address.parse().unwrap());
        let (grpc, http) = (addresses.next().unwrap(), addresses.next().unwrap());
        let limits = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let told = std::sync::Arc::clone(&limits);
        std::thread::spawn(move || {
            for line in lines {
                if let Some(limit) = line.strip_prefix("limit ") {
                    told.lock().unwrap().push(limit.to_owned());
                }
            }
        });
        Victim { process, grpc, http, limits }
    }

    /// The most memory that it ever had, in MiB.
    fn peak(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }

    async fn is_well(&self, attack: &str) {
        let started = Instant::now();
        let answer = call(self.grpc, TRACES, &[], vec![framed(0, &spans(100))]).await;
        assert_eq!(answer.code, Code::Ok, "{attack}: {}", answer.message);
        let headers = [("content-type", "application/x-protobuf")];
        let (status, ..) =
            send(self.http, Method::POST, "/v1/traces", &headers, vec![spans(100)]).await;
        assert_eq!(status, StatusCode::OK, "{attack}");
        assert!(started.elapsed() < Duration::from_secs(8), "{attack}: {:?}", started.elapsed());
        let peak = self.peak();
        println!("{attack}: peak {peak} MiB, answered in {:?}", started.elapsed());
        assert!(peak < MAX_RSS_MIB, "{attack}: {peak} MiB");
    }

    async fn counted(&self, limit: &str) {
        for _ in 0..100 {
            if self.limits.lock().unwrap().iter().any(|told| told == limit) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{limit} was never counted: {:?}", self.limits.lock().unwrap());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As many as the limit of open files allows here, and no more than the contract says.
fn connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: usize = line.split_whitespace().next().unwrap().parse().unwrap();
    (files * 7 / 10).min(10_000)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

#[tokio::test]
async fn idle_connections_and_slow_heads() {
    let victim = Victim::start();
    let half = connections() / 2;
    let mut held = Vec::new();
    for n in 0..half {
        let mut idle = TcpStream::connect(victim.grpc).unwrap();
        if n % 2 == 0 {
            idle.write_all(PREFACE).unwrap();
        }
        let mut slow = TcpStream::connect(victim.http).unwrap();
        slow.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
        held.push((idle, slow));
    }
    victim.is_well(&format!("{} idle and slow connections", 2 * half)).await;
    victim.counted("head_timeout").await;
}

/// A prefix that announces a large message costs the sender five bytes, and others nothing.
#[tokio::test]
async fn a_thousand_streams_that_announce_much_and_send_nothing() {
    let victim = Victim::start();
    let mut held = Vec::new();
    for _ in 0..10 {
        let io = tokio::net::TcpStream::connect(victim.grpc).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(io),
        )
        .await
        .unwrap();
        tokio::spawn(connection);
        for _ in 0..100 {
            let request = http::Request::post(format!("http://{}{TRACES}", victim.grpc))
                .header("content-type", "application/grpc")
                .header("grpc-encoding", "gzip")
                .body(Stalled(Some(Bytes::from_static(&[1, 0, 0x40, 0, 0]))))
                .unwrap();
            let mut sender = sender.clone();
            held.push(tokio::spawn(async move { sender.send_request(request).await }));
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    victim.is_well("1,000 stalled streams").await;
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn bombs_of_every_compression() {
    let victim = Victim::start();
    let zeros = Bytes::from(vec![0u8; 128 << 20]);
    let all = [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Zlib,
        Compression::SnappyFramed,
        Compression::Lz4,
    ];
    for compression in all {
        let bomb = compression.compress(&zeros, None).unwrap();
        let name = compression.name();
        let senders: Vec<_> = (0..16)
            .map(|_| {
                let (http, bomb) = (victim.http, bomb.clone());
                tokio::spawn(async move {
                    let headers =
                        [("content-type", "application/x-protobuf"), ("content-encoding", name)];
                    send(http, Method::POST, "/v1/traces", &headers, vec![bomb]).await.0
                })
            })
            .collect();
        victim.is_well(&format!("16 bombs of {name}")).await;
        for sender in senders {
            let status = sender.await.unwrap();
            assert!(matches!(status.as_u16(), 413 | 503), "{name}: {status}");
        }
    }
    victim.counted("size").await;
}

#[tokio::test]
async fn clients_that_never_read_their_answers() {
    let victim = Victim::start();
    let request = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{";
    let many: Vec<u8> = request.repeat(2000);
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(victim.http).unwrap();
        stream.set_nonblocking(true).unwrap();
        held.push((stream.write(&many), stream));
    }
    for _ in 0..20 {
        for (_, stream) in &mut held {
            let _ = stream.write(&many);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    victim.is_well("200 clients that never read").await;
    victim.counted("stalled").await;
}

/// A body with one piece and no end.
struct Stalled(Option<Bytes>);

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(piece) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(piece)))),
            None => std::task::Poll::Pending,
        }
    }
}
