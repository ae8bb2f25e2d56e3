//! OTLP/HTTP, protobuf and JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tapio_proto::{
    Accepted, Code, PartialSuccess, Signal, Status, decode_response, transport::Compression,
};
use tapio_receiver::{Transport, Verdict};

use crate::support::{Rig, send, spans};

const PROTO: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn protobuf_in_one_piece_or_chunked() {
    let rig = Rig::start().await;
    let body = spans(1000);
    for pieces in [vec![body.clone()], body.chunks(777).map(Bytes::copy_from_slice).collect()] {
        let (status, headers, answer) =
            send(rig.http(), Method::POST, "/v1/traces", &[PROTO], pieces).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], PROTO.1);
        assert!(decode_response(&answer).unwrap().partial.is_none());
        let seen = rig.seen();
        assert_eq!((&seen[0].bytes, seen[0].items), (&body, 1000));
    }
}

#[tokio::test]
async fn json_becomes_protobuf_at_the_door() {
    let rig = Rig::start().await;
    let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"07070707070707070707070707070707","spanId":"0000000000000001","name":"GET /cart"}]}]}]}"#;
    let (status, headers, answer) =
        send(rig.http(), Method::POST, "/v1/traces", &[JSON], vec![json.into()]).await;
    assert_eq!((status, &answer[..]), (StatusCode::OK, &br#"{"partialSuccess":{}}"#[..]));
    assert_eq!(headers["content-type"], JSON.1);
    assert_eq!(rig.seen()[0].bytes, spans(1));
}

#[tokio::test]
async fn content_types_are_mime() {
    let rig = Rig::start().await;
    for value in ["application/x-protobuf; charset=utf-8", "Application/X-Protobuf"] {
        let headers = [("content-type", value)];
        let (status, ..) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, vec![spans(1)]).await;
        assert_eq!(status, StatusCode::OK, "{value}");
    }
}

#[tokio::test]
async fn encodings_of_the_body() {
    let rig = Rig::start().await;
    let body = spans(50);
    let packed = |compression: Compression| compression.compress(&body, None).unwrap();
    for (name, packed) in [
        ("gzip", packed(Compression::Gzip)),
        ("zstd", packed(Compression::Zstd)),
        ("deflate", packed(Compression::Zlib)),
        ("zlib", packed(Compression::Zlib)),
        ("snappy", packed(Compression::Snappy)),
        ("x-snappy-framed", packed(Compression::SnappyFramed)),
        ("lz4", packed(Compression::Lz4)),
        ("identity", body.clone()),
    ] {
        let headers = [PROTO, ("content-encoding", name)];
        let (status, ..) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, vec![packed]).await;
        assert_eq!(status, StatusCode::OK, "{name}");
        assert_eq!(rig.seen()[0].bytes, body);
    }
}

#[tokio::test]
async fn the_collectors_table_of_answers() {
    let rig = Rig::start().await;
    let unsupported =
        "415 unsupported media type, supported: [application/json, application/x-protobuf]";
    let not_allowed = "405 method not allowed, supported: [POST]";
    let body = spans(1);
    for (method, path, headers, code, text) in [
        (Method::POST, "/v1/traces", vec![("content-type", "text/plain")], 415, unsupported),
        (Method::POST, "/v1/traces", vec![], 415, unsupported),
        (Method::GET, "/v1/traces", vec![], 405, not_allowed),
        (Method::PUT, "/v1/logs", vec![PROTO], 405, not_allowed),
        (Method::POST, "/v1/nothing", vec![PROTO], 404, "404 page not found\n"),
        (Method::POST, "/v1development/profiles", vec![PROTO], 404, "404 page not found\n"),
    ] {
        let (status, answer_headers, answer) =
            send(rig.http(), method, path, &headers, vec![body.clone()]).await;
        assert_eq!((status.as_u16(), std::str::from_utf8(&answer).unwrap()), (code, text));
        let kind = if code == 404 { "text/plain; charset=utf-8" } else { "text/plain" };
        assert_eq!(answer_headers["content-type"], kind);
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn malformed_bodies_are_400_in_the_requests_encoding() {
    let rig = Rig::start().await;
    let gzip = ("content-encoding", "gzip");
    let brotli = ("content-encoding", "br");
    for (headers, body, words) in [
        (vec![PROTO], spans(1).slice(..30), ""),
        (vec![PROTO, gzip], spans(1), "gzip"),
        (vec![PROTO, brotli], spans(1), "unsupported Content-Encoding: br"),
        (vec![JSON], Bytes::from_static(b"{bad"), ""),
        (vec![JSON], Bytes::from_static(b"{\"resourceSpans\":[{"), ""),
    ] {
        let (status, answer_headers, answer) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, vec![body]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{headers:?}");
        assert_eq!(answer_headers["content-type"], headers[0].1);
        if headers[0] == PROTO {
            let told = Status::decode(&answer).unwrap();
            assert_eq!(told.code, Code::InvalidArgument);
            assert!(told.message.contains(words) && !told.message.is_empty(), "{}", told.message);
        } else {
            let told: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(told["code"], 3);
            assert!(!told["message"].as_str().unwrap().is_empty());
        }
        let malformed = (Signal::Traces, Transport::Http, Verdict::Malformed, 0);
        assert_eq!(rig.counts.take(), [malformed]);
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let rig = Rig::with("{}", r#"{"max_request_body_size":100000}"#).await;
    let big = Bytes::from(vec![0u8; 100_001]);
    let bomb = Compression::Gzip.compress(&vec![0u8; 50 << 20].into(), None).unwrap();
    let chunked = vec![big.clone(), Bytes::from_static(b"x")];
    for (headers, pieces) in [
        (vec![PROTO], vec![big]),
        (vec![PROTO], chunked),
        (vec![PROTO, ("content-encoding", "gzip")], vec![bomb]),
    ] {
        let (status, _, answer) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, pieces).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(Status::decode(&answer).unwrap().message.contains("too large"));
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn codes_map_to_http() {
    let rig = Rig::start().await;
    use Code::*;
    for (code, http) in [
        (Cancelled, 503),
        (Unknown, 500),
        (InvalidArgument, 400),
        (DeadlineExceeded, 503),
        (NotFound, 500),
        (AlreadyExists, 500),
        (PermissionDenied, 403),
        (ResourceExhausted, 429),
        (FailedPrecondition, 500),
        (Aborted, 503),
        (OutOfRange, 503),
        (Unimplemented, 404),
        (Internal, 500),
        (Unavailable, 503),
        (DataLoss, 503),
        (Unauthenticated, 401),
    ] {
        rig.answer(Err(Status::new(code, "no")));
        let (status, headers, answer) =
            send(rig.http(), Method::POST, "/v1/traces", &[PROTO], vec![spans(1)]).await;
        assert_eq!(status.as_u16(), http, "{code:?}");
        assert_eq!(Status::decode(&answer).unwrap().code, code);
        assert!(!headers.contains_key("retry-after"));
    }
}

#[tokio::test]
async fn retry_after_in_whole_seconds_for_429_and_503_only() {
    let rig = Rig::start().await;
    for (code, millis, expected) in [
        (Code::Unavailable, 1500, Some("2")),
        (Code::ResourceExhausted, 30_000, Some("30")),
        (Code::InvalidArgument, 1000, None),
    ] {
        let mut status = Status::new(code, "later");
        status.retry_after = Some(Duration::from_millis(millis));
        rig.answer(Err(status));
        let (_, headers, answer) =
            send(rig.http(), Method::POST, "/v1/traces", &[PROTO], vec![spans(1)]).await;
        assert_eq!(headers.get("retry-after").map(|value| value.to_str().unwrap()), expected);
        let told = Status::decode(&answer).unwrap().retry_after;
        assert_eq!(told, Some(Duration::from_millis(millis)));
    }
}

#[tokio::test]
async fn partial_success_is_200_with_the_count() {
    let rig = Rig::start().await;
    let partial = Some(PartialSuccess { rejected: 7, message: "too old".to_owned() });
    rig.answer(Ok(Accepted { partial: partial.clone() }));
    let (status, _, answer) =
        send(rig.http(), Method::POST, "/v1/traces", &[PROTO], vec![spans(1)]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(decode_response(&answer).unwrap().partial, partial);
    let (_, _, answer) = send(
        rig.http(),
        Method::POST,
        "/v1/logs",
        &[JSON],
        vec![r#"{"resourceLogs":[{}]}"#.into()],
    )
    .await;
    let told: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(told["partialSuccess"]["rejectedLogRecords"], "7");
    assert_eq!(told["partialSuccess"]["errorMessage"], "too old");
}

#[tokio::test]
async fn browsers_are_let_in_by_origin() {
    let rig =
        Rig::with("{}", r#"{"cors":{"allowed_origins":["https://*.shop.example"],"max_age":60}}"#)
            .await;
    let preflight = |origin| [("origin", origin), ("access-control-request-method", "POST")];
    let good = preflight("https://www.shop.example");
    let (status, headers, _) =
        send(rig.http(), Method::OPTIONS, "/v1/traces", &good, vec![Bytes::new()]).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(headers["access-control-allow-origin"], "https://www.shop.example");
    assert_eq!(headers["access-control-max-age"], "60");
    let bad = preflight("https://shop.example.evil");
    let (status, headers, _) =
        send(rig.http(), Method::OPTIONS, "/v1/traces", &bad, vec![Bytes::new()]).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(!headers.contains_key("access-control-allow-origin"));
}
