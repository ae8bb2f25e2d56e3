//! What is told where a modality is missing: no traces, no metrics, no logs, or nothing of Kubernetes but its
//! Events.

use serde_json::{Value, json};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn attributes(all: &[(&str, &str)]) -> Value {
    all.iter().map(|(key, text)| json!({"key": key, "value": {"stringValue": text}})).collect()
}

fn at(second: u64) -> String {
    (START + second * SECOND).to_string()
}

fn ingest(engine: &mut Engine, signal: Signal, resource: &[(&str, &str)], scope: Value) {
    let group = match signal {
        Signal::Traces => "Spans",
        Signal::Logs => "Logs",
        _ => "Metrics",
    };
    let (of, scopes) = (format!("resource{group}"), format!("scope{group}"));
    let resource = json!({"attributes": attributes(resource)});
    let text = json!({of: [{"resource": resource, scopes: [scope]}]}).to_string();
    let bytes = json::to_proto(signal, text.as_bytes()).unwrap();
    engine.ingest(&Request::new(signal, bytes, 0));
}

/// Title and confidence of all stories at the end.
fn told(mut engine: Engine) -> Vec<(String, f64)> {
    engine.finish();
    let stories = engine.stories().all();
    stories.iter().map(|(story, _)| (story.title.clone(), story.confidence)).collect()
}

const CART: &[(&str, &str)] = &[
    ("service.name", "cart"),
    ("k8s.namespace.name", "shop"),
    ("k8s.pod.name", "cart-7c9d8b6f5-x2x9k"),
    ("k8s.deployment.name", "cart"),
];

/// A point of a histogram, cumulative since `start`: so many of this status, of 20 ms or of 800 ms.
fn duration(second: u64, start: u64, status: &str, (fast, slow): (u64, u64)) -> Value {
    json!({"startTimeUnixNano": at(start), "timeUnixNano": at(second), "count": (fast + slow).to_string(),
        "sum": fast as f64 * 0.02 + slow as f64 * 0.8, "explicitBounds": [0.01, 0.05, 0.5, 1.0],
        "bucketCounts": ["0", fast.to_string(), "0", slow.to_string(), "0"],
        "attributes": attributes(&[("http.route", "/cart"), ("http.response.status_code", status)])})
}

/// Half an hour of a service that tells by its metrics alone; from 900 s on `bad` of 60 requests fail and are
/// slow.
fn by_histograms(bad: u64, spans: bool) -> Engine {
    let (mut engine, _) = engine();
    let (mut good, mut failed) = (0, 0);
    for second in (15..1_800).step_by(15) {
        let bad = if second > 900 { bad } else { 0 };
        (good, failed) = (good + 60 - bad, failed + bad);
        let mut points = vec![duration(second, 0, "200", (good, 0))];
        if failed > 0 {
            points.push(duration(second, 0, "500", (0, failed)));
        }
        if spans {
            engine.ingest(&super::spans("cart", [(second, second * SECOND)].into_iter()));
        }
        let resource = if spans { &CART[..1] } else { CART };
        let histogram = json!({"aggregationTemporality": 2, "dataPoints": points});
        let metric =
            json!({"name": "http.server.request.duration", "unit": "s", "histogram": histogram});
        ingest(&mut engine, Signal::Metrics, resource, json!({"metrics": [metric]}));
    }
    engine
}

/// Requests and failures in the windows.
fn counted(engine: &mut Engine) -> (i64, i64) {
    let [windows, ..] = engine.windows.publish(None, Time::default()).unwrap();
    let sum = |column: &str| -> i64 {
        let of = |batch: &arrow::record_batch::RecordBatch| -> i64 {
            let values = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
            values.values().iter().sum()
        };
        windows.iter().map(of).sum()
    };
    (sum("count"), sum("errors"))
}

/// Guarantees: a service without spans, of whose requests only metrics of its pods tell, is told to fail; each
/// request is counted once, the first failures among them.
#[test]
fn a_service_that_fails_by_its_metrics_is_told() {
    let mut engine = by_histograms(24, false);
    assert_eq!(counted(&mut engine), (118 * 60, 59 * 24));
    let all = told(engine);
    assert!(all.iter().any(|(title, _)| title.contains("cart")), "{all:?}");
    assert!(all.iter().all(|(_, confidence)| *confidence < 0.7), "{all:?}");
    assert_eq!(told(by_histograms(0, false)), []);
}

/// Guarantees: where spans come the same requests are not counted a second time.
#[test]
fn where_spans_come_metrics_are_not_counted() {
    let mut engine = by_histograms(24, true);
    assert_eq!(counted(&mut engine), (119, 0));
}

/// Guarantees: sums that begin anew with a process are counted on, and several processes that say they are one
/// are not believed.
#[test]
fn restarts_are_counted_on_and_confusion_is_not() {
    let sum = |second: u64, start: u64, value: u64| {
        json!({"startTimeUnixNano": at(start), "timeUnixNano": at(second), "asInt": value.to_string(),
            "attributes": attributes(&[("status", "200"), ("uri", "/cart")])})
    };
    let take = |engine: &mut Engine, point: Value| {
        let sum = json!({"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]});
        let metric = json!({"name": "http_server_requests_seconds_count", "sum": sum});
        ingest(engine, Signal::Metrics, CART, json!({"metrics": [metric]}));
    };
    let (mut restarted, _) = engine();
    for n in 1..=10 {
        let (start, value) = if n <= 5 { (0, 1_000 + n * 10) } else { (70, (n - 5) * 10) };
        take(&mut restarted, sum(n * 15, start, value));
    }
    assert_eq!(counted(&mut restarted).0, 90);
    let (mut confused, _) = engine();
    for n in 1..=100 {
        take(&mut confused, sum(n * 15, 0, 1_000 * (1 + n % 2) + n * 10));
    }
    assert!(counted(&mut confused).0 < 5_000, "{:?}", counted(&mut confused));
}

/// Guarantees: of requests counted with exponential buckets, in deltas, the time is known as well.
#[test]
fn exponential_buckets_tell_how_long_it_took() {
    let (mut engine, _) = engine();
    for n in 1..=10 {
        // Scale 0: 128 ms lies between 2^-3 and 2^-2 seconds.
        let point = json!({"startTimeUnixNano": at((n - 1) * 15), "timeUnixNano": at(n * 15), "count": "40", "sum": 8.0,
            "scale": 0, "zeroCount": "0", "positive": {"offset": -3, "bucketCounts": ["40"]}});
        let histogram = json!({"aggregationTemporality": 1, "dataPoints": [point]});
        let metric =
            json!({"name": "rpc.server.duration", "unit": "s", "exponentialHistogram": histogram});
        ingest(&mut engine, Signal::Metrics, CART, json!({"metrics": [metric]}));
    }
    assert_eq!(counted(&mut engine).0, 9 * 40);
    let [windows, ..] = engine.windows.publish(None, Time::default()).unwrap();
    for batch in windows {
        let p50 = batch.column_by_name("p50_ms").unwrap();
        let p50 = p50.as_primitive::<arrow::datatypes::Float64Type>();
        assert!(p50.values().iter().all(|ms| (125.0..300.0).contains(ms)), "{p50:?}");
    }
}

fn line(engine: &mut Engine, service: &str, second: u64, error: Option<&str>) {
    let severity = if error.is_some() { 17 } else { 9 };
    let body = json!({"stringValue": error.unwrap_or("handled")});
    let record = json!({"timeUnixNano": at(second), "severityNumber": severity, "body": body});
    let resource = [
        ("service.name", service),
        ("k8s.namespace.name", "shop"),
        ("k8s.deployment.name", service),
    ];
    ingest(engine, Signal::Logs, &resource, json!({"logRecords": [record]}));
}

/// Guarantees: where there are only logs, a service that begins to log errors is told with the reason that it
/// names, and as what its callers complain of; errors of every day are not.
#[test]
fn where_there_are_only_logs_their_errors_tell() {
    for sick in [true, false] {
        let (mut engine, _) = engine();
        for second in (0..600).step_by(2) {
            for service in ["web", "cart", "mail"] {
                line(&mut engine, service, second, None);
            }
            if second % 20 == 0 {
                line(&mut engine, "mail", second, Some("550 no such user"));
            }
            if sick && second > 300 {
                let why = "java.lang.OutOfMemoryError: Java heap space";
                line(&mut engine, "cart", second, Some(why));
                line(&mut engine, "web", second, Some("500 from http://cart/items/17"));
            }
        }
        let all = told(engine);
        if sick {
            let [(title, confidence)] = &all[..] else { panic!("{all:?}") };
            assert!(title.contains("cart stands still in its runtime"), "{title}");
            assert!(*confidence < 0.7, "{confidence}");
        } else {
            assert_eq!(all, []);
        }
    }
}

fn event(engine: &mut Engine, second: u64, (kind, name): (&str, &str), reason: &str, text: &str) {
    let warning = if reason.starts_with("Failed") { "Warning" } else { "Normal" };
    let record = json!({"timeUnixNano": at(second), "severityText": warning, "body": {"stringValue": text},
        "attributes": attributes(&[("k8s.event.reason", reason), ("k8s.event.uid", &format!("{reason}{second}")), ("k8s.namespace.name", "shop")])});
    let resource = [("k8s.object.kind", kind), ("k8s.object.name", name)];
    ingest(engine, Signal::Logs, &resource, json!({"logRecords": [record]}));
}

/// Guarantees: where nothing is seen of Kubernetes but Events, what they say again and again keeps a workload
/// from running is told with what they say; a start that stumbles once, or comes through, is not.
#[test]
fn where_there_are_only_events_they_tell() {
    let pull = "Failed to pull image \"r.io/cart:3\": not found";
    let full = "0/3 nodes are available: 3 Insufficient memory.";
    let story = |pod: &str, reason: &str, text: &str, times: u64, then: Option<&str>| {
        let (mut engine, _) = engine();
        for n in 0..times {
            event(&mut engine, 30 + n * 20, ("Pod", pod), reason, text);
        }
        if let Some(then) = then {
            event(&mut engine, 30 + times * 20, ("Pod", pod), then, "well");
        }
        for second in (40..400).step_by(10) {
            event(&mut engine, second + times * 20, ("Node", "n1"), "Starting", "kubelet");
        }
        told(engine)
    };
    let all = story("cart-7c9d8b6f5-x2x9k", "Failed", pull, 6, None);
    assert!(
        all.len() == 1 && all[0].0.contains("cart") && all[0].0.contains("not found"),
        "{all:?}"
    );
    let all = story("ledger-0", "FailedScheduling", full, 6, None);
    assert!(all.len() == 1 && all[0].0.contains("Insufficient memory"), "{all:?}");
    assert_eq!(story("cart-7c9d8b6f5-x2x9k", "FailedMount", "timed out", 1, None), []);
    assert_eq!(story("ledger-0", "FailedScheduling", full, 2, Some("Scheduled")), []);
}

fn gauge(engine: &mut Engine, second: u64, name: &str, value: f64) {
    let resource = [
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", "cart-7c9d8b6f5-x2x9k"),
        ("k8s.container.name", "cart"),
    ];
    let points = json!({"dataPoints": [{"timeUnixNano": at(second), "asDouble": value}]});
    let metric = json!({"name": name, "gauge": points});
    ingest(engine, Signal::Metrics, &resource, json!({"metrics": [metric]}));
}

/// Guarantees: memory that grows slowly is told before it is full, with the time that is left; when it is full
/// and the container restarts, though nobody says why, it was killed for memory.
#[test]
fn a_slow_leak_is_told_before_it_kills_and_its_kill_is_known() {
    for (minutes, expected) in [(24, "is full in"), (30, "runs out of memory")] {
        let (mut engine, _) = engine();
        for second in (0..minutes * 60).step_by(10) {
            let grown = 0.3 + 0.7 * (second as f64 / 1_600.0) % 0.7;
            gauge(&mut engine, second, "k8s.container.memory_limit", 100.0);
            gauge(&mut engine, second, "container.memory.working_set", 100.0 * grown);
            let restarts = f64::from(u8::from(second >= 1_600));
            gauge(&mut engine, second, "k8s.container.restarts", restarts);
        }
        let all = told(engine);
        let [(title, confidence)] = &all[..] else { panic!("{minutes} {all:?}") };
        assert!(title.contains("shop/cart") && title.contains(expected), "{title}");
        assert!(*confidence < 0.7, "{confidence}");
    }
}
