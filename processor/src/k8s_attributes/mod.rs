//! The processor `k8s_attributes`: says of resources which pod they are, and what is known of it.
//!
//! The Collector's asks the Kubernetes API. This one asks the cluster that Tapio has learned from the
//! objects in passing telemetry (`kubernetes/directory.rs`), and else goes by what a resource says itself.

mod config;
mod extract;
mod find;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tapio_proto::{
    Batching, CanBatch, Consumer, Next, Pending, Request, Signal,
    edit::{AttributeList, edit_resources},
    view::AnyValue,
};

pub use self::config::K8sAttributesConfig;
use self::{
    extract::{Extract, Found},
    find::Find,
};
use crate::{
    attributes::{text, texts, with},
    kubernetes::{Directory, Snapshot},
};

/// Adds what is known of a pod to its resources.
pub struct K8sAttributes {
    find: Find,
    extract: Extract,
    directory: Arc<Directory>,
    missed: Arc<AtomicU64>,
    passthrough: bool,
    /// Said already that the sender's address is missing.
    warned: AtomicBool,
    next: Next,
}

impl K8sAttributes {
    /// Stands before `next` and asks `directory`; counts in `missed` the resources of unknown pods.
    pub fn new(
        config: &K8sAttributesConfig,
        directory: Arc<Directory>,
        missed: Arc<AtomicU64>,
        next: Next,
    ) -> Result<Self, String> {
        let (find, extract) = (Find::new(config)?, Extract::new(&config.extract)?);
        if !config.passthrough {
            directory.want();
        }
        let (passthrough, warned) = (config.passthrough, AtomicBool::new(false));
        Ok(K8sAttributes { find, extract, directory, missed, passthrough, warned, next })
    }

    fn describe(
        &self,
        attributes: &mut AttributeList<'_>,
        peer: Option<&str>,
        snapshot: &Snapshot,
    ) {
        let mut found = Vec::new();
        let identity = self.find.identity(attributes, peer);
        let sender = identity.iter().find(|(source, _)| *source == find::SENDER);
        if let Some((_, address)) = sender
            && (self.passthrough || self.extract.wants_address())
        {
            found.push(("k8s.pod.ip".to_owned(), (*address).to_owned()));
        }
        if self.passthrough {
            return put(found, attributes);
        }
        let pod = self.find.pod(&identity, attributes, snapshot);
        let mut digest = None;
        match pod {
            Some(pod) => {
                self.extract.pod(pod, snapshot, &mut found);
                digest = self.extract.container(pod, attributes, &mut found);
            }
            None => drop(self.missed.fetch_add(1, Ordering::Relaxed)),
        }
        self.extract.around(pod, attributes, snapshot, &mut found);
        put(found, attributes);
        if let Some(digest) = digest
            && attributes.get("container.image.repo_digests").is_none()
        {
            attributes.push("container.image.repo_digests", texts(&digest));
        }
    }
}

/// What the resource says already is right, unless it says nothing.
fn put(found: Found, attributes: &mut AttributeList<'_>) {
    for (key, value) in found {
        let said = attributes.value(&key);
        if said.is_none_or(|said| matches!(said, AnyValue::Empty | AnyValue::String(""))) {
            attributes.set(key, text(&value));
        }
    }
}

impl Consumer for K8sAttributes {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let snapshot = self.directory.newest();
        let peer = request.metadata.as_ref().and_then(|metadata| metadata.peer);
        let peer = peer.map(|peer| peer.to_canonical().to_string());
        if peer.is_none() && self.find.wants_sender() && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "k8s_attributes does not know the senders' addresses, so no pod is found by its connection. Set `include_metadata: true` in the receiver's protocols."
            );
        }
        let edited = edit_resources(request.signal, &request.bytes, |attributes| {
            self.describe(attributes, peer.as_deref(), &snapshot);
        });
        self.next.consume(with(edited.ok(), request))
    }
}
