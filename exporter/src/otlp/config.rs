//! The exporters' part of a configuration, with the Collector's keys and defaults.

use std::collections::BTreeMap;

use serde::Deserialize;
use tapio_proto::transport::{Compression, GoDuration, named_values, null_is_none};

use crate::{
    net::{ClientAuthConfig, ClientTls, ConfigError, Opaque},
    send::{QueueConfig, RetryConfig, SendConfig},
};

/// `exporters: otlp_grpc:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpGrpcConfig {
    /// `host:port`, `http://host:port`, `https://host:port`, `dns:///host:port` or `unix:///path`.
    pub endpoint: String,
    /// TLS is on unless `insecure` or an `http://` endpoint says otherwise.
    pub tls: ClientTls,
    /// Of requests; `gzip` as in the Collector.
    pub compression: Compression,
    /// Added to each request; a map, or a list of `{name, value}`.
    #[serde(deserialize_with = "named_values")]
    pub headers: BTreeMap<String, Opaque>,
    /// For one attempt.
    pub timeout: GoDuration,
    /// The `:authority` to send, in place of the endpoint's.
    pub authority: Option<String>,
    /// In place of Tapio's own.
    pub user_agent: Option<String>,
    /// Keeping requests until they are delivered.
    pub sending_queue: QueueConfig,
    /// Trying again.
    pub retry_on_failure: RetryConfig,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub read_buffer_size: u64,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub write_buffer_size: u64,
    /// `round_robin`: a connection to each address of the endpoint, which take turns; `pick_first`: one
    /// connection, to the address that answers first.
    pub balancer_name: String,
    /// Accepted for the Collector's sake: the retries wait.
    pub wait_for_ready: bool,
    /// Pings to a silent backend.
    pub keepalive: Option<Keepalive>,
    /// Who we say we are.
    #[serde(deserialize_with = "null_is_none")]
    pub auth: Option<ClientAuthConfig>,
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

/// `cookies:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cookies {
    /// Backends of OTLP set none that would matter.
    pub enabled: bool,
}

/// `exporters: otlp_http:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpHttpConfig {
    /// Base URL; `/v1/traces` and the like are added.
    pub endpoint: String,
    /// URL of traces, used as it is.
    pub traces_endpoint: String,
    /// URL of metrics, used as it is.
    pub metrics_endpoint: String,
    /// URL of logs, used as it is.
    pub logs_endpoint: String,
    /// URL of profiles, used as it is.
    pub profiles_endpoint: String,
    /// For `https://` endpoints.
    pub tls: ClientTls,
    /// Of request bodies.
    pub encoding: JsonOrProto,
    /// Of requests; `gzip` as in the Collector.
    pub compression: Compression,
    /// `level`, on the scale of `compression`.
    pub compression_params: CompressionParams,
    /// Added to each request; a map, or a list of `{name, value}`.
    #[serde(deserialize_with = "named_values")]
    pub headers: BTreeMap<String, Opaque>,
    /// For one attempt.
    pub timeout: GoDuration,
    /// Idle connections that are kept, for each signal; 0 is no limit.
    pub max_idle_conns: usize,
    /// The same; the smaller of the two counts.
    pub max_idle_conns_per_host: usize,
    /// Connections at a time, for each signal; 0 is no limit.
    pub max_conns_per_host: usize,
    /// A kept connection is closed after this time; 0 is never.
    pub idle_conn_timeout: GoDuration,
    /// Each request has a connection of its own.
    pub disable_keep_alives: bool,
    /// Accepted for the Collector's sake: what is sent is HTTP/1.1.
    pub force_attempt_http2: bool,
    /// Accepted for the Collector's sake: what is sent is HTTP/1.1.
    pub http2_read_idle_timeout: GoDuration,
    /// Accepted for the Collector's sake: what is sent is HTTP/1.1.
    pub http2_ping_timeout: GoDuration,
    /// A proxy's URL; the environment's proxy when empty.
    pub proxy_url: String,
    /// Who we say we are.
    #[serde(deserialize_with = "null_is_none")]
    pub auth: Option<ClientAuthConfig>,
    /// Extensions that look at requests; there are none that could be named.
    pub middlewares: Vec<Middleware>,
    /// Accepted for the Collector's sake: cookies are not kept.
    pub cookies: Cookies,
    /// Keeping requests until they are delivered.
    pub sending_queue: QueueConfig,
    /// Trying again.
    pub retry_on_failure: RetryConfig,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub read_buffer_size: u64,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub write_buffer_size: u64,
}

/// `keepalive:` of a client.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// A backend that is silent this long is pinged; at least 10 s, as in grpc-go.
    pub time: GoDuration,
    /// A ping that is not answered this long closes the connection.
    pub timeout: GoDuration,
    /// Pings also while no request is under way.
    pub permit_without_stream: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive {
            time: GoDuration::from_secs(10),
            timeout: GoDuration::from_secs(10),
            permit_without_stream: false,
        }
    }
}

/// `encoding:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonOrProto {
    /// `application/x-protobuf`
    #[default]
    Proto,
    /// `application/json`
    Json,
}

/// `compression_params:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompressionParams {
    /// Of gzip, zlib and deflate -2 to 9, of zstd any up to 22; what is negative is the default but for zstd.
    pub level: Option<i32>,
}

impl CompressionParams {
    /// Refuses what the compression does not have, in the Collector's words.
    pub(super) fn check(&self, compression: Compression) -> Result<(), ConfigError> {
        let Some(level) = self.level else { return Ok(()) };
        let expected = match compression {
            Compression::Gzip | Compression::Zlib if !(-2..=9).contains(&level) => "-2 to 9",
            Compression::Snappy | Compression::SnappyFramed | Compression::Lz4 if level != 0 => {
                "none: it has no levels"
            }
            _ => return Ok(()),
        };
        let name = compression.name();
        let why = format!(
            "unsupported parameters {{Level:{level}}} for compression type \"{name}\" (expected {expected})"
        );
        Err(ConfigError::new("compression_params", why))
    }
}

impl Default for OtlpGrpcConfig {
    fn default() -> Self {
        OtlpGrpcConfig {
            endpoint: String::new(),
            tls: ClientTls::default(),
            compression: Compression::Gzip,
            headers: BTreeMap::new(),
            timeout: GoDuration::from_secs(5),
            authority: None,
            user_agent: None,
            sending_queue: QueueConfig::default(),
            retry_on_failure: RetryConfig::default(),
            read_buffer_size: 0,
            write_buffer_size: 512 << 10,
            balancer_name: "round_robin".to_owned(),
            wait_for_ready: false,
            keepalive: None,
            auth: None,
            middlewares: Vec::new(),
        }
    }
}

impl Default for OtlpHttpConfig {
    fn default() -> Self {
        OtlpHttpConfig {
            endpoint: String::new(),
            traces_endpoint: String::new(),
            metrics_endpoint: String::new(),
            logs_endpoint: String::new(),
            profiles_endpoint: String::new(),
            tls: ClientTls::default(),
            encoding: JsonOrProto::Proto,
            compression: Compression::Gzip,
            compression_params: CompressionParams::default(),
            headers: BTreeMap::new(),
            timeout: GoDuration::from_secs(30),
            max_idle_conns: 100,
            max_idle_conns_per_host: 0,
            max_conns_per_host: 0,
            idle_conn_timeout: GoDuration::from_secs(90),
            disable_keep_alives: false,
            force_attempt_http2: true,
            http2_read_idle_timeout: GoDuration::default(),
            http2_ping_timeout: GoDuration::default(),
            proxy_url: String::new(),
            auth: None,
            middlewares: Vec::new(),
            cookies: Cookies::default(),
            sending_queue: QueueConfig::default(),
            retry_on_failure: RetryConfig::default(),
            read_buffer_size: 0,
            write_buffer_size: 512 << 10,
        }
    }
}

impl OtlpGrpcConfig {
    pub(super) fn send(&self) -> Result<SendConfig, ConfigError> {
        SendConfig::new(self.sending_queue.clone(), self.retry_on_failure.clone())
    }
}

impl OtlpHttpConfig {
    pub(super) fn send(&self) -> Result<SendConfig, ConfigError> {
        SendConfig::new(self.sending_queue.clone(), self.retry_on_failure.clone())
    }
}
