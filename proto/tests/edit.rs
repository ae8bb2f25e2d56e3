//! Editing attributes in the bytes of a request: what is meant changes, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::metric::Data,
};
use proptest::prelude::*;
use prost::Message;
use tapio_proto::{
    Signal, check,
    edit::{AttributeList, Editor, Unread, edit_records, edit_resources},
    view::{ResourceView, ScopeGroup},
    wire::{put_len_field, put_message, put_varint_field},
};

/// `AnyValue { string_value: "new" }`
const NEW: &[u8] = b"\x0a\x03new";

/// By the first letter of the key: some go, some change; each list gets one more.
fn rules(attributes: &mut AttributeList<'_>) {
    attributes.remove(|key| key.starts_with(goes));
    attributes.change(|key| key.starts_with(changes), |_| Some(NEW.to_vec()));
    attributes.set("zz", NEW);
}

fn goes(letter: char) -> bool {
    ('a'..='h').contains(&letter)
}

fn changes(letter: char) -> bool {
    ('i'..='p').contains(&letter)
}

/// The same on decoded attributes.
fn model(attributes: &mut Vec<KeyValue>) {
    let new = || Some(AnyValue { value: Some(Value::StringValue("new".into())) });
    attributes.retain(|attribute| !attribute.key.starts_with(goes));
    for attribute in attributes.iter_mut() {
        if attribute.key.starts_with(changes) || attribute.key == "zz" {
            attribute.value = new();
        }
    }
    if !attributes.iter().any(|attribute| attribute.key == "zz") {
        attributes.push(KeyValue { key: "zz".into(), value: new(), ..KeyValue::default() });
    }
}

struct Everything;

impl<'a> Editor<'a> for Everything {
    fn resource(&mut self, _: &ResourceView<'a>) -> bool {
        true
    }

    fn scope(&mut self, _: &ScopeGroup<'a>) -> bool {
        true
    }

    fn record(&mut self, record: &Unread<'a>) -> bool {
        record.read().is_some()
    }

    fn edit(&mut self, attributes: &mut AttributeList<'a>) {
        rules(attributes);
    }
}

fn both(signal: Signal, bytes: &Bytes) -> Bytes {
    let resources = edit_resources(signal, bytes, rules).unwrap();
    edit_records(signal, &resources, &mut Everything).unwrap()
}

fn same<M: Message + Default>(signal: Signal, request: &M, expected: &M) {
    let edited = both(signal, &request.encode_to_vec().into());
    assert_eq!(check(signal, &edited), check(signal, &request.encode_to_vec()));
    // By their bytes, because NaN is not equal to itself.
    let decoded = M::decode(&edited[..]).unwrap();
    assert_eq!(decoded.encode_to_vec(), expected.encode_to_vec());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edited_spans_are_those_of_the_model(request in common::traces()) {
        let mut expected = request.clone();
        for group in &mut expected.resource_spans {
            model(&mut group.resource.get_or_insert_default().attributes);
            for span in group.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
                model(&mut span.attributes);
            }
        }
        same::<ExportTraceServiceRequest>(Signal::Traces, &request, &expected);
    }

    #[test]
    fn edited_log_records_are_those_of_the_model(request in common::logs()) {
        let mut expected = request.clone();
        for group in &mut expected.resource_logs {
            model(&mut group.resource.get_or_insert_default().attributes);
            for log in group.scope_logs.iter_mut().flat_map(|scope| &mut scope.log_records) {
                model(&mut log.attributes);
            }
        }
        same::<ExportLogsServiceRequest>(Signal::Logs, &request, &expected);
    }

    #[test]
    fn edited_data_points_are_those_of_the_model(request in common::metrics()) {
        let mut expected = request.clone();
        for group in &mut expected.resource_metrics {
            model(&mut group.resource.get_or_insert_default().attributes);
            for metric in group.scope_metrics.iter_mut().flat_map(|scope| &mut scope.metrics) {
                match &mut metric.data {
                    None => {}
                    Some(Data::Gauge(data)) => data.data_points.iter_mut().for_each(|p| model(&mut p.attributes)),
                    Some(Data::Sum(data)) => data.data_points.iter_mut().for_each(|p| model(&mut p.attributes)),
                    Some(Data::Histogram(data)) => data.data_points.iter_mut().for_each(|p| model(&mut p.attributes)),
                    Some(Data::ExponentialHistogram(data)) => {
                        data.data_points.iter_mut().for_each(|p| model(&mut p.attributes));
                    }
                    Some(Data::Summary(data)) => data.data_points.iter_mut().for_each(|p| model(&mut p.attributes)),
                }
            }
        }
        same::<ExportMetricsServiceRequest>(Signal::Metrics, &request, &expected);
    }

    /// Guarantees: an answer for bytes that may be anything; what passed the check can be edited.
    #[test]
    fn broken_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in any::<proptest::sample::Index>(), request in common::metrics()) {
        let mut cut = request.encode_to_vec();
        cut.truncate(at.index(cut.len() + 1));
        for bytes in [Bytes::from(bytes), Bytes::from(cut)] {
            for signal in Signal::ALL {
                let resources = edit_resources(signal, &bytes, rules);
                let records = edit_records(signal, &bytes, &mut Everything);
                if signal != Signal::Profiles && check(signal, &bytes).is_ok() {
                    prop_assert!(resources.is_ok() && records.is_ok());
                }
            }
        }
    }
}

fn attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    put_message(out, number, |attribute| {
        put_len_field(attribute, 1, key.as_bytes());
        put_message(attribute, 2, |any| put_len_field(any, 1, value.as_bytes()));
    });
}

/// One span with these fields, in its envelopes.
fn request(span: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::new();
    put_message(&mut out, 1, |group| {
        put_message(group, 2, |scope| put_message(scope, 2, span));
    });
    out.into()
}

/// Scenario: a span whose attributes are twice there, between other and unknown fields, one with unknown
/// fields of its own.
/// Guarantees: only what is meant changes, where it stands; new attributes come last.
#[test]
fn everything_around_an_edited_attribute_stays_byte_for_byte() {
    let odd = |attribute: &mut Vec<u8>, value: &[u8]| {
        put_varint_field(attribute, 500, 7);
        put_len_field(attribute, 2, value);
        put_len_field(attribute, 1, b"key");
        put_varint_field(attribute, 3, 9);
    };
    let before = request(|span| {
        attribute(span, 9, "api", "gone");
        put_len_field(span, 700, b"unknown");
        put_message(span, 9, |attribute| odd(attribute, b"\x18\x05"));
        put_len_field(span, 5, b"name");
        attribute(span, 9, "key", "again");
        attribute(span, 9, "other", "stays");
        attribute(span, 9, "zz", "old");
        put_varint_field(span, 6, 2);
    });
    let after = request(|span| {
        put_len_field(span, 700, b"unknown");
        put_message(span, 9, |attribute| odd(attribute, NEW));
        put_len_field(span, 5, b"name");
        attribute(span, 9, "key", "new");
        attribute(span, 9, "other", "new");
        attribute(span, 9, "zz", "new");
        put_varint_field(span, 6, 2);
    });
    assert_eq!(edit_records(Signal::Traces, &before, &mut Everything).unwrap(), after);

    let empty = request(|span| put_len_field(span, 5, b"name"));
    let added = request(|span| {
        put_len_field(span, 5, b"name");
        attribute(span, 9, "zz", "new");
    });
    assert_eq!(edit_records(Signal::Traces, &empty, &mut Everything).unwrap(), added);
}

#[test]
fn what_nothing_changes_is_the_same_buffer() {
    let same = request(|span| attribute(span, 9, "zz", "new"));
    let out = edit_records(Signal::Traces, &same, &mut Everything).unwrap();
    assert_eq!(out.as_ptr(), same.as_ptr());
    let out = edit_resources(Signal::Traces, &same, |attributes| {
        attributes.push("zz", NEW);
        attributes.remove(|key| key == "zz");
    });
    assert_eq!(out.unwrap().as_ptr(), same.as_ptr());
    let out = edit_resources(Signal::Profiles, &same, rules).unwrap();
    assert_eq!(out.as_ptr(), same.as_ptr());
}
