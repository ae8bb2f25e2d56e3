//! One configuration, two programs: what a real Collector does and says, Tapio does and says.

use std::{fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tapio_proto::json::from_proto;

use crate::e2e::{
    backend::{Backend, Inbox, Received},
    client, parts,
    program::{Program, block_on, folder, free_port},
    runner::Skipped,
    wire::Signal,
};

/// A processor, and whether Tapio does the same as the Collector.
struct Case {
    name: &'static str,
    /// Kind and body of each processor, in the order of the flow.
    processors: Vec<(&'static str, Value)>,
    signals: &'static [Signal],
    /// Why Tapio does otherwise.
    differs: Option<&'static str>,
}

const EVERY: &[Signal] = &Signal::ALL;
const TRACES: &[Signal] = &[Signal::Traces];
const LOGS: &[Signal] = &[Signal::Logs];
const METRICS: &[Signal] = &[Signal::Metrics];

fn case(name: &'static str, signals: &'static [Signal], body: Value) -> Case {
    Case { name, processors: vec![("attributes", body)], signals, differs: None }
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
        Case {
            differs: Some(
                "a double beyond all integers becomes the greatest one, or the least, which of the two the Collector takes depends on the processor it runs on",
            ),
            ..case(
                "to_int_out_of_range",
                TRACES,
                json!({"actions": [{"key": "big", "action": "convert", "converted_type": "int"}]}),
            )
        },
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
        Case {
            differs: Some(
                "the Collector takes `resources` for metrics and then edits all of them; its documentation says what Tapio does",
            ),
            ..include(
                "metric_resources",
                METRICS,
                strict(json!({"resources": [{"key": "zone", "value": "us"}]})),
            )
        },
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

/// What arrived at a path, in a form that both programs share: attributes by their keys (the Collector
/// moves them about), no empty members.
fn at(received: &[Received], name: &str, signal: Signal) -> Vec<Value> {
    let kind = match signal {
        Signal::Traces => tapio_proto::Signal::Traces,
        Signal::Metrics => tapio_proto::Signal::Metrics,
        Signal::Logs => tapio_proto::Signal::Logs,
    };
    let path = format!("/{name}{}", signal.http_path());
    let here = received.iter().filter(|received| received.path == path);
    here.map(|received| {
        let text = from_proto(kind, &received.message).expect("what it sends is OTLP");
        let mut value = serde_json::from_str(&text).expect("it is JSON");
        tidy(&mut value);
        value
    })
    .collect()
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

/// Where two values differ first, and what each has there.
fn difference(one: &Value, other: &Value) -> String {
    let inner = match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.map(|key| (key.clone(), &one[key], &other[key])).find(|(_, a, b)| a != b)
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.map(|(i, (a, b))| (i.to_string(), a, b)).find(|(_, a, b)| a != b)
        }
        _ => None,
    };
    match inner {
        Some((step, a, b)) => format!("{step}.{}", difference(a, b)),
        None => format!("\n  Collector {one}\n  Tapio     {other}"),
    }
}

/// Scenario: every action, filter and type in one configuration.
/// Guarantees: what a Collector sends on is what Tapio sends on; the differences are those with a reason.
pub(crate) fn attributes_and_resource() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    let cases = cases();
    block_on(async {
        let folder = folder("twins");
        let make = |backend, receiver| configuration(&cases, backend, receiver);
        let theirs = run(&otelcol, &folder, "otelcol", make).await;
        let ours = run(Path::new(env!("CARGO_BIN_EXE_tapio")), &folder, "tapio", make).await;
        let (mut compared, mut wrong) = (0, Vec::new());
        for case in &cases {
            for signal in case.signals {
                let theirs = at(&theirs, case.name, *signal);
                let ours = at(&ours, case.name, *signal);
                assert_eq!(theirs.len(), 1, "the Collector sent {} of {signal:?}", case.name);
                compared += 1;
                match (theirs == ours, case.differs) {
                    (true, None) => {}
                    (false, Some(reason)) => println!("    {}: differs: {reason}", case.name),
                    (true, Some(_)) => {
                        wrong.push(format!("{} does not differ any more", case.name))
                    }
                    (false, None) => wrong.push(format!(
                        "{} of {signal:?}: {}",
                        case.name,
                        difference(&theirs.into(), &ours.into())
                    )),
                }
            }
        }
        println!("    {compared} requests compared, {} unlike", wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
    Ok(())
}

/// Scenario: pipelines joined by connectors, one fed by two and feeding two.
/// Guarantees: each request arrives as often as with the Collector, through the same processors.
pub(crate) fn connectors() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    block_on(async {
        let folder = folder("twins_connectors");
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
            assert!(sorted(&ours) == sorted(&theirs), "{name} {signal:?}");
        }
    });
    Ok(())
}

/// Scenario: configurations with one mistake each.
/// Guarantees: both programs refuse them with these words.
pub(crate) fn mistakes() -> Result<(), Skipped> {
    let otelcol = parts::collector()?.join("otelcol");
    let folder = folder("twins_mistakes");
    let base = |change: &dyn Fn(&mut Value)| {
        let mut config = json!({
            "receivers": {"nop": {}}, "exporters": {"nop": {}},
            "service": {"pipelines": {"traces": {"receivers": ["nop"], "exporters": ["nop"]}}},
        });
        change(&mut config);
        config
    };
    let attributes = |body: Value| {
        base(&|config| {
            config["processors"] = json!({"attributes": body});
            config["service"]["pipelines"]["traces"]["processors"] = json!(["attributes"]);
        })
    };
    let action = |action: Value| attributes(json!({"actions": [action]}));
    let include = |properties: Value| {
        attributes(json!({"include": properties, "actions": [{"key": "a", "action": "delete"}]}))
    };
    let pipelines = |connectors: Value, pipelines: Value| {
        base(&|config| {
            config["connectors"] = connectors.clone();
            config["service"]["pipelines"] = pipelines.clone();
        })
    };
    let plain = |from: &str, to: &str| json!({"receivers": [from], "exporters": [to]});
    let of_key = "error with key \"a\" (0-th action): error creating AttrProc";
    let mistakes = [
        (attributes(json!({})), "processors::attributes: missing required field \"actions\"".to_owned()),
        (base(&|config| {
            config["processors"] = json!({"resource": {"attributes": []}});
            config["service"]["pipelines"]["traces"]["processors"] = json!(["resource"]);
        }), "processors::resource: missing required field \"attributes\"".to_owned()),
        (action(json!({"action": "insert", "value": 1})), "error creating AttrProc due to missing required field \"key\" at the 0-th action".to_owned()),
        (action(json!({"action": "delete"})), "error creating AttrProc due to missing required field (at least one of \"key\" and \"pattern\" have to be used) at the 0-th action".to_owned()),
        (action(json!({"key": "a", "action": "insert"})), format!("{of_key}. Either field \"value\", \"from_attribute\", \"from_context\", or \"default_value\" must be specified")),
        (action(json!({"key": "a", "action": "insert", "value": 1, "from_attribute": "b"})), format!("{of_key} due to multiple value sources being set")),
        (action(json!({"key": "a", "action": "insert", "value": 1, "pattern": "b"})), format!("{of_key}. Action \"insert\" does not use the \"pattern\" field. This must not be specified")),
        (action(json!({"key": "a", "action": "hash", "converted_type": "int"})), format!("{of_key}. Action \"hash\" does not use the \"converted_type\" field. This must not be specified")),
        (action(json!({"key": "a", "action": "delete", "value": 1})), format!("{of_key}. Action \"delete\" does not use \"value\" or \"from_attribute\" field. These must not be specified")),
        (action(json!({"key": "a", "action": "hash", "pattern": "("})), format!("{of_key}. Field \"pattern\" has invalid pattern: \"(\"")),
        (action(json!({"key": "a", "action": "extract"})), format!("{of_key} due to missing required field \"pattern\" for action \"extract\"")),
        (action(json!({"key": "a", "action": "extract", "pattern": "x", "value": 1})), format!("{of_key}. Action \"extract\" does not use a value source field. These must not be specified")),
        (action(json!({"key": "a", "action": "extract", "pattern": "x"})), format!("{of_key}. Field \"pattern\" contains no named matcher groups")),
        (action(json!({"key": "a", "action": "extract", "pattern": "(?P<a>x)(y)"})), format!("{of_key}. Field \"pattern\" contains at least one unnamed matcher group")),
        (action(json!({"key": "a", "action": "convert", "value": 1})), format!("{of_key}. Action \"convert\" does not use value sources or \"pattern\" field. These must not be specified")),
        (action(json!({"key": "a", "action": "convert"})), format!("{of_key} due to missing required field \"converted_type\" for action \"convert\"")),
        (action(json!({"key": "a", "action": "convert", "converted_type": "float"})), format!("{of_key} due to invalid value \"float\" in field \"converted_type\" for action \"convert\"")),
        (action(json!({"key": "a", "action": "rename"})), format!("{of_key} due to unsupported action \"rename\"")),
        (action(json!({"key": "a", "actoin": "insert"})), "has invalid keys: actoin".to_owned()),
        (include(json!({"match_type": "strict"})), "failed to create \"attributes\" processor, in pipeline \"traces\": at least one of \"attributes\", \"libraries\",  or \"resources\" field must be specified".to_owned()),
        (include(json!({"match_type": "strict", "log_bodies": ["a"]})), "failed to create \"attributes\" processor, in pipeline \"traces\": log_bodies should not be specified for trace spans".to_owned()),
        (include(json!({"match_type": "strict", "metric_names": ["a"]})), "metric_names should not be specified for trace spans".to_owned()),
        (include(json!({"services": ["a"]})), "error creating service name filters: unrecognized match_type: '', valid types are: [regexp strict]".to_owned()),
        (include(json!({"match_type": "regexp", "attributes": [{"key": "a", "value": 1}]})), "error creating attribute filters: match_type=regexp for \"a\" only supports Str, but found Int".to_owned()),
        (include(json!({"match_type": "strict", "resources": [{"key": ""}]})), "error creating resource filters: can't have empty key in the list of attributes".to_owned()),
        (include(json!({"match_type": "strict", "attributes": [{"name": "a"}]})), "has invalid keys: name".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/in": plain("nop", "forward")})), "connector \"forward\" used as exporter in [traces/in] pipeline but not used in any supported receiver pipeline".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/out": plain("forward", "nop")})), "failed to build pipelines: connector \"forward\" used as receiver in [traces/out] pipeline but not used in any supported exporter pipeline".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces/in": plain("nop", "forward"), "traces/out": plain("forward", "nop"), "logs/out": plain("forward", "nop")})), "connector \"forward\" used as receiver in [logs/out] pipeline but not used in any supported exporter pipeline".to_owned()),
        (pipelines(json!({"nop": {}}), json!({"traces": plain("nop", "nop")})), "'connectors' unknown type: \"nop\" for id: \"nop\" (valid values: [forward])".to_owned()),
        (pipelines(json!({}), json!({"traces": plain("nop", "forward")})), "service::pipelines::traces: references exporter \"forward\" which is not configured".to_owned()),
        (pipelines(json!({"forward": {"key": 1}}), json!({"traces": plain("nop", "nop")})), "has invalid keys: key".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces": {"receivers": ["nop"], "processors": ["forward"], "exporters": ["nop"]}})), "service::pipelines::traces: references processor \"forward\" which is not configured".to_owned()),
        (pipelines(json!({"forward": {}}), json!({"traces": {"receivers": ["nop", "forward"], "exporters": ["forward"]}})), "failed to build pipelines: cycle detected: connector \"forward\" (traces to traces) -> connector \"forward\" (traces to traces)".to_owned()),
    ];
    let mut wrong = Vec::new();
    for (i, (config, words)) in mistakes.iter().enumerate() {
        let file = folder.join(format!("{i}.yaml"));
        fs::write(&file, config.to_string()).expect("the case's folder is writable");
        for program in [otelcol.as_path(), Path::new(env!("CARGO_BIN_EXE_tapio"))] {
            let mut command = Command::new(program);
            command.arg("validate").arg(format!("--config=file:{}", file.display()));
            let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.code() != Some(1) || !text.contains(words.as_str()) {
                wrong.push(format!("{}: {words:?} is not in {text}", program.display()));
            }
        }
    }
    println!("    {} mistakes, told twice", mistakes.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
