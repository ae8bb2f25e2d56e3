//! OTLP/HTTP, protobuf and JSON; status codes and bodies as the Collector answers, but for one:
//! a body over the limit is 413, as the OTLP specification has it, where the Collector says 400.
//! Clients treat the two alike.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use http_body::Body;
use hyper::body::Incoming;
use tapio_proto::{
    Accepted, Code, Signal, Status, encode_response, json, response_to_json,
    transport::{Compression, DecompressError, Exchange, grpc, split_host_port},
};

use super::{
    Cors, HttpConfig, Limit, Transport,
    body::{BodyError, Message, Reader, Unpacking, swallow},
    config::unless_zero,
    intake::{Intake, NoRoom},
    metadata,
};
use crate::{
    auth::{Attributes, Authenticator},
    net::{Handler, Reply},
};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const TEXT_UTF8: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const VARY: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
);

/// The HTTP door.
pub(super) struct Http {
    intake: Arc<Intake>,
    tls: bool,
    paths: [(String, Signal); 4],
    max_body: usize,
    read_timeout: Option<Duration>,
    cors: Option<Cors>,
    auth: Option<Arc<dyn Authenticator>>,
    /// Parameters of the URL that stand for headers.
    request_params: Vec<HeaderName>,
    include_metadata: bool,
    response_headers: HeaderMap,
    /// Values of `content-encoding` that are taken; all when absent.
    compressions: Option<Vec<String>>,
}

/// The encodings of a request's and its response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Proto,
    Json,
}

/// Why a request is refused, with the HTTP status where the one of [`Status::http`] is not meant.
struct Refusal {
    status: Status,
    http: Option<StatusCode>,
    limit: Option<Limit>,
}

impl Http {
    pub(super) fn new(
        config: &HttpConfig,
        auth: Option<Arc<dyn Authenticator>>,
        intake: Arc<Intake>,
    ) -> Result<Self, (&'static str, String)> {
        let path = |path: &String, signal: Signal| match path.strip_prefix('/') {
            Some(_) => (path.clone(), signal),
            None => (format!("/{path}"), signal),
        };
        let mut response_headers = HeaderMap::new();
        for (name, value) in &config.response_headers {
            let fail = |what| ("response_headers", format!("{name:?} is no {what}"));
            let key = HeaderName::try_from(name.as_str()).map_err(|_| fail("header name"))?;
            let value = HeaderValue::try_from(value.as_str())
                .map_err(|_| fail("header with such a value"))?;
            response_headers.insert(key, value);
        }
        let params = config.auth.iter().flat_map(|auth| &auth.request_params);
        let request_params = params
            .map(|name| {
                HeaderName::try_from(name.as_str())
                    .map_err(|_| ("auth", format!("request_params: {name:?} is no header name")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Http {
            intake,
            tls: config.tls.is_some(),
            paths: [
                path(&config.traces_url_path, Signal::Traces),
                path(&config.metrics_url_path, Signal::Metrics),
                path(&config.logs_url_path, Signal::Logs),
                path(&config.profiles_url_path, Signal::Profiles),
            ],
            max_body: config.max_body(),
            read_timeout: unless_zero(config.read_timeout),
            cors: config.cors.clone(),
            auth,
            request_params,
            include_metadata: config.include_metadata,
            response_headers,
            compressions: config.compression_algorithms.clone(),
        })
    }
}

impl Handler for Http {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
    ) -> Response<Reply> {
        let Some(started) = self.intake.clock() else {
            return self.serve(request, peer, None).await;
        };
        let (method, version) = (request.method().clone(), request.version());
        let authority = authority(&request).to_owned();
        let read = AtomicUsize::new(0);
        let response = self.serve(request, peer, Some(&read)).await;
        let (host, port) = split_host_port(&authority);
        self.intake.exchanged(&Exchange {
            method: method.as_str(),
            host,
            port,
            https: self.tls,
            version: match version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2.0",
                _ => "1.1",
            },
            status: Some(response.status().as_u16()),
            request_bytes: read.into_inner(),
            response_bytes: response.body().data.as_ref().map_or(0, Bytes::len),
            took: started.elapsed(),
        });
        response
    }

    fn limited(&self, limit: Limit) {
        self.intake.limited(Transport::Http, limit);
    }
}

impl Http {
    /// `read` counts what is read of the body.
    async fn serve(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        read: Option<&AtomicUsize>,
    ) -> Response<Reply> {
        let allowed = self
            .cors
            .as_ref()
            .and_then(|cors| Some((cors, cors.allowed_origin(request.headers())?)));
        let preflight = self.cors.is_some() && is_preflight(&request);
        let mut response = match &allowed {
            Some((cors, _)) if preflight => cors.preflight(request.headers()),
            // A browser that is told nothing lets nothing through.
            None if preflight => empty(StatusCode::NO_CONTENT),
            _ => match self.authenticate(&request).await {
                Ok(attributes) => self.post(request, attributes, peer, read).await,
                Err(response) => response,
            },
        };
        let headers = response.headers_mut();
        // Caches have to know upon what an answer depends.
        if self.cors.is_some() {
            headers.append(header::VARY, if preflight { VARY_PREFLIGHT } else { VARY });
        }
        if let Some((cors, origin)) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            if let Ok(exposed) = HeaderValue::try_from(cors.exposed_headers.join(", "))
                && !exposed.is_empty()
            {
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            }
        }
        for (name, value) in &self.response_headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        response
    }

    async fn authenticate(
        &self,
        request: &Request<Incoming>,
    ) -> Result<Attributes, Response<Reply>> {
        let Some(auth) = &self.auth else { return Ok(Attributes::new()) };
        let mut headers = Cow::Borrowed(request.headers());
        for name in &self.request_params {
            if let Some(value) = parameter(request.uri().query().unwrap_or_default(), name) {
                headers.to_mut().append(name, value);
            }
        }
        auth.authenticate(&headers).await.map_err(|message| {
            self.limited(Limit::Auth);
            match Encoding::of(request.headers()) {
                Some(encoding) => {
                    encoding.refuse(&Status::new(Code::Unauthenticated, message).into())
                }
                None => text(StatusCode::UNAUTHORIZED, message),
            }
        })
    }

    async fn post(
        &self,
        request: Request<Incoming>,
        attributes: Attributes,
        peer: Option<IpAddr>,
        read: Option<&AtomicUsize>,
    ) -> Response<Reply> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let signal =
            self.paths.iter().find(|(served, _)| served == path).map(|(_, signal)| *signal);
        let Some(signal) = signal.filter(|signal| self.intake.serves(*signal)) else {
            let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n");
            // As Go's own answer has it.
            response.headers_mut().insert(header::CONTENT_TYPE, TEXT_UTF8);
            let no_sniffing = HeaderValue::from_static("nosniff");
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, no_sniffing);
            return response;
        };
        if parts.method != Method::POST {
            let body = "405 method not allowed, supported: [POST]";
            return text(StatusCode::METHOD_NOT_ALLOWED, body);
        }
        let Some(encoding) = Encoding::of(&parts.headers) else {
            let body =
                "415 unsupported media type, supported: [application/json, application/x-protobuf]";
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, body);
        };
        let mut counted = self.intake.counted(signal, Transport::Http);
        match self.request(signal, encoding, &parts, body, read).await {
            Err(refusal) => {
                if let Some(limit) = refusal.limit {
                    self.limited(limit);
                }
                if matches!(refusal.limit, Some(Limit::Room)) {
                    counted.refused();
                }
                encoding.refuse(&refusal)
            }
            Ok(message) => {
                let metadata = metadata(self.include_metadata, &parts.headers, attributes, peer);
                match counted.consume(message, metadata).await {
                    Ok(accepted) => encoding.accept(signal, &accepted),
                    Err(status) => encoding.refuse(&status.into()),
                }
            }
        }
    }

    /// Reads a body whole, decompressed unless nobody wants to look into it, as protobuf.
    async fn request(
        &self,
        signal: Signal,
        encoding: Encoding,
        parts: &Parts,
        body: Incoming,
        read: Option<&AtomicUsize>,
    ) -> Result<Message, Refusal> {
        let compression = self.compression(&parts.headers)?;
        let announced =
            body.size_hint().exact().map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        if announced.is_some_and(|len| len > self.max_body) {
            // Who expects to be asked for the body first has sent none of it yet.
            if !parts.headers.contains_key(header::EXPECT) {
                swallow(body).await;
            }
            return Err(too_large(self.max_body));
        }
        let mut reader = Reader::new(body, self.max_body, self.read_timeout, &self.intake, read);
        let first = reader.next().await?.unwrap_or_default();
        let message = reader.rest(first, announced.unwrap_or(0)).await?;
        if encoding == Encoding::Proto && self.intake.passes_closed(signal, compression) {
            return Ok(message.closed(compression));
        }
        let mut message = message.decompressed(compression, self.max_body).await?;
        if encoding == Encoding::Json {
            message.room.grow(self.max_body).await?;
            message.bytes = json::to_proto(signal, &message.bytes)
                .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
            if message.bytes.len() > self.max_body {
                return Err(too_large(self.max_body));
            }
            message.came = None;
            message.room.shrink(message.bytes.len());
        }
        Ok(message)
    }

    fn compression(&self, headers: &HeaderMap) -> Result<Compression, Status> {
        let name = headers.get(header::CONTENT_ENCODING).map_or("", |v| v.to_str().unwrap_or("?"));
        let taken = self.compressions.as_ref().is_none_or(|taken| taken.iter().any(|t| t == name));
        Compression::from_name(name).filter(|_| taken).ok_or_else(|| {
            Status::new(Code::InvalidArgument, format!("unsupported Content-Encoding: {name}"))
        })
    }
}

/// The server as the client names it.
fn authority(request: &Request<Incoming>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST).map_or("", |v| v.to_str().unwrap_or("")),
    }
}

/// The value of one parameter of a query, if it can be a header.
fn parameter(query: &str, name: &HeaderName) -> Option<HeaderValue> {
    let (_, value) = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| key.eq_ignore_ascii_case(name.as_str()))?;
    let value = grpc::decode_message(value.replace('+', " ").as_bytes());
    HeaderValue::try_from(value).ok()
}

impl Cors {
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let allowed = self.allowed_origins.iter().any(|pattern| match pattern.split_once('*') {
            None => pattern.eq_ignore_ascii_case(text),
            Some((start, end)) => {
                text.len() >= start.len() + end.len()
                    && text.starts_with(start)
                    && text.ends_with(end)
            }
        });
        allowed.then(|| origin.clone())
    }

    fn preflight(&self, headers: &HeaderMap) -> Response<Reply> {
        let mut response = empty(StatusCode::NO_CONTENT);
        let out = response.headers_mut();
        out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        let mut allowed = "content-type, content-encoding, accept, accept-language".to_owned();
        let any = self.allowed_headers.iter().any(|name| name == "*");
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        match asked.filter(|_| any).and_then(|value| value.to_str().ok()) {
            Some(asked) => asked.clone_into(&mut allowed),
            None => {
                for name in &self.allowed_headers {
                    allowed.push_str(", ");
                    allowed.push_str(name);
                }
            }
        }
        if let Ok(value) = HeaderValue::try_from(allowed) {
            out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
        if self.max_age > 0 {
            out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        }
        response
    }
}

fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    *response.status_mut() = status;
    response
}

fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn too_large(limit: usize) -> Refusal {
    let message = format!("request body too large: the limit is {limit} bytes");
    Refusal {
        status: Status::new(Code::ResourceExhausted, message),
        http: Some(StatusCode::PAYLOAD_TOO_LARGE),
        limit: Some(Limit::Size),
    }
}

// === impl Encoding ===

impl Encoding {
    /// From `content-type`, as MIME: any case, with or without parameters.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-protobuf") {
            Some(Encoding::Proto)
        } else if essence.eq_ignore_ascii_case("application/json") {
            Some(Encoding::Json)
        } else {
            None
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Encoding::Proto => "application/x-protobuf",
            Encoding::Json => "application/json",
        })
    }

    fn accept(self, signal: Signal, accepted: &Accepted) -> Response<Reply> {
        let body = match self {
            Encoding::Proto => encode_response(signal, accepted),
            Encoding::Json => Bytes::from(response_to_json(signal, accepted)),
        };
        self.respond(StatusCode::OK, body)
    }

    fn refuse(self, refusal: &Refusal) -> Response<Reply> {
        let status = &refusal.status;
        let http = refusal.http.unwrap_or_else(|| {
            StatusCode::from_u16(status.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        });
        let body = match self {
            Encoding::Proto => status.encode(),
            Encoding::Json => Bytes::from(status.to_json()),
        };
        let mut response = self.respond(http, body);
        let throttled =
            matches!(http, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if let Some(wait) = status.retry_after.filter(|_| throttled) {
            // Whole seconds, rounded up: a sender that comes early is refused again.
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }

    fn respond(self, status: StatusCode, body: Bytes) -> Response<Reply> {
        let mut response = Response::new(Reply::data(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, self.content_type());
        response
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Reply> {
    let mut response = Response::new(Reply::data(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

// === impl Refusal ===

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal { status, http: None, limit: None }
    }
}

impl From<NoRoom> for Refusal {
    fn from(error: NoRoom) -> Self {
        Refusal { status: error.into(), http: None, limit: Some(Limit::Room) }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => too_large(limit),
            BodyError::Broken(_) => Status::new(Code::InvalidArgument, error.to_string()).into(),
            BodyError::Slow(_) => Refusal {
                status: Status::new(Code::DeadlineExceeded, error.to_string()),
                http: None,
                limit: Some(Limit::Body),
            },
            BodyError::NoRoom(error) => error.into(),
        }
    }
}

impl From<Unpacking> for Refusal {
    fn from(error: Unpacking) -> Self {
        match error {
            Unpacking::NoRoom(error) => error.into(),
            Unpacking::Decompress(DecompressError::TooLarge { limit }) => too_large(limit),
            Unpacking::Decompress(error) => {
                Status::new(Code::InvalidArgument, error.to_string()).into()
            }
        }
    }
}
