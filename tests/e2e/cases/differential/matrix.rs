//! The hop matrix: what a backend says, in each of the four pairings of doors, as the sender hears it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Group, Ports, Twin, both, facets, grpc::of_reply, http::of_answer, pair};
use crate::e2e::{
    backend::Answer,
    client::{self, Grpc},
    program::block_on,
    runner::Skipped,
    wire::{Message, Signal, record, request},
};

/// Traces go on by gRPC, logs by HTTP; neither is queued or tried again.
fn hop(ports: &Ports) -> Value {
    let direct = |scheme: &str| {
        json!({
            "endpoint": format!("{scheme}127.0.0.1:{}", ports.backend), "compression": "none",
            "tls": {"insecure": true},
            "sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false},
        })
    };
    json!({
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": format!("127.0.0.1:{}", ports.grpc)},
            "http": {"endpoint": format!("127.0.0.1:{}", ports.http)},
        }}},
        "exporters": {"otlp_grpc": direct(""), "otlp_http": direct("http://")},
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
            "traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]},
            "logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
        }},
    })
}

/// A `google.rpc.Status` with these details.
fn status(code: u64, message: &str, details: &[(&str, Message)]) -> Vec<u8> {
    let start = Message::new().varint(1, code).bytes(2, message);
    details
        .iter()
        .fold(start, |status, (kind, detail)| {
            let url = format!("type.googleapis.com/google.rpc.{kind}");
            status.message(3, Message::new().bytes(1, url).bytes(2, detail.0.clone()))
        })
        .0
}

fn retry_info(seconds: u64, nanos: u64) -> (&'static str, Message) {
    ("RetryInfo", Message::new().message(1, Message::new().varint(1, seconds).varint(2, nanos)))
}

fn partial(rejected: u64, message: &str) -> Vec<u8> {
    let partial = Message::new();
    let partial = if rejected > 0 { partial.varint(1, rejected) } else { partial };
    let partial = if message.is_empty() { partial } else { partial.bytes(2, message) };
    Message::new().message(1, partial).0
}

/// What a backend says over gRPC.
fn grpc_answers() -> Vec<(String, Answer)> {
    let mut all = vec![("ok".to_owned(), Answer::default())];
    for code in 1..=16 {
        let text = "so it is";
        all.push((format!("code_{code}"), Answer::grpc(code, text, None)));
        let details = status(code as u64, text, &[retry_info(7, 0)]);
        all.push((format!("code_{code}_retry"), Answer::grpc(code, text, Some(&details))));
    }
    let other = ("BadRequest", Message::new().message(1, Message::new().bytes(1, "field")));
    for (name, details) in [
        ("half_a_second", status(8, "x", &[retry_info(0, 500_000_000)])),
        ("other_details", status(3, "x", std::slice::from_ref(&other))),
        ("both_details", status(14, "x", &[other, retry_info(3, 1)])),
        ("no_details", status(14, "x", &[])),
    ] {
        let code = i32::from(details[1]);
        all.push((name.to_owned(), Answer::grpc(code, "x", Some(&details))));
    }
    all.push(("code_99".to_owned(), Answer::grpc(99, "x", None)));
    all.push(("message_escaped".to_owned(), Answer::grpc(3, "na%C3%AFve 100%25", None)));
    all.push(("message_none".to_owned(), Answer::grpc(13, "", None)));
    for http in [400, 401, 403, 404, 429, 500, 502, 503, 504] {
        let text = [("content-type", "text/plain")];
        all.push((format!("http_{http}"), Answer::http(http, &text, "no gRPC here")));
    }
    all
}

/// What a backend says over HTTP.
fn http_answers() -> Vec<(String, Answer)> {
    let proto = ("content-type", "application/x-protobuf");
    let json = ("content-type", "application/json");
    let text = ("content-type", "text/plain");
    let mut all = vec![("ok".to_owned(), Answer::default())];
    for http in [200, 201, 202, 204] {
        all.push((format!("{http}"), Answer::http(http, &[proto], Bytes::new())));
    }
    for http in
        [301, 400, 401, 403, 404, 405, 408, 409, 413, 418, 429, 499, 500, 501, 502, 503, 504, 599]
    {
        all.push((format!("{http}"), Answer::http(http, &[text], "so it is")));
        let wait = [text, ("retry-after", "7")];
        all.push((format!("{http}_retry"), Answer::http(http, &wait, Bytes::new())));
    }
    for (http, code) in [
        (400, 3),
        (401, 16),
        (403, 7),
        (404, 5),
        (404, 12),
        (429, 8),
        (500, 13),
        (500, 2),
        (503, 14),
        (503, 4),
        (503, 10),
    ] {
        let body = status(code, "told in full", &[]);
        all.push((format!("{http}_status_{code}"), Answer::http(http, &[proto], body)));
        let body = status(code, "told in full", &[retry_info(9, 0)]);
        all.push((format!("{http}_status_{code}_retry"), Answer::http(http, &[proto], body)));
    }
    all.push((
        "503_json".to_owned(),
        Answer::http(503, &[json], r#"{"code":14,"message":"in JSON"}"#),
    ));
    all.push((
        "400_json".to_owned(),
        Answer::http(400, &[json], r#"{"code":3,"message":"in JSON"}"#),
    ));
    all.push((
        "503_retry_date".to_owned(),
        Answer::http(503, &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Bytes::new()),
    ));
    all.push((
        "503_retry_nonsense".to_owned(),
        Answer::http(503, &[("retry-after", "soon")], Bytes::new()),
    ));
    all.push(("200_text".to_owned(), Answer::http(200, &[text], "fine")));
    all.push(("200_garbage".to_owned(), Answer::http(200, &[proto], &b"\xff\xff"[..])));
    all
}

fn successes() -> Vec<(String, Answer)> {
    [
        ("partial", partial(2, "two were bad")),
        ("partial_all", partial(3, "all were bad")),
        ("warning", partial(0, "mind this")),
        ("nothing_rejected", partial(0, "")),
    ]
    .into_iter()
    .map(|(name, body)| (name.to_owned(), Answer::taken(&body)))
    .collect()
}

/// Guarantees: in each pairing of doors the sender hears of the backend's status, its wait, its details
/// and what it rejected what a Collector would have told.
pub(crate) fn matrix() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("matrix", hop).await?;
        let mut group = Group::new();
        for (way, signal, answers) in
            [("grpc", Signal::Traces, grpc_answers()), ("http", Signal::Logs, http_answers())]
        {
            for (name, answer) in answers.into_iter().chain(successes()) {
                twins.iter().for_each(|twin| twin.inbox.answer(answer.clone()));
                let body = request((0..3).map(|n| record(signal, n)));
                let by_grpc = both(&twins, async |twin: &Twin| {
                    let mut grpc = Grpc::connect(twin.ports.grpc).await.expect("it listens");
                    let reply = grpc.export(signal, body.clone()).await.expect("an answer");
                    twin.inbox.take();
                    of_reply(&reply)
                });
                group.case(&format!("matrix/grpc_to_{way}/{name}"), &facets(by_grpc.await));
                let by_http = both(&twins, async |twin: &Twin| {
                    let reply = client::post(twin.ports.http, signal, body.clone()).await;
                    let reply = reply.expect("an answer");
                    twin.inbox.take();
                    of_answer(twin, reply.status, &reply.headers, &reply.body)
                });
                group.case(&format!("matrix/http_to_{way}/{name}"), &facets(by_http.await));
            }
        }
        group.end();
        Ok(())
    })
}
