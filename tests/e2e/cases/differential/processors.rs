//! What processors and connectors make of requests.

use std::{fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tapio_proto::json::from_proto;

use super::Group;
use crate::e2e::{
    backend::{Backend, Inbox, Received},
    client, parts,
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::Signal,
};

/// Processors, and what is sent through them.
struct Case {
    name: &'static str,
    /// Kind and body of each processor, in the order of the flow.
    processors: Vec<(&'static str, Value)>,
    signals: &'static [Signal],
}

const EVERY: &[Signal] = &Signal::ALL;
const TRACES: &[Signal] = &[Signal::Traces];
const LOGS: &[Signal] = &[Signal::Logs];
const METRICS: &[Signal] = &[Signal::Metrics];

fn case(name: &'static str, signals: &'static [Signal], body: Value) -> Case {
    Case { name, processors: vec![("attributes", body)], signals }
}

/// Marks what a filter lets through.
fn filter(name: &'static str, signals: &'static [Signal], which: Value) -> Case {
    let mut body = which;
    body["actions"] = json!([{"key": "marked", "value": true, "action": "insert"}]);
    case(name, signals, body)
}

fn include(name: &'static str, signals: &'static [Signal], properties: Value) -> Case {
    filter(name, signals, json!({"include": properties}))
}

fn cases() -> Vec<Case> {
    let all =
        ["text", "number", "int", "double", "yes", "bytes", "list", "map", "none", "big", "tiny"];
    let convert = |to: &str| -> Value {
        let all = all.iter().filter(|key| to != "int" || **key != "big");
        let action = |key: &&str| json!({"key": key, "action": "convert", "converted_type": to});
        json!({"actions": all.map(action).collect::<Vec<_>>()})
    };
    let strict = |mut properties: Value| {
        properties["match_type"] = json!("strict");
        properties
    };
    let regexp = |mut properties: Value| {
        properties["match_type"] = json!("regexp");
        properties
    };
    vec![
        case(
            "values",
            EVERY,
            json!({"actions": [
                {"key": "a.text", "value": "x", "action": "insert"},
                {"key": "a.int", "value": -5, "action": "insert"},
                {"key": "a.double", "value": 1.0, "action": "insert"},
                {"key": "a.bool", "value": false, "action": "insert"},
                {"key": "a.list", "value": [1, "b", [true]], "action": "insert"},
                {"key": "a.map", "value": {"k": {"l": 1.5}}, "action": "insert"},
                {"key": "text", "value": "not inserted", "action": "insert"},
                {"key": "int", "value": "updated", "action": "update"},
                {"key": "absent", "value": "not updated", "action": "update"},
                {"key": "double", "value": 7, "action": "upsert"},
                {"key": "a.new", "value": "", "action": "upsert"},
            ]}),
        ),
        case(
            "sources",
            EVERY,
            json!({"actions": [
                {"key": "copy", "from_attribute": "map", "action": "insert"},
                {"key": "text", "from_attribute": "list", "action": "update"},
                {"key": "b", "from_attribute": "absent", "action": "insert"},
                {"key": "c", "from_attribute": "absent", "default_value": 3, "action": "upsert"},
                {"key": "d", "default_value": "only", "action": "insert"},
                {"key": "yes", "from_attribute": "yes", "action": "upsert"},
            ]}),
        ),
        case(
            "delete",
            EVERY,
            json!({"actions": [
                {"key": "text", "action": "delete"},
                {"key": "absent", "action": "delete"},
                {"pattern": "^(m|l)", "action": "delete"},
                {"key": "int", "pattern": "^y.s$", "action": "DELETE"},
            ]}),
        ),
        case(
            "hash",
            EVERY,
            json!({"actions": [{"pattern": ".*", "action": "hash"}, {"key": "text", "action": "hash"}]}),
        ),
        case(
            "extract",
            EVERY,
            json!({"actions": [
                {"key": "text", "pattern": r"^(?P<scheme>\w+)://(?P<host>[^/:]+)(?P<port>:\d+)?/(?P<path>.*)$", "action": "extract"},
                {"key": "int", "pattern": "(?P<never>.*)", "action": "extract"},
                {"key": "number", "pattern": "(?P<text>4)", "action": "extract"},
            ]}),
        ),
        case("to_int", EVERY, convert("int")),
        case(
            "to_int_out_of_range",
            TRACES,
            json!({"actions": [{"key": "big", "action": "convert", "converted_type": "int"}]}),
        ),
        case("to_double", EVERY, convert("double")),
        case("to_string", EVERY, convert("string")),
        include("services", TRACES, strict(json!({"services": ["cart"]}))),
        include("no_service", TRACES, strict(json!({"services": ["<nil-service-name>"]}))),
        include("services_like", TRACES, regexp(json!({"services": ["^c", "shop"]}))),
        include("span_names", TRACES, strict(json!({"span_names": ["put", "get"]}))),
        include("span_kinds", TRACES, strict(json!({"span_kinds": ["SPAN_KIND_SERVER"]}))),
        include("span_kinds_like", TRACES, regexp(json!({"span_kinds": ["SERVER|CLIENT"]}))),
        include("by_text", TRACES, strict(json!({"attributes": [{"key": "v", "value": "x"}]}))),
        include("by_int", TRACES, strict(json!({"attributes": [{"key": "int", "value": 5}]}))),
        include(
            "by_other_type",
            TRACES,
            strict(json!({"attributes": [{"key": "int", "value": "5"}]})),
        ),
        include(
            "by_map",
            TRACES,
            strict(json!({"attributes": [{"key": "map", "value": {"y": 1, "x": "a<b"}}]})),
        ),
        include("by_key", TRACES, strict(json!({"attributes": [{"key": "v"}]}))),
        include(
            "like_any_type",
            TRACES,
            regexp(
                json!({"attributes": [{"key": "int", "value": "^5$"}, {"key": "yes", "value": "tr"}, {"key": "double", "value": "^2.5"}]}),
            ),
        ),
        include(
            "like_a_list",
            TRACES,
            regexp(json!({"attributes": [{"key": "list", "value": "1"}]})),
        ),
        include(
            "resources",
            &[Signal::Traces, Signal::Logs],
            strict(json!({"resources": [{"key": "zone", "value": "eu"}]})),
        ),
        include(
            "libraries",
            &[Signal::Traces, Signal::Logs],
            strict(json!({"libraries": [{"name": "http", "version": "1.0"}]})),
        ),
        include("any_version", TRACES, strict(json!({"libraries": [{"name": "http"}]}))),
        include(
            "two_libraries",
            TRACES,
            strict(json!({"libraries": [{"name": "http"}, {"name": "sql"}]})),
        ),
        filter(
            "exclude",
            TRACES,
            json!({"exclude": strict(json!({"services": ["cart"], "span_names": ["get"]}))}),
        ),
        filter(
            "both",
            TRACES,
            json!({
                "include": strict(json!({"services": ["cart"]})), "exclude": regexp(json!({"attributes": [{"key": "v", "value": "y"}]})),
            }),
        ),
        include("bodies", LOGS, regexp(json!({"log_bodies": ["failed", "^7$"]}))),
        include(
            "body",
            LOGS,
            strict(json!({"log_bodies": ["{\"a\":\"\\u003cb\\u003e\",\"n\":[1,2.5]}"]})),
        ),
        include("severity", LOGS, strict(json!({"log_severity_number": {"min": 10}}))),
        include(
            "severity_or_none",
            LOGS,
            strict(json!({"log_severity_number": {"min": 10, "match_undefined": true}})),
        ),
        include(
            "severity_text",
            LOGS,
            strict(
                json!({"log_severity_texts": ["WARN"], "attributes": [{"key": "v", "value": "y"}]}),
            ),
        ),
        include("metric_names", METRICS, regexp(json!({"metric_names": ["^h", "gauge"]}))),
        include(
            "metric_resources",
            METRICS,
            strict(json!({"resources": [{"key": "zone", "value": "us"}]})),
        ),
        Case {
            processors: vec![(
                "resource",
                json!({"attributes": [
                    {"key": "cluster", "value": "eu-1", "action": "upsert"},
                    {"key": "zone", "action": "delete"},
                    {"key": "service.name", "action": "hash"},
                    {"key": "int", "action": "convert", "converted_type": "string"},
                ]}),
            )],
            ..case("resource", EVERY, json!({}))
        },
        Case {
            processors: vec![
                (
                    "resource",
                    json!({"attributes": [{"key": "zone", "value": "us", "action": "update"}]}),
                ),
                (
                    "attributes",
                    json!({"actions": [{"key": "one", "value": 1, "action": "insert"}]}),
                ),
                (
                    "attributes/2",
                    json!({"actions": [{"key": "one", "value": 2, "action": "update"}]}),
                ),
            ],
            ..case("chain", EVERY, json!({}))
        },
    ]
}

/// Attributes of every type, on records and resources.
fn attributes(v: &str) -> Value {
    let map = json!({"values": [{"key": "x", "value": {"stringValue": "a<b"}}, {"key": "y", "value": {"intValue": "1"}}]});
    json!([
        {"key": "v", "value": {"stringValue": v}},
        {"key": "text", "value": {"stringValue": "https://shop:8080/cart?item=7"}},
        {"key": "number", "value": {"stringValue": "42"}},
        {"key": "int", "value": {"intValue": "5"}},
        {"key": "double", "value": {"doubleValue": 2.5}},
        {"key": "big", "value": {"doubleValue": 1e22}},
        {"key": "tiny", "value": {"doubleValue": -1.5e-7}},
        {"key": "yes", "value": {"boolValue": true}},
        {"key": "bytes", "value": {"bytesValue": "Zm9v+w=="}},
        {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "b\n"}, {}]}}},
        {"key": "map", "value": {"kvlistValue": map}},
        {"key": "none", "value": {}},
    ])
}

fn input(signal: Signal) -> Value {
    let (groups, scopes, records) = match signal {
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
    };
    let ids = |n: u8| (format!("{n:032x}"), format!("{n:016x}"));
    let span = |n: u8, name: &str, kind: u8, v: &str| {
        let (trace, span) = ids(n);
        json!({"traceId": trace, "spanId": span, "name": name, "kind": kind, "attributes": attributes(v)})
    };
    let log = |body: Value, severity: u8, words: &str, v: &str| json!({"body": body, "severityNumber": severity, "severityText": words, "attributes": attributes(v)});
    let metric = |name: &str, kind: &str, v: &str| json!({"name": name, kind: {"dataPoints": [{"timeUnixNano": "7", "attributes": attributes(v)}, {"timeUnixNano": "8"}]}});
    let map = json!({"kvlistValue": {"values": [
        {"key": "n", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"doubleValue": 2.5}]}}},
        {"key": "a", "value": {"stringValue": "<b>"}},
    ]}});
    let items = match signal {
        Signal::Traces => [
            json!([span(1, "get", 2, "x"), span(2, "put", 3, "y")]),
            json!([span(3, "select", 0, "x")]),
        ],
        Signal::Logs => [
            json!([
                log(json!({"stringValue": "login failed"}), 9, "INFO", "x"),
                log(map, 0, "", "y")
            ]),
            json!([log(json!({"intValue": "7"}), 13, "WARN", "y")]),
        ],
        Signal::Metrics => [
            json!([
                metric("a.gauge", "gauge", "x"),
                metric("a.sum", "sum", "y"),
                metric("h", "histogram", "x")
            ]),
            json!([metric("hh", "exponentialHistogram", "x"), metric("quantiles", "summary", "y")]),
        ],
    };
    let [first, second] = items;
    let resource = |service: &str, zone: &str| {
        let mut all = attributes("r");
        let more = json!([{"key": "service.name", "value": {"stringValue": service}}, {"key": "zone", "value": {"stringValue": zone}}]);
        if let (Value::Array(all), Value::Array(more)) = (&mut all, more) {
            all.extend(more);
        }
        json!({"attributes": all})
    };
    json!({groups: [
        {"resource": resource("cart", "eu"), scopes: [{"scope": {"name": "http", "version": "1.0"}, records: first}]},
        {"resource": resource("shop", "us"), scopes: [{"scope": {"name": "http", "version": "2.0"}, records: second}]},
        {scopes: [{"scope": {"name": "sql"}, records: second}]},
    ]})
}

fn name_of(signal: Signal) -> &'static str {
    signal.http_path().trim_start_matches("/v1/")
}

/// All cases as one configuration; JSON is YAML. Each case sends to a path of its own.
fn configuration(cases: &[Case], backend: u16, receiver: u16) -> Value {
    let (mut processors, mut exporters, mut pipelines) = (json!({}), json!({}), json!({}));
    for case in cases {
        let ids: Vec<_> = case
            .processors
            .iter()
            .map(|(kind, body)| {
                let id = if kind.contains('/') {
                    format!("{kind}.{}", case.name)
                } else {
                    format!("{kind}/{}", case.name)
                };
                processors[&id] = body.clone();
                id
            })
            .collect();
        let exporter = format!("otlp_http/{}", case.name);
        exporters[&exporter] = json!({
            "endpoint": format!("http://127.0.0.1:{backend}/{}", case.name),
            "compression": "none", "sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false},
        });
        for signal in case.signals {
            pipelines[format!("{}/{}", name_of(*signal), case.name)] =
                json!({"receivers": ["otlp"], "processors": ids, "exporters": [exporter]});
        }
    }
    json!({
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{receiver}")}}}},
        "processors": processors, "exporters": exporters,
        "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": pipelines},
    })
}

/// Starts a program with a configuration, sends it one request of each signal, stops it, and returns
/// what the backend received.
async fn run(
    program: &Path,
    folder: &Path,
    name: &str,
    make: impl Fn(u16, u16) -> Value,
) -> Vec<Received> {
    let inbox = Inbox::default();
    let backend = Backend::start(free_port(), inbox.clone(), Duration::ZERO).await;
    let receiver = free_port();
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, make(backend.port, receiver).to_string())
        .expect("the case's folder is writable");
    let mut command = Command::new(program);
    command.arg("--config").arg(format!("file:{}", file.display()));
    let mut program = Program::start(name, command, folder);
    program.listens(receiver).await;
    for signal in Signal::ALL {
        let body = Bytes::from(input(signal).to_string());
        let headers = [("content-type", "application/json")];
        let reply = client::http("POST", receiver, signal.http_path(), &headers, body).await;
        let reply = reply.expect("it answers");
        assert!(matches!(reply.status, 200 | 404), "{name}: {:?}\n{}", reply.body, program.tail());
    }
    program.stop_well().await;
    inbox.all()
}

/// What arrived at a path, in a form that both programs share.
fn at(received: &[Received], name: &str, signal: Signal) -> Vec<Value> {
    let path = format!("/{name}{}", signal.http_path());
    received.iter().filter(|received| received.path == path).map(content).collect()
}

/// A request in a form that both programs share: attributes by their keys (the Collector moves them
/// about), no empty members.
fn content(received: &Received) -> Value {
    let path = received.path.to_lowercase();
    let kind = match () {
        () if path.contains("trace") => tapio_proto::Signal::Traces,
        () if path.contains("metrics") => tapio_proto::Signal::Metrics,
        () => tapio_proto::Signal::Logs,
    };
    let json = received.headers.get("content-type").is_some_and(|kind| kind == "application/json");
    let text = match json {
        true => Ok(String::from_utf8_lossy(&received.message).into_owned()),
        false => from_proto(kind, &received.message),
    };
    let Ok(text) = text else { return format!("no OTLP: {:?}", received.message).into() };
    // Too deep for the reader.
    let Ok(mut value) = serde_json::from_str(&text) else { return text.into() };
    tidy(&mut value);
    value
}

/// The same as a text.
pub(super) fn tidied(received: &Received) -> String {
    content(received).to_string()
}

fn tidy(value: &mut Value) {
    let empty = |key: &str, value: &Value| match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        // An attribute that is an empty text is not an empty attribute.
        Value::String(text) => text.is_empty() && key != "stringValue",
        value => value.is_null(),
    };
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(tidy);
            members.retain(|key, value| !empty(key, value));
            members.sort_keys();
            if let Some(Value::Array(attributes)) = members.get_mut("attributes") {
                attributes.sort_by_key(|attribute| attribute["key"].to_string());
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Scenario: every action, filter and type in one configuration.
/// Guarantees: what a Collector sends on is what Tapio sends on.
pub(crate) fn processors() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    let cases = cases();
    block_on(async {
        let folder = folder("differential_processors");
        let make = |backend, receiver| configuration(&cases, backend, receiver);
        let theirs = run(&otelcol, &folder, "otelcol", make).await;
        let ours = run(Path::new(env!("CARGO_BIN_EXE_tapio")), &folder, "tapio", make).await;
        let mut group = Group::new();
        for case in &cases {
            for signal in case.signals {
                let theirs = at(&theirs, case.name, *signal);
                let ours = at(&ours, case.name, *signal);
                assert_eq!(theirs.len(), 1, "the Collector sent {} of {signal:?}", case.name);
                let name = format!("processors/{}/{}", case.name, name_of(*signal));
                let text = |all: Vec<Value>| Value::from(all).to_string();
                group.case(&name, &[("sent", text(theirs), text(ours))]);
            }
        }
        group.end();
    });
    Ok(())
}

/// Scenario: pipelines joined by connectors, one fed by two and feeding two.
/// Guarantees: each request arrives as often as with the Collector, through the same processors.
pub(crate) fn connectors() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    block_on(async {
        let folder = folder("differential_connectors");
        let mark = |key: &str| json!({"actions": [{"key": key, "value": 1, "action": "upsert"}]});
        let make = |backend: u16, receiver: u16| {
            let exporter = |name: &str| {
                json!({
                    "endpoint": format!("http://127.0.0.1:{backend}/{name}"), "compression": "none",
                    "sending_queue": {"enabled": false},
                })
            };
            json!({
                "receivers": {"otlp": {"protocols": {"http": {"endpoint": format!("127.0.0.1:{receiver}")}}}, "nop": {}},
                "processors": {"attributes/in": mark("in"), "attributes/mid": mark("mid"), "attributes/out": mark("out")},
                "exporters": {"otlp_http/one": exporter("one"), "otlp_http/two": exporter("two"), "nop": {}},
                "connectors": {"forward": {}, "forward/2": {}, "forward/unused": {}},
                "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {
                    "traces/out": {"receivers": ["forward/2", "nop"], "processors": ["attributes/out"], "exporters": ["otlp_http/one"]},
                    "traces/out2": {"receivers": ["forward/2"], "exporters": ["otlp_http/two", "nop"]},
                    "traces/mid": {"receivers": ["forward"], "processors": ["attributes/mid"], "exporters": ["forward/2"]},
                    "traces/in": {"receivers": ["otlp"], "processors": ["attributes/in"], "exporters": ["forward"]},
                    "traces/in2": {"receivers": ["otlp"], "exporters": ["forward", "otlp_http/two"]},
                    "logs/in": {"receivers": ["otlp"], "exporters": ["forward"]},
                    "logs/out": {"receivers": ["forward"], "exporters": ["otlp_http/one"]},
                }},
            })
        };
        let theirs = run(&otelcol, &folder, "otelcol", make).await;
        let ours = run(Path::new(env!("CARGO_BIN_EXE_tapio")), &folder, "tapio", make).await;
        let mut group = Group::new();
        for (name, signal, count) in [
            ("one", Signal::Traces, 2),
            ("two", Signal::Traces, 3),
            ("one", Signal::Logs, 1),
            ("one", Signal::Metrics, 0),
        ] {
            let sorted = |received: &[Received]| {
                let mut requests: Vec<_> =
                    at(received, name, signal).iter().map(Value::to_string).collect();
                requests.sort();
                requests
            };
            assert_eq!(sorted(&theirs).len(), count, "the Collector's {name}");
            let [theirs, ours] = [&theirs, &ours].map(|side| sorted(side).join("\n"));
            let case = format!("connectors/{name}/{}", name_of(signal));
            group.case(&case, &[("sent", theirs, ours)]);
        }
        group.end();
    });
    Ok(())
}
