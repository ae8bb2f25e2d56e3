//! Reaching a backend: where it is, by TCP or TLS, with which headers.

mod auth;
mod connect;
mod endpoint;
mod gathered;
mod headers;
mod proxy;
#[cfg(test)]
pub(crate) mod test_support;
mod tls;

pub use auth::{ClientAuth, ClientAuthConfig};
pub(crate) use connect::{Connector, Stream};
pub(crate) use endpoint::Endpoint;
pub(crate) use gathered::{Gathered, Messages};
pub use headers::Opaque;
pub(crate) use headers::{USER_AGENT, header_map};
pub(crate) use proxy::Proxy;
pub use tls::ClientTls;

/// A configuration that cannot work; one line, with the key that names the trouble.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", at(key, why))]
pub struct ConfigError {
    /// The key, such as `endpoint` or `tls::ca_file`.
    pub key: &'static str,
    /// What is wrong and what was expected.
    pub why: String,
}

/// The Collector names the place of some troubles and not of others, and some as a part of the
/// component's own: `exporters::otlp_grpc::retry_on_failure: ..`.
fn at(key: &str, why: &str) -> String {
    match (key, why) {
        (_, "requires a non-empty \"endpoint\"" | "at least one endpoint must be specified") => {
            String::new()
        }
        ("retry_on_failure" | "sending_queue", _) => format!("::{key}: "),
        _ => format!("{key}: "),
    }
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, why: impl Into<String>) -> Self {
        ConfigError { key, why: why.into() }
    }
}
