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
