//! Queue files: the exporter's own storage, taken in as a module, over segments and marks that may be anything.
#![allow(dead_code, unused_imports)]

#[path = "../../exporter/src/storage/mod.rs"]
mod storage;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use storage::{Backlog, Log, Place, Position, Window};
use tapio_proto::{Request, Signal};

/// Requests that fit into the window.
const ROOM: usize = 4;
const HEADER: usize = 32;
/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_secs(20);

/// The first byte says what the rest is: a segment as it is, or bodies and what is done to their file.
pub fn run(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let folder = folder();
    let queue = folder.join("traces");
    fs::create_dir_all(&queue).unwrap();
    let (segment, marks, whole) =
        if mode & 1 == 0 { (rest.to_vec(), Vec::new(), Vec::new()) } else { made(rest) };
    fs::write(queue.join(format!("{:020}.log", 1)), &segment).unwrap();
    fs::write(queue.join(format!("{:020}.ack", 1)), &marks).unwrap();
    let seen = read(&folder, false);
    // What nobody touched comes out, in order, whatever stands around it.
    let mut came = seen.iter();
    for body in &whole {
        assert!(came.any(|seen| seen == body), "a record that is whole is lost");
    }
    // Settled, it does not come again; nor does anything else appear.
    assert_eq!(read(&folder, true), seen, "the same as often as it is read");
    assert!(read(&folder, true).is_empty(), "what is settled is gone");
    storage::holdings(&folder).unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

/// Records as the format's text has them, then flips, a cut and marks; the bodies that are whole and not marked.
fn made(data: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<Vec<u8>>) {
    let (mut segment, mut records) = (Vec::new(), Vec::new());
    let mut rest = data;
    while let [length, more @ ..] = rest
        && *length < 0xc0
        && records.len() < 16
    {
        let (body, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        let at = segment.len();
        segment.extend(header(at, body));
        segment.extend(body);
        records.push((at, segment.len(), body.to_vec(), true));
    }
    let mut marks = Vec::new();
    for step in rest.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([step[1], step[2]])) % (segment.len() + 1);
        match step[0] % 4 {
            // Flipped bits.
            0 if at < segment.len() && step[3] != 0 => {
                segment[at] ^= step[3];
                for (start, end, _, whole) in &mut records {
                    *whole &= !(*start..*end).contains(&at);
                }
            }
            // Cut off.
            1 => {
                segment.truncate(at);
                for (_, end, _, whole) in &mut records {
                    *whole &= *end <= at;
                }
            }
            // A mark of a record, or of a place where there is none.
            2 => {
                let of = records.get(usize::from(step[3]) % 32).map_or(at, |record| record.0);
                mark(&mut marks, of);
                for (start, _, _, whole) in &mut records {
                    *whole &= *start != of;
                }
            }
            // A mark that is damaged is none.
            3 => {
                mark(&mut marks, at);
                *marks.last_mut().unwrap() ^= step[3] | 1;
            }
            _ => {}
        }
    }
    let whole = records.into_iter().filter(|record| record.3).map(|record| record.2).collect();
    (segment, marks, whole)
}

fn header(at: usize, body: &[u8]) -> Vec<u8> {
    let mut out = b"TpQ1\0\0\0\0".to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(1_700_000_000_000_u64.to_le_bytes());
    out.extend(crc32c::crc32c(body).to_le_bytes());
    out.extend(crc32c::crc32c_append(place(at), &out).to_le_bytes());
    assert_eq!(out.len(), HEADER);
    out
}

fn mark(marks: &mut Vec<u8>, at: usize) {
    marks.extend((at as u32).to_le_bytes());
    marks.extend(place(at).to_le_bytes());
}

fn place(at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&1_u64.to_le_bytes()), &(at as u32).to_le_bytes())
}

/// In memory where the system has such a place: each input syncs files.
fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("tapio-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

#[derive(Default)]
struct Seen(Mutex<State>);

#[derive(Default)]
struct State {
    put: Vec<(Vec<u8>, Position)>,
    taken: usize,
    more: bool,
    told: usize,
}

impl Window for Seen {
    fn has_room(&self, _: usize, _: bool) -> bool {
        let state = self.0.lock().unwrap();
        state.put.len() - state.taken < ROOM
    }
    fn put(&self, request: Request, at: Position, _: bool) {
        self.0.lock().unwrap().put.push((request.bytes.to_vec(), at));
    }
    fn left_on_disk(&self, _: usize) {}
    fn room_on_disk(&self) {}
    fn refused(&self, _: &Request) {}
    fn more_on_disk(&self, more: bool) {
        let mut state = self.0.lock().unwrap();
        (state.more, state.told) = (more, state.told + 1);
    }
    fn replayed(&self, _: usize) {}
    fn corrupt(&self, _: Option<Backlog>) {}
}

/// Reads all there is, as workers do, and settles it if told so; the bodies, in order.
fn read(folder: &Path, settle: bool) -> Vec<Vec<u8>> {
    let place = || Place {
        folder: folder.join("traces"),
        corrupt: folder.join("corrupt"),
        max_bytes: 1 << 30,
        max_corrupt: 1 << 20,
        signal: Signal::Traces,
    };
    Log::open(&place()).unwrap();
    let window = Arc::new(Seen::default());
    let log = Log::start(place(), window.clone()).unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < deadline, "it never came to an end");
        let mut state = window.0.lock().unwrap();
        for (_, at) in &state.put[state.taken..] {
            if settle {
                log.settle(*at);
            }
        }
        assert!(state.put.len() - state.taken <= ROOM, "more in memory than there is room for");
        state.taken = state.put.len();
        if !state.more {
            break;
        }
        let told = state.told;
        drop(state);
        log.read();
        while window.0.lock().unwrap().told == told {
            assert!(Instant::now() < deadline, "it never came to an end");
            thread::yield_now();
        }
    }
    log.close().blocking_recv().unwrap();
    let mut state = window.0.lock().unwrap();
    std::mem::take(&mut state.put).into_iter().map(|(body, _)| body).collect()
}
