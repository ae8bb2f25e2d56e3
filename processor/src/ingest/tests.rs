#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::AsArray,
    datatypes::{Int64Type, UInt32Type},
};
use tapio_proto::json;

use super::*;
use crate::{patterns::Patterns, streaming::Share};

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
    for batch in engine.windows.publish(None).unwrap() {
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
