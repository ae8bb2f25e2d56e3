//! What the hop does with the bytes of a request, in ns a span, against decoding them.
//!
//! `cargo bench -p tapio-proto`. Every line is the median of many rounds, and the lines take turns
//! within a round, so that a busy machine slows all of them and the ratios still mean something.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status},
};
use prost::Message;
use tapio_proto::{
    Signal, attr, check,
    columns::{SpanColumns, SpanTold},
    edit::{AttributeList, Editor, Unread, edit_records},
    json,
    splice::{Decision, encode_attributes, splice},
    view::{Record, RequestView, ResourceView, ScopeGroup},
};

/// Spans in a request, as SDKs and agents batch them.
const SPANS: usize = 512;
/// Requests in a round: 64 Ki spans, more than the caches hold.
const REQUESTS: usize = 128;
const ROUNDS: usize = 25;

/// One attribute of each span gets another value, one goes, one comes.
struct Rules;

impl<'a> Editor<'a> for Rules {
    fn resource(&mut self, _: &ResourceView<'a>) -> bool {
        true
    }

    fn scope(&mut self, _: &ScopeGroup<'a>) -> bool {
        true
    }

    fn record(&mut self, _: &Unread<'a>) -> bool {
        true
    }

    fn edit(&mut self, attributes: &mut AttributeList<'a>) {
        attributes.replace("http.request.method", &b"\x0a\x03PUT"[..]);
        attributes.remove(|key| key == "url.path");
        attributes.set("deployment.environment.name", &b"\x0a\x04prod"[..]);
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// A request with one resource of 5 attributes and spans of 6: about 287 B a span.
fn request(number: usize) -> Bytes {
    let spans = (0..SPANS).map(|i| {
        let id = (number * SPANS + i) as u64 + 1;
        let id = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Span {
            trace_id: [id.to_be_bytes(), id.rotate_left(17).to_be_bytes()].concat(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: id.rotate_left(7).to_be_bytes().to_vec(),
            flags: 0x101,
            name: format!("GET /api/v1/items/{}", i % 17),
            kind: 2 + (i % 2) as i32,
            start_time_unix_nano: 1_780_000_000_000_000_000 + id % 1_000_000_000,
            end_time_unix_nano: 1_780_000_001_000_000_000 + id % 1_000_000_000,
            attributes: vec![
                text("http.request.method", "GET"),
                text("url.path", "/api/v1/items"),
                attribute(
                    "http.response.status_code",
                    Value::IntValue(200 + 300 * i64::from(i % 50 == 0)),
                ),
                text("server.address", "catalogue.shop.svc"),
                text("user_agent.original", "curl/8.0.1"),
                text("network.protocol.version", "1.1"),
            ],
            status: Some(Status { message: String::new(), code: i32::from(i % 50 == 0) * 2 }),
            ..Span::default()
        }
    });
    let resource = Resource {
        attributes: vec![
            text("service.name", &format!("service-{}", number % 40)),
            text("service.version", "1.4.2"),
            text("k8s.namespace.name", "shop"),
            text("k8s.pod.name", &format!("service-{}-7d4b9c8f6-x{}", number % 40, number)),
            text("k8s.node.name", "worker-3"),
        ],
        ..Resource::default()
    };
    let scope =
        InstrumentationScope { name: "io.opentelemetry.http".to_owned(), ..Default::default() };
    let scope = ScopeSpans { scope: Some(scope), spans: spans.collect(), ..Default::default() };
    let group =
        ResourceSpans { resource: Some(resource), scope_spans: vec![scope], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![group] }.encode_to_vec().into()
}

fn walk(bytes: &[u8], columns: &mut SpanColumns) {
    for resource in RequestView::new(Signal::Traces, bytes).resources().flatten() {
        columns.resource(&resource.resource());
        for scope in resource.scopes().flatten() {
            for record in scope.records().flatten() {
                if let Record::Span(span) = record {
                    columns.push(&span, &SpanTold::by(&span), 1);
                }
            }
        }
    }
    if columns.len() >= 8192 {
        black_box(columns.finish());
    }
}

fn view(bytes: &[u8]) -> u64 {
    let mut sum = 0u64;
    for resource in RequestView::new(Signal::Traces, bytes).resources().flatten() {
        for scope in resource.scopes().flatten() {
            for record in scope.records().flatten() {
                if let Record::Span(span) = record {
                    sum = sum.wrapping_add(span.end_time_unix_nano);
                }
            }
        }
    }
    sum
}

fn main() {
    let requests: Vec<Bytes> = (0..REQUESTS).map(request).collect();
    let texts: Vec<String> =
        requests.iter().map(|r| json::from_proto(Signal::Traces, r).unwrap()).collect();
    let extra = encode_attributes(
        9,
        &[
            (attr::STORY_ID, attr::Value::Text("st-0123456789abcdef")),
            (attr::STORY_ROLE, attr::Value::Text("cause")),
            (
                attr::STORY_TITLE,
                attr::Value::Text("cart cannot reach its database: pool exhausted"),
            ),
        ],
    );
    let mut columns = SpanColumns::default();
    let mut one_in_100 = 0usize;

    type Step<'a> = (&'static str, Box<dyn FnMut(usize) + 'a>);
    let mut steps: Vec<Step<'_>> = vec![
        (
            "prost decode + encode",
            Box::new(|i| {
                let decoded = ExportTraceServiceRequest::decode(requests[i].clone()).unwrap();
                black_box(decoded.encode_to_vec());
            }),
        ),
        (
            "prost decode",
            Box::new(|i| {
                black_box(ExportTraceServiceRequest::decode(requests[i].clone()).unwrap());
            }),
        ),
        (
            "copy of the request",
            Box::new(|i| {
                black_box(requests[i].to_vec());
            }),
        ),
        (
            "check",
            Box::new(|i| {
                black_box(check(Signal::Traces, &requests[i]).unwrap());
            }),
        ),
        (
            "view of each span",
            Box::new(|i| {
                black_box(view(&requests[i]));
            }),
        ),
        ("view + columns", Box::new(|i| walk(&requests[i], &mut columns))),
        (
            "splice 0 %",
            Box::new(|i| {
                black_box(splice(Signal::Traces, &requests[i], |_| Decision::Nothing).unwrap());
            }),
        ),
        (
            "splice 1 %",
            Box::new(|i| {
                let at = &mut one_in_100;
                let decide = |_: &Record<'_>| {
                    *at += 1;
                    at.is_multiple_of(100).then_some(&extra[..])
                };
                let mut decide = Some(decide);
                black_box(
                    splice(Signal::Traces, &requests[i], |_| match decide.take() {
                        Some(decide) => Decision::Each(Box::new(decide)),
                        None => Decision::Nothing,
                    })
                    .unwrap(),
                );
            }),
        ),
        (
            "splice 100 %",
            Box::new(|i| {
                black_box(splice(Signal::Traces, &requests[i], |_| Decision::All(&extra)).unwrap());
            }),
        ),
        (
            "three edits of each span",
            Box::new(|i| {
                black_box(edit_records(Signal::Traces, &requests[i], &mut Rules).unwrap());
            }),
        ),
        (
            "JSON to protobuf",
            Box::new(|i| {
                black_box(json::to_proto(Signal::Traces, texts[i].as_bytes()).unwrap());
            }),
        ),
        (
            "protobuf to JSON",
            Box::new(|i| {
                black_box(json::from_proto(Signal::Traces, &requests[i]).unwrap());
            }),
        ),
    ];
    // `-- columns` runs only the steps with that word, for a profiler.
    if let Some(word) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        steps.retain(|(name, _)| name.contains(&word));
    }
    let mut times = vec![Vec::with_capacity(ROUNDS); steps.len()];
    for _ in 0..ROUNDS {
        for ((_, step), times) in steps.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..REQUESTS).for_each(&mut *step);
            times.push(start.elapsed().as_nanos() as f64 / (REQUESTS * SPANS) as f64);
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    println!(
        "{} spans of {} B, {SPANS} a request, {} B added where spliced",
        REQUESTS * SPANS,
        requests[0].len() / SPANS,
        extra.len()
    );
    println!("| step | ns/span | of prost decode + encode |");
    println!("|---|---|---|");
    for ((name, _), median) in steps.iter().zip(&medians) {
        println!("| {name} | {median:.1} | {:.3} |", median / medians[0]);
    }
}
