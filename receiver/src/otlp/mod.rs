//! The `otlp` receiver: OTLP/gRPC and OTLP/HTTP, every signal by one path.
//!
//! A request's bytes are read, decompressed, checked and handed on; nothing is decoded. What the
//! next hop answers is what the sender is told.

mod body;
mod config;
mod grpc;
mod http;
mod intake;

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ::http::HeaderMap;
use bytes::Bytes;
use tapio_proto::{Code, Metadata, Next, Signal, transport::Exchange};
use tokio::{sync::watch, time::sleep};

pub use config::{
    AuthConfig, Cors, GrpcConfig, HttpAuthConfig, HttpConfig, Keepalive, KeepalivePolicy,
    KeepaliveServer, OtlpConfig, Protocols, Transports,
};

use self::{config::unless_zero, intake::Intake};
use crate::{
    auth::{Attributes, Authenticator},
    net::{BindError, Limits, Network, Server, ServerTls, Tls, TlsError, bind, serve},
};

/// For connections without a request in a pipeline, when the receiver stops.
const CONNECTIONS_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked then whether requests still are in a pipeline.
const LOOK: Duration = Duration::from_millis(20);
/// For the answers to those that were not done in time.
const ANSWERS_LIMIT: Duration = Duration::from_secs(1);

/// Where the requests of each signal go; a signal without a consumer is not served.
#[derive(Clone, Default)]
pub struct Consumers {
    /// Of the traces pipelines.
    pub traces: Option<Next>,
    /// Of the metrics pipelines.
    pub metrics: Option<Next>,
    /// Of the logs pipelines.
    pub logs: Option<Next>,
    /// Of the profiles pipelines.
    pub profiles: Option<Next>,
}

/// By which door a request came; the Collector's label `transport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP.
    Http,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The pipeline took it.
    Accepted,
    /// The pipeline refused it, or did not answer in time.
    Refused,
    /// It never reached the pipeline: malformed, too large, broken off.
    Malformed,
}

/// A bound that a peer ran into; the value of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No more connections, or no descriptor for one.
    Connections,
    /// A connection sent no request, or did not finish its TLS handshake, in time.
    Silence,
    /// A TLS handshake failed.
    Handshake,
    /// A request's head did not arrive in time.
    Head,
    /// A request's body did not arrive in time.
    Body,
    /// A request is too large, before or after decompression.
    Size,
    /// Too many bytes of requests in memory.
    Room,
    /// A peer did not take its answer.
    Stalled,
    /// The authenticator did not know the sender.
    Auth,
}

/// Who decides about senders; as the configuration's `auth` of each protocol names them.
#[derive(Clone, Default)]
pub struct Auth {
    /// For OTLP/gRPC.
    pub grpc: Option<Arc<dyn Authenticator>>,
    /// For OTLP/HTTP.
    pub http: Option<Arc<dyn Authenticator>>,
}

/// Is told about each request, for the Collector's own metrics.
pub trait Observer: Send + Sync + 'static {
    /// A request was answered. `items` is 0 when they could not be counted.
    fn received(&self, signal: Signal, transport: Transport, verdict: Verdict, items: usize);

    /// Whether anybody will see the numbers of items. If not, and no pipeline wants to look into a request,
    /// it may pass as it is, compressed and unchecked, with 0 items.
    fn wants_items(&self) -> bool {
        true
    }

    /// A peer ran into a bound. Its request, if there was one, is told by `received` as well.
    fn limited(&self, _transport: Transport, _limit: Limit) {}

    /// Whether calls and exchanges are wanted; it is asked for each, and nothing is measured for none.
    fn measures(&self) -> bool {
        false
    }

    /// A gRPC call of a method that is served ended so.
    fn called(&self, _signal: Signal, _code: Code, _took: Duration) {}

    /// An HTTP request was answered, whatever it was for.
    fn exchanged(&self, _exchange: &Exchange<'_>) {}
}

/// Starts the receiver.
#[derive(Debug)]
pub struct OtlpReceiver;

/// A receiver that runs.
#[derive(Debug)]
pub struct Handle {
    grpc: Option<Server>,
    http: Option<Server>,
    intake: Arc<Intake>,
}

/// Why the receiver did not start; one line, with the key that names the trouble.
#[derive(Debug, thiserror::Error)]
#[error("protocols::{protocol}::{key}: {why}")]
pub struct StartError {
    protocol: &'static str,
    key: &'static str,
    why: String,
}

// === impl Consumers ===

impl Consumers {
    /// The consumer of a signal.
    pub fn get(&self, signal: Signal) -> Option<&Next> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Logs => self.logs.as_ref(),
            Signal::Profiles => self.profiles.as_ref(),
        }
    }

    /// The same consumer for every signal.
    pub fn all(next: &Next) -> Self {
        let next = || Some(Arc::clone(next));
        Consumers { traces: next(), metrics: next(), logs: next(), profiles: next() }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("grpc", &self.grpc.is_some())
            .field("http", &self.http.is_some())
            .finish()
    }
}

impl std::fmt::Debug for Consumers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(Signal::ALL.iter().filter(|s| self.get(**s).is_some())).finish()
    }
}

// === impl Transport ===

impl Transport {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

// === impl Limit ===

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 9] = [
        Limit::Connections,
        Limit::Silence,
        Limit::Handshake,
        Limit::Head,
        Limit::Body,
        Limit::Size,
        Limit::Room,
        Limit::Stalled,
        Limit::Auth,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Silence => "silence",
            Limit::Handshake => "handshake",
            Limit::Head => "head_timeout",
            Limit::Body => "body_timeout",
            Limit::Size => "size",
            Limit::Room => "in_flight",
            Limit::Stalled => "stalled",
            Limit::Auth => "auth",
        }
    }
}

// === impl OtlpReceiver ===

impl OtlpReceiver {
    /// Binds the configured protocols and serves them. Either all of them run or none.
    pub async fn start(
        config: &OtlpConfig,
        consumers: Consumers,
        observer: Arc<dyn Observer>,
    ) -> Result<Handle, StartError> {
        Self::start_with(config, consumers, Auth::default(), observer).await
    }

    /// The same, with the authenticators that the configuration names.
    pub async fn start_with(
        config: &OtlpConfig,
        consumers: Consumers,
        auth: Auth,
        observer: Arc<dyn Observer>,
    ) -> Result<Handle, StartError> {
        let Protocols { grpc, http } = &config.protocols;
        let largest = grpc.as_ref().map_or(0, GrpcConfig::max_message);
        let largest = largest.max(http.as_ref().map_or(0, HttpConfig::max_body));
        let intake = Arc::new(Intake::new(consumers, observer, largest));
        let grpc = match grpc {
            Some(config) => Some(start_grpc(config, auth.grpc, &intake).await?),
            None => None,
        };
        let http = match http {
            Some(config) => Some(start_http(config, auth.http, &intake).await?),
            None => None,
        };
        Ok(Handle { grpc, http, intake })
    }
}

async fn start_grpc(
    config: &GrpcConfig,
    auth: Option<Arc<dyn Authenticator>>,
    intake: &Arc<Intake>,
) -> Result<Server, StartError> {
    let protocol = "grpc";
    let named = config.auth.as_ref().map(|auth| auth.authenticator.as_str());
    StartError::unless_resolved(protocol, named, auth.is_some())?;
    let tls = start_tls(protocol, config.tls.as_ref(), &[b"h2"])?;
    let listener = bind(config.transport.network(), &config.endpoint)
        .await
        .map_err(|e| StartError::bind(protocol, &e))?;
    let keepalive = &config.keepalive.server_parameters;
    let limits = Limits {
        http2_only: true,
        max_concurrent_streams: config.max_streams(),
        ping: keepalive.pings(),
        write_timeout: Some(Duration::from_secs(30)),
        max_idle: unless_zero(keepalive.max_connection_idle),
        max_age: unless_zero(keepalive.max_connection_age),
        max_age_grace: unless_zero(keepalive.max_connection_age_grace),
        ..Limits::default()
    };
    let grpc = grpc::Grpc {
        intake: Arc::clone(intake),
        max_message: config.max_message(),
        auth,
        include_metadata: config.include_metadata,
    };
    serve(listener, tls, limits, Arc::new(grpc)).map_err(|error| StartError::io(protocol, &error))
}

async fn start_http(
    config: &HttpConfig,
    auth: Option<Arc<dyn Authenticator>>,
    intake: &Arc<Intake>,
) -> Result<Server, StartError> {
    let protocol = "http";
    let named = config.auth.as_ref().map(|auth| auth.authenticator.as_str());
    StartError::unless_resolved(protocol, named, auth.is_some())?;
    let tls = start_tls(protocol, config.tls.as_ref(), &[b"h2", b"http/1.1"])?;
    let http = http::Http::new(config, auth, Arc::clone(intake))
        .map_err(|(key, why)| StartError { protocol, key, why })?;
    let listener = bind(config.transport.network(), &config.endpoint)
        .await
        .map_err(|e| StartError::bind(protocol, &e))?;
    let limits = Limits {
        header_timeout: unless_zero(config.read_header_timeout),
        keep_alive: config.keep_alives_enabled,
        max_concurrent_streams: Some(100),
        ping: KeepaliveServer::default().pings(),
        write_timeout: unless_zero(config.write_timeout),
        max_idle: unless_zero(config.idle_timeout),
        ..Limits::default()
    };
    serve(listener, tls, limits, Arc::new(http)).map_err(|error| StartError::io(protocol, &error))
}

fn start_tls(
    protocol: &'static str,
    config: Option<&ServerTls>,
    alpn: &[&[u8]],
) -> Result<Option<Tls>, StartError> {
    config
        .map(|tls| tls.clone().start(alpn))
        .transpose()
        .map_err(|error| StartError::tls(protocol, &error))
}

/// What goes through the pipeline with a request, if somebody asked for it.
fn metadata(
    include: bool,
    headers: &HeaderMap,
    auth: Attributes,
    peer: Option<IpAddr>,
) -> Option<Arc<Metadata>> {
    if !include && auth.is_empty() {
        return None;
    }
    let mut kept = Vec::new();
    if include {
        for (name, value) in headers {
            kept.push((name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    Some(Arc::new(Metadata { headers: kept, auth, peer }))
}

impl Transports {
    fn network(self) -> Network {
        match self {
            Transports::Tcp => Network::Tcp,
            Transports::Tcp4 => Network::Tcp4,
            Transports::Tcp6 => Network::Tcp6,
            Transports::Unix => Network::Unix,
        }
    }
}

// === impl StartError ===

impl StartError {
    fn unless_resolved(
        protocol: &'static str,
        named: Option<&str>,
        resolved: bool,
    ) -> Result<(), StartError> {
        match named {
            Some(name) if !resolved => Err(StartError {
                protocol,
                key: "auth",
                why: format!(
                    "failed to resolve authenticator {name:?}: authenticator not found; name it in service::extensions"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn bind(protocol: &'static str, error: &BindError) -> Self {
        StartError { protocol, key: "endpoint", why: error.to_string() }
    }

    fn io(protocol: &'static str, error: &std::io::Error) -> Self {
        StartError { protocol, key: "endpoint", why: error.to_string() }
    }

    fn tls(protocol: &'static str, error: &TlsError) -> Self {
        StartError { protocol, key: "tls", why: error.to_string() }
    }
}

// === impl Handle ===

impl Handle {
    /// The address of OTLP/gRPC, if it is served over TCP; with the port that was given for port 0.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().and_then(|server| server.address)
    }

    /// The address of OTLP/HTTP, if it is served over TCP; with the port that was given for port 0.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|server| server.address)
    }

    /// Stops accepting, tells peers to go away (GOAWAY, `connection: close`), and waits at most
    /// `limit` for the requests under way. Returns how many connections had to be cut.
    pub async fn shutdown(self, limit: Duration) -> usize {
        self.shutdown_when(sleep(limit)).await
    }

    /// The same, until it is late. Requests that are in a pipeline then are refused, so that their senders
    /// come again; for connections without one nobody waits long.
    pub async fn shutdown_when(self, late: impl Future<Output = ()>) -> usize {
        let Handle { grpc, http, intake } = self;
        grpc.iter().chain(&http).for_each(Server::drain);
        let (told, all_told) = watch::channel(false);
        let ended = |server: Option<Server>| {
            let mut all_told = all_told.clone();
            async move {
                let Some(server) = server else { return 0 };
                // The sender lives as long as this.
                server.ended(async { drop(all_told.wait_for(|told| *told).await) }).await
            }
        };
        let ended = async { tokio::join!(ended(grpc), ended(http)) };
        let tell = async {
            let idle = async {
                sleep(CONNECTIONS_LIMIT).await;
                while intake.is_busy() {
                    sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = late => {}
                () = idle => {}
            }
            intake.refuse_the_rest();
            sleep(ANSWERS_LIMIT).await;
            told.send_replace(true);
        };
        let mut ended = pin!(ended);
        let (grpc, http) = tokio::select! {
            cut = ended.as_mut() => cut,
            () = tell => ended.await,
        };
        grpc + http
    }
}
