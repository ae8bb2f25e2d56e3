//! A receiver with a scripted pipeline behind it, and plain clients in front.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tapio_proto::{
    Accepted, Code, Consumer, Next, Outcome, Pending, Request as Export, Signal, Status,
    transport::{Compression, grpc},
    wire::{put_len_field, put_message},
};
use tapio_receiver::{
    Auth, Authenticator, Consumers, Handle, Limit, Observer, OtlpConfig, OtlpReceiver, Transport,
    Verdict,
};
use tokio::net::TcpStream;

/// Answers as told and keeps what came.
pub(crate) struct Pipeline {
    pub(crate) answer: Mutex<Outcome>,
    pub(crate) delay: Mutex<std::time::Duration>,
    pub(crate) seen: Mutex<Vec<Export>>,
    /// What it takes without having it opened.
    pub(crate) closed: Mutex<Option<Compression>>,
}

impl Consumer for Pipeline {
    fn takes_closed(&self, compression: Compression) -> bool {
        *self.closed.lock().unwrap() == Some(compression)
    }

    fn consume(&self, request: Export) -> Pending<'_> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            self.seen.lock().unwrap().push(request);
            self.answer.lock().unwrap().clone()
        })
    }
}

#[derive(Default)]
pub(crate) struct Counts(
    Mutex<Vec<(Signal, Transport, Verdict, usize)>>,
    Mutex<Vec<Limit>>,
    /// Whether nobody looks at it.
    pub(crate) AtomicBool,
);

impl Observer for Counts {
    fn wants_items(&self) -> bool {
        !self.2.load(Relaxed)
    }

    fn received(&self, signal: Signal, transport: Transport, verdict: Verdict, items: usize) {
        self.0.lock().unwrap().push((signal, transport, verdict, items));
    }

    fn limited(&self, _: Transport, limit: Limit) {
        self.1.lock().unwrap().push(limit);
    }
}

impl Counts {
    pub(crate) fn take(&self) -> Vec<(Signal, Transport, Verdict, usize)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The names of the bounds that peers ran into.
    pub(crate) fn take_limits(&self) -> Vec<&'static str> {
        self.take();
        std::mem::take(&mut *self.1.lock().unwrap()).into_iter().map(Limit::name).collect()
    }
}

pub(crate) struct Rig {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) handle: Handle,
}

impl Rig {
    pub(crate) async fn start() -> Rig {
        Self::with("{}", "{}").await
    }

    /// With the given JSON as `grpc:` and `http:`, on free ports.
    pub(crate) async fn with(grpc: &str, http: &str) -> Rig {
        Self::with_auth(grpc, http, None).await
    }

    /// The same, with an authenticator for both.
    pub(crate) async fn with_auth(
        grpc: &str,
        http: &str,
        auth: Option<Arc<dyn Authenticator>>,
    ) -> Rig {
        let pipeline = Arc::new(Pipeline {
            answer: Mutex::new(Ok(Accepted::default())),
            delay: Mutex::default(),
            seen: Mutex::default(),
            closed: Mutex::default(),
        });
        let counts = Arc::new(Counts::default());
        let mut config: OtlpConfig =
            serde_json::from_str(&format!(r#"{{"protocols":{{"grpc":{grpc},"http":{http}}}}}"#))
                .unwrap();
        config.protocols.grpc.as_mut().unwrap().endpoint = "127.0.0.1:0".to_owned();
        config.protocols.http.as_mut().unwrap().endpoint = "127.0.0.1:0".to_owned();
        let next: Next = Arc::<Pipeline>::clone(&pipeline);
        let mut consumers = Consumers::all(&next);
        consumers.profiles = None;
        let observer: Arc<dyn Observer> = Arc::<Counts>::clone(&counts);
        let auth = Auth { grpc: auth.clone(), http: auth };
        let handle = OtlpReceiver::start_with(&config, consumers, auth, observer).await.unwrap();
        Rig { pipeline, counts, handle }
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.handle.grpc_address().unwrap()
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.handle.http_address().unwrap()
    }

    pub(crate) fn answer(&self, outcome: Outcome) {
        *self.pipeline.answer.lock().unwrap() = outcome;
    }

    pub(crate) fn seen(&self) -> Vec<Export> {
        std::mem::take(&mut self.pipeline.seen.lock().unwrap())
    }
}

/// `ExportTraceServiceRequest` with so many spans.
pub(crate) fn spans(n: usize) -> Bytes {
    let mut out = Vec::new();
    put_message(&mut out, 1, |out| {
        put_message(out, 2, |out| {
            for i in 0..n {
                put_message(out, 2, |out| {
                    put_len_field(out, 1, &[7; 16]);
                    put_len_field(out, 2, &(i as u64 + 1).to_be_bytes());
                    put_len_field(out, 5, b"GET /cart");
                });
            }
        });
    });
    out.into()
}

pub(crate) fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut out = grpc::prefix(false, u32::try_from(message.len()).unwrap()).to_vec();
    out[0] = flag;
    out.extend_from_slice(message);
    out.into()
}

/// What a gRPC call came to.
#[derive(Debug)]
pub(crate) struct GrpcAnswer {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Option<Status>,
    pub(crate) body: Bytes,
}

/// A body of the given pieces, each a frame of its own.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// One gRPC call on a connection of its own.
pub(crate) async fn call(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    pieces: Vec<Bytes>,
) -> GrpcAnswer {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Pieces(pieces.into())).unwrap()).await.unwrap();
    // A timeout that cannot be read is no gRPC: grpc-go answers it with HTTP's status as well.
    let wrong_timeout = response.headers().get("grpc-message").is_some_and(|message| {
        String::from_utf8_lossy(message.as_bytes()).starts_with("malformed grpc-timeout")
    });
    let expected = if wrong_timeout { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    assert_eq!(response.status(), expected);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let headers = if parts.headers.contains_key("grpc-status") { parts.headers } else { trailers };
    let text = |name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());
    let code: i32 = String::from_utf8(text("grpc-status").unwrap()).unwrap().parse().unwrap();
    GrpcAnswer {
        code: Code::from_i32(code),
        message: grpc::decode_message(&text("grpc-message").unwrap_or_default()),
        details: text("grpc-status-details-bin")
            .map(|value| Status::decode(&grpc::decode_bin(&value).unwrap()).unwrap()),
        body: collected.to_bytes(),
    }
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    pieces: Vec<Bytes>,
) -> (StatusCode, HeaderMap, Bytes) {
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "tapio");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // One piece is sent with a content-length, several are chunked.
    let response = match <[Bytes; 1]>::try_from(pieces) {
        Ok([piece]) => {
            let body = http_body_util::Full::new(piece).boxed();
            sender.send_request(request.body(body).unwrap()).await.unwrap()
        }
        Err(pieces) => {
            let body = Pieces(pieces.into()).boxed();
            sender.send_request(request.body(body).unwrap()).await.unwrap()
        }
    };
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}
