//! One connection to a gRPC backend: HTTP/2 with raw bytes, requests side by side.

use std::{
    future::poll_fn,
    io::{self, Cursor},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, buf::Chain};
use h2::{Ping, PingPong, RecvStream, SendStream, client::Builder};
use tapio_proto::transport::grpc;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{config::Keepalive, grpc::describe};
use crate::net::{Gathered, Messages, Stream};

/// Windows for what the backend sends: answers are small.
const WINDOW: u32 = 1 << 20;
/// Headers of one answer.
const MAX_HEAD: u32 = 16 << 10;
/// A connection on which this many requests in a row got no answer is given up: the peer may be
/// gone without a word (a node that died), and TCP would notice after a quarter of an hour.
const SILENT: u32 = 2;
/// Backends take more frequent pings for an attack.
const MIN_PING: Duration = Duration::from_secs(10);
/// For the answer to a ping, unless the configuration says otherwise.
const PING_LIMIT: Duration = Duration::from_secs(20);

/// For the first word of the backend.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);

/// A gRPC message: prefix and message leave together and the message is not copied.
type Message = Chain<Cursor<[u8; grpc::PREFIX_LEN]>, Bytes>;

/// A connection that is being driven by a task of its own.
#[derive(Clone)]
pub(super) struct Connection {
    sender: h2::client::SendRequest<Message>,
    messages: Messages,
    traffic: Arc<Traffic>,
    ended: Arc<Ended>,
}

/// What goes on on a connection.
#[derive(Default)]
pub(super) struct Traffic {
    requests: AtomicUsize,
    /// Requests in a row that were not answered in time.
    silent: AtomicU32,
}

/// Streams of requests that have been answered. Whoever lets go of one wakes the connection for nothing, and
/// with it, as the answer wakes another task, a second thread: the connection does so at its next turn.
type Ended = Mutex<Vec<SendStream<Message>>>;

/// A request under way on a connection.
struct Busy<'a>(&'a AtomicUsize);

impl Connection {
    /// Speaks HTTP/2 on a stream, and waits until the backend does so too: one that takes connections and
    /// says nothing is none.
    pub(super) async fn begin(stream: Stream, keepalive: Option<Keepalive>) -> io::Result<Self> {
        let stream = Gathered::new(stream);
        let handshake = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(MAX_HEAD)
            .enable_push(false)
            .handshake(stream.clone());
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let traffic = Arc::new(Traffic::default());
        let keepalive = keepalive.zip(connection.ping_pong());
        let (busy, heard, messages) = (Arc::clone(&traffic), stream.clone(), stream.messages());
        let ended = Arc::new(Ended::default());
        let letting_go = Arc::downgrade(&ended);
        let (tell, begun) = oneshot::channel();
        let (mut tell, first) = (Some(tell), stream.clone());
        let turns = poll_fn(move |cx| {
            drop(letting_go.upgrade().map(|ended| std::mem::take(&mut *lock(&ended))));
            let turn = Pin::new(&mut connection).poll(cx);
            if tell.is_some()
                && let Some(outcome) = beginning(&turn, &first)
                && let Some(tell) = tell.take()
            {
                // Who waited for it may have gone.
                let _ = tell.send(outcome);
            }
            turn
        });
        tokio::spawn(async move {
            let pinging = async {
                match keepalive {
                    Some((keepalive, pings)) => {
                        keep_alive(&keepalive, pings, &busy.requests, &heard).await;
                    }
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
        match timeout(BEGIN_LIMIT, begun).await {
            Ok(Ok(begun)) => begun?,
            Ok(Err(_)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(_) => {
                let why = format!(
                    "the backend took the connection and said nothing within {BEGIN_LIMIT:?}: is this its gRPC port?"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        }
        Ok(Connection { sender, messages, traffic, ended })
    }

    /// Whether it takes requests, as far as one can know.
    pub(super) fn is_open(&mut self) -> bool {
        // Nobody sends with this handle itself, so there is nothing that it could have to wait for.
        let ready = self.sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(ready, Poll::Ready(Err(_)))
            && self.traffic.silent.load(Ordering::Relaxed) < SILENT
    }

    /// Outlives the connection.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// What the backend answers, or why it does not; the outer error when the request never left.
    pub(super) async fn send<T>(
        mut self,
        head: http::Request<()>,
        prefix: [u8; grpc::PREFIX_LEN],
        message: &Bytes,
        read: impl AsyncFnOnce(http::Response<RecvStream>) -> Result<T, tapio_proto::Status>,
    ) -> Result<Result<T, tapio_proto::Status>, h2::Error> {
        let _busy = Busy::new(&self.traffic.requests);
        let _held = self.messages.hold(message);
        let (response, mut body) = self.sender.send_request(head, false)?;
        // Where that fails the answer says why, or what was answered before all was sent.
        let _ = body.send_data(Cursor::new(prefix).chain(message.clone()), true);
        let outcome = match response.await {
            Ok(response) => read(response).await,
            Err(error) => Err(super::grpc::broken(&error)),
        };
        if outcome.is_ok() {
            lock(&self.ended).push(body);
        }
        Ok(outcome)
    }
}

/// Whether the backend has begun to speak HTTP/2, once that can be told.
fn beginning(
    turn: &Poll<Result<(), h2::Error>>,
    stream: &Gathered<Stream>,
) -> Option<io::Result<()>> {
    let error = match turn {
        Poll::Pending => return (stream.heard() > 0).then_some(Ok(())),
        Poll::Ready(Ok(())) => "the backend closed the connection".to_owned(),
        Poll::Ready(Err(error)) => describe(error),
    };
    let said = match &stream.first() {
        b"HTTP/" => {
            ": the backend speaks HTTP/1.1 here, not gRPC; OTLP over HTTP is what otlp_http sends, by custom to port 4318"
        }
        // A handshake that failed, or what a server of TLS 1.3 says.
        [0x14..=0x16, 3, ..] => {
            ": the backend speaks TLS here; leave out tls::insecure and write no http:// in the endpoint"
        }
        [0, 0, 0, 0, 0] => {
            ": it said nothing before; where its port is one of TLS, leave out tls::insecure and http://, where it is one of OTLP over HTTP, by custom 4318, send with otlp_http"
        }
        _ => "",
    };
    Some(Err(io::Error::other(format!("{error}{said}"))))
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

impl Traffic {
    /// A request was answered in time, or was not.
    pub(super) fn answered(&self, in_time: bool) {
        match in_time {
            true => self.silent.store(0, Ordering::Relaxed),
            false => drop(self.silent.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl<'a> Busy<'a> {
    fn new(requests: &'a AtomicUsize) -> Self {
        requests.fetch_add(1, Ordering::Relaxed);
        Busy(requests)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
