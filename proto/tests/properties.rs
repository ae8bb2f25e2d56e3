//! What holds for every request: random ones, cut ones, broken ones.
//!
//! proptest prints the seed of a failure and keeps it beside this file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue as Any, KeyValue, any_value::Value},
    metrics::v1::{metric::Data, number_data_point},
};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use prost::Message;
use tapio_proto::{
    Signal, attr, check,
    columns::{LogColumns, MetricColumns, SpanColumns, SpanTold},
    decode_response, json,
    splice::{Decision, encode_attributes, splice},
    status::Status,
    view::{AnyValue, Attributes, PointValue, Record, RequestView},
};

const OURS: [(&str, attr::Value<'_>); 2] = [
    (attr::STORY_ID, attr::Value::Text("s-1")),
    (attr::STORY_CONFIDENCE, attr::Value::Double(0.9)),
];

fn ours(signal: Signal) -> Vec<u8> {
    encode_attributes(signal.record_attributes_field().unwrap(), &OURS)
}

/// Takes our attributes away again.
fn strip(attributes: &mut Vec<KeyValue>) {
    attributes.retain(|attribute| !attribute.key.starts_with(attr::STORY_PREFIX));
}

fn same_value(view: &AnyValue<'_>, any: Option<&Any>) {
    match (view, any.and_then(|any| any.value.as_ref())) {
        (AnyValue::Empty, None) => {}
        (AnyValue::String(a), Some(Value::StringValue(b))) => assert_eq!(a, b),
        (AnyValue::Bool(a), Some(Value::BoolValue(b))) => assert_eq!(a, b),
        (AnyValue::Int(a), Some(Value::IntValue(b))) => assert_eq!(a, b),
        (AnyValue::Double(a), Some(Value::DoubleValue(b))) => assert_eq!(a.to_bits(), b.to_bits()),
        (AnyValue::Bytes(a), Some(Value::BytesValue(b))) => assert_eq!(a, b),
        (AnyValue::StringIndex(a), Some(Value::StringValueStrindex(b))) => assert_eq!(a, b),
        (AnyValue::Array(a), Some(Value::ArrayValue(b))) => {
            let values: Vec<_> = a.values().map(Result::unwrap).collect();
            assert_eq!(values.len(), b.values.len());
            values.iter().zip(&b.values).for_each(|(a, b)| same_value(a, Some(b)));
        }
        (AnyValue::KvList(a), Some(Value::KvlistValue(b))) => same_attributes(*a, &b.values),
        (view, any) => panic!("{view:?} is not {any:?}"),
    }
}

fn same_attributes(view: Attributes<'_>, attributes: &[KeyValue]) {
    let view: Vec<_> = view.map(Result::unwrap).collect();
    assert_eq!(view.len(), attributes.len());
    for (a, b) in view.iter().zip(attributes) {
        assert_eq!(a.key, b.key);
        same_value(&a.value, b.value.as_ref());
    }
}

fn walk(signal: Signal, bytes: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    for resource in RequestView::new(signal, bytes).resources() {
        for scope in resource.unwrap().scopes() {
            records.extend(scope.unwrap().records().map(Result::unwrap));
        }
    }
    records
}

/// Runs everything that reads requests over bytes that may be anything.
fn read_all(signal: Signal, bytes: &[u8]) {
    let checked = check(signal, bytes);
    let mut seen = 0;
    let (mut spans, mut logs, mut metrics) =
        (SpanColumns::default(), LogColumns::default(), MetricColumns::default());
    for resource in RequestView::new(signal, bytes).resources().flatten() {
        let origin = resource.resource();
        origin.attributes().for_each(drop);
        spans.resource(&origin);
        logs.resource(&origin);
        metrics.resource(&origin);
        for scope in resource.scopes().flatten() {
            for record in scope.records().flatten() {
                match record {
                    Record::Span(span) => {
                        seen += 1;
                        span.events().flatten().for_each(|event| event.attributes().for_each(drop));
                        span.links().flatten().for_each(|link| link.attributes().for_each(drop));
                        spans.push(&span, &SpanTold::by(&span), 1);
                    }
                    Record::Log(log) => {
                        seen += 1;
                        logs.push(&log, 1);
                    }
                    Record::Metric(metric) => {
                        for point in metric.points().flatten() {
                            seen += 1;
                            metrics.push(&metric, &point);
                        }
                    }
                }
            }
        }
    }
    let rows = spans.finish().num_rows() + logs.finish().num_rows() + metrics.finish().num_rows();
    assert_eq!(rows, seen);
    let whole = Bytes::copy_from_slice(bytes);
    let text = json::from_proto(signal, bytes);
    if let Ok(items) = checked {
        assert!(seen <= items, "the view sees nothing that the check does not count");
        assert_eq!(splice(signal, &whole, |_| Decision::Nothing).unwrap(), whole);
        if signal.record_attributes_field().is_some() {
            let extra = ours(signal);
            let spliced = splice(signal, &whole, |_| Decision::All(&extra)).unwrap();
            assert_eq!(check(signal, &spliced), Ok(items));
        }
        // Of a profile only the top level has been checked.
        if signal == Signal::Profiles && text.is_err() {
            return;
        }
        let text = text.expect("what passes the check has a JSON form");
        let back = json::to_proto(signal, text.as_bytes()).unwrap();
        check(signal, &back).unwrap();
    } else {
        let _ = splice(signal, &whole, |_| Decision::All(b"x"));
        let _ = splice(signal, &whole, |_| Decision::Resource(b"x"));
    }
}

/// A valid request of any signal, as bytes.
fn request() -> impl Strategy<Value = (Signal, Vec<u8>)> {
    prop_oneof![
        common::traces().prop_map(|request| (Signal::Traces, request.encode_to_vec())),
        common::logs().prop_map(|request| (Signal::Logs, request.encode_to_vec())),
        common::metrics().prop_map(|request| (Signal::Metrics, request.encode_to_vec())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_view_of_a_span_is_what_prost_decodes(request in common::traces()) {
        let bytes = request.encode_to_vec();
        let records = walk(Signal::Traces, &bytes);
        let spans: Vec<_> = request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect();
        prop_assert_eq!(check(Signal::Traces, &bytes), Ok(spans.len()));
        prop_assert_eq!(records.len(), spans.len());
        for (record, span) in records.iter().zip(spans) {
            let Record::Span(view) = record else { panic!("no span") };
            prop_assert_eq!(view.trace_id, &span.trace_id);
            prop_assert_eq!(view.span_id, &span.span_id);
            prop_assert_eq!(view.parent_span_id, &span.parent_span_id);
            prop_assert_eq!(view.trace_state, &span.trace_state);
            prop_assert_eq!(view.name, &span.name);
            prop_assert_eq!((view.kind, view.flags), (span.kind, span.flags));
            prop_assert_eq!(view.start_time_unix_nano, span.start_time_unix_nano);
            prop_assert_eq!(view.end_time_unix_nano, span.end_time_unix_nano);
            prop_assert_eq!(view.dropped_attributes_count(), span.dropped_attributes_count);
            prop_assert_eq!(view.dropped_events_count(), span.dropped_events_count);
            prop_assert_eq!(view.dropped_links_count(), span.dropped_links_count);
            let status = span.status.clone().unwrap_or_default();
            prop_assert_eq!((view.status_code, view.status_message), (status.code, status.message.as_str()));
            same_attributes(view.attributes(), &span.attributes);
            let events: Vec<_> = view.events().map(Result::unwrap).collect();
            prop_assert_eq!(events.len(), span.events.len());
            for (view, event) in events.iter().zip(&span.events) {
                prop_assert_eq!((view.time_unix_nano, view.name), (event.time_unix_nano, event.name.as_str()));
                same_attributes(view.attributes(), &event.attributes);
            }
            let links: Vec<_> = view.links().map(Result::unwrap).collect();
            prop_assert_eq!(links.len(), span.links.len());
            for (view, link) in links.iter().zip(&span.links) {
                prop_assert_eq!((view.trace_id, view.span_id), (&link.trace_id[..], &link.span_id[..]));
                prop_assert_eq!((view.trace_state, view.flags), (link.trace_state.as_str(), link.flags));
                same_attributes(view.attributes(), &link.attributes);
            }
        }
    }

    #[test]
    fn the_view_of_a_log_record_is_what_prost_decodes(request in common::logs()) {
        let bytes = request.encode_to_vec();
        let records = walk(Signal::Logs, &bytes);
        let logs: Vec<_> = request.resource_logs.iter().flat_map(|r| &r.scope_logs).flat_map(|s| &s.log_records).collect();
        prop_assert_eq!(check(Signal::Logs, &bytes), Ok(logs.len()));
        prop_assert_eq!(records.len(), logs.len());
        for (record, log) in records.iter().zip(logs) {
            let Record::Log(view) = record else { panic!("no log record") };
            prop_assert_eq!(view.time_unix_nano, log.time_unix_nano);
            prop_assert_eq!(view.observed_time_unix_nano, log.observed_time_unix_nano);
            prop_assert_eq!(view.severity_number, log.severity_number);
            prop_assert_eq!(view.severity_text, &log.severity_text);
            prop_assert_eq!((view.trace_id, view.span_id), (&log.trace_id[..], &log.span_id[..]));
            prop_assert_eq!((view.flags, view.event_name), (log.flags, log.event_name.as_str()));
            prop_assert_eq!(view.dropped_attributes_count(), log.dropped_attributes_count);
            prop_assert_eq!(view.body.is_some(), log.body.is_some());
            same_value(&view.body.unwrap_or(AnyValue::Empty), log.body.as_ref());
            same_attributes(view.attributes(), &log.attributes);
        }
    }

    #[test]
    fn the_view_of_a_metric_is_what_prost_decodes(request in common::metrics()) {
        let bytes = request.encode_to_vec();
        // prost takes -0.0 for the default and leaves it out.
        let request = ExportMetricsServiceRequest::decode(&bytes[..]).unwrap();
        let records = walk(Signal::Metrics, &bytes);
        let metrics: Vec<_> = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics).collect();
        let mut points = 0;
        for (record, metric) in records.iter().zip(&metrics) {
            let Record::Metric(view) = record else { panic!("no metric") };
            prop_assert_eq!((view.name, view.unit), (metric.name.as_str(), metric.unit.as_str()));
            prop_assert_eq!(view.description, &metric.description);
            same_attributes(view.metadata(), &metric.metadata);
            let seen: Vec<_> = view.points().map(Result::unwrap).collect();
            points += seen.len();
            let bits = |value: Option<f64>| value.map(f64::to_bits);
            match &metric.data {
                None => prop_assert!(seen.is_empty()),
                Some(Data::Gauge(gauge)) => same_numbers(&seen, &gauge.data_points),
                Some(Data::Sum(sum)) => {
                    prop_assert_eq!((view.temporality, view.is_monotonic), (sum.aggregation_temporality, sum.is_monotonic));
                    same_numbers(&seen, &sum.data_points);
                }
                Some(Data::Histogram(histogram)) => {
                    prop_assert_eq!(view.temporality, histogram.aggregation_temporality);
                    prop_assert_eq!(seen.len(), histogram.data_points.len());
                    for (view, point) in seen.iter().zip(&histogram.data_points) {
                        let PointValue::Histogram(value) = &view.value else { panic!("no histogram") };
                        prop_assert_eq!((view.flags, value.count), (point.flags, point.count));
                        prop_assert_eq!(bits(value.sum), bits(point.sum));
                        prop_assert_eq!((bits(value.min), bits(value.max)), (bits(point.min), bits(point.max)));
                        prop_assert_eq!(value.bucket_counts().collect::<Vec<_>>(), point.bucket_counts.clone());
                        let bounds: Vec<_> = value.explicit_bounds().map(f64::to_bits).collect();
                        prop_assert_eq!(bounds, point.explicit_bounds.iter().map(|b| b.to_bits()).collect::<Vec<_>>());
                        same_attributes(view.attributes(), &point.attributes);
                    }
                }
                Some(Data::ExponentialHistogram(histogram)) => {
                    prop_assert_eq!(seen.len(), histogram.data_points.len());
                    for (view, point) in seen.iter().zip(&histogram.data_points) {
                        let PointValue::ExponentialHistogram(value) = &view.value else { panic!("no histogram") };
                        prop_assert_eq!((value.count, value.scale, value.zero_count), (point.count, point.scale, point.zero_count));
                        prop_assert_eq!(value.zero_threshold.to_bits(), point.zero_threshold.to_bits());
                        for (view, buckets) in [(value.positive, &point.positive), (value.negative, &point.negative)] {
                            let buckets = buckets.clone().unwrap_or_default();
                            prop_assert_eq!(view.offset, buckets.offset);
                            prop_assert_eq!(view.bucket_counts().collect::<Vec<_>>(), buckets.bucket_counts);
                        }
                        same_attributes(view.attributes(), &point.attributes);
                    }
                }
                Some(Data::Summary(summary)) => {
                    prop_assert_eq!(seen.len(), summary.data_points.len());
                    for (view, point) in seen.iter().zip(&summary.data_points) {
                        let PointValue::Summary(value) = &view.value else { panic!("no summary") };
                        prop_assert_eq!((value.count, value.sum.to_bits()), (point.count, point.sum.to_bits()));
                        prop_assert_eq!(value.quantiles().map(Result::unwrap).count(), point.quantile_values.len());
                        same_attributes(view.attributes(), &point.attributes);
                    }
                }
            }
        }
        prop_assert_eq!(records.len(), metrics.len());
        prop_assert_eq!(check(Signal::Metrics, &bytes), Ok(points));
    }

    #[test]
    fn what_was_spliced_in_and_taken_out_again_leaves_the_same_bytes(
        traces in common::traces(), logs in common::logs(), which in any::<u8>(),
    ) {
        // Some resources are marked, some are not.
        let pick = |at: usize| which >> (at % 8) & 1 == 1;
        let bytes = Bytes::from(traces.encode_to_vec());
        let extra = ours(Signal::Traces);
        let mut at = 0;
        let spliced = splice(Signal::Traces, &bytes, |_| { at += 1; if pick(at - 1) { Decision::All(&extra) } else { Decision::Nothing } }).unwrap();
        let mut marked = ExportTraceServiceRequest::decode(spliced).unwrap();
        for (at, group) in marked.resource_spans.iter_mut().enumerate() {
            for span in group.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
                let before = span.attributes.len();
                strip(&mut span.attributes);
                prop_assert_eq!(before - span.attributes.len(), if pick(at) { OURS.len() } else { 0 });
            }
        }
        prop_assert_eq!(marked.encode_to_vec(), bytes);

        let bytes = Bytes::from(logs.encode_to_vec());
        let extra = ours(Signal::Logs);
        let each = |record: &Record<'_>| matches!(record, Record::Log(log) if log.flags % 2 == 0).then_some(&extra[..]);
        let spliced = splice(Signal::Logs, &bytes, |_| Decision::Each(Box::new(each))).unwrap();
        let mut marked = ExportLogsServiceRequest::decode(spliced).unwrap();
        for log in marked.resource_logs.iter_mut().flat_map(|r| &mut r.scope_logs).flat_map(|s| &mut s.log_records) {
            let before = log.attributes.len();
            strip(&mut log.attributes);
            prop_assert_eq!(before > log.attributes.len(), log.flags % 2 == 0);
        }
        prop_assert_eq!(marked.encode_to_vec(), bytes);
    }

    #[test]
    fn resource_attributes_spliced_in_and_taken_out_leave_the_same_message(metrics in common::metrics()) {
        let bytes = Bytes::from(metrics.encode_to_vec());
        let extra = encode_attributes(1, &OURS);
        let spliced = splice(Signal::Metrics, &bytes, |_| Decision::Resource(&extra)).unwrap();
        let mut marked = ExportMetricsServiceRequest::decode(spliced).unwrap();
        for (group, before) in marked.resource_metrics.iter_mut().zip(&metrics.resource_metrics) {
            let resource = group.resource.as_mut().expect("there is one now");
            let count = resource.attributes.len();
            strip(&mut resource.attributes);
            prop_assert_eq!(count - resource.attributes.len(), OURS.len());
            if before.resource.is_none() {
                group.resource = None;
            }
        }
        prop_assert_eq!(marked.encode_to_vec(), bytes);
    }

    #[test]
    fn json_and_back_is_the_same_message((signal, bytes) in request()) {
        let text = json::from_proto(signal, &bytes).unwrap();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        prop_assert_eq!(json::signal_of(text.as_bytes()), (!bytes.is_empty()).then_some(signal));
        let back = json::to_proto(signal, text.as_bytes()).unwrap();
        // Protobuf does not order fields, so compare what is decoded and encoded again.
        let again = |bytes: &[u8]| match signal {
            Signal::Traces => ExportTraceServiceRequest::decode(bytes).unwrap().encode_to_vec(),
            Signal::Logs => ExportLogsServiceRequest::decode(bytes).unwrap().encode_to_vec(),
            _ => ExportMetricsServiceRequest::decode(bytes).unwrap().encode_to_vec(),
        };
        prop_assert_eq!(again(&back), bytes);
    }

    #[test]
    fn a_request_cut_anywhere_is_read_or_refused((signal, bytes) in request(), at in any::<prop::sample::Index>()) {
        read_all(signal, &bytes);
        read_all(signal, &bytes[..at.index(bytes.len() + 1)]);
    }

    #[test]
    fn a_request_with_broken_bytes_is_read_or_refused(
        (signal, mut bytes) in request(),
        breaks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        prop_assume!(!bytes.is_empty());
        for (at, byte) in breaks {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_all(signal, &bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for signal in Signal::ALL {
            read_all(signal, &bytes);
            let _ = json::to_proto(signal, &bytes);
        }
        let _ = (Status::decode(&bytes), Status::from_json(&bytes), decode_response(&bytes), json::signal_of(&bytes));
    }

    #[test]
    fn json_with_broken_bytes_is_read_or_refused(
        (signal, bytes) in request(),
        breaks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut text = json::from_proto(signal, &bytes).unwrap().into_bytes();
        for (at, byte) in breaks {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Ok(back) = json::to_proto(signal, &text) {
            read_all(signal, &back);
        }
    }
}

fn same_numbers(
    seen: &[tapio_proto::view::PointView<'_>],
    points: &[opentelemetry_proto::tonic::metrics::v1::NumberDataPoint],
) {
    assert_eq!(seen.len(), points.len());
    for (view, point) in seen.iter().zip(points) {
        assert_eq!(view.time_unix_nano, point.time_unix_nano);
        assert_eq!(view.start_time_unix_nano, point.start_time_unix_nano);
        assert_eq!(view.flags, point.flags);
        match (&view.value, &point.value) {
            (PointValue::None, None) => {}
            (PointValue::Int(a), Some(number_data_point::Value::AsInt(b))) => assert_eq!(a, b),
            (PointValue::Double(a), Some(number_data_point::Value::AsDouble(b))) => {
                assert_eq!(a.to_bits(), b.to_bits())
            }
            other => panic!("{other:?}"),
        }
        same_attributes(view.attributes(), &point.attributes);
    }
}

/// Guarantees: the short way through an attribute lets pass exactly what the long one does: each byte of
/// a text, an int and a bool attribute changed to each other byte.
#[test]
fn an_attribute_with_a_byte_changed_is_judged_as_prost_judges_it() {
    let values = [
        Some(Value::StringValue("caf\u{e9}!".to_owned())),
        Some(Value::IntValue(404)),
        Some(Value::IntValue(7)),
        Some(Value::BoolValue(true)),
        Some(Value::StringValue(String::new())),
        None,
    ];
    for value in values {
        let pair = KeyValue {
            key: "k\u{e9}y".to_owned(),
            value: Some(Any { value }),
            ..KeyValue::default()
        };
        let bytes = pair.encode_to_vec();
        for at in 0..bytes.len() {
            for byte in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let resource = [&[0x0a, changed.len() as u8][..], &changed].concat();
                let group = [&[0x0a, resource.len() as u8][..], &resource].concat();
                let request = [&[0x0a, group.len() as u8][..], &group].concat();
                let ours = check(Signal::Traces, &request).is_ok();
                assert_eq!(ours, KeyValue::decode(&changed[..]).is_ok(), "{changed:02x?}");
            }
        }
    }
}
