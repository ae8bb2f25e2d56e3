//! Whatever comes in gets an answer; the program stays up, in bounds, and passes what is sound.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use crate::e2e::{
    backend::{Backend, Inbox},
    cases::lossless::exporter,
    client::{self, Grpc, HttpReply},
    program::{Tapio, block_on, folder, free_port},
    runner::Skipped,
    wire::{Message, Signal, record, request},
};

/// MiB that the program may have resident whatever is thrown at it here (dev profile).
const RSS_BOUND: u64 = 384;

/// Tapio in front of a backend that keeps everything.
struct Rig {
    tapio: Tapio,
    grpc: Grpc,
    inbox: Inbox,
    _backend: Backend,
}

impl Rig {
    async fn start(case: &str) -> Self {
        let inbox = Inbox::default();
        let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
        let (id, body) = exporter("http", backend.port, "none");
        let tapio = Tapio::start(&folder(case), "tapio", (id, &body)).await;
        let grpc = Grpc::connect(tapio.grpc).await.expect("it listens");
        Self { tapio, grpc, inbox, _backend: backend }
    }

    async fn post(&self, signal: Signal, body: Bytes) -> HttpReply {
        client::post(self.tapio.http, signal, body).await.expect("an answer")
    }

    async fn post_as(
        &self,
        signal: Signal,
        content: &str,
        encoding: &str,
        body: Bytes,
    ) -> HttpReply {
        let headers = [("content-type", content), ("content-encoding", encoding)];
        client::http("POST", self.tapio.http, signal.http_path(), &headers, body)
            .await
            .expect("an answer")
    }

    /// Still there, still passing sound requests, within its bound; stops with exit code 0.
    async fn assert_well(mut self) {
        for signal in Signal::ALL {
            let before = self.inbox.len();
            let sound = request([record(signal, 1)]);
            let reply = self.grpc.export(signal, sound.clone()).await.expect("an answer");
            assert_eq!(reply.code, 0, "{}", reply.message);
            assert_eq!(self.post(signal, sound.clone()).await.status, 200);
            let received = self.inbox.all();
            assert_eq!(received.len(), before + 2);
            assert!(received[before..].iter().all(|r| r.message == sound));
        }
        self.tapio.program.assert_peak_rss_below(RSS_BOUND);
        self.tapio.program.stop_well().await;
        assert!(!self.tapio.program.output().contains("panicked"), "{}", self.tapio.program.tail());
    }
}

pub(crate) fn malformed() -> Result<(), Skipped> {
    block_on(async {
        let mut rig = Rig::start("malformed").await;
        for signal in Signal::ALL {
            let sound = request((0..5).map(|number| record(signal, number)));
            let mut sent = 0;
            let truncated = (1..sound.len()).step_by(97).map(|end| sound.slice(..end));
            let garbage = [
                Bytes::from_static(b"\x0a\xff\xff\xff\xff\x7f"),
                Bytes::from_static(b"{}"),
                Bytes::from(vec![0xff; 64]),
            ];
            for body in truncated.chain(garbage) {
                let reply = rig.grpc.export(signal, body.clone()).await.expect("an answer");
                assert_eq!(reply.code, 3, "{signal:?} {} bytes: {}", body.len(), reply.message);
                assert!(!reply.message.is_empty(), "a person has to read it");
                let reply = rig.post(signal, body).await;
                assert_eq!(reply.status, 400);
                assert!(reply.has_status_body(3), "{:?}", reply.body);
                assert_eq!(reply.headers["content-type"], "application/x-protobuf");
                sent += 2;
            }
            for text in [
                "{",
                "[]",
                "{\"resourceSpans\": 5, \"resourceLogs\": 5, \"resourceMetrics\": 5}",
                "\u{0}",
            ] {
                let reply = rig
                    .post_as(signal, "application/json", "", Bytes::from_static(text.as_bytes()))
                    .await;
                assert_eq!(reply.status, 400, "{text}");
                assert_eq!(reply.headers["content-type"], "application/json");
                let status: serde_json::Value =
                    serde_json::from_slice(&reply.body).expect("a JSON body");
                assert_eq!(status["code"], 3, "{text}");
                sent += 1;
            }
            let name = signal.items_name();
            let counted = rig.tapio.counter(&format!("otelcol_receiver_failed_{name}")).await;
            assert_eq!(counted, sent, "malformed requests of {name} counted");
            assert_eq!(rig.tapio.counter(&format!("otelcol_receiver_accepted_{name}")).await, 0);
        }
        assert_eq!(rig.inbox.len(), 0, "nothing of it reaches the backend");

        let post = ("POST", "/v1/traces", "application/x-protobuf");
        for (method, path, content, status) in [
            ("GET", post.1, post.2, 405),
            (post.0, "/v1/nothing", post.2, 404),
            (post.0, post.1, "text/plain", 415),
        ] {
            let reply = client::http(
                method,
                rig.tapio.http,
                path,
                &[("content-type", content)],
                Bytes::new(),
            )
            .await;
            assert_eq!(reply.expect("an answer").status, status, "{method} {path} {content}");
        }
        let reply = rig.post_as(Signal::Traces, post.2, "br", Bytes::from_static(b"x")).await;
        assert_eq!(reply.status, 400);
        let reply =
            rig.post_as(Signal::Traces, post.2, "gzip", Bytes::from_static(b"no gzip")).await;
        assert_eq!(reply.status, 400);

        // Frames that lie about themselves: longer than said, shorter than said, a flag that is none.
        let sound = request([record(Signal::Traces, 0)]);
        let framed = client::frame(0, &sound);
        for body in [
            framed.slice(..framed.len() - 3),
            framed.slice(..3),
            client::frame(9, &sound),
            client::frame(1, &sound),
            Bytes::new(),
        ] {
            let reply = rig.grpc.call(Signal::Traces, body, None).await.expect("an answer");
            assert_ne!(reply.code, 0);
        }
        rig.assert_well().await;
    });
    Ok(())
}

pub(crate) fn large() -> Result<(), Skipped> {
    block_on(async {
        let mut rig = Rig::start("large").await;
        let span = |n: u64| {
            Message::new().bytes(1, [7; 16]).bytes(2, (n + 1).to_be_bytes()).bytes(5, "GET /")
        };
        let attribute = request([span(0).attribute(9, "big", vec![b'x'; 4 << 20])]);
        let many = request((0..100_000).map(span));
        for body in [&attribute, &many] {
            let reply = rig.post(Signal::Traces, body.clone()).await;
            assert_eq!(reply.status, 200, "{:?}", reply.body);
            let received = rig.inbox.all().pop().expect("it went through");
            assert!(received.message == *body, "changed on its way");
        }
        assert_eq!(rig.tapio.counter("otelcol_receiver_accepted_spans").await, 100_001);
        let reply = rig.grpc.export(Signal::Traces, attribute.clone()).await.expect("an answer");
        assert_eq!(reply.code, 8, "gRPC takes 4 MiB at most: {}", reply.message);
        assert!(reply.message.contains("larger than max"), "{}", reply.message);
        let reply = rig.grpc.export_gzip(Signal::Traces, &attribute).await.expect("an answer");
        assert_eq!(reply.code, 8, "also after decompression: {}", reply.message);
        let over = request([span(0).attribute(9, "big", vec![b'x'; 21 << 20])]);
        let reply = rig.post(Signal::Traces, over).await;
        assert_eq!(reply.status, 413, "HTTP takes 20 MiB at most");
        rig.assert_well().await;
    });
    Ok(())
}

pub(crate) fn bombs() -> Result<(), Skipped> {
    /// A GiB that compresses to next to nothing.
    fn fill<W: Write>(mut to: W) -> W {
        let zeros = vec![0; 1 << 20];
        (0..1024).for_each(|_| to.write_all(&zeros).expect("writing to memory"));
        to
    }
    let gzip = fill(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast())).finish();
    let gzip = Bytes::from(gzip.expect("writing to memory"));
    let zlib = fill(flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast())).finish();
    let zlib = Bytes::from(zlib.expect("writing to memory"));
    let zstd = fill(zstd::Encoder::new(vec![], 1).expect("level 1 exists")).finish();
    let zstd = Bytes::from(zstd.expect("writing to memory"));
    block_on(async {
        let mut rig = Rig::start("bombs").await;
        for (encoding, bomb) in [("gzip", &gzip), ("zstd", &zstd), ("deflate", &zlib)] {
            for content in ["application/x-protobuf", "application/json"] {
                let reply = rig.post_as(Signal::Logs, content, encoding, bomb.clone()).await;
                assert_eq!(reply.status, 413, "{encoding} {content}: {:?}", reply.body);
            }
            if encoding != "deflate" {
                let body = client::frame(1, bomb);
                let reply =
                    rig.grpc.call(Signal::Logs, body, Some(encoding)).await.expect("an answer");
                assert_eq!(reply.code, 8, "{encoding}: {}", reply.message);
            }
        }
        assert_eq!(rig.inbox.len(), 0);
        rig.assert_well().await;
    });
    Ok(())
}

pub(crate) fn strange() -> Result<(), Skipped> {
    block_on(async {
        let mut rig = Rig::start("strange").await;
        let nested = |depth: usize, array: bool| {
            (0..depth).fold(Message::new().bytes(1, "end"), |inner, _| {
                if array {
                    Message::new().message(5, Message::new().message(1, inner))
                } else {
                    Message::new().message(6, Message::new().any_attribute(1, "k", inner))
                }
            })
        };
        let mut strange: Vec<_> = [100, 1_000, 10_000]
            .into_iter()
            .flat_map(|depth| [(depth, true), (depth, false)])
            .map(|(depth, array)| {
                request([Message::new().message(5, nested(depth, array)).any_attribute(
                    6,
                    "deep",
                    nested(depth, array),
                )])
            })
            .collect();
        let no_text = [0xff, 0xfe, 0x80, b'a'];
        strange.push(request([Message::new()
            .bytes(3, no_text)
            .message(5, Message::new().bytes(1, no_text))]));
        strange.push(request([record(Signal::Logs, 1).attribute(6, "key", no_text)]));
        for body in &strange {
            let before = rig.inbox.len();
            let grpc = rig.grpc.export(Signal::Logs, body.clone()).await.expect("an answer");
            let http = rig.post(Signal::Logs, body.clone()).await;
            assert!(
                (grpc.code == 0 && http.status == 200) || (grpc.code == 3 && http.status == 400),
                "one answer on both transports: gRPC {} {}, HTTP {}",
                grpc.code,
                grpc.message,
                http.status
            );
            // Taken means unchanged, refused means nothing went on.
            let after = rig.inbox.all();
            assert_eq!(after.len(), before + if grpc.code == 0 { 2 } else { 0 });
            assert!(after[before..].iter().all(|r| r.message == *body));
        }
        for depth in [1_000, 100_000] {
            let open = r#"{"arrayValue":{"values":["#.repeat(depth);
            let close = "]}}".repeat(depth);
            let json = format!(
                r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{open}{close}}}]}}]}}]}}"#
            );
            let reply = rig.post_as(Signal::Logs, "application/json", "", json.into()).await;
            assert!(reply.status == 200 || reply.status == 400, "{}", reply.status);
            let unknown = format!("{{\"unknown\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            let reply = rig.post_as(Signal::Logs, "application/json", "", unknown.into()).await;
            assert!(reply.status == 200 || reply.status == 400, "{}", reply.status);
        }
        rig.assert_well().await;
    });
    Ok(())
}

/// MiB that may be resident whatever peers do, dev profile, analysis on.
const ATTACKED_RSS_BOUND: u64 = 256;

/// Guarantees: under each attack a good sender is answered by both doors, and memory stays in bounds; the
/// figures are printed as a table.
pub(crate) fn table() -> Result<(), Skipped> {
    // Best effort: the rows say how many there were.
    let _ = rlimit::increase_nofile_limit(1 << 16);
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    let many = usize::try_from(files).unwrap_or(1024).saturating_sub(200).min(10_000);
    println!(
        "| attack | peers | good sender, gRPC/HTTP ms | refused or cut, by limit | peak RSS MiB |"
    );
    println!("|---|---|---|---|---|");
    let mut wrong = vec![];
    for (name, peers, attack) in [
        ("idle connections", many, idle as Attack),
        ("idle connections with HTTP/2 begun", many.min(4_000), idle_http2),
        ("streams that announce 4 MiB and send nothing", 1_000, stalled_streams),
        ("slow loris, heads", many.min(4_000), slow_heads),
        ("slow loris, bodies", 2_000, slow_bodies),
        ("gzip bombs of 1 GiB", 32, gzip_bombs),
        ("zstd bombs of 1 GiB", 32, zstd_bombs),
        ("clients that never read", 200, mute),
    ] {
        let (line, well) = block_on(attacked(name, peers, attack));
        println!("{line}");
        if !well {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// What holds an attack up; it ends when this is dropped.
type Held = Box<dyn std::any::Any>;
type Attack = fn(u16, u16, usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>>;

async fn attacked(name: &str, peers: usize, attack: Attack) -> (String, bool) {
    let folder = name.replace([' ', ','], "_");
    let mut rig = Rig::start(&format!("attacked_{folder}")).await;
    let held = attack(rig.tapio.grpc, rig.tapio.http, peers).await;
    let sound = request((0..100).map(|n| record(Signal::Traces, n)));
    let started = Instant::now();
    // A connection of its own, made while the attack lasts.
    let mut grpc = Grpc::connect(rig.tapio.grpc).await.expect("it takes connections");
    let reply = grpc.export(Signal::Traces, sound.clone()).await.expect("an answer");
    let by_grpc = started.elapsed();
    assert_eq!(reply.code, 0, "{name}: {}", reply.message);
    let started = Instant::now();
    assert_eq!(rig.post(Signal::Traces, sound).await.status, 200, "{name}");
    let by_http = started.elapsed();
    rig.tapio.program.assert_alive();
    let peak = rig.tapio.program.peak_rss_mib();
    let limits = rig.tapio.counts_by("", "reason").await;
    drop(held);
    rig.tapio.program.stop_well().await;
    let limits: Vec<_> =
        limits.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    let line = format!(
        "| {name} | {peers} | {}/{} | {} | {peak} |",
        by_grpc.as_millis(),
        by_http.as_millis(),
        limits.join(", ")
    );
    let patience = Duration::from_secs(8);
    (line, peak < ATTACKED_RSS_BOUND && by_grpc < patience && by_http < patience)
}

fn idle(grpc: u16, http: u16, peers: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(async move {
        let held = (begun(grpc, peers / 2, b"").await, begun(http, peers / 2, b"").await);
        Box::new(held) as Held
    })
}

fn idle_http2(grpc: u16, _: u16, peers: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(begun(
        grpc,
        peers,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ))
}

fn stalled_streams(
    grpc: u16,
    _: u16,
    peers: usize,
) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(async move {
        let mut held = tokio::task::JoinSet::new();
        for _ in 0..peers / 100 {
            let stream = TcpStream::connect(("127.0.0.1", grpc)).await.expect("it listens");
            let (sender, connection) = hyper::client::conn::http2::handshake(
                hyper_util::rt::TokioExecutor::new(),
                hyper_util::rt::TokioIo::new(stream),
            )
            .await
            .expect("it speaks HTTP/2");
            held.spawn(async move { drop(connection.await) });
            for _ in 0..100 {
                let first = hyper::body::Frame::data(Bytes::from_static(&[1, 0, 0x40, 0, 0]));
                let first = futures_util::stream::iter([Ok::<_, std::io::Error>(first)]);
                let never = futures_util::stream::pending();
                let body = futures_util::StreamExt::chain(first, never);
                let call =
                    http::Request::post(format!("http://127.0.0.1{}", Signal::Traces.grpc_path()))
                        .header("content-type", "application/grpc")
                        .header("grpc-encoding", "gzip")
                        .body(http_body_util::StreamBody::new(body))
                        .expect("a request");
                let mut sender = sender.clone();
                held.spawn(async move { drop(sender.send_request(call).await) });
            }
        }
        sleep(Duration::from_millis(500)).await;
        Box::new(held) as Held
    })
}

/// Connections that have sent these bytes and send no more.
async fn begun(port: u16, peers: usize, bytes: &[u8]) -> Held {
    let mut held = vec![];
    for _ in 0..peers {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(bytes).await.expect("it reads");
        held.push(stream);
    }
    Box::new(held)
}

fn slow_heads(_: u16, http: u16, peers: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(begun(http, peers, b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: "))
}

fn slow_bodies(_: u16, http: u16, peers: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(begun(
        http,
        peers,
        b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 20000000\r\n\r\n\n\x7f",
    ))
}

fn gzip_bombs(grpc: u16, http: u16, n: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    let mut bomb = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let zeros = vec![0; 1 << 20];
    (0..1024).for_each(|_| bomb.write_all(&zeros).expect("writing to memory"));
    Box::pin(thrown(grpc, http, n, "gzip", bomb.finish().expect("writing to memory").into()))
}

fn zstd_bombs(grpc: u16, http: u16, n: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    let mut bomb = zstd::Encoder::new(vec![], 1).expect("level 1 exists");
    let zeros = vec![0; 1 << 20];
    (0..1024).for_each(|_| bomb.write_all(&zeros).expect("writing to memory"));
    Box::pin(thrown(grpc, http, n, "zstd", bomb.finish().expect("writing to memory").into()))
}

/// All at once, by both doors; none of them may be taken.
async fn thrown(grpc: u16, http: u16, n: usize, encoding: &'static str, bomb: Bytes) -> Held {
    let mut held = tokio::task::JoinSet::new();
    for i in 0..n {
        let bomb = bomb.clone();
        held.spawn(async move {
            if i % 2 == 0 {
                let headers =
                    [("content-type", "application/x-protobuf"), ("content-encoding", encoding)];
                let reply = client::http("POST", http, "/v1/traces", &headers, bomb).await;
                assert!(reply.is_ok_and(|reply| matches!(reply.status, 413 | 503)));
            } else {
                let mut grpc = Grpc::connect(grpc).await.expect("it listens");
                let bomb = client::frame(1, &bomb);
                let reply = grpc.call(Signal::Traces, bomb, Some(encoding)).await;
                assert!(reply.is_ok_and(|reply| matches!(reply.code, 8 | 14)));
            }
        });
    }
    Box::new(held)
}

fn mute(_: u16, http: u16, peers: usize) -> std::pin::Pin<Box<dyn Future<Output = Held>>> {
    Box::pin(async move {
        let one = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{";
        let many = one.repeat(5000);
        let mut held = vec![];
        for _ in 0..peers {
            held.push(TcpStream::connect(("127.0.0.1", http)).await.expect("it listens"));
        }
        for _ in 0..20 {
            for stream in &mut held {
                // As much as the kernel takes; what comes back is left where it is.
                let _ = stream.try_write(&many);
            }
            sleep(Duration::from_millis(25)).await;
        }
        Box::new(held) as Held
    })
}
