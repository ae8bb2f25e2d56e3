//! The log of one exporter and signal, and the thread that owns its files.
//!
//! What is appended at the same time shares one sync. What is on disk is offered to the window, the
//! part of the queue that is in memory; what finds no room there stays on disk and is read again when
//! the workers have come that far.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tapio_proto::{Code, Request, Signal, Status};
use tokio::sync::oneshot;

use super::{
    files::{self, Writer},
    record::{Found, Header, Letter, Position, Walk},
};

/// Bytes that one sync makes last.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes that are read in one go, while appends wait.
const READ_BYTES: usize = 4 << 20;
/// After a disk could not be read, and how often it is tried before the rest of the segment is left.
const READ_PAUSE: Duration = Duration::from_secs(1);
const READ_TRIES: u32 = 5;
/// What a sender should wait when the disk does not take its request.
const DISK_WAIT: Duration = Duration::from_secs(1);
/// The thread calls nothing deep.
const STACK: usize = 512 << 10;

/// Requests, items and bytes on disk that are not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) requests: usize,
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// The part of a queue that is in memory. Called by the log's thread only; must not wait.
pub(crate) trait Window: Send + Sync + 'static {
    /// Whether a request of so many bytes would find room; a fresh one is in memory already.
    fn has_room(&self, bytes: usize, fresh: bool) -> bool;
    /// A request that is on disk, for the workers.
    fn put(&self, request: Request, at: Position, fresh: bool);
    /// A fresh request is on disk and no longer in memory.
    fn left_on_disk(&self, bytes: usize);
    /// There is more room on disk.
    fn room_on_disk(&self);
    /// A fresh request could not be written: its room is free.
    fn refused(&self, request: &Request);
    /// After reading or writing: whether there is more on disk than was put.
    fn more_on_disk(&self, more: bool);
    /// A record of an earlier run is on its way again.
    fn replayed(&self, items: usize);
    /// A record cannot be read; with its load when that is known.
    fn corrupt(&self, load: Option<Backlog>);
}

/// The way to the thread.
pub(crate) struct Log {
    inbox: Arc<Inbox>,
    disk: Arc<AtomicU64>,
}

/// Where a log is and what it may take.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) corrupt: PathBuf,
    /// Bound of the log, in bytes; the queue holds to it.
    pub(crate) max_bytes: u64,
    /// Bound of `corrupt`, in bytes.
    pub(crate) max_corrupt: u64,
    pub(crate) signal: Signal,
}

/// What the thread has to do. Bounded by the queue: an append has reserved its room there, and a
/// settled record was one of those in the window.
#[derive(Default)]
struct Inbox {
    state: Mutex<Work>,
    bell: Condvar,
}

#[derive(Default)]
struct Work {
    appends: Vec<Append>,
    settled: Vec<Position>,
    read: bool,
    close: bool,
    closed: Option<oneshot::Sender<()>>,
    /// The thread has gone: nothing is done any more.
    ended: bool,
}

struct Append {
    request: Request,
    done: oneshot::Sender<Result<(), Status>>,
}

struct Keeper {
    place: Place,
    writer: Writer,
    segments: BTreeMap<u64, Segment>,
    /// The first record that was not yet put into the window.
    cursor: (u64, u64),
    reading: Option<Reading>,
    /// Segments below this are of an earlier run.
    first_own: u64,
    window: Arc<dyn Window>,
    disk: Arc<AtomicU64>,
    write_trouble: bool,
    failed_reads: u32,
}

#[derive(Default)]
struct Segment {
    length: u64,
    /// Records that were put and are not settled.
    pending: usize,
    /// The cursor is behind it.
    passed: bool,
    /// Keep the file: something in it could not be read, nor be set aside.
    keep: bool,
    marks: Option<File>,
}

struct Reading {
    segment: u64,
    file: File,
    settled: HashSet<u32>,
}

// === impl Log ===

impl Log {
    /// Opens or makes the log; says what waits in it. Reads the headers of what is there, so it
    /// blocks; memory does not depend on how much that is.
    pub(crate) fn open(place: &Place) -> io::Result<Backlog> {
        files::make_folder(&place.folder, 0o750)?;
        for id in files::orphaned_marks(&place.folder)? {
            fs::remove_file(files::marks_path(&place.folder, id))?;
        }
        backlog(&place.folder, |_, _, _| Ok(()))
    }

    /// Starts the thread.
    pub(crate) fn start(place: Place, window: Arc<dyn Window>) -> io::Result<Log> {
        let (inbox, disk) = (Arc::new(Inbox::default()), Arc::new(AtomicU64::new(0)));
        let keeper = Keeper::open(place, window, Arc::clone(&disk))?;
        let theirs = Arc::clone(&inbox);
        thread::Builder::new().name("tapio-queue".into()).stack_size(STACK).spawn(move || {
            // Whatever ends the thread, nobody waits for it any more.
            let ended = Ended(&theirs);
            keeper.run(ended.0);
        })?;
        Ok(Log { inbox, disk })
    }

    /// Writes a request; resolves when the disk has it, or with what to tell the sender.
    pub(crate) fn append(&self, request: Request) -> oneshot::Receiver<Result<(), Status>> {
        let (done, outcome) = oneshot::channel();
        self.inbox.tell(|work| work.appends.push(Append { request, done }));
        outcome
    }

    /// A record was delivered or given up.
    pub(crate) fn settle(&self, at: Position) {
        self.inbox.tell(|work| work.settled.push(at));
    }

    /// The window wants more.
    pub(crate) fn read(&self) {
        self.inbox.tell(|work| work.read = true);
    }

    /// Bytes of its segments.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk.load(Ordering::Relaxed)
    }

    /// Ends the thread when it has done what it was told before.
    pub(crate) fn close(&self) -> oneshot::Receiver<()> {
        let (closed, receiver) = oneshot::channel();
        self.inbox.tell(|work| {
            work.close = true;
            work.closed = Some(closed);
        });
        receiver
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.inbox.tell(|work| work.close = true);
    }
}

/// Says that the thread has gone.
struct Ended<'a>(&'a Inbox);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.state() = Work { ended: true, ..Work::default() };
    }
}

impl Inbox {
    fn tell(&self, what: impl FnOnce(&mut Work)) {
        let mut work = self.state();
        if !work.ended {
            what(&mut work);
            drop(work);
            self.bell.notify_one();
        }
    }

    fn take(&self) -> Work {
        let mut work = self
            .bell
            .wait_while(self.state(), |work| {
                work.appends.is_empty() && work.settled.is_empty() && !work.read && !work.close
            })
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *work)
    }

    fn state(&self) -> MutexGuard<'_, Work> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Keeper ===

impl Keeper {
    fn open(place: Place, window: Arc<dyn Window>, disk: Arc<AtomicU64>) -> io::Result<Self> {
        let ids = files::segments(&place.folder)?;
        let mut segments = BTreeMap::new();
        for id in &ids {
            let length = fs::metadata(files::segment_path(&place.folder, *id))?.len();
            segments.insert(*id, Segment { length, ..Segment::default() });
        }
        let first_own = ids.last().map_or(1, |last| last + 1);
        let first = ids.first().copied().unwrap_or(first_own);
        disk.store(segments.values().map(|segment| segment.length).sum(), Ordering::Relaxed);
        window.more_on_disk(!segments.is_empty());
        Ok(Keeper {
            writer: Writer::new(&place.folder, place.max_bytes, first_own),
            place,
            segments,
            cursor: (first, 0),
            reading: None,
            first_own,
            window,
            disk,
            write_trouble: false,
            failed_reads: 0,
        })
    }

    fn run(mut self, inbox: &Inbox) {
        loop {
            let work = inbox.take();
            self.settle(work.settled);
            self.append(work.appends);
            if work.read {
                self.read();
            }
            if work.close {
                self.end();
                if let Some(closed) = work.closed {
                    // Nobody waits for it any more: then nobody needs to know.
                    let _ = closed.send(());
                }
                return;
            }
        }
    }

    // --- writing ---

    fn append(&mut self, appends: Vec<Append>) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for append in appends {
            bytes += append.request.bytes.len();
            batch.push(append);
            if bytes >= BATCH_BYTES {
                self.commit(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        self.commit(batch);
    }

    fn commit(&mut self, batch: Vec<Append>) {
        if batch.is_empty() {
            return;
        }
        let letters: Vec<_> =
            batch.iter().map(|append| Letter { request: &append.request, note: "" }).collect();
        let places = match self.writer.append(&letters) {
            Ok(places) => places,
            Err(error) => return self.refuse(batch, &error),
        };
        if self.write_trouble {
            self.write_trouble = false;
            tracing::info!(folder = %self.place.folder.display(), "The sending queue can be written again.");
        }
        self.grown();
        let mut more = false;
        for (Append { request, done }, (at, end)) in batch.into_iter().zip(places) {
            let next = self.cursor == (at.segment, u64::from(at.offset));
            if next && self.window.has_room(request.bytes.len(), true) {
                self.put(request, at, end, true);
            } else {
                self.window.left_on_disk(request.bytes.len());
                more = true;
            }
            // A sender that has gone away needs no answer.
            let _ = done.send(Ok(()));
        }
        if more {
            self.window.more_on_disk(true);
        }
        self.advance();
    }

    fn refuse(&mut self, batch: Vec<Append>, error: &io::Error) {
        let text = format!("the sending queue cannot be written to disk: {error}");
        if !self.write_trouble {
            self.write_trouble = true;
            tracing::error!(
                folder = %self.place.folder.display(),
                %error,
                "The sending queue cannot be written: senders are refused until it can. Make room, or check the disk."
            );
        }
        self.advance();
        for Append { request, done } in batch {
            self.window.refused(&request);
            let status = Status::new(Code::Unavailable, text.clone());
            let _ = done.send(Err(Status { retry_after: Some(DISK_WAIT), ..status }));
        }
    }

    /// After a write: the current segment is longer, or a new one.
    fn grown(&mut self) {
        let Some((id, length)) = self.writer.current() else { return };
        let segment = self.segments.entry(id).or_default();
        self.disk.fetch_add(length - segment.length, Ordering::Relaxed);
        segment.length = length;
        self.advance();
    }

    fn put(&mut self, request: Request, at: Position, end: u64, fresh: bool) {
        if let Some(segment) = self.segments.get_mut(&at.segment) {
            segment.pending += 1;
        }
        self.cursor = (at.segment, end);
        self.window.put(request, at, fresh);
    }

    // --- settling ---

    fn settle(&mut self, settled: Vec<Position>) {
        let mut marks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for at in settled {
            if let Some(segment) = self.segments.get_mut(&at.segment) {
                segment.pending = segment.pending.saturating_sub(1);
                files::mark(at, marks.entry(at.segment).or_default());
            }
        }
        for (id, marks) in marks {
            if !self.retire(id) {
                self.write_marks(id, &marks);
            }
        }
    }

    fn write_marks(&mut self, id: u64, marks: &[u8]) {
        let Some(segment) = self.segments.get_mut(&id) else { return };
        let file = match segment.marks.take() {
            Some(file) => Ok(file),
            None => files::open_marks(&self.place.folder, id),
        };
        // A mark that is not written costs a duplicate after the next start. On a full disk half of
        // one may have been: opened again, the file is cut to whole ones.
        match file.and_then(|mut file| file.write_all(marks).map(|()| file)) {
            Ok(file) => segment.marks = Some(file),
            Err(error) => tracing::debug!(%error, "could not mark what was delivered"),
        }
    }

    /// Moves the cursor from a finished segment to the next.
    fn advance(&mut self) {
        loop {
            let (id, offset) = self.cursor;
            let current = self.writer.current().map(|(id, _)| id);
            let length = self.segments.get(&id).map_or(0, |segment| segment.length);
            if current == Some(id) || offset < length {
                return;
            }
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.passed = true;
            }
            self.reading = None;
            let next = self.segments.range(id + 1..).next().map(|(id, _)| *id);
            self.retire(id);
            match next {
                Some(next) => self.cursor = (next, 0),
                None => return,
            }
        }
    }

    /// Deletes a segment of which everything is settled.
    fn retire(&mut self, id: u64) -> bool {
        let current = self.writer.current().map(|(id, _)| id);
        let Some(segment) = self.segments.get(&id) else { return true };
        if current == Some(id) || !segment.passed || segment.pending > 0 || segment.keep {
            return false;
        }
        if let Err(error) = files::remove_segment(&self.place.folder, id) {
            tracing::warn!(folder = %self.place.folder.display(), segment = id, %error, "could not delete what is delivered; it is sent again after the next start");
        }
        self.disk.fetch_sub(segment.length, Ordering::Relaxed);
        self.segments.remove(&id);
        self.window.room_on_disk();
        true
    }

    fn end(&mut self) {
        self.writer.seal();
        self.advance();
        let ids: Vec<_> = self.segments.keys().copied().collect();
        for id in ids {
            self.retire(id);
        }
    }

    // --- reading ---

    fn read(&mut self) {
        let error = match self.read_some() {
            Ok(more) => {
                self.failed_reads = 0;
                return self.window.more_on_disk(more);
            }
            Err(error) => error,
        };
        let (id, offset) = self.cursor;
        self.failed_reads += 1;
        if self.failed_reads < READ_TRIES {
            thread::sleep(READ_PAUSE);
        } else {
            tracing::error!(
                folder = %self.place.folder.display(), segment = id, offset, %error,
                "The sending queue cannot be read from this place to the end of the segment. The file is kept, and tried again after the next start; the rest goes on. Check the disk."
            );
            self.failed_reads = 0;
            self.window.corrupt(None);
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.keep = true;
                self.cursor = (id, segment.length);
            }
        }
        self.window.more_on_disk(true);
    }

    /// Reads records into the window; whether there are more.
    fn read_some(&mut self) -> io::Result<bool> {
        let mut bytes = 0;
        loop {
            self.advance();
            let (id, offset) = self.cursor;
            let Some(segment) = self.segments.get(&id) else { return Ok(false) };
            let end = segment.length;
            if offset >= end {
                return Ok(false);
            }
            if bytes >= READ_BYTES {
                return Ok(true);
            }
            let reading = match self.reading.take() {
                Some(reading) if reading.segment == id => reading,
                _ => Reading {
                    segment: id,
                    file: File::open(files::segment_path(&self.place.folder, id))?,
                    settled: files::marks(&self.place.folder, id)?,
                },
            };
            let more = self.read_one(&reading, offset, end, &mut bytes);
            self.reading = Some(reading);
            if more? {
                return Ok(true);
            }
        }
    }

    /// Reads what is at the cursor; whether the window has no room for it.
    fn read_one(
        &mut self,
        reading: &Reading,
        offset: u64,
        end: u64,
        bytes: &mut usize,
    ) -> io::Result<bool> {
        let id = reading.segment;
        let mut walk = Walk::new(&reading.file, id, offset, end);
        let old = id < self.first_own;
        match walk.next()? {
            Some(Found::Record(at, header)) => {
                let here = Position { segment: id, offset: at };
                if old && reading.settled.contains(&at) {
                    self.cursor = (id, walk.at);
                    return Ok(false);
                }
                if !self.window.has_room(header.length as usize, false) {
                    return Ok(true);
                }
                match header.read(&reading.file, at)? {
                    Some((_, request)) => {
                        *bytes += request.bytes.len();
                        if old {
                            self.window.replayed(request.items);
                        }
                        self.put(request, here, walk.at, false);
                    }
                    None => {
                        let load = Backlog {
                            requests: 1,
                            items: header.items as usize,
                            bytes: header.length as usize,
                        };
                        self.set_aside(reading, offset, walk.at, Some(load));
                        self.cursor = (id, walk.at);
                    }
                }
            }
            Some(Found::Damage(from, to)) => {
                let known = u32::try_from(from).is_ok_and(|at| reading.settled.contains(&at));
                if !known {
                    self.set_aside(reading, from, to, None);
                }
                self.cursor = (id, to);
            }
            Some(Found::Torn(_, to)) => self.cursor = (id, to),
            None => self.cursor = (id, end),
        }
        Ok(false)
    }

    /// Copies what cannot be read into a file of its own, once, and says so.
    fn set_aside(&mut self, reading: &Reading, from: u64, to: u64, load: Option<Backlog>) {
        let id = reading.segment;
        let name = format!("{}-{id}-{from}.bin", self.place.signal.name());
        let path = self.place.corrupt.join(name);
        let copied = files::make_folder(&self.place.corrupt, 0o750).and_then(|()| {
            if files::folder_bytes(&self.place.corrupt) + (to - from) > self.place.max_corrupt {
                return Err(io::Error::other("the folder for corrupt records is full"));
            }
            files::set_aside(&reading.file, from, to, &path)
        });
        let segment = files::segment_path(&self.place.folder, id);
        self.window.corrupt(load);
        match copied {
            Ok(()) => {
                tracing::error!(
                    target: super::SET_ASIDE,
                    file = %path.display(), segment = %segment.display(), offset = from, bytes = to - from,
                    "A record of the sending queue is corrupt. It was set aside in this file; the rest goes on."
                );
                if let Ok(offset) = u32::try_from(from) {
                    let mut marks = Vec::new();
                    files::mark(Position { segment: id, offset }, &mut marks);
                    self.write_marks(id, &marks);
                }
            }
            Err(error) => {
                tracing::error!(
                    target: super::SET_ASIDE,
                    segment = %segment.display(), offset = from, bytes = to - from, %error,
                    "A record of the sending queue is corrupt and could not be set aside. The segment is kept; the rest goes on."
                );
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.keep = true;
                }
            }
        }
    }
}

/// What is not settled in a folder of segments; `each` may look at every record.
pub(super) fn backlog(
    folder: &Path,
    mut each: impl FnMut(&Header, &File, u32) -> io::Result<()>,
) -> io::Result<Backlog> {
    let mut sum = Backlog::default();
    for id in files::segments(folder)? {
        let file = match File::open(files::segment_path(folder, id)) {
            Ok(file) => file,
            // The program that uses the folder has delivered all of it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let settled = files::marks(folder, id)?;
        let mut walk = Walk::new(&file, id, 0, file.metadata()?.len());
        while let Some(found) = walk.next()? {
            if let Found::Record(offset, header) = found
                && !settled.contains(&offset)
            {
                each(&header, &file, offset)?;
                sum.requests += 1;
                sum.items += header.items as usize;
                sum.bytes += header.length as usize;
            }
        }
    }
    Ok(sum)
}
