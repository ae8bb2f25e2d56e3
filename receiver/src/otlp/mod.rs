//! The `otlp` receiver: OTLP/gRPC and OTLP/HTTP, every signal by one path.
//!
//! A request's bytes are read, decompressed, checked and handed on; nothing is decoded. What the
//! next hop answers is what the sender is told.

mod body;
mod config;
mod grpc;
mod http;
mod intake;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tapio_proto::{Next, Signal};

pub use config::{
    Cors, GrpcConfig, HttpConfig, Keepalive, KeepaliveServer, OtlpConfig, Protocols, Transports,
};

use self::intake::Intake;
use crate::net::{BindError, Limits, Server, TlsError, bind, serve};

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

/// Is told about each request, for the Collector's own metrics.
pub trait Observer: Send + Sync + 'static {
    /// A request was answered. `items` is 0 when they could not be counted.
    fn received(&self, signal: Signal, transport: Transport, verdict: Verdict, items: usize);
}

/// Starts the receiver.
#[derive(Debug)]
pub struct OtlpReceiver;

/// A receiver that runs.
#[derive(Debug)]
pub struct Handle {
    grpc: Option<Server>,
    http: Option<Server>,
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

// === impl OtlpReceiver ===

impl OtlpReceiver {
    /// Binds the configured protocols and serves them. Either all of them run or none.
    pub async fn start(
        config: &OtlpConfig,
        consumers: Consumers,
        observer: Arc<dyn Observer>,
    ) -> Result<Handle, StartError> {
        let protocols = &config.protocols;
        let intake = Arc::new(Intake::new(consumers, observer));
        let grpc = match &protocols.grpc {
            Some(config) => Some(start_grpc(config, &intake).await?),
            None => None,
        };
        let http = match &protocols.http {
            Some(config) => Some(start_http(config, &intake).await?),
            None => None,
        };
        Ok(Handle { grpc, http })
    }
}

async fn start_grpc(config: &GrpcConfig, intake: &Arc<Intake>) -> Result<Server, StartError> {
    let protocol = "grpc";
    let tls = config.tls.as_ref().map(|tls| tls.acceptor(&[b"h2"])).transpose();
    let tls = tls.map_err(|error| StartError::tls(protocol, &error))?;
    let listener = bind(&config.endpoint).await.map_err(|e| StartError::bind(protocol, &e))?;
    let keepalive = &config.keepalive.server_parameters;
    let limits = Limits {
        http2_only: true,
        header_timeout: Duration::from_secs(30),
        max_concurrent_streams: config.max_concurrent_streams.max(1),
        ping_interval: *keepalive.time,
        ping_timeout: *keepalive.timeout,
    };
    let max_message = (config.max_recv_msg_size_mib as usize) << 20;
    let grpc = Arc::new(grpc::Grpc { intake: Arc::clone(intake), max_message });
    serve(listener, tls, &limits, move |request| Arc::clone(&grpc).answer(request))
        .map_err(|error| StartError::io(protocol, &error))
}

async fn start_http(config: &HttpConfig, intake: &Arc<Intake>) -> Result<Server, StartError> {
    let protocol = "http";
    let tls = config.tls.as_ref().map(|tls| tls.acceptor(&[b"h2", b"http/1.1"])).transpose();
    let tls = tls.map_err(|error| StartError::tls(protocol, &error))?;
    let listener = bind(&config.endpoint).await.map_err(|e| StartError::bind(protocol, &e))?;
    let keepalive = KeepaliveServer::default();
    let limits = Limits {
        http2_only: false,
        header_timeout: *config.read_header_timeout,
        max_concurrent_streams: 100,
        ping_interval: *keepalive.time,
        ping_timeout: *keepalive.timeout,
    };
    let http = Arc::new(http::Http::new(config, Arc::clone(intake)));
    serve(listener, tls, &limits, move |request| Arc::clone(&http).answer(request))
        .map_err(|error| StartError::io(protocol, &error))
}

// === impl StartError ===

impl StartError {
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
    /// The address of OTLP/gRPC, if it is served; with the port that was given for port 0.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(|server| server.address)
    }

    /// The address of OTLP/HTTP, if it is served; with the port that was given for port 0.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|server| server.address)
    }

    /// Stops accepting, tells peers to go away (GOAWAY, `connection: close`), and waits at most
    /// `limit` for the requests under way. Returns how many connections had to be cut.
    pub async fn shutdown(self, limit: Duration) -> usize {
        let stop = |server: Option<Server>| async move {
            match server {
                Some(server) => server.shutdown(limit).await,
                None => 0,
            }
        };
        let (grpc, http) = tokio::join!(stop(self.grpc), stop(self.http));
        grpc + http
    }
}
