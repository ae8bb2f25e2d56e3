//! Borrowed views over a serialized `Export<Signal>ServiceRequest`: what correlation needs is read
//! where it lies, nothing is decoded into structs of its own.
//!
//! Scalars that occur several times take the last one, as protobuf says. The views expect bytes that
//! have passed [`crate::check`]; on others they give what can be read and an error where it ends.

use crate::{
    signal::Signal,
    wire::{Field, Fields, Value, WireError},
};

/// Repeated message fields of one number.
#[derive(Clone, Copy, Debug)]
struct Repeated<'a> {
    fields: Fields<'a>,
    number: u32,
}

impl<'a> Iterator for Repeated<'a> {
    type Item = Result<Field<'a>, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.fields.next()? {
                Ok(field) if field.number == self.number && matches!(field.value, Value::Len(_)) => return Some(Ok(field)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn content<'a>(field: &Field<'a>) -> &'a [u8] {
    match field.value {
        Value::Len(bytes) => bytes,
        _ => &[],
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A whole request.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    signal: Signal,
    bytes: &'a [u8],
}

impl<'a> RequestView<'a> {
    /// A view of these bytes as a request of that signal.
    pub fn new(signal: Signal, bytes: &'a [u8]) -> Self {
        RequestView { signal, bytes }
    }

    /// Its `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`; none for profiles.
    pub fn resources(&self) -> impl Iterator<Item = Result<ResourceGroup<'a>, WireError>> + use<'a> {
        let signal = self.signal;
        let bytes = if signal == Signal::Profiles { &[][..] } else { self.bytes };
        Repeated { fields: Fields::new(bytes), number: 1 }
            .map(move |field| field.map(|f| ResourceGroup { signal, bytes: content(&f), base: f.content }))
    }
}

/// A resource and its scopes.
#[derive(Clone, Copy, Debug)]
pub struct ResourceGroup<'a> {
    signal: Signal,
    bytes: &'a [u8],
    base: usize,
}

impl<'a> ResourceGroup<'a> {
    /// The resource; an absent one has no attributes.
    pub fn resource(&self) -> ResourceView<'a> {
        let last = Repeated { fields: Fields::at(self.bytes, self.base), number: 1 }.flatten().last();
        last.map_or(ResourceView { bytes: &[], base: self.base }, |f| ResourceView { bytes: content(&f), base: f.content })
    }

    /// Its `ScopeSpans`, `ScopeMetrics` or `ScopeLogs`.
    pub fn scopes(&self) -> impl Iterator<Item = Result<ScopeGroup<'a>, WireError>> + use<'a> {
        let signal = self.signal;
        Repeated { fields: Fields::at(self.bytes, self.base), number: 2 }
            .map(move |field| field.map(|f| ScopeGroup { signal, bytes: content(&f), base: f.content }))
    }
}

/// `opentelemetry.proto.resource.v1.Resource`
#[derive(Clone, Copy, Debug)]
pub struct ResourceView<'a> {
    bytes: &'a [u8],
    base: usize,
}

impl<'a> ResourceView<'a> {
    /// A view of a serialized resource.
    pub fn new(bytes: &'a [u8]) -> Self {
        ResourceView { bytes, base: 0 }
    }

    /// Its attributes in their order, duplicates included.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(Repeated { fields: Fields::at(self.bytes, self.base), number: 1 })
    }

    /// Text of the attribute of that key; `None` when it is absent or no text.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.attributes().flatten().filter(|a| a.key == key).find_map(|a| a.value.as_str())
    }
}

/// A scope and its records.
#[derive(Clone, Copy, Debug)]
pub struct ScopeGroup<'a> {
    signal: Signal,
    bytes: &'a [u8],
    base: usize,
}

impl<'a> ScopeGroup<'a> {
    /// Name of the instrumentation scope; empty when there is none.
    pub fn name(&self) -> &'a str {
        let scope = Repeated { fields: Fields::at(self.bytes, self.base), number: 1 }.flatten().last();
        let name = scope.and_then(|f| Repeated { fields: Fields::new(content(&f)), number: 1 }.flatten().last());
        name.map(|f| text(content(&f))).unwrap_or_default()
    }

    /// Its spans, log records or metrics.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'a>, WireError>> + use<'a> {
        let signal = self.signal;
        Repeated { fields: Fields::at(self.bytes, self.base), number: 2 }.map(move |field| {
            let field = field?;
            let (bytes, base) = (content(&field), field.content);
            Ok(match signal {
                Signal::Traces => Record::Span(SpanView::read(bytes, base)?),
                Signal::Logs => Record::Log(LogView::read(bytes, base)?),
                Signal::Metrics | Signal::Profiles => Record::Metric(MetricView::read(bytes, base)?),
            })
        })
    }
}

/// A record of a scope.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each holds the view that it is named for")]
pub enum Record<'a> {
    Span(SpanView<'a>),
    Log(LogView<'a>),
    Metric(MetricView<'a>),
}

/// Attributes of a resource, a record or a data point, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(Repeated<'a>);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<KeyValue<'a>, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.and_then(|f| KeyValue::read(content(&f), f.content)))
    }
}

/// `opentelemetry.proto.common.v1.KeyValue`
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'a> {
    /// The key.
    pub key: &'a str,
    /// The value; an absent one is [`AnyValue::Empty`].
    pub value: AnyValue<'a>,
}

impl<'a> KeyValue<'a> {
    #[inline]
    fn read(bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut out = KeyValue { key: "", value: AnyValue::Empty };
        for field in Fields::at(bytes, base) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(key)) => out.key = text(key),
                (2, Value::Len(value)) => out.value = AnyValue::read(value, field.content)?,
                _ => {}
            }
        }
        Ok(out)
    }
}

/// `opentelemetry.proto.common.v1.AnyValue`; arrays and maps are read when they are walked.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum AnyValue<'a> {
    Empty,
    String(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Array(ArrayView<'a>),
    KvList(Attributes<'a>),
    Bytes(&'a [u8]),
}

impl<'a> AnyValue<'a> {
    /// A view of a serialized value.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        Self::read(bytes, 0)
    }

    #[inline]
    fn read(bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut out = AnyValue::Empty;
        for field in Fields::at(bytes, base) {
            let field = field?;
            out = match (field.number, field.value) {
                (1, Value::Len(value)) => AnyValue::String(text(value)),
                (2, Value::Varint(value)) => AnyValue::Bool(value != 0),
                (3, Value::Varint(value)) => AnyValue::Int(value as i64),
                (4, Value::Fixed64(bits)) => AnyValue::Double(f64::from_bits(bits)),
                (5, Value::Len(value)) => AnyValue::Array(ArrayView { bytes: value, base: field.content }),
                (6, Value::Len(value)) => {
                    AnyValue::KvList(Attributes(Repeated { fields: Fields::at(value, field.content), number: 1 }))
                }
                (7, Value::Len(value)) => AnyValue::Bytes(value),
                _ => out,
            };
        }
        Ok(out)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            AnyValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one, or a text that is one (as some exporters write status codes).
    pub fn as_int(&self) -> Option<i64> {
        match self {
            AnyValue::Int(value) => Some(*value),
            AnyValue::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Elements of an array value.
#[derive(Clone, Copy, Debug)]
pub struct ArrayView<'a> {
    bytes: &'a [u8],
    base: usize,
}

impl<'a> ArrayView<'a> {
    /// The elements in their order.
    pub fn values(&self) -> impl Iterator<Item = Result<AnyValue<'a>, WireError>> + use<'a> {
        Repeated { fields: Fields::at(self.bytes, self.base), number: 1 }
            .map(|field| field.and_then(|f| AnyValue::read(content(&f), f.content)))
    }
}

/// `opentelemetry.proto.trace.v1.Span`: what correlation reads of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanView<'a> {
    bytes: &'a [u8],
    base: usize,
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// 8 bytes, or none for a root.
    pub parent_span_id: &'a [u8],
    /// Name.
    pub name: &'a str,
    /// Span kind as on the wire; may be out of the enum.
    pub kind: i32,
    /// ns since the epoch.
    pub start_time_unix_nano: u64,
    /// ns since the epoch.
    pub end_time_unix_nano: u64,
    /// Status code as on the wire: 0 unset, 1 ok, 2 error; may be out of the enum.
    pub status_code: i32,
    /// Status message.
    pub status_message: &'a str,
    /// W3C trace flags and OTLP's own bits.
    pub flags: u32,
}

impl<'a> SpanView<'a> {
    #[inline]
    fn read(bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut span = SpanView { bytes, base, ..SpanView::default() };
        for field in Fields::at(bytes, base) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Len(id)) => span.trace_id = id,
                (2, Value::Len(id)) => span.span_id = id,
                (4, Value::Len(id)) => span.parent_span_id = id,
                (5, Value::Len(name)) => span.name = text(name),
                (6, Value::Varint(kind)) => span.kind = kind as i32,
                (7, Value::Fixed64(nanos)) => span.start_time_unix_nano = nanos,
                (8, Value::Fixed64(nanos)) => span.end_time_unix_nano = nanos,
                (15, Value::Len(status)) => {
                    for field in Fields::at(status, field.content) {
                        let field = field?;
                        match (field.number, field.value) {
                            (2, Value::Len(message)) => span.status_message = text(message),
                            (3, Value::Varint(code)) => span.status_code = code as i32,
                            _ => {}
                        }
                    }
                }
                (16, Value::Fixed32(flags)) => span.flags = flags,
                _ => {}
            }
        }
        Ok(span)
    }

    /// Its attributes in their order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(Repeated { fields: Fields::at(self.bytes, self.base), number: 9 })
    }
}

/// `opentelemetry.proto.logs.v1.LogRecord`
#[derive(Clone, Copy, Debug, Default)]
pub struct LogView<'a> {
    bytes: &'a [u8],
    base: usize,
    /// When it happened, ns since the epoch; 0 when unknown.
    pub time_unix_nano: u64,
    /// When it was collected, ns since the epoch.
    pub observed_time_unix_nano: u64,
    /// Severity as on the wire; may be out of the enum.
    pub severity_number: i32,
    /// Severity in the source's words.
    pub severity_text: &'a str,
    /// The body; `None` when the field is absent.
    pub body: Option<AnyValue<'a>>,
    /// 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// 8 bytes, or none.
    pub span_id: &'a [u8],
    /// W3C trace flags and reserved bits.
    pub flags: u32,
    /// Name of the event; empty when it is none.
    pub event_name: &'a str,
}

impl<'a> LogView<'a> {
    #[inline]
    fn read(bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut log = LogView { bytes, base, ..LogView::default() };
        for field in Fields::at(bytes, base) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Fixed64(nanos)) => log.time_unix_nano = nanos,
                (2, Value::Varint(number)) => log.severity_number = number as i32,
                (3, Value::Len(severity)) => log.severity_text = text(severity),
                (5, Value::Len(body)) => log.body = Some(AnyValue::read(body, field.content)?),
                (8, Value::Fixed32(flags)) => log.flags = flags,
                (9, Value::Len(id)) => log.trace_id = id,
                (10, Value::Len(id)) => log.span_id = id,
                (11, Value::Fixed64(nanos)) => log.observed_time_unix_nano = nanos,
                (12, Value::Len(name)) => log.event_name = text(name),
                _ => {}
            }
        }
        Ok(log)
    }

    /// Its attributes in their order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(Repeated { fields: Fields::at(self.bytes, self.base), number: 6 })
    }
}

/// Which sort of data a metric has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum MetricKind {
    #[default]
    None,
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

impl MetricKind {
    /// The word in the `metrics` table.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::None => "",
            MetricKind::Gauge => "gauge",
            MetricKind::Sum => "sum",
            MetricKind::Histogram => "histogram",
            MetricKind::ExponentialHistogram => "exponential_histogram",
            MetricKind::Summary => "summary",
        }
    }
}

/// `opentelemetry.proto.metrics.v1.Metric`
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricView<'a> {
    /// Name.
    pub name: &'a str,
    /// UCUM unit.
    pub unit: &'a str,
    /// Sort of its data.
    pub kind: MetricKind,
    /// Aggregation temporality as on the wire (1 delta, 2 cumulative); 0 where it has none.
    pub temporality: i32,
    /// A sum that never falls.
    pub is_monotonic: bool,
    data: &'a [u8],
    data_base: usize,
}

impl<'a> MetricView<'a> {
    #[inline]
    fn read(bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        let mut metric = MetricView::default();
        for field in Fields::at(bytes, base) {
            let field = field?;
            let Value::Len(value) = field.value else { continue };
            let kind = match field.number {
                1 => {
                    metric.name = text(value);
                    continue;
                }
                3 => {
                    metric.unit = text(value);
                    continue;
                }
                5 => MetricKind::Gauge,
                7 => MetricKind::Sum,
                9 => MetricKind::Histogram,
                10 => MetricKind::ExponentialHistogram,
                11 => MetricKind::Summary,
                _ => continue,
            };
            (metric.kind, metric.data, metric.data_base) = (kind, value, field.content);
        }
        for field in Fields::at(metric.data, metric.data_base) {
            let field = field?;
            match (field.number, field.value) {
                (2, Value::Varint(value)) => metric.temporality = value as i32,
                (3, Value::Varint(value)) => metric.is_monotonic = value != 0,
                _ => {}
            }
        }
        Ok(metric)
    }

    /// Its data points in their order.
    pub fn points(&self) -> impl Iterator<Item = Result<PointView<'a>, WireError>> + use<'a> {
        let kind = self.kind;
        Repeated { fields: Fields::at(self.data, self.data_base), number: 1 }
            .map(move |field| field.and_then(|f| PointView::read(kind, content(&f), f.content)))
    }
}

/// The number or numbers of a data point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PointValue {
    /// No value was recorded.
    None,
    /// `as_int`
    Int(i64),
    /// `as_double`
    Double(f64),
    /// A histogram, an exponential histogram or a summary.
    Distribution {
        /// How many values.
        count: u64,
        /// Their sum, where it was kept.
        sum: Option<f64>,
        /// The least, where it was kept.
        min: Option<f64>,
        /// The greatest, where it was kept.
        max: Option<f64>,
    },
}

impl PointValue {
    /// The number of a gauge or a sum.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            PointValue::Int(value) => Some(*value as f64),
            PointValue::Double(value) => Some(*value),
            PointValue::None | PointValue::Distribution { .. } => None,
        }
    }
}

/// A data point of any sort.
#[derive(Clone, Copy, Debug)]
pub struct PointView<'a> {
    bytes: &'a [u8],
    base: usize,
    attributes: u32,
    /// ns since the epoch.
    pub time_unix_nano: u64,
    /// ns since the epoch; 0 when unknown.
    pub start_time_unix_nano: u64,
    /// Its value.
    pub value: PointValue,
    /// `DataPointFlags`; bit 0: no value was recorded.
    pub flags: u32,
}

impl<'a> PointView<'a> {
    #[inline]
    fn read(kind: MetricKind, bytes: &'a [u8], base: usize) -> Result<Self, WireError> {
        // Field numbers of attributes, sum, min, max and flags differ from sort to sort.
        let (attributes, flags, min_field, max_field) = match kind {
            MetricKind::Histogram => (9, 10, 11, 12),
            MetricKind::ExponentialHistogram => (1, 10, 12, 13),
            MetricKind::Summary => (7, 8, 0, 0),
            _ => (7, 8, 0, 0),
        };
        let number = matches!(kind, MetricKind::Gauge | MetricKind::Sum | MetricKind::None);
        let mut point = PointView {
            bytes,
            base,
            attributes,
            time_unix_nano: 0,
            start_time_unix_nano: 0,
            value: PointValue::None,
            flags: 0,
        };
        let (mut count, mut sum, mut min, mut max) = (0, None, None, None);
        for field in Fields::at(bytes, base) {
            let field = field?;
            match (field.number, field.value) {
                (2, Value::Fixed64(nanos)) => point.start_time_unix_nano = nanos,
                (3, Value::Fixed64(nanos)) => point.time_unix_nano = nanos,
                (4, Value::Fixed64(bits)) if number => point.value = PointValue::Double(f64::from_bits(bits)),
                (6, Value::Fixed64(bits)) if number => point.value = PointValue::Int(bits as i64),
                (4, Value::Fixed64(n)) => count = n,
                (5, Value::Fixed64(bits)) => sum = Some(f64::from_bits(bits)),
                (n, Value::Fixed64(bits)) if n == min_field => min = Some(f64::from_bits(bits)),
                (n, Value::Fixed64(bits)) if n == max_field => max = Some(f64::from_bits(bits)),
                (n, Value::Varint(bits)) if n == flags => point.flags = bits as u32,
                _ => {}
            }
        }
        if !number {
            point.value = PointValue::Distribution { count, sum, min, max };
        }
        Ok(point)
    }

    /// Its attributes in their order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(Repeated { fields: Fields::at(self.bytes, self.base), number: self.attributes })
    }
}
