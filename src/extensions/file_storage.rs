//! The `file_storage` extension: a directory for sending queues and dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tapio_exporter::{Exporter, FileStorageConfig, Holding, Storage, collectors_files, unclaimed};
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
    let directory = storage.directory().to_owned();
    spawn_blocking(move || tell_collectors(&directory)).await.map_err(|error| error.to_string())?;
    context.host.storages.add(context.id.as_str(), storage);
    Ok(Box::new(move || Box::pin(async move { context.host.storages.remove(context.id.as_str()) })))
}

/// The storages that run, by id.
#[derive(Default)]
pub(crate) struct Storages {
    running: Mutex<BTreeMap<String, Arc<Storage>>>,
    /// The directories of all that have run.
    known: Mutex<BTreeSet<PathBuf>>,
}

/// Says what nobody sends, and what to do about it.
fn tell_left(directory: &Path, folder: &Path, held: &Holding, runs: bool) {
    let (directory, exporter) = (directory.display(), &held.exporter);
    let remedy = match (runs, held.signal) {
        (false, Some(_)) => format!(
            "name the exporter in a pipeline again, with `sending_queue::storage` at {directory}"
        ),
        (false, None) => {
            format!("name the exporter in a pipeline again, and `tapio queue replay {exporter}`")
        }
        (true, Some(_)) => format!(
            "have `sending_queue::storage` of the exporter name a file_storage of the directory {directory}, with the queue enabled"
        ),
        (true, None) => format!(
            "have `sending_queue` of the exporter enabled, with a file_storage of the directory {directory}, and `tapio queue replay {exporter}`"
        ),
    };
    let why = match runs {
        true => "of an exporter that keeps none there any more",
        false => "of an exporter that no pipeline names any more",
    };
    tracing::warn!(
        exporter,
        kind = held.signal.map_or("dead letters", |signal| signal.name()),
        requests = held.requests,
        items = held.items,
        folder = %folder.display(),
        "On disk there is undelivered data {why}: nobody sends it. To send it, {remedy}; to drop it: rm -r '{}'",
        folder.display()
    );
}

/// Says that a Collector's queues lie in a directory: who has swapped the programs would look for them in vain.
fn tell_collectors(directory: &Path) {
    let files = collectors_files(directory).unwrap_or_default();
    if files.is_empty() {
        return;
    }
    let names = files.iter().filter_map(|file| file.file_name()).map(|name| name.to_string_lossy());
    tracing::warn!(
        directory = %directory.display(),
        files = names.collect::<Vec<_>>().join(", "),
        "A Collector's file_storage has left files here, which Tapio does not read: what is queued in them is not sent. {COLLECTORS_REMEDY}"
    );
}

/// How what is in a Collector's files is delivered.
pub(crate) const COLLECTORS_REMEDY: &str = "To send it, start the Collector once more on this directory, without senders, until its \
    otelcol_exporter_queue_size is 0; then delete these files.";

impl Storages {
    /// The one that an exporter names; for an exporter that names none, the first, for its dead letters.
    pub(crate) fn get(&self, id: Option<&str>) -> Option<Arc<Storage>> {
        let storages = self.lock();
        match id {
            Some(id) => storages.get(id).cloned(),
            None => storages.values().next().cloned(),
        }
    }

    /// Says what is on disk, also in directories that an earlier configuration of this run named, and nobody
    /// sends: its exporter is in no pipeline any more, or keeps its queue elsewhere. `runs` are the exporters with
    /// what they send, and those that `leave` say it themselves when they are done.
    pub(crate) fn tell_unclaimed(
        &self,
        runs: BTreeMap<String, Option<Arc<Exporter>>>,
        leave: BTreeSet<String>,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(self.lock().values().map(|storage| storage.directory().to_owned()));
        if known.is_empty() {
            return;
        }
        let directories = known.clone();
        // Counting reads what is there, which may be much.
        drop(spawn_blocking(move || {
            for directory in directories {
                let in_use = |exporter: &str, signal: Option<_>| match runs.get(exporter) {
                    _ if signal.is_some() && leave.contains(exporter) => true,
                    Some(Some(keeper)) => keeper.sends_from(&directory, signal),
                    _ => false,
                };
                match unclaimed(&directory, in_use) {
                    Ok(left) => left.iter().for_each(|(folder, held)| {
                        tell_left(&directory, folder, held, runs.contains_key(&held.exporter));
                    }),
                    // It was removed since.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(directory = %directory.display(), %error, "Could not look for what exporters of before have left");
                    }
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
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
