//! The protobuf wire format: reading fields from borrowed bytes, and the few writers a splice needs.
//!
//! Source: protobuf.dev/programming-guides/encoding. Nothing here knows a message; see `schema`.

use std::fmt;

/// Groups (deprecated, never in OTLP) may nest this deep in an unknown field; 100 is protobuf's own default.
const MAX_GROUP_DEPTH: u32 = 100;

/// Why bytes are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct WireError {
    /// Where, in bytes from the start of what was read.
    pub offset: usize,
    /// What is wrong there.
    pub what: Fault,
}

/// What can be wrong with the bytes of a message. The words follow the Collector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end inside a field.
    Eof,
    /// A varint of more than 64 bits.
    Overflow,
    /// Field number 0 or above 2^29-1.
    FieldNumber,
    /// Wire type 6 or 7.
    WireType(u8),
    /// An end group that ends nothing, or a group without an end.
    Group,
    /// A known field with a wire type that its type does not have.
    Mismatch {
        /// Name of the field.
        field: &'static str,
        /// The wire type that it came with.
        wire_type: u8,
    },
    /// Text that is not UTF-8.
    Utf8(&'static str),
    /// An id that has neither no bytes nor as many as it must have.
    Id {
        /// Name of the field.
        field: &'static str,
        /// Bytes that it has.
        len: usize,
    },
    /// Messages nested deeper than is read; the limit.
    Depth(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::Eof => f.write_str("proto: unexpected EOF"),
            Fault::Overflow => f.write_str("proto: integer overflow"),
            Fault::FieldNumber => f.write_str("proto: illegal field number"),
            Fault::WireType(wire_type) => write!(f, "proto: illegal wireType {wire_type}"),
            Fault::Group => f.write_str("proto: mismatched group"),
            Fault::Mismatch { field, wire_type } => {
                write!(f, "proto: wrong wireType = {wire_type} for field {field}")
            }
            Fault::Utf8(field) => write!(f, "proto: field {field} contains invalid UTF-8"),
            Fault::Id { field, len } => {
                let want = if field == "spanId" || field == "parentSpanId" { 8 } else { 16 };
                write!(
                    f,
                    "proto: invalid length for field {field}: {len} bytes, expected 0 or {want}"
                )
            }
            Fault::Depth(limit) => {
                write!(f, "proto: message nested deeper than {limit} levels")
            }
        }
    }
}

/// The value of a field as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0: int32, int64, uint32, uint64, sint32, bool, enum.
    Varint(u64),
    /// Wire type 1: fixed64, sfixed64, double.
    Fixed64(u64),
    /// Wire type 2: string, bytes, message, packed repeated.
    Len(&'a [u8]),
    /// Wire type 3: a whole group, which OTLP does not use; skipped.
    Group,
    /// Wire type 5: fixed32.
    Fixed32(u32),
}

impl Value<'_> {
    /// The number of the wire type.
    pub fn wire_type(&self) -> u8 {
        match self {
            Value::Varint(_) => 0,
            Value::Fixed64(_) => 1,
            Value::Len(_) => 2,
            Value::Group => 3,
            Value::Fixed32(_) => 5,
        }
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    /// The field number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Where the field's tag begins, in bytes from the start of the outermost message.
    pub start: usize,
    /// Where its value begins: for [`Value::Len`] after the length.
    pub body: usize,
    /// Where the field ends.
    pub end: usize,
}

/// The fields of a message, in the order of the wire.
///
/// Positions count from the start of the *outermost* message also when a nested one is read, so
/// errors and splices need no arithmetic. After an error the iterator is at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// The outermost message up to the end of this one.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields of a whole message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields { bytes, at: 0 }
    }

    /// The fields between two positions of `bytes`; clamped to what is there.
    #[inline(always)]
    pub fn within(bytes: &'a [u8], start: usize, end: usize) -> Self {
        let end = end.min(bytes.len());
        Fields { bytes: &bytes[..end], at: start.min(end) }
    }

    /// The fields of the message that `field` of this message holds.
    #[inline(always)]
    pub fn nested(&self, field: &Field<'a>) -> Fields<'a> {
        Fields::within(self.bytes, field.body, field.end)
    }

    /// The fields between two positions of this message.
    #[inline]
    pub fn between(&self, start: usize, end: usize) -> Fields<'a> {
        Fields::within(self.bytes, start, end)
    }

    /// The bytes not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The position of the next field.
    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Where the message ends.
    #[inline]
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// The next field; `None` at the end of the message.
    #[inline(always)]
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        let start = self.at;
        if start >= self.bytes.len() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let mut body = self.at;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = self.varint()?;
                body = self.at;
                let left = self.bytes.len() - body;
                match usize::try_from(len) {
                    Ok(len) if len <= left => self.at += len,
                    _ => return Err(self.fail(start, Fault::Eof)),
                }
                Value::Len(&self.bytes[body..self.at])
            }
            3 => {
                self.skip_group(number, 1)?;
                Value::Group
            }
            4 => return Err(self.fail(start, Fault::Group)),
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(self.fail(start, Fault::WireType(other))),
        };
        Ok(Some(Field { number, value, start, body, end: self.at }))
    }

    #[inline(always)]
    fn tag(&mut self) -> Result<(u32, u8), WireError> {
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).unwrap_or(u32::MAX);
        if number == 0 || number >= 1 << 29 {
            return Err(self.fail(start, Fault::FieldNumber));
        }
        Ok((number, (tag & 7) as u8))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes[self.at.min(self.bytes.len())..] {
            [byte, ..] if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            // Lengths of records.
            [low, high, ..] if high < 0x80 => {
                self.at += 2;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u64, WireError> {
        let start = self.at;
        match read_varint(&self.bytes[start.min(self.bytes.len())..]) {
            Ok((value, len)) => {
                self.at += len;
                Ok(value)
            }
            Err(fault) => Err(self.fail(start, fault)),
        }
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.fail(self.at, Fault::Eof)),
        }
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), WireError> {
        loop {
            let start = self.at;
            let (inner, wire_type) = self.tag()?;
            match wire_type {
                4 if inner == number => return Ok(()),
                3 if depth < MAX_GROUP_DEPTH => self.skip_group(inner, depth + 1)?,
                3 => return Err(self.fail(start, Fault::Depth(MAX_GROUP_DEPTH))),
                _ => {
                    self.at = start;
                    if self.next_field()?.is_none() {
                        return Err(self.fail(start, Fault::Eof));
                    }
                }
            }
        }
    }

    #[cold]
    fn fail(&mut self, offset: usize, what: Fault) -> WireError {
        self.at = self.bytes.len();
        WireError { offset, what }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_field().transpose()
    }
}

/// Reads a varint from the start of `bytes`: its value and its length in bytes.
pub fn read_varint(bytes: &[u8]) -> Result<(u64, usize), Fault> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return Err(Fault::Overflow);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok((value, i + 1));
        }
    }
    Err(Fault::Eof)
}

/// Bytes that a varint takes.
#[inline]
pub fn varint_len(value: u64) -> usize {
    // 7 bits a byte; 0 takes one as well.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a tag.
#[inline]
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Writes a varint field.
pub fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, 0);
    put_varint(out, value);
}

/// Writes a string, bytes or message field.
pub fn put_len_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a fixed64, sfixed64 or double field from its bits.
pub fn put_fixed64_field(out: &mut Vec<u8>, number: u32, bits: u64) {
    put_tag(out, number, 1);
    out.extend_from_slice(&bits.to_le_bytes());
}

/// Writes a fixed32 field.
pub fn put_fixed32_field(out: &mut Vec<u8>, number: u32, value: u32) {
    put_tag(out, number, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a message field whose contents `write` appends; the length is put in afterwards, so
/// nothing is measured beforehand and nothing is allocated for it.
pub fn put_message<R>(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    put_tag(out, number, 2);
    out.push(0);
    let body = out.len();
    let result = write(out);
    let len = out.len() - body;
    let extra = varint_len(len as u64) - 1;
    if extra > 0 {
        // One byte was kept for the length; a longer message moves up.
        out.extend_from_slice(&[0; 9][..extra]);
        out.copy_within(body..body + len, body + extra);
    }
    let mut rest = len;
    for byte in &mut out[body - 1..body + extra] {
        *byte = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
    }
    out[body - 1 + extra] &= 0x7f;
    result
}

/// `sint32` as it is on the wire.
pub fn zigzag(value: i32) -> u64 {
    u64::from(((value << 1) ^ (value >> 31)) as u32)
}

/// `sint32` from the wire.
pub fn unzigzag(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn varints_round_trip_and_know_their_length() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(read_varint(&out), Ok((value, out.len())));
        }
        assert_eq!(read_varint(&[0x80; 10]), Err(Fault::Overflow));
        assert_eq!(read_varint(&[0x80; 9]), Err(Fault::Eof));
        assert_eq!(read_varint(&[]), Err(Fault::Eof));
    }

    #[test]
    fn zigzag_round_trips() {
        for value in [0, -1, 1, i32::MIN, i32::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!(zigzag(-1), 1);
    }

    #[test]
    fn nested_messages_get_their_length_afterwards() {
        for len in [0usize, 1, 127, 128, 16_383, 16_384, 300_000] {
            let body = vec![7; len];
            let (mut nested, mut plain) = (vec![9], vec![9]);
            put_message(&mut nested, 2, |out| out.extend_from_slice(&body));
            put_len_field(&mut plain, 2, &body);
            assert_eq!(nested, plain, "{len}");
        }
    }

    #[test]
    fn every_kind_of_field_with_its_range() {
        let mut out = Vec::new();
        put_varint_field(&mut out, 1, 300);
        put_fixed64_field(&mut out, 2, 7);
        put_len_field(&mut out, 1000, b"abc");
        put_fixed32_field(&mut out, 4, 9);
        // group 5 { 1: 1 }
        out.extend_from_slice(&[0x2b, 0x08, 0x01, 0x2c]);
        let fields: Vec<_> = Fields::new(&out).map(Result::unwrap).collect();
        let values: Vec<_> = fields.iter().map(|f| (f.number, f.value)).collect();
        assert_eq!(
            values,
            [
                (1, Value::Varint(300)),
                (2, Value::Fixed64(7)),
                (1000, Value::Len(b"abc")),
                (4, Value::Fixed32(9)),
                (5, Value::Group)
            ]
        );
        assert_eq!(fields[0].start, 0);
        assert!(fields.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(fields[4].end, out.len());
        assert_eq!(&out[fields[2].body..fields[2].end], b"abc");
    }

    #[test]
    fn what_is_broken_says_where() {
        let fault =
            |bytes: &[u8]| Fields::new(bytes).find_map(Result::err).map(|e| (e.what, e.offset));
        assert_eq!(fault(&[0x08, 0x01, 0x12, 0x05, 1]), Some((Fault::Eof, 2)));
        assert_eq!(fault(&[0x08]), Some((Fault::Eof, 1)));
        assert_eq!(fault(&[0x09, 1, 2]), Some((Fault::Eof, 1)));
        assert_eq!(fault(&[0x0d, 1, 2]), Some((Fault::Eof, 1)));
        assert_eq!(fault(&[0x00, 1]), Some((Fault::FieldNumber, 0)));
        assert_eq!(fault(&[0x0c]), Some((Fault::Group, 0)));
        assert_eq!(fault(&[0x0b, 0x14]), Some((Fault::Group, 1)));
        assert_eq!(fault(&[0x0b, 0x08, 0x01]), Some((Fault::Eof, 3)));
        assert_eq!(fault(&[0x0e]), Some((Fault::WireType(6), 0)));
        assert_eq!(fault(&[0x0b; 5000]), Some((Fault::Depth(100), 100)));
        assert_eq!(
            fault(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Some((Fault::Eof, 0))
        );
        let text = Fields::new(&[0x08]).next().unwrap().unwrap_err().to_string();
        assert_eq!(text, "proto: unexpected EOF at byte 1");
    }
}
