//! OTLP/HTTP client on HTTP/1.1: a stack of idle connections for each signal.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tapio_proto::{
    Accepted, Code, Consumer, Outcome, Pending, Request, Signal, Status, decode_response, json,
    response_from_json,
    transport::{Compression, Exchange},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{JsonOrProto, OtlpHttpConfig, client_auth, grpc::describe};
use crate::{
    net::{ClientAuth, ConfigError, Connector, Endpoint, Proxy, USER_AGENT, header_map},
    send::Observer,
};

/// Largest body of a refusal that is read, as in the Collector.
const MAX_ERROR: usize = 64 << 10;
/// Largest body of an answer that is read (OTLP specification: 4 MiB recommended).
const MAX_RESPONSE: usize = 4 << 20;
/// Longest wait that a backend may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Redirects that are followed for one request, as in Go.
const MAX_REDIRECTS: usize = 10;
/// What 429 without Retry-After means: "later", which in gRPC only RetryInfo can say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

type Sender = SendRequest<Full<Bytes>>;

/// Sends requests to the URLs of one backend.
pub(super) struct HttpClient {
    targets: [Option<Target>; Signal::ALL.len()],
    encoding: JsonOrProto,
    compression: Compression,
    level: Option<i32>,
    /// For one attempt, if there is a limit.
    timeout: Option<Duration>,
    headers: HeaderMap,
    auth: Option<Arc<dyn ClientAuth>>,
    observer: Arc<dyn Observer>,
    keep: Keep,
    /// For targets that a backend sends us to.
    config: Box<OtlpHttpConfig>,
}

/// A request to a backend that is told when it is answered, or given up.
struct Measured<'a> {
    observer: &'a dyn Observer,
    started: Option<Instant>,
    endpoint: &'a Endpoint,
    bytes: usize,
    status: Option<u16>,
}

/// How connections are kept.
#[derive(Clone, Copy)]
struct Keep {
    max: usize,
    time: Option<Duration>,
}

struct Target {
    connector: Connector,
    url: String,
    path: Uri,
    host: HeaderValue,
    /// For a proxy that forwards requests in the clear.
    proxy_authorization: Option<HeaderValue>,
    idle: Mutex<Vec<(Sender, Instant)>>,
    /// Bounds the connections, if they are.
    permits: Option<Semaphore>,
    /// Where the backend sent us last.
    moved: Mutex<Option<Arc<Target>>>,
}

impl HttpClient {
    pub(super) fn new(
        config: &OtlpHttpConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ConfigError> {
        config.compression_params.check(config.compression)?;
        let own = [
            ("traces_endpoint", &config.traces_endpoint),
            ("metrics_endpoint", &config.metrics_endpoint),
            ("logs_endpoint", &config.logs_endpoint),
            ("profiles_endpoint", &config.profiles_endpoint),
        ];
        if config.endpoint.is_empty() && own.iter().all(|(_, url)| url.is_empty()) {
            let why = "at least one endpoint must be specified";
            return Err(ConfigError::new("endpoint", why));
        }
        let mut targets = [const { None }; Signal::ALL.len()];
        for ((signal, (key, own)), target) in Signal::ALL.into_iter().zip(own).zip(&mut targets) {
            let (key, url) = match (own.is_empty(), config.endpoint.is_empty()) {
                (false, _) => (key, own.clone()),
                (true, false) => {
                    let base = config.endpoint.trim_end_matches('/');
                    ("endpoint", format!("{base}{}", signal.http_path()))
                }
                (true, true) => continue,
            };
            *target = Some(Target::new(key, url, config)?);
        }
        let mut headers = header_map(&config.headers)?;
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        let content_type = HeaderValue::from_static(match config.encoding {
            JsonOrProto::Proto => "application/x-protobuf",
            JsonOrProto::Json => "application/json",
        });
        headers.insert(header::CONTENT_TYPE, content_type);
        if config.compression != Compression::None {
            let name = HeaderValue::from_static(config.compression.name());
            headers.insert(header::CONTENT_ENCODING, name);
        }
        if config.disable_keep_alives {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(HttpClient {
            targets,
            encoding: config.encoding,
            compression: config.compression,
            level: config.compression_params.level,
            timeout: (!config.timeout.is_zero()).then_some(*config.timeout),
            headers,
            auth: client_auth(config.auth.as_ref())?,
            observer,
            keep: Keep::new(config),
            config: Box::new(config.clone()),
        })
    }

    async fn export(&self, target: &Target, request: &Request) -> Outcome {
        let body = match self.encoding {
            JsonOrProto::Proto => super::compressed(request, self.compression, self.level)?,
            JsonOrProto::Json => {
                let json = json::from_proto(request.signal, &request.bytes)
                    .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
                let request = Request::new(request.signal, json.into(), request.items);
                super::compressed(&request, self.compression, self.level)?
            }
        };
        let mut headers = self.headers.clone();
        headers.entry(header::HOST).or_insert_with(|| target.host.clone());
        if let Some(value) = &target.proxy_authorization {
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
        if let Some(auth) = &self.auth {
            auth.apply(&mut headers, request.metadata.as_deref())?;
        }
        let _permit = match &target.permits {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        let (parts, answer) = self.exchange(target, &headers, &body).await?;
        if !is_moved(&parts) {
            return outcome(target, &parts, &answer);
        }
        self.follow(target, request, parts, &body).await
    }

    /// Goes where the backend says, with the same body.
    async fn follow(
        &self,
        target: &Target,
        request: &Request,
        mut parts: http::response::Parts,
        body: &Bytes,
    ) -> Outcome {
        let mut at = target.moved(&parts, &self.config)?;
        for _ in 0..MAX_REDIRECTS {
            let mut headers = self.headers.clone();
            if let Some(value) = &at.proxy_authorization {
                headers.insert(header::PROXY_AUTHORIZATION, value.clone());
            }
            // Who we are is for the backend that was configured, and for nobody on the way.
            if at.is_trusted_like(target) {
                if let Some(auth) = &self.auth {
                    auth.apply(&mut headers, request.metadata.as_deref())?;
                }
            } else {
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
            }
            headers.insert(header::HOST, at.host.clone());
            let answer;
            (parts, answer) = self.exchange(&at, &headers, body).await?;
            if !is_moved(&parts) {
                return outcome(&at, &parts, &answer);
            }
            at = at.moved(&parts, &self.config)?;
        }
        let why = format!("{} redirects without an end: stopped at {MAX_REDIRECTS}", target.url);
        Err(Status::new(Code::Unavailable, why))
    }

    /// One request and its answer.
    async fn exchange(
        &self,
        target: &Target,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(http::response::Parts, Bytes), Status> {
        let message = || {
            let mut message = http::Request::new(Full::new(body.clone()));
            *message.method_mut() = Method::POST;
            *message.uri_mut() = target.path.clone();
            *message.headers_mut() = headers.clone();
            message
        };
        let measured = Measured {
            observer: self.observer.as_ref(),
            started: self.observer.measures().then(Instant::now),
            endpoint: &target.connector.endpoint,
            bytes: body.len(),
            status: None,
        };
        // A kept connection may have been closed by the backend meanwhile, even while the request
        // is on its way; that is no answer, so the request goes out once more on a new one.
        if let Some(mut sender) = target.idle(self.keep).await {
            match sender.send_request(message()).await {
                Ok(response) => {
                    measured.answered(&response);
                    return self.answer(target, sender, response).await;
                }
                Err(error) => tracing::debug!(%error, "a kept connection was closed"),
            }
        }
        let mut sender = target.connect().await.map_err(|error| unavailable(target, &error))?;
        match sender.send_request(message()).await {
            Ok(response) => {
                measured.answered(&response);
                self.answer(target, sender, response).await
            }
            Err(error) => Err(unavailable(target, &error)),
        }
    }

    async fn answer(
        &self,
        target: &Target,
        sender: Sender,
        response: http::Response<Incoming>,
    ) -> Result<(http::response::Parts, Bytes), Status> {
        let (parts, body) = response.into_parts();
        let limit = if parts.status.is_success() { MAX_RESPONSE } else { MAX_ERROR };
        let (body, whole) = read(body, limit).await.map_err(|error| unavailable(target, &error))?;
        if whole {
            target.keep(sender, self.keep);
        }
        Ok((parts, body))
    }
}

impl Consumer for HttpClient {
    fn takes_closed(&self, compression: Compression) -> bool {
        self.encoding == JsonOrProto::Proto && compression == self.compression
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            let Some(target) = &self.targets[request.signal as usize] else {
                let message = format!("no endpoint is configured for {}", request.signal.name());
                return Err(Status::new(Code::Unimplemented, message));
            };
            let Some(limit) = self.timeout else {
                return self.export(target, &request).await;
            };
            match timeout(limit, self.export(target, &request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Status::new(
                    Code::DeadlineExceeded,
                    format!("{} did not answer within {limit:?}", target.url),
                )),
            }
        })
    }
}

// === impl Measured ===

impl Measured<'_> {
    /// It ends with the head of the answer.
    fn answered(mut self, response: &http::Response<Incoming>) {
        self.status = Some(response.status().as_u16());
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let Some(started) = self.started else { return };
        self.observer.exchanged(&Exchange {
            method: "POST",
            host: &self.endpoint.host,
            port: Some(self.endpoint.port),
            https: self.endpoint.tls,
            version: "1.1",
            status: self.status,
            request_bytes: self.bytes,
            response_bytes: 0,
            took: started.elapsed(),
        });
    }
}

// === impl Keep ===

impl Keep {
    fn new(config: &OtlpHttpConfig) -> Self {
        let unless_zero = |n: usize| if n == 0 { usize::MAX } else { n };
        let max =
            unless_zero(config.max_idle_conns).min(unless_zero(config.max_idle_conns_per_host));
        Keep {
            max: if config.disable_keep_alives { 0 } else { max },
            time: (!config.idle_conn_timeout.is_zero()).then_some(*config.idle_conn_timeout),
        }
    }
}

// === impl Target ===

impl Target {
    fn new(key: &'static str, url: String, config: &OtlpHttpConfig) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::http(key, &url)?;
        let wrong = |_| ConfigError::new(key, format!("{url:?} is no URL"));
        let host = HeaderValue::try_from(endpoint.host_header.as_str()).map_err(|_| wrong(()))?;
        let proxy = Proxy::of(&config.proxy_url, &endpoint, false)?;
        let connector = Connector::new(endpoint, &config.tls, b"http/1.1", proxy)?;
        let forwarding = connector.forwarding();
        let path = match forwarding {
            None => connector.endpoint.path.parse(),
            Some(_) => url.parse(),
        };
        let path = path.map_err(|_| wrong(()))?;
        let proxy_authorization = forwarding
            .and_then(|proxy| HeaderValue::try_from(proxy.authorization.as_deref()?).ok());
        let permits =
            (config.max_conns_per_host > 0).then(|| Semaphore::new(config.max_conns_per_host));
        let idle = Mutex::new(Vec::new());
        let moved = Mutex::default();
        Ok(Target { connector, url, path, host, proxy_authorization, idle, permits, moved })
    }

    /// Where a redirect leads. The last one is remembered, with its connections.
    fn moved(
        &self,
        parts: &http::response::Parts,
        config: &OtlpHttpConfig,
    ) -> Result<Arc<Target>, Status> {
        let location = parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default();
        let url = self.relative(location);
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = moved.as_ref().filter(|known| known.url == url) {
            return Ok(Arc::clone(known));
        }
        let target = Target::new("Location", url, config).map_err(|error| {
            let message = format!("{} redirects to where nothing can be: {error}", self.url);
            Status::new(Code::Unavailable, message)
        })?;
        if moved.is_none() {
            tracing::warn!(
                from = self.url,
                to = target.url,
                "The backend redirects. Each request is sent twice; write where to into the endpoint."
            );
        }
        Ok(Arc::clone(moved.insert(Arc::new(target))))
    }

    /// A reference to a URL, as one on this one's page.
    fn relative(&self, reference: &str) -> String {
        let endpoint = &self.connector.endpoint;
        let (scheme, host) = (endpoint.scheme(), endpoint.host_header.as_str());
        if reference.contains("://") {
            reference.to_owned()
        } else if reference.starts_with("//") {
            format!("{scheme}:{reference}")
        } else if reference.starts_with('/') {
            format!("{scheme}://{host}{reference}")
        } else {
            let path = endpoint.path.split('?').next().unwrap_or_default();
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{host}{folder}/{reference}")
        }
    }

    /// Whether what `other` may know is nothing new here: the same host or a part of it, and no less secret.
    fn is_trusted_like(&self, other: &Target) -> bool {
        let (here, there) = (&self.connector.endpoint, &other.connector.endpoint);
        let (name, of) = (here.host.to_ascii_lowercase(), there.host.to_ascii_lowercase());
        let within = || name.strip_suffix(&of).is_some_and(|part| part.ends_with('.'));
        (name == of || within()) && (here.tls || !there.tls)
    }

    /// A kept connection that is still open, the one used last.
    async fn idle(&self, keep: Keep) -> Option<Sender> {
        loop {
            let (mut sender, since) = self.idle.lock().ok()?.pop()?;
            if keep.time.is_none_or(|time| since.elapsed() < time) && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Sender, keep: Keep) {
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < keep.max
            && !sender.is_closed()
        {
            // The oldest is at the bottom, and the ones that nobody needed for so long with it.
            let old = |since: &Instant| keep.time.is_some_and(|time| since.elapsed() >= time);
            idle.retain(|(_, since)| !old(since));
            idle.push((sender, Instant::now()));
        }
    }

    async fn connect(&self) -> std::io::Result<Sender> {
        let stream = self.connector.connect().await?;
        let (sender, connection) =
            Builder::new().handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the backend ended");
            }
        });
        Ok(sender)
    }
}

// === answers ===

/// Whether the same request is to be sent elsewhere. Of the others that redirect, Go makes requests without
/// what is to be sent.
fn is_moved(parts: &http::response::Parts) -> bool {
    matches!(parts.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
        && parts.headers.contains_key(header::LOCATION)
}

fn outcome(target: &Target, parts: &http::response::Parts, body: &[u8]) -> Outcome {
    if parts.status.is_success() {
        return Ok(accepted(&parts.headers, body));
    }
    let mut status = refusal(&target.url, parts.status, &parts.headers, body);
    if parts.status.is_redirection()
        && let Some(to) = parts.headers.get(header::LOCATION).and_then(|to| to.to_str().ok())
    {
        status
            .message
            .push_str(&format!(": it is at {to}, which is what to write in the endpoint"));
    }
    Err(status)
}

/// Reads at most `limit` bytes; tells whether that was all.
async fn read(mut body: Incoming, limit: usize) -> Result<(Bytes, bool), hyper::Error> {
    let mut data = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            if data.len() + piece.len() > limit {
                data.extend_from_slice(&piece[..limit - data.len()]);
                return Ok((data.freeze(), false));
            }
            data.extend_from_slice(&piece);
        }
    }
    Ok((data.freeze(), true))
}

/// The backend has taken the request; an answer that cannot be read does not change that.
fn accepted(headers: &HeaderMap, body: &[u8]) -> Accepted {
    let accepted = match media_type(headers) {
        "application/x-protobuf" => decode_response(body).ok(),
        "application/json" => response_from_json(body),
        _ => None,
    };
    accepted.unwrap_or_default()
}

fn refusal(url: &str, http: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let told = match media_type(headers) {
        "application/json" => Status::from_json(body),
        // The Collector reads every other body as protobuf, whatever it claims to be.
        _ => Status::decode(body).ok(),
    };
    // The body's code is finer than HTTP's (503 is six codes), as long as the two agree.
    let told = told.filter(|status| status.http() == http.as_u16() && status.code != Code::Ok);
    let mut status = told.unwrap_or_else(|| {
        let text = std::str::from_utf8(body).unwrap_or_default().trim();
        let text = &text[..text.floor_char_boundary(1024)];
        let mut message =
            format!("request to {url} responded with HTTP Status Code {}", http.as_u16());
        if !text.is_empty() && text.chars().all(|c| !c.is_control() || c.is_whitespace()) {
            message.push_str(", Message=");
            message.push_str(text);
        }
        Status::new(Code::from_http(http.as_u16()), message)
    });
    // Of a refusal that is final nobody waits for the end.
    let asked =
        headers.get(header::RETRY_AFTER).filter(|_| matches!(http.as_u16(), 429 | 502..=504));
    let asked = asked.and_then(retry_after);
    let wait = match asked {
        Some(wait) => Some(wait.min(MAX_RETRY_AFTER)),
        None if http == StatusCode::TOO_MANY_REQUESTS => Some(DEFAULT_RETRY_AFTER),
        None => None,
    };
    if let Some(wait) = wait.filter(|_| asked.is_some() || status.retry_after.is_none()) {
        status.retry_after = Some(wait);
        if !status.raw.is_empty() {
            // The backend's own bytes do not say so yet. Protobuf's merge is concatenation: ours
            // behind theirs adds RetryInfo to the details and repeats the rest.
            let ours = Status { raw: Bytes::new(), ..status.clone() }.encode();
            status.raw = [&status.raw[..], &ours].concat().into();
        }
    }
    status
}

/// Seconds, or an HTTP date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(secs) = text.parse() {
        return Some(Duration::from_secs(secs));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

fn unavailable(target: &Target, error: &(dyn std::error::Error + 'static)) -> Status {
    let remedy = match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse() => {
            "; what answers does not speak HTTP/1.1: to a gRPC port, by custom 4317, otlp_grpc sends, and to one of TLS the endpoint is https://"
        }
        _ => "",
    };
    Status::new(
        Code::Unavailable,
        format!("failed to make an HTTP request to {}: {}{remedy}", target.url, describe(error)),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hyper::{server::conn::http1, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    struct Unseen;

    impl Observer for Unseen {
        fn sent(&self, _: Signal, _: usize) {}
        fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
        fn enqueue_failed(&self, _: Signal, _: usize) {}
    }

    type Seen = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

    /// A backend on some port of 127.0.0.1 that redirects these paths and takes all others.
    async fn backend(redirects: HashMap<&'static str, (u16, String)>) -> (u16, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let told = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (redirects, told) = (redirects.clone(), Arc::clone(&told));
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (redirects, told) = (redirects.clone(), Arc::clone(&told));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let path = parts.uri.path().to_owned();
                        let mut response = http::Response::new(Full::new(Bytes::new()));
                        if let Some((status, to)) = redirects.get(path.as_str()) {
                            *response.status_mut() = StatusCode::from_u16(*status).unwrap();
                            response.headers_mut().insert("location", to.parse().unwrap());
                        }
                        told.lock().unwrap().push((path, parts.headers, body));
                        Ok::<_, std::convert::Infallible>(response)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (port, seen)
    }

    fn client(port: u16, path: &str) -> HttpClient {
        let config = serde_json::json!({
            "traces_endpoint": format!("http://127.0.0.1:{port}{path}"),
            "headers": {"authorization": "Bearer secret", "x-tenant": "shop"},
            "compression": "none",
        });
        HttpClient::new(&serde_json::from_value(config).unwrap(), Arc::new(Unseen)).unwrap()
    }

    fn request() -> Request {
        Request::new(Signal::Traces, Bytes::from_static(b"\x0a\x00"), 0)
    }

    /// Guarantees: 307 and 308 are followed with the same body, relative or not, on kept connections; who we
    /// are is told to the same host only, other headers go along.
    #[tokio::test]
    async fn redirects_are_followed() {
        let (other, far) = backend(HashMap::new()).await;
        let (port, near) = backend(HashMap::from([
            ("/v1/traces", (307, "/moved?x=1".to_owned())),
            ("/moved", (308, "again".to_owned())),
            ("/away", (308, format!("http://localhost:{other}/v1/traces"))),
        ]))
        .await;
        let client_near = client(port, "/v1/traces");
        for _ in 0..2 {
            client_near.consume(request()).await.unwrap();
        }
        let seen: Vec<_> = near.lock().unwrap().drain(..).collect();
        let paths: Vec<_> = seen.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["/v1/traces", "/moved", "/again"].repeat(2));
        for (path, headers, body) in &seen {
            assert_eq!(body, &request().bytes, "{path}");
            assert_eq!(headers["authorization"], "Bearer secret", "{path}");
        }
        client(port, "/away").consume(request()).await.unwrap();
        let (_, headers, body) = far.lock().unwrap().pop().unwrap();
        assert_eq!((body, headers["x-tenant"].as_bytes()), (request().bytes, &b"shop"[..]));
        assert!(!headers.contains_key("authorization"));
        assert_eq!(headers["host"], format!("localhost:{other}"));
    }

    /// Guarantees: redirects in a circle end, and nothing is lost by them; the other redirects are refusals
    /// that say where the backend is.
    #[tokio::test]
    async fn redirects_end() {
        let (port, seen) = backend(HashMap::from([
            ("/a", (307, "/b".to_owned())),
            ("/b", (307, "/a".to_owned())),
            ("/nowhere", (307, "ftp://x/".to_owned())),
            ("/old", (301, "https://new.test/v1/traces".to_owned())),
        ]))
        .await;
        let status = client(port, "/a").consume(request()).await.unwrap_err();
        assert!(status.is_retryable() && status.message.contains("redirects"), "{status:?}");
        assert_eq!(seen.lock().unwrap().len(), 1 + MAX_REDIRECTS);
        let status = client(port, "/nowhere").consume(request()).await.unwrap_err();
        assert!(status.is_retryable() && status.message.contains("ftp://x/"), "{status:?}");
        let status = client(port, "/old").consume(request()).await.unwrap_err();
        assert!(!status.is_retryable(), "{status:?}");
        assert!(status.message.contains("https://new.test/v1/traces"), "{}", status.message);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        assert_eq!(retry_after(&value("17")), Some(Duration::from_secs(17)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        let wait = retry_after(&value(&soon)).unwrap();
        assert!((55..=60).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(retry_after(&value("Wed, 21 Oct 2015 07:28:00 GMT")), Some(Duration::ZERO));
        assert_eq!(retry_after(&value("soon")), None);
    }
}
