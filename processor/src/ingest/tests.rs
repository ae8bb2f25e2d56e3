#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::AsArray,
    datatypes::{Int64Type, UInt32Type},
};
use tapio_proto::json;

use super::*;
use crate::{patterns::Patterns, streaming::Share};

mod blind;

const START: u64 = 1_800_000_000_000_000_000;

fn engine() -> (Engine, Arc<Store>) {
    let store = Engine::store(64 << 20).unwrap();
    let patterns = Arc::new(Patterns::builtin().unwrap());
    (Engine::new(store.clone(), patterns).unwrap(), store)
}

/// A request of one service: `group` is `Spans` or `Logs`, `records` its scope's content.
fn request(signal: Signal, group: &str, service: &str, records: &str) -> Request {
    let name = format!(r#"{{"key":"service.name","value":{{"stringValue":"{service}"}}}}"#);
    let text = format!(
        r#"{{"resource{group}":[{{"resource":{{"attributes":[{name}]}},"scope{group}":[{{{records}}}]}}]}}"#
    );
    Request::new(signal, json::to_proto(signal, text.as_bytes()).unwrap(), 0)
}

fn spans(service: &str, spans: impl Iterator<Item = (u64, u64)>) -> Request {
    let spans: Vec<_> = spans
        .map(|(trace, end)| {
            format!(
                r#"{{"traceId":"{trace:032x}","spanId":"0000000000000001","kind":2,"name":"GET /","startTimeUnixNano":"{START}","endTimeUnixNano":"{}"}}"#,
                START + end
            )
        })
        .collect();
    request(Signal::Traces, "Spans", service, &format!(r#""spans":[{}]"#, spans.join(",")))
}

fn lines(service: &str, lines: impl Iterator<Item = (u8, u64)>) -> Request {
    let lines: Vec<_> = lines
        .map(|(severity, time)| {
            format!(
                r#"{{"timeUnixNano":"{}","severityNumber":{severity},"body":{{"stringValue":"said"}}}}"#,
                START + time
            )
        })
        .collect();
    request(Signal::Logs, "Logs", service, &format!(r#""logRecords":[{}]"#, lines.join(",")))
}

#[test]
fn a_flood_of_spans_is_counted_in_full_and_drowns_nobody() {
    let (mut engine, _) = engine();
    engine.flood = Share::new(1_000);
    for n in 1..=50 {
        // Traces of four, whose spans lie apart.
        let at = n * 10_000_000;
        engine.ingest(&spans("loud", (0..400).map(|span| (n * 1_000 + span % 100, at))));
        engine.ingest(&spans("quiet", [(n, at)].into_iter()));
    }
    let mut sums: BTreeMap<(String, &str), i64> = BTreeMap::new();
    let [windows, ..] = engine.windows.publish(None, Time::default()).unwrap();
    for batch in windows {
        let services = batch.column_by_name("service").unwrap();
        let services = arrow::compute::cast(services, &arrow::datatypes::DataType::Utf8).unwrap();
        for column in ["count", "looked"] {
            let values = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
            for (service, value) in services.as_string::<i32>().iter().zip(values.values()) {
                *sums.entry((service.unwrap().to_owned(), column)).or_default() += value;
            }
        }
    }
    let of = |service: &str, column| sums[&(service.to_owned(), column)];
    assert_eq!((of("loud", "count"), of("quiet", "count")), (20_000, 50));
    assert!((1_500..8_000).contains(&of("loud", "looked")), "{sums:?}");
    assert_eq!(of("quiet", "looked"), 50);
    assert_eq!(engine.sampled as i64, 20_000 - of("loud", "looked"));
}

#[test]
fn of_a_flood_of_lines_all_that_are_bad_are_kept_and_the_others_stood_for() {
    let (mut engine, store) = engine();
    engine.lines = Share::new(1_000);
    for n in 1..=50 {
        // One of forty is an error.
        let severity = |line| if line % 40 == 7 { 17 } else { 9 };
        engine.ingest(&lines("loud", (0..400).map(|line| (severity(line), n * 10_000_000 + line))));
    }
    engine.columns.flush(&store).unwrap();
    let (mut rows, mut stood_for, mut errors) = (0, 0, 0);
    for batch in store.table("logs").unwrap().snapshot() {
        let weights = batch.column_by_name("weight").unwrap().as_primitive::<UInt32Type>();
        let severities = batch.column_by_name("severity_number").unwrap();
        let severities = severities.as_primitive::<arrow::datatypes::UInt8Type>();
        rows += batch.num_rows();
        stood_for += weights.values().iter().sum::<u32>();
        let bad = severities.values().iter().zip(weights.values()).filter(|(s, _)| **s == 17);
        errors += bad.map(|(_, weight)| weight).sum::<u32>();
    }
    assert_eq!(errors, 500);
    assert!((1_000..6_000).contains(&rows), "{rows}");
    assert!((19_000..=20_000).contains(&stood_for), "{stood_for}");
}

/// Rows of the quarantine: signal, reason, service, text, items.
fn quarantined(engine: &mut Engine, store: &Store) -> Vec<(String, String, String, String, i64)> {
    engine.columns.flush(store).unwrap();
    let batches = store.table("quarantine").unwrap().snapshot();
    let rows = crate::store::Rows::new(&batches).unwrap();
    rows.iter()
        .map(|row| {
            let text = |column| row.text(column).unwrap().to_owned();
            let items = row.int("items").unwrap();
            (text("signal"), text("reason"), text("service"), text("text"), items)
        })
        .collect()
}

#[test]
fn what_cannot_be_analysed_is_counted_by_reason_and_kept_to_be_looked_at() {
    let (mut engine, store) = engine();
    let end = START + 1_000_000_000;
    let span = |name: &str, start: u64, end: u64| {
        format!(
            r#""spans":[{{"name":"{name}","startTimeUnixNano":"{start}","endTimeUnixNano":"{end}"}}]"#
        )
    };
    let traces = |service: &str, spans: &str| request(Signal::Traces, "Spans", service, spans);
    engine.ingest(&traces("shop", &span("good", START, end)));
    for _ in 0..3 {
        engine.ingest(&traces("shop", &span("timeless", 0, 0)));
    }
    engine.ingest(&traces("shop", &span("backward", end + 1, end)));
    engine.ingest(&traces("", &span("nobody's", START, end)));
    engine.ingest(&traces("fast", &span("early", end, end + 7_200 * 1_000_000_000)));
    engine.ingest(&request(
        Signal::Logs,
        "Logs",
        "shop",
        r#""logRecords":[{"body":{"stringValue":"when?"}}]"#,
    ));
    let deep =
        (0..100).fold("{}".to_owned(), |v, _| format!(r#"{{"arrayValue":{{"values":[{v}]}}}}"#));
    engine.ingest(&request(
        Signal::Logs,
        "Logs",
        "shop",
        &format!(
            r#""logRecords":[{{"timeUnixNano":"{end}","eventName":"pods","body":{deep},"attributes":[{{"key":"k8s.resource.name","value":{{"stringValue":"pods"}}}}]}}]"#
        ),
    ));
    let point = |name: &str, value: &str| {
        format!(
            r#""metrics":[{{"name":"{name}","gauge":{{"dataPoints":[{{"timeUnixNano":"{end}"{value}}}]}}}}]"#
        )
    };
    for (name, value) in [
        ("", r#","asDouble":1"#),
        ("empty", ""),
        ("stale", r#","flags":1"#),
        ("full", r#","asInt":"1""#),
    ] {
        engine.ingest(&request(Signal::Metrics, "Metrics", "shop", &point(name, value)));
    }
    let row = |signal: &str, reason: &str, service: &str, text: &str, items| {
        (signal.to_owned(), reason.to_owned(), service.to_owned(), text.to_owned(), items)
    };
    assert_eq!(
        quarantined(&mut engine, &store),
        [
            row("traces", "no_time", "shop", "timeless", 3),
            row("traces", "ends_before_start", "shop", "backward", 1),
            row("traces", "no_source", "", "nobody's", 1),
            row("traces", "ahead", "fast", "early", 1),
            row("logs", "no_time", "shop", "when?", 1),
            row("logs", "too_large", "shop", "pods", 1),
            row("metrics", "no_name", "shop", "", 1),
            row("metrics", "no_value", "shop", "empty", 1),
        ]
    );
    let counts = engine.columns.quarantine.take_counts();
    let count = |reason: Reason| counts[reason as usize];
    assert_eq!(
        Reason::ALL.map(count),
        [4, 1, 1, 1, 1, 1, 0, 0, 1],
        "by reason, as the metric has them"
    );
    let [windows, ..] = engine.windows.publish(None, Time::default()).unwrap();
    let spans: usize = windows.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(spans, 1, "only the good span is in the windows");
    assert_eq!(store.table("metrics").unwrap().stats().rows, 2, "stale and full");
}

#[test]
fn a_line_whose_clock_is_off_is_put_aside_once_others_say_otherwise() {
    const HOUR: u64 = 3_600_000_000_000;
    let (mut engine, store) = engine();
    let second = 1_000_000_000;
    for n in 30 * 3_600..30 * 3_600 + 20 {
        engine.ingest(&lines("shop", [(9, n * second)].into_iter()));
        engine.ingest(&lines("minutes ahead", [(9, n * second + HOUR / 6)].into_iter()));
        engine.ingest(&lines("hours ahead", [(9, n * second + 9 * HOUR)].into_iter()));
        engine.ingest(&lines("a day late", [(9, n * second - 25 * HOUR)].into_iter()));
        engine.ingest(&lines("an hour late", [(9, n * second - HOUR / 2)].into_iter()));
    }
    let mut all: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (_, reason, service, _, items) in quarantined(&mut engine, &store) {
        *all.entry((service, reason)).or_default() += items;
    }
    let all: Vec<_> = all.iter().map(|((s, r), n)| (s.as_str(), r.as_str(), *n)).collect();
    assert_eq!(
        all,
        [
            ("a day late", "too_old", 19),
            ("hours ahead", "ahead", 19),
            ("minutes ahead", "ahead", 20)
        ]
    );
}

#[test]
fn when_all_go_on_a_day_later_their_lines_are_taken() {
    let (mut engine, store) = engine();
    for start in [0, 86_400 * 2, 86_400] {
        for n in start..start + 20 {
            for service in ["shop", "cart"] {
                engine.ingest(&lines(service, [(9, n * 1_000_000_000)].into_iter()));
            }
        }
    }
    assert_eq!(quarantined(&mut engine, &store), []);
    assert_eq!(store.table("logs").unwrap().stats().rows, 120);
}

#[test]
fn the_quarantine_counts_all_and_keeps_few() {
    let mut quarantine = Quarantine::default();
    let store = Engine::store(64 << 20).unwrap();
    for n in 0..10_000 {
        let why = (Signal::Logs, Reason::NoTime);
        quarantine.add((Time(1), Time(0)), why, &format!("s{n}"), &"x".repeat(10_000), 2);
    }
    quarantine.flush(&store).unwrap();
    let held = store.table("quarantine").unwrap();
    assert!(held.stats().rows <= 256 && held.stats().bytes < 1 << 20, "{:?}", held.stats());
    let rows = crate::store::Rows::new(&held.snapshot()).unwrap();
    let items: i64 = rows.iter().map(|row| row.int("items").unwrap()).sum();
    assert_eq!((items, quarantine.take_counts()[Reason::NoTime as usize]), (20_000, 20_000));
}
