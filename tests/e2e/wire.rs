//! Just enough protobuf to write OTLP requests by hand, field by field, and to find items in them again.
//!
//! It shares no code with the program under test.

use bytes::Bytes;

/// The three stable signals; what is told apart by number on the wire is told apart here by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(crate) const ALL: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    pub(crate) fn http_path(self) -> &'static str {
        match self {
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
        }
    }

    pub(crate) fn grpc_path(self) -> &'static str {
        match self {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// What the self-metrics call its items.
    pub(crate) fn items_name(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Metrics => "metric_points",
            Signal::Logs => "log_records",
        }
    }
}

/// Builds one message.
#[derive(Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.raw_varint(u64::from(field) << 3 | wire_type);
    }

    pub(crate) fn varint(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 0);
        self.raw_varint(value);
        self
    }

    pub(crate) fn fixed64(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn double(self, field: u32, value: f64) -> Self {
        self.fixed64(field, value.to_bits())
    }

    pub(crate) fn fixed32(mut self, field: u32, value: u32) -> Self {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        self.tag(field, 2);
        self.raw_varint(value.as_ref().len() as u64);
        self.0.extend(value.as_ref());
        self
    }

    pub(crate) fn message(self, field: u32, value: Message) -> Self {
        self.bytes(field, value.0)
    }

    pub(crate) fn attribute(self, field: u32, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.any_attribute(field, key, Message::new().bytes(1, value))
    }

    /// `value` is an `AnyValue`.
    pub(crate) fn any_attribute(self, field: u32, key: &str, value: Message) -> Self {
        self.message(field, Message::new().bytes(1, key).message(2, value))
    }
}

/// An `Export<Signal>ServiceRequest` with one resource and one scope around these records.
pub(crate) fn request(records: impl IntoIterator<Item = Message>) -> Bytes {
    let resource = Message::new().attribute(1, "service.name", "shop");
    let scope = Message::new().message(1, Message::new().bytes(1, "tests").bytes(2, "1.0"));
    let scope = records.into_iter().fold(scope, |scope, record| scope.message(2, record));
    let envelope = Message::new().message(1, resource).message(2, scope);
    Message::new().message(1, envelope).0.into()
}

/// 2026-11-22T00:00:00Z in nanoseconds: the time of item 0.
const EPOCH: u64 = 1_795_305_600_000_000_000;

fn time(number: u64) -> u64 {
    EPOCH + number * 1_000_000
}

fn ids(number: u64) -> ([u8; 16], [u8; 8]) {
    let mut trace = [0x5a; 16];
    trace[8..].copy_from_slice(&(number / 8 + 1).to_be_bytes());
    (trace, (number + 1).to_be_bytes())
}

/// Record number `number` of a signal, healthy and unremarkable: no story should come of it.
pub(crate) fn record(signal: Signal, number: u64) -> Message {
    match signal {
        Signal::Traces => span(number),
        Signal::Metrics => metric(number),
        Signal::Logs => log(number),
    }
}

/// A span with attributes of every kind, an event and, sometimes, a link.
fn span(number: u64) -> Message {
    let (trace, id) = ids(number);
    let event = Message::new().fixed64(1, time(number) + 500).bytes(2, "cache miss");
    let span = Message::new()
        .bytes(1, trace)
        .bytes(2, id)
        .bytes(5, "GET /products")
        .varint(6, 2 + number % 2)
        .fixed64(7, time(number))
        .fixed64(8, time(number) + 2_000_000)
        .attribute(9, "http.request.method", "GET")
        .any_attribute(9, "item", Message::new().varint(3, number))
        .any_attribute(9, "ratio", Message::new().double(4, number as f64 / 7.0))
        .any_attribute(9, "cached", Message::new().varint(2, number % 2))
        .any_attribute(9, "raw", Message::new().bytes(7, number.to_be_bytes()))
        .message(11, event.attribute(3, "key", format!("product-{}", number % 100)))
        .fixed32(16, 0x301);
    let span = if number.is_multiple_of(5) {
        let link = Message::new().bytes(1, trace).bytes(2, (number + 9).to_be_bytes());
        span.message(13, link.attribute(4, "why", "batch"))
    } else {
        span
    };
    if number.is_multiple_of(3) { span.message(15, Message::new().varint(3, 1)) } else { span }
}

/// A log record with a text or a map as its body.
fn log(number: u64) -> Message {
    let (trace, id) = ids(number);
    let body = if number.is_multiple_of(4) {
        let map = Message::new().attribute(1, "order", format!("o-{number}"));
        Message::new().message(6, map)
    } else {
        Message::new().bytes(1, format!("order {number} placed"))
    };
    Message::new()
        .fixed64(1, time(number))
        .varint(2, 9)
        .bytes(3, "INFO")
        .message(5, body)
        .any_attribute(6, "item", Message::new().varint(3, number))
        .fixed32(8, 1)
        .bytes(9, trace)
        .bytes(10, id)
        .fixed64(11, time(number) + 1)
}

/// A metric with one data point; gauge, sum, histogram, exponential histogram and summary in turn.
fn metric(number: u64) -> Message {
    let attributes = |point: Message, field| {
        point.attribute(field, "shelf", format!("s-{}", number % 1000)).any_attribute(
            field,
            "item",
            Message::new().varint(3, number),
        )
    };
    let times = |point: Message| point.fixed64(2, time(0)).fixed64(3, time(number));
    let metric = Message::new().bytes(1, format!("stock.{}", number % 5)).bytes(3, "{item}");
    let packed = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    match number % 5 {
        0 => {
            let point = attributes(times(Message::new()), 7).double(4, number as f64 * 0.5);
            metric.message(5, Message::new().message(1, point))
        }
        1 => {
            let exemplar = Message::new().fixed64(2, time(number)).fixed64(6, number);
            let point = attributes(times(Message::new()), 7).fixed64(6, number);
            let point = point.message(5, exemplar.bytes(4, ids(number).1).bytes(5, ids(number).0));
            metric.message(7, Message::new().message(1, point).varint(2, 2).varint(3, 1))
        }
        2 => {
            let point = attributes(times(Message::new()), 9)
                .fixed64(4, 6)
                .double(5, 12.5)
                .bytes(6, packed(&[1, 2, 3]))
                .bytes(7, packed(&[1.0_f64.to_bits(), 5.0_f64.to_bits()]));
            metric.message(9, Message::new().message(1, point).varint(2, 1))
        }
        3 => {
            let buckets = Message::new().varint(1, 2).bytes(2, [1, 2, 3]);
            let point = attributes(times(Message::new()), 1)
                .fixed64(4, 7)
                .double(5, 20.0)
                .varint(6, 4)
                .fixed64(7, 1)
                .message(8, buckets);
            metric.message(10, Message::new().message(1, point).varint(2, 1))
        }
        _ => {
            let quantile = Message::new().double(1, 0.99).double(2, 3.25);
            let point = attributes(times(Message::new()), 7).fixed64(4, 9).double(5, 30.0);
            metric.message(11, Message::new().message(1, point.message(6, quantile)))
        }
    }
}

/// The numbers of the spans in a request, read back from their span ids.
pub(crate) fn span_numbers(request: &[u8]) -> Vec<u64> {
    let (mut numbers, path) = (vec![], [1, 2, 2, 2]);
    walk(request, &path, &mut |id| {
        let id: [u8; 8] = id.try_into().expect("a span id has 8 bytes");
        numbers.push(u64::from_be_bytes(id) - 1);
    });
    numbers
}

/// Calls `found` with each length-delimited field at the end of a path of field numbers.
fn walk(message: &[u8], path: &[u32], found: &mut dyn FnMut(&[u8])) {
    let [field, rest @ ..] = path else {
        return found(message);
    };
    let mut at = message;
    while !at.is_empty() {
        let tag = read_varint(&mut at);
        let length = match tag & 7 {
            0 => {
                read_varint(&mut at);
                continue;
            }
            1 => 8,
            2 => read_varint(&mut at) as usize,
            5 => 4,
            other => panic!("wire type {other} in a request that should be well formed"),
        };
        let (value, after) = at.split_at(length);
        at = after;
        if tag >> 3 == u64::from(*field) && tag & 7 == 2 {
            walk(value, rest, found);
        }
    }
}

fn read_varint(at: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = at[0];
        *at = &at[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}
