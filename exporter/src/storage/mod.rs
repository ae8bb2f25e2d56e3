//! What survives the process: sending queues and dead letters, below one directory (FORMAT.md).

mod config;
mod dead;
mod files;
mod log;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tapio_proto::Signal;

pub use config::{CompactionConfig, FileStorageConfig};
pub(crate) use dead::DeadLetters;
pub(crate) use log::{Backlog, Log, Place, Window};
pub(crate) use record::Position;

use crate::net::ConfigError;

/// Held for as long as a process uses the directory.
const LOCK: &str = "tapio.lock";
const DEAD: &str = "dead";
const CORRUPT: &str = "corrupt";
/// The target of log lines that each name a damaged record: no such line may be left out for another.
pub const SET_ASIDE: &str = "tapio_exporter::set_aside";
/// Between two looks at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Different reasons that are told of one exporter's dead letters.
const MAX_REASONS: usize = 20;

/// An open `file_storage`: the directory is this process's until the last user lets go of it.
#[derive(Debug)]
pub struct Storage {
    directory: PathBuf,
    max_bytes: AtomicU64,
    max_dead: AtomicU64,
    _lock: File,
}

/// What this process has open: an exporter that goes on through a reload shares the directory with
/// the components that were started after it.
static OPEN: Mutex<Vec<Weak<Storage>>> = Mutex::new(Vec::new());

/// What one queue, or one exporter's dead-letter store, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The exporter's id.
    pub exporter: String,
    /// The queue's signal; `None` for dead letters.
    pub signal: Option<Signal>,
    /// Requests that are not settled.
    pub requests: usize,
    /// Spans, data points, log records in them.
    pub items: usize,
    /// Their bytes.
    pub bytes: usize,
    /// When the oldest was written, in milliseconds since 1970.
    pub oldest: Option<u64>,
    /// Why they are dead letters, with how many requests each.
    pub reasons: BTreeMap<String, usize>,
    /// Dead letters that are to be sent again, by a Tapio that has not done it yet.
    pub replay_asked: bool,
}

impl Storage {
    /// Makes the directory if told so and locks it. Blocks.
    pub fn open(config: &FileStorageConfig) -> Result<Arc<Storage>, ConfigError> {
        config.check()?;
        let fail = |what: &str, error: io::Error| {
            let text = format!("{what} {}: {error}", config.directory.display());
            ConfigError::new("directory", text)
        };
        files::make_folder(&config.directory, config.mode()?)
            .map_err(|error| fail("make", error))?;
        let directory = config.directory.canonicalize().map_err(|error| fail("open", error))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|storage| storage.strong_count() > 0);
        let ours = open.iter().filter_map(Weak::upgrade);
        if let Some(storage) = ours.into_iter().find(|storage| storage.directory == directory) {
            storage.limit(config);
            return Ok(storage);
        }
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| fail("write to", error))?;
        let deadline = Instant::now() + *config.timeout;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(ConfigError::new(
                        "directory",
                        format!(
                            "{} is in use by another process, which holds {LOCK} in it: give each Tapio a directory of its own",
                            directory.display()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(fail("lock", error)),
            }
        }
        let storage = Storage { directory, max_bytes: 0.into(), max_dead: 0.into(), _lock: lock };
        storage.limit(config);
        let storage = Arc::new(storage);
        open.push(Arc::downgrade(&storage));
        Ok(storage)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file for a component that is no exporter: `tapio-history.jsonl` of `tapio`.
    pub fn file(&self, component: &str, what: &str) -> PathBuf {
        self.directory.join(format!("{}-{what}", folder_name(component)))
    }

    fn limit(&self, config: &FileStorageConfig) {
        self.max_bytes.store(config.max_mib.saturating_mul(1 << 20), Ordering::Relaxed);
        self.max_dead.store(config.dead_letters_max_mib.saturating_mul(1 << 20), Ordering::Relaxed);
    }

    /// Bound of a queue on disk.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    fn max_dead(&self) -> u64 {
        self.max_dead.load(Ordering::Relaxed)
    }

    pub(crate) fn place(&self, exporter: &str, signal: Signal) -> Place {
        let folder = self.directory.join(folder_name(exporter));
        Place {
            corrupt: folder.join(CORRUPT),
            folder: folder.join(signal.name()),
            max_bytes: self.max_bytes(),
            max_corrupt: self.max_dead(),
            signal,
        }
    }

    pub(crate) fn dead_letters(&self, exporter: &str) -> DeadLetters {
        let folder = self.directory.join(folder_name(exporter));
        DeadLetters::new(folder.join(DEAD), folder.join(CORRUPT), self.max_dead())
    }
}

/// What is below a storage directory, whether a process uses it or not.
pub fn holdings(directory: &Path) -> io::Result<Vec<Holding>> {
    holdings_of(exporters(directory)?)
}

/// What below a directory nobody sends, as `in_use` tells of an exporter's queue of a signal, or of its dead
/// letters; with the folders.
pub fn unclaimed(
    directory: &Path,
    in_use: impl Fn(&str, Option<Signal>) -> bool,
) -> io::Result<Vec<(PathBuf, Holding)>> {
    let mut left = exporters(directory)?;
    let parts = || Signal::ALL.into_iter().map(Some).chain([None]);
    left.retain(|exporter, _| !parts().all(|part| in_use(exporter, part)));
    let held = holdings_of(left.clone())?.into_iter();
    let held = held.filter(|held| held.requests > 0 && !in_use(&held.exporter, held.signal));
    let folder = |held: &Holding| {
        let folder = left.get(&held.exporter).cloned().unwrap_or_default();
        folder.join(held.signal.map_or(DEAD, |signal| signal.name()))
    };
    Ok(held.map(|held| (folder(&held), held)).collect())
}

/// The files of damaged records that were set aside, and their bytes, by exporter, with the folders.
pub fn set_aside(directory: &Path) -> io::Result<Vec<(String, PathBuf, usize, u64)>> {
    let mut found = Vec::new();
    for (exporter, folder) in exporters(directory)? {
        let folder = folder.join(CORRUPT);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let sizes: Vec<_> = entries.flatten().filter_map(|entry| entry.metadata().ok()).collect();
        if !sizes.is_empty() {
            found.push((
                exporter,
                folder,
                sizes.len(),
                sizes.iter().map(|about| about.len()).sum(),
            ));
        }
    }
    Ok(found)
}

/// The files in a directory that a Collector's `file_storage` keeps its queues in: databases of bbolt, which
/// nothing here reads.
pub fn collectors_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && is_bbolt(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file's first page has bbolt's mark, behind the header that all its pages have.
fn is_bbolt(path: &Path) -> bool {
    const MARK: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
    let mut page = [0; 20];
    let read = File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut page));
    read.is_ok() && page.ends_with(&MARK)
}

fn holdings_of(exporters: BTreeMap<String, PathBuf>) -> io::Result<Vec<Holding>> {
    let mut found = Vec::new();
    for (exporter, folder) in exporters {
        let parts = Signal::ALL.map(|signal| (Some(signal), signal.name()));
        for (signal, name) in parts.into_iter().chain([(None, DEAD)]) {
            let folder = folder.join(name);
            if !folder.is_dir() {
                continue;
            }
            let (mut oldest, mut reasons) = (None::<u64>, BTreeMap::new());
            let sum = log::backlog(&folder, |header, file, offset| {
                oldest = Some(oldest.map_or(header.written, |oldest| oldest.min(header.written)));
                if signal.is_none() {
                    let reason = header.note(file, offset)?;
                    if reasons.len() < MAX_REASONS || reasons.contains_key(&reason) {
                        *reasons.entry(reason).or_insert(0) += 1;
                    }
                }
                Ok(())
            })?;
            let Backlog { requests, items, bytes } = sum;
            let replay_asked = signal.is_none() && requests > 0 && folder.join("replay").is_file();
            let exporter = exporter.clone();
            found.push(Holding {
                exporter,
                signal,
                requests,
                items,
                bytes,
                oldest,
                reasons,
                replay_asked,
            });
        }
    }
    Ok(found)
}

/// Asks for dead letters to be sent again by the Tapio that uses the directory, now or when one does.
pub fn ask_replay(directory: &Path, exporter: &str) -> io::Result<()> {
    dead::ask_replay(&directory.join(folder_name(exporter)).join(DEAD))
}

/// Deletes an exporter's dead letters; says how many requests and items they were.
pub fn drop_dead_letters(directory: &Path, exporter: &str) -> io::Result<(usize, usize)> {
    let dropped = dead::drop_all(&directory.join(folder_name(exporter)).join(DEAD))?;
    Ok((dropped.requests, dropped.items))
}

/// The exporters that have something below a directory, by id.
fn exporters(directory: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(exporter_id)
            && entry.file_type()?.is_dir()
        {
            found.insert(id, entry.path());
        }
    }
    Ok(found)
}

/// An exporter's id as a folder name: letters, digits, `_`, `-` and `.` inside stand for themselves.
fn folder_name(exporter: &str) -> String {
    let mut name = String::new();
    for (index, byte) in exporter.bytes().enumerate() {
        match byte {
            b'.' if index > 0 => name.push('.'),
            b'_' | b'-' => name.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

fn exporter_id(folder: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), folder.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}
