//! The exporters `otlp_grpc` and `otlp_http` (old names `otlp`, `otlphttp`).

mod config;
mod connection;
mod grpc;
mod http;
mod pool;

use std::sync::Arc;

use bytes::Bytes;
pub use config::{JsonOrProto, OtlpGrpcConfig, OtlpHttpConfig};

use tapio_proto::{Code, Request, Status, transport::Compression};

use crate::{
    net::{ClientAuth, ClientAuthConfig, ConfigError},
    send::{Exporter, Observer},
};

/// Starts an `otlp_grpc` exporter. Must be called within a tokio runtime; does not connect yet.
/// With a storage it reads what is on disk, so it may block.
pub fn otlp_grpc(
    name: &str,
    config: &OtlpGrpcConfig,
    observer: Arc<dyn Observer>,
) -> Result<Exporter, ConfigError> {
    let send = config.send()?;
    let client = Arc::new(grpc::GrpcClient::new(config, Arc::clone(&observer))?);
    Exporter::start(name, send, client, observer)
}

/// Starts an `otlp_http` exporter. Must be called within a tokio runtime; does not connect yet.
/// With a storage it reads what is on disk, so it may block.
pub fn otlp_http(
    name: &str,
    config: &OtlpHttpConfig,
    observer: Arc<dyn Observer>,
) -> Result<Exporter, ConfigError> {
    let send = config.send()?;
    let client = Arc::new(http::HttpClient::new(config, Arc::clone(&observer))?);
    Exporter::start(name, send, client, observer)
}

/// The body of a request: as it came, where it came compressed in the same way and is unchanged.
fn compressed(
    request: &Request,
    compression: Compression,
    level: Option<i32>,
) -> Result<Bytes, Status> {
    if let Some(body) = request.compressed(compression) {
        return Ok(body.clone());
    }
    compression.compress(&request.bytes, level).map_err(|error| {
        Status::new(Code::Internal, format!("compressing the request failed: {error}"))
    })
}

/// The extension that `auth` names.
fn client_auth(
    config: Option<&ClientAuthConfig>,
) -> Result<Option<Arc<dyn ClientAuth>>, ConfigError> {
    let Some(ClientAuthConfig { authenticator, client }) = config else { return Ok(None) };
    client.clone().map(Some).ok_or_else(|| {
        let why = format!(
            "failed to resolve authenticator {authenticator:?}: authenticator not found; name it in service::extensions"
        );
        ConfigError::new("auth", why)
    })
}
