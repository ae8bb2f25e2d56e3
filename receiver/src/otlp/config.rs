//! The `otlp` receiver's part of a configuration, with the Collector's keys and defaults.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use tapio_proto::transport::{GoDuration, named_values, null_is_none};

use crate::net::ServerTls;

/// `receivers: otlp:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// At least one must be present.
    pub protocols: Protocols,
}

/// `protocols:`; a protocol that is named without a body runs with its defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protocols {
    /// OTLP/gRPC.
    #[serde(deserialize_with = "null_is_default")]
    pub grpc: Option<GrpcConfig>,
    /// OTLP/HTTP.
    #[serde(deserialize_with = "null_is_default")]
    pub http: Option<HttpConfig>,
}

/// `protocols: grpc:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// `host:port`; an empty host listens on every address. The path of a socket with `unix`.
    pub endpoint: String,
    /// TCP or a unix socket.
    pub transport: Transports,
    /// Serve TLS; plaintext without it.
    #[serde(deserialize_with = "null_is_none")]
    pub tls: Option<ServerTls>,
    /// Largest message, compressed or not, in MiB; 0 is the default.
    pub max_recv_msg_size_mib: u32,
    /// Requests at a time on one connection; 0 is no limit.
    pub max_concurrent_streams: u32,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub read_buffer_size: u64,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub write_buffer_size: u64,
    /// Pings to idle peers, and how long connections live.
    pub keepalive: Keepalive,
    /// Who may send.
    #[serde(deserialize_with = "null_is_none")]
    pub auth: Option<AuthConfig>,
    /// Requests carry their headers through the pipeline, for `headers_setter` and the like.
    pub include_metadata: bool,
    /// Extensions that look at requests; there are none that could be named.
    pub middlewares: Vec<Middleware>,
}

/// `protocols: http:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `host:port`; an empty host listens on every address. The path of a socket with `unix`.
    pub endpoint: String,
    /// TCP or a unix socket.
    pub transport: Transports,
    /// Serve TLS; plaintext without it.
    #[serde(deserialize_with = "null_is_none")]
    pub tls: Option<ServerTls>,
    /// Largest body in bytes, before and after decompression; 0 is the default.
    pub max_request_body_size: u64,
    /// For a whole body to arrive, from its first byte's wait to its last; 0 is no limit.
    pub read_timeout: GoDuration,
    /// For a request's head to arrive; 0 is no limit. It also runs while a kept connection is
    /// idle, so it is longer than the minute at which metric readers export.
    pub read_header_timeout: GoDuration,
    /// For a peer to take some of an answer; 0 is no limit.
    pub write_timeout: GoDuration,
    /// A connection without a request for so long is closed; 0 leaves it to
    /// `read_header_timeout`.
    pub idle_timeout: GoDuration,
    /// Whether a connection may carry more than one request.
    pub keep_alives_enabled: bool,
    /// Path of traces.
    pub traces_url_path: String,
    /// Path of metrics.
    pub metrics_url_path: String,
    /// Path of logs.
    pub logs_url_path: String,
    /// Path of profiles.
    pub profiles_url_path: String,
    /// Browsers that may send.
    pub cors: Option<Cors>,
    /// Who may send.
    #[serde(deserialize_with = "null_is_none")]
    pub auth: Option<HttpAuthConfig>,
    /// Requests carry their headers through the pipeline, for `headers_setter` and the like.
    pub include_metadata: bool,
    /// Added to every answer; a map, or a list of `{name, value}`.
    #[serde(deserialize_with = "named_values")]
    pub response_headers: BTreeMap<String, String>,
    /// Values of `content-encoding` that are taken; all that are known when absent.
    pub compression_algorithms: Option<Vec<String>>,
    /// Extensions that look at requests; there are none that could be named.
    pub middlewares: Vec<Middleware>,
}

/// `middlewares:`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Middleware {
    /// The extension.
    pub id: String,
}

/// `transport:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transports {
    /// TCP over IPv4 and IPv6.
    #[default]
    #[serde(alias = "")]
    Tcp,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A unix socket.
    Unix,
}

/// `auth:`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The extension that is asked.
    pub authenticator: String,
}

/// `auth:` of HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAuthConfig {
    /// The extension that is asked.
    pub authenticator: String,
    /// Parameters of the URL that stand for headers of their names.
    #[serde(default)]
    pub request_params: Vec<String>,
}

/// `keepalive:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// `server_parameters:`
    #[serde(deserialize_with = "or_default")]
    pub server_parameters: KeepaliveServer,
    /// `enforcement_policy:`
    #[serde(deserialize_with = "or_default")]
    pub enforcement_policy: KeepalivePolicy,
}

/// `keepalive: server_parameters:`; the defaults are grpc-go's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveServer {
    /// A connection without a request for so long is closed; 0 is never.
    pub max_connection_idle: GoDuration,
    /// A connection as old as this is asked to go; 0 is never.
    pub max_connection_age: GoDuration,
    /// What it is given to finish its requests; 0 is no limit.
    pub max_connection_age_grace: GoDuration,
    /// A peer that is silent this long is pinged; 0 is the default.
    pub time: GoDuration,
    /// A ping that is not answered this long closes the connection; 0 is the default.
    pub timeout: GoDuration,
}

/// `keepalive: enforcement_policy:`; accepted for the Collector's sake. grpc-go closes connections
/// of clients that ping too often; here a ping is answered and costs no more than that.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepalivePolicy {
    /// Not used.
    pub min_time: GoDuration,
    /// Not used.
    pub permit_without_stream: bool,
}

/// `cors:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins that may send: exact, `*`, or with one `*` in it (`https://*.example.com`).
    pub allowed_origins: Vec<String>,
    /// Headers that a browser may set beside the ones OTLP needs.
    pub allowed_headers: Vec<String>,
    /// Headers of answers that a page may read.
    pub exposed_headers: Vec<String>,
    /// Seconds for which a browser may keep a preflight's answer.
    pub max_age: u64,
}

const DEFAULT_MESSAGE_MIB: u32 = 4;
const DEFAULT_BODY: u64 = 20 << 20;

impl Default for GrpcConfig {
    fn default() -> Self {
        GrpcConfig {
            endpoint: "localhost:4317".to_owned(),
            transport: Transports::Tcp,
            tls: None,
            max_recv_msg_size_mib: 0,
            max_concurrent_streams: 100,
            read_buffer_size: 512 << 10,
            write_buffer_size: 0,
            keepalive: Keepalive::default(),
            auth: None,
            include_metadata: false,
            middlewares: Vec::new(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            endpoint: "localhost:4318".to_owned(),
            transport: Transports::Tcp,
            tls: None,
            max_request_body_size: 0,
            read_timeout: GoDuration::from_secs(30),
            read_header_timeout: GoDuration::from_secs(90),
            write_timeout: GoDuration::from_secs(30),
            idle_timeout: GoDuration::default(),
            keep_alives_enabled: true,
            traces_url_path: "/v1/traces".to_owned(),
            metrics_url_path: "/v1/metrics".to_owned(),
            logs_url_path: "/v1/logs".to_owned(),
            profiles_url_path: "/v1development/profiles".to_owned(),
            cors: None,
            auth: None,
            include_metadata: false,
            response_headers: BTreeMap::new(),
            compression_algorithms: None,
            middlewares: Vec::new(),
        }
    }
}

/// A time for which zero means that there is none.
pub(super) fn unless_zero(time: GoDuration) -> Option<Duration> {
    (!time.is_zero()).then_some(*time)
}

// What zero means differs from key to key, as in the Collector and in grpc-go.
impl GrpcConfig {
    /// Largest message in bytes.
    pub(super) fn max_message(&self) -> usize {
        let mib = match self.max_recv_msg_size_mib {
            0 => DEFAULT_MESSAGE_MIB,
            mib => mib,
        };
        // The length of a gRPC message has 32 bits.
        (mib as usize).min(4095) << 20
    }

    /// Requests at a time on one connection.
    pub(super) fn max_streams(&self) -> Option<u32> {
        (self.max_concurrent_streams > 0).then_some(self.max_concurrent_streams)
    }
}

impl HttpConfig {
    /// Largest body in bytes.
    pub(super) fn max_body(&self) -> usize {
        let bytes = match self.max_request_body_size {
            0 => DEFAULT_BODY,
            bytes => bytes,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

impl KeepaliveServer {
    /// After how much silence to ping, and how long to wait for the answer.
    pub(super) fn pings(&self) -> (Duration, Duration) {
        let default = KeepaliveServer::default();
        let or = |time: GoDuration, default: GoDuration| unless_zero(time).unwrap_or(*default);
        (or(self.time, default.time), or(self.timeout, default.timeout))
    }
}

impl Default for KeepaliveServer {
    fn default() -> Self {
        KeepaliveServer {
            max_connection_idle: GoDuration::default(),
            max_connection_age: GoDuration::default(),
            max_connection_age_grace: GoDuration::default(),
            time: GoDuration::from_secs(7200),
            timeout: GoDuration::from_secs(20),
        }
    }
}

// `grpc:` with nothing below it is YAML's null: the Collector takes it as "with the defaults".
fn null_is_default<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Some(Option::<T>::deserialize(deserializer)?.unwrap_or_default()))
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<OtlpConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn absent_null_and_empty() {
        let config = read(r#"{"protocols":{"grpc":null}}"#).unwrap();
        assert_eq!(config.protocols.grpc.unwrap().endpoint, "localhost:4317");
        assert!(config.protocols.http.is_none());
        assert!(read("{}").unwrap().protocols.grpc.is_none());
    }

    #[test]
    fn typos_are_named() {
        let error = read(r#"{"protocols":{"grpc":{"endpont":"x"}}}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `endpont`"), "{error}");
    }

    #[test]
    fn durations_are_gos() {
        let config = read(r#"{"protocols":{"http":{"read_timeout":"1m30s"}}}"#).unwrap();
        assert_eq!(config.protocols.http.unwrap().read_timeout, GoDuration::from_secs(90));
    }

    #[test]
    fn zero_means_what_it_means_in_the_collector() {
        let config = read(
            r#"{"protocols":{
                "grpc":{"max_recv_msg_size_mib":0,"max_concurrent_streams":0,
                        "keepalive":{"server_parameters":{"time":"0s"},"enforcement_policy":null}},
                "http":{"max_request_body_size":0,"read_timeout":"0s","read_header_timeout":"0s"}}}"#,
        );
        let Protocols { grpc, http } = config.unwrap().protocols;
        let (grpc, http) = (grpc.unwrap(), http.unwrap());
        assert_eq!((grpc.max_message(), grpc.max_streams()), (4 << 20, None));
        let (time, timeout) = grpc.keepalive.server_parameters.pings();
        assert_eq!((time.as_secs(), timeout.as_secs()), (7200, 20));
        assert_eq!(http.max_body(), 20 << 20);
        assert_eq!(unless_zero(http.read_timeout), None);
        assert_eq!(unless_zero(http.read_header_timeout), None);
    }
}
