//! The table `spans`.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{FixedSizeBinaryBuilder, Int32Builder, Int64Array, UInt8Array, UInt32Array},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};

use super::{
    batch, dictionary, dictionary::Dictionary, nanos, origin, origin::Origin, push_id, schema,
    times, utc,
};
use crate::view::{AnyValue, ResourceView, SpanView};

/// How good a database's name is as the name of a peer.
const DATABASE: u8 = 1;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(&[
        ("time", utc()),
        ("duration_ns", DataType::Int64),
        ("trace_id", DataType::FixedSizeBinary(16)),
        ("span_id", DataType::FixedSizeBinary(8)),
        ("parent_span_id", DataType::FixedSizeBinary(8)),
        ("service_name", dictionary()),
        ("service_namespace", dictionary()),
        ("k8s_namespace", dictionary()),
        ("k8s_pod", dictionary()),
        ("k8s_node", dictionary()),
        ("name", dictionary()),
        ("kind", DataType::UInt8),
        ("status_code", DataType::UInt8),
        ("status_message", dictionary()),
        ("http_status", DataType::Int32),
        ("peer", dictionary()),
        ("error_type", dictionary()),
        ("weight", DataType::UInt32),
    ])
});

/// Spans on their way into the table `spans`.
pub struct SpanColumns {
    origin: Origin<5>,
    time: Vec<i64>,
    duration: Vec<i64>,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    parent_span_id: FixedSizeBinaryBuilder,
    name: Dictionary,
    kind: Vec<u8>,
    status_code: Vec<u8>,
    status_message: Dictionary,
    http_status: Int32Builder,
    peer: Dictionary,
    error_type: Dictionary,
    weight: Vec<u32>,
}

impl Default for SpanColumns {
    fn default() -> Self {
        SpanColumns {
            origin: origin::of_spans(),
            time: Vec::new(),
            duration: Vec::new(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            parent_span_id: FixedSizeBinaryBuilder::new(8),
            name: Dictionary::default(),
            kind: Vec::new(),
            status_code: Vec::new(),
            status_message: Dictionary::default(),
            http_status: Int32Builder::new(),
            peer: Dictionary::default(),
            error_type: Dictionary::default(),
            weight: Vec::new(),
        }
    }
}

/// What the attributes of a span tell beside its own fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanTold<'a> {
    /// `http.response.status_code`
    pub http_status: Option<i32>,
    /// `error.type`
    pub error_type: &'a str,
    /// The other side of a call, and how good its name is: the better one wins.
    peer: (u8, &'a str),
    /// `client.address`, or `net.sock.peer.addr` of older conventions: who asks, as far as the one who is asked
    /// can tell.
    pub client: &'a str,
}

impl<'a> SpanTold<'a> {
    /// The host or service on the other side of a call: `peer.service`, `server.address` or the like;
    /// not a database's name.
    pub fn peer(&self) -> &'a str {
        if self.peer.0 > DATABASE { self.peer.1 } else { "" }
    }

    /// Looks the attributes through.
    pub fn by(span: &SpanView<'a>) -> Self {
        let mut told = SpanTold::default();
        let mut attributes = span.attributes();
        while let Some(Ok((key, value))) = attributes.next_raw() {
            let rank = match key {
                b"http.response.status_code" | b"http.status_code" => {
                    let status = AnyValue::new(value).ok().and_then(|value| value.as_int());
                    told.http_status =
                        status.and_then(|status| i32::try_from(status).ok()).or(told.http_status);
                    continue;
                }
                b"error.type" => {
                    told.error_type = text(value);
                    continue;
                }
                b"client.address" | b"net.sock.peer.addr" => {
                    told.client = text(value);
                    continue;
                }
                b"peer.service" => 4,
                b"server.address" => 3,
                b"net.peer.name" => 2,
                b"db.namespace" | b"db.name" => DATABASE,
                _ => continue,
            };
            if rank > told.peer.0 {
                told.peer = (rank, text(value));
            }
        }
        told
    }
}

fn text(value: crate::wire::Fields<'_>) -> &str {
    AnyValue::new(value).ok().and_then(|value| value.as_str()).unwrap_or_default()
}

impl SpanColumns {
    /// The columns: `time` is the start, `duration_ns` 0 where the end lies before it; ids that are
    /// not there are null; `peer` is the other side of a call as far as attributes tell; `weight` is how
    /// many spans the row stands for, 1 unless there were more than are kept.
    pub fn schema() -> SchemaRef {
        SCHEMA.clone()
    }

    /// The spans that are added from now on, until the next [`SpanColumns::finish`], are of this resource.
    pub fn resource(&mut self, resource: &ResourceView<'_>) {
        self.origin.set(resource);
    }

    /// Adds a span that stands for `weight` spans: itself, and others of which no row is kept.
    pub fn push(&mut self, span: &SpanView<'_>, told: &SpanTold<'_>, weight: u32) {
        self.origin.push();
        self.time.push(nanos(span.start_time_unix_nano));
        self.duration
            .push(nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)));
        push_id(&mut self.trace_id, span.trace_id);
        push_id(&mut self.span_id, span.span_id);
        push_id(&mut self.parent_span_id, span.parent_span_id);
        self.name.push_text(span.name);
        self.kind.push(u8::try_from(span.kind).unwrap_or(0));
        self.status_code.push(u8::try_from(span.status_code).unwrap_or(0));
        self.status_message.push_text(span.status_message);
        self.http_status.append_option(told.http_status);
        self.peer.push_text(told.peer.1);
        self.error_type.push_text(told.error_type);
        self.weight.push(weight);
    }

    /// Spans not finished yet.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// About how many bytes they take; of the dictionaries what is new.
    pub fn bytes(&self) -> usize {
        let texts = [&self.name, &self.status_message, &self.peer, &self.error_type];
        self.origin.bytes()
            + texts.iter().map(|column| column.bytes()).sum::<usize>()
            + self.len() * (16 + 32 + 2 + 8)
    }

    /// The spans since the last time, as one batch.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let [service, service_namespace, namespace, pod, node] = self.origin.finish();
        let columns = vec![
            times(&mut self.time),
            Arc::new(Int64Array::from(std::mem::take(&mut self.duration))),
            Arc::new(self.trace_id.finish()),
            Arc::new(self.span_id.finish()),
            Arc::new(self.parent_span_id.finish()),
            service,
            service_namespace,
            namespace,
            pod,
            node,
            self.name.finish(),
            Arc::new(UInt8Array::from(std::mem::take(&mut self.kind))),
            Arc::new(UInt8Array::from(std::mem::take(&mut self.status_code))),
            self.status_message.finish(),
            Arc::new(self.http_status.finish()),
            self.peer.finish(),
            self.error_type.finish(),
            Arc::new(UInt32Array::from(std::mem::take(&mut self.weight))),
        ];
        batch(Self::schema(), columns, rows)
    }
}
