//! Keys of the configuration beside sizes and times: TLS, unix sockets, auth, metadata, CORS,
//! headers of answers, compressions, paths, ages of connections.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tapio_proto::{Code, Status, transport::Compression};
use tapio_receiver::{Authenticator, Consumers, Limit, OtlpConfig, OtlpReceiver, Verified};
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};

use crate::support::{Counts, Rig, call, framed, send, spans};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PROTO: (&str, &str) = ("content-type", "application/x-protobuf");

/// Knows everybody who says `let me in`.
struct Password;

impl Authenticator for Password {
    fn authenticate<'a>(&'a self, headers: &'a HeaderMap) -> Verified<'a> {
        Box::pin(async {
            match headers.get("authorization") {
                Some(value) if value == "let me in" => Ok(vec![("username", "ada".to_owned())]),
                Some(_) => Err("invalid credentials".to_owned()),
                None => Err("no basic auth provided".to_owned()),
            }
        })
    }
}

#[tokio::test]
async fn who_is_not_known_is_refused_at_both_doors() {
    let auth = r#"{"auth":{"authenticator":"password"}}"#;
    let http = r#"{"auth":{"authenticator":"password","request_params":["authorization"]}}"#;
    let rig = Rig::with_auth(auth, http, Some(Arc::new(Password))).await;
    for (headers, words) in
        [(vec![], "no basic auth provided"), (vec![("authorization", "x")], "invalid credentials")]
    {
        let answer = call(rig.grpc(), TRACES, &headers, vec![framed(0, &spans(1))]).await;
        assert_eq!((answer.code, answer.message.as_str()), (Code::Unauthenticated, words));
        let headers = [&headers[..], &[PROTO]].concat();
        let (status, _, body) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, vec![spans(1)]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let told = Status::decode(&body).unwrap();
        assert_eq!((told.code, told.message.as_str()), (Code::Unauthenticated, words));
    }
    assert!(rig.seen().is_empty());
    assert_eq!(rig.counts.take_limits(), [Limit::Auth.name(); 4]);

    let headers = [("authorization", "let me in")];
    assert_eq!(call(rig.grpc(), TRACES, &headers, vec![framed(0, &spans(1))]).await.code, Code::Ok);
    let path = "/v1/traces?authorization=let%20me%20in";
    let (status, ..) = send(rig.http(), Method::POST, path, &[PROTO], vec![spans(1)]).await;
    assert_eq!(status, StatusCode::OK);
    for request in rig.seen() {
        let metadata = request.metadata.unwrap();
        assert_eq!(metadata.attribute("username"), Some("ada"));
        assert!(metadata.headers.is_empty(), "nobody asked for headers");
    }
}

#[tokio::test]
async fn an_authenticator_that_does_not_run_stops_the_start() {
    let config: OtlpConfig = serde_json::from_value(json!({"protocols": {"grpc": {
        "endpoint": "127.0.0.1:0", "auth": {"authenticator": "basicauth/x"}}}}))
    .unwrap();
    let observer = Arc::new(Counts::default());
    let error = OtlpReceiver::start(&config, Consumers::default(), observer).await.unwrap_err();
    assert!(
        error.to_string().contains("failed to resolve authenticator \"basicauth/x\""),
        "{error}"
    );
}

#[tokio::test]
async fn metadata_is_kept_only_when_asked_for() {
    for (key, kept) in [("{}", false), (r#"{"include_metadata":true}"#, true)] {
        let rig = Rig::with(key, key).await;
        let headers = [("x-scope-orgid", "shop")];
        call(rig.grpc(), TRACES, &headers, vec![framed(0, &spans(1))]).await;
        let headers = [("x-scope-orgid", "shop"), PROTO];
        send(rig.http(), Method::POST, "/v1/traces", &headers, vec![spans(1)]).await;
        let seen = rig.seen();
        assert_eq!(seen.len(), 2);
        for request in seen {
            assert_eq!(request.metadata.is_some(), kept);
            if let Some(metadata) = request.metadata {
                let values: Vec<_> = metadata.header("X-Scope-OrgID").collect();
                assert_eq!(values, [&Bytes::from_static(b"shop")]);
                assert!(metadata.peer.unwrap().is_loopback());
            }
        }
    }
}

#[tokio::test]
async fn a_unix_socket_serves_both_protocols() {
    let folder = std::env::temp_dir();
    let path = |name: &str| folder.join(format!("tapio-{name}-{}.sock", std::process::id()));
    let (grpc, http) = (path("grpc"), path("http"));
    let config: OtlpConfig = serde_json::from_value(json!({"protocols": {
        "grpc": {"transport": "unix", "endpoint": grpc},
        "http": {"transport": "unix", "endpoint": http}}}))
    .unwrap();
    let rig = Rig::start().await;
    let consumers = Consumers::all(&(Arc::clone(&rig.pipeline) as _));
    let observer = Arc::new(Counts::default());
    let handle = OtlpReceiver::start(&config, consumers, observer).await.unwrap();
    assert!(handle.grpc_address().is_none());

    let io = TokioIo::new(UnixStream::connect(&grpc).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost{TRACES}"))
        .header("content-type", "application/grpc")
        .body(Full::new(framed(0, &spans(1))))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");

    let io = TokioIo::new(UnixStream::connect(&http).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/v1/traces").header("host", "x").header(PROTO.0, PROTO.1);
    let answer = sender.send_request(request.body(Full::new(spans(1))).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(rig.seen().len(), 2);
    drop(sender);
    handle.shutdown(Duration::from_secs(2)).await;
    assert!(!grpc.exists() && !http.exists(), "the sockets' files are still there");
}

#[tokio::test]
async fn http_keys_of_the_collector() {
    let rig = Rig::with(
        "{}",
        r#"{"traces_url_path":"own/traces","response_headers":{"X-Answered-By":"hop"},
            "compression_algorithms":["","gzip"],
            "cors":{"allowed_origins":["https://*.example.com"],"exposed_headers":["x-answered-by"]}}"#,
    )
    .await;
    let origin = ("origin", "https://shop.example.com");
    let (status, headers, _) =
        send(rig.http(), Method::POST, "/own/traces", &[PROTO, origin], vec![spans(1)]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["x-answered-by"], "hop");
    assert_eq!(headers["access-control-allow-origin"], origin.1);
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-expose-headers"], "x-answered-by");
    let packed = Compression::Zstd.compress(&spans(1), None).unwrap();
    let zstd = [PROTO, ("content-encoding", "zstd")];
    let (status, headers, body) =
        send(rig.http(), Method::POST, "/own/traces", &zstd, vec![packed]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(Status::decode(&body).unwrap().message, "unsupported Content-Encoding: zstd");
    assert_eq!(headers["x-answered-by"], "hop");
}

#[tokio::test]
async fn idle_and_old_connections_are_asked_to_go() {
    for keepalive in [
        r#"{"max_connection_idle":"200ms"}"#,
        r#"{"max_connection_age":"200ms","max_connection_age_grace":"100ms"}"#,
    ] {
        let rig =
            Rig::with(&format!(r#"{{"keepalive":{{"server_parameters":{keepalive}}}}}"#), "{}")
                .await;
        let io = TokioIo::new(tokio::net::TcpStream::connect(rig.grpc()).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let ended = tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost{TRACES}"))
            .header("content-type", "application/grpc")
            .body(Full::new(framed(0, &spans(1))))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        drop(answer);
        timeout(Duration::from_secs(5), ended).await.expect(keepalive).unwrap().ok();
    }
    let rig = Rig::with("{}", r#"{"idle_timeout":"200ms"}"#).await;
    let mut stream = tokio::net::TcpStream::connect(rig.http()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
}

#[tokio::test]
async fn tls_that_cannot_work_stops_the_start() {
    for (tls, words) in [
        (json!({}), "protocols::grpc::tls: tls: cert_file or cert_pem is needed"),
        (json!({"cert_file": "/nonexistent.pem", "key_file": "/x"}), "/nonexistent.pem: "),
        (json!({"cert_file": "a", "cert_pem": "b"}), "provide either certificate file or PEM"),
    ] {
        let config: OtlpConfig = serde_json::from_value(
            json!({"protocols": {"grpc": {"endpoint": "127.0.0.1:0", "tls": tls}}}),
        )
        .unwrap();
        let observer = Arc::new(Counts::default());
        let error = OtlpReceiver::start(&config, Consumers::default(), observer).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
