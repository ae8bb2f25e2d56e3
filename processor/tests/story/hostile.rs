//! Clocks that are wrong and senders that mean no good: the engine stands, and goes on telling.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use tapio_processor::{Engine, Patterns};
use tapio_proto::{Request, Signal, check, json::to_proto, model::Time};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// 2026-11-22T03:00:00Z
pub(crate) const START: u64 = 1_795_316_400 * SECOND;

pub(crate) fn engine() -> Engine {
    let store = Engine::store(64 << 20).unwrap();
    Engine::new(store, Arc::new(Patterns::builtin().unwrap())).unwrap().unhurried()
}

pub(crate) fn request(signal: Signal, body: &Value) -> Request {
    let bytes = to_proto(signal, body.to_string().as_bytes()).unwrap();
    let items = check(signal, &bytes).unwrap();
    Request::new(signal, bytes, items)
}

/// Server spans of one service that end at these times, 1 ms each; `status` 2 is an error.
pub(crate) fn spans(service: &str, ends: impl Iterator<Item = u64>, status: u8) -> Request {
    let spans: Vec<Value> = ends
        .map(|end| {
            json!({"name": "GET /", "kind": 2, "status": {"code": status},
                "startTimeUnixNano": end.saturating_sub(1_000_000).to_string(), "endTimeUnixNano": end.to_string()})
        })
        .collect();
    let resource =
        json!({"attributes": [{"key": "service.name", "value": {"stringValue": service}}]});
    request(
        Signal::Traces,
        &json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}),
    )
}

/// Ten requests a second, from and to these seconds after the start.
pub(crate) fn second(of: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    of.flat_map(|second| (0..10).map(move |tenth| START + second * SECOND + tenth * SECOND / 10))
}

/// Guarantees: after all that, a service that fails is still told of.
fn assert_still_tells(mut engine: Engine, from: u64) {
    let mut told = Vec::new();
    for at in from..from + 60 {
        told.extend(engine.ingest(&spans("shop", second(at..at + 1), 0)));
    }
    for at in from + 60..from + 120 {
        told.extend(engine.ingest(&spans("shop", second(at..at + 1), 2)));
    }
    assert_eq!(engine.failures, (0, None));
    let stories: Vec<_> = told.iter().map(|telling| &telling.story().0.affected.services).collect();
    assert!(stories.iter().any(|services| services.contains(&"shop".to_owned())), "{stories:?}");
}

#[test]
fn a_failing_service_is_told_of() {
    assert_still_tells(engine(), 0);
}

/// Guarantees: a service that few people use is told of as well, and one error of its is none.
#[test]
fn a_service_with_few_requests_is_told_of() {
    for every in [1, 5] {
        let mut engine = engine();
        let mut told = Vec::new();
        for at in (0..420).step_by(every) {
            let status = if at == 150 || at >= 300 { 2 } else { 0 };
            let end = [START + at as u64 * SECOND].into_iter();
            told.extend(engine.ingest(&spans("shop", end, status)));
        }
        assert_eq!(engine.failures, (0, None));
        let opened = told.first().map(|telling| {
            telling.story().0.opened.seconds_since(Time((START + 300 * SECOND) as i64))
        });
        assert!(
            opened.is_some_and(|after| (0.0..90.0).contains(&after)),
            "every {every} s: {opened:?}"
        );
        let ids: BTreeSet<_> = told.iter().map(|telling| &telling.story().0.id).collect();
        assert_eq!(ids.len(), 1, "one story while it lasts");
    }
}

/// Guarantees: the end of time is no time: no endless row of passes, however often it is said.
#[test]
fn the_end_of_time_comes_to_an_end() {
    let mut engine = engine();
    engine.ingest(&spans("shop", second(0..60), 0));
    for _ in 0..20 {
        engine.ingest(&spans("broken", [u64::MAX, i64::MAX as u64].into_iter(), 2));
    }
    engine.finish();
    assert_eq!(engine.failures, (0, None));
}

/// Guarantees: one sender whose clock is hours ahead neither stops the engine nor sets its time.
#[test]
fn failures_from_the_future_are_no_panic() {
    let mut engine = engine();
    engine.ingest(&spans("shop", second(0..60), 0));
    let future = 7_200;
    engine.ingest(&spans("shop", second(future..future + 15), 2));
    assert_still_tells(engine, 60);
}

/// Guarantees: facts with any time at all do not make the queries fail.
#[test]
fn facts_at_the_ends_of_time_are_judged() {
    let mut engine = engine();
    engine.ingest(&spans("shop", second(0..60), 0));
    for time in [0, 1, i64::MAX as u64, u64::MAX] {
        let event = json!({"kind": "Event", "type": "Warning", "reason": "BackOff", "message": "x",
            "metadata": {"name": format!("e{time}"), "namespace": "shop", "uid": format!("u{time}")},
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "shop-0"}});
        let body = json!({"stringValue": event.to_string()});
        let record = |body: &Value| {
            json!({"timeUnixNano": time.to_string(), "observedTimeUnixNano": time.to_string(), "body": body,
            "severityNumber": 17})
        };
        let text = |key: &str| json!({"key": key, "value": {"stringValue": "shop"}});
        let resource = json!({"attributes": [text("service.name"), text("k8s.namespace.name")]});
        let panic = json!({"stringValue": format!("panic {time}")});
        let logs = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{
            "logRecords": [record(&body), record(&panic)]}]}]});
        engine.ingest(&request(Signal::Logs, &logs));
    }
    assert_still_tells(engine, 60);
}

/// Guarantees: records whose time stands still make no pass, and are kept as bounded as all others; those
/// without one are put aside at once, as one row.
#[test]
fn records_whose_time_stands_still_are_not_heaped_up() {
    let store = Engine::store(8 << 20).unwrap();
    let patterns = Arc::new(Patterns::builtin().unwrap());
    let mut engine = Engine::new(store.clone(), patterns).unwrap();
    let logs = |time: u64| {
        let record =
            json!({"timeUnixNano": time.to_string(), "body": {"stringValue": "x".repeat(4000)}});
        let records = vec![record; 1000];
        request(Signal::Logs, &json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}))
    };
    engine.ingest(&logs(0));
    assert_eq!(store.table("quarantine").unwrap().stats().rows, 1);
    let logs = logs(START);
    for _ in 0..20 {
        engine.ingest(&logs);
    }
    let table = store.table("logs").unwrap();
    assert!(table.stats().evicted_rows > 0, "80 MB of rows wait outside of the store");
    assert_eq!(engine.failures, (0, None));
}

/// Guarantees: more services, operations and texts than are told apart do not blur those that are: the
/// failures of those there is no room for are nobody else's.
#[test]
fn a_flood_of_names_blurs_nobody() {
    let mut engine = engine();
    engine.ingest(&spans("shop", second(0..60), 0));
    for service in 0..20_100_u64 {
        let name = format!("{service}-{}", "x".repeat(if service < 4 { 1 << 20 } else { 1 }));
        engine.ingest(&spans(&name, [START + 59 * SECOND + service].into_iter(), 2));
    }
    for at in 60..90 {
        engine.ingest(&spans("late", second(at..at + 1), 2));
        engine.ingest(&spans("shop", second(at..at + 1), 0));
    }
    assert_eq!(engine.failures, (0, None));
    assert!(engine.stories().all().is_empty(), "{:?}", engine.stories().all());
    assert_still_tells(engine, 90);
}
