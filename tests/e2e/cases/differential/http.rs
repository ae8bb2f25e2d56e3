//! OTLP/HTTP: what is answered to a request, and what is sent on because of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tapio_proto::{Status, transport::Compression};

use super::{Group, Ports, Twin, both, facets, pair, processors::tidied, shown};
use crate::e2e::{
    client::{self, Grpc},
    program::block_on,
    runner::Skipped,
    wire::{Message, Signal, record, request},
};

const PROTO: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// Bytes of a body that are one too many.
const LIMIT: usize = 20_000;

/// Every door of the receiver, and a backend that is asked for each request.
pub(super) fn direct(ports: &Ports) -> Value {
    json!({
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": format!("127.0.0.1:{}", ports.grpc)},
            "http": {
                "endpoint": format!("127.0.0.1:{}", ports.http), "max_request_body_size": LIMIT,
                "cors": {"allowed_origins": ["https://*.example.com"], "allowed_headers": ["x-mine"], "max_age": 600},
            },
        }}},
        "exporters": {"otlp_http": {
            "endpoint": format!("http://127.0.0.1:{}", ports.backend), "compression": "none",
            "sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false},
        }},
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
            "traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
            "metrics": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
            "logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]},
        }},
    })
}

struct Ask {
    name: String,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Bytes,
}

fn post(name: impl Into<String>, content: &'static str, body: impl Into<Bytes>) -> Ask {
    Ask {
        name: name.into(),
        method: "POST",
        path: "/v1/traces",
        headers: vec![("content-type", content)],
        body: body.into(),
    }
}

impl Ask {
    fn to(self, path: &'static str) -> Self {
        Ask { path, ..self }
    }

    fn by(self, method: &'static str) -> Self {
        Ask { method, ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

fn span(change: impl Fn(Message) -> Message) -> Bytes {
    request([change(Message::new().bytes(5, "GET /").fixed64(7, 1).fixed64(8, 2))])
}

/// One span in JSON, with these members.
fn json_span(members: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#)
}

fn asks() -> Vec<Ask> {
    let mut all = vec![];
    for signal in Signal::ALL {
        let name = signal.items_name();
        let good = request((0..3).map(|n| record(signal, n)));
        let ask = |what: &str, body: Bytes| {
            post(format!("{name}/{what}"), PROTO, body).to(signal.http_path())
        };
        all.push(ask("good", good.clone()));
        all.push(ask("empty", Bytes::new()));
        all.push(ask("empty_envelope", Message::new().message(1, Message::new()).0.into()));
        for end in (1..good.len()).step_by(61) {
            all.push(ask(&format!("truncated_{end}"), good.slice(..end)));
        }
        let text = tapio_proto::json::from_proto(tapio_proto_signal(signal), &good);
        let text = text.expect("a sound request");
        let ask = |what: &str, body: String| {
            post(format!("{name}/json_{what}"), JSON, body).to(signal.http_path())
        };
        all.push(ask("good", text.clone()));
        for end in (1..text.len()).step_by(331) {
            all.push(ask(&format!("truncated_{end}"), text[..end].to_owned()));
        }
        for (what, body) in [
            ("empty", ""),
            ("nothing", "{}"),
            ("bad", "{bad"),
            ("list", "[]"),
            ("null", "null"),
            ("number", "5"),
            ("unknown", r#"{"unknown":{"a":[1,{"b":null}]}}"#),
            ("trailing", "{} x"),
            ("bom", "\u{feff}{}"),
        ] {
            all.push(ask(what, body.to_owned()));
        }
    }

    // The envelope of HTTP.
    let good = || span(|span| span.bytes(1, [7; 16]).bytes(2, [7; 8]));
    for (what, content) in [
        ("charset", "application/x-protobuf; charset=utf-8"),
        ("upper_case", "Application/X-Protobuf"),
        ("text", "text/plain"),
        ("grpc", "application/grpc"),
        ("protobuf", "application/protobuf"),
        ("nonsense", ";;"),
        ("empty", ""),
    ] {
        all.push(post(format!("content_type/{what}"), content, good()));
    }
    all.push(Ask { headers: vec![], ..post("content_type/none", PROTO, good()) });
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        all.push(post(format!("method/{method}"), PROTO, Bytes::new()).by(method));
    }
    for (what, path) in [
        ("unknown", "/v1/nothing"),
        ("root", "/"),
        ("slash", "/v1/traces/"),
        ("double", "//v1/traces"),
        ("query", "/v1/traces?a=b"),
        ("dots", "/v1/../v1/traces"),
        ("profiles", "/v1development/profiles"),
    ] {
        all.push(post(format!("path/{what}"), PROTO, good()).to(path));
        if what != "query" {
            all.push(post(format!("path/{what}_get"), PROTO, Bytes::new()).to(path).by("GET"));
        }
    }
    let accepting = post("accept_encoding/gzip", PROTO, good());
    all.push(accepting.with("accept-encoding", "gzip"));
    for (what, origin) in [("known", "https://a.example.com"), ("strange", "https://evil.com")] {
        all.push(post(format!("cors/{what}"), PROTO, good()).with("origin", origin));
        for header in ["x-mine", "x-other", "content-type"] {
            let preflight = post(format!("cors/{what}_preflight_{header}"), PROTO, Bytes::new())
                .by("OPTIONS")
                .with("origin", origin)
                .with("access-control-request-method", "POST")
                .with("access-control-request-headers", header);
            all.push(preflight);
        }
    }

    // Encodings.
    for (encoding, compression) in [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("zlib", Compression::Zlib),
        ("deflate", Compression::Zlib),
        ("snappy", Compression::Snappy),
        ("x-snappy-framed", Compression::SnappyFramed),
        ("lz4", Compression::Lz4),
    ] {
        let packed = |body: Bytes| compression.compress(&body, None).expect("it compresses");
        let half = packed(good());
        let large = packed(span(|span| span.attribute(9, "big", vec![b'x'; LIMIT])));
        let text = packed(json_span(r#""name":"x""#).into());
        for (what, content, body) in [
            ("good", PROTO, packed(good())),
            ("json", JSON, text),
            ("nothing", PROTO, Bytes::new()),
            ("empty", PROTO, packed(Bytes::new())),
            ("corrupt", PROTO, Bytes::from_static(b"not at all compressed, is it?")),
            ("half", PROTO, half.slice(..half.len() / 2)),
            ("too_large", PROTO, large),
            ("malformed", PROTO, packed(Bytes::from_static(b"\x0a\xff"))),
        ] {
            let ask = post(format!("encoding/{encoding}/{what}"), content, body);
            all.push(ask.with("content-encoding", encoding));
        }
    }
    for encoding in ["br", "identity", "GZIP", "gzip, gzip", "none"] {
        let body = client::gzip(&good());
        let ask = post(format!("encoding/other/{encoding}"), PROTO, body);
        all.push(ask.with("content-encoding", encoding));
    }
    let large = span(|span| span.attribute(9, "big", vec![b'x'; LIMIT]));
    all.push(post("too_large/proto", PROTO, large));
    all.push(post("too_large/json", JSON, format!("{{\"a\":\"{}\"}}", "x".repeat(LIMIT))));
    let fits = span(|span| span.attribute(9, "big", vec![b'x'; LIMIT - 200]));
    all.push(post("too_large/not_quite", PROTO, fits));

    // Protobuf that is odd or wrong.
    let ids =
        |trace: usize, id: usize| span(|span| span.bytes(1, vec![7; trace]).bytes(2, vec![7; id]));
    let event = |what: Message| span(move |span| span.message(11, what.clone()));
    for (what, body) in [
        ("ids", ids(16, 8)),
        ("ids_zero", span(|span| span.bytes(1, [0; 16]).bytes(2, [0; 8]))),
        ("ids_empty", ids(0, 0)),
        ("trace_id_15", ids(15, 8)),
        ("trace_id_17", ids(17, 8)),
        ("span_id_7", ids(16, 7)),
        ("span_id_9", ids(16, 9)),
        ("parent_3", span(|span| span.bytes(4, [1; 3]))),
        ("link_trace_4", span(|span| span.message(13, Message::new().bytes(1, [1; 4])))),
        ("name_not_utf8", span(|span| span.bytes(5, [0xff, 0xfe]))),
        ("attribute_not_utf8", span(|span| span.attribute(9, "k", [0xff]))),
        ("state_not_utf8", span(|span| span.bytes(3, [0x80]))),
        ("event_name_not_utf8", event(Message::new().bytes(2, [0xc0]))),
        ("kind_99", span(|span| span.varint(6, 99))),
        ("kind_negative", span(|span| span.varint(6, u64::MAX))),
        ("status_7", span(|span| span.message(15, Message::new().varint(3, 7)))),
        ("name_as_number", span(|span| span.varint(5, 3))),
        ("kind_as_text", span(|span| span.bytes(6, "x"))),
        ("time_as_varint", span(|span| span.varint(7, 3))),
        ("group", span(|span| Message([span.0, vec![0x53, 0x54]].concat()))),
        ("group_without_end", span(|span| Message([span.0, vec![0x53]].concat()))),
        ("end_without_group", span(|span| Message([span.0, vec![0x54]].concat()))),
        ("field_0", span(|span| Message([span.0, vec![0x00, 0x01]].concat()))),
        ("wire_type_7", span(|span| Message([span.0, vec![0x57]].concat()))),
        (
            "varint_of_11",
            span(|span| Message([span.0, vec![0x30], vec![0xff; 10], vec![1]].concat())),
        ),
        ("duplicate_name", span(|span| span.bytes(5, "again"))),
        ("key_twice", span(|span| span.attribute(9, "k", "1").attribute(9, "k", "2"))),
        ("empty_value", span(|span| span.any_attribute(9, "k", Message::new()))),
        (
            "two_values",
            span(|span| span.any_attribute(9, "k", Message::new().varint(3, 1).bytes(1, "x"))),
        ),
        (
            "unknown_fields",
            span(|span| span.bytes(500, "x").varint(501, 1).fixed64(502, 1).fixed32(503, 1)),
        ),
        (
            "string_index",
            span(|span| {
                span.message(
                    9,
                    Message::new().varint(3, 1).message(2, Message::new().bytes(1, "v")),
                )
            }),
        ),
        ("length_beyond", Bytes::from_static(b"\x0a\x7f\x01")),
        ("length_huge", Bytes::from_static(b"\x0a\xff\xff\xff\xff\x0f\x01")),
        ("json_as_proto", Bytes::from_static(b"{\"resourceSpans\":[]}")),
        (
            "legacy_scope",
            Message::new()
                .message(
                    1,
                    Message::new()
                        .message(1000, Message::new().message(2, Message::new().bytes(5, "old"))),
                )
                .0
                .into(),
        ),
    ] {
        all.push(post(format!("proto/{what}"), PROTO, body));
    }
    let deep = |depth: usize| {
        (0..depth).fold(Message::new().bytes(1, "end"), |inner, _| {
            Message::new().message(5, Message::new().message(1, inner))
        })
    };
    for depth in [10, 20] {
        let body = span(|span| span.any_attribute(9, "deep", deep(depth)));
        all.push(post(format!("proto/deep_{depth}"), PROTO, body));
    }

    // JSON that is odd or wrong.
    for (what, members) in [
        ("ids", r#""traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331""#),
        (
            "ids_upper_case",
            r#""traceId":"0AF7651916CD43DD8448EB211C80319C","spanId":"B7AD6B7169203331""#,
        ),
        ("ids_empty", r#""traceId":"","spanId":"""#),
        ("ids_null", r#""traceId":null,"spanId":null"#),
        ("id_base64", r#""traceId":"CvdlGRbNQ92ESOshHIAxnA==""#),
        ("id_short", r#""traceId":"0af7""#),
        ("id_odd", r#""spanId":"b7ad6b716920333""#),
        ("id_no_hex", r#""spanId":"b7ad6b716920333z""#),
        ("id_number", r#""spanId":5"#),
        ("name_number", r#""name":5"#),
        ("name_null", r#""name":null"#),
        ("kind_number", r#""kind":3"#),
        ("kind_name", r#""kind":"SPAN_KIND_CLIENT""#),
        ("kind_wrong_name", r#""kind":"CLIENT""#),
        ("kind_text_number", r#""kind":"3""#),
        ("kind_float", r#""kind":3.5"#),
        ("kind_99", r#""kind":99"#),
        (
            "snake_case",
            r#""trace_id":"0af7651916cd43dd8448eb211c80319c","start_time_unix_nano":"5""#,
        ),
        ("time_text", r#""startTimeUnixNano":"1544712660000000000""#),
        ("time_number", r#""startTimeUnixNano":1544712660000000000"#),
        ("time_float", r#""startTimeUnixNano":1.5e3"#),
        ("time_negative", r#""startTimeUnixNano":"-5""#),
        ("time_huge", r#""startTimeUnixNano":"18446744073709551616""#),
        ("time_nonsense", r#""startTimeUnixNano":"soon""#),
        ("time_empty", r#""startTimeUnixNano":"""#),
        ("dropped_text", r#""droppedAttributesCount":"7""#),
        ("dropped_negative", r#""droppedAttributesCount":-7"#),
        ("dropped_huge", r#""droppedAttributesCount":4294967296"#),
        ("flags", r#""flags":769"#),
        ("unknown_member", r#""name":"x","unknown":{"a":[1]}"#),
        ("twice", r#""name":"x","name":"y""#),
        ("attributes_null", r#""attributes":null"#),
        ("attributes_map", r#""attributes":{"k":"v"}"#),
        ("attribute_null", r#""attributes":[null]"#),
        (
            "value_text",
            r#""attributes":[{"key":"k","value":{"stringValue":"ä\u00e4\n\ud83d\ude00"}}]"#,
        ),
        ("value_surrogate", r#""attributes":[{"key":"k","value":{"stringValue":"\ud83d"}}]"#),
        ("value_int_text", r#""attributes":[{"key":"k","value":{"intValue":"9007199254740993"}}]"#),
        ("value_int_number", r#""attributes":[{"key":"k","value":{"intValue":9007199254740993}}]"#),
        ("value_int_float", r#""attributes":[{"key":"k","value":{"intValue":1.5}}]"#),
        (
            "value_int_huge",
            r#""attributes":[{"key":"k","value":{"intValue":"9223372036854775808"}}]"#,
        ),
        ("value_double", r#""attributes":[{"key":"k","value":{"doubleValue":0.1}}]"#),
        ("value_double_text", r#""attributes":[{"key":"k","value":{"doubleValue":"0.1"}}]"#),
        ("value_nan", r#""attributes":[{"key":"k","value":{"doubleValue":"NaN"}}]"#),
        ("value_infinity", r#""attributes":[{"key":"k","value":{"doubleValue":"-Infinity"}}]"#),
        ("value_double_huge", r#""attributes":[{"key":"k","value":{"doubleValue":1e999}}]"#),
        ("value_bool", r#""attributes":[{"key":"k","value":{"boolValue":true}}]"#),
        ("value_bool_text", r#""attributes":[{"key":"k","value":{"boolValue":"true"}}]"#),
        ("value_bytes", r#""attributes":[{"key":"k","value":{"bytesValue":"Zm9v+w=="}}]"#),
        ("value_bytes_url", r#""attributes":[{"key":"k","value":{"bytesValue":"Zm9v-w"}}]"#),
        ("value_bytes_wrong", r#""attributes":[{"key":"k","value":{"bytesValue":"?"}}]"#),
        (
            "value_list",
            r#""attributes":[{"key":"k","value":{"arrayValue":{"values":[{"intValue":1},{}]}}}]"#,
        ),
        (
            "value_map",
            r#""attributes":[{"key":"k","value":{"kvlistValue":{"values":[{"key":"a","value":{"boolValue":false}}]}}}]"#,
        ),
        ("value_empty", r#""attributes":[{"key":"k","value":{}}]"#),
        ("value_null", r#""attributes":[{"key":"k","value":null}]"#),
        ("value_two", r#""attributes":[{"key":"k","value":{"intValue":1,"stringValue":"x"}}]"#),
        ("status", r#""status":{"code":2,"message":"failed"}"#),
        ("status_name", r#""status":{"code":"STATUS_CODE_ERROR"}"#),
        ("events", r#""events":[{"timeUnixNano":"5","name":"e"}]"#),
        (
            "links",
            r#""links":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","flags":1}]"#,
        ),
    ] {
        all.push(post(format!("json/{what}"), JSON, json_span(members)));
    }
    for depth in [10, 20] {
        let open = r#"{"arrayValue":{"values":["#.repeat(depth);
        let close = "]}}".repeat(depth);
        let members = format!(r#""attributes":[{{"key":"k","value":{open}{close}}}]"#);
        all.push(post(format!("json/deep_{depth}"), JSON, json_span(&members)));
    }
    all.push(post("json/not_utf8", JSON, &b"{\"resourceSpans\":[{\"schemaUrl\":\"\xff\"}]}"[..]));
    let points = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","sum":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA","isMonotonic":true,"dataPoints":[{"asInt":"-5"},{"asDouble":"Infinity"},{"asInt":7,"exemplars":[{"asDouble":1}]}]}},{"name":"h","histogram":{"dataPoints":[{"count":"2","sum":1.5,"bucketCounts":["1",1],"explicitBounds":[1.5]}]}},{"name":"e","exponentialHistogram":{"dataPoints":[{"count":3,"scale":-2,"positive":{"offset":-1,"bucketCounts":["3"]}}]}}]}]}]}"#;
    all.push(post("json/metrics_of_every_kind", JSON, points).to("/v1/metrics"));
    let log = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":"SEVERITY_NUMBER_WARN","body":{"kvlistValue":{"values":[]}},"eventName":"e"},{"severityNumber":13,"observedTimeUnixNano":"9"}]}]}]}"#;
    all.push(post("json/log_severities", JSON, log).to("/v1/logs"));
    all
}

fn tapio_proto_signal(signal: Signal) -> tapio_proto::Signal {
    match signal {
        Signal::Traces => tapio_proto::Signal::Traces,
        Signal::Metrics => tapio_proto::Signal::Metrics,
        Signal::Logs => tapio_proto::Signal::Logs,
    }
}

/// A body for comparison: `google.rpc.Status` taken apart, so that its text is a facet of its own.
fn body(facets: &mut BTreeMap<&'static str, String>, content: &str, body: &[u8]) {
    let status = match content {
        PROTO => Status::decode(body).ok().filter(|_| !body.is_empty()),
        JSON => Status::from_json(body),
        _ => None,
    };
    match status {
        Some(status) if facets["status"] != "200" => {
            let wait = status.retry_after.map(|wait| format!(" {wait:?}")).unwrap_or_default();
            facets.insert("code", format!("{:?}{wait}", status.code));
            facets.insert("message", status.message);
        }
        _ => drop(facets.insert("body", String::from_utf8_lossy(body).into_owned())),
    }
}

/// What one of the two answers and what the backend has because of it.
async fn told(twin: &Twin, ask: &Ask) -> BTreeMap<&'static str, String> {
    let Ask { method, path, headers, body: sent, .. } = ask;
    let reply = client::http(method, twin.ports.http, path, headers, sent.clone()).await;
    let reply = reply.unwrap_or_else(|error| panic!("{} of {}: {error:?}", ask.name, twin.name));
    of_answer(twin, reply.status, &reply.headers, &reply.body)
}

pub(super) fn of_answer(
    twin: &Twin,
    status: u16,
    headers: &::http::HeaderMap,
    answer: &[u8],
) -> BTreeMap<&'static str, String> {
    let content = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut facets = BTreeMap::from([("status", status.to_string()), ("headers", shown(headers))]);
    body(&mut facets, content, answer);
    let sent: Vec<_> = twin.inbox.take().iter().map(tidied).collect();
    facets.insert("sent", sent.join("\n"));
    facets
}

/// Guarantees: each request over HTTP/1.1 and HTTP/2 has the Collector's answer, and the backend gets
/// what it would get from a Collector.
pub(crate) fn http() -> Result<(), Skipped> {
    block_on(async {
        let twins = pair("http", direct).await?;
        let mut group = Group::new();
        for ask in asks() {
            let sides = both(&twins, async |twin| told(twin, &ask).await).await;
            group.case(&format!("http/{}", ask.name), &facets(sides));
        }
        // The same door speaks HTTP/2 without asking.
        let good = request([record(Signal::Logs, 1)]);
        let proto = [("content-type", PROTO)];
        for (name, method, path, headers, body) in [
            ("good", "POST", "/v1/logs", &proto[..], good.clone()),
            ("bad", "POST", "/v1/logs", &proto[..], Bytes::from_static(b"\xff")),
            ("get", "GET", "/v1/logs", &proto[..], Bytes::new()),
            ("no_type", "POST", "/v1/logs", &[], good),
            ("unknown", "POST", "/v1/nothing", &proto[..], Bytes::new()),
        ] {
            let sides = both(&twins, async |twin| {
                let mut grpc = Grpc::connect(twin.ports.http).await.expect("it listens");
                match grpc.http2(method, path, headers, body.clone()).await {
                    Ok((status, headers, _, body)) => of_answer(twin, status, &headers, &body),
                    Err(_) => BTreeMap::from([("status", "no HTTP/2".to_owned())]),
                }
            });
            group.case(&format!("http/http2_{name}"), &facets(sides.await));
        }
        group.end();
        Ok(())
    })
}
