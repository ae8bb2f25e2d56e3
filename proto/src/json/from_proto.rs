//! Protobuf to JSON.

use std::fmt::Write as _;

use crate::{
    check::MAX_DEPTH,
    schema::{self, Field, Kind, Label, Message},
    signal::Signal,
    transport::grpc::encode_bin,
    wire::{Fault, Fields, Value, WireError, read_varint, unzigzag},
};

/// Translates a request from protobuf bytes to OTLP/JSON, on one line.
///
/// All known fields are kept, in the order in which they come; unknown ones have no name in JSON and
/// are left out. Errors as [`check`](crate::check()).
pub fn from_proto(signal: Signal, bytes: &[u8]) -> Result<String, WireError> {
    let mut out = String::with_capacity(bytes.len() * 2);
    message(&[Fields::new(bytes)], schema::request(signal), MAX_DEPTH, &mut out)?;
    Ok(out)
}

/// A known field: where it first came, and its last value.
struct Member<'a> {
    field: &'static Field,
    position: usize,
    value: Value<'a>,
    /// The fields of a message.
    nested: Fields<'a>,
    /// Further parts of a message that came more than once.
    more: Vec<Fields<'a>>,
    /// From where it first came to where it last came; meaningful in a message of one part.
    range: (usize, usize),
}

/// Writes a message, which may have come in several parts: protobuf merges them, as if their bytes
/// were joined.
fn message(
    parts: &[Fields<'_>],
    schema: &Message,
    depth: u32,
    out: &mut String,
) -> Result<(), WireError> {
    let mut members: Vec<Member<'_>> = Vec::with_capacity(schema.fields.len());
    for part in parts {
        let mut fields = *part;
        while let Some(found) = fields.next_field()? {
            let Some(position) = schema.position(found.number) else { continue };
            let field = &schema.fields[position];
            let nested = fields.nested(&found);
            if field.label == Label::Oneof {
                // The last of a oneof counts.
                members.retain(|member| {
                    member.field.label != Label::Oneof || member.position == position
                });
            }
            match members.iter_mut().rev().find(|member| member.position == position) {
                Some(member) => {
                    member.value = found.value;
                    member.range.1 = found.end;
                    if matches!(field.kind, Kind::Message(_)) && field.label != Label::Repeated {
                        member.more.push(nested);
                    }
                }
                None => members.push(Member {
                    field,
                    position,
                    value: found.value,
                    nested,
                    more: Vec::new(),
                    range: (found.start, found.end),
                }),
            }
        }
    }
    out.push('{');
    for (i, member) in members.iter_mut().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push('"');
        out.push_str(member.field.name);
        out.push_str("\":");
        let (from, to) = member.range;
        match (member.field.label, member.field.kind, parts) {
            (Label::Repeated, kind, [part]) => {
                repeated(&[part.between(from, to)], member.field, kind, depth, out)?;
            }
            (Label::Repeated, kind, parts) => repeated(parts, member.field, kind, depth, out)?,
            (_, Kind::Message(inner), _) if !member.more.is_empty() => {
                member.more.insert(0, member.nested);
                message(&member.more, inner, deeper(depth, from)?, out)?;
            }
            (_, kind, _) => {
                single(member.nested, kind, member.field, member.value, from, depth, out)?;
            }
        }
    }
    out.push('}');
    Ok(())
}

fn deeper(depth: u32, offset: usize) -> Result<u32, WireError> {
    depth.checked_sub(1).ok_or(WireError { offset, what: Fault::Depth(MAX_DEPTH) })
}

fn repeated(
    parts: &[Fields<'_>],
    field: &Field,
    kind: Kind,
    depth: u32,
    out: &mut String,
) -> Result<(), WireError> {
    out.push('[');
    let mut first = true;
    let mut comma = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
    };
    for part in parts {
        let mut fields = *part;
        while let Some(found) = fields.next_field()? {
            if found.number != field.number {
                continue;
            }
            match found.value {
                Value::Len(packed) if kind.wire_type() != 2 => {
                    let mut at = 0;
                    while at < packed.len() {
                        let place = |what| WireError { offset: found.body + at, what };
                        let (value, len) = packed_number(&packed[at..], kind).map_err(place)?;
                        comma(out);
                        single(fields, kind, field, value, found.body, depth, out)?;
                        at += len;
                    }
                }
                value => {
                    comma(out);
                    single(fields.nested(&found), kind, field, value, found.start, depth, out)?;
                }
            }
        }
    }
    out.push(']');
    Ok(())
}

fn packed_number(packed: &[u8], kind: Kind) -> Result<(Value<'static>, usize), Fault> {
    match kind.wire_type() {
        1 => packed
            .first_chunk()
            .map(|b| (Value::Fixed64(u64::from_le_bytes(*b)), 8))
            .ok_or(Fault::Eof),
        5 => packed
            .first_chunk()
            .map(|b| (Value::Fixed32(u32::from_le_bytes(*b)), 4))
            .ok_or(Fault::Eof),
        _ => read_varint(packed).map(|(value, len)| (Value::Varint(value), len)),
    }
}

/// One value; `nested` are the fields in it if it is a message.
fn single(
    nested: Fields<'_>,
    kind: Kind,
    field: &Field,
    value: Value<'_>,
    offset: usize,
    depth: u32,
    out: &mut String,
) -> Result<(), WireError> {
    let written = match (kind, value) {
        (Kind::Message(inner), Value::Len(_)) => {
            return message(&[nested], inner, deeper(depth, offset)?, out);
        }
        (Kind::String, Value::Len(bytes)) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| WireError { offset, what: Fault::Utf8(field.name) })?;
            quoted(text, out);
            Ok(())
        }
        (Kind::TraceId | Kind::SpanId, Value::Len(bytes)) => {
            out.push('"');
            for byte in bytes {
                for digit in [byte >> 4, byte & 15] {
                    out.push(char::from(HEX[usize::from(digit)]));
                }
            }
            out.push('"');
            Ok(())
        }
        (Kind::Bytes, Value::Len(bytes)) => {
            out.push('"');
            out.push_str(&encode_bin(bytes));
            // Three bytes are four characters; the last ones are filled up.
            out.push_str(["", "==", "="][bytes.len() % 3]);
            out.push('"');
            Ok(())
        }
        (Kind::Bool, Value::Varint(value)) => {
            out.push_str(if value != 0 { "true" } else { "false" });
            Ok(())
        }
        (Kind::Int32 | Kind::Enum(_), Value::Varint(value)) => write!(out, "{}", value as i32),
        (Kind::Uint32, Value::Varint(value)) => write!(out, "{}", value as u32),
        (Kind::Sint32, Value::Varint(value)) => write!(out, "{}", unzigzag(value)),
        (Kind::Int64, Value::Varint(value)) | (Kind::Sfixed64, Value::Fixed64(value)) => {
            write!(out, "\"{}\"", value as i64)
        }
        (Kind::Uint64, Value::Varint(value)) | (Kind::Fixed64, Value::Fixed64(value)) => {
            write!(out, "\"{value}\"")
        }
        (Kind::Fixed32, Value::Fixed32(value)) => write!(out, "{value}"),
        (Kind::Double, Value::Fixed64(bits)) => match f64::from_bits(bits) {
            value if value.is_nan() => out.write_str("\"NaN\""),
            f64::INFINITY => out.write_str("\"Infinity\""),
            f64::NEG_INFINITY => out.write_str("\"-Infinity\""),
            // `{:?}` is the shortest text that reads back as the same double.
            value => write!(out, "{value:?}"),
        },
        (_, value) => {
            let what = Fault::Mismatch { field: field.name, wire_type: value.wire_type() };
            return Err(WireError { offset, what });
        }
    };
    // Writing to a String does not fail.
    written.map_err(|_| WireError { offset, what: Fault::Eof })
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes a text in quotes.
pub(crate) fn quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(HEX[usize::from(digit)]));
            }
        } else {
            out.push_str(escape);
        }
        from = at + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}
