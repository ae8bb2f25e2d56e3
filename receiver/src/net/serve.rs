//! Serving HTTP connections within bounds: how many, how long each may wait, and how they end.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Tls,
    listen::{Io, Listener, Stream},
    stall::Unstalled,
};
use crate::otlp::Limit;

/// Connections at a time on one port; the next ones are closed at once, and counted.
const MAX_CONNECTIONS: usize = 16_384;
/// For a TLS handshake, and for the first request of a connection.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Flow-control windows of HTTP/2: large enough that a usual request needs no window update.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest frame that peers may send; fewer, larger frames cost less.
const MAX_FRAME: u32 = 1 << 20;
/// Headers of one request; a sender with more has lost its way.
const MAX_HEAD: u32 = 64 << 10;

/// What a port speaks and how long it waits; what is `None` is not limited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// HTTP/2 only, as gRPC is; otherwise HTTP/1.1 and HTTP/2 both.
    pub(crate) http2_only: bool,
    /// HTTP/1.1: for a request's head, idle time included.
    pub(crate) header_timeout: Option<Duration>,
    /// HTTP/1.1: more than one request on a connection.
    pub(crate) keep_alive: bool,
    /// HTTP/2: requests at a time on one connection.
    pub(crate) max_concurrent_streams: Option<u32>,
    /// HTTP/2: after how much silence a peer is pinged, and how long it may take to answer.
    pub(crate) ping: (Duration, Duration),
    /// For a peer to take some of what it is sent.
    pub(crate) write_timeout: Option<Duration>,
    /// For a connection to be without a request.
    pub(crate) max_idle: Option<Duration>,
    /// For a connection to exist before it is asked to go.
    pub(crate) max_age: Option<Duration>,
    /// For its requests to end then.
    pub(crate) max_age_grace: Option<Duration>,
}

/// A response body: at most one piece of data, then perhaps trailers.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) data: Option<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Answers requests, and hears of connections that were refused or cut.
pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = Response<Reply>> + Send + 'static;

    fn limited(&self, limit: Limit);
}

/// A port that is being served.
#[derive(Debug)]
pub(crate) struct Server {
    /// Of a unix socket there is none.
    pub(crate) address: Option<SocketAddr>,
    stop: watch::Sender<Stopping>,
    task: JoinHandle<usize>,
}

/// How far a port is on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// Not at all.
    No,
    /// Nothing new is taken; what is under way ends.
    Draining,
    /// Nobody waits any more.
    Cut,
}

/// What all connections of a port share.
struct Port<H> {
    tls: Option<Tls>,
    builder: Builder<TokioExecutor>,
    limits: Limits,
    handler: Arc<H>,
}

/// Whether a connection is in use, and since when.
struct Activity {
    requests: AtomicUsize,
    seen: AtomicBool,
    since: Mutex<Instant>,
}

/// One request of a connection, until it is answered.
struct Busy(Arc<Activity>);

/// Serves `listener` until [`Server::shutdown`].
pub(crate) fn serve<H: Handler>(
    listener: Listener,
    tls: Option<Tls>,
    limits: Limits,
    handler: Arc<H>,
) -> io::Result<Server> {
    let address = listener.address()?;
    let (stop, stopped) = watch::channel(Stopping::No);
    let port = Arc::new(Port { tls, builder: builder(&limits), limits, handler });
    let task = tokio::spawn(accept(listener, port, stopped));
    Ok(Server { address, stop, task })
}

// === impl Server ===

impl Server {
    /// Stops accepting, and tells peers to go away.
    pub(crate) fn drain(&self) {
        self.stop.send_replace(Stopping::Draining);
    }

    /// Waits until all connections have ended, or it is late. Returns how many had to be cut.
    pub(crate) async fn ended(mut self, late: impl Future<Output = ()>) -> usize {
        tokio::select! {
            biased;
            cut = &mut self.task => return cut.unwrap_or(0),
            () = late => {}
        }
        self.stop.send_replace(Stopping::Cut);
        self.task.await.unwrap_or(0)
    }
}

async fn accept<H: Handler>(
    listener: Listener,
    port: Arc<Port<H>>,
    mut stopped: watch::Receiver<Stopping>,
) -> usize {
    let permits = Arc::new(Semaphore::new(max_connections()));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: those in use must end before it gets better.
                tracing::warn!(%error, "accepting a connection failed");
                port.handler.limited(Limit::Connections);
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            port.handler.limited(Limit::Connections);
            continue;
        };
        let (port, stopped) = (Arc::clone(&port), stopped.clone());
        connections.spawn(async move {
            // Boxed, or each task would have room for the largest kind of connection.
            match stream {
                Stream::Tcp(stream) => {
                    if port.first_byte(&stream, stopped.clone()).await {
                        Box::pin(port.connection(stream, peer, stopped)).await;
                    }
                }
                Stream::Unix(stream) => Box::pin(port.connection(stream, peer, stopped)).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    tokio::select! {
        biased;
        () = async { while connections.join_next().await.is_some() {} } => return 0,
        // Whoever has gone away waits for nobody.
        _ = stopped.wait_for(|stopping| *stopping == Stopping::Cut) => {}
    }
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

/// A quarter of the process's descriptors is left to exporters, queues and the other doors.
fn max_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|soft| soft.parse::<usize>().ok());
    files.map_or(MAX_CONNECTIONS, |files| MAX_CONNECTIONS.min((files / 4 * 3).max(1)))
}

// === impl Port ===

impl<H: Handler> Port<H> {
    /// Waits for a peer to say something, for at most the limit of a first request. HTTP/2 costs 30 KiB
    /// from its first moment; a connection that is only held open shall cost nothing.
    async fn first_byte(&self, stream: &TcpStream, mut stopped: watch::Receiver<Stopping>) -> bool {
        let Limits { max_idle, max_age, .. } = self.limits;
        let shorter = max_idle.into_iter().chain(max_age).min();
        let patience = shorter.map_or(FIRST_REQUEST_LIMIT, |limit| limit.min(FIRST_REQUEST_LIMIT));
        let mut byte = [0];
        tokio::select! {
            spoken = stream.peek(&mut byte) => spoken.is_ok(),
            _ = stopped.changed() => false,
            () = sleep(patience) => {
                tracing::debug!("closed a connection that sent nothing");
                self.handler.limited(Limit::Silence);
                false
            }
        }
    }

    async fn connection<S: Io>(
        &self,
        stream: S,
        peer: Option<IpAddr>,
        stopped: watch::Receiver<Stopping>,
    ) {
        let Some(tls) = &self.tls else {
            return Box::pin(self.requests(stream, peer, stopped)).await;
        };
        match timeout(FIRST_REQUEST_LIMIT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => Box::pin(self.requests(stream, peer, stopped)).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                self.handler.limited(Limit::Handshake);
            }
            Err(_) => {
                tracing::debug!("TLS handshake timed out");
                self.handler.limited(Limit::Silence);
            }
        }
    }

    async fn requests<S: Io>(
        &self,
        stream: S,
        peer: Option<IpAddr>,
        mut stopped: watch::Receiver<Stopping>,
    ) {
        let activity = Arc::new(Activity {
            requests: AtomicUsize::new(0),
            seen: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
        });
        let stalled = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request| {
            let busy = Busy::new(&activity);
            let response = Arc::clone(&self.handler).answer(request, peer);
            async move {
                let response = response.await;
                drop(busy);
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(Unstalled::new(stream, self.limits.write_timeout, &stalled));
        let mut connection = pin!(self.builder.serve_connection(stream, service));
        let born = Instant::now();
        let mut silence = pin!(sleep(FIRST_REQUEST_LIMIT));
        let far = born + Duration::from_secs(86400 * 365);
        let mut idle = pin!(sleep_until(self.limits.max_idle.map_or(far, |idle| born + idle)));
        let mut age = pin!(sleep_until(self.limits.max_age.map_or(far, |age| born + spread(age))));
        let mut grace = pin!(sleep_until(far));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                        if is_timeout(&*error) {
                            self.handler.limited(Limit::Head);
                        }
                    }
                    if stalled.load(Ordering::Relaxed) {
                        self.handler.limited(Limit::Stalled);
                    }
                    return;
                }
                _ = stopped.changed(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = silence.as_mut(), if !silence.is_elapsed() => {
                    if !activity.seen.load(Ordering::Relaxed) {
                        tracing::debug!("closed a connection that sent no request");
                        self.handler.limited(Limit::Silence);
                        return;
                    }
                }
                () = idle.as_mut(), if self.limits.max_idle.is_some() && !stopping => {
                    let limit = self.limits.max_idle.unwrap_or_default();
                    match activity.idle_since() {
                        Some(since) if since.elapsed() >= limit => {
                            stopping = true;
                            connection.as_mut().graceful_shutdown();
                        }
                        Some(since) => idle.as_mut().reset(since + limit),
                        None => idle.as_mut().reset(Instant::now() + limit),
                    }
                }
                () = age.as_mut(), if self.limits.max_age.is_some() && !age.is_elapsed() => {
                    if let Some(limit) = self.limits.max_age_grace {
                        grace.as_mut().reset(Instant::now() + limit);
                    }
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = grace.as_mut() => return,
            }
        }
    }
}

/// Whether a head did not come in time.
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// As grpc-go does, one way or the other by a tenth, so that clients do not all come back at once.
fn spread(age: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    Duration::try_from_secs_f64(age.as_secs_f64() * (0.9 + 0.2 * random)).unwrap_or(age)
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD as usize)
        .keep_alive(limits.keep_alive)
        .header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .keep_alive_interval(limits.ping.0)
        .keep_alive_timeout(limits.ping.1);
    if limits.http2_only { builder.http2_only() } else { builder }
}

// === impl Activity ===

impl Activity {
    /// Since when there has been no request, if there is none.
    fn idle_since(&self) -> Option<Instant> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.requests.load(Ordering::Acquire) == 0).then_some(since)
    }
}

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.seen.store(true, Ordering::Relaxed);
        activity.requests.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn data(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Reply { data: (!data.is_empty()).then_some(data), trailers: None }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.data.take() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // With trailers there is no content-length to announce.
        match self.trailers {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64)),
        }
    }
}
