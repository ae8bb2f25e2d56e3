//! The actions and filters on real requests. What is expected is what the Collector 0.149 does.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tapio_proto::{
    Accepted, Consumer, Metadata, Next, Pending, Request, Signal, check, json as otlp,
};

use super::{Attributes, AttributesConfig, Resource, ResourceConfig};

/// Keeps what comes.
#[derive(Default)]
struct Sink(Mutex<Vec<Request>>);

impl Consumer for Sink {
    fn consume(&self, request: Request) -> Pending<'_> {
        self.0.lock().unwrap().push(request);
        Box::pin(std::future::ready(Ok(Accepted::default())))
    }
}

/// What a processor makes of a request in JSON.
pub(crate) fn through(
    signal: Signal,
    input: Value,
    processor: impl FnOnce(Next) -> Arc<dyn Consumer>,
) -> Value {
    sent_by(None, signal, input, processor)
}

/// The same of a request of which the sender is known.
pub(crate) fn sent_by(
    metadata: Option<Arc<Metadata>>,
    signal: Signal,
    input: Value,
    processor: impl FnOnce(Next) -> Arc<dyn Consumer>,
) -> Value {
    let bytes = otlp::to_proto(signal, input.to_string().as_bytes()).unwrap();
    let items = check(signal, &bytes).unwrap();
    let sink = Arc::new(Sink::default());
    let processor = processor(sink.clone());
    let request = Request { metadata, ..Request::new(signal, bytes, items) };
    futures_util::FutureExt::now_or_never(processor.consume(request)).unwrap().unwrap();
    let out = sink.0.lock().unwrap().pop().unwrap();
    assert_eq!(check(signal, &out.bytes), Ok(items));
    serde_json::from_str(&otlp::from_proto(signal, &out.bytes).unwrap()).unwrap()
}

fn attributes(signal: Signal, config: Value, input: Value) -> Value {
    let config: AttributesConfig = serde_json::from_value(config).unwrap();
    config.check().unwrap();
    through(signal, input, |next| Arc::new(Attributes::new(&config, signal, next).unwrap()))
}

/// Attributes of a span, as pairs.
pub(crate) fn list(pairs: &[(&str, Value)]) -> Value {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

fn span(attributes: &[(&str, Value)]) -> Value {
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "s", "attributes": list(attributes)}]}]}]})
}

pub(crate) fn text(text: &str) -> Value {
    json!({"stringValue": text})
}

/// Attributes of the span after these actions.
fn after(actions: Value, before: &[(&str, Value)], expected: &[(&str, Value)]) {
    let out = attributes(Signal::Traces, json!({"actions": actions}), span(before));
    let got = out.pointer("/resourceSpans/0/scopeSpans/0/spans/0/attributes");
    assert_eq!(got.cloned().unwrap_or(json!([])), list(expected), "{actions}");
}

#[test]
fn each_action_does_what_the_collector_does() {
    let a = [("a", text("1")), ("b", json!({"intValue": "2"}))];
    let b = a[1].clone();
    after(json!([{"key": "a", "value": "x", "action": "insert"}]), &a, &a);
    after(
        json!([{"key": "c", "value": 5, "action": "insert"}]),
        &a,
        &[a[0].clone(), b.clone(), ("c", json!({"intValue": "5"}))],
    );
    after(
        json!([{"key": "a", "value": 1.5, "action": "update"}, {"key": "c", "value": 1, "action": "update"}]),
        &a,
        &[("a", json!({"doubleValue": 1.5})), b.clone()],
    );
    after(
        json!([{"key": "a", "value": true, "action": "upsert"}, {"key": "c", "from_attribute": "b", "action": "UPSERT"}]),
        &a,
        &[("a", json!({"boolValue": true})), b.clone(), ("c", json!({"intValue": "2"}))],
    );
    after(
        json!([{"key": "c", "from_attribute": "none", "action": "insert"}, {"key": "d", "from_attribute": "none", "default_value": "x", "action": "insert"}]),
        &a,
        &[a[0].clone(), b.clone(), ("d", text("x"))],
    );
    after(json!([{"key": "a", "action": "delete"}]), &a, std::slice::from_ref(&b));
    after(json!([{"pattern": "^[ab]$", "action": "delete"}]), &a, &[]);
    after(
        json!([{"key": "a", "action": "hash"}, {"pattern": "^none$", "action": "hash"}]),
        &a,
        &[
            ("a", text("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b")),
            b.clone(),
        ],
    );
    after(
        json!([{"key": "a", "converted_type": "int", "action": "convert"}, {"key": "b", "converted_type": "string", "action": "convert"}]),
        &a,
        &[("a", json!({"intValue": "1"})), ("b", text("2"))],
    );
}

#[test]
fn extract_overwrites_and_leaves_other_types_alone() {
    let url = ("http.url", text("http://shop/cart"));
    let rule = json!([{"key": "http.url", "pattern": r"^(?P<proto>.*)://(?P<host>[^/]*)/(?P<none>x)?", "action": "extract"}]);
    after(
        rule.clone(),
        &[("host", json!({"intValue": "1"})), url.clone()],
        &[("host", text("shop")), url, ("proto", text("http")), ("none", text(""))],
    );
    let number = ("http.url", json!({"intValue": "1"}));
    after(rule, std::slice::from_ref(&number), std::slice::from_ref(&number));
}

#[test]
fn the_sender_is_a_source_of_values() {
    let sender = Metadata {
        headers: vec![("x-tenant".into(), "a".into()), ("x-tenant".into(), "b".into())],
        auth: vec![("username", "ada".into())],
        peer: Some([10, 0, 0, 1].into()),
    };
    let action = |key: &str, from: &str| json!({"key": key, "from_context": from, "default_value": "none", "action": "insert"});
    let config: AttributesConfig = serde_json::from_value(json!({"actions": [
        action("address", "client.address"),
        action("tenant", "metadata.X-Tenant"),
        action("same", "x-tenant"),
        action("user", "auth.username"),
        action("other", "metadata.x-other"),
    ]}))
    .unwrap();
    let attributes = |sender: Option<Arc<Metadata>>| {
        let make = |next| Arc::new(Attributes::new(&config, Signal::Traces, next).unwrap()) as _;
        let out = sent_by(sender, Signal::Traces, span(&[]), make);
        out["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"].clone()
    };
    let expected = [
        ("address", text("10.0.0.1")),
        ("tenant", text("a;b")),
        ("same", text("a;b")),
        ("user", text("ada")),
        ("other", text("none")),
    ];
    assert_eq!(attributes(Some(Arc::new(sender))), list(&expected));
    assert_eq!(attributes(None)[0]["value"], text("none"));
}

#[test]
fn values_of_any_type_can_be_configured() {
    after(
        json!([{"key": "a", "value": {"x": [1, "y", null]}, "action": "insert"}, {"key": "b", "value": "", "action": "insert"}]),
        &[],
        &[
            (
                "a",
                json!({"kvlistValue": {"values": [{"key": "x", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "y"}, {}]}}}]}}),
            ),
            ("b", text("")),
        ],
    );
}

/// Scenario: an attribute that is to be hidden is there twice, which no SDK sends.
/// Guarantees: both are hidden. (The Collector hides the first one only.)
#[test]
fn nothing_hides_behind_a_second_attribute_of_the_same_key() {
    let twice = [("password", text("a")), ("x", text("b")), ("password", text("c"))];
    after(json!([{"key": "password", "action": "delete"}]), &twice, &[("x", text("b"))]);
    after(
        json!([{"key": "password", "value": "***", "action": "update"}]),
        &twice,
        &[("password", text("***")), ("x", text("b")), ("password", text("***"))],
    );
}

/// Which of the spans (by name) are marked.
fn marked(filter: Value) -> Vec<String> {
    let spans = |names: &[(&str, i32, &str)]| -> Value {
        let span = |(name, kind, value): &(&str, i32, &str)| json!({"name": name, "kind": kind, "attributes": list(&[("v", text(value)), ("n", json!({"intValue": "5"}))])});
        names.iter().map(span).collect()
    };
    let group = |service: Value, library: &str, names: Value| json!({"resource": {"attributes": service}, "scopeSpans": [{"scope": {"name": library, "version": "1.0"}, "spans": names}]});
    let cart = list(&[("service.name", text("cart")), ("zone", text("eu"))]);
    let input = json!({"resourceSpans": [
        group(cart, "http", spans(&[("get", 2, "x"), ("put", 3, "y")])),
        group(json!([]), "sql", spans(&[("select", 3, "x")])),
    ]});
    let mut config = json!({"actions": [{"key": "marked", "value": true, "action": "insert"}]});
    filter.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
    let out = attributes(Signal::Traces, config, input);
    let groups = out["resourceSpans"].as_array().unwrap();
    let spans = groups.iter().flat_map(|group| group["scopeSpans"][0]["spans"].as_array().unwrap());
    spans
        .filter(|span| span["attributes"].to_string().contains("marked"))
        .map(|span| span["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn include_and_exclude_pick_spans() {
    let include = |properties: Value| marked(json!({"include": properties}));
    let strict = |mut properties: Value| {
        properties["match_type"] = json!("strict");
        properties
    };
    assert_eq!(marked(json!({})), ["get", "put", "select"]);
    assert_eq!(include(strict(json!({"services": ["cart"]}))), ["get", "put"]);
    assert_eq!(include(strict(json!({"services": ["<nil-service-name>"]}))), ["select"]);
    assert_eq!(include(json!({"match_type": "regexp", "services": ["^c.rt$"]})), ["get", "put"]);
    assert_eq!(include(strict(json!({"span_names": ["put", "select"]}))), ["put", "select"]);
    assert_eq!(include(strict(json!({"span_kinds": ["SPAN_KIND_SERVER"]}))), ["get"]);
    assert_eq!(include(strict(json!({"resources": [{"key": "zone"}]}))), ["get", "put"]);
    assert_eq!(include(strict(json!({"resources": [{"key": "zone", "value": "us"}]}))), [""; 0]);
    assert_eq!(
        include(strict(
            json!({"attributes": [{"key": "v", "value": "x"}, {"key": "n", "value": 5}]})
        )),
        ["get", "select"]
    );
    assert_eq!(include(strict(json!({"attributes": [{"key": "n", "value": "5"}]}))), [""; 0]);
    assert_eq!(
        include(json!({"match_type": "regexp", "attributes": [{"key": "n", "value": "^[4-6]$"}]})),
        ["get", "put", "select"]
    );
    assert_eq!(include(strict(json!({"libraries": [{"name": "sql"}]}))), ["select"]);
    assert_eq!(
        include(strict(json!({"libraries": [{"name": "http", "version": "2.0"}]}))),
        [""; 0]
    );
    let both = json!({
        "include": {"match_type": "strict", "services": ["cart"]},
        "exclude": {"match_type": "strict", "span_names": ["get"]},
    });
    assert_eq!(marked(both), ["put"]);
    assert_eq!(
        marked(json!({"exclude": {"match_type": "strict", "services": ["cart"]}})),
        ["select"]
    );
    let narrow = json!({"exclude": {"match_type": "strict", "services": ["cart"], "attributes": [{"key": "v", "value": "y"}]}});
    assert_eq!(marked(narrow), ["get", "select"]);
}

#[test]
fn log_records_are_picked_by_body_and_severity() {
    let log = |body: Value, number: i32| json!({"body": body, "severityNumber": number, "severityText": "T"});
    let input = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        log(text("login failed"), 9),
        log(json!({"kvlistValue": {"values": [{"key": "message", "value": text("login failed")}]}}), 17),
        log(text("ok"), 0),
    ]}]}]});
    let hits = |properties: Value| {
        let config = json!({"include": properties, "actions": [{"key": "hit", "value": 1, "action": "insert"}]});
        let out = attributes(Signal::Logs, config, input.clone());
        let logs = out["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap();
        let hit = |log: &Value| log["attributes"].to_string().contains("hit");
        logs.iter().map(hit).collect::<Vec<_>>()
    };
    assert_eq!(
        hits(json!({"match_type": "regexp", "log_bodies": ["failed"]})),
        [true, true, false]
    );
    assert_eq!(
        hits(json!({"match_type": "strict", "log_bodies": ["ok"], "log_severity_texts": ["T"]})),
        [false, false, true]
    );
    assert_eq!(
        hits(json!({"match_type": "strict", "log_severity_number": {"min": 10}})),
        [false, true, false]
    );
    assert_eq!(
        hits(
            json!({"match_type": "strict", "log_severity_number": {"min": 10, "match_undefined": true}})
        ),
        [false, true, true]
    );
}

#[test]
fn data_points_of_every_kind_are_edited() {
    let point = json!({"attributes": list(&[("a", text("1"))])});
    let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
    let metric = |kind: &&str| json!({"name": kind, *kind: {"dataPoints": [point, point]}, "metadata": list(&[("a", text("1"))])});
    let metrics: Vec<_> = kinds.iter().map(metric).collect();
    let input = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]});
    let config = json!({"include": {"match_type": "regexp", "metric_names": ["s|g"]}, "actions": [{"key": "a", "action": "delete"}]});
    let out = attributes(Signal::Metrics, config, input);
    let metrics = out["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    for (kind, metric) in kinds.iter().zip(metrics) {
        assert_eq!(metric["metadata"].as_array().map(Vec::len), Some(1), "{kind}");
        let points = metric[*kind]["dataPoints"].to_string();
        assert!(!points.contains("\"a\""), "{kind}: {points}");
    }
}

#[test]
fn resources_get_their_attributes_in_every_signal() {
    let config = json!({"attributes": [
        {"key": "cluster", "value": "eu-1", "action": "upsert"},
        {"key": "host", "action": "delete"},
    ]});
    let config: ResourceConfig = serde_json::from_value(config).unwrap();
    config.check().unwrap();
    for (signal, groups, scopes, records) in [
        (Signal::Traces, "resourceSpans", "scopeSpans", "spans"),
        (Signal::Logs, "resourceLogs", "scopeLogs", "logRecords"),
        (Signal::Metrics, "resourceMetrics", "scopeMetrics", "metrics"),
    ] {
        let input = json!({groups: [
            {"resource": {"attributes": list(&[("host", text("h"))])}, scopes: [{records: [{}]}]},
            {scopes: [{records: [{}]}]},
        ]});
        let out = through(signal, input, |next| Arc::new(Resource::new(&config, next).unwrap()));
        let expected = list(&[("cluster", text("eu-1"))]);
        for group in out[groups].as_array().unwrap() {
            assert_eq!(group["resource"]["attributes"], expected, "{groups}");
        }
    }
}

#[test]
fn what_cannot_work_is_said_in_the_collectors_words() {
    let check = |config: Value| {
        let config: AttributesConfig = serde_json::from_value(config).unwrap();
        config.check().and_then(|()| config.fits(Signal::Traces)).unwrap_err()
    };
    let action = |action: Value| check(json!({"actions": [action]}));
    assert_eq!(check(json!({})), "missing required field \"actions\"");
    assert_eq!(
        action(json!({"value": 1, "action": "insert"})),
        "error creating AttrProc due to missing required field \"key\" at the 0-th action"
    );
    assert_eq!(
        action(json!({"action": "hash"})),
        "error creating AttrProc due to missing required field (at least one of \"key\" and \"pattern\" have to be used) at the 0-th action"
    );
    for (config, words) in [
        (
            json!({"action": "insert"}),
            ". Either field \"value\", \"from_attribute\", \"from_context\", or \"default_value\" must be specified",
        ),
        (
            json!({"action": "upsert", "value": 1, "from_attribute": "b"}),
            " due to multiple value sources being set",
        ),
        (
            json!({"action": "update", "value": 1, "pattern": "x"}),
            ". Action \"update\" does not use the \"pattern\" field. This must not be specified",
        ),
        (
            json!({"action": "delete", "value": 1}),
            ". Action \"delete\" does not use \"value\" or \"from_attribute\" field. These must not be specified",
        ),
        (
            json!({"action": "delete", "pattern": "("}),
            ". Field \"pattern\" has invalid pattern: \"(\"",
        ),
        (
            json!({"action": "extract", "pattern": "x"}),
            ". Field \"pattern\" contains no named matcher groups",
        ),
        (
            json!({"action": "extract", "pattern": "(?P<a>x)(y)"}),
            ". Field \"pattern\" contains at least one unnamed matcher group",
        ),
        (
            json!({"action": "convert"}),
            " due to missing required field \"converted_type\" for action \"convert\"",
        ),
        (
            json!({"action": "convert", "converted_type": "float"}),
            " due to invalid value \"float\" in field \"converted_type\" for action \"convert\"",
        ),
        (json!({"action": "rename"}), " due to unsupported action \"rename\""),
    ] {
        let mut config = config;
        config["key"] = json!("k");
        assert_eq!(
            action(config),
            format!("error with key \"k\" (0-th action): error creating AttrProc{words}")
        );
    }
    let filter = |filter: Value| {
        check(json!({"include": filter, "actions": [{"key": "k", "action": "delete"}]}))
    };
    assert_eq!(
        filter(json!({"match_type": "strict"})),
        "at least one of \"attributes\", \"libraries\",  or \"resources\" field must be specified"
    );
    assert_eq!(
        filter(json!({"match_type": "strict", "log_bodies": ["x"]})),
        "log_bodies should not be specified for trace spans"
    );
    assert_eq!(
        filter(json!({"services": ["x"]})),
        "error creating service name filters: unrecognized match_type: '', valid types are: [regexp strict]"
    );
    assert_eq!(
        filter(json!({"match_type": "regexp", "attributes": [{"key": "a", "value": 1}]})),
        "error creating attribute filters: match_type=regexp for \"a\" only supports Str, but found Int"
    );
}
