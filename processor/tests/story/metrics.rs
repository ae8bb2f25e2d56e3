//! Where nothing is seen but metrics: who does worse than ever, and who only suffers from it.

use serde_json::{Value, json};
use tapio_proto::{Request, Signal, check, json::to_proto, model::Story};

use crate::played::play;

const MINUTE: u64 = 60_000_000_000;
/// 2026-11-22T03:00:00Z
const START: u64 = 1_795_316_400_000_000_000;

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Points of five minutes: `gate` calls `shop`, which calls `stock`; each has 1,000 requests, `availability`
/// and a mean latency of so many ms, as told for the interval.
fn stories(intervals: u64, tells: impl Fn(u64, &str) -> (f64, f64)) -> Vec<Story> {
    let mut seen = Vec::new();
    for interval in 1..=intervals {
        let time = (START + interval * 5 * MINUTE).to_string();
        let gauge = |name: &str, unit: &str, value: f64| {
            json!({"name": name, "unit": unit,
                "gauge": {"dataPoints": [{"timeUnixNano": time, "asDouble": value}]}})
        };
        let mut groups = Vec::new();
        for service in ["gate", "shop", "stock"] {
            let (availability, latency) = tells(interval, service);
            let requests = json!({"name": "requests", "sum": {"aggregationTemporality": 1, "isMonotonic": true,
                "dataPoints": [{"timeUnixNano": time, "asDouble": 1_000.0 + (interval % 7) as f64}]}});
            let metrics = [
                gauge("availability", "%", availability),
                gauge("latency", "ms", latency + (interval % 3) as f64),
                requests,
            ];
            groups.push(json!({"resource": {"attributes": [text("service.name", service)]},
                "scopeMetrics": [{"metrics": metrics}]}));
        }
        let call = |client: &str, server: &str| {
            json!({"timeUnixNano": time, "asDouble": 1.0,
                "attributes": [text("client", client), text("server", server)]})
        };
        groups.push(
            json!({"scopeMetrics": [{"metrics": [{"name": "traces_service_graph_request_total",
            "sum": {"aggregationTemporality": 2, "isMonotonic": true,
                "dataPoints": [call("gate", "shop"), call("shop", "stock")]}}]}]}),
        );
        let body = json!({"resourceMetrics": groups}).to_string();
        let bytes = to_proto(Signal::Metrics, body.as_bytes()).unwrap();
        let items = check(Signal::Metrics, &bytes).unwrap();
        seen.push(Request::new(Signal::Metrics, bytes, items));
    }
    let mut seen = seen.into_iter();
    play(|| seen.next()).stories.into_iter().map(|(story, _)| story).collect()
}

/// Guarantees: of services that fail together the deepest is blamed, below the confidence of what is seen
/// with its mechanism; its callers are its effect.
#[test]
fn the_deepest_service_that_fails_is_blamed() {
    let told = stories(60, |interval, service| match service {
        "stock" if interval > 50 => (60.0, 20.0),
        _ if interval > 50 => (70.0, 40.0),
        _ => (100.0, 20.0),
    });
    let [story] = &told[..] else { panic!("{told:?}") };
    let cause = story.root_cause.as_ref().unwrap();
    assert_eq!((&*cause.service, &*cause.pattern), ("stock", "service_errors"));
    assert!((0.5..0.95).contains(&story.confidence), "{}", story.confidence);
}

/// Guarantees: slowness is found like failure.
#[test]
fn the_deepest_service_that_is_slow_is_blamed() {
    let told = stories(60, |interval, service| match service {
        "shop" if interval > 50 => (100.0, 900.0),
        "gate" if interval > 50 => (100.0, 950.0),
        _ => (100.0, 20.0),
    });
    let [story] = &told[..] else { panic!("{told:?}") };
    let cause = story.root_cause.as_ref().unwrap();
    assert_eq!((&*cause.service, &*cause.pattern), ("shop", "service_slow"));
}

/// Guarantees: what varies as it always did is no story, nor is a failure in a thousand.
#[test]
fn what_varies_as_ever_is_no_story() {
    let told = stories(120, |interval, _| {
        (99.9 + (interval % 2) as f64 / 10.0, 20.0 + (interval * 7 % 5) as f64)
    });
    assert!(told.is_empty(), "{told:?}");
}

/// Guarantees: a service that sends no spans, among others that do, is judged by its own request metrics.
#[test]
fn a_service_without_spans_among_traced_ones_is_judged_by_its_metrics() {
    const SECOND: u64 = 1_000_000_000;
    let resource = |service: &str| {
        json!({"attributes": [text("service.name", service), text("k8s.namespace.name", "town"),
            text("k8s.deployment.name", service)]})
    };
    let mut seen = Vec::new();
    let mut add = |signal: Signal, value: Value| {
        let bytes = to_proto(signal, value.to_string().as_bytes()).unwrap();
        let items = check(signal, &bytes).unwrap();
        seen.push(Request::new(signal, bytes, items));
    };
    let mut served = [0_u64; 2];
    for second in 0..300 {
        for quarter in 0..4 {
            let failed = second >= 150 && quarter % 2 == 0;
            served[usize::from(failed)] += 1;
            let (start, n) = (START + second * SECOND + quarter * SECOND / 4, second * 4 + quarter);
            let span = |id: u64, parent: String, kind: u8, peer: Value| {
                json!({"traceId": format!("{:032x}", n + 1), "spanId": format!("{:016x}", n * 2 + id),
                    "parentSpanId": parent, "name": "GET /", "kind": kind, "attributes": peer,
                    "status": {"code": if failed { 2 } else { 0 }}, "startTimeUnixNano": start.to_string(),
                    "endTimeUnixNano": (start + 9_000_000).to_string()})
            };
            let spans = [
                span(1, String::new(), 2, json!([])),
                span(2, format!("{:016x}", n * 2 + 1), 3, json!([text("server.address", "back")])),
            ];
            add(
                Signal::Traces,
                json!({"resourceSpans": [
                {"resource": resource("front"), "scopeSpans": [{"spans": spans}]}]}),
            );
        }
        if second % 15 == 14 {
            let point = |status: u16, count: u64| {
                json!({"startTimeUnixNano": START.to_string(), "count": count.to_string(), "sum": 0.004 * count as f64,
                    "timeUnixNano": (START + second * SECOND).to_string(), "explicitBounds": [0.01],
                    "bucketCounts": [count.to_string(), "0"], "attributes": [text("http.request.method", "GET"),
                        {"key": "http.response.status_code", "value": {"intValue": status.to_string()}}]})
            };
            let metric = json!({"name": "http.server.request.duration", "unit": "s", "histogram": {
                "aggregationTemporality": 2, "dataPoints": [point(200, served[0]), point(500, served[1])]}});
            add(
                Signal::Metrics,
                json!({"resourceMetrics": [
                {"resource": resource("back"), "scopeMetrics": [{"metrics": [metric]}]}]}),
            );
        }
    }
    let mut seen = seen.into_iter();
    let told: Vec<Story> =
        play(|| seen.next()).stories.into_iter().map(|(story, _)| story).collect();
    let [story] = &told[..] else { panic!("{told:#?}") };
    let cause = story.root_cause.as_ref().unwrap();
    assert_eq!((&*cause.service, &*cause.pattern), ("back", "service_errors"), "{story:#?}");
}
