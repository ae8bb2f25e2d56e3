//! OTLP/gRPC client on HTTP/2 with raw bytes: one connection, kept, requests side by side.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut, buf::Chain};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tapio_proto::{
    Accepted, Code, Consumer, Outcome, Pending, Request, Signal, Status, decode_response,
    transport::{Compression, grpc},
};
use tokio::time::{Instant, timeout};

use super::{OtlpGrpcConfig, client_auth, config::Keepalive};
use crate::{
    net::{ClientAuth, ConfigError, Connector, Endpoint, Gathered, Proxy, USER_AGENT, header_map},
    send::Observer,
};

/// Windows for what the backend sends: answers are small.
const WINDOW: u32 = 1 << 20;
/// Largest answer that is read (OTLP specification: 4 MiB recommended).
const MAX_RESPONSE: usize = 4 << 20;
/// Between attempts to connect: doubled from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// A connection on which this many requests in a row got no answer is given up: the peer may be
/// gone without a word (a node that died), and TCP would notice after a quarter of an hour.
const SILENT: u32 = 2;
/// Backends take more frequent pings for an attack.
const MIN_PING: Duration = Duration::from_secs(10);

/// Sends requests to one backend.
pub(super) struct GrpcClient {
    connector: Connector,
    keepalive: Option<Keepalive>,
    auth: Option<Arc<dyn ClientAuth>>,
    observer: Arc<dyn Observer>,
    compression: Compression,
    /// For one attempt, if there is a limit.
    timeout: Option<Duration>,
    headers: HeaderMap,
    uris: [Uri; Signal::ALL.len()],
    channel: tokio::sync::Mutex<Channel>,
    silent: AtomicU32,
    /// The last failure to connect, for those who come while the next attempt is not yet due.
    trouble: Mutex<String>,
}

#[derive(Default)]
struct Channel {
    sender: Option<SendRequest<Message>>,
    failures: u32,
    next_attempt: Option<Instant>,
}

/// A gRPC message as a body: prefix and message leave together and the message is not copied.
struct Message(Option<Chain<Bytes, Bytes>>);

impl GrpcClient {
    pub(super) fn new(
        config: &OtlpGrpcConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::grpc(&config.endpoint, config.tls.insecure)?;
        let authority = config.authority.clone().unwrap_or_else(|| endpoint.host_header.clone());
        let uri = |signal: Signal| {
            let url = format!("{}://{authority}{}", endpoint.scheme(), signal.grpc_path());
            url.parse::<Uri>().map_err(|_| {
                ConfigError::new("authority", format!("{authority:?} is no host or host:port"))
            })
        };
        let [traces, metrics, logs, profiles] = Signal::ALL.map(uri);
        let uris = [traces?, metrics?, logs?, profiles?];
        let compression = match config.compression {
            Compression::Snappy => Compression::SnappyFramed,
            Compression::None | Compression::Gzip | Compression::Zstd => config.compression,
            _ => {
                let why = "gRPC knows gzip, snappy, zstd and none";
                return Err(ConfigError::new("compression", why));
            }
        };
        let agent = config.user_agent.as_deref().unwrap_or(USER_AGENT);
        let mut headers = header_map(&config.headers)?;
        let agent = HeaderValue::try_from(agent)
            .map_err(|_| ConfigError::new("user_agent", "holds a control character"))?;
        headers.insert(header::USER_AGENT, agent);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let accept = HeaderValue::from_static("identity,gzip,zstd,snappy");
        headers.insert("grpc-accept-encoding", accept);
        if compression != Compression::None {
            let name = HeaderValue::from_static(compression.grpc_name());
            headers.insert("grpc-encoding", name);
        }
        let timeout = (!config.timeout.is_zero()).then_some(*config.timeout);
        if let Some(timeout) = timeout
            && let Ok(value) = HeaderValue::try_from(grpc::format_timeout(timeout))
        {
            headers.insert("grpc-timeout", value);
        }
        let auth = client_auth(config.auth.as_ref())?;
        if auth.as_ref().is_some_and(|auth| auth.needs_tls()) && !endpoint.tls {
            let why = "grpc: the credentials require transport level security (use grpc.WithTransportCredentials() to set)";
            return Err(ConfigError::new("auth", why));
        }
        let proxy = Proxy::of("", &endpoint, true)?;
        Ok(GrpcClient {
            connector: Connector::new(endpoint, &config.tls, b"h2", proxy)?,
            keepalive: config.keepalive.clone(),
            auth,
            observer,
            compression,
            timeout,
            headers,
            uris,
            channel: tokio::sync::Mutex::new(Channel::default()),
            silent: AtomicU32::new(0),
            trouble: Mutex::new(String::new()),
        })
    }

    async fn export(&self, request: &Request) -> Outcome {
        let compressed = self.compression != Compression::None;
        let body = super::compressed(request, self.compression, None)?;
        let len = u32::try_from(body.len()).map_err(|_| {
            Status::new(Code::InvalidArgument, "the request is larger than gRPC's 4 GiB")
        })?;
        let prefix = Bytes::copy_from_slice(&grpc::prefix(compressed, len));
        let mut message = http::Request::new(Message(Some(prefix.chain(body))));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = self.uris[request.signal as usize].clone();
        *message.headers_mut() = self.headers.clone();
        if let Some(auth) = &self.auth {
            auth.apply(message.headers_mut(), request.metadata.as_deref())?;
        }
        // A connection may turn out to be closed; a request that never left is sent on a new one.
        let mut again = true;
        loop {
            let mut sender = self.sender().await?;
            match sender.try_send_request(message).await {
                Ok(response) => return answer(response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if again => {
                        again = false;
                        message = unsent;
                        self.channel.lock().await.sender = None;
                    }
                    _ => return Err(unavailable(&describe(error.error()))),
                },
            }
        }
    }

    async fn in_time(&self, request: &Request) -> Outcome {
        let Some(limit) = self.timeout else {
            return self.export(request).await;
        };
        if let Ok(outcome) = timeout(limit, self.export(request)).await {
            self.silent.store(0, Ordering::Relaxed);
            return outcome;
        }
        // Whoever holds the lock is opening a new connection already.
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT
            && let Ok(mut channel) = self.channel.try_lock()
        {
            channel.sender = None;
        }
        let backend = self.connector.endpoint.authority();
        let message = format!("{backend} did not answer within {limit:?}");
        Err(Status::new(Code::DeadlineExceeded, message))
    }

    /// The connection, opened if there is none. Only one caller opens, the others wait for it.
    async fn sender(&self) -> Result<SendRequest<Message>, Status> {
        let mut channel = self.channel.lock().await;
        if let Some(sender) = channel.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        channel.sender = None;
        if channel.next_attempt.is_some_and(|at| Instant::now() < at) {
            let trouble = self.trouble.lock().map(|text| text.clone()).unwrap_or_default();
            return Err(unavailable(&trouble));
        }
        match self.connect().await {
            Ok(sender) => {
                *channel = Channel { sender: Some(sender.clone()), ..Channel::default() };
                self.silent.store(0, Ordering::Relaxed);
                Ok(sender)
            }
            Err(error) => {
                let backoff = FIRST_BACKOFF * 2u32.pow(channel.failures.min(8));
                channel.next_attempt = Some(Instant::now() + backoff.min(LAST_BACKOFF));
                channel.failures += 1;
                let trouble = format!("connection error: {error}");
                let status = unavailable(&trouble);
                if let Ok(mut text) = self.trouble.lock() {
                    *text = trouble;
                }
                Err(status)
            }
        }
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Message>> {
        let stream = self.connector.connect().await?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        if let Some(keepalive) = &self.keepalive {
            builder
                .keep_alive_interval((*keepalive.time).max(MIN_PING))
                .keep_alive_while_idle(keepalive.permit_without_stream);
            if !keepalive.timeout.is_zero() {
                builder.keep_alive_timeout(*keepalive.timeout);
            }
        }
        let handshake = builder.handshake(TokioIo::new(Gathered::new(stream)));
        let (sender, connection) = handshake.await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the backend ended");
            }
        });
        Ok(sender)
    }
}

impl Consumer for GrpcClient {
    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            let started = self.observer.measures().then(Instant::now);
            let outcome = self.in_time(&request).await;
            if let Some(started) = started {
                let code = outcome.as_ref().map_or_else(|status| status.code, |_| Code::Ok);
                self.observer.called(request.signal, code, started.elapsed());
            }
            outcome
        })
    }
}

impl Body for Message {
    type Data = Chain<Bytes, Bytes>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

// === answers ===

/// What the backend said. Whatever is not a clear answer may be tried again.
async fn answer(response: http::Response<Incoming>) -> Outcome {
    let (parts, mut body) = response.into_parts();
    if let Some(code) = grpc_code(&parts.headers) {
        return finish(code, &parts.headers, Bytes::new(), None);
    }
    if parts.status != StatusCode::OK {
        let message = format!("unexpected HTTP status code received from server: {}", parts.status);
        return Err(Status::new(code_of_http(parts.status), message));
    }
    let encoding = parts.headers.get("grpc-encoding").cloned();
    let mut data = BytesMut::new();
    let mut whole = true;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| unavailable(&describe(&error)))?.into_data() {
            Ok(piece) if data.len() + piece.len() > MAX_RESPONSE => {
                // What it says is lost, whether it says OK is not.
                data.clear();
                whole = false;
            }
            Ok(piece) if whole => data.extend_from_slice(&piece),
            Ok(_) => {}
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    match grpc_code(&trailers) {
        Some(code) => finish(code, &trailers, data.freeze(), encoding.as_ref()),
        None => Err(unavailable("server closed the stream without sending trailers")),
    }
}

fn finish(code: i32, headers: &HeaderMap, body: Bytes, encoding: Option<&HeaderValue>) -> Outcome {
    if code == 0 {
        return Ok(accepted(body, encoding));
    }
    let code = Code::from_i32(code);
    let message = headers.get("grpc-message").map(|value| grpc::decode_message(value.as_bytes()));
    let message = message.unwrap_or_default();
    let details = headers
        .get("grpc-status-details-bin")
        .and_then(|value| grpc::decode_bin(value.as_bytes()))
        .and_then(|bytes| Status::decode(&bytes).ok())
        .filter(|status| status.code == code);
    Err(details.unwrap_or_else(|| Status::new(code, message)))
}

/// The backend has taken the request; an answer that cannot be read does not change that.
fn accepted(mut body: Bytes, encoding: Option<&HeaderValue>) -> Accepted {
    let Some(prefix) = body.first_chunk().copied() else {
        return Accepted::default();
    };
    let (flag, _) = grpc::parse_prefix(prefix);
    body.advance(grpc::PREFIX_LEN);
    let name = encoding.filter(|_| flag == 1).map_or("", |value| value.to_str().unwrap_or("?"));
    let message = Compression::from_grpc_name(name)
        .and_then(|compression| compression.decompress(body, MAX_RESPONSE).ok());
    match message.map(|message| decode_response(&message)) {
        Some(Ok(accepted)) => accepted,
        _ => {
            tracing::debug!("the backend's answer could not be read; it said OK");
            Accepted::default()
        }
    }
}

fn grpc_code(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// grpc/doc/http-grpc-status-mapping.md
fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

fn unavailable(message: &str) -> Status {
    Status::new(Code::Unavailable, message)
}

/// An error with its causes: hyper's own text is often only "http2 error".
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
