//! Is this a request? One pass over the bytes, at the door.
//!
//! What the Collector refuses when it decodes is refused here: wire that is not well-formed, a known
//! field of another wire type, an id of a wrong length; and, as protobuf says, text that is not
//! UTF-8. Fields that are not known are only required to be well-formed.

use crate::{
    schema::{self, Kind, Label, Message},
    signal::Signal,
    wire::{Fault, Field, Fields, Value, WireError, read_varint},
};

/// Messages may nest this deep. An attribute value takes two levels for each array in it and three
/// for each map; the Collector's parser stops at 10,000, protobuf's own at 100.
pub const MAX_DEPTH: u32 = 300;

/// Validates a request; the number of spans, data points or log records in it.
///
/// Profiles are looked at no deeper than their top level, and count 0.
pub fn check(signal: Signal, bytes: &[u8]) -> Result<usize, WireError> {
    let fields = Fields::new(bytes);
    if signal == Signal::Profiles {
        for field in fields {
            field?;
        }
        return Ok(0);
    }
    let mut items = 0;
    message(fields, schema::request(signal), MAX_DEPTH, &mut items)?;
    Ok(items)
}

fn message(
    mut fields: Fields<'_>,
    schema: &Message,
    depth: u32,
    items: &mut usize,
) -> Result<(), WireError> {
    *items += usize::from(schema.item);
    while let Some(field) = fields.next_field()? {
        let Some(known) = schema.field(field.number) else { continue };
        match (known.kind, field.value) {
            (Kind::Message(inner), Value::Len(_)) => {
                if depth == 0 {
                    return Err(WireError { offset: field.start, what: Fault::Depth(MAX_DEPTH) });
                }
                message(fields.nested(&field), inner, depth - 1, items)?;
            }
            (Kind::String, Value::Len(text)) => {
                if !is_utf8(text) {
                    return Err(WireError { offset: field.body, what: Fault::Utf8(known.name) });
                }
            }
            (Kind::TraceId, Value::Len(id)) => id_len(&field, known.name, id, 16)?,
            (Kind::SpanId, Value::Len(id)) => id_len(&field, known.name, id, 8)?,
            (kind, value) if value.wire_type() == kind.wire_type() => {}
            (kind, Value::Len(packed)) if known.label == Label::Repeated => {
                numbers(&field, kind, packed)?;
            }
            (_, value) => {
                let what = Fault::Mismatch { field: known.name, wire_type: value.wire_type() };
                return Err(WireError { offset: field.start, what });
            }
        }
    }
    Ok(())
}

fn id_len(field: &Field<'_>, name: &'static str, id: &[u8], want: usize) -> Result<(), WireError> {
    if id.is_empty() || id.len() == want {
        return Ok(());
    }
    Err(WireError { offset: field.body, what: Fault::Id { field: name, len: id.len() } })
}

/// Packed numbers: whole ones.
fn numbers(field: &Field<'_>, kind: Kind, packed: &[u8]) -> Result<(), WireError> {
    let width = match kind.wire_type() {
        1 => 8,
        5 => 4,
        _ => {
            let mut at = 0;
            while at < packed.len() {
                at += read_varint(&packed[at..])
                    .map_err(|what| WireError { offset: field.body + at, what })?
                    .1;
            }
            return Ok(());
        }
    };
    match packed.len() % width {
        0 => Ok(()),
        _ => Err(WireError { offset: field.end, what: Fault::Eof }),
    }
}

/// Is it UTF-8? Most texts in telemetry are short and ASCII: eight bytes at a time, the last eight
/// overlapping.
#[inline]
pub(crate) fn is_utf8(text: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let ascii = match text.last_chunk::<8>() {
        Some(last) => {
            let chunks = text
                .chunks_exact(8)
                .fold(0, |all, chunk| all | chunk.try_into().map_or(0, u64::from_ne_bytes));
            (chunks | u64::from_ne_bytes(*last)) & HIGH == 0
        }
        None => text.iter().fold(0, |all, byte| all | byte) < 0x80,
    };
    ascii || std::str::from_utf8(text).is_ok()
}
