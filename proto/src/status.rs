//! `google.rpc.Status`, gRPC codes, `RetryInfo`, and how they map between gRPC and HTTP.
//!
//! Sources: the OTLP specification's "Failures" and "Throttling" sections; the Collector's
//! `internal/statusutil` and `receiver/otlpreceiver/internal/errors`.

use std::time::Duration;

use bytes::Bytes;

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
