//! OTLP/JSON to protobuf, in one pass over the text, without a tree in between.

use std::{borrow::Cow, fmt};

use base64::Engine as _;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::JsonError;
use crate::{
    Signal,
    schema::{self, Field, Message, Type},
    wire::{put_tag, put_varint},
};

pub(super) fn request(signal: Signal, json: &[u8]) -> Result<Bytes, JsonError> {
    let message = schema::request(signal)
        .ok_or_else(|| JsonError { what: format!("{} have no JSON form here; send protobuf", signal.name()) })?;
    let mut out = Vec::with_capacity(json.len() / 2);
    let mut parser = serde_json::Deserializer::from_slice(json);
    let failed = |e: serde_json::Error| JsonError { what: e.to_string() };
    MessageSeed { message, out: &mut out }.deserialize(&mut parser).map_err(failed)?;
    parser.end().map_err(failed)?;
    Ok(out.into())
}

/// Appends the content of one message.
struct MessageSeed<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.message.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.message.named(&key) {
                Some(field) => map.next_value_seed(FieldSeed { field, out: self.out })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Appends one field, repeated or not; nothing for `null`.
struct FieldSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.field.repeated {
            return deserializer.deserialize_any(self);
        }
        ElementSeed { field: self.field, out: self.out, packed: false }.deserialize(deserializer)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array for `{}`", self.field.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let FieldSeed { field, out } = self;
        if matches!(field.kind, Type::Message(_) | Type::Text | Type::Bytes | Type::Id(_)) {
            while seq.next_element_seed(ElementSeed { field, out, packed: false })?.is_some() {}
            return Ok(());
        }
        // proto3 packs repeated numbers.
        let start = out.len();
        while seq.next_element_seed(ElementSeed { field, out, packed: true })?.is_some() {}
        if out.len() > start {
            enclose(out, start, field.number);
        }
        Ok(())
    }
}

/// Appends one value: a whole field, or the bare number when packed.
struct ElementSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
    packed: bool,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let ElementSeed { field, out, packed } = self;
        if let Type::Message(message) = field.kind {
            let start = out.len();
            let set = deserializer.deserialize_option(OptionSeed(MessageSeed { message, out: &mut *out }))?;
            // An element of an array is there even when it is null; a member that is null is not.
            if set || field.repeated {
                enclose(out, start, field.number);
            }
            return Ok(());
        }
        match deserializer.deserialize_any(ScalarVisitor)? {
            Scalar::Null => Ok(()),
            scalar => put(out, field, packed, &scalar)
                .map_err(|what| D::Error::custom(format_args!("`{}`: {what}", field.name))),
        }
    }
}

/// Tells `null` from a message.
struct OptionSeed<'o>(MessageSeed<'o>);

impl<'de> Visitor<'de> for OptionSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_none<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        self.0.deserialize(deserializer).map(|()| true)
    }
}

/// Puts tag and length before what was appended since `start`.
fn enclose(out: &mut Vec<u8>, start: usize, number: u32) {
    let length = out.len() - start;
    put_tag(out, number, 2);
    put_varint(out, length as u64);
    let header = out.len() - start - length;
    out[start..].rotate_right(header);
}

enum Scalar<'de> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'de, str>),
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a truth value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Unsigned(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Signed(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(value.to_owned().into()))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(value.into()))
    }
}

impl Scalar<'_> {
    /// As an integer that fits; what has a fraction or is too large does not.
    fn integer(&self) -> Result<i128, String> {
        match self {
            Scalar::Unsigned(value) => Ok(i128::from(*value)),
            Scalar::Signed(value) => Ok(i128::from(*value)),
            Scalar::Float(value) if value.fract() == 0.0 && value.abs() < 2e19 => Ok(*value as i128),
            Scalar::Text(text) => match text.trim().parse::<i128>() {
                Ok(value) => Ok(value),
                Err(_) => text.trim().parse::<f64>().map_err(|_| ()).and_then(|v| {
                    if v.fract() == 0.0 && v.abs() < 2e19 { Ok(v as i128) } else { Err(()) }
                }),
            }
            .map_err(|()| format!("{text:?} is no integer")),
            _ => Err("expected an integer".to_owned()),
        }
    }

    fn unsigned(&self) -> Result<u64, String> {
        let value = self.integer()?;
        // A negative number stands for its two's complement, as an int64 field would have it.
        u64::try_from(value).or_else(|_| i64::try_from(value).map(|v| v as u64)).map_err(|_| format!("{value} does not fit 64 bits"))
    }

    fn signed(&self) -> Result<i64, String> {
        let value = self.integer()?;
        i64::try_from(value).map_err(|_| format!("{value} does not fit a signed 64-bit integer"))
    }

    fn small(&self) -> Result<u32, String> {
        let value = self.integer()?;
        u32::try_from(value).or_else(|_| i32::try_from(value).map(|v| v as u32)).map_err(|_| format!("{value} does not fit 32 bits"))
    }

    fn double(&self) -> Result<f64, String> {
        match self {
            Scalar::Float(value) => Ok(*value),
            Scalar::Unsigned(value) => Ok(*value as f64),
            Scalar::Signed(value) => Ok(*value as f64),
            Scalar::Text(text) => match &**text {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                text => text.trim().parse().map_err(|_| format!("{text:?} is no number")),
            },
            _ => Err("expected a number".to_owned()),
        }
    }

    fn text(&self) -> Result<&str, String> {
        match self {
            Scalar::Text(text) => Ok(text),
            _ => Err("expected a string".to_owned()),
        }
    }

    fn bool(&self) -> Result<bool, String> {
        match self {
            Scalar::Bool(value) => Ok(*value),
            Scalar::Text(text) if text == "true" => Ok(true),
            Scalar::Text(text) if text == "false" => Ok(false),
            _ => Err("expected true or false".to_owned()),
        }
    }
}

/// Appends a scalar; one that is its type's default is left out unless its presence tells something.
fn put(out: &mut Vec<u8>, field: &Field, packed: bool, scalar: &Scalar<'_>) -> Result<(), String> {
    let keep = packed || field.presence || field.repeated;
    let mut varint = |value: u64| {
        if keep || value != 0 {
            if !packed {
                put_tag(out, field.number, 0);
            }
            put_varint(out, value);
        }
    };
    match field.kind {
        Type::Bool => varint(u64::from(scalar.bool()?)),
        Type::Uint32 => varint(u64::from(scalar.small()?)),
        Type::Sint32 => {
            let value = scalar.small()? as i32;
            varint(u64::from((value << 1 ^ value >> 31) as u32));
        }
        Type::Int64 => varint(scalar.signed()? as u64),
        Type::Uint64 => varint(scalar.unsigned()?),
        Type::Enum(names) => {
            let named = match scalar {
                Scalar::Text(text) => names.iter().find(|(name, _)| name == text).map(|(_, value)| *value),
                _ => None,
            };
            let value = match named {
                Some(value) => value,
                None => scalar.small()? as i32,
            };
            varint(i64::from(value) as u64);
        }
        Type::Fixed64 => fixed64(out, field, packed, keep, scalar.unsigned()?),
        Type::Sfixed64 => fixed64(out, field, packed, keep, scalar.signed()? as u64),
        Type::Double => fixed64(out, field, packed, keep, scalar.double()?.to_bits()),
        Type::Fixed32 => {
            let bits = scalar.small()?;
            if keep || bits != 0 {
                put_tag(out, field.number, 5);
                out.extend_from_slice(&bits.to_le_bytes());
            }
        }
        Type::Text => length(out, field, keep, scalar.text()?.as_bytes()),
        Type::Bytes => length(out, field, keep, &from_base64(scalar.text()?)?),
        Type::Id(_) => length(out, field, keep, &from_hex(scalar.text()?)?),
        Type::Message(_) => return Err("expected an object".to_owned()),
    }
    Ok(())
}

fn fixed64(out: &mut Vec<u8>, field: &Field, packed: bool, keep: bool, bits: u64) {
    if keep || bits != 0 {
        if !packed {
            put_tag(out, field.number, 1);
        }
        out.extend_from_slice(&bits.to_le_bytes());
    }
}

fn length(out: &mut Vec<u8>, field: &Field, keep: bool, content: &[u8]) {
    if keep || !content.is_empty() {
        put_tag(out, field.number, 2);
        put_varint(out, content.len() as u64);
        out.extend_from_slice(content);
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let bytes = text.as_bytes();
    let pairs = bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    match (bytes.len() % 2, pairs.collect::<Option<Vec<u8>>>()) {
        (0, Some(id)) => Ok(id),
        _ => Err(format!("{text:?} is no hexadecimal id")),
    }
}

fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::PAD, DecodePaddingMode};
    const LENIENT: GeneralPurposeConfig = PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { base64::alphabet::URL_SAFE } else { base64::alphabet::STANDARD };
    GeneralPurpose::new(&alphabet, LENIENT).decode(text).map_err(|e| format!("is no base64: {e}"))
}
