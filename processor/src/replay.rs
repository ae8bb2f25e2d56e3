//! Recordings through the engine: OTLP JSON lines in event time.
//!
//! Files are merged line by line, each line filed under its newest record, so that the engine sees
//! what a Collector would have sent, in the order in which it would have sent it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tapio_proto::{Request, check, json, model::Time};

use crate::ingest::newest;

/// A line longer than this is refused: 256 MiB.
const LONGEST_LINE: u64 = 256 << 20;

/// Something in a recording that was passed over, for standard error: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed(pub String);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A merged stream of requests from recordings.
#[derive(Default)]
pub struct Recording {
    lanes: Vec<Lane>,
    heads: BinaryHeap<Reverse<(Time, usize)>>,
    passed: Vec<Passed>,
    read: Arc<AtomicU64>,
    total: u64,
}

struct Lane {
    path: PathBuf,
    lines: Box<dyn BufRead + Send>,
    number: u64,
    head: Option<Request>,
    latest: Time,
}

/// Counts what is read of the file itself, compressed or not, for the progress bar.
struct Counted<R> {
    content: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Recording {
    /// Opens every `*.jsonl` and `*.jsonl.zst` in these files and folders, folders in depth.
    pub fn open(paths: &[PathBuf]) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            collect(path, &mut files, 0)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        }
        files.sort();
        files.dedup();
        let mut recording = Recording::default();
        for path in files {
            let in_file =
                |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            let file = File::open(&path).map_err(in_file)?;
            let length = file.metadata().map_err(in_file)?.len();
            recording.add(path.clone(), length, file).map_err(in_file)?;
        }
        recording.begin();
        Ok(recording)
    }

    /// A recording that is part of the program: names and contents of its files.
    pub fn bundled(files: &[(&str, &'static [u8])]) -> io::Result<Self> {
        let mut recording = Recording::default();
        for (name, content) in files {
            recording.add(PathBuf::from(name), content.len() as u64, *content)?;
        }
        recording.begin();
        Ok(recording)
    }

    fn add(
        &mut self,
        path: PathBuf,
        length: u64,
        content: impl Read + Send + 'static,
    ) -> io::Result<()> {
        let counted = Counted { content, read: self.read.clone() };
        let lines: Box<dyn BufRead + Send> = if path.extension().is_some_and(|e| e == "zst") {
            Box::new(BufReader::new(zstd::Decoder::new(counted)?))
        } else {
            Box::new(BufReader::new(counted))
        };
        self.total += length;
        self.lanes.push(Lane { path, lines, number: 0, head: None, latest: Time::default() });
        Ok(())
    }

    fn begin(&mut self) {
        for lane in 0..self.lanes.len() {
            self.refill(lane);
        }
    }

    /// Bytes of the files, and how many of them have been read.
    pub fn progress(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.total)
    }

    /// What was passed over since the last call.
    pub fn passed(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.passed)
    }

    /// The next request and the time at which it is filed.
    pub fn next_request(&mut self) -> Option<(Time, Request)> {
        let Reverse((time, lane)) = self.heads.pop()?;
        let request = self.lanes[lane].head.take()?;
        self.refill(lane);
        Some((time, request))
    }

    /// Reads the lane's next good line; notes the bad ones on the way.
    fn refill(&mut self, at: usize) {
        loop {
            let lane = &mut self.lanes[at];
            let line = match lane.read() {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(error) => {
                    self.passed.push(Passed(format!(
                        "{}:{}: {error}; the rest of the file is passed over",
                        lane.path.display(),
                        lane.number
                    )));
                    return;
                }
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Some(signal) = json::signal_of(&line) else {
                if lane.latest == Time::default() && lane.number == 1 {
                    self.passed
                        .push(Passed(format!("{}: no OTLP, passed over", lane.path.display())));
                    return;
                }
                self.passed.push(Passed(format!(
                    "{}:{}: no OTLP request; the line is passed over",
                    lane.path.display(),
                    lane.number
                )));
                continue;
            };
            let request =
                json::to_proto(signal, &line).map_err(|e| e.to_string()).and_then(|bytes| {
                    check(signal, &bytes)
                        .map(|items| Request::new(signal, bytes, items))
                        .map_err(|e| e.to_string())
                });
            match request {
                Ok(request) => {
                    // A line without any time follows the one before it.
                    lane.latest = newest(&request).unwrap_or(lane.latest).max(lane.latest);
                    lane.head = Some(request);
                    self.heads.push(Reverse((lane.latest, at)));
                    return;
                }
                Err(error) => {
                    self.passed.push(Passed(format!(
                        "{}:{}: {error}; the line is passed over",
                        lane.path.display(),
                        lane.number
                    )));
                }
            }
        }
    }
}

impl Lane {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.number += 1;
        let n = self.lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if n as u64 == LONGEST_LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the line is longer than 256 MiB",
            ));
        }
        Ok((n > 0).then_some(line))
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>, depth: usize) -> io::Result<()> {
    if !path.metadata()?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth > 16 {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, files, depth + 1)?;
        } else if name.ends_with(".jsonl") || name.ends_with(".jsonl.zst") {
            files.push(path);
        }
    }
    Ok(())
}
