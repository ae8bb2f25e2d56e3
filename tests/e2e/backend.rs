//! A backend that takes everything, or answers as it was told, over gRPC or HTTP, and keeps what it
//! received as it came.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tapio_proto::transport::{Compression, grpc::encode_bin};
use tokio::{net::TcpListener, task::JoinHandle};

use super::client::frame;

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

/// One request as it arrived, without gRPC's framing, and decompressed.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    /// Whether the answer was a success.
    pub(crate) taken: bool,
}

/// What outlives the backend: a new one on the same port adds to the same list.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    received: Vec<Received>,
    answer: Answer,
}

/// What the backend says.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    /// The HTTP status; 200 when zero.
    status: u16,
    /// Beside the content type, which is the request's unless it is here.
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// Of gRPC; OK when empty.
    trailers: Vec<(&'static str, String)>,
}

impl Answer {
    /// A gRPC status; `details` is a `google.rpc.Status`.
    pub(crate) fn grpc(code: i32, message: &str, details: Option<&[u8]>) -> Self {
        let mut trailers =
            vec![("grpc-status", code.to_string()), ("grpc-message", message.to_owned())];
        trailers.extend(details.map(|bytes| ("grpc-status-details-bin", encode_bin(bytes))));
        Answer { trailers, ..Answer::default() }
    }

    /// Success, with an `Export*ServiceResponse`.
    pub(crate) fn taken(response: &[u8]) -> Self {
        Answer { body: Bytes::copy_from_slice(response), ..Answer::default() }
    }

    pub(crate) fn http(
        status: u16,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Answer { status, headers, body: body.into(), ..Answer::default() }
    }
}

impl Inbox {
    pub(crate) fn all(&self) -> Vec<Received> {
        self.lock().received.clone()
    }

    /// Requests so far.
    pub(crate) fn len(&self) -> usize {
        self.lock().received.len()
    }

    /// What came since the last time.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.lock().received)
    }

    /// What is said from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        self.lock().answer = answer;
    }

    fn add(&self, path: String, headers: HeaderMap, message: Bytes) -> Answer {
        let mut state = self.lock();
        let answer = state.answer.clone();
        let code = answer.trailers.iter().find(|(name, _)| *name == "grpc-status");
        let taken =
            matches!(answer.status, 0 | 200..=299) && code.is_none_or(|(_, code)| code == "0");
        state.received.push(Received { path, headers, message, taken });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no case panics while it holds the lock")
    }
}

/// A running backend.
pub(crate) struct Backend {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Backend {
    /// Listens on a port (0: any) and answers each request after a delay.
    pub(crate) async fn start(port: u16, inbox: Inbox, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let task = tokio::spawn(async move {
            // Dropped with the task, and with it every connection.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inbox = inbox.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, inbox.clone(), delay));
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A connection that the other side broke is its affair.
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, task }
    }

    /// Closes the port and cuts the connections.
    pub(crate) async fn kill(self) {
        self.task.abort();
        // The task ends by being cancelled, and that is what was asked for.
        drop(self.task.await);
    }
}

async fn answer(
    request: Request<Incoming>,
    inbox: Inbox,
    delay: Duration,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let content_type = header("content-type");
    let grpc = content_type.starts_with("application/grpc");
    let encoding = header(if grpc { "grpc-encoding" } else { "content-encoding" });
    let body = body.collect().await?.to_bytes();
    let message = match grpc {
        true if body[0] == 1 => decompress(Compression::from_grpc_name(&encoding), body.slice(5..)),
        true => body.slice(5..),
        false => decompress(Compression::from_name(&encoding), body),
    };
    tokio::time::sleep(delay).await;
    let path = head.uri.path().to_owned();
    let answer = inbox.add(path, head.headers, message);

    let mut response = Response::builder();
    if answer.status > 0 {
        response = response.status(answer.status);
    }
    if !answer.headers.iter().any(|(name, _)| *name == "content-type") {
        response = response.header("content-type", content_type);
    }
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = if grpc && answer.status == 0 {
        let trailers = HeaderMap::from_iter(answer.trailers.iter().map(|(name, value)| {
            let value = HeaderValue::try_from(value).expect("a case's own text");
            (http::HeaderName::from_static(name), value)
        }));
        let ok = || HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        let refused = trailers.get(&GRPC_STATUS).is_some_and(|status| status != "0");
        let message = if refused { Bytes::new() } else { frame(0, &answer.body) };
        let trailers = if trailers.is_empty() { ok() } else { trailers };
        Full::new(message).with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync()
    } else {
        Full::new(answer.body).boxed_unsync()
    };
    Ok(response.body(body).expect("the content type came as a header"))
}

fn decompress(compression: Option<Compression>, data: Bytes) -> Bytes {
    let compression = compression.expect("an encoding that OTLP or the Collector knows");
    compression.decompress(data, 64 << 20).expect("what an exporter compressed is sound")
}
