//! gRPC over HTTP/2 as bytes: the message prefix, `grpc-timeout`, `grpc-message`, `-bin` headers.
//!
//! Source: grpc/doc/PROTOCOL-HTTP2.md.

use std::time::Duration;

/// Bytes before each message: compressed flag, then the length as big-endian u32.
pub const PREFIX_LEN: usize = 5;

/// The prefix of a message of `len` bytes.
pub fn prefix(compressed: bool, len: u32) -> [u8; PREFIX_LEN] {
    let [a, b, c, d] = len.to_be_bytes();
    [u8::from(compressed), a, b, c, d]
}

/// Reads a prefix: the flag byte as it is (0 and 1 are defined) and the length.
pub fn parse_prefix(bytes: [u8; PREFIX_LEN]) -> (u8, usize) {
    let [flag, a, b, c, d] = bytes;
    (flag, u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Reads `grpc-timeout`: at most 8 digits and a unit of `HMSmun`.
pub fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Writes `grpc-timeout`, in the finest unit that fits eight digits.
pub fn format_timeout(timeout: Duration) -> String {
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
    ];
    match units.into_iter().find(|(n, _)| *n <= 99_999_999) {
        Some((n, unit)) => format!("{n}{unit}"),
        None => "99999999S".to_owned(),
    }
}

/// Percent-encodes `grpc-message`: printable ASCII but `%` stays as it is.
pub fn encode_message(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

/// Decodes `grpc-message`; what is not a valid escape stays as it is, as the specification asks.
pub fn decode_message(value: &[u8]) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push((hex(*high) << 4) | hex(*low));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes a `-bin` header: base64 without padding.
pub fn encode_bin(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().enumerate().fold(0u32, |acc, (i, b)| acc | u32::from(*b) << (16 - 8 * i));
        for i in 0..=chunk.len() {
            out.push(char::from(BASE64[(group >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

/// Decodes a `-bin` header, padded or not; `None` if it is not base64.
pub fn decode_bin(value: &[u8]) -> Option<Vec<u8>> {
    let mut end = value.len();
    while end > 0 && value.len() - end < 2 && value[end - 1] == b'=' {
        end -= 1;
    }
    let mut out = Vec::with_capacity(end * 3 / 4);
    for chunk in value[..end].chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut group = 0u32;
        for (i, byte) in chunk.iter().enumerate() {
            group |= u32::try_from(BASE64.iter().position(|b| b == byte)?).ok()? << (18 - 6 * i);
        }
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prefix_round_trip() {
        assert_eq!(prefix(true, 258), [1, 0, 0, 1, 2]);
        assert_eq!(parse_prefix([1, 0, 0, 1, 2]), (1, 258));
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "S", "5", "5x", "123456789S", "-5S", "5é", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
        for secs in [0, 1, 5, 100, 100_000, 1 << 40] {
            let text = format_timeout(Duration::from_secs(secs));
            assert_eq!(
                parse_timeout(&text),
                Some(Duration::from_secs(secs.min(99_999_999))),
                "{text}"
            );
        }
    }

    #[test]
    fn messages_survive_headers() {
        for message in ["plain", "100 % sure", "größer\n日本", ""] {
            let encoded = encode_message(message);
            assert!(encoded.bytes().all(|b| (b' '..=b'~').contains(&b)));
            assert_eq!(decode_message(encoded.as_bytes()), message);
        }
        assert_eq!(decode_message(b"50%"), "50%");
        assert_eq!(decode_message(b"%zz%4"), "%zz%4");
    }

    #[test]
    fn bin_headers_survive() {
        for len in 0..50u8 {
            let bytes: Vec<u8> = (0..len).map(|b| b.wrapping_mul(37)).collect();
            let encoded = encode_bin(&bytes);
            assert_eq!(decode_bin(encoded.as_bytes()).unwrap(), bytes);
            let padded = format!("{encoded}{}", "=".repeat((4 - encoded.len() % 4) % 4));
            assert_eq!(decode_bin(padded.as_bytes()).unwrap(), bytes);
        }
        assert_eq!(encode_bin(b"hello"), "aGVsbG8");
        assert_eq!(decode_bin(b"a"), None);
        assert_eq!(decode_bin(b"a*=="), None);
        assert_eq!(decode_bin(b"===="), None);
    }
}
