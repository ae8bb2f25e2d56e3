//! Requests that were acknowledged and cannot be delivered, kept for somebody to decide.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tapio_proto::Request;

use super::{
    files::{self, Writer},
    log::{Backlog, backlog},
    record::{Found, Letter, Walk},
};

/// Bytes that are read in one go.
const READ_BYTES: usize = 4 << 20;
/// For the other one to finish what it writes.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Longest reason that is kept.
const MAX_NOTE: usize = 512;

/// The dead letters of one exporter: segments as in a queue, each record with its reason.
///
/// The program parks and replays, `tapio queue` asks for a replay and drops, also while the program
/// runs: a lock file keeps the two apart.
pub(crate) struct DeadLetters {
    folder: PathBuf,
    corrupt: PathBuf,
    max_bytes: u64,
    writer: Mutex<Option<Writer>>,
    held: Mutex<Held>,
}

/// What the folder holds, as far as is known.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    requests: usize,
    /// Of the files: when they are others, somebody has changed something.
    on_disk: u64,
}

impl DeadLetters {
    pub(super) fn new(folder: PathBuf, corrupt: PathBuf, max_bytes: u64) -> Self {
        DeadLetters { folder, corrupt, max_bytes, writer: Mutex::default(), held: Mutex::default() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps requests, with the reason; on disk when it returns, all or none. Blocks.
    pub(crate) fn park(&self, requests: &[Request], reason: &str) -> io::Result<()> {
        files::make_folder(&self.folder, 0o750)?;
        let mut writer = self.writer();
        let _lock = lock(&self.folder)?;
        let note = short(reason);
        let bytes: u64 =
            requests.iter().map(|r| files::record_bytes(note.len() + r.bytes.len())).sum();
        let held = files::folder_bytes(&self.folder);
        if held + bytes > self.max_bytes {
            return Err(io::Error::other(format!(
                "the dead letters in {} are at their limit of {} MiB: `tapio queue replay` or `tapio queue drop` makes room",
                self.folder.display(),
                self.max_bytes >> 20
            )));
        }
        if writer.is_none() {
            let last = files::segments(&self.folder)?.last().copied().unwrap_or(0);
            *writer = Some(Writer::new(&self.folder, self.max_bytes, last + 1));
        }
        let Some(writer) = writer.as_mut() else { return Err(io::Error::other("no writer")) };
        // It may have been dropped by the command meanwhile.
        if writer.current().is_some_and(|(id, _)| !files::segment_path(&self.folder, id).is_file())
        {
            writer.seal();
        }
        let letters: Vec<_> = requests.iter().map(|request| Letter { request, note }).collect();
        writer.append(&letters)?;
        let mut known = self.held();
        if known.on_disk == held {
            *known = Held {
                requests: known.requests + requests.len(),
                on_disk: files::folder_bytes(&self.folder),
            };
        }
        Ok(())
    }

    /// How many requests there are, and what they take on disk; as of the last [`DeadLetters::count`].
    pub(crate) fn known(&self) -> (usize, u64) {
        let held = *self.held();
        (held.requests, held.on_disk)
    }

    /// Counts anew if the files have changed: they are replayed, and `tapio queue` drops them. Blocks.
    pub(crate) fn count(&self) -> io::Result<()> {
        let on_disk = files::folder_bytes(&self.folder);
        if self.held().on_disk != on_disk {
            let requests = match on_disk {
                0 => 0,
                _ => backlog(&self.folder, |_, _, _| Ok(()))?.requests,
            };
            *self.held() = Held { requests, on_disk };
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `tapio queue replay` was called.
    pub(crate) fn replay_asked(&self) -> bool {
        asked(&self.folder).is_file()
    }

    /// What there is to replay. What is parked from now on is not part of it.
    pub(crate) fn begin_replay(&self) -> io::Result<Vec<u64>> {
        let mut writer = self.writer();
        if let Some(writer) = writer.as_mut() {
            writer.seal();
        }
        files::segments(&self.folder)
    }

    /// Some requests of a segment from an offset on, and where to go on; `None` at its end.
    pub(crate) fn read(&self, segment: u64, from: u64) -> io::Result<(Vec<Request>, Option<u64>)> {
        let file = File::open(files::segment_path(&self.folder, segment))?;
        let mut walk = Walk::new(&file, segment, from, file.metadata()?.len());
        let (mut requests, mut bytes) = (Vec::new(), 0);
        while let Some(found) = walk.next()? {
            let damage = match found {
                Found::Torn(..) => continue,
                Found::Damage(from, to) => (from, to),
                Found::Record(offset, header) => match header.read(&file, offset)? {
                    Some((_, request)) => {
                        bytes += request.bytes.len();
                        requests.push(request);
                        if bytes >= READ_BYTES {
                            return Ok((requests, Some(walk.at)));
                        }
                        continue;
                    }
                    None => (u64::from(offset), walk.at),
                },
            };
            let (from, to) = damage;
            files::make_folder(&self.corrupt, 0o750)?;
            let copy = self.corrupt.join(format!("dead-{segment}-{from}.bin"));
            files::set_aside(&file, from, to, &copy)?;
            tracing::error!(target: super::SET_ASIDE, file = %copy.display(), "A dead letter is corrupt. It was set aside in this file; the rest goes on.");
        }
        Ok((requests, None))
    }

    /// All of a segment is in the queue again.
    pub(crate) fn replayed(&self, segment: u64) -> io::Result<()> {
        files::remove_segment(&self.folder, segment)
    }

    /// The replay has come to its end.
    pub(crate) fn end_replay(&self) -> io::Result<()> {
        fs::remove_file(asked(&self.folder))
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the program to send the dead letters of a folder again, now or when it starts next.
pub(super) fn ask_replay(folder: &Path) -> io::Result<()> {
    File::create(asked(folder))?.sync_all()?;
    files::sync_folder(folder)
}

/// Deletes the dead letters of a folder; says what they were.
pub(super) fn drop_all(folder: &Path) -> io::Result<Backlog> {
    let _lock = lock(folder)?;
    let held = backlog(folder, |_, _, _| Ok(()))?;
    for id in files::segments(folder)? {
        files::remove_segment(folder, id)?;
    }
    Ok(held)
}

fn asked(folder: &Path) -> PathBuf {
    folder.join("replay")
}

/// Held until it is dropped; waits while the other one writes.
fn lock(folder: &Path) -> io::Result<File> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).append(true).open(&path)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                let text = format!("somebody holds {} for too long", path.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
        }
    }
}

fn short(text: &str) -> &str {
    let mut end = text.len().min(MAX_NOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
