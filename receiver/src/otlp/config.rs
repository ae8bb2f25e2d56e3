//! The `otlp` receiver's part of a configuration, with the Collector's keys and defaults.

use serde::Deserialize;
use tapio_proto::transport::GoDuration;

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
    /// `host:port`; an empty host listens on every address.
    pub endpoint: String,
    /// Only `tcp`.
    pub transport: Transports,
    /// Serve TLS; plaintext without it.
    pub tls: Option<ServerTls>,
    /// Largest message, compressed or not, in MiB.
    pub max_recv_msg_size_mib: u32,
    /// Requests at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub read_buffer_size: u64,
    /// Accepted for the Collector's sake; Tapio's buffers size themselves.
    pub write_buffer_size: u64,
    /// Pings to idle peers.
    pub keepalive: Keepalive,
}

/// `protocols: http:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `host:port`; an empty host listens on every address.
    pub endpoint: String,
    /// Only `tcp`.
    pub transport: Transports,
    /// Serve TLS; plaintext without it.
    pub tls: Option<ServerTls>,
    /// Largest body in bytes, before and after decompression.
    pub max_request_body_size: u64,
    /// For a whole body to arrive, from its first byte's wait to its last.
    pub read_timeout: GoDuration,
    /// For a request's head to arrive. It also runs while a kept connection is idle, so it is
    /// longer than the minute at which metric readers export.
    pub read_header_timeout: GoDuration,
    /// Path of traces.
    pub traces_url_path: String,
    /// Path of metrics.
    pub metrics_url_path: String,
    /// Path of logs.
    pub logs_url_path: String,
    /// Path of profiles.
    pub profiles_url_path: String,
    /// Browsers that may send.
    pub cors: Cors,
}

/// `transport:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transports {
    /// TCP over IPv4 and IPv6.
    #[default]
    Tcp,
}

/// `keepalive:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// `server_parameters:`
    pub server_parameters: KeepaliveServer,
}

/// `keepalive: server_parameters:`; the defaults are grpc-go's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveServer {
    /// A peer that is silent this long is pinged.
    pub time: GoDuration,
    /// A ping that is not answered this long closes the connection.
    pub timeout: GoDuration,
}

/// `cors:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins that may send: exact, `*`, or with one `*` in it (`https://*.example.com`).
    pub allowed_origins: Vec<String>,
    /// Headers that a browser may set beside the ones OTLP needs.
    pub allowed_headers: Vec<String>,
    /// Seconds for which a browser may keep a preflight's answer.
    pub max_age: u64,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        GrpcConfig {
            endpoint: "localhost:4317".to_owned(),
            transport: Transports::Tcp,
            tls: None,
            max_recv_msg_size_mib: 4,
            max_concurrent_streams: 100,
            read_buffer_size: 512 << 10,
            write_buffer_size: 0,
            keepalive: Keepalive::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            endpoint: "localhost:4318".to_owned(),
            transport: Transports::Tcp,
            tls: None,
            max_request_body_size: 20 << 20,
            read_timeout: GoDuration::from_secs(30),
            read_header_timeout: GoDuration::from_secs(90),
            traces_url_path: "/v1/traces".to_owned(),
            metrics_url_path: "/v1/metrics".to_owned(),
            logs_url_path: "/v1/logs".to_owned(),
            profiles_url_path: "/v1development/profiles".to_owned(),
            cors: Cors::default(),
        }
    }
}

impl Default for KeepaliveServer {
    fn default() -> Self {
        KeepaliveServer { time: GoDuration::from_secs(7200), timeout: GoDuration::from_secs(20) }
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
}
