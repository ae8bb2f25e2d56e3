//! Connections: kept, lost, secured, and to peers that behave oddly.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use serde_json::{Value, json};
use tapio_exporter::{
    ClientAuth, ClientAuthConfig, Exporter, Fanout, OtlpGrpcConfig, OtlpHttpConfig, otlp_grpc,
    otlp_http,
};
use tapio_proto::{
    Accepted, Code, Consumer, Metadata, Next, PartialSuccess, Request, Signal, Status,
    encode_response,
    transport::{Compression, grpc},
};
use tapio_receiver::Handle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use crate::support::{
    Door, Script, Tally, direct, exporter, exporter_at, raw_backend, receiver, receiver_with, span,
    spans,
};

fn once() -> Value {
    json!({"sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false}})
}

#[tokio::test]
async fn every_compression_and_encoding_delivers_the_same_bytes() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = receiver(script.clone()).await;
    let mut sent = 0;
    for (door, key, value) in [
        (Door::Grpc, "compression", "none"),
        (Door::Grpc, "compression", "gzip"),
        (Door::Grpc, "compression", "zstd"),
        (Door::Http, "compression", "none"),
        (Door::Http, "compression", "gzip"),
        (Door::Http, "compression", "zstd"),
        (Door::Grpc, "compression", "snappy"),
        (Door::Http, "compression", "deflate"),
        (Door::Http, "compression", "snappy"),
        (Door::Http, "compression", "x-snappy-framed"),
        (Door::Http, "compression", "lz4"),
        (Door::Http, "encoding", "json"),
    ] {
        let mut config = once();
        config[key] = value.into();
        let exporter = exporter(door, &backend, config);
        // The second one goes over the kept connection.
        for _ in 0..2 {
            let request = spans(1, 200);
            exporter.consume(request.clone()).await.unwrap_or_else(|e| panic!("{value}: {e}"));
            sent += 1;
            let seen = script.seen();
            assert_eq!((seen.len(), &seen[sent - 1].bytes), (sent, &request.bytes), "{value}");
        }
    }
}

#[tokio::test]
async fn what_nobody_opened_leaves_as_it_came() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = receiver(script.clone()).await;
    for door in [Door::Grpc, Door::Http] {
        let exporter = exporter(door, &backend, once());
        assert!(exporter.takes_closed(Compression::Gzip), "the default");
        assert!(!exporter.takes_closed(Compression::Zstd));
        let request = spans(1, 200);
        let body = Compression::Gzip.compress(&request.bytes, None).unwrap();
        let closed = Request::closed(Signal::Traces, Compression::Gzip, body);
        exporter.consume(closed).await.unwrap();
        assert_eq!(script.seen().pop().unwrap().bytes, request.bytes);
        let broken = Request::closed(Signal::Traces, Compression::Gzip, Bytes::from_static(b"no"));
        assert_eq!(exporter.consume(broken).await.unwrap_err().code, Code::InvalidArgument);
    }
    let queued = exporter(Door::Grpc, &backend, json!({}));
    assert!(!queued.takes_closed(Compression::Gzip));
    let json = json!({"sending_queue": {"enabled": false}, "encoding": "json"});
    assert!(!exporter(Door::Http, &backend, json).takes_closed(Compression::Gzip));
}

#[tokio::test]
async fn a_restarted_backend_is_found_again_without_an_error() {
    for door in [Door::Grpc, Door::Http] {
        let script = Script::new(|_| Ok(Accepted::default()));
        let first = receiver(script.clone()).await;
        let address = match door {
            Door::Grpc => first.grpc_address(),
            Door::Http => first.http_address(),
        };
        let address = address.unwrap();
        let exporter = exporter_at(door, address, once(), Default::default());
        exporter.consume(span(1)).await.unwrap();
        first.shutdown(Duration::from_secs(1)).await;
        let status = exporter.consume(span(2)).await.unwrap_err();
        assert_eq!(status.code, Code::Unavailable);
        assert!(status.message.contains(&address.to_string()), "{}", status.message);
        let endpoint = json!({"endpoint": address.to_string()});
        let any = json!({"endpoint": "127.0.0.1:0"});
        let (grpc, http) = if door == Door::Grpc { (endpoint, any) } else { (any, endpoint) };
        let second = receiver_with(script.clone(), grpc, http).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        exporter.consume(span(3)).await.unwrap();
        // Restarted between two requests, with no attempt in between: the sender sees nothing.
        second.shutdown(Duration::from_secs(1)).await;
        let endpoint = json!({"endpoint": address.to_string()});
        let any = json!({"endpoint": "127.0.0.1:0"});
        let (grpc, http) = if door == Door::Grpc { (endpoint, any) } else { (any, endpoint) };
        let _third = receiver_with(script.clone(), grpc, http).await;
        exporter.consume(span(4)).await.unwrap();
        assert_eq!(script.seen().len(), 3);
    }
}

#[tokio::test]
async fn a_backend_that_hangs_is_given_up_in_time() {
    // Accepts connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    for door in [Door::Grpc, Door::Http] {
        let mut config = once();
        config["timeout"] = "200ms".into();
        let exporter = exporter_at(door, address, config, Default::default());
        let started = Instant::now();
        let status = exporter.consume(span(1)).await.unwrap_err();
        assert_eq!(status.code, Code::DeadlineExceeded);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_ends_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exporter =
        exporter_at(Door::Grpc, listener.local_addr().unwrap(), once(), Default::default());
    let backend = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.shutdown().await.unwrap();
        // The end, or a reset: what was sent was not read.
        let all = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
        assert!(all.is_ok(), "the exporter holds on to it");
    };
    let (outcome, ()) = tokio::join!(exporter.consume(span(1)), backend);
    assert_eq!(outcome.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn many_requests_side_by_side_on_one_connection() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_millis(100);
    let backend = receiver(script.clone()).await;
    let exporter = direct(Door::Grpc, &backend);
    let started = Instant::now();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let exporter = exporter.clone();
            tokio::spawn(async move { exporter.consume(span(n)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(script.seen().len(), 50);
    assert!(started.elapsed() < Duration::from_secs(3), "they waited for each other");
}

/// grpc-go answers in the encoding of the request.
#[tokio::test]
async fn a_compressed_grpc_answer_is_read() {
    let partial = Some(PartialSuccess { rejected: 3, message: "x".repeat(500) });
    let answer = encode_response(Signal::Traces, &Accepted { partial: partial.clone() });
    let packed = Compression::Gzip.compress(&answer, None).unwrap();
    let mut frame = grpc::prefix(true, packed.len() as u32).to_vec();
    frame.extend_from_slice(&packed);
    let address = raw_backend(move |_| {
        http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .body(Trailing(Some(frame.clone().into()), Some("0")))
            .unwrap()
    })
    .await;
    let exporter = exporter_at(Door::Grpc, address, once(), Default::default());
    assert_eq!(exporter.consume(span(1)).await.unwrap().partial, partial);
}

#[tokio::test]
async fn odd_grpc_answers_are_clear_errors() {
    // A web server where a gRPC server was expected, and a stream that ends without a status.
    let web =
        raw_backend(|_| http::Response::builder().status(502).body(Trailing(None, None)).unwrap())
            .await;
    let status = exporter_at(Door::Grpc, web, once(), Default::default())
        .consume(span(1))
        .await
        .unwrap_err();
    assert_eq!(status.code, Code::Unavailable);
    assert!(status.message.contains("502"), "{}", status.message);
    let silent = raw_backend(|_| http::Response::new(Trailing(None, None))).await;
    let status = exporter_at(Door::Grpc, silent, once(), Default::default())
        .consume(span(1))
        .await
        .unwrap_err();
    assert!(status.is_retryable(), "{status:?}");
}

#[tokio::test]
async fn configured_headers_are_sent() {
    let expected = "X-Scope-OrgID";
    let address = raw_backend(move |parts| {
        let tenant = parts.headers.get(expected).map(|value| value.to_str().unwrap().to_owned());
        let agent = parts.headers["user-agent"].to_str().unwrap().to_owned();
        let code = if tenant.as_deref() == Some("shop") && agent.starts_with("Tapio/") {
            "0"
        } else {
            "16"
        };
        http::Response::new(Trailing(None, Some(code)))
    })
    .await;
    let mut config = once();
    config["headers"] = json!({ expected: "shop" });
    exporter_at(Door::Grpc, address, config, Default::default()).consume(span(1)).await.unwrap();
}

#[tokio::test]
async fn what_is_compressed_says_so() {
    for (compression, expected) in
        [("none", None), ("gzip", Some("gzip")), ("snappy", Some("snappy")), ("zstd", Some("zstd"))]
    {
        let address = raw_backend(move |parts| {
            let told = parts.headers.get("grpc-encoding").map(|v| v.to_str().unwrap().to_owned());
            let code = if told.as_deref() == expected { "0" } else { "16" };
            http::Response::new(Trailing(None, Some(code)))
        })
        .await;
        let mut config = once();
        config["compression"] = compression.into();
        let exporter = exporter_at(Door::Grpc, address, config, Default::default());
        exporter.consume(span(1)).await.unwrap_or_else(|error| panic!("{compression}: {error}"));
    }
}

#[tokio::test]
async fn a_timeout_of_zero_is_none() {
    let script = Script::new(|_| Ok(Accepted::default()));
    *script.delay.lock().unwrap() = Duration::from_millis(50);
    let backend = receiver(script.clone()).await;
    for door in [Door::Grpc, Door::Http] {
        let mut config = once();
        config["timeout"] = "0s".into();
        exporter(door, &backend, config).consume(span(1)).await.unwrap();
    }
}

/// Sets a header from the sender's.
struct Tenant {
    secret: bool,
}

impl ClientAuth for Tenant {
    fn apply(&self, headers: &mut HeaderMap, metadata: Option<&Metadata>) -> Result<(), Status> {
        let tenant = metadata.and_then(|metadata| metadata.header("X-Tenant").next());
        let Some(tenant) = tenant else {
            return Err(Status::new(Code::Unauthenticated, "no tenant"));
        };
        headers.insert("x-scope-orgid", http::HeaderValue::from_bytes(tenant).unwrap());
        Ok(())
    }

    fn needs_tls(&self) -> bool {
        self.secret
    }
}

#[tokio::test]
async fn an_extension_sets_headers_from_the_senders() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let config = json!({"endpoint": "127.0.0.1:0", "include_metadata": true});
    let backend = receiver_with(script.clone(), config.clone(), config).await;
    let auth = || {
        let client: Arc<dyn ClientAuth> = Arc::new(Tenant { secret: false });
        Some(ClientAuthConfig { authenticator: "tenant".to_owned(), client: Some(client) })
    };
    let tally = || Arc::new(Tally::default());
    for door in [Door::Grpc, Door::Http] {
        let mut config = once();
        let exporter: Exporter = match door {
            Door::Grpc => {
                config["endpoint"] = format!("http://{}", backend.grpc_address().unwrap()).into();
                let mut config: OtlpGrpcConfig = serde_json::from_value(config).unwrap();
                config.auth = auth();
                otlp_grpc("otlp", &config, tally()).unwrap()
            }
            Door::Http => {
                config["endpoint"] = format!("http://{}", backend.http_address().unwrap()).into();
                let mut config: OtlpHttpConfig = serde_json::from_value(config).unwrap();
                config.auth = auth();
                otlp_http("otlphttp", &config, tally()).unwrap()
            }
        };
        let status = exporter.consume(span(1)).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (Code::Unauthenticated, "no tenant"));
        let mut request = span(1);
        let headers = vec![("x-tenant".to_owned(), "shop".into())];
        request.metadata = Some(Arc::new(Metadata { headers, ..Metadata::default() }));
        exporter.consume(request).await.unwrap();
        let metadata = script.seen().last().unwrap().metadata.clone().unwrap();
        assert_eq!(metadata.header("x-scope-orgid").next().unwrap(), "shop");
    }
}

#[tokio::test]
async fn a_secret_is_not_sent_by_grpc_in_the_clear() {
    let mut config = once();
    config["endpoint"] = "http://127.0.0.1:1".into();
    let mut config: OtlpGrpcConfig = serde_json::from_value(config).unwrap();
    let client: Arc<dyn ClientAuth> = Arc::new(Tenant { secret: true });
    config.auth =
        Some(ClientAuthConfig { authenticator: "tenant".to_owned(), client: Some(client) });
    let error = otlp_grpc("otlp", &config, Arc::new(Tally::default())).err().unwrap().to_string();
    assert!(error.contains("the credentials require transport level security"), "{error}");
}

#[tokio::test]
async fn a_proxy_tunnels_what_is_encrypted() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = secured(&script, false).await;
    let port = backend.http_address().unwrap().port();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let asked = Arc::new(std::sync::Mutex::new(String::new()));
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        *told.lock().unwrap() = String::from_utf8(head).unwrap();
        let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    });
    let mut config = once();
    // Where that is, only the proxy knows.
    config["endpoint"] = "https://backend.test:4318".into();
    config["proxy_url"] = format!("http://ada:secret@{proxy}").into();
    config["tls"] = json!({"ca_file": file("ca.pem")});
    let config = serde_json::from_value(config).unwrap();
    let exporter = otlp_http("otlphttp", &config, Arc::new(Tally::default())).unwrap();
    exporter.consume(span(1)).await.unwrap();
    let asked = asked.lock().unwrap().clone();
    assert!(asked.starts_with("CONNECT backend.test:4318 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic YWRhOnNlY3JldA==\r\n"), "{asked}");
    assert_eq!(script.seen().len(), 1);
}

#[tokio::test]
async fn a_fanout_refuses_when_one_backend_is_gone() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = receiver(script.clone()).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone: Next = exporter_at(Door::Grpc, nobody, once(), Default::default());
    let fanout = Fanout::of(vec![direct(Door::Grpc, &backend), gone]);
    let status = fanout.consume(span(1)).await.unwrap_err();
    assert_eq!(status.code, Code::Unavailable);
    assert_eq!(script.seen().len(), 1);
}

// === TLS; the certificates are for `localhost` and `backend.test`, signed by `ca.pem` ===

fn file(name: &str) -> String {
    format!("{}/tests/hop/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

async fn secured(script: &Arc<Script>, client_ca: bool) -> Handle {
    let mut tls = json!({"cert_file": file("server.pem"), "key_file": file("server.key")});
    if client_ca {
        tls["client_ca_file"] = file("ca.pem").into();
    }
    let config = json!({"endpoint": "127.0.0.1:0", "tls": tls});
    receiver_with(script.clone(), config.clone(), config).await
}

fn tls_exporter(door: Door, to: &Handle, tls: Value) -> Exporter {
    let mut config = once();
    config["tls"] = tls;
    let tally = Arc::new(Tally::default());
    match door {
        Door::Grpc => {
            let port = to.grpc_address().unwrap().port();
            config["endpoint"] = format!("127.0.0.1:{port}").into();
            otlp_grpc("otlp", &serde_json::from_value(config).unwrap(), tally).unwrap()
        }
        Door::Http => {
            let port = to.http_address().unwrap().port();
            config["endpoint"] = format!("https://127.0.0.1:{port}").into();
            otlp_http("otlphttp", &serde_json::from_value(config).unwrap(), tally).unwrap()
        }
    }
}

#[tokio::test]
async fn tls_by_authority_by_name_and_by_force() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = secured(&script, false).await;
    for door in [Door::Grpc, Door::Http] {
        let good = json!({"ca_file": file("ca.pem"), "server_name_override": "backend.test"});
        tls_exporter(door, &backend, good).consume(span(1)).await.unwrap();
        let forced = json!({"insecure_skip_verify": true});
        tls_exporter(door, &backend, forced).consume(span(2)).await.unwrap();
        let other = json!({"ca_file": file("other.pem"), "server_name_override": "backend.test"});
        let status = tls_exporter(door, &backend, other).consume(span(3)).await.unwrap_err();
        assert!(status.message.contains("certificate"), "{}", status.message);
        let wrong_name = json!({"ca_file": file("ca.pem"), "server_name_override": "evil.test"});
        let status = tls_exporter(door, &backend, wrong_name).consume(span(4)).await.unwrap_err();
        assert!(status.message.contains("certificate"), "{}", status.message);
    }
    assert_eq!(script.seen().len(), 4);
}

/// Guarantees: who speaks TLS to a backend that does not, or the wrong protocol to a port, reads what to change.
#[tokio::test]
async fn the_wrong_port_is_named_with_its_remedy() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let (plain, tls) = (receiver(script.clone()).await, secured(&script, false).await);
    for (door, remedy) in [(Door::Grpc, "tls::insecure: true"), (Door::Http, "write http://")] {
        let forced = json!({"insecure_skip_verify": true});
        let status = tls_exporter(door, &plain, forced).consume(span(1)).await.unwrap_err();
        assert_eq!(status.code, Code::Unavailable);
        assert!(status.message.contains(remedy), "{}", status.message);
    }
    let secured = tls.grpc_address().unwrap();
    let status = exporter_at(Door::Grpc, secured, once(), Default::default())
        .consume(span(1))
        .await
        .unwrap_err();
    assert!(status.message.contains("leave out tls::insecure"), "{}", status.message);
    // It takes HTTP/2 there, but no gRPC.
    let http = plain.http_address().unwrap();
    let exporter = exporter_at(Door::Grpc, http, once(), Default::default());
    let status = exporter.consume(span(1)).await.unwrap_err();
    assert!(status.message.contains("otlp_http"), "{}", status.message);
    let grpc = plain.grpc_address().unwrap();
    let status = exporter_at(Door::Http, grpc, once(), Default::default())
        .consume(span(1))
        .await
        .unwrap_err();
    assert!(status.message.contains("otlp_grpc"), "{}", status.message);
}

#[tokio::test]
async fn mutual_tls_wants_the_clients_certificate() {
    let script = Script::new(|_| Ok(Accepted::default()));
    let backend = secured(&script, true).await;
    for door in [Door::Grpc, Door::Http] {
        let mut tls = json!({"ca_file": file("ca.pem"), "server_name_override": "backend.test"});
        let status = tls_exporter(door, &backend, tls.clone()).consume(span(1)).await.unwrap_err();
        assert_eq!(status.code, Code::Unavailable);
        tls["cert_file"] = file("client.pem").into();
        tls["key_file"] = file("client.key").into();
        tls_exporter(door, &backend, tls).consume(span(2)).await.unwrap();
    }
    assert_eq!(script.seen().len(), 2);
}

#[tokio::test]
async fn certificates_are_read_again_in_time() {
    let clients = std::env::temp_dir().join(format!("tapio-clients-{}.pem", std::process::id()));
    std::fs::copy(file("ca.pem"), &clients).unwrap();
    let script = Script::new(|_| Ok(Accepted::default()));
    let config = json!({"endpoint": "127.0.0.1:0", "tls": {
        "cert_file": file("server.pem"), "key_file": file("server.key"),
        "client_ca_file": clients, "reload_interval": "50ms", "min_version": "1.3"}});
    let backend = receiver_with(script.clone(), config.clone(), config).await;
    let tls = |max: &str| {
        json!({"ca_file": file("ca.pem"), "server_name_override": "backend.test",
            "cert_file": file("client.pem"), "key_file": file("client.key"), "max_version": max})
    };
    for door in [Door::Grpc, Door::Http] {
        tls_exporter(door, &backend, tls("")).consume(span(1)).await.unwrap();
        let status = tls_exporter(door, &backend, tls("1.2")).consume(span(1)).await.unwrap_err();
        assert_eq!(status.code, Code::Unavailable, "TLS 1.2 where 1.3 is wanted");
    }
    // Nonsense changes nothing; another authority does.
    std::fs::write(&clients, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    tls_exporter(Door::Grpc, &backend, tls("")).consume(span(2)).await.unwrap();
    std::fs::copy(file("other.pem"), &clients).unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let status = tls_exporter(Door::Grpc, &backend, tls("")).consume(span(3)).await.unwrap_err();
    assert_eq!(status.code, Code::Unavailable);
    std::fs::remove_file(&clients).unwrap();
    assert_eq!(script.seen().len(), 3);
}

#[tokio::test]
async fn broken_certificates_stop_the_start() {
    let mut config = once();
    config["endpoint"] = "localhost:1".into();
    config["tls"] = json!({"ca_file": "/nonexistent.pem"});
    let error =
        otlp_grpc("otlp", &serde_json::from_value(config).unwrap(), Arc::new(Tally::default()))
            .unwrap_err()
            .to_string();
    assert!(error.starts_with("tls::ca_file: /nonexistent.pem: "), "{error}");
}

/// A body with data and a `grpc-status` trailer, each if there is one.
struct Trailing(Option<Bytes>, Option<&'static str>);

impl http_body::Body for Trailing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.0.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.1.take().map(|code| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            Ok(Frame::trailers(trailers))
        }))
    }
}

/// Guarantees: a connection on which the peer does not even answer to pings is ended, though nobody sends; one
/// whose peer answers stays.
#[tokio::test]
async fn a_peer_that_does_not_answer_to_pings_is_left() {
    let (mute, well) = tokio::join!(kept(true), kept(false));
    assert!((Duration::from_secs(9)..Duration::from_secs(30)).contains(&mute), "after {mute:?}");
    assert_eq!(well, Duration::MAX);
}

/// How long a connection is kept after its first request, up to 25 s, by an exporter that pings after 10 s and
/// waits for 1 s. From the answer on nothing goes through, if the peer is to be mute.
async fn kept(mute: bool) -> Duration {
    let backend = receiver(Script::new(|_| Ok(Accepted::default()))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (listener.local_addr().unwrap(), backend.grpc_address().unwrap());
    let (answered, answer) = tokio::sync::oneshot::channel::<()>();
    let through = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("it ended early"),
            _ = answer => {}
        }
        let began = Instant::now();
        let ended = async {
            if mute {
                let mut heard = vec![0; 4096];
                while near.read(&mut heard).await.is_ok_and(|len| len > 0) {}
            } else {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        };
        timeout(Duration::from_secs(25), ended).await.map_or(Duration::MAX, |()| began.elapsed())
    });
    let mut config = once();
    config["keepalive"] = json!({"time": "10s", "timeout": "1s", "permit_without_stream": true});
    let exporter = exporter_at(Door::Grpc, address, config, Default::default());
    exporter.consume(span(1)).await.unwrap();
    answered.send(()).unwrap();
    through.await.unwrap()
}
