//! A scripted backend, a hop before it, and senders before that.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tapio_exporter::{Exporter, Observer, otlp_grpc, otlp_http};
use tapio_proto::{
    Consumer, Next, Outcome, Pending, Request, Signal, Status,
    wire::{put_len_field, put_message},
};
use tapio_receiver::{Consumers, Handle, OtlpConfig, OtlpReceiver, Transport, Verdict};
use tokio::net::{TcpListener, TcpStream};

/// Answers as told and keeps what came.
pub(crate) struct Script {
    answer: Box<dyn Fn(usize) -> Outcome + Send + Sync>,
    count: AtomicUsize,
    seen: Mutex<Vec<Request>>,
    pub(crate) delay: Mutex<Duration>,
}

impl Script {
    /// `answer` gets the number of the request, from 0.
    pub(crate) fn new(answer: impl Fn(usize) -> Outcome + Send + Sync + 'static) -> Arc<Script> {
        let (count, seen, delay) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Arc::new(Script { answer: Box::new(answer), count, seen, delay })
    }

    /// Forgets what came, and counts from 0 again.
    pub(crate) fn again(&self) {
        self.count.store(0, Ordering::SeqCst);
        self.seen.lock().unwrap().clear();
    }

    /// What was accepted.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Consumer for Script {
    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let outcome = (self.answer)(self.count.fetch_add(1, Ordering::SeqCst));
            if outcome.is_ok() {
                self.seen.lock().unwrap().push(request);
            }
            outcome
        })
    }
}

pub(crate) struct Quiet;

impl tapio_receiver::Observer for Quiet {
    fn received(&self, _: Signal, _: Transport, _: Verdict, _: usize) {}
}

/// Counts of items: sent, failed, not enqueued.
#[derive(Default)]
pub(crate) struct Tally(pub(crate) Mutex<[usize; 3]>);

impl Observer for Tally {
    fn sent(&self, _: Signal, items: usize) {
        self.0.lock().unwrap()[0] += items;
    }

    fn send_failed(&self, _: Signal, items: usize, _: &Status) {
        self.0.lock().unwrap()[1] += items;
    }

    fn enqueue_failed(&self, _: Signal, items: usize) {
        self.0.lock().unwrap()[2] += items;
    }
}

/// A receiver on free ports, or on a given one, before `next`.
pub(crate) async fn receiver(next: Next) -> Handle {
    receiver_with(next, json!({"endpoint": "127.0.0.1:0"}), json!({"endpoint": "127.0.0.1:0"}))
        .await
}

pub(crate) async fn receiver_with(next: Next, grpc: Value, http: Value) -> Handle {
    let config = json!({"protocols": {"grpc": grpc, "http": http}});
    let config: OtlpConfig = serde_json::from_value(config).unwrap();
    OtlpReceiver::start(&config, Consumers::all(&next), Arc::new(Quiet)).await.unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Grpc,
    Http,
}

pub(crate) const DOORS: [(Door, Door); 4] = [
    (Door::Grpc, Door::Grpc),
    (Door::Grpc, Door::Http),
    (Door::Http, Door::Grpc),
    (Door::Http, Door::Http),
];

/// An exporter that neither queues nor tries again: what the backend says is what one gets.
pub(crate) fn direct(door: Door, to: &Handle) -> Arc<Exporter> {
    exporter(
        door,
        to,
        json!({"sending_queue": {"enabled": false}, "retry_on_failure": {"enabled": false}}),
    )
}

pub(crate) fn exporter(door: Door, to: &Handle, config: Value) -> Arc<Exporter> {
    let address = match door {
        Door::Grpc => to.grpc_address(),
        Door::Http => to.http_address(),
    };
    exporter_at(door, address.unwrap(), config, Arc::new(Tally::default()))
}

pub(crate) fn exporter_at(
    door: Door,
    to: SocketAddr,
    mut config: Value,
    tally: Arc<Tally>,
) -> Arc<Exporter> {
    config["endpoint"] = format!("http://{to}").into();
    Arc::new(match door {
        Door::Grpc => otlp_grpc("otlp", &serde_json::from_value(config).unwrap(), tally).unwrap(),
        Door::Http => {
            otlp_http("otlphttp", &serde_json::from_value(config).unwrap(), tally).unwrap()
        }
    })
}

/// A queue and retries that do not take their time.
pub(crate) fn quick(queue: Value) -> Value {
    json!({
        "timeout": "2s",
        "sending_queue": queue,
        "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
    })
}

/// A traces request with one span whose id is `n`.
pub(crate) fn span(n: u64) -> Request {
    spans(n, 1)
}

/// A traces request with so many spans, with ids from `first`.
pub(crate) fn spans(first: u64, count: u64) -> Request {
    let mut out = Vec::new();
    put_message(&mut out, 1, |out| {
        put_message(out, 2, |out| {
            for n in first..first + count {
                put_message(out, 2, |out| {
                    put_len_field(out, 1, &[7; 16]);
                    put_len_field(out, 2, &n.to_be_bytes());
                });
            }
        });
    });
    Request::new(Signal::Traces, out.into(), count as usize)
}

/// Waits, at most 10 s, until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came true: {what}");
}

/// Posts protobuf to a hop's traces path.
pub(crate) async fn post(to: SocketAddr, body: Bytes) -> (StatusCode, HeaderMap, Bytes) {
    let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/v1/traces")
        .header("host", "tapio")
        .header("content-type", "application/x-protobuf")
        .body(Full::new(body))
        .unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
}

/// A backend that answers any request with the response that `answer` makes.
pub(crate) async fn raw_backend<B>(
    answer: impl Fn(&http::request::Parts) -> http::Response<B> + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    B: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (parts, body) = request.into_parts();
                    let answer = answer.clone();
                    async move {
                        body.collect().await?;
                        Ok::<_, hyper::Error>(answer(&parts))
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}
