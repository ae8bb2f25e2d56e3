//! Whatever comes in gets an answer; the program stays up, in bounds, and passes what is sound.

use std::{io::Write, time::Duration};

use bytes::Bytes;

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
