//! Protobuf to OTLP/JSON.

use std::fmt::Write as _;

use base64::Engine as _;

use crate::{
    Signal,
    schema::{self, Field, Message, Type},
    wire::{self, Fields, Value, WireError},
};

pub(super) fn request(signal: Signal, bytes: &[u8]) -> Result<String, WireError> {
    let Some(known) = schema::request(signal) else {
        return Err(WireError { offset: 0, what: "profiles have no JSON form here" });
    };
    let mut out = String::with_capacity(bytes.len() * 2);
    message(&mut out, known, bytes, 0, 0)?;
    Ok(out)
}

fn message(out: &mut String, known: &'static Message, bytes: &[u8], base: usize, depth: usize) -> Result<(), WireError> {
    if depth > 128 {
        return Err(WireError { offset: base, what: "messages nested deeper than 128" });
    }
    let mut members: Vec<(&'static Field, wire::Field<'_>)> = Vec::new();
    for field in Fields::at(bytes, base) {
        let field = field?;
        if let Some(known) = known.field(field.number) {
            members.push((known, field));
        }
    }
    // Repeated fields may stand apart on the wire; in JSON they are one array.
    members.sort_by_key(|(known, _)| known.number);
    out.push('{');
    for (i, group) in members.chunk_by(|a, b| a.0.number == b.0.number).enumerate() {
        let Some((known, last)) = group.last() else { continue };
        if i > 0 {
            out.push(',');
        }
        let _ = write!(out, "\"{}\":", known.name);
        if !known.repeated {
            element(out, known, last, depth)?;
            continue;
        }
        out.push('[');
        let mut first = true;
        for (known, field) in group {
            each(out, known, field, depth, &mut first)?;
        }
        out.push(']');
    }
    out.push('}');
    Ok(())
}

/// The elements of one field of a repeated one: one, or many when they are packed.
fn each(out: &mut String, known: &'static Field, field: &wire::Field<'_>, depth: usize, first: &mut bool) -> Result<(), WireError> {
    let mut comma = |out: &mut String| {
        if !std::mem::take(first) {
            out.push(',');
        }
    };
    let Value::Len(content) = field.value else {
        comma(out);
        return element(out, known, field, depth);
    };
    match known.kind {
        Type::Message(_) | Type::Text | Type::Bytes | Type::Id(_) => {
            comma(out);
            element(out, known, field, depth)
        }
        Type::Fixed64 | Type::Sfixed64 | Type::Double => {
            for chunk in content.chunks_exact(8) {
                comma(out);
                let bits = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
                scalar(out, known, Value::Fixed64(bits));
            }
            Ok(())
        }
        _ => {
            let mut at = 0;
            while at < content.len() {
                let (value, read) = varint(&content[at..]).ok_or(WireError { offset: field.content + at, what: "unexpected EOF" })?;
                at += read;
                comma(out);
                scalar(out, known, Value::Varint(value));
            }
            Ok(())
        }
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * i as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

fn element(out: &mut String, known: &'static Field, field: &wire::Field<'_>, depth: usize) -> Result<(), WireError> {
    match (known.kind, field.value) {
        (Type::Message(inner), Value::Len(content)) => message(out, inner, content, field.content, depth + 1),
        (_, value) => {
            scalar(out, known, value);
            Ok(())
        }
    }
}

fn scalar(out: &mut String, known: &Field, value: Value<'_>) {
    let _ = match (known.kind, value) {
        (Type::Bool, Value::Varint(v)) => write!(out, "{}", v != 0),
        (Type::Uint32, Value::Varint(v)) => write!(out, "{}", v as u32),
        (Type::Sint32, Value::Varint(v)) => write!(out, "{}", (v as u32 >> 1) as i32 ^ -((v as u32 & 1) as i32)),
        (Type::Enum(_), Value::Varint(v)) => write!(out, "{}", v as i32),
        (Type::Int64, Value::Varint(v)) => write!(out, "\"{}\"", v as i64),
        (Type::Uint64, Value::Varint(v)) => write!(out, "\"{v}\""),
        (Type::Fixed64, Value::Fixed64(v)) => write!(out, "\"{v}\""),
        (Type::Sfixed64, Value::Fixed64(v)) => write!(out, "\"{}\"", v as i64),
        (Type::Fixed32, Value::Fixed32(v)) => write!(out, "{v}"),
        (Type::Double, Value::Fixed64(bits)) => double(out, f64::from_bits(bits)),
        (Type::Text, Value::Len(text)) => {
            out.push_str(&serde_json::to_string(&String::from_utf8_lossy(text)).unwrap_or_default());
            Ok(())
        }
        (Type::Bytes, Value::Len(bytes)) => {
            out.push('"');
            base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
            out.push('"');
            Ok(())
        }
        (Type::Id(_), Value::Len(id)) => {
            out.push('"');
            let _ = id.iter().try_for_each(|byte| write!(out, "{byte:02x}"));
            out.push('"');
            Ok(())
        }
        _ => write!(out, "null"),
    };
}

fn double(out: &mut String, value: f64) -> std::fmt::Result {
    match value {
        v if v.is_nan() => out.write_str("\"NaN\""),
        f64::INFINITY => out.write_str("\"Infinity\""),
        f64::NEG_INFINITY => out.write_str("\"-Infinity\""),
        // Rust's shortest form that reads back to the same number, the sign of zero included.
        v => write!(out, "{v:?}"),
    }
}
