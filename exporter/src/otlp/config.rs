//! The exporters' part of a configuration, with the Collector's keys and defaults.

use std::collections::BTreeMap;

use serde::Deserialize;
use tapio_proto::transport::{Compression, GoDuration};

use crate::{
    net::{ClientTls, ConfigError, Opaque},
    send::{QueueConfig, RetryConfig, SendConfig},
};

/// `exporters: otlp_grpc:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpGrpcConfig {
    /// `host:port`, `http://host:port`, `https://host:port` or `dns:///host:port`.
    pub endpoint: String,
    /// TLS is on unless `insecure` or an `http://` endpoint says otherwise.
    pub tls: ClientTls,
    /// Of requests; `gzip` as in the Collector.
    pub compression: Compression,
    /// Added to each request.
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
    /// Accepted for the Collector's sake: one connection carries all requests.
    pub balancer_name: String,
    /// Accepted for the Collector's sake: the retries wait.
    pub wait_for_ready: bool,
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
    /// Added to each request.
    pub headers: BTreeMap<String, Opaque>,
    /// For one attempt.
    pub timeout: GoDuration,
    /// Idle connections that are kept, for each signal.
    pub max_idle_conns: usize,
    /// Keeping requests until they are delivered.
    pub sending_queue: QueueConfig,
    /// Trying again.
    pub retry_on_failure: RetryConfig,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub read_buffer_size: u64,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub write_buffer_size: u64,
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
    /// gzip 1..=9, zstd 1..=22.
    pub level: Option<i32>,
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
