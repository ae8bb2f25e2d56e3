//! Values of attributes: from the configuration, and changed as the Collector changes them.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest, Sha256};
use tapio_proto::{
    transport::grpc::encode_bin,
    view::AnyValue,
    wire::{put_fixed64_field, put_len_field, put_message, put_varint_field},
};

/// A value of any type in the configuration, as a serialized `AnyValue`; `None` when it is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configured(pub(crate) Option<Vec<u8>>);

/// A serialized `AnyValue` with a text.
pub(crate) fn text(value: &str) -> Vec<u8> {
    encoded(|out| put_len_field(out, 1, value.as_bytes()))
}

/// A serialized `AnyValue` with an array of one text.
pub(crate) fn texts(value: &str) -> Vec<u8> {
    encoded(|out| {
        put_message(out, 5, |array| {
            put_message(array, 1, |element| put_len_field(element, 1, value.as_bytes()));
        });
    })
}

fn int(value: i64) -> Vec<u8> {
    encoded(|out| put_varint_field(out, 3, value as u64))
}

fn double(value: f64) -> Vec<u8> {
    encoded(|out| put_fixed64_field(out, 4, value.to_bits()))
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// The SHA-256 of a value in hex; an empty text for what is neither text, number nor boolean.
pub(crate) fn hashed(value: &AnyValue<'_>) -> Vec<u8> {
    let sum = match value {
        AnyValue::String(text) => Sha256::digest(text.as_bytes()),
        AnyValue::Bool(value) => Sha256::digest([u8::from(*value)]),
        AnyValue::Int(value) => Sha256::digest(value.to_le_bytes()),
        AnyValue::Double(value) => Sha256::digest(value.to_bits().to_le_bytes()),
        _ => return text(""),
    };
    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let hex: String =
        sum.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]).collect();
    text(&hex)
}

/// The value as an integer; `None` when it is one or cannot become one.
pub(crate) fn to_int(value: &AnyValue<'_>) -> Option<Vec<u8>> {
    match *value {
        AnyValue::Double(value) => Some(int(value as i64)),
        AnyValue::Bool(value) => Some(int(i64::from(value))),
        AnyValue::String(text) => text.parse().ok().map(int),
        _ => None,
    }
}

/// The value as a double; `None` when it is one or cannot become one.
pub(crate) fn to_double(value: &AnyValue<'_>) -> Option<Vec<u8>> {
    match *value {
        AnyValue::Int(value) => Some(double(value as f64)),
        AnyValue::Bool(value) => Some(double(f64::from(u8::from(value)))),
        AnyValue::String(text) => {
            let number: f64 = text.parse().ok()?;
            // Digits that are too large for a double are no number; the word "inf" is one.
            let out_of_range = number.is_infinite() && text.bytes().any(|b| b.is_ascii_digit());
            (!out_of_range).then(|| double(number))
        }
        _ => None,
    }
}

/// The value as a text; `None` when it is one.
pub(crate) fn to_text(value: &AnyValue<'_>) -> Option<Vec<u8>> {
    match value {
        AnyValue::String(_) => None,
        other => Some(text(&as_text(other))),
    }
}

/// The value as the Collector writes it where a text is wanted: numbers as JSON does, bytes in base64,
/// arrays and maps as compact JSON with sorted keys.
pub(crate) fn as_text<'a>(value: &AnyValue<'a>) -> Cow<'a, str> {
    match *value {
        AnyValue::Empty => "".into(),
        AnyValue::String(text) => text.into(),
        AnyValue::Bool(value) => if value { "true" } else { "false" }.into(),
        AnyValue::Int(value) => value.to_string().into(),
        AnyValue::Double(value) => match number(value) {
            Some(text) => text.into(),
            None => format!("json: unsupported value: {}", not_finite(value)).into(),
        },
        AnyValue::Bytes(bytes) => base64(bytes).into(),
        AnyValue::StringIndex(_) => "".into(),
        AnyValue::Array(_) | AnyValue::KvList(_) => {
            let mut out = String::new();
            match json(value, &mut out, MAX_NESTING) {
                Some(()) => out.into(),
                // A number that JSON cannot write, or too deep: the Collector has no text then.
                None => "".into(),
            }
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    let mut text = encode_bin(bytes);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Values nest no deeper than the door lets in.
const MAX_NESTING: u32 = 100;

fn json(value: &AnyValue<'_>, out: &mut String, depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match value {
        AnyValue::Empty | AnyValue::StringIndex(_) => out.push_str("null"),
        AnyValue::String(text) => quoted(text, out),
        AnyValue::Bytes(bytes) => quoted(&base64(bytes), out),
        AnyValue::Double(value) => out.push_str(&number(*value)?),
        AnyValue::Bool(_) | AnyValue::Int(_) => out.push_str(&as_text(value)),
        AnyValue::Array(array) => {
            out.push('[');
            for (i, element) in array.values().flatten().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json(&element, out, depth)?;
            }
            out.push(']');
        }
        AnyValue::KvList(attributes) => {
            let sorted: BTreeMap<_, _> = attributes.flatten().map(|a| (a.key, a.value)).collect();
            out.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                quoted(key, out);
                out.push(':');
                json(&value, out, depth)?;
            }
            out.push('}');
        }
    }
    Some(())
}

/// A JSON string as Go's encoder writes it: what could end a script is escaped as well.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A finite number as JSON writes it (ECMAScript's rule): the shortest digits, with an exponent only
/// for what is very small or very large.
fn number(value: f64) -> Option<String> {
    let size = value.abs();
    if !value.is_finite() {
        None
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        // Go writes the sign of a positive exponent.
        Some(if text.contains("e-") { text } else { text.replace('e', "e+") })
    } else {
        Some(value.to_string())
    }
}

fn not_finite(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "NaN",
        value if value > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

/// The name of a value's type in the Collector's messages.
pub(crate) fn type_name(value: &AnyValue<'_>) -> &'static str {
    match value {
        AnyValue::Empty | AnyValue::StringIndex(_) => "Empty",
        AnyValue::String(_) => "Str",
        AnyValue::Bool(_) => "Bool",
        AnyValue::Int(_) => "Int",
        AnyValue::Double(_) => "Double",
        AnyValue::Array(_) => "Slice",
        AnyValue::KvList(_) => "Map",
        AnyValue::Bytes(_) => "Bytes",
    }
}

/// Are two values of one type the same? Maps are compared without their order.
pub(crate) fn equal(one: &AnyValue<'_>, other: &AnyValue<'_>) -> bool {
    match (one, other) {
        (AnyValue::Double(one), AnyValue::Double(other)) => one == other,
        _ => type_name(one) == type_name(other) && as_text(one) == as_text(other),
    }
}

impl<'de> Deserialize<'de> for Configured {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Configured;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Configured, E> {
        Ok(Configured(None))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Configured, E> {
        Ok(encoded(|out| put_varint_field(out, 2, u64::from(value))).into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Configured, E> {
        Ok(int(value).into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Configured, E> {
        Ok(int(value as i64).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Configured, E> {
        Ok(double(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Configured, E> {
        Ok(text(value).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Configured, A::Error> {
        let mut array = Vec::new();
        while let Some(Configured(element)) = seq.next_element()? {
            put_len_field(&mut array, 1, &element.unwrap_or_default());
        }
        Ok(encoded(|out| put_len_field(out, 5, &array)).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Configured, A::Error> {
        let mut list = Vec::new();
        while let Some((key, Configured(value))) = map.next_entry::<String, Configured>()? {
            put_message(&mut list, 1, |entry| {
                put_len_field(entry, 1, key.as_bytes());
                put_len_field(entry, 2, &value.unwrap_or_default());
            });
        }
        Ok(encoded(|out| put_len_field(out, 6, &list)).into())
    }
}

impl From<Vec<u8>> for Configured {
    fn from(value: Vec<u8>) -> Self {
        Configured(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &[u8]) -> String {
        as_text(&AnyValue::decode(value)).into_owned()
    }

    #[test]
    fn texts_are_those_of_the_collector() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-7"),
            (1e-6, "0.000001"),
            (f64::NAN, "json: unsupported value: NaN"),
            (f64::NEG_INFINITY, "json: unsupported value: -Inf"),
        ] {
            assert_eq!(shown(&double(value)), expected);
        }
        let map = serde_json::json!({"b": [1, 2.5, true, null, "<a>"], "a": {"x": "y\n"}});
        let value: Configured = serde_json::from_value(map).unwrap();
        assert_eq!(
            shown(&value.0.unwrap()),
            r#"{"a":{"x":"y\n"},"b":[1,2.5,true,null,"\u003ca\u003e"]}"#
        );
    }

    #[test]
    fn what_cannot_be_converted_stays() {
        let of = |text_value: &str| {
            let value = text(text_value);
            let value = AnyValue::decode(&value);
            (to_int(&value).map(|v| shown(&v)), to_double(&value).map(|v| shown(&v)))
        };
        assert_eq!(of("-12"), (Some("-12".into()), Some("-12".into())));
        assert_eq!(of("1.5"), (None, Some("1.5".into())));
        assert_eq!(of("1e400"), (None, None));
        assert_eq!(of("12 "), (None, None));
        assert_eq!(to_int(&AnyValue::Double(-1.9)), Some(int(-1)));
        assert_eq!(to_int(&AnyValue::Int(3)), None);
    }

    #[test]
    fn hashes_are_those_of_the_collector() {
        let hash = |value: AnyValue<'_>| shown(&hashed(&value));
        assert_eq!(
            hash(AnyValue::String("foo")),
            "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
        );
        assert_eq!(
            hash(AnyValue::Bool(true)),
            "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a"
        );
        assert_eq!(hash(AnyValue::Bytes(b"foo")), "");
    }
}
