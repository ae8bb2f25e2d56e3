//! JSON to protobuf, in one pass: members are written as they are read.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    JsonError, MAX_DEPTH,
    read::{Bad, Read, Reader},
};
use crate::{
    schema::{self, Field, Kind, Label, Message},
    signal::Signal,
    transport::grpc::decode_bin,
    wire::{
        put_fixed32_field, put_fixed64_field, put_len_field, put_tag, put_varint, put_varint_field,
        varint_len, zigzag,
    },
};

/// Translates a request from OTLP/JSON to protobuf bytes.
///
/// Ids keep whatever length they have: [`check`](crate::check()) judges them as it judges all others.
pub fn to_proto(signal: Signal, text: &[u8]) -> Result<Bytes, JsonError> {
    let mut door = Door { reader: Reader::new(text, MAX_DEPTH), path: Vec::new() };
    // Protobuf is about half as long.
    let mut out =
        Draft { bytes: Vec::with_capacity(text.len() / 2), lengths: Vec::new(), grown: 0 };
    match door.message(schema::request(signal), &mut out).and_then(|()| door.reader.end()) {
        Ok(()) => Ok(out.assemble().into()),
        Err(bad) => Err(door.error(text, bad)),
    }
}

/// A step down into the text, for the path in an error.
enum Step {
    Member(&'static str),
    Element(usize),
}

/// A request without the lengths of its messages, which are known only at their ends. They are put in
/// at the very end, in one pass: to make room for each at once would move what is deep in it over and over.
struct Draft {
    bytes: Vec<u8>,
    /// Where a length belongs, and what it is; in order of place.
    lengths: Vec<(usize, usize)>,
    /// Bytes that the lengths so far will take.
    grown: usize,
}

impl Draft {
    /// A message field whose contents `write` appends.
    fn message<R>(&mut self, number: u32, write: impl FnOnce(&mut Self) -> R) -> R {
        put_tag(&mut self.bytes, number, 2);
        let (slot, body, before) = (self.lengths.len(), self.bytes.len(), self.grown);
        self.lengths.push((body, 0));
        let result = write(self);
        let len = self.bytes.len() - body + self.grown - before;
        self.lengths[slot].1 = len;
        self.grown += varint_len(len as u64);
        result
    }

    fn assemble(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + self.grown);
        let mut from = 0;
        for (at, len) in self.lengths {
            out.extend_from_slice(&self.bytes[from..at]);
            put_varint(&mut out, len as u64);
            from = at;
        }
        out.extend_from_slice(&self.bytes[from..]);
        out
    }
}

struct Door<'a> {
    reader: Reader<'a>,
    path: Vec<Step>,
}

impl Door<'_> {
    /// The members of a message. Steps stay on the path where reading fails.
    fn message(&mut self, schema: &Message, out: &mut Draft) -> Read<()> {
        self.reader.enter(b'{')?;
        let mut first = true;
        while self.reader.more(b'}', &mut first)? {
            let key = self.reader.key()?;
            let Some(field) = schema.named(&key) else {
                self.reader.skip()?;
                continue;
            };
            if self.reader.peek() == b'n' {
                self.reader.literal("null")?;
                continue;
            }
            self.path.push(Step::Member(field.name));
            match field.label {
                Label::Repeated => self.repeated(field, out)?,
                _ => self.single(field, out)?,
            }
            self.path.pop();
        }
        Ok(())
    }

    fn single(&mut self, field: &Field, out: &mut Draft) -> Read<()> {
        match field.kind {
            Kind::Message(inner) => out.message(field.number, |out| self.message(inner, out)),
            kind if kind.wire_type() == 2 => {
                let value = self.bytes(kind)?;
                if !value.is_empty() || field.label != Label::Single {
                    put_len_field(&mut out.bytes, field.number, &value);
                }
                Ok(())
            }
            kind => {
                let value = self.number(kind)?;
                if value != 0 || field.label != Label::Single {
                    match kind.wire_type() {
                        0 => put_varint_field(&mut out.bytes, field.number, value),
                        1 => put_fixed64_field(&mut out.bytes, field.number, value),
                        _ => put_fixed32_field(&mut out.bytes, field.number, value as u32),
                    }
                }
                Ok(())
            }
        }
    }

    fn repeated(&mut self, field: &Field, out: &mut Draft) -> Read<()> {
        let packed = field.kind.wire_type() != 2;
        if packed {
            let (start, slot, before) = (out.bytes.len(), out.lengths.len(), out.grown);
            let any = out.message(field.number, |out| {
                let body = out.bytes.len();
                self.elements(field, out).map(|()| out.bytes.len() > body)
            })?;
            if !any {
                out.bytes.truncate(start);
                out.lengths.truncate(slot);
                out.grown = before;
            }
            return Ok(());
        }
        self.elements(field, out)
    }

    fn elements(&mut self, field: &Field, out: &mut Draft) -> Read<()> {
        self.reader.enter(b'[')?;
        let mut first = true;
        let mut index = 0;
        while self.reader.more(b']', &mut first)? {
            self.path.push(Step::Element(index));
            match field.kind {
                // An element must keep its place: `null` is an empty one.
                Kind::Message(_) if self.reader.peek() == b'n' => {
                    self.reader.literal("null")?;
                    put_len_field(&mut out.bytes, field.number, &[]);
                }
                Kind::Message(inner) => {
                    out.message(field.number, |out| self.message(inner, out))?
                }
                kind => match kind.wire_type() {
                    0 => put_varint(&mut out.bytes, self.number(kind)?),
                    1 => out.bytes.extend_from_slice(&self.number(kind)?.to_le_bytes()),
                    2 => put_len_field(&mut out.bytes, field.number, &self.bytes(kind)?),
                    _ => out.bytes.extend_from_slice(&(self.number(kind)? as u32).to_le_bytes()),
                },
            }
            self.path.pop();
            index += 1;
        }
        Ok(())
    }

    /// A text, base64 or hex.
    fn bytes(&mut self, kind: Kind) -> Read<Cow<'_, [u8]>> {
        let at = self.reader.at();
        let text = self.reader.string()?;
        let bytes = match kind {
            Kind::String => {
                return Ok(match text {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                });
            }
            Kind::TraceId | Kind::SpanId => unhex(text.as_bytes()).ok_or("expected an id in hex"),
            _ => unbase64(&text).ok_or("expected base64"),
        };
        bytes.map(Cow::Owned).map_err(|what| Bad { at, what: what.into() })
    }

    /// A number of any kind as it is in a varint, or its bits.
    fn number(&mut self, kind: Kind) -> Read<u64> {
        let first = self.reader.peek();
        let at = self.reader.at();
        let text = match first {
            b'"' => self.reader.string()?,
            b't' | b'f' => {
                let word = if first == b't' { "true" } else { "false" };
                self.reader.literal(word)?;
                Cow::Borrowed(word)
            }
            _ => Cow::Borrowed(self.reader.number()?),
        };
        parse(kind, &text).map_err(|wanted| Bad {
            at,
            what: format!("expected {wanted}, found {}", shown(&text)).into(),
        })
    }

    #[cold]
    fn error(&self, text: &[u8], bad: Bad) -> JsonError {
        let before = &text[..bad.at.min(text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.len()
            - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
            + 1;
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) if path.is_empty() => path.push_str(name),
                Step::Member(name) => path.extend([".", name]),
                Step::Element(index) => path.push_str(&format!("[{index}]")),
            }
        }
        JsonError { line, column, path, what: bad.what }
    }
}

/// What was found, cut to what fits an error.
fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(40);
    if end < text.len() { format!("{:?}...", &text[..end]) } else { format!("{text:?}") }
}

/// Parses a number; the error says what was wanted.
fn parse(kind: Kind, text: &str) -> Result<u64, &'static str> {
    let int32 = |text| integer(text).and_then(|value| i32::try_from(value).ok());
    match kind {
        Kind::Bool => match text {
            "true" => Ok(1),
            "false" => Ok(0),
            _ => Err("true or false"),
        },
        Kind::Int32 => int32(text).map(|value| i64::from(value) as u64).ok_or("a 32-bit integer"),
        Kind::Sint32 => int32(text).map(zigzag).ok_or("a 32-bit integer"),
        Kind::Enum(names) => match names.iter().position(|name| *name == text) {
            Some(number) => Ok(number as u64),
            None => int32(text)
                .map(|value| i64::from(value) as u64)
                .ok_or("a number or a name of the enum"),
        },
        Kind::Uint32 | Kind::Fixed32 => integer(text)
            .and_then(|value| u32::try_from(value).ok())
            .map(u64::from)
            .ok_or("an unsigned 32-bit integer"),
        Kind::Int64 | Kind::Sfixed64 => integer(text)
            .and_then(|value| i64::try_from(value).ok())
            .map(|value| value as u64)
            .ok_or("a 64-bit integer"),
        Kind::Uint64 | Kind::Fixed64 => integer(text)
            .and_then(|value| u64::try_from(value).ok())
            .ok_or("an unsigned 64-bit integer"),
        Kind::Double => double(text).map(f64::to_bits).ok_or("a number"),
        Kind::String | Kind::Bytes | Kind::TraceId | Kind::SpanId | Kind::Message(_) => {
            Err("a text")
        }
    }
}

/// An integer, exact; also one in the form of a double (`1e3`, `5.0`), as proto3 JSON allows.
fn integer(text: &str) -> Option<i128> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(i128::from(value));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Some(i128::from(value));
    }
    // A double names an integer exactly up to 2^53.
    let value = double(text)?;
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i128)
}

fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        // Rust also reads `inf` and `nan` in any case, which JSON has not.
        _ if text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) =>
        {
            text.parse().ok().filter(|value: &f64| value.is_finite())
        }
        _ => None,
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Base64 of either alphabet, padded or not, as proto3 JSON asks.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    if text.contains(['-', '_']) {
        return decode_bin(text.replace('-', "+").replace('_', "/").as_bytes());
    }
    decode_bin(text.as_bytes())
}
