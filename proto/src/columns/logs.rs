//! The table `logs`.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{FixedSizeBinaryBuilder, StringBuilder, UInt8Array, UInt32Array},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};

use super::{
    LONGEST_BODY, batch, cut, dictionary, dictionary::Dictionary, nanos, origin, origin::Origin,
    push_id, schema, times, utc,
};
use crate::view::{AnyValue, LogView, ResourceView};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(&[
        ("time", utc()),
        ("observed", utc()),
        ("severity_number", DataType::UInt8),
        ("severity_text", dictionary()),
        ("service_name", dictionary()),
        ("k8s_namespace", dictionary()),
        ("k8s_pod", dictionary()),
        ("k8s_container", dictionary()),
        ("k8s_node", dictionary()),
        ("body", DataType::Utf8),
        ("event_name", dictionary()),
        ("trace_id", DataType::FixedSizeBinary(16)),
        ("span_id", DataType::FixedSizeBinary(8)),
        ("weight", DataType::UInt32),
    ])
});

/// Log records on their way into the table `logs`.
pub struct LogColumns {
    origin: Origin<5>,
    time: Vec<i64>,
    observed: Vec<i64>,
    severity_number: Vec<u8>,
    severity_text: Dictionary,
    body: StringBuilder,
    event_name: Dictionary,
    trace_id: FixedSizeBinaryBuilder,
    span_id: FixedSizeBinaryBuilder,
    weight: Vec<u32>,
}

impl Default for LogColumns {
    fn default() -> Self {
        LogColumns {
            origin: origin::of_others(),
            time: Vec::new(),
            observed: Vec::new(),
            severity_number: Vec::new(),
            severity_text: Dictionary::default(),
            body: StringBuilder::new(),
            event_name: Dictionary::default(),
            trace_id: FixedSizeBinaryBuilder::new(16),
            span_id: FixedSizeBinaryBuilder::new(8),
            weight: Vec::new(),
        }
    }
}

impl LogColumns {
    /// The columns: `time` is the time of the record, or when it was observed if it has none; `body`
    /// is cut at [`LONGEST_BODY`] bytes, and JSON where it is not a text; `weight` is how many records the row
    /// stands for, 1 unless there were more than are kept.
    pub fn schema() -> SchemaRef {
        SCHEMA.clone()
    }

    /// The records that are added from now on, until the next `finish`, are of this resource.
    pub fn resource(&mut self, resource: &ResourceView<'_>) {
        self.origin.set(resource);
    }

    /// Adds a log record that stands for `weight` records: itself, and others of which no row is kept.
    pub fn push(&mut self, log: &LogView<'_>, weight: u32) {
        self.origin.push();
        let time =
            if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano };
        self.time.push(nanos(time));
        self.observed.push(nanos(log.observed_time_unix_nano));
        self.severity_number.push(u8::try_from(log.severity_number).unwrap_or(0));
        self.severity_text.push_text(log.severity_text);
        match &log.body {
            None => self.body.append_null(),
            Some(AnyValue::String(body)) => self.body.append_value(cut(body, LONGEST_BODY)),
            Some(body) => {
                let mut text = String::new();
                body.write_json(&mut text, LONGEST_BODY);
                self.body.append_value(cut(&text, LONGEST_BODY));
            }
        }
        self.event_name.push_text(log.event_name);
        push_id(&mut self.trace_id, log.trace_id);
        push_id(&mut self.span_id, log.span_id);
        self.weight.push(weight);
    }

    /// Records not finished yet.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// About how many bytes they take; of the dictionaries what is new.
    pub fn bytes(&self) -> usize {
        let texts =
            self.severity_text.bytes() + self.event_name.bytes() + self.body.values_slice().len();
        self.origin.bytes() + texts + self.len() * (16 + 1 + 4 + 24 + 4)
    }

    /// The records since the last time, as one batch.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let [service, namespace, pod, container, node] = self.origin.finish();
        let columns = vec![
            times(&mut self.time),
            times(&mut self.observed),
            Arc::new(UInt8Array::from(std::mem::take(&mut self.severity_number))),
            self.severity_text.finish(),
            service,
            namespace,
            pod,
            container,
            node,
            Arc::new(self.body.finish()),
            self.event_name.finish(),
            Arc::new(self.trace_id.finish()),
            Arc::new(self.span_id.finish()),
            Arc::new(UInt32Array::from(std::mem::take(&mut self.weight))),
        ];
        batch(Self::schema(), columns, rows)
    }
}
