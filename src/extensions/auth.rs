//! The extensions that know who sends and say who we are, for the components that name them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tapio_exporter::{ClientAuth, ClientAuthConfig};
use tapio_receiver::Authenticator;

use crate::config::ComponentId;

/// The authenticators that run, by their names in the configuration.
#[derive(Default)]
pub(crate) struct Authenticators(Mutex<BTreeMap<String, Authenticates>>);

/// What one of them can do.
#[derive(Clone, Default)]
pub(crate) struct Authenticates {
    pub(crate) server: Option<Arc<dyn Authenticator>>,
    pub(crate) client: Option<Arc<dyn ClientAuth>>,
}

impl Authenticators {
    pub(crate) fn add(&self, id: &ComponentId, authenticates: Authenticates) {
        self.lock().insert(id.as_str().to_owned(), authenticates);
    }

    /// Takes away what a stopped extension had added.
    pub(crate) fn remove(&self, id: &ComponentId) {
        self.lock().remove(id.as_str());
    }

    /// For a receiver; the error is the Collector's.
    pub(crate) fn server(&self, name: &str) -> Result<Arc<dyn Authenticator>, String> {
        self.find(name)?
            .server
            .ok_or_else(|| failed(name, "requested authenticator is not a server authenticator"))
    }

    /// For an exporter: puts the extension that its configuration names into it.
    pub(crate) fn resolve(&self, config: Option<&mut ClientAuthConfig>) -> Result<(), String> {
        let Some(config) = config else { return Ok(()) };
        let name = config.authenticator.as_str();
        let client = self.find(name)?.client.ok_or_else(|| {
            failed(name, "requested authenticator is not an HTTP or gRPC client authenticator")
        })?;
        config.client = Some(client);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Authenticates, String> {
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| failed(name, "authenticator not found; name it in service::extensions"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Authenticates>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(name: &str, why: &str) -> String {
    format!("failed to resolve authenticator \"{name}\": {why}")
}
