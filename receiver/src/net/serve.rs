//! Serving HTTP connections within bounds: how many, how long each may wait, and how they end.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

/// Connections at a time on one port; the next ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 10_000;
/// For a TLS handshake, and for the first request of a connection.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Flow-control windows of HTTP/2: large enough that a usual request needs no window update.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest frame that peers may send; fewer, larger frames cost less.
const MAX_FRAME: u32 = 1 << 20;

/// What a port speaks and how long it waits.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// HTTP/2 only, as gRPC is; otherwise HTTP/1.1 and HTTP/2 both.
    pub(crate) http2_only: bool,
    /// HTTP/1.1: for a request's head, idle time included.
    pub(crate) header_timeout: Duration,
    /// HTTP/2: requests at a time on one connection.
    pub(crate) max_concurrent_streams: u32,
    /// HTTP/2: a peer that is silent this long is pinged.
    pub(crate) ping_interval: Duration,
    /// HTTP/2: a ping that is not answered this long closes the connection.
    pub(crate) ping_timeout: Duration,
}

/// A response body: at most one piece of data, then perhaps trailers.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) data: Option<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A port that is being served.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    task: JoinHandle<usize>,
}

/// Serves `listener` until [`Server::shutdown`].
pub(crate) fn serve<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: &Limits,
    handler: H,
) -> std::io::Result<Server>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(None);
    let builder = Arc::new(builder(limits));
    let task = tokio::spawn(accept(listener, tls, builder, handler, stopped));
    Ok(Server { address, stop, task })
}

// === impl Server ===

impl Server {
    /// Stops accepting, tells peers to go away, and lets requests under way finish within `limit`.
    /// Returns how many connections had to be cut.
    pub(crate) async fn shutdown(self, limit: Duration) -> usize {
        self.stop.send_replace(Some(Instant::now() + limit));
        self.task.await.unwrap_or(0)
    }
}

async fn accept<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    builder: Arc<Builder<TokioExecutor>>,
    handler: H,
    mut stopped: watch::Receiver<Option<Instant>>,
) -> usize
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: those in use must end before it gets better.
                tracing::warn!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, builder, handler) = (tls.clone(), Arc::clone(&builder), handler.clone());
        let stopped = stopped.clone();
        connections.spawn(async move {
            connection(stream, tls, &builder, handler, stopped).await;
            drop(permit);
        });
    }
    drop(listener);
    let deadline = stopped.borrow().unwrap_or_else(Instant::now);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout_at(deadline, drained).await.is_ok() {
        return 0;
    }
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

async fn connection<H, F>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    builder: &Builder<TokioExecutor>,
    handler: H,
    stopped: watch::Receiver<Option<Instant>>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return requests(stream, builder, handler, stopped).await;
    };
    match timeout(FIRST_REQUEST_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, builder, handler, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

async fn requests<I, H, F>(
    stream: I,
    builder: &Builder<TokioExecutor>,
    handler: H,
    mut stopped: watch::Receiver<Option<Instant>>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let seen = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let seen = Arc::clone(&seen);
        move |request| {
            seen.store(true, Ordering::Relaxed);
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut silence = pin!(sleep(FIRST_REQUEST_LIMIT));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if !silence.is_elapsed() => {
                if !seen.load(Ordering::Relaxed) {
                    tracing::debug!("closed a connection that sent no request");
                    return;
                }
            }
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    if limits.http2_only { builder.http2_only() } else { builder }
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
