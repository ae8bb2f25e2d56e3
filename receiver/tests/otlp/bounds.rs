//! What a receiver does not let happen: waiting for ever, dropping a request while it stops.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use tapio_proto::Code;
use tapio_receiver::{Consumers, OtlpConfig, OtlpReceiver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Counts, Rig, call, framed, send, spans};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let rig = Rig::with("{}", r#"{"read_timeout":"200ms"}"#).await;
    let mut stream = TcpStream::connect(rig.http()).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 1000\r\n\r\nabc";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let n = timeout(Duration::from_secs(5), stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let rig = Rig::with("{}", r#"{"read_header_timeout":"200ms"}"#).await;
    let mut stream = TcpStream::connect(rig.http()).await.unwrap();
    stream.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn garbage_on_the_wire_only_ends_its_connection() {
    let rig = Rig::with("{}", r#"{"read_header_timeout":"1s"}"#).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 1000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        for address in [rig.grpc(), rig.http()] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            let mut answer = Vec::new();
            let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{garbage:?}");
        }
    }
    let answer = call(rig.grpc(), TRACES, &[], vec![framed(0, &spans(1))]).await;
    assert_eq!(answer.code, Code::Ok);
    let headers = [("content-type", "application/x-protobuf")];
    let (status, ..) = send(rig.http(), Method::POST, "/v1/traces", &headers, vec![spans(1)]).await;
    assert_eq!(status, StatusCode::OK);
}

/// Random bytes, and good requests with random bytes changed, under every encoding: each gets an
/// answer, and nothing that `check` would not pass reaches the pipeline.
#[tokio::test]
async fn whatever_comes_is_answered() {
    let rig = Rig::start().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good = spans(5);
    for round in 0..200 {
        let mut body = match round % 2 {
            0 => (0..random() % 200).map(|_| random() as u8).collect(),
            _ => good.to_vec(),
        };
        for _ in 0..3 {
            if let Some(at) = (random() as usize).checked_rem(body.len()) {
                body[at] = random() as u8;
            }
        }
        let content_type = ["application/x-protobuf", "application/json"][round / 2 % 2];
        let encoding = ["", "gzip", "zstd", "deflate"][round / 4 % 4];
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        let (status, ..) =
            send(rig.http(), Method::POST, "/v1/traces", &headers, vec![body.clone().into()]).await;
        assert!(matches!(status.as_u16(), 200 | 400), "round {round}: {status}");
        let headers = [("grpc-encoding", encoding)];
        let flag = (random() % 3) as u8;
        let answer = call(rig.grpc(), TRACES, &headers, vec![framed(flag, &body)]).await;
        let allowed = [Code::Ok, Code::InvalidArgument, Code::Internal, Code::Unimplemented];
        assert!(allowed.contains(&answer.code), "round {round}: {answer:?}");
    }
    for request in rig.seen() {
        assert_eq!(tapio_proto::check(request.signal, &request.bytes).unwrap(), request.items);
    }
}

#[tokio::test]
async fn requests_under_way_finish_while_it_stops() {
    let rig = Rig::start().await;
    *rig.pipeline.delay.lock().unwrap() = Duration::from_millis(300);
    let (grpc, http) = (rig.grpc(), rig.http());
    let by_grpc =
        tokio::spawn(async move { call(grpc, TRACES, &[], vec![framed(0, &spans(1))]).await });
    let by_http = tokio::spawn(async move {
        let headers = [("content-type", "application/x-protobuf")];
        send(http, Method::POST, "/v1/traces", &headers, vec![spans(1)]).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.handle.shutdown(Duration::from_secs(5)).await, 0);
    assert_eq!(by_grpc.await.unwrap().code, Code::Ok);
    assert_eq!(by_http.await.unwrap().0, StatusCode::OK);
    assert!(TcpStream::connect(grpc).await.is_err());
    assert!(TcpStream::connect(http).await.is_err());
}

#[tokio::test]
async fn stopping_is_limited() {
    let rig = Rig::start().await;
    let http = rig.http();
    let cut = tokio::spawn(async move {
        let mut stream = TcpStream::connect(http).await.unwrap();
        let body = spans(1);
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len() + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.handle.shutdown(Duration::from_millis(100)).await, 1);
    timeout(Duration::from_secs(5), cut).await.expect("the connection was cut").unwrap().ok();
}

/// Guarantees: a request that is still in a pipeline when a stopping receiver's time is up is answered, in its
/// protocol, with the word to come again; its connection is not cut.
#[tokio::test]
async fn requests_whose_time_is_up_are_told_to_come_again() {
    let rig = Rig::start().await;
    *rig.pipeline.delay.lock().unwrap() = Duration::from_secs(60);
    let (grpc, http) = (rig.grpc(), rig.http());
    let by_grpc =
        tokio::spawn(async move { call(grpc, TRACES, &[], vec![framed(0, &spans(1))]).await });
    let by_http = tokio::spawn(async move {
        let headers = [("content-type", "application/x-protobuf")];
        send(http, Method::POST, "/v1/traces", &headers, vec![spans(1)]).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.handle.shutdown(Duration::from_millis(100)).await, 0);
    let told = by_grpc.await.unwrap();
    assert_eq!(told.code, Code::Unavailable);
    assert_eq!(told.details.unwrap().retry_after, Some(Duration::from_secs(1)));
    let (status, headers, _) = by_http.await.unwrap();
    assert_eq!(
        (status, &headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let rig = Rig::start().await;
    let endpoint = rig.grpc().to_string();
    let config: OtlpConfig =
        serde_json::from_value(serde_json::json!({"protocols": {"grpc": {"endpoint": endpoint}}}))
            .unwrap();
    let observer = Arc::new(Counts::default());
    let error = OtlpReceiver::start(&config, Consumers::default(), observer).await.unwrap_err();
    let expected =
        format!("protocols::grpc::endpoint: listen tcp {endpoint}: bind: address already in use");
    assert_eq!(error.to_string(), expected);
}
