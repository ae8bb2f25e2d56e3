//! The messages of OTLP as one table: what `check` checks and what the JSON door translates by.
//!
//! Source: opentelemetry-proto 1.9 (`opentelemetry/proto/**`). A field that is missing here is still
//! passed on in protobuf, unread; it is only not known in JSON.

use crate::signal::Signal;

/// The type of a field.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    /// Names in the order of their numbers, from 0.
    Enum(&'static [&'static str]),
    String,
    /// Base64 in JSON.
    Bytes,
    /// 16 bytes, hex in JSON.
    TraceId,
    /// 8 bytes, hex in JSON.
    SpanId,
    Message(&'static Message),
}

/// How often a field may be there, and whether its default value differs from its absence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// At most once; the default is the same as absence.
    Single,
    /// At most once; the default is a value (`optional`).
    Optional,
    /// One of the fields with this label in the message. No OTLP message has two `oneof`s.
    Oneof,
    Repeated,
}

pub(crate) struct Field {
    pub(crate) number: u32,
    /// lowerCamelCase, as in JSON.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) label: Label,
}

pub(crate) struct Message {
    pub(crate) fields: &'static [Field],
    /// Position in `fields` + 1 of each field number; 0 for none.
    index: [u8; MAX_NUMBER + 1],
    /// What `check` does with a field, by its tag, if the tag takes one byte.
    pub(crate) steps: [Step; 128],
    /// Is each of these what the signal counts: a span, a log record, a data point?
    pub(crate) item: bool,
    /// Is it a `KeyValue`, which `check` knows at a glance?
    pub(crate) pair: bool,
}

/// What there is to do with a field to check it.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// Look closer: not known, not of the right wire type, packed, or with a long tag.
    Look,
    Varint,
    Fixed32,
    Fixed64,
    /// Bytes that may be anything.
    Bytes,
    Text,
    /// Bytes that are an id of this length, or none.
    Id(u8),
    Nested(&'static Message),
}

/// Highest field number in OTLP (`Span.flags`).
const MAX_NUMBER: usize = 16;

impl Kind {
    /// The wire type of one value.
    #[inline]
    pub(crate) const fn wire_type(self) -> u8 {
        match self {
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => 1,
            Kind::String | Kind::Bytes | Kind::TraceId | Kind::SpanId | Kind::Message(_) => 2,
            Kind::Fixed32 => 5,
            _ => 0,
        }
    }

    const fn step(self) -> Step {
        match self {
            Kind::String => Step::Text,
            Kind::Bytes => Step::Bytes,
            Kind::TraceId => Step::Id(16),
            Kind::SpanId => Step::Id(8),
            Kind::Message(inner) => Step::Nested(inner),
            _ => match self.wire_type() {
                1 => Step::Fixed64,
                5 => Step::Fixed32,
                _ => Step::Varint,
            },
        }
    }
}

impl Message {
    const fn new(fields: &'static [Field]) -> Self {
        let mut index = [0; MAX_NUMBER + 1];
        let mut steps = [Step::Look; 128];
        let mut i = 0;
        while i < fields.len() {
            let field = &fields[i];
            index[field.number as usize] = i as u8 + 1;
            let tag = (field.number << 3) as usize | field.kind.wire_type() as usize;
            if tag < steps.len() {
                steps[tag] = field.kind.step();
            }
            i += 1;
        }
        Message { fields, index, steps, item: false, pair: false }
    }

    const fn pair(fields: &'static [Field]) -> Self {
        let mut message = Message::new(fields);
        message.pair = true;
        message
    }

    const fn item(fields: &'static [Field]) -> Self {
        let mut message = Message::new(fields);
        message.item = true;
        message
    }

    /// The position in `fields` of the field with this number.
    #[inline]
    pub(crate) fn position(&self, number: u32) -> Option<usize> {
        usize::from(*self.index.get(number as usize)?).checked_sub(1)
    }

    /// The field with this number.
    #[inline]
    pub(crate) fn field(&self, number: u32) -> Option<&'static Field> {
        self.fields.get(self.position(number)?)
    }

    /// The field with this JSON name, in lowerCamelCase or snake_case.
    pub(crate) fn named(&self, name: &str) -> Option<&'static Field> {
        let exact = self.fields.iter().find(|field| field.name == name);
        match exact {
            None if name.contains('_') => self.fields.iter().find(|f| is_snake_of(name, f.name)),
            found => found,
        }
    }
}

fn is_snake_of(snake: &str, camel: &str) -> bool {
    let mut snake = snake.bytes();
    camel.bytes().all(|byte| match byte {
        b'A'..=b'Z' => {
            snake.next() == Some(b'_') && snake.next() == Some(byte.to_ascii_lowercase())
        }
        _ => snake.next() == Some(byte),
    }) && snake.next().is_none()
}

/// The request message of a signal.
pub(crate) fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
        Signal::Profiles => &PROFILES,
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Single }
}

const fn optional(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Optional }
}

const fn oneof(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Oneof }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Repeated }
}

use Kind::{
    Bool, Bytes, Double, Enum, Fixed32, Fixed64, Int32, Int64, Message as Msg, Sfixed64, Sint32,
    SpanId, String, TraceId, Uint32, Uint64,
};

// --- common ---

static ANY_VALUE: Message = Message::new(&[
    oneof(1, "stringValue", String),
    oneof(2, "boolValue", Bool),
    oneof(3, "intValue", Int64),
    oneof(4, "doubleValue", Double),
    oneof(5, "arrayValue", Msg(&ARRAY)),
    oneof(6, "kvlistValue", Msg(&KEY_VALUE_LIST)),
    oneof(7, "bytesValue", Bytes),
    oneof(8, "stringValueStrindex", Int32),
]);

static ARRAY: Message = Message::new(&[many(1, "values", Msg(&ANY_VALUE))]);

static KEY_VALUE_LIST: Message = Message::new(&[many(1, "values", Msg(&KEY_VALUE))]);

static KEY_VALUE: Message = Message::pair(&[
    one(1, "key", String),
    one(2, "value", Msg(&ANY_VALUE)),
    one(3, "keyStrindex", Int32),
]);

static SCOPE: Message = Message::new(&[
    one(1, "name", String),
    one(2, "version", String),
    many(3, "attributes", Msg(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
]);

static ENTITY_REF: Message = Message::new(&[
    one(1, "schemaUrl", String),
    one(2, "type", String),
    many(3, "idKeys", String),
    many(4, "descriptionKeys", String),
]);

static RESOURCE: Message = Message::new(&[
    many(1, "attributes", Msg(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Uint32),
    many(3, "entityRefs", Msg(&ENTITY_REF)),
]);

// --- traces ---

static TRACES: Message = Message::new(&[many(1, "resourceSpans", Msg(&RESOURCE_SPANS))]);

static RESOURCE_SPANS: Message = Message::new(&[
    one(1, "resource", Msg(&RESOURCE)),
    many(2, "scopeSpans", Msg(&SCOPE_SPANS)),
    one(3, "schemaUrl", String),
]);

static SCOPE_SPANS: Message = Message::new(&[
    one(1, "scope", Msg(&SCOPE)),
    many(2, "spans", Msg(&SPAN)),
    one(3, "schemaUrl", String),
]);

static SPAN: Message = Message::item(&[
    one(1, "traceId", TraceId),
    one(2, "spanId", SpanId),
    one(3, "traceState", String),
    one(4, "parentSpanId", SpanId),
    one(5, "name", String),
    one(6, "kind", Enum(SPAN_KINDS)),
    one(7, "startTimeUnixNano", Fixed64),
    one(8, "endTimeUnixNano", Fixed64),
    many(9, "attributes", Msg(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Uint32),
    many(11, "events", Msg(&SPAN_EVENT)),
    one(12, "droppedEventsCount", Uint32),
    many(13, "links", Msg(&SPAN_LINK)),
    one(14, "droppedLinksCount", Uint32),
    one(15, "status", Msg(&STATUS)),
    one(16, "flags", Fixed32),
]);

static SPAN_EVENT: Message = Message::new(&[
    one(1, "timeUnixNano", Fixed64),
    one(2, "name", String),
    many(3, "attributes", Msg(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
]);

static SPAN_LINK: Message = Message::new(&[
    one(1, "traceId", TraceId),
    one(2, "spanId", SpanId),
    one(3, "traceState", String),
    many(4, "attributes", Msg(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Uint32),
    one(6, "flags", Fixed32),
]);

static STATUS: Message =
    Message::new(&[one(2, "message", String), one(3, "code", Enum(STATUS_CODES))]);

const SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

const STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

// --- logs ---

static LOGS: Message = Message::new(&[many(1, "resourceLogs", Msg(&RESOURCE_LOGS))]);

static RESOURCE_LOGS: Message = Message::new(&[
    one(1, "resource", Msg(&RESOURCE)),
    many(2, "scopeLogs", Msg(&SCOPE_LOGS)),
    one(3, "schemaUrl", String),
]);

static SCOPE_LOGS: Message = Message::new(&[
    one(1, "scope", Msg(&SCOPE)),
    many(2, "logRecords", Msg(&LOG_RECORD)),
    one(3, "schemaUrl", String),
]);

static LOG_RECORD: Message = Message::item(&[
    one(1, "timeUnixNano", Fixed64),
    one(2, "severityNumber", Enum(SEVERITIES)),
    one(3, "severityText", String),
    one(5, "body", Msg(&ANY_VALUE)),
    many(6, "attributes", Msg(&KEY_VALUE)),
    one(7, "droppedAttributesCount", Uint32),
    one(8, "flags", Fixed32),
    one(9, "traceId", TraceId),
    one(10, "spanId", SpanId),
    one(11, "observedTimeUnixNano", Fixed64),
    one(12, "eventName", String),
]);

const SEVERITIES: &[&str] = &[
    "SEVERITY_NUMBER_UNSPECIFIED",
    "SEVERITY_NUMBER_TRACE",
    "SEVERITY_NUMBER_TRACE2",
    "SEVERITY_NUMBER_TRACE3",
    "SEVERITY_NUMBER_TRACE4",
    "SEVERITY_NUMBER_DEBUG",
    "SEVERITY_NUMBER_DEBUG2",
    "SEVERITY_NUMBER_DEBUG3",
    "SEVERITY_NUMBER_DEBUG4",
    "SEVERITY_NUMBER_INFO",
    "SEVERITY_NUMBER_INFO2",
    "SEVERITY_NUMBER_INFO3",
    "SEVERITY_NUMBER_INFO4",
    "SEVERITY_NUMBER_WARN",
    "SEVERITY_NUMBER_WARN2",
    "SEVERITY_NUMBER_WARN3",
    "SEVERITY_NUMBER_WARN4",
    "SEVERITY_NUMBER_ERROR",
    "SEVERITY_NUMBER_ERROR2",
    "SEVERITY_NUMBER_ERROR3",
    "SEVERITY_NUMBER_ERROR4",
    "SEVERITY_NUMBER_FATAL",
    "SEVERITY_NUMBER_FATAL2",
    "SEVERITY_NUMBER_FATAL3",
    "SEVERITY_NUMBER_FATAL4",
];

// --- metrics ---

static METRICS: Message = Message::new(&[many(1, "resourceMetrics", Msg(&RESOURCE_METRICS))]);

static RESOURCE_METRICS: Message = Message::new(&[
    one(1, "resource", Msg(&RESOURCE)),
    many(2, "scopeMetrics", Msg(&SCOPE_METRICS)),
    one(3, "schemaUrl", String),
]);

static SCOPE_METRICS: Message = Message::new(&[
    one(1, "scope", Msg(&SCOPE)),
    many(2, "metrics", Msg(&METRIC)),
    one(3, "schemaUrl", String),
]);

static METRIC: Message = Message::new(&[
    one(1, "name", String),
    one(2, "description", String),
    one(3, "unit", String),
    oneof(5, "gauge", Msg(&GAUGE)),
    oneof(7, "sum", Msg(&SUM)),
    oneof(9, "histogram", Msg(&HISTOGRAM)),
    oneof(10, "exponentialHistogram", Msg(&EXPONENTIAL_HISTOGRAM)),
    oneof(11, "summary", Msg(&SUMMARY)),
    many(12, "metadata", Msg(&KEY_VALUE)),
]);

static GAUGE: Message = Message::new(&[many(1, "dataPoints", Msg(&NUMBER_POINT))]);

static SUM: Message = Message::new(&[
    many(1, "dataPoints", Msg(&NUMBER_POINT)),
    one(2, "aggregationTemporality", Enum(TEMPORALITIES)),
    one(3, "isMonotonic", Bool),
]);

static HISTOGRAM: Message = Message::new(&[
    many(1, "dataPoints", Msg(&HISTOGRAM_POINT)),
    one(2, "aggregationTemporality", Enum(TEMPORALITIES)),
]);

static EXPONENTIAL_HISTOGRAM: Message = Message::new(&[
    many(1, "dataPoints", Msg(&EXPONENTIAL_POINT)),
    one(2, "aggregationTemporality", Enum(TEMPORALITIES)),
]);

static SUMMARY: Message = Message::new(&[many(1, "dataPoints", Msg(&SUMMARY_POINT))]);

const TEMPORALITIES: &[&str] = &[
    "AGGREGATION_TEMPORALITY_UNSPECIFIED",
    "AGGREGATION_TEMPORALITY_DELTA",
    "AGGREGATION_TEMPORALITY_CUMULATIVE",
];

static NUMBER_POINT: Message = Message::item(&[
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    oneof(4, "asDouble", Double),
    many(5, "exemplars", Msg(&EXEMPLAR)),
    oneof(6, "asInt", Sfixed64),
    many(7, "attributes", Msg(&KEY_VALUE)),
    one(8, "flags", Uint32),
]);

static HISTOGRAM_POINT: Message = Message::item(&[
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    optional(5, "sum", Double),
    many(6, "bucketCounts", Fixed64),
    many(7, "explicitBounds", Double),
    many(8, "exemplars", Msg(&EXEMPLAR)),
    many(9, "attributes", Msg(&KEY_VALUE)),
    one(10, "flags", Uint32),
    optional(11, "min", Double),
    optional(12, "max", Double),
]);

static EXPONENTIAL_POINT: Message = Message::item(&[
    many(1, "attributes", Msg(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    optional(5, "sum", Double),
    one(6, "scale", Sint32),
    one(7, "zeroCount", Fixed64),
    one(8, "positive", Msg(&BUCKETS)),
    one(9, "negative", Msg(&BUCKETS)),
    one(10, "flags", Uint32),
    many(11, "exemplars", Msg(&EXEMPLAR)),
    optional(12, "min", Double),
    optional(13, "max", Double),
    one(14, "zeroThreshold", Double),
]);

static BUCKETS: Message =
    Message::new(&[one(1, "offset", Sint32), many(2, "bucketCounts", Uint64)]);

static SUMMARY_POINT: Message = Message::item(&[
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "quantileValues", Msg(&QUANTILE)),
    many(7, "attributes", Msg(&KEY_VALUE)),
    one(8, "flags", Uint32),
]);

static QUANTILE: Message = Message::new(&[one(1, "quantile", Double), one(2, "value", Double)]);

static EXEMPLAR: Message = Message::new(&[
    one(2, "timeUnixNano", Fixed64),
    oneof(3, "asDouble", Double),
    one(4, "spanId", SpanId),
    one(5, "traceId", TraceId),
    oneof(6, "asInt", Sfixed64),
    many(7, "filteredAttributes", Msg(&KEY_VALUE)),
]);

// --- profiles (Development: read in JSON only; in protobuf they pass unread) ---

static PROFILES: Message = Message::new(&[
    many(1, "resourceProfiles", Msg(&RESOURCE_PROFILES)),
    one(2, "dictionary", Msg(&DICTIONARY)),
]);

static RESOURCE_PROFILES: Message = Message::new(&[
    one(1, "resource", Msg(&RESOURCE)),
    many(2, "scopeProfiles", Msg(&SCOPE_PROFILES)),
    one(3, "schemaUrl", String),
]);

static SCOPE_PROFILES: Message = Message::new(&[
    one(1, "scope", Msg(&SCOPE)),
    many(2, "profiles", Msg(&PROFILE)),
    one(3, "schemaUrl", String),
]);

static PROFILE: Message = Message::new(&[
    one(1, "sampleType", Msg(&VALUE_TYPE)),
    many(2, "samples", Msg(&SAMPLE)),
    one(3, "timeUnixNano", Fixed64),
    one(4, "durationNano", Uint64),
    one(5, "periodType", Msg(&VALUE_TYPE)),
    one(6, "period", Int64),
    // Base64 by the proto3 mapping: the OTLP text makes only trace and span ids hex.
    one(7, "profileId", Bytes),
    one(8, "droppedAttributesCount", Uint32),
    one(9, "originalPayloadFormat", String),
    one(10, "originalPayload", Bytes),
    many(11, "attributeIndices", Int32),
]);

static VALUE_TYPE: Message =
    Message::new(&[one(1, "typeStrindex", Int32), one(2, "unitStrindex", Int32)]);

static SAMPLE: Message = Message::new(&[
    one(1, "stackIndex", Int32),
    many(2, "attributeIndices", Int32),
    one(3, "linkIndex", Int32),
    many(4, "values", Int64),
    many(5, "timestampsUnixNano", Fixed64),
]);

static DICTIONARY: Message = Message::new(&[
    many(1, "mappingTable", Msg(&MAPPING)),
    many(2, "locationTable", Msg(&LOCATION)),
    many(3, "functionTable", Msg(&FUNCTION)),
    many(4, "linkTable", Msg(&PROFILE_LINK)),
    many(5, "stringTable", String),
    many(6, "attributeTable", Msg(&KEY_VALUE_AND_UNIT)),
    many(7, "stackTable", Msg(&STACK)),
]);

static MAPPING: Message = Message::new(&[
    one(1, "memoryStart", Uint64),
    one(2, "memoryLimit", Uint64),
    one(3, "fileOffset", Uint64),
    one(4, "filenameStrindex", Int32),
    many(5, "attributeIndices", Int32),
]);

static LOCATION: Message = Message::new(&[
    one(1, "mappingIndex", Int32),
    one(2, "address", Uint64),
    many(3, "lines", Msg(&LINE)),
    many(4, "attributeIndices", Int32),
]);

static LINE: Message =
    Message::new(&[one(1, "functionIndex", Int32), one(2, "line", Int64), one(3, "column", Int64)]);

static FUNCTION: Message = Message::new(&[
    one(1, "nameStrindex", Int32),
    one(2, "systemNameStrindex", Int32),
    one(3, "filenameStrindex", Int32),
    one(4, "startLine", Int64),
]);

static PROFILE_LINK: Message =
    Message::new(&[one(1, "traceId", TraceId), one(2, "spanId", SpanId)]);

static STACK: Message = Message::new(&[many(1, "locationIndices", Int32)]);

static KEY_VALUE_AND_UNIT: Message = Message::new(&[
    one(1, "keyStrindex", Int32),
    one(2, "value", Msg(&ANY_VALUE)),
    one(3, "unitStrindex", Int32),
]);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_found_in_both_spellings() {
        let field = |name| SPAN.named(name).map(|field| field.number);
        assert_eq!(field("startTimeUnixNano"), Some(7));
        assert_eq!(field("start_time_unix_nano"), Some(7));
        assert_eq!(field("name"), Some(5));
        assert_eq!(field("start_timeUnixNano"), None);
        assert_eq!(field("start_time_unix_nano_"), None);
        assert_eq!(field(""), None);
    }

    #[test]
    fn numbers_are_found_and_the_others_are_not() {
        for field in SPAN.fields {
            assert_eq!(SPAN.field(field.number).unwrap().name, field.name);
        }
        for number in [0, 17, 1000, u32::MAX] {
            assert!(SPAN.field(number).is_none());
        }
        assert!(LOG_RECORD.field(4).is_none());
    }
}
