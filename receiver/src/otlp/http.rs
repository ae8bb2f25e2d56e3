//! OTLP/HTTP, protobuf and JSON; status codes and bodies as the Collector answers, but for one:
//! a body over the limit is 413, as the OTLP specification has it, where the Collector says 400.
//! Clients treat the two alike.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use hyper::body::Incoming;
use tapio_proto::{
    Accepted, Code, Signal, Status, encode_response, json, response_to_json,
    transport::{Compression, DecompressError},
};

use super::{
    Cors, HttpConfig, Transport,
    body::{BodyError, Reader},
    intake::{Intake, Room},
};
use crate::net::Reply;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// The HTTP door.
pub(super) struct Http {
    intake: Arc<Intake>,
    paths: [(String, Signal); 4],
    max_body: usize,
    read_timeout: Duration,
    cors: Cors,
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
}

impl Http {
    pub(super) fn new(config: &HttpConfig, intake: Arc<Intake>) -> Self {
        Http {
            intake,
            paths: [
                (config.traces_url_path.clone(), Signal::Traces),
                (config.metrics_url_path.clone(), Signal::Metrics),
                (config.logs_url_path.clone(), Signal::Logs),
                (config.profiles_url_path.clone(), Signal::Profiles),
            ],
            max_body: usize::try_from(config.max_request_body_size).unwrap_or(usize::MAX),
            read_timeout: *config.read_timeout,
            cors: config.cors.clone(),
        }
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        let origin = self.allowed_origin(request.headers());
        let mut response = match &origin {
            Some(_) if is_preflight(&request) => self.preflight(request.headers()),
            _ => self.post(request).await,
        };
        if let Some(origin) = origin {
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
        }
        response
    }

    async fn post(&self, request: Request<Incoming>) -> Response<Reply> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let signal =
            self.paths.iter().find(|(served, _)| served == path).map(|(_, signal)| *signal);
        let Some(signal) = signal.filter(|signal| self.intake.serves(*signal)) else {
            return text(StatusCode::NOT_FOUND, "404 page not found");
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
        match self.request(signal, encoding, &parts, body).await {
            Err(refusal) => {
                self.intake.malformed(signal, Transport::Http);
                encoding.refuse(&refusal)
            }
            Ok((bytes, _room)) => match self.intake.consume(signal, Transport::Http, bytes).await {
                Ok(accepted) => encoding.accept(signal, &accepted),
                Err(status) => encoding.refuse(&status.into()),
            },
        }
    }

    /// Reads a body whole, decompressed, as protobuf.
    async fn request(
        &self,
        signal: Signal,
        encoding: Encoding,
        parts: &Parts,
        body: Incoming,
    ) -> Result<(Bytes, Room), Refusal> {
        let compression = compression(&parts.headers)?;
        let announced =
            body.size_hint().exact().map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        if announced.is_some_and(|len| len > self.max_body) {
            return Err(too_large(self.max_body));
        }
        let copies =
            usize::from(compression != Compression::None) + usize::from(encoding == Encoding::Json);
        let most = copies.saturating_mul(self.max_body);
        let most = most.saturating_add(announced.unwrap_or(self.max_body));
        let mut room = self.intake.room(most).await?;
        let mut reader = Reader::new(body, self.max_body, self.read_timeout);
        let whole = match reader.next().await? {
            None => Bytes::new(),
            Some(first) => reader.rest(first, announced.unwrap_or(0)).await?,
        };
        let whole = compression.decompress(whole, self.max_body)?;
        let bytes = match encoding {
            Encoding::Proto => whole,
            Encoding::Json => json::to_proto(signal, &whole)
                .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?,
        };
        room.shrink(bytes.len());
        Ok((bytes, room))
    }

    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let allowed =
            self.cors.allowed_origins.iter().any(|pattern| match pattern.split_once('*') {
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
        let mut response = Response::new(Reply::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let out = response.headers_mut();
        out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        let mut allowed = "content-type, content-encoding, accept, accept-language".to_owned();
        let any = self.cors.allowed_headers.iter().any(|name| name == "*");
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        match asked.filter(|_| any).and_then(|value| value.to_str().ok()) {
            Some(asked) => asked.clone_into(&mut allowed),
            None => {
                for name in &self.cors.allowed_headers {
                    allowed.push_str(", ");
                    allowed.push_str(name);
                }
            }
        }
        if let Ok(value) = HeaderValue::try_from(allowed) {
            out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
        if self.cors.max_age > 0 {
            out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.cors.max_age));
        }
        response
    }
}

fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn compression(headers: &HeaderMap) -> Result<Compression, Status> {
    let name = headers.get(header::CONTENT_ENCODING).map_or("", |v| v.to_str().unwrap_or("?"));
    Compression::from_name(name).ok_or_else(|| {
        Status::new(Code::InvalidArgument, format!("unsupported Content-Encoding: {name}"))
    })
}

fn too_large(limit: usize) -> Refusal {
    let message = format!("request body too large: the limit is {limit} bytes");
    Refusal {
        status: Status::new(Code::ResourceExhausted, message),
        http: Some(StatusCode::PAYLOAD_TOO_LARGE),
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

fn text(status: StatusCode, body: &'static str) -> Response<Reply> {
    let mut response = Response::new(Reply::data(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

// === impl Refusal ===

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal { status, http: None }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => too_large(limit),
            BodyError::Broken(_) => Status::new(Code::InvalidArgument, error.to_string()).into(),
            BodyError::Slow(_) => Status::new(Code::DeadlineExceeded, error.to_string()).into(),
        }
    }
}

impl From<DecompressError> for Refusal {
    fn from(error: DecompressError) -> Self {
        match error {
            DecompressError::TooLarge { limit } => too_large(limit),
            error => Status::new(Code::InvalidArgument, error.to_string()).into(),
        }
    }
}
