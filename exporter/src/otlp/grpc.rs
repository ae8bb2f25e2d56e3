//! OTLP/gRPC client: what a request looks like, and what its answer means.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tapio_proto::{
    Accepted, Code, Consumer, Outcome, Pending, Request, Signal, Status, decode_response,
    transport::{Compression, grpc},
};
use tapio_receiver::Timers;
use tokio::time::Instant;

use super::{
    OtlpGrpcConfig, client_auth,
    connection::{Traffic, lock},
    pool::Pool,
};
use crate::{
    net::{ClientAuth, ConfigError, Connector, Endpoint, Proxy, USER_AGENT, header_map},
    send::Observer,
};

/// Largest answer that is read (OTLP specification: 4 MiB recommended).
const MAX_RESPONSE: usize = 4 << 20;

/// Sends requests to one backend.
pub(super) struct GrpcClient {
    pool: Arc<Pool>,
    auth: Option<Arc<dyn ClientAuth>>,
    observer: Arc<dyn Observer>,
    compression: Compression,
    /// For one attempt, if there is a limit.
    timeout: Option<Duration>,
    headers: HeaderMap,
    uris: [Uri; Signal::ALL.len()],
    timers: Timers,
}

impl GrpcClient {
    pub(super) fn new(
        config: &OtlpGrpcConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::grpc(&config.endpoint, config.tls.insecure)?;
        let authority = config.authority.clone().unwrap_or_else(|| endpoint.host_header.clone());
        let uri = |signal: Signal| {
            let url = format!("{}://{authority}{}", endpoint.scheme(), signal.grpc_path());
            url.parse::<Uri>().map_err(|_| {
                ConfigError::new("authority", format!("{authority:?} is no host or host:port"))
            })
        };
        let [traces, metrics, logs, profiles] = Signal::ALL.map(uri);
        let uris = [traces?, metrics?, logs?, profiles?];
        let compression = match config.compression {
            Compression::Snappy => Compression::SnappyFramed,
            Compression::None | Compression::Gzip | Compression::Zstd => config.compression,
            _ => {
                let why = "gRPC knows gzip, snappy, zstd and none";
                return Err(ConfigError::new("compression", why));
            }
        };
        let agent = config.user_agent.as_deref().unwrap_or(USER_AGENT);
        let mut headers = header_map(&config.headers)?;
        let agent = HeaderValue::try_from(agent)
            .map_err(|_| ConfigError::new("user_agent", "holds a control character"))?;
        headers.insert(header::USER_AGENT, agent);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let accept = HeaderValue::from_static("identity,gzip,zstd,snappy");
        headers.insert("grpc-accept-encoding", accept);
        if compression != Compression::None {
            let name = HeaderValue::from_static(compression.grpc_name());
            headers.insert("grpc-encoding", name);
        }
        let timeout = (!config.timeout.is_zero()).then_some(*config.timeout);
        if let Some(timeout) = timeout
            && let Ok(value) = HeaderValue::try_from(grpc::format_timeout(timeout))
        {
            headers.insert("grpc-timeout", value);
        }
        let auth = client_auth(config.auth.as_ref())?;
        if auth.as_ref().is_some_and(|auth| auth.needs_tls()) && !endpoint.tls {
            let why = "grpc: the credentials require transport level security (use grpc.WithTransportCredentials() to set)";
            return Err(ConfigError::new("auth", why));
        }
        let proxy = Proxy::of("", &endpoint, true)?;
        let connector = Connector::new(endpoint, &config.tls, b"h2", proxy)?;
        let spread = match config.balancer_name.as_str() {
            // Without a name grpc-go picks the first.
            "round_robin" => true,
            "pick_first" | "" => false,
            other => {
                let why =
                    format!("invalid balancer_name: {other} (expected round_robin or pick_first)");
                return Err(ConfigError::new("balancer_name", why));
            }
        };
        Ok(GrpcClient {
            pool: Pool::new(connector, config.keepalive.clone(), spread),
            auth,
            observer,
            compression,
            timeout,
            headers,
            uris,
            timers: Timers::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// `used` is told of the connection that the request is on.
    async fn export(&self, request: &Request, used: &Mutex<Option<Arc<Traffic>>>) -> Outcome {
        let compressed = self.compression != Compression::None;
        let body = super::compressed(request, self.compression, None)?;
        let len = u32::try_from(body.len()).map_err(|_| {
            Status::new(Code::InvalidArgument, "the request is larger than gRPC's 4 GiB")
        })?;
        let prefix = grpc::prefix(compressed, len);
        // A connection may turn out to be closed; a request that never left is sent on another one.
        let mut last = None;
        for _ in 0..2 {
            let connection = self.pool.connection().await?;
            let traffic = connection.traffic();
            *lock(used) = Some(Arc::clone(&traffic));
            match connection.send(self.head(request)?, prefix, &body, answer).await {
                Ok(outcome) => {
                    traffic.answered(true);
                    return outcome;
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| unavailable("no connection"), |error| broken(&error)))
    }

    async fn in_time(&self, request: &Request) -> Outcome {
        let used = Mutex::new(None);
        let Some(limit) = self.timeout else {
            return self.export(request, &used).await;
        };
        if let Some(outcome) = self.timers.start(limit).limit(self.export(request, &used)).await {
            return outcome;
        }
        let traffic = lock(&used).take();
        let message = match traffic {
            Some(traffic) => {
                traffic.answered(false);
                format!("{} did not answer within {limit:?}", self.pool.backend())
            }
            None => format!("no connection to {} within {limit:?}", self.pool.backend()),
        };
        Err(Status::new(Code::DeadlineExceeded, message))
    }

    fn head(&self, request: &Request) -> Result<http::Request<()>, Status> {
        let mut head = http::Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.uris[request.signal as usize].clone();
        *head.headers_mut() = self.headers.clone();
        if let Some(auth) = &self.auth {
            auth.apply(head.headers_mut(), request.metadata.as_deref())?;
        }
        Ok(head)
    }
}

impl Consumer for GrpcClient {
    fn takes_closed(&self, compression: Compression) -> bool {
        compression == self.compression
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            let started = self.observer.measures().then(Instant::now);
            let outcome = self.in_time(&request).await;
            if let Some(started) = started {
                let code = outcome.as_ref().map_or_else(|status| status.code, |_| Code::Ok);
                self.observer.called(request.signal, code, started.elapsed());
            }
            outcome
        })
    }
}

// === answers ===

/// What the backend said. Whatever is not a clear answer may be tried again.
async fn answer(response: http::Response<RecvStream>) -> Outcome {
    let (parts, mut body) = response.into_parts();
    if let Some(code) = grpc_code(&parts.headers) {
        return finish(code, &parts.headers, Bytes::new(), None);
    }
    if parts.status != StatusCode::OK {
        let remedy = match parts.status.as_u16() {
            404 | 405 | 415 => {
                "; is this its gRPC port? OTLP over HTTP is what otlp_http sends, by custom to port 4318"
            }
            _ => "",
        };
        let status = parts.status;
        let message = format!("unexpected HTTP status code received from server: {status}{remedy}");
        return Err(Status::new(code_of_http(parts.status), message));
    }
    let encoding = parts.headers.get("grpc-encoding").cloned();
    let mut data = BytesMut::new();
    let mut whole = true;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|error| broken(&error))?;
        body.flow_control().release_capacity(piece.len()).map_err(|error| broken(&error))?;
        if data.len() + piece.len() > MAX_RESPONSE {
            // What it says is lost, whether it says OK is not.
            data.clear();
            whole = false;
        } else if whole {
            data.extend_from_slice(&piece);
        }
    }
    let trailers = body.trailers().await.map_err(|error| broken(&error))?.unwrap_or_default();
    match grpc_code(&trailers) {
        Some(code) => finish(code, &trailers, data.freeze(), encoding.as_ref()),
        None => Err(unavailable("server closed the stream without sending trailers")),
    }
}

fn finish(code: i32, headers: &HeaderMap, body: Bytes, encoding: Option<&HeaderValue>) -> Outcome {
    if code == 0 {
        return Ok(accepted(body, encoding));
    }
    let code = Code::from_i32(code);
    let message = headers.get("grpc-message").map(|value| grpc::decode_message(value.as_bytes()));
    let message = message.unwrap_or_default();
    let details = headers
        .get("grpc-status-details-bin")
        .and_then(|value| grpc::decode_bin(value.as_bytes()))
        .and_then(|bytes| Status::decode(&bytes).ok())
        .filter(|status| status.code == code);
    Err(details.unwrap_or_else(|| Status::new(code, message)))
}

/// The backend has taken the request; an answer that cannot be read does not change that.
fn accepted(mut body: Bytes, encoding: Option<&HeaderValue>) -> Accepted {
    let Some(prefix) = body.first_chunk().copied() else {
        return Accepted::default();
    };
    let (flag, _) = grpc::parse_prefix(prefix);
    body.advance(grpc::PREFIX_LEN);
    let name = encoding.filter(|_| flag == 1).map_or("", |value| value.to_str().unwrap_or("?"));
    let message = Compression::from_grpc_name(name)
        .and_then(|compression| compression.decompress(body, MAX_RESPONSE).ok());
    match message.map(|message| decode_response(&message)) {
        Some(Ok(accepted)) => accepted,
        _ => {
            tracing::debug!("the backend's answer could not be read; it said OK");
            Accepted::default()
        }
    }
}

fn grpc_code(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// grpc/doc/http-grpc-status-mapping.md
fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

pub(super) fn unavailable(message: &str) -> Status {
    Status::new(Code::Unavailable, message)
}

/// The connection broke before there was an answer.
pub(super) fn broken(error: &h2::Error) -> Status {
    unavailable(&describe(error))
}

/// An error with its causes: its own text is often only "http2 error".
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
