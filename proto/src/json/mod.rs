//! OTLP/JSON at the door: to protobuf bytes and back, by the one table in `schema`.
//!
//! Source: OTLP specification, "JSON Protobuf Encoding"; as lenient on input as the Collector (keys in
//! snake_case, enums by name, numbers as strings), strict on output.

mod read;
mod write;

use crate::{Signal, wire::WireError};
use bytes::Bytes;

/// JSON that is no OTLP request, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct JsonError {
    /// What is wrong, with line and column.
    pub what: String,
}

/// Turns an OTLP/JSON request into protobuf bytes. Members that are not known are left out, as the
/// specification demands. Profiles have no JSON form here.
pub fn to_proto(signal: Signal, json: &[u8]) -> Result<Bytes, JsonError> {
    read::request(signal, json)
}

/// Turns a serialized request into OTLP/JSON, in one line. What the table does not know has no JSON
/// form and is left out. Expects bytes that have passed [`crate::check`].
pub fn from_proto(signal: Signal, bytes: &[u8]) -> Result<String, WireError> {
    write::request(signal, bytes)
}

/// Which signal a line of a file is, by its first member; `None` when it is no OTLP request.
pub fn signal_of(line: &[u8]) -> Option<Signal> {
    let rest = line.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
    let key = &rest[..rest.iter().take(64).position(|b| *b == b'"')?];
    match key {
        b"resourceSpans" | b"resource_spans" => Some(Signal::Traces),
        b"resourceMetrics" | b"resource_metrics" => Some(Signal::Metrics),
        b"resourceLogs" | b"resource_logs" => Some(Signal::Logs),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
