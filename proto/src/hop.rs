//! What travels through the pipeline: a request as bytes, and what came of it.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc};

use bytes::Bytes;

use crate::{signal::Signal, status::Status};

/// One `Export<Signal>ServiceRequest`, as the protobuf bytes that came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which signal the bytes are.
    pub signal: Signal,
    /// The serialized message, uncompressed. Cloning is a reference count.
    pub bytes: Bytes,
    /// Spans, data points or log records in it; samples are not counted (0 for profiles).
    pub items: usize,
    /// Who sent it, if the receiver was told to keep that (`include_metadata`, `auth`).
    pub metadata: Option<Arc<Metadata>>,
}

/// What a receiver knows about the sender of a request. Bounded by what a head may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The request's headers in their order, names in lower case, repeated names repeated.
    pub headers: Vec<(String, Bytes)>,
    /// What the authenticator says about the sender, such as its `username`.
    pub auth: Vec<(&'static str, String)>,
    /// The other end of the connection.
    pub peer: Option<IpAddr>,
}

/// The next hop took the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Set when the next hop rejected some items, or had a warning. Must not be retried.
    pub partial: Option<PartialSuccess>,
}

/// `Export<Signal>PartialSuccess`; `rejected == 0` with a message is a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    /// Items that the next hop did not take.
    pub rejected: i64,
    /// The next hop's words.
    pub message: String,
}

impl Request {
    /// A request of which only the bytes are known.
    pub fn new(signal: Signal, bytes: Bytes, items: usize) -> Self {
        Request { signal, bytes, items, metadata: None }
    }
}

impl Metadata {
    /// The values of a header; its name in any case.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// What the authenticator says, by its name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.auth.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// What came of a request: taken, or refused with the status that the sender shall see.
pub type Outcome = Result<Accepted, Status>;

/// A request under way.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Anything that takes requests: a processor, an exporter, a fan-out.
///
/// `consume` resolves when the request is somebody else's responsibility: the next hop has
/// acknowledged it, or the queue that was configured to take the risk has taken it.
pub trait Consumer: Send + Sync + 'static {
    /// Takes one request.
    fn consume(&self, request: Request) -> Pending<'_>;
}

/// A shared consumer; components are wired with these.
pub type Next = Arc<dyn Consumer>;
