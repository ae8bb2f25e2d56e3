//! The exporters `otlp_grpc` and `otlp_http` (old names `otlp`, `otlphttp`).

mod config;
mod grpc;
mod http;

use std::sync::Arc;

pub use config::{JsonOrProto, OtlpGrpcConfig, OtlpHttpConfig};

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
    let client = Arc::new(grpc::GrpcClient::new(config)?);
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
    let client = Arc::new(http::HttpClient::new(config)?);
    Exporter::start(name, send, client, observer)
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
