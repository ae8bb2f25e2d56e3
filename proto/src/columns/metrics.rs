//! The table `metrics`.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Float64Builder, UInt64Builder},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};

use super::{
    LONGEST_TEXT, batch, cut, dictionary, dictionary::Dictionary, nanos, origin, origin::Origin,
    schema, times, utc,
};
use crate::view::{AnyValue, MetricView, PointValue, PointView, ResourceView};

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(&[
        ("time", utc()),
        ("name", dictionary()),
        ("unit", dictionary()),
        ("kind", dictionary()),
        ("service_name", dictionary()),
        ("k8s_namespace", dictionary()),
        ("k8s_pod", dictionary()),
        ("k8s_container", dictionary()),
        ("k8s_node", dictionary()),
        ("attributes", dictionary()),
        ("value", DataType::Float64),
        ("count", DataType::UInt64),
        ("sum", DataType::Float64),
        ("min", DataType::Float64),
        ("max", DataType::Float64),
    ])
});

/// Data points on their way into the table `metrics`.
pub struct MetricColumns {
    origin: Origin<5>,
    time: Vec<i64>,
    name: Dictionary,
    unit: Dictionary,
    kind: Dictionary,
    attributes: Dictionary,
    value: Float64Builder,
    count: UInt64Builder,
    sum: Float64Builder,
    min: Float64Builder,
    max: Float64Builder,
    /// The attributes of one point as text; kept for its buffer.
    text: String,
}

impl Default for MetricColumns {
    fn default() -> Self {
        MetricColumns {
            origin: origin::of_others(),
            time: Vec::new(),
            name: Dictionary::default(),
            unit: Dictionary::default(),
            kind: Dictionary::default(),
            attributes: Dictionary::default(),
            value: Float64Builder::new(),
            count: UInt64Builder::new(),
            sum: Float64Builder::new(),
            min: Float64Builder::new(),
            max: Float64Builder::new(),
            text: String::new(),
        }
    }
}

impl MetricColumns {
    /// The columns: `kind` is `gauge`, `sum`, `histogram`...; `attributes` is `key=value,key=value`;
    /// `value` is that of a gauge or a sum, the rest is of histograms and summaries.
    pub fn schema() -> SchemaRef {
        SCHEMA.clone()
    }

    /// The points that are added from now on, until the next `finish`, are of this resource.
    pub fn resource(&mut self, resource: &ResourceView<'_>) {
        self.origin.set(resource);
    }

    /// Adds a data point.
    pub fn push(&mut self, metric: &MetricView<'_>, point: &PointView<'_>) {
        self.origin.push();
        self.time.push(nanos(point.time_unix_nano));
        self.name.push_text(metric.name);
        self.unit.push_text(metric.unit);
        self.kind.push_text(metric.kind.name());
        self.text.clear();
        for attribute in point.attributes().flatten() {
            if self.text.len() > LONGEST_TEXT {
                break;
            }
            if !self.text.is_empty() {
                self.text.push(',');
            }
            self.text.push_str(cut(attribute.key, LONGEST_TEXT));
            self.text.push('=');
            match attribute.value {
                AnyValue::String(value) => self.text.push_str(cut(value, LONGEST_TEXT)),
                value => value.write_json(&mut self.text, LONGEST_TEXT),
            }
        }
        self.attributes.push_text(&self.text);
        let (count, sum, min, max) = match &point.value {
            PointValue::Histogram(h) => (Some(h.count), h.sum, h.min, h.max),
            PointValue::ExponentialHistogram(h) => (Some(h.count), h.sum, h.min, h.max),
            PointValue::Summary(s) => (Some(s.count), Some(s.sum), None, None),
            _ => (None, None, None, None),
        };
        self.value.append_option(point.value.as_f64());
        self.count.append_option(count);
        self.sum.append_option(sum);
        self.min.append_option(min);
        self.max.append_option(max);
    }

    /// Points not finished yet.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// About how many bytes they take; of the dictionaries what is new.
    pub fn bytes(&self) -> usize {
        let texts = [&self.name, &self.unit, &self.kind, &self.attributes];
        self.origin.bytes()
            + texts.iter().map(|column| column.bytes()).sum::<usize>()
            + self.len() * (8 + 5 * 8)
    }

    /// The points since the last time, as one batch.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let [service, namespace, pod, container, node] = self.origin.finish();
        let columns = vec![
            times(&mut self.time),
            self.name.finish(),
            self.unit.finish(),
            self.kind.finish(),
            service,
            namespace,
            pod,
            container,
            node,
            self.attributes.finish(),
            Arc::new(self.value.finish()) as _,
            Arc::new(self.count.finish()),
            Arc::new(self.sum.finish()),
            Arc::new(self.min.finish()),
            Arc::new(self.max.finish()),
        ];
        batch(Self::schema(), columns, rows)
    }
}
