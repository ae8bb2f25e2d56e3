//! From OTLP on the wire: log records and metrics as views, with limits on what an object may be.

use serde_json::{Map, Number, Value};
use tapio_proto::{
    model::Time,
    view::{AnyValue, Attributes, LogView, MetricView, ResourceView},
};

use super::{
    cluster::Cluster,
    fact::Fact,
    record::{self, Record},
};

/// Deepest value that is read; Kubernetes objects are about 15 deep, CRDs with schemas 40.
const MAX_DEPTH: usize = 64;
/// Most values in a record: the largest objects that etcd takes (1.5 MiB) have fewer.
const MAX_VALUES: usize = 200_000;
/// Entries of a map for which memory is taken before they are read.
const MOST_AHEAD: usize = 64;
/// Most bytes of text in a record; etcd takes 1.5 MiB an object, and JSON in protobuf is no larger.
const MAX_BYTES: usize = 4 << 20;

impl Cluster {
    /// One log record. True when it is a Kubernetes object or event or a change, and so no
    /// application's log; the facts that follow are added to `out`. Asking costs a look at the
    /// attributes' names; only such records are read. What is too large or too deep to be an object
    /// is counted in [`Cluster::losses`].
    pub fn log_record(
        &mut self,
        resource: &ResourceView<'_>,
        scope: &str,
        log: &LogView<'_>,
        out: &mut Vec<Fact>,
    ) -> bool {
        if record::shape(scope, log.event_name, log.attributes().keys()).is_none() {
            return false;
        }
        match read(resource, scope, log) {
            Some(record) => self.record(record, out),
            None => {
                self.refused += 1;
                true
            }
        }
    }

    /// One metric: facts by transition, and the limits of containers. Metrics that say nothing about
    /// the cluster cost a comparison of their name.
    pub fn metric(
        &mut self,
        resource: &ResourceView<'_>,
        metric: &MetricView<'_>,
        out: &mut Vec<Fact>,
    ) {
        if !Cluster::knows_metric(metric.name) {
            return;
        }
        for point in metric.points().map_while(Result::ok) {
            let Some(value) = point.value.as_f64() else { continue };
            let time = Time::from_unix_nano(point.time_unix_nano);
            let of_resource = |key: &str| find(resource.attributes(), key);
            let of_point = |key: &str| find(point.attributes(), key);
            self.metric_point(metric.name, (&of_resource, &of_point), value, (time, time), out);
        }
    }
}

/// The text of the attribute of that key.
fn find(mut attributes: Attributes<'_>, key: &str) -> Option<String> {
    let found =
        attributes.find_map(|attribute| attribute.ok().filter(|attribute| attribute.key == key))?;
    match found.value {
        AnyValue::String(text) => Some(text.to_owned()),
        AnyValue::Int(int) => Some(int.to_string()),
        AnyValue::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

/// The whole record; `None` when it is too large or too deep, or its bytes are damaged.
fn read(resource: &ResourceView<'_>, scope: &str, log: &LogView<'_>) -> Option<Record> {
    let mut room = Room { values: MAX_VALUES, bytes: MAX_BYTES };
    let time = |nanos: u64| (nanos != 0).then(|| Time::from_unix_nano(nanos));
    Some(Record {
        scope: scope.to_owned(),
        event_name: log.event_name.to_owned(),
        severity: log.severity_text.to_owned(),
        time: time(log.time_unix_nano),
        observed: time(log.observed_time_unix_nano),
        resource: room.map(resource.attributes(), MAX_DEPTH)?,
        attributes: room.map(log.attributes(), MAX_DEPTH)?,
        body: match log.body {
            Some(body) => room.value(body, MAX_DEPTH)?,
            None => Value::Null,
        },
    })
}

/// How much more may be read.
struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    fn text(&mut self, text: &str) -> Option<String> {
        self.bytes = self.bytes.checked_sub(text.len())?;
        Some(text.to_owned())
    }

    fn map(&mut self, entries: Attributes<'_>, depth: usize) -> Option<Map<String, Value>> {
        // In no more memory than it needs: objects are kept, and there are many.
        let mut map = Map::with_capacity(entries.count().min(MOST_AHEAD));
        for entry in entries {
            let entry = entry.ok()?;
            map.insert(self.text(entry.key)?, self.value(entry.value, depth)?);
        }
        Some(map)
    }

    fn value(&mut self, value: AnyValue<'_>, depth: usize) -> Option<Value> {
        self.values = self.values.checked_sub(1)?;
        let inner = depth.checked_sub(1)?;
        Some(match value {
            AnyValue::String(text) => Value::String(self.text(text)?),
            AnyValue::Bool(bool) => Value::Bool(bool),
            AnyValue::Int(int) => Value::from(int),
            // NaN and infinities have no JSON; no object of Kubernetes holds one.
            AnyValue::Double(double) => Number::from_f64(double).map_or(Value::Null, Value::Number),
            AnyValue::Array(array) => {
                let values = array.values().map(|value| self.value(value.ok()?, inner));
                let mut values = values.collect::<Option<Vec<_>>>()?;
                values.shrink_to_fit();
                Value::Array(values)
            }
            AnyValue::KvList(entries) => Value::Object(self.map(entries, inner)?),
            AnyValue::Bytes(bytes) => Value::String(format!("({} bytes)", bytes.len())),
            // Nothing, or what only profiles have.
            _ => Value::Null,
        })
    }
}
