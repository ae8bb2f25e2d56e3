//! The files of a log: segments, the marks of what is settled, and making both last.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, IoSlice, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::record::{HEADER, Header, Letter, Position};

/// A segment that has reached this is closed and the next one begun, in a folder of any usual size.
const SEGMENT_BYTES: u64 = 16 << 20;
/// A segment takes no more than this part of a folder's limit: one that is settled goes only when it
/// is closed.
const SEGMENTS: u64 = 8;
/// Of files: telemetry is nobody else's business.
const FILE_MODE: u32 = 0o600;
/// Bytes of one mark of a settled record.
const MARK: usize = 8;
/// Slices in one call to write.
const SLICES: usize = 512;

/// Adds records to a folder of segments. What `append` has returned is on disk.
pub(super) struct Writer {
    folder: PathBuf,
    segment_bytes: u64,
    next: u64,
    current: Option<Current>,
}

struct Current {
    id: u64,
    file: File,
    length: u64,
}

// === impl Writer ===

impl Writer {
    /// Never writes into a segment of an earlier run: how that one ends is not known.
    pub(super) fn new(folder: &Path, limit: u64, next: u64) -> Self {
        let segment_bytes = SEGMENT_BYTES.min(limit / SEGMENTS);
        Writer { folder: folder.to_owned(), segment_bytes, next, current: None }
    }

    /// The segment that is being written, and how long it is.
    pub(super) fn current(&self) -> Option<(u64, u64)> {
        self.current.as_ref().map(|current| (current.id, current.length))
    }

    /// No more into the current segment.
    pub(super) fn seal(&mut self) {
        self.current = None;
    }

    /// Writes all of them or none, and waits until the disk has them.
    pub(super) fn append(&mut self, letters: &[Letter<'_>]) -> io::Result<Vec<(Position, u64)>> {
        if self.current.as_ref().is_none_or(|current| current.length >= self.segment_bytes) {
            self.current = Some(self.begin()?);
        }
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("no segment"));
        };
        match current.append(letters) {
            Ok(places) => Ok(places),
            Err(error) => {
                // After a failed sync the state of the file's pages is not known: a new file.
                let taken_back = current.take_back(&self.folder);
                self.current = None;
                if let Err(error) = taken_back {
                    tracing::warn!(%error, "could not take back an incomplete write; it may be sent though it was refused");
                }
                Err(error)
            }
        }
    }

    fn begin(&mut self) -> io::Result<Current> {
        let id = self.next;
        let path = segment_path(&self.folder, id);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(FILE_MODE);
        let file = options.open(&path)?;
        self.next += 1;
        if let Err(error) = sync_folder(&self.folder) {
            // Empty, and nobody knows of it.
            drop(fs::remove_file(&path));
            return Err(error);
        }
        Ok(Current { id, file, length: 0 })
    }
}

// === impl Current ===

impl Current {
    fn append(&mut self, letters: &[Letter<'_>]) -> io::Result<Vec<(Position, u64)>> {
        let (written, mut at) = (now_ms(), self.length);
        let mut headers = Vec::with_capacity(letters.len());
        let mut places = Vec::with_capacity(letters.len());
        for letter in letters {
            let header = Header::new(letter, written)?;
            let offset = u32::try_from(at).map_err(|_| io::Error::other("the segment is full"))?;
            let place = Position { segment: self.id, offset };
            headers.push(header.encode(place));
            at += header.size();
            places.push((place, at));
        }
        let parts = headers.iter().zip(letters).flat_map(|(header, letter)| {
            [header.as_slice(), letter.note.as_bytes(), &letter.request.bytes]
        });
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
        write_all(&mut self.file, parts)?;
        self.file.sync_data()?;
        self.length = at;
        Ok(places)
    }

    fn take_back(&self, folder: &Path) -> io::Result<()> {
        if self.length == 0 {
            return fs::remove_file(segment_path(folder, self.id));
        }
        self.file.set_len(self.length)
    }
}

fn write_all(file: &mut File, mut parts: Vec<IoSlice<'_>>) -> io::Result<()> {
    let mut parts = parts.as_mut_slice();
    while !parts.is_empty() {
        let some = parts.len().min(SLICES);
        match file.write_vectored(&parts[..some]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// === marks ===

/// The marks of settled records, as bytes for the file beside the segment.
pub(super) fn mark(at: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(&at.offset.to_le_bytes());
    out.extend_from_slice(&mark_crc(at).to_le_bytes());
}

/// Which records of a segment are settled. A mark that is damaged is none: the request goes out again.
pub(super) fn marks(folder: &Path, segment: u64) -> io::Result<HashSet<u32>> {
    let bytes = match fs::read(marks_path(folder, segment)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(error),
    };
    let marks = bytes.as_chunks::<MARK>().0.iter().filter_map(|[a, b, c, d, crc @ ..]| {
        let offset = u32::from_le_bytes([*a, *b, *c, *d]);
        (*crc == mark_crc(Position { segment, offset }).to_le_bytes()).then_some(offset)
    });
    Ok(marks.collect())
}

/// Opens the marks of a segment to add to them, behind the last whole one.
pub(super) fn open_marks(folder: &Path, segment: u64) -> io::Result<File> {
    let path = marks_path(folder, segment);
    let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    let length = file.metadata()?.len();
    file.set_len(length - length % MARK as u64)?;
    Ok(file)
}

fn mark_crc(at: Position) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&at.segment.to_le_bytes()), &at.offset.to_le_bytes())
}

// === names and folders ===

pub(super) fn segment_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:020}.log"))
}

pub(super) fn marks_path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:020}.ack"))
}

/// Removes a segment, then its marks: the other way round a crash between the two would send all
/// of it again.
pub(super) fn remove_segment(folder: &Path, id: u64) -> io::Result<()> {
    fs::remove_file(segment_path(folder, id))?;
    match fs::remove_file(marks_path(folder, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The numbers of the segments in a folder, oldest first; none when there is no folder.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = numbered(folder, "log")?;
    found.sort_unstable();
    Ok(found)
}

/// The numbers of marks whose segment is gone, left by a crash.
pub(super) fn orphaned_marks(folder: &Path) -> io::Result<Vec<u64>> {
    let segments = segments(folder)?;
    let marks = numbered(folder, "ack")?;
    Ok(marks.into_iter().filter(|id| segments.binary_search(id).is_err()).collect())
}

fn numbered(folder: &Path, extension: &str) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|found| found == extension)
            && let Some(id) = stem.and_then(|stem| stem.parse().ok())
        {
            found.push(id);
        }
    }
    Ok(found)
}

/// Makes a folder and those above it, each entered on disk.
pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make_folder(above, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(above.unwrap_or(Path::new(".")))
}

/// A new file is only there for good when its folder is.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies a part of a segment away, for somebody to look at.
pub(super) fn set_aside(from: &File, start: u64, end: u64, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let mut out = options.open(to)?;
    let mut chunk = vec![0; 64 << 10];
    let mut at = start;
    while at < end {
        let length = (end - at).min(chunk.len() as u64) as usize;
        from.read_exact_at(&mut chunk[..length], at)?;
        out.write_all(&chunk[..length])?;
        at += length as u64;
    }
    out.sync_all()
}

/// What the files of a folder take, folders in it left out; 0 when it is not there.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
    sizes.filter(|about| about.is_file()).map(|about| about.len()).sum()
}

fn now_ms() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes that a request takes on disk.
pub(super) fn record_bytes(body: usize) -> u64 {
    (HEADER + body) as u64
}
