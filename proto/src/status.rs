//! `google.rpc.Status`, gRPC codes, `RetryInfo`, and how they map between gRPC and HTTP.
//!
//! Sources: the OTLP specification's "Failures" and "Throttling" sections; the Collector's
//! `internal/statusutil` and `receiver/otlpreceiver/internal/errors`; googleapis
//! `google/rpc/{status,error_details}.proto`.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use crate::wire::{Fields, Value, WireError, put_len_field, put_message, put_varint_field};

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A gRPC status code (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// Why a request was refused; what the sender is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The code that the sender sees over gRPC; over HTTP it is mapped by [`Status::http`].
    pub code: Code,
    /// Text for a person.
    pub message: String,
    /// How long the sender should wait before it tries again (`google.rpc.RetryInfo`).
    pub retry_after: Option<Duration>,
    /// The serialized `google.rpc.Status` of the backend, kept so that details we do not know
    /// reach the sender; empty when the status is our own.
    pub raw: Bytes,
}

impl Code {
    /// Every code, at the index of its number.
    const ALL: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// From the number; one that is not defined is [`Code::Unknown`], as gRPC asks.
    pub fn from_i32(number: i32) -> Self {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        Self::ALL.get(index).copied().unwrap_or(Code::Unknown)
    }

    /// From an HTTP status whose body told nothing better (the Collector's `statusutil`).
    pub fn from_http(status: u16) -> Self {
        match status {
            200..=299 => Code::Ok,
            400 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 => Code::ResourceExhausted,
            502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        }
    }

    /// The HTTP status that says the same (the Collector's `GetHTTPStatusCodeFromStatus`).
    pub fn http(self) -> u16 {
        match self {
            Code::Ok => 200,
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => 503,
            Code::ResourceExhausted => 429,
            Code::InvalidArgument => 400,
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::Unimplemented => 404,
            _ => 500,
        }
    }
}

impl Status {
    /// A status of our own.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), retry_after: None, raw: Bytes::new() }
    }

    /// The request is wrong, and will be wrong the next time.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Status::new(Code::InvalidArgument, message)
    }

    /// Not now; the sender should try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Status::new(Code::Unavailable, message)
    }

    /// Too much or too large; to be tried again only [after a while](Status::with_retry_after).
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Status::new(Code::ResourceExhausted, message)
    }

    /// Nobody here takes this signal.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Status::new(Code::Unimplemented, message)
    }

    /// Our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Status::new(Code::Internal, message)
    }

    /// The same with a time to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// May the sender try again? The OTLP specification's table of gRPC codes.
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }

    /// The HTTP status for an HTTP sender.
    pub fn http(&self) -> u16 {
        self.code.http()
    }

    /// `google.rpc.Status` in protobuf: the backend's own where there is one.
    pub fn encode(&self) -> Bytes {
        if !self.raw.is_empty() {
            return self.raw.clone();
        }
        let mut out = Vec::with_capacity(self.message.len() + 64);
        if self.code != Code::Ok {
            put_varint_field(&mut out, 1, self.code as u64);
        }
        if !self.message.is_empty() {
            put_len_field(&mut out, 2, self.message.as_bytes());
        }
        if let Some(wait) = self.retry_after {
            put_message(&mut out, 3, |any| {
                put_len_field(any, 1, RETRY_INFO.as_bytes());
                put_message(any, 2, |info| put_message(info, 1, |out| put_duration(out, wait)));
            });
        }
        out.into()
    }

    /// Reads a `google.rpc.Status`; keeps its bytes so that it can be passed on whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut status = Status::new(Code::Ok, "");
        for field in Fields::new(bytes) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Varint(code)) => status.code = Code::from_i32(code as i32),
                (2, Value::Len(text)) => {
                    status.message = String::from_utf8_lossy(text).into_owned()
                }
                (3, Value::Len(any)) => {
                    if let Some(wait) = retry_info(any)? {
                        status.retry_after = Some(wait);
                    }
                }
                _ => {}
            }
        }
        status.raw = Bytes::copy_from_slice(bytes);
        Ok(status)
    }

    /// `google.rpc.Status` as JSON. Details other than `RetryInfo` cannot be said in JSON by one who
    /// does not know their types; they are left out.
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        object.insert("code".to_owned(), Json::from(self.code as i32));
        object.insert("message".to_owned(), Json::from(self.message.as_str()));
        if let Some(wait) = self.retry_after {
            let delay = match wait.subsec_nanos() {
                0 => format!("{}s", wait.as_secs()),
                nanos => format!("{}.{nanos:09}s", wait.as_secs()),
            };
            object
                .insert("details".to_owned(), json!([{"@type": RETRY_INFO, "retryDelay": delay}]));
        }
        Json::Object(object).to_string()
    }

    /// Reads the JSON form; `None` if it is not one.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let json: Json = serde_json::from_slice(text).ok()?;
        let object = json.as_object()?;
        let code = match object.get("code") {
            None => 0,
            Some(code) => i32::try_from(code.as_i64()?).unwrap_or(-1),
        };
        let message = object.get("message").and_then(Json::as_str).unwrap_or_default();
        let mut status = Status::new(Code::from_i32(code), message);
        let details = object.get("details").and_then(Json::as_array);
        status.retry_after = details.into_iter().flatten().find_map(|detail| {
            (detail.get("@type")?.as_str()? == RETRY_INFO).then_some(())?;
            let seconds: f64 =
                detail.get("retryDelay")?.as_str()?.strip_suffix('s')?.parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        });
        Some(status)
    }
}

fn put_duration(out: &mut Vec<u8>, wait: Duration) {
    if wait.as_secs() > 0 {
        put_varint_field(out, 1, wait.as_secs());
    }
    if wait.subsec_nanos() > 0 {
        put_varint_field(out, 2, u64::from(wait.subsec_nanos()));
    }
}

/// The delay in a `google.protobuf.Any`, if it is a `RetryInfo`.
fn retry_info(any: &[u8]) -> Result<Option<Duration>, WireError> {
    let (mut kind, mut body) = (&b""[..], &b""[..]);
    for field in Fields::new(any) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Len(text)) => kind = text,
            (2, Value::Len(bytes)) => body = bytes,
            _ => {}
        }
    }
    if kind != RETRY_INFO.as_bytes() {
        return Ok(None);
    }
    let mut wait = Duration::ZERO;
    for field in Fields::new(body) {
        let field = field?;
        if let (1, Value::Len(duration)) = (field.number, field.value) {
            wait = read_duration(duration)?;
        }
    }
    Ok(Some(wait))
}

/// `google.protobuf.Duration`; a negative one is no wait.
fn read_duration(bytes: &[u8]) -> Result<Duration, WireError> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    for field in Fields::new(bytes) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Varint(value)) => seconds = value as i64,
            (2, Value::Varint(value)) => nanos = value as i64,
            _ => {}
        }
    }
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(u64::try_from(seconds).unwrap_or(0), nanos))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_status_survives_protobuf_and_json() {
        let full =
            Status::resource_exhausted("too much").with_retry_after(Duration::from_millis(1_250));
        for status in [full, Status::unavailable("größer"), Status::new(Code::Ok, "")] {
            let bytes = status.encode();
            let back = Status::decode(&bytes).unwrap();
            assert_eq!(Status { raw: Bytes::new(), ..back.clone() }, status);
            assert_eq!(back.encode(), bytes);
            assert_eq!(Status::from_json(status.to_json().as_bytes()), Some(status));
        }
    }

    #[test]
    fn the_bytes_are_those_of_googleapis() {
        let status = Status::unavailable("no").with_retry_after(Duration::from_secs(5));
        let mut want = b"\x08\x0e\x12\x02no\x1a\x30\x0a\x28".to_vec();
        want.extend_from_slice(RETRY_INFO.as_bytes());
        want.extend_from_slice(b"\x12\x04\x0a\x02\x08\x05");
        assert_eq!(status.encode(), want);
        assert_eq!(
            status.to_json(),
            r#"{"code":14,"message":"no","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"5s"}]}"#
        );
        assert_eq!(Status::invalid_argument("bad").to_json(), r#"{"code":3,"message":"bad"}"#);
    }

    #[test]
    fn details_we_do_not_know_are_passed_on() {
        let mut bytes = Status::unavailable("x").encode().to_vec();
        put_message(&mut bytes, 3, |any| {
            put_len_field(any, 1, b"type.googleapis.com/google.rpc.DebugInfo")
        });
        let status = Status::decode(&bytes).unwrap();
        assert_eq!((status.code, status.retry_after), (Code::Unavailable, None));
        assert_eq!(status.encode(), bytes);
    }

    #[test]
    fn codes_between_grpc_and_http() {
        let grpc =
            [200, 503, 500, 400, 503, 500, 500, 403, 429, 500, 503, 503, 404, 500, 503, 503, 401];
        for (number, http) in (0..).zip(grpc) {
            assert_eq!(Code::from_i32(number) as i32, number);
            assert_eq!(Code::from_i32(number).http(), http, "{number}");
        }
        assert_eq!(Code::from_i32(17), Code::Unknown);
        assert_eq!(Code::from_i32(-1), Code::Unknown);
        for (http, code) in [
            (400, 3),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 8),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
            (409, 2),
        ] {
            assert_eq!(Code::from_http(http) as i32, code, "{http}");
        }
    }

    #[test]
    fn what_may_be_tried_again() {
        let retryable: Vec<i32> =
            (0..17).filter(|n| Status::new(Code::from_i32(*n), "").is_retryable()).collect();
        assert_eq!(retryable, [1, 4, 10, 11, 14, 15]);
        assert!(Status::resource_exhausted("").with_retry_after(Duration::ZERO).is_retryable());
    }

    #[test]
    fn hostile_statuses_are_read_or_refused() {
        let mut negative = Vec::new();
        put_message(&mut negative, 3, |any| {
            put_len_field(any, 1, RETRY_INFO.as_bytes());
            put_message(any, 2, |info| {
                put_message(info, 1, |d| {
                    put_varint_field(d, 1, -5i64 as u64);
                    put_varint_field(d, 2, u64::MAX);
                });
            });
        });
        assert_eq!(Status::decode(&negative).unwrap().retry_after, Some(Duration::ZERO));
        assert!(Status::decode(b"\x0a").is_err());
        for text in ["", "[]", "{", r#"{"code":"x"}"#] {
            assert_eq!(Status::from_json(text.as_bytes()), None, "{text}");
        }
        let odd = r#"{"code":99999999999,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"-1s"}]}"#;
        assert_eq!(Status::from_json(odd.as_bytes()), Some(Status::new(Code::Unknown, "")));
    }
}
