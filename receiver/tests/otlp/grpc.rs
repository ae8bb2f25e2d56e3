//! OTLP/gRPC.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use tapio_proto::{
    Accepted, Code, PartialSuccess, Signal, Status, decode_response, transport::Compression,
};
use tapio_receiver::{Transport, Verdict};

use crate::support::{Rig, call, framed, send, spans};

const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[tokio::test]
async fn every_signal_reaches_its_pipeline_byte_for_byte() {
    let rig = Rig::start().await;
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        // An empty resource with an unknown field: valid in every signal.
        let body = Bytes::from_static(&[0x0a, 0x03, 0xa2, 0x06, 0x00]);
        let answer = call(rig.grpc(), signal.grpc_path(), &[], vec![framed(0, &body)]).await;
        assert_eq!(answer.code, Code::Ok, "{signal:?}: {}", answer.message);
        assert!(decode_response(&answer.body[5..]).unwrap().partial.is_none());
        let seen = rig.seen();
        assert_eq!((seen[0].signal, &seen[0].bytes), (signal, &body));
    }
}

#[tokio::test]
async fn items_are_counted_and_observed() {
    let rig = Rig::start().await;
    call(rig.grpc(), TRACES, &[], vec![framed(0, &spans(3))]).await;
    assert_eq!(rig.seen()[0].items, 3);
    rig.answer(Err(Status::new(Code::Unavailable, "gone")));
    call(rig.grpc(), TRACES, &[], vec![framed(0, &spans(2))]).await;
    call(rig.grpc(), TRACES, &[], vec![framed(0, &[0xff])]).await;
    let counted = [(Verdict::Accepted, 3), (Verdict::Refused, 2), (Verdict::Malformed, 0)];
    let counted = counted.map(|(verdict, n)| (Signal::Traces, Transport::Grpc, verdict, n));
    assert_eq!(rig.counts.take(), counted);
}

#[tokio::test]
async fn a_message_may_come_in_any_pieces() {
    let rig = Rig::start().await;
    let body = spans(500);
    let whole = framed(0, &body);
    for size in [1, 3, 5, 7, 4096] {
        let pieces = if size == 1 { whole.slice(..60) } else { whole.clone() };
        let mut pieces: Vec<_> = pieces.chunks(size).map(Bytes::copy_from_slice).collect();
        if size == 1 {
            pieces.push(whole.slice(60..));
        }
        let answer = call(rig.grpc(), TRACES, &[], pieces).await;
        assert_eq!(answer.code, Code::Ok, "{}", answer.message);
        assert_eq!(rig.seen()[0].bytes, body);
    }
}

#[tokio::test]
async fn compressed_messages() {
    let rig = Rig::start().await;
    let body = spans(100);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::SnappyFramed] {
        let packed = compression.compress(&body, None).unwrap();
        let headers = [("grpc-encoding", compression.grpc_name())];
        let answer = call(rig.grpc(), TRACES, &headers, vec![framed(1, &packed)]).await;
        assert_eq!(answer.code, Code::Ok, "{}", answer.message);
        assert_eq!(rig.seen()[0].bytes, body);
        // The flag decides, not the header.
        let answer = call(rig.grpc(), TRACES, &headers, vec![framed(0, &body)]).await;
        assert_eq!(answer.code, Code::Ok, "{}", answer.message);
        assert_eq!(rig.seen()[0].bytes, body);
    }
}

#[tokio::test]
async fn bad_frames_are_refused_and_change_nothing() {
    let rig = Rig::start().await;
    let body = spans(3);
    let gzip = [("grpc-encoding", "gzip")];
    let brotli = [("grpc-encoding", "br")];
    let mut two = framed(0, &body).to_vec();
    two.extend_from_slice(&framed(0, &body));
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<Bytes>, Code, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (&[], vec![], Code::InvalidArgument, "no message"),
        (&[], vec![Bytes::from_static(&[0, 0])], Code::InvalidArgument, "unexpected EOF"),
        (&[], vec![framed(0, &body).slice(..20)], Code::InvalidArgument, "unexpected EOF"),
        (&[], vec![two.into()], Code::InvalidArgument, "more than one message"),
        (&[], vec![framed(1, &body)], Code::Internal, "compressed flag set"),
        (&[], vec![framed(7, &body)], Code::Internal, "unexpected payload format"),
        (&gzip, vec![framed(1, &body)], Code::InvalidArgument, "gzip"),
        (&brotli, vec![framed(1, &body)], Code::Unimplemented, "br"),
        (&[], vec![framed(0, &body[..body.len() - 1])], Code::InvalidArgument, ""),
        (&[("grpc-timeout", "soon")], vec![framed(0, &body)], Code::Internal, "grpc-timeout"),
    ];
    for (headers, pieces, code, words) in cases {
        let answer = call(rig.grpc(), TRACES, headers, pieces).await;
        assert_eq!(answer.code, code, "{words}: {}", answer.message);
        assert!(answer.message.contains(words), "{words}: {}", answer.message);
    }
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn an_empty_message_is_acknowledged_at_the_door() {
    let rig = Rig::start().await;
    let answer = call(rig.grpc(), TRACES, &[], vec![framed(0, &[])]).await;
    assert_eq!(answer.code, Code::Ok);
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn sizes_are_limited_before_and_after_decompression() {
    let rig = Rig::with(r#"{"max_recv_msg_size_mib":1}"#, "{}").await;
    let body = vec![0u8; (1 << 20) + 1];
    let answer = call(rig.grpc(), TRACES, &[], vec![framed(0, &body)]).await;
    assert_eq!(answer.code, Code::ResourceExhausted);
    assert_eq!(answer.message, "grpc: received message larger than max (1048577 vs. 1048576)");
    assert!(answer.details.is_none(), "no RetryInfo: it must not be tried again");
    let bomb = Compression::Gzip.compress(&vec![0u8; 64 << 20].into(), None).unwrap();
    assert!(bomb.len() < 1 << 20);
    let headers = [("grpc-encoding", "gzip")];
    let answer = call(rig.grpc(), TRACES, &headers, vec![framed(1, &bomb)]).await;
    assert_eq!(answer.code, Code::ResourceExhausted);
}

#[tokio::test]
async fn what_nobody_looks_into_passes_as_it_came() {
    let rig = Rig::with(r#"{"max_recv_msg_size_mib":1}"#, "{}").await;
    let message = spans(2);
    let gzip = Compression::Gzip.compress(&message, None).unwrap();
    let zstd = Compression::Zstd.compress(&message, None).unwrap();
    let broken = Bytes::from_static(b"no gzip");
    let export = async |encoding, body: &Bytes| {
        call(rig.grpc(), TRACES, &[("grpc-encoding", encoding)], vec![framed(1, body)]).await.code
    };
    // Each of them is enough for it to be opened: somebody counts, or looks.
    for (blind, closed) in [(false, Some(Compression::Gzip)), (true, None)] {
        rig.counts.2.store(blind, Relaxed);
        *rig.pipeline.closed.lock().unwrap() = closed;
        assert_eq!(export("gzip", &broken).await, Code::InvalidArgument);
        assert_eq!(export("gzip", &gzip).await, Code::Ok);
        assert_eq!(rig.seen()[0].items, 2);
    }
    *rig.pipeline.closed.lock().unwrap() = Some(Compression::Gzip);
    assert_eq!(export("zstd", &zstd).await, Code::Ok);
    assert_eq!((rig.seen()[0].items, rig.counts.take().len()), (2, 5));
    let large = Bytes::from(vec![0; 1 << 20 | 1]);
    assert_eq!(export("gzip", &large).await, Code::ResourceExhausted);
    for body in [&gzip, &broken] {
        assert_eq!(export("gzip", body).await, Code::Ok);
        let head = [("content-encoding", "gzip"), ("content-type", "application/x-protobuf")];
        let pieces = vec![body.clone()];
        let (status, _, _) = send(rig.http(), Method::POST, "/v1/traces", &head, pieces).await;
        assert_eq!(status, StatusCode::OK);
        let seen = rig.seen();
        assert_eq!(seen.len(), 2);
        for request in seen {
            assert_eq!(request.is_closed(), Some(Compression::Gzip));
            assert_eq!(request.compressed(Compression::Gzip), Some(body));
        }
    }
    // Nothing, compressed, is still nothing where it is opened.
    rig.counts.2.store(false, Relaxed);
    let nothing = Compression::Gzip.compress(&Bytes::new(), None).unwrap();
    assert_eq!(export("gzip", &nothing).await, Code::Ok);
    assert!(rig.seen().is_empty());
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let rig = Rig::start().await;
    for path in [Signal::Profiles.grpc_path(), "/grpc.health.v1.Health/Check", "/"] {
        let answer = call(rig.grpc(), path, &[], vec![framed(0, &spans(1))]).await;
        assert_eq!(answer.code, Code::Unimplemented, "{path}");
        let words = if path == "/" { "malformed method name" } else { "unknown service" };
        assert!(answer.message.starts_with(words), "{}", answer.message);
    }
}

#[tokio::test]
async fn the_pipelines_answer_is_the_senders() {
    let rig = Rig::start().await;
    let mut status = Status::new(Code::ResourceExhausted, "genug für heute: 100 %");
    status.retry_after = Some(Duration::from_millis(1500));
    rig.answer(Err(status.clone()));
    let answer = call(rig.grpc(), TRACES, &[], vec![framed(0, &spans(1))]).await;
    assert_eq!((answer.code, answer.message), (status.code, status.message));
    assert_eq!(answer.details.unwrap().retry_after, status.retry_after);

    let partial = Some(PartialSuccess { rejected: 7, message: "too old".to_owned() });
    rig.answer(Ok(Accepted { partial: partial.clone() }));
    let answer = call(rig.grpc(), TRACES, &[], vec![framed(0, &spans(1))]).await;
    assert_eq!(answer.code, Code::Ok);
    assert_eq!(decode_response(&answer.body[5..]).unwrap().partial, partial);
}

#[tokio::test]
async fn the_senders_deadline_is_kept() {
    let rig = Rig::start().await;
    *rig.pipeline.delay.lock().unwrap() = Duration::from_secs(60);
    let headers = [("grpc-timeout", "50m")];
    let answer = call(rig.grpc(), TRACES, &headers, vec![framed(0, &spans(1))]).await;
    assert_eq!(answer.code, Code::DeadlineExceeded);
    assert_eq!(rig.counts.take(), [(Signal::Traces, Transport::Grpc, Verdict::Refused, 1)]);
}
