//! The `file_storage` extension: a directory for sending queues and dead letters.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tapio_exporter::{FileStorageConfig, Storage, unclaimed};
use tokio::task::spawn_blocking;

use crate::components::{Context, Stop};

pub(crate) fn check(config: &FileStorageConfig) -> Result<(), String> {
    config.check().map_err(|error| error.to_string())
}

/// Opened before the exporters, which ask the host for it; the directory is given free when the last
/// of them has let go of it.
pub(crate) async fn start(config: FileStorageConfig, context: Context) -> Result<Stop, String> {
    let opened = spawn_blocking(move || Storage::open(&config)).await;
    let storage = opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    tracing::info!(extension = %context.id, directory = %storage.directory().display(), "Starting file_storage extension");
    context.host.storages.add(context.id.as_str(), storage);
    Ok(Box::new(move || Box::pin(async move { context.host.storages.remove(context.id.as_str()) })))
}

/// The storages that run, by id.
#[derive(Default)]
pub(crate) struct Storages(Mutex<BTreeMap<String, Arc<Storage>>>);

impl Storages {
    /// The one that an exporter names; for an exporter that names none, the first, for its dead letters.
    pub(crate) fn get(&self, id: Option<&str>) -> Option<Arc<Storage>> {
        let storages = self.lock();
        match id {
            Some(id) => storages.get(id).cloned(),
            None => storages.values().next().cloned(),
        }
    }

    /// Says what is on disk of exporters that no pipeline names any more: nobody sends it.
    pub(crate) fn tell_unclaimed(&self, in_use: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let storages: Vec<_> = self.lock().values().cloned().collect();
        if storages.is_empty() {
            return;
        }
        // Counting reads what is there, which may be much.
        drop(spawn_blocking(move || {
            for storage in storages {
                let directory = storage.directory();
                let left = unclaimed(directory, &in_use).unwrap_or_else(|error| {
                    tracing::warn!(directory = %directory.display(), %error, "Could not look for what exporters of before have left");
                    Vec::new()
                });
                for (folder, held) in left {
                    tracing::warn!(
                        exporter = held.exporter,
                        kind = held.signal.map_or("dead letters", |signal| signal.name()),
                        requests = held.requests,
                        items = held.items,
                        "On disk there is undelivered data of an exporter that no pipeline names any more. To send it, name \
                         the exporter in a pipeline again (dead letters: and `tapio queue replay {}`); to drop it: rm -r '{}'",
                        held.exporter,
                        folder.display()
                    );
                }
            }
        }));
    }

    fn add(&self, id: &str, storage: Arc<Storage>) {
        self.lock().insert(id.to_owned(), storage);
    }

    fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Storage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
