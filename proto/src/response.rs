//! `Export<Signal>ServiceResponse`: the answer to a request that was taken.
//!
//! The four responses have one shape: `partial_success` (1) with the number of rejected items (1)
//! and `error_message` (2); only the JSON name of the number tells them apart.

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use crate::{
    hop::{Accepted, PartialSuccess},
    signal::Signal,
    wire::{Fields, Value, WireError, put_len_field, put_message, put_varint_field},
};

/// Longest `error_message` that is passed on, bytes. The specification bounds a response at 4 MiB.
const MAX_MESSAGE: usize = 64 << 10;

/// The response in protobuf. Full success is an empty `partial_success`, as the Collector answers.
pub fn encode_response(_: Signal, accepted: &Accepted) -> Bytes {
    let Some(partial) = &accepted.partial else { return Bytes::from_static(&[0x0a, 0x00]) };
    let mut out = Vec::with_capacity(partial.message.len().min(MAX_MESSAGE) + 16);
    put_message(&mut out, 1, |out| {
        if partial.rejected != 0 {
            put_varint_field(out, 1, partial.rejected as u64);
        }
        if !partial.message.is_empty() {
            put_len_field(out, 2, cut(&partial.message).as_bytes());
        }
    });
    out.into()
}

/// Reads a response. Nothing rejected and no message is full success (specification, S7).
pub fn decode_response(bytes: &[u8]) -> Result<Accepted, WireError> {
    let mut partial = PartialSuccess::default();
    for field in Fields::new(bytes) {
        let field = field?;
        let (1, Value::Len(inner)) = (field.number, field.value) else { continue };
        for field in Fields::new(inner) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(rejected)) => partial.rejected = rejected as i64,
                (2, Value::Len(text)) => {
                    partial.message = String::from_utf8_lossy(text).into_owned()
                }
                _ => {}
            }
        }
    }
    Ok(accepted(partial))
}

/// The response in JSON: `{"partialSuccess":{}}` is full success, as the Collector answers.
pub fn response_to_json(signal: Signal, accepted: &Accepted) -> String {
    let mut inner = Map::new();
    if let Some(partial) = &accepted.partial {
        if partial.rejected != 0 {
            // 64-bit integers are strings in proto3 JSON.
            inner
                .insert(rejected_name(signal).to_owned(), Json::from(partial.rejected.to_string()));
        }
        if !partial.message.is_empty() {
            inner.insert("errorMessage".to_owned(), Json::from(cut(&partial.message)));
        }
    }
    let mut outer = Map::new();
    outer.insert("partialSuccess".to_owned(), Json::Object(inner));
    Json::Object(outer).to_string()
}

/// Reads the JSON form, whatever the signal; `None` if it is not JSON.
pub fn response_from_json(text: &[u8]) -> Option<Accepted> {
    let json: Json = serde_json::from_slice(text).ok()?;
    let Some(inner) = json.as_object()?.get("partialSuccess").and_then(Json::as_object) else {
        return Some(Accepted::default());
    };
    let rejected =
        Signal::ALL.iter().find_map(|signal| match inner.get(rejected_name(*signal))? {
            Json::String(text) => text.parse().ok(),
            number => number.as_i64(),
        });
    let message = inner.get("errorMessage").and_then(Json::as_str).unwrap_or_default().to_owned();
    Some(accepted(PartialSuccess { rejected: rejected.unwrap_or(0), message }))
}

fn accepted(partial: PartialSuccess) -> Accepted {
    Accepted { partial: (partial != PartialSuccess::default()).then_some(partial) }
}

fn rejected_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
        Signal::Profiles => "rejectedProfiles",
    }
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn responses_survive_both_encodings() {
        let partial = |rejected, message: &str| Accepted {
            partial: Some(PartialSuccess { rejected, message: message.to_owned() }),
        };
        for signal in Signal::ALL {
            for answer in [
                Accepted::default(),
                partial(7, "seven \"bad\""),
                partial(0, "old SDK"),
                partial(i64::MAX, ""),
            ] {
                assert_eq!(decode_response(&encode_response(signal, &answer)), Ok(answer.clone()));
                assert_eq!(
                    response_from_json(response_to_json(signal, &answer).as_bytes()),
                    Some(answer)
                );
            }
        }
    }

    #[test]
    fn full_success_is_the_collectors() {
        assert_eq!(encode_response(Signal::Traces, &Accepted::default()), &[0x0a, 0x00][..]);
        assert_eq!(
            response_to_json(Signal::Logs, &Accepted::default()),
            r#"{"partialSuccess":{}}"#
        );
        assert_eq!(decode_response(b""), Ok(Accepted::default()));
        assert_eq!(response_from_json(b"{}"), Some(Accepted::default()));
        let warning =
            Accepted { partial: Some(PartialSuccess { rejected: 3, message: "no".to_owned() }) };
        assert_eq!(
            response_to_json(Signal::Metrics, &warning),
            r#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"no"}}"#
        );
    }

    #[test]
    fn what_is_no_response_is_refused() {
        assert!(decode_response(b"\x0a\x05").is_err());
        assert_eq!(response_from_json(b"nope"), None);
        assert_eq!(response_from_json(b"[1]"), None);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = Accepted {
            partial: Some(PartialSuccess { rejected: 1, message: "ü".repeat(MAX_MESSAGE) }),
        };
        let bytes = encode_response(Signal::Traces, &long);
        let message = decode_response(&bytes).unwrap().partial.unwrap().message;
        assert_eq!(message.len(), MAX_MESSAGE);
    }
}
