//! What travels through the pipeline: a request as bytes, and what came of it.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{signal::Signal, status::Status, transport::Compression};

/// One `Export<Signal>ServiceRequest`, as the protobuf bytes that came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which signal the bytes are.
    pub signal: Signal,
    /// The serialized message, uncompressed; empty when it is closed. Cloning is a reference count.
    pub bytes: Bytes,
    /// Spans, data points or log records in it; samples are not counted (0 for profiles), nor what is closed.
    pub items: usize,
    /// Who sent it, if the receiver was told to keep that (`include_metadata`, `auth`).
    pub metadata: Option<Arc<Metadata>>,
    /// The message as it came, if it came compressed; see [`Request::compressed`].
    pub came: Option<Arc<Compressed>>,
}

/// A message as it came over the wire.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// How.
    pub compression: Compression,
    /// The compressed message.
    pub body: Bytes,
    /// What it holds: of a request whose bytes are these very ones. Empty when nobody has looked.
    pub message: Bytes,
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
        Request { signal, bytes, items, metadata: None, came: None }
    }

    /// A request that nobody has looked into: only for consumers that take it ([`Consumer::takes_closed`]).
    pub fn closed(signal: Signal, compression: Compression, body: Bytes) -> Self {
        let came = Compressed { compression, body, message: Bytes::new() };
        Request { came: Some(Arc::new(came)), ..Request::new(signal, Bytes::new(), 0) }
    }

    /// How its message is compressed, if that is all there is of it.
    pub fn is_closed(&self) -> Option<Compression> {
        let came = self.came.as_ref()?;
        (self.bytes.is_empty() && came.message.is_empty()).then_some(came.compression)
    }

    /// The message compressed in this way, if it came so and nobody has changed it since: compressing
    /// costs more than all else that a hop does.
    pub fn compressed(&self, compression: Compression) -> Option<&Bytes> {
        let came = self.came.as_ref().filter(|came| came.compression == compression)?;
        // The very same bytes in memory: they are held, so no others can have come to lie there.
        let same =
            came.message.as_ptr() == self.bytes.as_ptr() && came.message.len() == self.bytes.len();
        (same || self.is_closed().is_some()).then_some(&came.body)
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

    /// Whether it also takes requests that are compressed in this way and that nobody has opened: it
    /// neither looks into them nor counts what is in them, and passes them on as they are.
    fn takes_closed(&self, _: Compression) -> bool {
        false
    }

    /// Whether it can merge requests of a signal in this way.
    fn can_batch(&self, _: Signal, _: &Batching) -> CanBatch {
        CanBatch::No
    }

    /// Merges requests of a signal in this way for as long as anybody holds `batching`. Only for who
    /// [`Consumer::can_batch`].
    fn batch(&self, _: Signal, _: &Arc<Batching>) {}
}

/// Whether a consumer can merge requests that it has acknowledged, so that no sender waits for the company
/// of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CanBatch {
    /// It has a queue, and nobody asked otherwise.
    Yes,
    /// It has none, and requests that come one by one do not slow it down.
    Indifferent,
    /// It passes on what comes.
    No,
}

/// How a `batch` processor wants requests to be merged.
pub struct Batching {
    /// A batch leaves after this, however small it is.
    pub timeout: Duration,
    /// Items at which a batch leaves.
    pub min_items: usize,
    /// Items that no batch exceeds.
    pub max_items: usize,
    /// Headers of the sender that requests of one batch have in common.
    pub metadata_keys: Vec<String>,
    /// Is told of each batch that leaves.
    pub observer: Box<dyn BatchObserver>,
}

/// Is told of each batch that leaves, for the Collector's own metrics.
pub trait BatchObserver: Send + Sync + 'static {
    /// Its size, and whether it left because it was full and not because its time was up.
    fn left(&self, items: usize, bytes: usize, full: bool);
}

impl Batching {
    /// Whether another asks for the same.
    pub fn is_like(&self, other: &Batching) -> bool {
        let sizes = |one: &Batching| (one.timeout, one.min_items, one.max_items);
        sizes(self) == sizes(other) && self.metadata_keys == other.metadata_keys
    }
}

impl std::fmt::Debug for Batching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batching")
            .field("timeout", &self.timeout)
            .field("min_items", &self.min_items)
            .field("max_items", &self.max_items)
            .field("metadata_keys", &self.metadata_keys)
            .finish_non_exhaustive()
    }
}

/// A shared consumer; components are wired with these.
pub type Next = Arc<dyn Consumer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_changed_is_still_as_it_came() {
        let message = Bytes::from(vec![1, 2, 3]);
        let body = Bytes::from_static(b"packed");
        let came = Compressed { compression: Compression::Gzip, body, message: message.clone() };
        let request = Request {
            came: Some(Arc::new(came)),
            ..Request::new(Signal::Traces, message.clone(), 1)
        };
        assert_eq!(request.compressed(Compression::Gzip), Some(&Bytes::from_static(b"packed")));
        assert_eq!(request.compressed(Compression::Zstd), None);
        let equal = Request { bytes: Bytes::from(vec![1, 2, 3]), ..request.clone() };
        assert_eq!(equal.compressed(Compression::Gzip), None);
        assert_eq!(equal.is_closed(), None);
        let cut = Request { bytes: message.slice(..2), ..request };
        assert_eq!(cut.compressed(Compression::Gzip), None);
    }

    #[test]
    fn what_is_closed_has_nothing_but_its_body() {
        let body = Bytes::from_static(b"packed");
        let request = Request::closed(Signal::Traces, Compression::Gzip, body.clone());
        assert_eq!(request.compressed(Compression::Gzip), Some(&body));
        assert_eq!(request.compressed(Compression::Zstd), None);
        assert_eq!(request.is_closed(), Some(Compression::Gzip));
        assert_eq!(Request::new(Signal::Traces, Bytes::new(), 0).is_closed(), None);
    }
}
