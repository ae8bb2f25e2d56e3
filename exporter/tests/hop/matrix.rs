//! What the backend says is what the sender is told, whatever the two transports.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tapio_proto::{Accepted, Code, Consumer, PartialSuccess, Status, wire::put_len_field};

use crate::support::{DOORS, Door, Script, direct, exporter_at, post, raw_backend, receiver, span};

/// Every code there is but OK.
const CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

#[tokio::test]
async fn grpc_to_grpc_leaves_codes_as_they_are() {
    for code in CODES {
        let backend = receiver(Script::new(move |_| Err(Status::new(code, "no: 100 %")))).await;
        let hop = receiver(direct(Door::Grpc, &backend)).await;
        let status = direct(Door::Grpc, &hop).consume(span(1)).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, "no: 100 %"));
    }
}

/// CONVENTIONS D13: these stay, 502 and 504 become 503, what OTLP does not know becomes 500.
#[tokio::test]
async fn http_to_http_leaves_statuses_as_they_are() {
    for (from, to) in [
        (200, 200),
        (400, 400),
        (401, 401),
        (403, 403),
        (404, 404),
        (429, 429),
        (500, 500),
        (503, 503),
        (502, 503),
        (504, 503),
        (409, 500),
        (418, 500),
    ] {
        let backend = raw_backend(move |_| {
            http::Response::builder()
                .status(from)
                .body(Full::new(Bytes::from_static(b"text")))
                .unwrap()
        })
        .await;
        let config = serde_json::json!({"sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false}});
        let hop = receiver(exporter_at(Door::Http, backend, config, Default::default())).await;
        let (status, ..) = post(hop.http_address().unwrap(), span(1).bytes).await;
        assert_eq!(status.as_u16(), to, "from {from}");
    }
}

/// D11, across the transports.
#[tokio::test]
async fn mixed_hops_map_codes() {
    for (status, code) in [
        (400, Code::InvalidArgument),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::ResourceExhausted),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
        (500, Code::Unknown),
        (418, Code::Unknown),
    ] {
        let backend = raw_backend(move |_| {
            http::Response::builder().status(status).body(Full::new(Bytes::new())).unwrap()
        })
        .await;
        let config = serde_json::json!({"sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false}});
        let hop = receiver(exporter_at(Door::Http, backend, config, Default::default())).await;
        let told = direct(Door::Grpc, &hop).consume(span(1)).await.unwrap_err();
        assert_eq!(told.code, code, "from {status}");
        assert_eq!(told.retry_after.is_some(), status == 429, "429 means later, in gRPC too");
    }
    for code in CODES {
        let backend = receiver(Script::new(move |_| Err(Status::new(code, "no")))).await;
        let hop = receiver(direct(Door::Grpc, &backend)).await;
        let (status, _, body) = post(hop.http_address().unwrap(), span(1).bytes).await;
        assert_eq!(status.as_u16(), code.http(), "{code:?}");
        assert_eq!(Status::decode(&body).unwrap().code, code);
    }
}

#[tokio::test]
async fn bytes_pass_unchanged_through_every_pair_of_doors() {
    for (front, back) in DOORS {
        let script = Script::new(|_| Ok(Accepted::default()));
        let backend = receiver(script.clone()).await;
        let hop = receiver(direct(back, &backend)).await;
        let mut request = span(5);
        let mut bytes = request.bytes.to_vec();
        put_len_field(&mut bytes, 77, b"a field of tomorrow");
        request.bytes = bytes.into();
        direct(front, &hop).consume(request.clone()).await.unwrap();
        assert_eq!(script.seen()[0].bytes, request.bytes, "{front:?} to {back:?}");
    }
}

/// L29
#[tokio::test]
async fn l29_backend_partial_success_reaches_sender() {
    let partial = PartialSuccess { rejected: 7, message: "too old".to_owned() };
    let warning = PartialSuccess { rejected: 0, message: "slow down".to_owned() };
    for (front, back) in DOORS {
        for partial in [&partial, &warning] {
            let answer = Accepted { partial: Some(partial.clone()) };
            let backend = receiver(Script::new({
                let answer = answer.clone();
                move |_| Ok(answer.clone())
            }))
            .await;
            let hop = receiver(direct(back, &backend)).await;
            let told = direct(front, &hop).consume(span(1)).await.unwrap();
            assert_eq!(told, answer, "{front:?} to {back:?}");
        }
    }
}

/// L30
#[tokio::test]
async fn l30_backend_status_and_retry_info_reach_sender() {
    let later = Duration::from_secs(17);
    for (front, back) in DOORS {
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let mut status = Status::new(code, "rate limited");
            status.retry_after = Some(later);
            let backend = receiver(Script::new(move |_| Err(status.clone()))).await;
            let hop = receiver(direct(back, &backend)).await;
            let told = direct(front, &hop).consume(span(1)).await.unwrap_err();
            assert_eq!(
                (told.code, told.message.as_str(), told.retry_after),
                (code, "rate limited", Some(later)),
                "{front:?} to {back:?}"
            );
        }
    }
}

/// Details that we do not know are the backend's business with the sender.
#[tokio::test]
async fn unknown_details_reach_the_sender_byte_for_byte() {
    for (front, back) in DOORS {
        let mut raw = Status::new(Code::PermissionDenied, "tenant").encode().to_vec();
        put_len_field(&mut raw, 3, b"\x0a\x0ctype/Unknown\x12\x03\x01\x02\x03");
        let status =
            Status { raw: raw.clone().into(), ..Status::new(Code::PermissionDenied, "tenant") };
        let backend = receiver(Script::new(move |_| Err(status.clone()))).await;
        let hop = receiver(direct(back, &backend)).await;
        let told = direct(front, &hop).consume(span(1)).await.unwrap_err();
        assert_eq!(told.raw, raw, "{front:?} to {back:?}");
    }
}

/// A Retry-After that only the header has must reach a gRPC sender beside the body's details.
#[tokio::test]
async fn retry_after_of_a_header_joins_the_details_of_the_body() {
    let backend = raw_backend(|_| {
        let body = Status::new(Code::Unavailable, "busy").encode();
        http::Response::builder()
            .status(503)
            .header("content-type", "application/x-protobuf")
            .header("retry-after", "9")
            .body(Full::new(body))
            .unwrap()
    })
    .await;
    let config = serde_json::json!({"sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false}});
    let hop = receiver(exporter_at(Door::Http, backend, config, Default::default())).await;
    let told = direct(Door::Grpc, &hop).consume(span(1)).await.unwrap_err();
    assert_eq!((told.message.as_str(), told.retry_after), ("busy", Some(Duration::from_secs(9))));
}
