//! Who we say we are: what an extension adds to the headers of each request.

use http::HeaderMap;
use serde::Deserialize;
use tapio_proto::{Metadata, Status};

/// Adds to the headers of requests on their way out.
pub trait ClientAuth: Send + Sync + 'static {
    /// Changes the headers of one request; `metadata` is its sender's, where it was kept.
    fn apply(&self, headers: &mut HeaderMap, metadata: Option<&Metadata>) -> Result<(), Status>;

    /// Whether what it adds is a secret that gRPC does not send in the clear.
    fn needs_tls(&self) -> bool;
}

/// `auth:` of an exporter.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientAuthConfig {
    /// The extension that is asked.
    pub authenticator: String,
    /// That extension; whoever starts the exporter puts it here.
    #[serde(skip)]
    pub client: Option<std::sync::Arc<dyn ClientAuth>>,
}

impl std::fmt::Debug for ClientAuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientAuthConfig").field("authenticator", &self.authenticator).finish()
    }
}
