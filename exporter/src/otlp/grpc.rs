//! OTLP/gRPC client on HTTP/2 with raw bytes: one connection, kept, requests side by side.

use std::{
    future::poll_fn,
    io::Cursor,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut, buf::Chain};
use h2::{Ping, PingPong, RecvStream, SendStream, client::Builder};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tapio_proto::{
    Accepted, Code, Consumer, Outcome, Pending, Request, Signal, Status, decode_response,
    transport::{Compression, grpc},
};
use tapio_receiver::Timers;
use tokio::time::{Instant, sleep, timeout};

use super::{OtlpGrpcConfig, client_auth, config::Keepalive};
use crate::{
    net::{
        ClientAuth, ConfigError, Connector, Endpoint, Gathered, Messages, Proxy, Stream,
        USER_AGENT, header_map,
    },
    send::Observer,
};

/// Windows for what the backend sends: answers are small.
const WINDOW: u32 = 1 << 20;
/// Headers of one answer.
const MAX_HEAD: u32 = 16 << 10;
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
/// For the answer to a ping, unless the configuration says otherwise.
const PING_LIMIT: Duration = Duration::from_secs(20);

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
    timers: Timers,
    /// The last failure to connect, for those who come while the next attempt is not yet due.
    trouble: Mutex<String>,
}

#[derive(Default)]
struct Channel {
    connection: Option<Connection>,
    failures: u32,
    next_attempt: Option<Instant>,
}

/// A gRPC message: prefix and message leave together and the message is not copied.
type Message = Chain<Cursor<[u8; grpc::PREFIX_LEN]>, Bytes>;

/// A connection that is being driven by a task of its own.
#[derive(Clone)]
struct Connection {
    sender: h2::client::SendRequest<Message>,
    messages: Messages,
    requests: Arc<AtomicUsize>,
    ended: Arc<Ended>,
}

/// Streams of requests that have been answered. Whoever lets go of one wakes the connection for nothing, and
/// with it, as the answer wakes another task, a second thread: the connection does so at its next turn.
type Ended = Mutex<Vec<SendStream<Message>>>;

/// A request under way on a connection.
struct Busy(Arc<AtomicUsize>);

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
            timers: Timers::default(),
            trouble: Mutex::new(String::new()),
        })
    }

    async fn export(&self, request: &Request) -> Outcome {
        let compressed = self.compression != Compression::None;
        let body = super::compressed(request, self.compression, None)?;
        let len = u32::try_from(body.len()).map_err(|_| {
            Status::new(Code::InvalidArgument, "the request is larger than gRPC's 4 GiB")
        })?;
        let prefix = grpc::prefix(compressed, len);
        // A connection may turn out to be closed; a request that never left is sent on a new one.
        match self.connection().await?.send(self.head(request)?, prefix, &body).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let connection = self.connection().await?;
                let sent = connection.send(self.head(request)?, prefix, &body).await;
                sent.unwrap_or_else(|error| Err(unavailable(&describe(&error))))
            }
        }
    }

    async fn in_time(&self, request: &Request) -> Outcome {
        let Some(limit) = self.timeout else {
            return self.export(request).await;
        };
        if let Some(outcome) = self.timers.start(limit).limit(self.export(request)).await {
            self.silent.store(0, Ordering::Relaxed);
            return outcome;
        }
        // Whoever holds the lock is opening a new connection already.
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT
            && let Ok(mut channel) = self.channel.try_lock()
        {
            channel.connection = None;
        }
        let backend = self.connector.endpoint.authority();
        let message = format!("{backend} did not answer within {limit:?}");
        Err(Status::new(Code::DeadlineExceeded, message))
    }

    fn head(&self, request: &Request) -> Result<http::Request<()>, Status> {
        let mut head = http::Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.uris[request.signal as usize].clone();
        *head.headers_mut() = self.headers.clone();
        if let Some(auth) = &self.auth {
            auth.apply(head.headers_mut(), request.metadata.as_deref())?;
        }
        Ok(head)
    }

    /// The connection, opened if there is none. Only one caller opens, the others wait for it.
    async fn connection(&self) -> Result<Connection, Status> {
        let mut channel = self.channel.lock().await;
        if let Some(connection) = &mut channel.connection
            && poll_fn(|cx| connection.sender.poll_ready(cx)).await.is_ok()
        {
            return Ok(connection.clone());
        }
        channel.connection = None;
        if channel.next_attempt.is_some_and(|at| Instant::now() < at) {
            return Err(unavailable(&lock(&self.trouble)));
        }
        match self.connect().await {
            Ok(connection) => {
                *channel = Channel { connection: Some(connection.clone()), ..Channel::default() };
                self.silent.store(0, Ordering::Relaxed);
                Ok(connection)
            }
            Err(error) => {
                let backoff = FIRST_BACKOFF * 2u32.pow(channel.failures.min(8));
                channel.next_attempt = Some(Instant::now() + backoff.min(LAST_BACKOFF));
                channel.failures += 1;
                let trouble = format!("connection error: {error}");
                let status = unavailable(&trouble);
                *lock(&self.trouble) = trouble;
                Err(status)
            }
        }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let stream = Gathered::new(self.connector.connect().await?);
        let handshake = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(MAX_HEAD)
            .enable_push(false)
            .handshake(stream.clone());
        let (sender, mut connection) = handshake.await.map_err(std::io::Error::other)?;
        let requests = Arc::new(AtomicUsize::new(0));
        let keepalive = self.keepalive.clone().zip(connection.ping_pong());
        let (busy, heard, messages) = (Arc::clone(&requests), stream.clone(), stream.messages());
        let ended = Arc::new(Ended::default());
        let letting_go = Arc::downgrade(&ended);
        let turns = poll_fn(move |cx| {
            drop(letting_go.upgrade().map(|ended| std::mem::take(&mut *lock(&ended))));
            Pin::new(&mut connection).poll(cx)
        });
        tokio::spawn(async move {
            let pinging = async {
                match keepalive {
                    Some((keepalive, pings)) => keep_alive(&keepalive, pings, &busy, &heard).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                closed = stream.drive(turns) => {
                    if let Err(error) = closed {
                        tracing::debug!(%error, "connection to the backend ended");
                    }
                }
                () = pinging => tracing::debug!("the backend does not answer to pings"),
            }
        });
        Ok(Connection { sender, messages, requests, ended })
    }
}

/// Pings a connection on which nothing has come for a while; ends when that is not answered in time.
async fn keep_alive(
    config: &Keepalive,
    mut pings: PingPong,
    requests: &AtomicUsize,
    stream: &Gathered<Stream>,
) {
    let mut before = stream.heard();
    loop {
        sleep((*config.time).max(MIN_PING)).await;
        let heard = stream.heard();
        let idle = requests.load(Ordering::Relaxed) == 0 && !config.permit_without_stream;
        if heard != std::mem::replace(&mut before, heard) || idle {
            continue;
        }
        let limit = if config.timeout.is_zero() { PING_LIMIT } else { *config.timeout };
        match timeout(limit, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => before = stream.heard(),
            // A connection that has failed ends by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Connection {
    /// What the backend answers; an error when the request never left.
    async fn send(
        mut self,
        head: http::Request<()>,
        prefix: [u8; grpc::PREFIX_LEN],
        message: &Bytes,
    ) -> Result<Outcome, h2::Error> {
        let _busy = Busy::new(&self.requests);
        let _held = self.messages.hold(message);
        let (response, mut body) = self.sender.send_request(head, false)?;
        // Where that fails the answer says why, or what was answered before all was sent.
        let _ = body.send_data(Cursor::new(prefix).chain(message.clone()), true);
        let outcome = match response.await {
            Ok(response) => answer(response).await,
            Err(error) => Err(unavailable(&describe(&error))),
        };
        if outcome.is_ok() {
            lock(&self.ended).push(body);
        }
        Ok(outcome)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Busy {
    fn new(requests: &Arc<AtomicUsize>) -> Self {
        requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(requests))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Consumer for GrpcClient {
    fn takes_closed(&self, compression: Compression) -> bool {
        compression == self.compression
    }

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

// === answers ===

/// What the backend said. Whatever is not a clear answer may be tried again.
async fn answer(response: http::Response<RecvStream>) -> Outcome {
    let (parts, mut body) = response.into_parts();
    if let Some(code) = grpc_code(&parts.headers) {
        return finish(code, &parts.headers, Bytes::new(), None);
    }
    if parts.status != StatusCode::OK {
        let message = format!("unexpected HTTP status code received from server: {}", parts.status);
        return Err(Status::new(code_of_http(parts.status), message));
    }
    let encoding = parts.headers.get("grpc-encoding").cloned();
    let broken = |error: h2::Error| unavailable(&describe(&error));
    let mut data = BytesMut::new();
    let mut whole = true;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(broken)?;
        body.flow_control().release_capacity(piece.len()).map_err(broken)?;
        if data.len() + piece.len() > MAX_RESPONSE {
            // What it says is lost, whether it says OK is not.
            data.clear();
            whole = false;
        } else if whole {
            data.extend_from_slice(&piece);
        }
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
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

/// An error with its causes: its own text is often only "http2 error".
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
