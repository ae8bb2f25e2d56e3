//! A backend that takes everything, over gRPC or HTTP, and keeps what it received as it came.

use std::{
    convert::Infallible,
    io::Read,
    sync::{Arc, Mutex},
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
use tokio::{net::TcpListener, task::JoinHandle};

/// One request as it arrived, decompressed and without framing.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) message: Bytes,
}

/// What outlives the backend: a new one on the same port adds to the same list.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<Received>>>);

impl Inbox {
    pub(crate) fn all(&self) -> Vec<Received> {
        self.0.lock().expect("no case panics while it holds the lock").clone()
    }

    /// Requests so far.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().expect("no case panics while it holds the lock").len()
    }

    fn add(&self, received: Received) {
        self.0.lock().expect("no case panics while it holds the lock").push(received);
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
    let path = request.uri().path().to_owned();
    let header = |name: &str| {
        request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let content_type = header("content-type");
    let grpc = content_type.starts_with("application/grpc");
    let encoding = header(if grpc { "grpc-encoding" } else { "content-encoding" });
    let body = request.into_body().collect().await?.to_bytes();
    let message = match (grpc, encoding.as_str()) {
        (true, "gzip") if body[0] == 1 => gunzip(&body[5..]),
        (true, _) => body.slice(5..),
        (false, "gzip") => gunzip(&body),
        (false, _) => body,
    };
    tokio::time::sleep(delay).await;
    inbox.add(Received { path, message });

    let response = Response::builder().header("content-type", content_type);
    let body = if grpc {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        Full::new(Bytes::from_static(&[0; 5]))
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed_unsync()
    } else {
        Full::new(Bytes::new()).boxed_unsync()
    };
    Ok(response.body(body).expect("the content type came as a header"))
}

fn gunzip(data: &[u8]) -> Bytes {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(data).read_to_end(&mut out).expect("the exporter's gzip is sound");
    out.into()
}
