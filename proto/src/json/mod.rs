//! The OTLP/JSON door: JSON to protobuf and back, by the table of the messages.
//!
//! Written as the specification says (lowerCamelCase, ids in hex, 64-bit integers as texts, enums as
//! numbers); read as the Collector reads: also snake_case, names of enums, numbers as texts or not,
//! unknown members passed over.

mod from_proto;
mod read;
mod to_proto;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt};

pub use from_proto::from_proto;
pub(crate) use from_proto::quoted;
pub use to_proto::to_proto;

use crate::{schema, signal::Signal};
use read::Reader;

/// Arrays and objects may nest this deep; an attribute value takes three levels for an array in it
/// and four for a map. More than [`check`](crate::check::MAX_DEPTH) lets through never comes out.
const MAX_DEPTH: u32 = 1_000;

/// Why a text is no OTLP request in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct JsonError {
    /// Line, from 1.
    pub line: usize,
    /// Byte in the line, from 1.
    pub column: usize,
    /// The member: `resourceSpans[0].scopeSpans[2].spans[17].traceId`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub what: Cow<'static, str>,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON line {} column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// Which signal a request in JSON is, by its top-level member `resourceSpans`, `resourceMetrics`,
/// `resourceLogs` or `resourceProfiles` (or in snake_case). `None` for everything else.
pub fn signal_of(text: &[u8]) -> Option<Signal> {
    let mut reader = Reader::new(text, MAX_DEPTH);
    reader.enter(b'{').ok()?;
    let mut first = true;
    while reader.more(b'}', &mut first).ok()? {
        let key = reader.key().ok()?;
        let signal = Signal::ALL.into_iter().find(|signal| {
            schema::request(*signal).named(&key).is_some_and(|field| field.number == 1)
        });
        if signal.is_some() {
            return signal;
        }
        reader.skip().ok()?;
    }
    None
}
