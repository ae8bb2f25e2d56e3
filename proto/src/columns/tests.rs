#![allow(clippy::unwrap_used)]

use arrow::{
    array::{Array, AsArray, StringArray},
    datatypes::{
        Float64Type, Int32Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt32Type,
        UInt64Type,
    },
};

use super::*;
use crate::{
    json,
    signal::Signal,
    view::{Record, RequestView},
};

/// The texts of a column, dictionary or not.
fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let array = batch.column_by_name(column).unwrap();
    let Some(dictionary) = array.as_dictionary_opt::<UInt32Type>() else {
        return array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect();
    };
    let typed = dictionary.downcast_dict::<StringArray>().unwrap();
    typed.into_iter().map(|text| text.map(str::to_owned)).collect()
}

fn text(batch: &RecordBatch, column: &str) -> Option<String> {
    texts(batch, column).remove(0)
}

/// Walks a request in JSON into the three tables.
fn walk(signal: Signal, text: &str, columns: &mut (SpanColumns, LogColumns, MetricColumns)) {
    let bytes = json::to_proto(signal, text.as_bytes()).unwrap();
    for resource in RequestView::new(signal, &bytes).resources().map(Result::unwrap) {
        let of = resource.resource();
        columns.0.resource(&of);
        columns.1.resource(&of);
        columns.2.resource(&of);
        for scope in resource.scopes().map(Result::unwrap) {
            for record in scope.records().map(Result::unwrap) {
                match record {
                    Record::Span(span) => columns.0.push(&span, &SpanTold::by(&span), 1),
                    Record::Log(log) => columns.1.push(&log, 1),
                    Record::Metric(metric) => {
                        for point in metric.points().map(Result::unwrap) {
                            columns.2.push(&metric, &point);
                        }
                    }
                }
            }
        }
    }
}

fn resource(service: &str) -> String {
    let attributes = [
        ("service.name", service),
        ("k8s.namespace.name", "ns"),
        ("k8s.pod.name", "p"),
        ("k8s.container.name", "c"),
        ("k8s.node.name", "n"),
    ];
    let attributes = attributes
        .map(|(key, value)| format!(r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}}"#));
    format!(r#""resource":{{"attributes":[{}]}}"#, attributes.join(","))
}

#[test]
fn a_span_fills_its_row() {
    let span = |service: &str| {
        format!(
            r#"{{"resourceSpans":[{{{},"scopeSpans":[{{"spans":[{{"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"GET /","kind":3,
            "startTimeUnixNano":"100","endTimeUnixNano":"350","status":{{"code":2,"message":"no"}},"attributes":[
            {{"key":"server.address","value":{{"stringValue":"10.0.0.1"}}}},{{"key":"peer.service","value":{{"stringValue":"cart"}}}},
            {{"key":"http.response.status_code","value":{{"intValue":503}}}},{{"key":"error.type","value":{{"stringValue":"timeout"}}}}]}},
            {{"endTimeUnixNano":"5","startTimeUnixNano":"9"}}]}}]}}]}}"#,
            resource(service)
        )
    };
    let mut columns = Default::default();
    walk(Signal::Traces, &span("a"), &mut columns);
    walk(Signal::Traces, &span("b"), &mut columns);
    assert_eq!(columns.0.len(), 4);
    assert!(columns.0.bytes() > 4 * 60);
    let batch = columns.0.finish();
    assert!(columns.0.is_empty());
    assert_eq!(batch.schema(), SpanColumns::schema());
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(texts(&batch, "service_name"), [some("a"), some("a"), some("b"), some("b")]);
    for (column, value) in [
        ("k8s_namespace", "ns"),
        ("k8s_pod", "p"),
        ("k8s_node", "n"),
        ("name", "GET /"),
        ("status_message", "no"),
        ("peer", "cart"),
        ("error_type", "timeout"),
    ] {
        assert_eq!(text(&batch, column), some(value), "{column}");
    }
    assert_eq!(texts(&batch, "peer")[1], None);
    let column = |name: &str| batch.column_by_name(name).unwrap();
    assert_eq!(column("time").as_primitive::<TimestampNanosecondType>().value(0), 100);
    assert_eq!(column("duration_ns").as_primitive::<Int64Type>().values()[..2], [250, 0]);
    assert_eq!(column("kind").as_primitive::<UInt8Type>().value(0), 3);
    assert_eq!(column("http_status").as_primitive::<Int32Type>().value(0), 503);
    assert_eq!(column("span_id").as_fixed_size_binary().value(0), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(column("trace_id").is_null(1) && column("parent_span_id").is_null(0));
    // The next batch knows the resource still.
    walk(Signal::Traces, &span("b"), &mut columns);
    assert_eq!(text(&columns.0.finish(), "service_name"), some("b"));
}

#[test]
fn a_log_record_fills_its_row() {
    let long = "ü".repeat(LONGEST_BODY);
    let logs = format!(
        r#"{{"resourceLogs":[{{{},"scopeLogs":[{{"logRecords":[{{"observedTimeUnixNano":"7","severityNumber":17,"severityText":"ERROR","eventName":"e",
        "body":{{"kvlistValue":{{"values":[{{"key":"a","value":{{"arrayValue":{{"values":[{{"intValue":1}},{{}},{{"stringValue":"x\""}}]}}}}}}]}}}}}},
        {{"timeUnixNano":"3","body":{{"stringValue":"{long}"}}}},{{}}]}}]}}]}}"#,
        resource("s")
    );
    let mut columns = Default::default();
    walk(Signal::Logs, &logs, &mut columns);
    let batch = columns.1.finish();
    assert_eq!(batch.schema(), LogColumns::schema());
    let bodies = texts(&batch, "body");
    assert_eq!(bodies[0].as_deref(), Some(r#"{"a":[1,null,"x\""]}"#));
    assert_eq!(bodies[1].as_ref().unwrap().len(), LONGEST_BODY);
    assert_eq!(bodies[2], None);
    assert_eq!(text(&batch, "k8s_container").as_deref(), Some("c"));
    assert_eq!(text(&batch, "event_name").as_deref(), Some("e"));
    let times = batch.column_by_name("time").unwrap().as_primitive::<TimestampNanosecondType>();
    assert_eq!(times.values()[..], [7, 3, 0]);
}

#[test]
fn data_points_fill_their_rows() {
    let metrics = format!(
        r#"{{"resourceMetrics":[{{{},"scopeMetrics":[{{"metrics":[
        {{"name":"g","unit":"By","gauge":{{"dataPoints":[{{"asInt":"5","timeUnixNano":"1","attributes":[{{"key":"a","value":{{"stringValue":"b"}}}},{{"key":"n","value":{{"intValue":1}}}}]}},{{}}]}}}},
        {{"name":"h","histogram":{{"dataPoints":[{{"count":"3","sum":1.5,"max":1.0}}]}}}},
        {{"name":"s","summary":{{"dataPoints":[{{"count":"2","sum":4}}]}}}},{{"name":"none"}}]}}]}}]}}"#,
        resource("s")
    );
    let mut columns = Default::default();
    walk(Signal::Metrics, &metrics, &mut columns);
    let batch = columns.2.finish();
    assert_eq!((batch.schema(), batch.num_rows()), (MetricColumns::schema(), 4));
    assert_eq!(text(&batch, "attributes").as_deref(), Some("a=b,n=1"));
    let kinds: Vec<_> = texts(&batch, "kind").into_iter().flatten().collect();
    assert_eq!(kinds, ["gauge", "gauge", "histogram", "summary"]);
    let doubles = |name: &str| {
        batch.column_by_name(name).unwrap().as_primitive::<Float64Type>().iter().collect::<Vec<_>>()
    };
    assert_eq!(doubles("value"), [Some(5.0), None, None, None]);
    assert_eq!(doubles("sum"), [None, None, Some(1.5), Some(4.0)]);
    assert_eq!(doubles("min"), [None, None, None, None]);
    assert_eq!(doubles("max"), [None, None, Some(1.0), None]);
    let counts = batch.column_by_name("count").unwrap().as_primitive::<UInt64Type>();
    assert_eq!(counts.iter().collect::<Vec<_>>(), [None, None, Some(3), Some(2)]);
}
