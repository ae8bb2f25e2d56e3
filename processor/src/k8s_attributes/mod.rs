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
    atomic::{AtomicU64, Ordering},
};

use tapio_proto::{
    Consumer, Next, Pending, Request,
    edit::{AttributeList, edit_resources},
    view::AnyValue,
};

pub use self::config::K8sAttributesConfig;
use self::{extract::Extract, find::Find};
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
        directory.want();
        Ok(K8sAttributes { find, extract, directory, missed, next })
    }

    fn describe(&self, attributes: &mut AttributeList<'_>, snapshot: &Snapshot) {
        let mut found = Vec::new();
        let pod = self.find.pod(attributes, snapshot);
        let mut digest = None;
        match pod {
            Some(pod) => {
                self.extract.pod(pod, snapshot, &mut found);
                digest = self.extract.container(pod, attributes, &mut found);
            }
            None => drop(self.missed.fetch_add(1, Ordering::Relaxed)),
        }
        self.extract.around(pod, attributes, snapshot, &mut found);
        for (key, value) in found {
            // What the resource says already is right, unless it says nothing.
            let said = attributes.value(&key);
            if said.is_none_or(|said| matches!(said, AnyValue::Empty | AnyValue::String(""))) {
                attributes.set(key, text(&value));
            }
        }
        if let Some(digest) = digest
            && attributes.get("container.image.repo_digests").is_none()
        {
            attributes.push("container.image.repo_digests", texts(&digest));
        }
    }
}

impl Consumer for K8sAttributes {
    fn consume(&self, request: Request) -> Pending<'_> {
        let snapshot = self.directory.newest();
        let edited = edit_resources(request.signal, &request.bytes, |attributes| {
            self.describe(attributes, &snapshot);
        });
        self.next.consume(with(edited.ok(), request))
    }
}
