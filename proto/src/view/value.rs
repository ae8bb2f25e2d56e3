//! Attributes and their values.

use super::{next_nested, text};
use crate::{
    json::quoted,
    transport::grpc::encode_bin,
    wire::{Fields, Value, WireError},
};

/// A key and its value.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'a> {
    /// The key.
    pub key: &'a str,
    /// The value; [`AnyValue::Empty`] if there is none.
    pub value: AnyValue<'a>,
}

impl<'a> KeyValue<'a> {
    fn new(mut fields: Fields<'a>) -> Result<Self, WireError> {
        let mut kv = KeyValue { key: "", value: AnyValue::Empty };
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Len(bytes)) => kv.key = text(&field, bytes, "key")?,
                (2, Value::Len(_)) => kv.value = AnyValue::new(fields.nested(&field))?,
                _ => {}
            }
        }
        Ok(kv)
    }
}

/// A value of an attribute, a log body or an element of an array.
#[derive(Clone, Copy, Debug)]
pub enum AnyValue<'a> {
    /// No value at all, which is not an empty text.
    Empty,
    /// `string_value`
    String(&'a str),
    /// `bool_value`
    Bool(bool),
    /// `int_value`
    Int(i64),
    /// `double_value`
    Double(f64),
    /// `array_value`
    Array(ArrayView<'a>),
    /// `kvlist_value`; keys may repeat.
    KvList(Attributes<'a>),
    /// `bytes_value`
    Bytes(&'a [u8]),
    /// `string_value_strindex`: an index into the string table of a profile.
    StringIndex(i32),
}

impl<'a> AnyValue<'a> {
    /// Reads a serialized `AnyValue`; one that is malformed is [`AnyValue::Empty`].
    pub fn decode(bytes: &'a [u8]) -> Self {
        AnyValue::new(Fields::new(bytes)).unwrap_or(AnyValue::Empty)
    }

    #[inline]
    pub(crate) fn new(mut fields: Fields<'a>) -> Result<Self, WireError> {
        let mut any = AnyValue::Empty;
        while let Some(field) = fields.next_field()? {
            any = match (field.number, field.value) {
                (1, Value::Len(bytes)) => AnyValue::String(text(&field, bytes, "stringValue")?),
                (2, Value::Varint(value)) => AnyValue::Bool(value != 0),
                (3, Value::Varint(value)) => AnyValue::Int(value as i64),
                (4, Value::Fixed64(bits)) => AnyValue::Double(f64::from_bits(bits)),
                (5, Value::Len(_)) => AnyValue::Array(ArrayView { fields: fields.nested(&field) }),
                (6, Value::Len(_)) => AnyValue::KvList(Attributes::new(fields.nested(&field), 1)),
                (7, Value::Len(bytes)) => AnyValue::Bytes(bytes),
                (8, Value::Varint(index)) => AnyValue::StringIndex(index as i32),
                _ => continue,
            };
        }
        Ok(any)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&'a str> {
        if let AnyValue::String(text) = *self { Some(text) } else { None }
    }

    /// The integer: an int, or a text that is one, as some SDKs send status codes.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            AnyValue::Int(value) => Some(value),
            AnyValue::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Writes the value as plain JSON (not OTLP's): texts quoted, bytes in base64, numbers as numbers.
    /// Stops soon after `out` has `limit` bytes, or where arrays nest too deep, with what is there.
    pub fn write_json(&self, out: &mut String, limit: usize) {
        json(self, out, limit, MAX_NESTING);
    }

    /// The number: a double or an int.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            AnyValue::Double(value) => Some(value),
            AnyValue::Int(value) => Some(value as f64),
            _ => None,
        }
    }
}

/// Arrays and maps are shown no deeper than this.
const MAX_NESTING: u32 = 32;

fn json(value: &AnyValue<'_>, out: &mut String, limit: usize, depth: u32) {
    if out.len() >= limit || depth == 0 {
        return;
    }
    match value {
        AnyValue::Empty => out.push_str("null"),
        AnyValue::String(text) => quoted(&text[..text.floor_char_boundary(limit)], out),
        AnyValue::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        AnyValue::Int(value) => out.push_str(&value.to_string()),
        AnyValue::Double(value) if value.is_finite() => out.push_str(&format!("{value:?}")),
        AnyValue::Double(value) => quoted(&value.to_string(), out),
        AnyValue::Bytes(bytes) => quoted(&encode_bin(&bytes[..bytes.len().min(limit)]), out),
        AnyValue::StringIndex(index) => out.push_str(&index.to_string()),
        AnyValue::Array(array) => {
            out.push('[');
            for (i, value) in array.values().flatten().enumerate() {
                if out.len() >= limit {
                    break;
                }
                if i > 0 {
                    out.push(',');
                }
                json(&value, out, limit, depth - 1);
            }
            out.push(']');
        }
        AnyValue::KvList(attributes) => {
            out.push('{');
            for (i, attribute) in attributes.flatten().enumerate() {
                if out.len() >= limit {
                    break;
                }
                if i > 0 {
                    out.push(',');
                }
                quoted(&attribute.key[..attribute.key.floor_char_boundary(limit)], out);
                out.push(':');
                json(&attribute.value, out, limit, depth - 1);
            }
            out.push('}');
        }
    }
}

/// The elements of an `array_value`.
#[derive(Clone, Copy, Debug)]
pub struct ArrayView<'a> {
    fields: Fields<'a>,
}

impl<'a> ArrayView<'a> {
    /// The elements in their order.
    pub fn values(&self) -> Values<'a> {
        Values { fields: self.fields }
    }
}

/// Iterator over the elements of an array.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    fields: Fields<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<AnyValue<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, 1).map(|fields| fields.and_then(AnyValue::new))
    }
}

/// Iterator over `repeated KeyValue`, in the order of the wire.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    fields: Fields<'a>,
    number: u32,
}

impl<'a> Attributes<'a> {
    /// The attributes in the field `number` of a message.
    pub(super) fn new(fields: Fields<'a>, number: u32) -> Self {
        Attributes { fields, number }
    }

    /// The keys as bytes, up to what is malformed; no value is read.
    pub fn keys(mut self) -> impl Iterator<Item = &'a [u8]> {
        std::iter::from_fn(move || self.next_raw()?.ok().map(|(key, _)| key))
    }

    /// The next key as bytes, and the message of its value: what columns need, without validating
    /// text that nobody looks at.
    #[inline(always)]
    pub(crate) fn next_raw(&mut self) -> Option<Result<(&'a [u8], Fields<'a>), WireError>> {
        let fields = match next_nested(&mut self.fields, self.number)? {
            Ok(fields) => fields,
            Err(error) => return Some(Err(error)),
        };
        Some(raw(fields))
    }
}

/// The key of a `KeyValue` as bytes, and the message of its value.
#[inline]
pub(crate) fn raw<'a>(mut fields: Fields<'a>) -> Result<(&'a [u8], Fields<'a>), WireError> {
    // As every SDK writes it: key, then value, both shorter than 128 bytes, nothing else.
    if let [0x0a, key_len, rest @ ..] = fields.rest()
        && *key_len < 0x80
        && let Some((key, [0x12, len, value @ ..])) = rest.split_at_checked(usize::from(*key_len))
        && *len < 0x80
        && usize::from(*len) == value.len()
    {
        let end = fields.end();
        return Ok((key, fields.between(end - value.len(), end)));
    }
    let (mut key, mut value) = (&[][..], Fields::new(&[]));
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Len(bytes)) => key = bytes,
            (2, Value::Len(_)) => value = fields.nested(&field),
            _ => {}
        }
    }
    Ok((key, value))
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<KeyValue<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        next_nested(&mut self.fields, self.number).map(|fields| fields.and_then(KeyValue::new))
    }
}
