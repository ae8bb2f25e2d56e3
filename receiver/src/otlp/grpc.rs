//! OTLP/gRPC on HTTP/2 with raw bytes: one unary method per signal.
//!
//! Source: grpc/doc/PROTOCOL-HTTP2.md; texts and codes as grpc-go answers.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tapio_proto::{
    Accepted, Code, Outcome, Signal, Status, encode_response,
    transport::{Compression, DecompressError, grpc},
};

use super::{
    Limit, Transport,
    body::{BodyError, Message, Reader, Unpacking},
    intake::{Counted, Intake},
    metadata,
};
use crate::{
    auth::{Attributes, Authenticator},
    net::{Handler, Reply},
};

/// For a whole message to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const CONTENT_TYPE_PROTO: HeaderValue = HeaderValue::from_static("application/grpc+proto");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("identity,gzip,zstd,snappy");
/// Longest `grpc-message` and `grpc-status-details-bin` as they are sent: headers have to fit the
/// 8 KiB that peers commonly accept.
const MAX_MESSAGE: usize = 1024;
const MAX_DETAILS: usize = 5120;

/// The gRPC door.
pub(super) struct Grpc {
    pub(super) intake: Arc<Intake>,
    /// Largest message, in bytes, compressed or not.
    pub(super) max_message: usize,
    pub(super) auth: Option<Arc<dyn Authenticator>>,
    pub(super) include_metadata: bool,
}

impl Handler for Grpc {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
    ) -> Response<Reply> {
        if request.method() != Method::POST {
            let method = request.method();
            let message =
                format!("Received a HEADERS frame with :method \"{method}\" which should be POST");
            let status = Status::new(Code::Internal, message);
            return with_http(StatusCode::METHOD_NOT_ALLOWED, status);
        }
        let Some(content_type) = content_type(request.headers()) else {
            let told = request.headers().get(header::CONTENT_TYPE);
            let told =
                told.map_or(Default::default(), |told| String::from_utf8_lossy(told.as_bytes()));
            let status = invalid(format!("invalid gRPC request content-type {told:?}"));
            return with_http(StatusCode::UNSUPPORTED_MEDIA_TYPE, status);
        };
        let mut response = self.call(request, peer).await;
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    fn limited(&self, limit: Limit) {
        self.intake.limited(Transport::Grpc, limit);
    }
}

impl Grpc {
    async fn call(&self, request: Request<Incoming>, peer: Option<IpAddr>) -> Response<Reply> {
        let path = request.uri().path();
        let signal = Signal::ALL.into_iter().find(|signal| signal.grpc_path() == path);
        let Some(signal) = signal.filter(|signal| self.intake.serves(*signal)) else {
            return respond(None, Err(self.unknown(path)));
        };
        let call = self.intake.call(signal);
        let attributes = match self.authenticate(request.headers()).await {
            Ok(attributes) => attributes,
            Err(status) => {
                let refused = Err(status);
                call.ended(&refused);
                return respond(Some(signal), refused);
            }
        };
        let counted = self.intake.counted(signal, Transport::Grpc);
        let outcome = match deadline(request.headers()) {
            Ok(None) => self.export(counted, request, attributes, peer).await,
            Ok(Some(Duration::ZERO)) => Err(out_of_time()),
            Ok(Some(limit)) => {
                let export = self.export(counted, request, attributes, peer);
                let outcome = self.intake.timer(limit).limit(export).await;
                outcome.unwrap_or_else(|| Err(out_of_time()))
            }
            Err(status) => {
                call.was_none();
                return with_http(StatusCode::BAD_REQUEST, status);
            }
        };
        call.ended(&outcome);
        respond(Some(signal), outcome)
    }

    fn unknown(&self, path: &str) -> Status {
        let message = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
            None => format!("malformed method name: {path:?}"),
            Some((service, method)) => {
                let of = |signal: &Signal| signal.grpc_path()[1..].strip_suffix("/Export");
                let served = Signal::ALL.into_iter().filter(|signal| self.intake.serves(*signal));
                match served.into_iter().any(|signal| of(&signal) == Some(service)) {
                    true => format!("unknown method {method} for service {service}"),
                    false => format!("unknown service {service}"),
                }
            }
        };
        Status::new(Code::Unimplemented, message)
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Attributes, Status> {
        let Some(auth) = &self.auth else { return Ok(Attributes::new()) };
        auth.authenticate(headers).await.map_err(|text| {
            self.limited(Limit::Auth);
            Status::new(Code::Unauthenticated, text)
        })
    }

    async fn export(
        &self,
        mut counted: Counted<'_>,
        request: Request<Incoming>,
        attributes: Attributes,
        peer: Option<IpAddr>,
    ) -> Outcome {
        let (parts, body) = request.into_parts();
        let metadata = metadata(self.include_metadata, &parts.headers, attributes, peer);
        match self.message(counted.signal(), body, parts.headers.get("grpc-encoding")).await {
            Ok(message) => counted.consume(message, metadata).await,
            Err(status) => {
                match status.code {
                    Code::Unavailable => {
                        counted.refused();
                        self.limited(Limit::Room);
                    }
                    Code::ResourceExhausted => self.limited(Limit::Size),
                    Code::DeadlineExceeded => self.limited(Limit::Body),
                    _ => {}
                }
                Err(status)
            }
        }
    }

    /// Reads the one message of a unary request, decompressed unless nobody wants to look into it.
    async fn message(
        &self,
        signal: Signal,
        body: Incoming,
        encoding: Option<&HeaderValue>,
    ) -> Result<Message, Status> {
        let limit = grpc::PREFIX_LEN + self.max_message;
        let mut reader = Reader::new(body, limit, Some(BODY_LIMIT), &self.intake, None);
        let first = first_bytes(&mut reader).await?;
        let (flag, len) = match first.first_chunk() {
            Some(prefix) => grpc::parse_prefix(*prefix),
            None if first.is_empty() => return Err(invalid("the request carries no message")),
            None => return Err(invalid("unexpected EOF in the message prefix")),
        };
        let compression = compression(flag, encoding)?;
        if len > self.max_message {
            return Err(self.too_large(len));
        }
        let read = reader.rest(first, grpc::PREFIX_LEN + len).await;
        let mut message = read.map_err(|error| match error {
            // The sender announced less than it sent.
            BodyError::TooLarge { .. } => invalid("more than one message in a unary request"),
            error => broken(error),
        })?;
        message.bytes.advance(grpc::PREFIX_LEN);
        let arrived = message.bytes.len();
        if arrived < len {
            return Err(invalid(format!("unexpected EOF: {arrived} of {len} bytes arrived")));
        }
        if arrived > len {
            return Err(invalid("more than one message in a unary request"));
        }
        if self.intake.passes_closed(signal, compression) {
            return Ok(message.closed(compression));
        }
        message.decompressed(compression, self.max_message).await.map_err(|error| match error {
            Unpacking::NoRoom(error) => error.into(),
            Unpacking::Decompress(DecompressError::TooLarge { limit }) => Status::new(
                Code::ResourceExhausted,
                format!("grpc: received message after decompression larger than max {limit}"),
            ),
            Unpacking::Decompress(error) => {
                invalid(format!("grpc: failed to decompress the message: {error}"))
            }
        })
    }

    fn too_large(&self, len: usize) -> Status {
        let max = self.max_message;
        let message = format!("grpc: received message larger than max ({len} vs. {max})");
        Status::new(Code::ResourceExhausted, message)
    }
}

/// The first bytes of the body, at least a whole prefix if there is one.
async fn first_bytes(reader: &mut Reader<'_>) -> Result<Bytes, Status> {
    let Some(first) = reader.next().await.map_err(broken)? else {
        return Ok(Bytes::new());
    };
    if first.len() >= grpc::PREFIX_LEN {
        return Ok(first);
    }
    let mut bytes = BytesMut::from(&first[..]);
    while bytes.len() < grpc::PREFIX_LEN {
        match reader.next().await.map_err(broken)? {
            Some(more) => bytes.put(more),
            None => break,
        }
    }
    Ok(bytes.freeze())
}

fn compression(flag: u8, encoding: Option<&HeaderValue>) -> Result<Compression, Status> {
    let name = encoding.map_or("", |value| value.to_str().unwrap_or("?"));
    match (flag, Compression::from_grpc_name(name)) {
        (_, None) => Err(Status::new(
            Code::Unimplemented,
            format!("grpc: Decompressor is not installed for grpc-encoding {name:?}"),
        )),
        (0, _) => Ok(Compression::None),
        (1, Some(Compression::None)) => Err(Status::new(
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        )),
        (1, Some(compression)) => Ok(compression),
        _ => Err(Status::new(
            Code::Internal,
            format!("grpc: received unexpected payload format {flag}"),
        )),
    }
}

fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("?");
    grpc::parse_timeout(text).map(Some).ok_or_else(|| {
        let why = match text.len() {
            0 | 1 => "timeout string is too short",
            2..=9 => "timeout unit is not recognized",
            _ => "timeout string is too long",
        };
        let message = format!("malformed grpc-timeout: transport: {why}: {text:?}");
        Status::new(Code::Internal, message)
    })
}

/// The content type of the answer, if the request's is gRPC with protobuf.
fn content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let rest = value.strip_prefix("application/grpc")?;
    let (answer, rest) = match rest.strip_prefix("+proto") {
        Some(rest) => (CONTENT_TYPE_PROTO, rest),
        None => (CONTENT_TYPE, rest),
    };
    (rest.is_empty() || rest.starts_with(';')).then_some(answer)
}

fn out_of_time() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn broken(error: BodyError) -> Status {
    match error {
        BodyError::Slow(_) => Status::new(Code::DeadlineExceeded, error.to_string()),
        BodyError::NoRoom(error) => error.into(),
        error => invalid(error.to_string()),
    }
}

// === responses ===

/// For what is no gRPC at all, HTTP's status beside gRPC's.
fn with_http(http: StatusCode, status: Status) -> Response<Reply> {
    let mut response = respond(None, Err(status));
    *response.status_mut() = http;
    response
}

/// A success carries a message and trailers; a failure is "trailers only", in the headers.
fn respond(signal: Option<Signal>, outcome: Result<Accepted, Status>) -> Response<Reply> {
    let mut reply = Reply::default();
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    match (signal, outcome) {
        (Some(signal), Ok(accepted)) => {
            let message = encode_response(signal, &accepted);
            let mut data = BytesMut::with_capacity(grpc::PREFIX_LEN + message.len());
            data.put_slice(&grpc::prefix(false, u32::try_from(message.len()).unwrap_or(u32::MAX)));
            data.put(message);
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            reply = Reply { data: Some(data.freeze()), trailers: Some(trailers) };
        }
        (None, Ok(_)) => {
            headers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        (_, Err(status)) => {
            if status.code == Code::Unimplemented {
                // Who compresses in a way that is unknown here is told what else there is.
                headers.insert("grpc-accept-encoding", ACCEPT_ENCODING);
            }
            status_headers(&status, &mut headers);
        }
    }
    let mut response = Response::new(reply);
    *response.headers_mut() = headers;
    response
}

fn status_headers(status: &Status, headers: &mut HeaderMap) {
    headers.insert("grpc-status", HeaderValue::from(status.code as i32));
    let message = fitting(&status.message);
    if let Ok(value) = HeaderValue::try_from(grpc::encode_message(message)) {
        headers.insert("grpc-message", value);
    }
    if status.retry_after.is_none() && status.raw.is_empty() {
        return;
    }
    let mut details = grpc::encode_bin(&status.encode());
    if details.len() > MAX_DETAILS {
        // Details that do not fit are left out but for the wait, which the sender acts upon.
        let short = Status { raw: Bytes::new(), message: message.to_owned(), ..status.clone() };
        details = grpc::encode_bin(&short.encode());
    }
    if let Ok(value) = HeaderValue::try_from(details) {
        headers.insert("grpc-status-details-bin", value);
    }
}

/// As much of a text as fits `grpc-message`, in which most of what is not ASCII takes three times
/// its bytes.
fn fitting(text: &str) -> &str {
    let mut room = MAX_MESSAGE;
    for (at, c) in text.char_indices() {
        let cost = match c {
            ' '..='~' if c != '%' => 1,
            _ => 3 * c.len_utf8(),
        };
        if cost > room {
            return &text[..at];
        }
        room -= cost;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_any_script_fits_the_headers() {
        for text in ["日本語の長い説明。".repeat(200), "100 % ".repeat(1000), "x".repeat(9000)]
        {
            let mut status = Status::new(Code::Unavailable, text.clone());
            status.retry_after = Some(Duration::from_secs(3));
            let mut headers = HeaderMap::new();
            status_headers(&status, &mut headers);
            let size: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
            assert!(size < 7 << 10, "{size}");
            let told = grpc::decode_message(headers["grpc-message"].as_bytes());
            assert!(text.starts_with(&told) && told.len() > 300, "{told}");
            let details = grpc::decode_bin(headers["grpc-status-details-bin"].as_bytes()).unwrap();
            assert_eq!(Status::decode(&details).unwrap().retry_after, status.retry_after);
        }
    }

    #[test]
    fn only_protobuf_is_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpcweb", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(content_type(&headers).is_some(), expected, "{value}");
        }
    }
}
