//! Is this a request? One pass over the bytes, at the door.
//!
//! What the Collector refuses when it decodes is refused here: wire that is not well-formed, a known
//! field of another wire type, an id of a wrong length; and, as protobuf says, text that is not
//! UTF-8. Fields that are not known are only required to be well-formed.

use crate::{
    schema::{self, Kind, Label, Message, Step},
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
    if signal == Signal::Profiles {
        for field in Fields::new(bytes) {
            field?;
        }
        return Ok(0);
    }
    let mut items = 0;
    message(bytes, 0, schema::request(signal), MAX_DEPTH, &mut items)?;
    Ok(items)
}

/// Checks the message from `at` to the end of `bytes`, which begin where the request begins.
///
/// The loop is the fast half: one look-up by the tag tells what to do, and nearly every tag and length
/// in OTLP is one or two bytes. What it does not know how to pass over, [`look`] judges.
fn message(
    bytes: &[u8],
    mut at: usize,
    schema: &Message,
    depth: u32,
    items: &mut usize,
) -> Result<(), WireError> {
    *items += usize::from(schema.item);
    while let Some(&tag) = bytes.get(at) {
        let step = if tag < 0x80 { schema.steps[usize::from(tag)] } else { Step::Look };
        let end = match step {
            Step::Look => None,
            Step::Fixed64 => Some(at + 9),
            Step::Fixed32 => Some(at + 5),
            Step::Varint => {
                let len = bytes[at + 1..].iter().take(10).position(|byte| *byte < 0x80);
                // Ten bytes may be too many bits.
                len.filter(|last| *last < 9).map(|last| at + 2 + last)
            }
            Step::Bytes | Step::Text | Step::Id(_) | Step::Nested(_) => {
                let (len, body) = match bytes[at + 1..] {
                    [len, ..] if len < 0x80 => (usize::from(len), at + 2),
                    [low, high, ..] if high < 0x80 => {
                        (usize::from(low & 0x7f) | usize::from(high) << 7, at + 3)
                    }
                    _ => (usize::MAX, at),
                };
                match bytes[body..].get(..len) {
                    None => None,
                    Some(value) => {
                        let good = match step {
                            Step::Text => is_utf8(value),
                            Step::Id(want) => value.is_empty() || value.len() == usize::from(want),
                            Step::Nested(inner) if inner.pair && depth > 1 && is_pair(value) => {
                                true
                            }
                            Step::Nested(inner) if depth > 0 => {
                                message(&bytes[..body + len], body, inner, depth - 1, items)?;
                                true
                            }
                            Step::Nested(_) => false,
                            _ => true,
                        };
                        good.then_some(body + len)
                    }
                }
            }
        };
        at = match end {
            Some(end) if end <= bytes.len() => end,
            _ => look(bytes, at, schema, depth, items)?,
        };
    }
    Ok(())
}

/// Is it a `KeyValue` as nearly all are: a key, then a text or a small number, each shorter than 128
/// bytes, and nothing else? Most of a request is these, so one look at the whole spares three walks.
#[inline]
fn is_pair(pair: &[u8]) -> bool {
    let [0x0a, key_len, rest @ ..] = pair else { return false };
    let Some((_, [0x12, len, value @ ..])) = rest.split_at_checked(usize::from(*key_len)) else {
        return false;
    };
    if *key_len >= 0x80 || *len >= 0x80 || usize::from(*len) != value.len() {
        return false;
    }
    match value {
        // Tags and lengths are ASCII here: the whole is UTF-8 if and only if each text in it is.
        [0x0a, len, text @ ..] => *len < 0x80 && usize::from(*len) == text.len() && is_utf8(pair),
        [0x10 | 0x18, number @ ..] => {
            let (last, more) = match number {
                [last] => (*last, 0x80),
                [more, last] => (*last, *more),
                _ => return false,
            };
            last < 0x80 && more >= 0x80 && is_utf8(&pair[..2 + usize::from(*key_len)])
        }
        _ => false,
    }
}

/// Judges one field at leisure: where it ends, or what is wrong with it.
#[cold]
fn look(
    bytes: &[u8],
    at: usize,
    schema: &Message,
    depth: u32,
    items: &mut usize,
) -> Result<usize, WireError> {
    let mut fields = Fields::within(bytes, at, bytes.len());
    let Some(field) = fields.next_field()? else { return Ok(bytes.len()) };
    let Some(known) = schema.field(field.number) else { return Ok(field.end) };
    let fail = |offset, what| Err(WireError { offset, what });
    match (known.kind, field.value) {
        (Kind::Message(_), Value::Len(_)) if depth == 0 => {
            fail(field.start, Fault::Depth(MAX_DEPTH))
        }
        (Kind::Message(inner), Value::Len(_)) => {
            message(&bytes[..field.end], field.body, inner, depth - 1, items)?;
            Ok(field.end)
        }
        (Kind::String, Value::Len(text)) if !is_utf8(text) => {
            fail(field.body, Fault::Utf8(known.name))
        }
        (Kind::TraceId, Value::Len(id)) if !matches!(id.len(), 0 | 16) => {
            fail(field.body, Fault::Id { field: known.name, len: id.len() })
        }
        (Kind::SpanId, Value::Len(id)) if !matches!(id.len(), 0 | 8) => {
            fail(field.body, Fault::Id { field: known.name, len: id.len() })
        }
        (kind, value) if value.wire_type() == kind.wire_type() => Ok(field.end),
        (kind, Value::Len(packed)) if known.label == Label::Repeated => {
            numbers(&field, kind, packed)?;
            Ok(field.end)
        }
        (_, value) => {
            fail(field.start, Fault::Mismatch { field: known.name, wire_type: value.wire_type() })
        }
    }
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
        None => match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                (u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last)) & HIGH as u32 == 0
            }
            _ => text.iter().fold(0, |all, byte| all | byte) < 0x80,
        },
    };
    ascii || std::str::from_utf8(text).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::{
        put_fixed32_field, put_fixed64_field, put_len_field, put_message, put_varint_field,
    };

    fn span(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put_message(&mut out, 1, |group| {
            put_message(group, 2, |scope| put_message(scope, 2, write))
        });
        out
    }

    fn fault(write: impl FnOnce(&mut Vec<u8>)) -> String {
        check(Signal::Traces, &span(write)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(
            fault(|s| put_len_field(s, 1, &[1; 15])),
            "proto: invalid length for field traceId: 15 bytes, expected 0 or 16 at byte 8"
        );
        assert_eq!(
            fault(|s| put_len_field(s, 4, &[1; 16])),
            "proto: invalid length for field parentSpanId: 16 bytes, expected 0 or 8 at byte 8"
        );
        assert_eq!(
            fault(|s| put_len_field(s, 5, b"\xff")),
            "proto: field name contains invalid UTF-8 at byte 8"
        );
        assert_eq!(
            fault(|s| put_varint_field(s, 5, 1)),
            "proto: wrong wireType = 0 for field name at byte 6"
        );
        assert_eq!(
            fault(|s| put_fixed64_field(s, 16, 1)),
            "proto: wrong wireType = 1 for field flags at byte 6"
        );
        assert_eq!(
            fault(|s| put_len_field(s, 6, b"xx")),
            "proto: wrong wireType = 2 for field kind at byte 6"
        );
        assert_eq!(
            fault(|s| s.extend_from_slice(&[0x2a, 5, b'x'])),
            "proto: unexpected EOF at byte 6"
        );
        assert_eq!(
            fault(|s| s.extend_from_slice(&[0x30, 0xff])),
            "proto: unexpected EOF at byte 7"
        );
        assert_eq!(
            fault(|s| s.extend_from_slice(&[0x30, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2])),
            "proto: integer overflow at byte 7"
        );
        assert_eq!(fault(|s| s.extend_from_slice(&[0x39, 1])), "proto: unexpected EOF at byte 7");
        assert_eq!(fault(|s| s.push(0x3c)), "proto: mismatched group at byte 6");
    }

    #[test]
    fn what_is_odd_but_right_passes() {
        let request = span(|s| {
            put_len_field(s, 1, &[]);
            put_len_field(s, 2, &[0; 8]);
            // A name whose length takes more bytes than it must, and whose tag does.
            s.extend_from_slice(&[0x2a, 0x81, 0x80, 0x00, b'x', 0xaa, 0x00, 0x01, b'y']);
            put_varint_field(s, 6, u64::MAX);
            put_fixed32_field(s, 16, 7);
            put_len_field(s, 1_000, b"\xff");
            put_len_field(s, 5, "größer als acht Zeichen".as_bytes());
        });
        assert_eq!(check(Signal::Traces, &request), Ok(1));
    }

    #[test]
    fn nesting_has_a_limit_and_no_stack_is_lost_to_it() {
        let nested = |levels: usize| {
            let mut value = Vec::new();
            for _ in 0..levels {
                let mut array = Vec::new();
                put_len_field(&mut array, 1, &value);
                value.clear();
                put_len_field(&mut value, 5, &array);
            }
            span(|s| put_message(s, 9, |kv| put_len_field(kv, 2, &value)))
        };
        assert_eq!(check(Signal::Traces, &nested(100)), Ok(1));
        let error = check(Signal::Traces, &nested(5_000)).unwrap_err();
        assert_eq!(error.what, Fault::Depth(MAX_DEPTH));
    }

    #[test]
    fn packed_numbers_must_be_whole() {
        let counts = |packed: &[u8]| {
            let mut out = Vec::new();
            put_message(&mut out, 1, |group| {
                put_message(group, 2, |scope| {
                    put_message(scope, 2, |metric| {
                        put_message(metric, 9, |histogram| {
                            put_message(histogram, 1, |point| put_len_field(point, 6, packed))
                        });
                    })
                })
            });
            check(Signal::Metrics, &out)
        };
        assert_eq!(counts(&[0; 16]), Ok(1));
        assert_eq!(counts(&[]), Ok(1));
        assert_eq!(counts(&[0; 15]).unwrap_err().what, Fault::Eof);
    }

    #[test]
    fn utf8_is_what_the_standard_library_says() {
        for text in [
            "",
            "a",
            "ab",
            "abc",
            "abcd",
            "abcdefg",
            "abcdefgh",
            "abcdefghi",
            "ä",
            "abcdefghijklmnoä",
            "ä bcdefghijklmno",
            "😀😀😀",
        ] {
            for cut in 0..=text.len() {
                let bytes = &text.as_bytes()[..cut];
                assert_eq!(is_utf8(bytes), std::str::from_utf8(bytes).is_ok(), "{bytes:?}");
            }
        }
    }
}
