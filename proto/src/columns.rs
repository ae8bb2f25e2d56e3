//! Views to Arrow columns: narrow tables of what passes through.
//!
//! Names repeat, so they are dictionaries that persist from batch to batch; a dictionary that has
//! grown large begins anew with the next batch.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{
        Array, ArrayRef, FixedSizeBinaryBuilder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
        StringDictionaryBuilder, TimestampNanosecondBuilder,
    },
    datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};

use crate::{
    attr,
    view::{AnyValue, Attributes, LogView, MetricView, PointValue, PointView, ResourceView, SpanView},
};

/// Values of a dictionary from which on it begins anew.
const LARGEST_DICTIONARY: usize = 50_000;
/// Bytes of a log body that are kept.
const LONGEST_BODY: usize = 4096;

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(
        fields.iter().map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable)).collect::<Vec<_>>(),
    ))
}

/// A column of repeating text.
#[derive(Default)]
struct Names(StringDictionaryBuilder<Int32Type>);

impl Names {
    fn push(&mut self, text: &str) {
        // The keys cannot overflow: the dictionary begins anew long before 2^31 values.
        if self.0.append(text).is_err() {
            self.0.append_null();
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let array = self.0.finish_preserve_values();
        if array.values().len() > LARGEST_DICTIONARY {
            self.0 = StringDictionaryBuilder::new();
        }
        Arc::new(array)
    }
}

/// A column of instants.
struct Times(TimestampNanosecondBuilder);

impl Default for Times {
    fn default() -> Self {
        Times(TimestampNanosecondBuilder::new().with_data_type(utc()))
    }
}

impl Times {
    fn push(&mut self, nanos: u64) {
        self.0.append_value(i64::try_from(nanos).unwrap_or(i64::MAX));
    }

    fn push_or_null(&mut self, nanos: u64) {
        if nanos == 0 { self.0.append_null() } else { self.push(nanos) }
    }
}

/// A column of ids of `N` bytes; null where there is none.
struct Ids<const N: usize>(FixedSizeBinaryBuilder);

impl<const N: usize> Default for Ids<N> {
    fn default() -> Self {
        Ids(FixedSizeBinaryBuilder::new(N as i32))
    }
}

impl<const N: usize> Ids<N> {
    fn push(&mut self, id: &[u8]) {
        if id.len() != N || self.0.append_value(id).is_err() {
            self.0.append_null();
        }
    }
}

/// What every row says of where it comes from.
#[derive(Default)]
struct Origin {
    service: Names,
    namespace: Names,
    pod: Names,
    container: Names,
    node: Names,
}

impl Origin {
    const COLUMNS: [&'static str; 5] = ["service_name", "k8s_namespace", "k8s_pod", "k8s_container", "k8s_node"];

    fn push(&mut self, resource: &ResourceView<'_>) {
        let (mut service, mut namespace, mut fallback, mut pod, mut container, mut node) = ("", "", "", "", "", "");
        for attribute in resource.attributes().flatten() {
            let AnyValue::String(text) = attribute.value else { continue };
            match attribute.key {
                attr::SERVICE_NAME => service = text,
                attr::SERVICE_NAMESPACE => fallback = text,
                attr::K8S_NAMESPACE_NAME => namespace = text,
                attr::K8S_POD_NAME => pod = text,
                attr::K8S_CONTAINER_NAME => container = text,
                attr::K8S_NODE_NAME => node = text,
                _ => {}
            }
        }
        self.service.push(service);
        self.namespace.push(if namespace.is_empty() { fallback } else { namespace });
        self.pod.push(pod);
        self.container.push(container);
        self.node.push(node);
    }

    fn finish(&mut self) -> [ArrayRef; 5] {
        [&mut self.service, &mut self.namespace, &mut self.pod, &mut self.container, &mut self.node].map(Names::finish)
    }
}

macro_rules! table {
    ($schema:ident: $($name:expr, $kind:expr, $nullable:expr;)*) => {
        static $schema: LazyLock<SchemaRef> = LazyLock::new(|| {
            let mut fields: Vec<(&str, DataType, bool)> = vec![$(($name, $kind, $nullable)),*];
            fields.extend(Origin::COLUMNS.map(|name| (name, dictionary(), false)));
            schema(&fields)
        });
    };
}

fn batch(schema: &SchemaRef, mut columns: Vec<ArrayRef>, origin: &mut Origin) -> RecordBatch {
    columns.extend(origin.finish());
    // Columns and schema stand side by side in this file; they cannot differ at run time.
    RecordBatch::try_new(schema.clone(), columns).unwrap_or_else(|_| RecordBatch::new_empty(schema.clone()))
}

table! { SPANS:
    "time", utc(), false;
    "end_time", utc(), false;
    "duration_ns", DataType::Int64, false;
    "trace_id", DataType::FixedSizeBinary(16), true;
    "span_id", DataType::FixedSizeBinary(8), true;
    "parent_span_id", DataType::FixedSizeBinary(8), true;
    "name", dictionary(), false;
    "kind", DataType::Int32, false;
    "status_code", DataType::Int32, false;
    "status_message", dictionary(), false;
    "http_status", DataType::Int32, true;
    "error_type", dictionary(), false;
    "peer", dictionary(), false;
}

/// Rows of the `spans` table.
#[derive(Default)]
pub struct SpanColumns {
    rows: usize,
    time: Times,
    end: Times,
    duration: Int64Builder,
    trace_id: Ids<16>,
    span_id: Ids<8>,
    parent: Ids<8>,
    name: Names,
    kind: Int32Builder,
    status: Int32Builder,
    message: Names,
    http_status: Int32Builder,
    error_type: Names,
    peer: Names,
    origin: Origin,
}

impl SpanColumns {
    /// The table's columns.
    pub fn schema() -> SchemaRef {
        SPANS.clone()
    }

    /// Has nothing been added since the last batch?
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a span.
    pub fn push(&mut self, resource: &ResourceView<'_>, span: &SpanView<'_>) {
        let (mut http_status, mut error_type, mut peer) = (None, "", "");
        for attribute in span.attributes().flatten() {
            match attribute.key {
                "http.response.status_code" | "http.status_code" => http_status = attribute.value.as_int(),
                "error.type" => error_type = attribute.value.as_str().unwrap_or_default(),
                "server.address" | "net.peer.name" if span.kind != 2 && peer.is_empty() => {
                    peer = attribute.value.as_str().unwrap_or_default();
                }
                "peer.service" => peer = attribute.value.as_str().unwrap_or_default(),
                _ => {}
            }
        }
        self.rows += 1;
        self.time.push(span.start_time_unix_nano);
        self.end.push(span.end_time_unix_nano);
        let duration = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        self.duration.append_value(i64::try_from(duration).unwrap_or(i64::MAX));
        self.trace_id.push(span.trace_id);
        self.span_id.push(span.span_id);
        self.parent.push(span.parent_span_id);
        self.name.push(span.name);
        self.kind.append_value(span.kind);
        self.status.append_value(span.status_code);
        self.message.push(span.status_message);
        self.http_status.append_option(http_status.and_then(|status| i32::try_from(status).ok()));
        self.error_type.push(error_type);
        self.peer.push(peer);
        self.origin.push(resource);
    }

    /// The rows added since the last batch.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time.0.finish()),
            Arc::new(self.end.0.finish()),
            Arc::new(self.duration.finish()),
            Arc::new(self.trace_id.0.finish()),
            Arc::new(self.span_id.0.finish()),
            Arc::new(self.parent.0.finish()),
            self.name.finish(),
            Arc::new(self.kind.finish()),
            Arc::new(self.status.finish()),
            self.message.finish(),
            Arc::new(self.http_status.finish()),
            self.error_type.finish(),
            self.peer.finish(),
        ];
        batch(&SPANS, columns, &mut self.origin)
    }
}

table! { LOGS:
    "time", utc(), false;
    "observed_time", utc(), true;
    "severity_number", DataType::Int32, false;
    "severity_text", dictionary(), false;
    "body", DataType::Utf8, true;
    "event_name", dictionary(), false;
    "trace_id", DataType::FixedSizeBinary(16), true;
    "span_id", DataType::FixedSizeBinary(8), true;
}

/// Rows of the `logs` table.
#[derive(Default)]
pub struct LogColumns {
    rows: usize,
    time: Times,
    observed: Times,
    severity: Int32Builder,
    severity_text: Names,
    body: StringBuilder,
    event_name: Names,
    trace_id: Ids<16>,
    span_id: Ids<8>,
    origin: Origin,
}

impl LogColumns {
    /// The table's columns.
    pub fn schema() -> SchemaRef {
        LOGS.clone()
    }

    /// Has nothing been added since the last batch?
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a log record. A body that is no text is null; a long one is cut at 4 KiB.
    pub fn push(&mut self, resource: &ResourceView<'_>, log: &LogView<'_>) {
        self.rows += 1;
        let time = if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano };
        self.time.push(time);
        self.observed.push_or_null(log.observed_time_unix_nano);
        self.severity.append_value(log.severity_number);
        self.severity_text.push(log.severity_text);
        self.body.append_option(log.body.and_then(|body| body.as_str()).map(|text| cut(text, LONGEST_BODY)));
        self.event_name.push(log.event_name);
        self.trace_id.push(log.trace_id);
        self.span_id.push(log.span_id);
        self.origin.push(resource);
    }

    /// The rows added since the last batch.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time.0.finish()),
            Arc::new(self.observed.0.finish()),
            Arc::new(self.severity.finish()),
            self.severity_text.finish(),
            Arc::new(self.body.finish()),
            self.event_name.finish(),
            Arc::new(self.trace_id.0.finish()),
            Arc::new(self.span_id.0.finish()),
        ];
        batch(&LOGS, columns, &mut self.origin)
    }
}

table! { METRICS:
    "time", utc(), false;
    "start_time", utc(), true;
    "name", dictionary(), false;
    "unit", dictionary(), false;
    "type", dictionary(), false;
    "attributes", dictionary(), false;
    "value", DataType::Float64, true;
    "count", DataType::Int64, true;
    "sum", DataType::Float64, true;
    "min", DataType::Float64, true;
    "max", DataType::Float64, true;
}

/// Rows of the `metrics` table.
#[derive(Default)]
pub struct MetricColumns {
    rows: usize,
    time: Times,
    start: Times,
    name: Names,
    unit: Names,
    kind: Names,
    attributes: Names,
    value: Float64Builder,
    count: Int64Builder,
    sum: Float64Builder,
    min: Float64Builder,
    max: Float64Builder,
    origin: Origin,
    scratch: String,
}

impl MetricColumns {
    /// The table's columns.
    pub fn schema() -> SchemaRef {
        METRICS.clone()
    }

    /// Has nothing been added since the last batch?
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a data point; its attributes as `key=value,...`.
    pub fn push(&mut self, resource: &ResourceView<'_>, metric: &MetricView<'_>, point: &PointView<'_>) {
        self.rows += 1;
        self.time.push(point.time_unix_nano);
        self.start.push_or_null(point.start_time_unix_nano);
        self.name.push(metric.name);
        self.unit.push(metric.unit);
        self.kind.push(metric.kind.name());
        self.scratch.clear();
        write_attributes(&mut self.scratch, point.attributes());
        self.attributes.push(&self.scratch);
        self.value.append_option(point.value.as_f64());
        let (count, sum, min, max) = match point.value {
            PointValue::Distribution { count, sum, min, max } => (Some(i64::try_from(count).unwrap_or(i64::MAX)), sum, min, max),
            _ => (None, None, None, None),
        };
        self.count.append_option(count);
        self.sum.append_option(sum);
        self.min.append_option(min);
        self.max.append_option(max);
        self.origin.push(resource);
    }

    /// The rows added since the last batch.
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time.0.finish()),
            Arc::new(self.start.0.finish()),
            self.name.finish(),
            self.unit.finish(),
            self.kind.finish(),
            self.attributes.finish(),
            Arc::new(self.value.finish()),
            Arc::new(self.count.finish()),
            Arc::new(self.sum.finish()),
            Arc::new(self.min.finish()),
            Arc::new(self.max.finish()),
        ];
        batch(&METRICS, columns, &mut self.origin)
    }
}

fn write_attributes(out: &mut String, attributes: Attributes<'_>) {
    use std::fmt::Write as _;
    for attribute in attributes.flatten() {
        if !out.is_empty() {
            out.push(',');
        }
        let key = attribute.key;
        let _ = match attribute.value {
            AnyValue::String(text) => write!(out, "{key}={}", cut(text, 256)),
            AnyValue::Bool(value) => write!(out, "{key}={value}"),
            AnyValue::Int(value) => write!(out, "{key}={value}"),
            AnyValue::Double(value) => write!(out, "{key}={value}"),
            AnyValue::Empty | AnyValue::Array(_) | AnyValue::KvList(_) | AnyValue::Bytes(_) => write!(out, "{key}"),
        };
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
