//! Random OTLP messages, and requests around records under test.
#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{
        AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
        any_value::Value,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
        HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary,
        SummaryDataPoint, exemplar, exponential_histogram_data_point::Buckets, metric::Data,
        number_data_point, summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use proptest::{collection::vec, option, prelude::*};

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z.]{1,12}", "\\PC{0,8}", Just("ß\"\\\n\u{1}😀".to_owned())]
}

fn double() -> impl Strategy<Value = f64> {
    // NaN has many bit patterns and JSON one.
    prop_oneof![
        any::<f64>().prop_filter("one NaN", |value| !value.is_nan()),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(0.1),
    ]
}

pub fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        text().prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        double().prop_map(|value| Some(Value::DoubleValue(value))),
        vec(any::<u8>(), 0..6).prop_map(|bytes| Some(Value::BytesValue(bytes))),
        any::<i32>().prop_map(|index| Some(Value::StringValueStrindex(index))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(key_value(inner), 0..3)
                .prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn key_value(value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = KeyValue> {
    (text(), option::weighted(0.9, value)).prop_map(|(key, value)| KeyValue {
        key,
        value,
        ..Default::default()
    })
}

pub fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec(key_value(any_value()), 0..4)
}

pub fn id(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), vec(any::<u8>(), len), Just(vec![0; len])]
}

pub fn resource() -> impl Strategy<Value = Option<Resource>> {
    let refs = vec((text(), text(), vec(text(), 0..3)), 0..2).prop_map(|refs| {
        refs.into_iter()
            .map(|(schema_url, r#type, id_keys)| EntityRef {
                schema_url,
                r#type,
                id_keys,
                ..Default::default()
            })
            .collect()
    });
    option::weighted(
        0.9,
        (attributes(), any::<u32>(), refs).prop_map(
            |(attributes, dropped_attributes_count, entity_refs)| Resource {
                attributes,
                dropped_attributes_count,
                entity_refs,
            },
        ),
    )
}

pub fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    option::weighted(
        0.9,
        (text(), text(), attributes(), any::<u32>()).prop_map(
            |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
                name,
                version,
                attributes,
                dropped_attributes_count,
            },
        ),
    )
}

prop_compose! {
    pub fn span()(
        (trace_id, span_id, parent_span_id, trace_state) in (id(16), id(8), id(8), text()),
        (name, kind, flags, start, end) in (text(), any::<i32>(), any::<u32>(), any::<u64>(), any::<u64>()),
        (attributes, counts) in (attributes(), any::<[u32; 3]>()),
        events in vec((any::<u64>(), text(), attributes(), any::<u32>()), 0..3),
        links in vec((id(16), id(8), text(), attributes(), any::<[u32; 2]>()), 0..3),
        status in option::of((text(), any::<i32>())),
    ) -> Span {
        Span {
            trace_id, span_id, parent_span_id, trace_state, name, kind, flags, attributes,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            dropped_attributes_count: counts[0],
            events: events.into_iter().map(|(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
                time_unix_nano, name, attributes, dropped_attributes_count,
            }).collect(),
            dropped_events_count: counts[1],
            links: links.into_iter().map(|(trace_id, span_id, trace_state, attributes, [dropped_attributes_count, flags])| Link {
                trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags,
            }).collect(),
            dropped_links_count: counts[2],
            status: status.map(|(message, code)| Status { message, code }),
        }
    }
}

prop_compose! {
    pub fn log()(
        (time_unix_nano, observed_time_unix_nano, severity_number, severity_text) in (any::<u64>(), any::<u64>(), any::<i32>(), text()),
        body in option::of(any_value()),
        (attributes, dropped_attributes_count, flags) in (attributes(), any::<u32>(), any::<u32>()),
        (trace_id, span_id, event_name) in (id(16), id(8), text()),
    ) -> LogRecord {
        LogRecord {
            time_unix_nano, observed_time_unix_nano, severity_number, severity_text, body, attributes,
            dropped_attributes_count, flags, trace_id, span_id, event_name,
        }
    }
}

fn exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    let value = prop_oneof![
        Just(None),
        double().prop_map(|value| Some(exemplar::Value::AsDouble(value))),
        any::<i64>().prop_map(|value| Some(exemplar::Value::AsInt(value))),
    ];
    let exemplar = (attributes(), any::<u64>(), id(8), id(16), value).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    vec(exemplar, 0..2)
}

prop_compose! {
    fn number_point()(
        (attributes, exemplars) in (attributes(), exemplars()),
        (start_time_unix_nano, time_unix_nano, flags) in (any::<u64>(), any::<u64>(), any::<u32>()),
        value in prop_oneof![
            Just(None),
            double().prop_map(|value| Some(number_data_point::Value::AsDouble(value))),
            any::<i64>().prop_map(|value| Some(number_data_point::Value::AsInt(value))),
        ],
    ) -> NumberDataPoint {
        NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value }
    }
}

prop_compose! {
    fn histogram_point()(
        (attributes, exemplars) in (attributes(), exemplars()),
        (start_time_unix_nano, time_unix_nano, flags, count) in (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>()),
        (sum, min, max) in (option::of(double()), option::of(double()), option::of(double())),
        (bucket_counts, explicit_bounds) in (vec(any::<u64>(), 0..4), vec(double(), 0..4)),
    ) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, bucket_counts, explicit_bounds,
            exemplars, flags, min, max,
        }
    }
}

fn buckets() -> impl Strategy<Value = Option<Buckets>> {
    option::of(
        (any::<i32>(), vec(any::<u64>(), 0..4))
            .prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }),
    )
}

prop_compose! {
    fn exponential_point()(
        (attributes, exemplars) in (attributes(), exemplars()),
        (start_time_unix_nano, time_unix_nano, flags, count) in (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>()),
        (sum, min, max, zero_threshold) in (option::of(double()), option::of(double()), option::of(double()), double()),
        (scale, zero_count, positive, negative) in (any::<i32>(), any::<u64>(), buckets(), buckets()),
    ) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, scale, zero_count, positive,
            negative, flags, exemplars, min, max, zero_threshold,
        }
    }
}

prop_compose! {
    fn summary_point()(
        attributes in attributes(),
        (start_time_unix_nano, time_unix_nano, flags, count) in (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>()),
        (sum, quantiles) in (double(), vec((double(), double()), 0..3)),
    ) -> SummaryDataPoint {
        SummaryDataPoint {
            attributes, start_time_unix_nano, time_unix_nano, count, sum, flags,
            quantile_values: quantiles.into_iter().map(|(quantile, value)| ValueAtQuantile { quantile, value }).collect(),
        }
    }
}

pub fn metric() -> impl Strategy<Value = Metric> {
    let data = prop_oneof![
        Just(None),
        vec(number_point(), 0..3).prop_map(|data_points| Some(Data::Gauge(Gauge { data_points }))),
        (vec(number_point(), 0..3), any::<i32>(), any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| Some(Data::Sum(Sum {
                data_points,
                aggregation_temporality,
                is_monotonic
            }))
        ),
        (vec(histogram_point(), 0..3), any::<i32>()).prop_map(
            |(data_points, aggregation_temporality)| {
                Some(Data::Histogram(Histogram { data_points, aggregation_temporality }))
            }
        ),
        (vec(exponential_point(), 0..3), any::<i32>()).prop_map(
            |(data_points, aggregation_temporality)| {
                Some(Data::ExponentialHistogram(ExponentialHistogram {
                    data_points,
                    aggregation_temporality,
                }))
            }
        ),
        vec(summary_point(), 0..3)
            .prop_map(|data_points| Some(Data::Summary(Summary { data_points }))),
    ];
    (text(), text(), text(), attributes(), data).prop_map(
        |(name, description, unit, metadata, data)| Metric {
            name,
            description,
            unit,
            metadata,
            data,
        },
    )
}

macro_rules! requests {
    ($name:ident, $record:expr, $request:ident . $resources:ident, $resource_group:ident . $scopes:ident, $scope_group:ident . $records:ident) => {
        pub fn $name() -> impl Strategy<Value = $request> {
            let scopes =
                (scope(), vec($record, 0..4), text()).prop_map(|(scope, $records, schema_url)| {
                    $scope_group { scope, $records, schema_url }
                });
            let resources = (resource(), vec(scopes, 0..3), text()).prop_map(
                |(resource, $scopes, schema_url)| $resource_group { resource, $scopes, schema_url },
            );
            vec(resources, 0..3).prop_map(|$resources| $request { $resources })
        }
    };
}

requests!(
    traces,
    span(),
    ExportTraceServiceRequest.resource_spans,
    ResourceSpans.scope_spans,
    ScopeSpans.spans
);
requests!(
    logs,
    log(),
    ExportLogsServiceRequest.resource_logs,
    ResourceLogs.scope_logs,
    ScopeLogs.log_records
);
requests!(
    metrics,
    metric(),
    ExportMetricsServiceRequest.resource_metrics,
    ResourceMetrics.scope_metrics,
    ScopeMetrics.metrics
);
