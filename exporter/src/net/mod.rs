//! Reaching a backend: where it is, by TCP or TLS, with which headers.

mod connect;
mod endpoint;
mod headers;
mod tls;

pub(crate) use connect::Connector;
pub(crate) use endpoint::Endpoint;
pub use headers::Opaque;
pub(crate) use headers::{USER_AGENT, header_map};
pub use tls::ClientTls;

/// A configuration that cannot work; one line, with the key that names the trouble.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ConfigError {
    /// The key, such as `endpoint` or `tls::ca_file`.
    pub key: &'static str,
    /// What is wrong and what was expected.
    pub why: String,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, why: impl Into<String>) -> Self {
        ConfigError { key, why: why.into() }
    }
}
