//! What passed through, as Arrow columns: appenders from views to `RecordBatch`es.
//!
//! Texts that repeat (services, pods, operations) are dictionary columns whose dictionary outlives the
//! batch, so that a known text costs a look-up and four bytes; a resource is looked up once for all
//! of its records. Nothing of the request is kept alive.

mod dictionary;
mod logs;
mod metrics;
mod origin;
mod spans;

#[cfg(test)]
mod tests;

pub use logs::LogColumns;
pub use metrics::MetricColumns;
pub use spans::{SpanColumns, SpanTold};

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, FixedSizeBinaryBuilder, TimestampNanosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::{RecordBatch, RecordBatchOptions},
};

/// Longest text that is kept of a log body, bytes.
pub const LONGEST_BODY: usize = 4 << 10;
/// Longest text that is kept elsewhere, bytes; also in a dictionary.
pub const LONGEST_TEXT: usize = 1 << 10;

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8))
}

/// A schema of nullable columns, as the views of other tables expect them.
fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn times(values: &mut Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(std::mem::take(values)).with_timezone("UTC"))
}

/// An id of exactly `width` bytes, or null.
fn push_id(ids: &mut FixedSizeBinaryBuilder, id: &[u8]) {
    // A wrong length is refused, and is null like an empty one.
    if ids.append_value(id).is_err() {
        ids.append_null();
    }
}

/// OTLP time to Arrow; what does not fit is the end of time.
fn nanos(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// At most `limit` bytes, cut at a character.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Text from bytes that nobody validated yet; what is not UTF-8 is empty.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn batch(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    match RecordBatch::try_new_with_options(schema.clone(), columns, &options) {
        Ok(batch) => batch,
        // Columns and schema stand side by side in one file, and each push adds one row to each.
        Err(error) => {
            debug_assert!(false, "{error}");
            RecordBatch::new_empty(schema)
        }
    }
}
