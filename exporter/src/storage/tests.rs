//! Cut anywhere, flipped anywhere, full: what was acknowledged comes out again.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use tapio_proto::{Request, Signal};

use super::{
    FileStorageConfig, Log, Place, Position, Storage, Window, ask_replay, drop_dead_letters, files,
    holdings, log::Backlog,
};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "tapio-storage-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn place(&self) -> Place {
        Place {
            folder: self.0.join("traces"),
            corrupt: self.0.join("corrupt"),
            max_bytes: 1 << 30,
            max_corrupt: 1 << 20,
            signal: Signal::Traces,
        }
    }

    fn segment(&self) -> PathBuf {
        files::segment_path(&self.0.join("traces"), 1)
    }

    fn set_aside(&self) -> usize {
        fs::read_dir(self.0.join("corrupt")).map_or(0, Iterator::count)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A window of so many requests.
#[derive(Default)]
struct Seen {
    room: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    put: Vec<(Request, Position)>,
    /// Of them, those that were taken out.
    taken: usize,
    more: bool,
    /// Answers of `more_on_disk`.
    told: usize,
    corrupt: usize,
    refused: usize,
    largest: usize,
}

impl Window for Seen {
    fn has_room(&self, _: usize, _: bool) -> bool {
        let state = self.state.lock().unwrap();
        state.put.len() - state.taken < self.room
    }

    fn put(&self, request: Request, at: Position, _: bool) {
        let mut state = self.state.lock().unwrap();
        state.put.push((request, at));
        state.largest = state.largest.max(state.put.len() - state.taken);
    }

    fn left_on_disk(&self, _: usize) {}

    fn room_on_disk(&self) {}

    fn refused(&self, _: &Request) {
        self.state.lock().unwrap().refused += 1;
    }

    fn more_on_disk(&self, more: bool) {
        let mut state = self.state.lock().unwrap();
        (state.more, state.told) = (more, state.told + 1);
    }

    fn replayed(&self, _: usize) {}

    fn corrupt(&self, _: Option<Backlog>) {
        self.state.lock().unwrap().corrupt += 1;
    }
}

fn request(n: u64, bytes: usize) -> Request {
    let mut body = n.to_le_bytes().to_vec();
    // Looks like the beginning of a record, over and over.
    body.extend(b"TpQ1".iter().cycle().take(bytes));
    Request::new(Signal::Traces, Bytes::from(body), 3)
}

fn number(request: &Request) -> u64 {
    u64::from_le_bytes(request.bytes[..8].try_into().unwrap())
}

fn start(folder: &Folder, room: usize) -> (Log, Arc<Seen>, Backlog) {
    let window = Arc::new(Seen { room, ..Seen::default() });
    let backlog = Log::open(&folder.place()).unwrap();
    let log = Log::start(folder.place(), window.clone()).unwrap();
    (log, window, backlog)
}

fn append(log: &Log, request: Request) -> bool {
    log.append(request).blocking_recv().unwrap().is_ok()
}

/// Writes requests of these sizes and ends without delivering any.
fn write(folder: &Folder, sizes: &[usize]) {
    let (log, _, _) = start(folder, 0);
    for (n, bytes) in sizes.iter().enumerate() {
        assert!(append(&log, request(n as u64, *bytes)));
    }
    log.close().blocking_recv().unwrap();
}

/// Reads all there is, as workers do; the numbers, in order.
fn read(folder: &Folder, settle: bool) -> (Vec<u64>, Arc<Seen>) {
    let (log, window, backlog) = start(folder, 4);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "it never came to an end");
        let mut state = window.state.lock().unwrap();
        for (_, at) in &state.put[state.taken..] {
            if settle {
                log.settle(*at);
            }
        }
        state.taken = state.put.len();
        if !state.more {
            break;
        }
        let told = state.told;
        drop(state);
        log.read();
        while window.state.lock().unwrap().told == told {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
    log.close().blocking_recv().unwrap();
    let state = window.state.lock().unwrap();
    let numbers: Vec<_> = state.put.iter().map(|(request, _)| number(request)).collect();
    assert_eq!(
        backlog.requests,
        numbers.len() + state.corrupt.min(backlog.requests - numbers.len())
    );
    assert!(state.largest <= 4, "more in memory than the window has room for");
    drop(state);
    (numbers, window)
}

/// Where each record ends.
fn ends(sizes: &[usize]) -> Vec<u64> {
    let size = |bytes: &usize| files::record_bytes(8 + bytes);
    sizes
        .iter()
        .scan(0, |at, bytes| {
            *at += size(bytes);
            Some(*at)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A power cut leaves any prefix of what was not synced.
    #[test]
    fn cut_at_any_byte_what_is_whole_is_sent(sizes in prop::collection::vec(0..300_usize, 1..12), cut in any::<prop::sample::Index>()) {
        let folder = Folder::new();
        write(&folder, &sizes);
        let ends = ends(&sizes);
        let cut = cut.index(*ends.last().unwrap() as usize + 1) as u64;
        fs::OpenOptions::new().write(true).open(folder.segment()).unwrap().set_len(cut).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let (numbers, window) = read(&folder, true);
        prop_assert_eq!(numbers, (0..whole).collect::<Vec<_>>());
        prop_assert_eq!(window.state.lock().unwrap().corrupt, 0, "a torn tail is no corruption");
        prop_assert!(!folder.segment().exists(), "all is settled");
    }

    #[test]
    fn one_flipped_bit_costs_at_most_its_own_record_which_is_set_aside(sizes in prop::collection::vec(0..300_usize, 1..12), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let folder = Folder::new();
        write(&folder, &sizes);
        let ends = ends(&sizes);
        let place = place.index(*ends.last().unwrap() as usize) as u64;
        let file = fs::OpenOptions::new().read(true).write(true).open(folder.segment()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], place).unwrap();
        let hit = ends.iter().filter(|end| **end <= place).count() as u64;
        let (numbers, window) = read(&folder, false);
        let expected: Vec<_> = (0..sizes.len() as u64).filter(|n| *n != hit).collect();
        prop_assert_eq!(numbers, expected.clone());
        prop_assert_eq!(window.state.lock().unwrap().corrupt, 1);
        prop_assert_eq!(folder.set_aside(), 1);
        // What was set aside is not set aside again; what was not settled is sent again.
        let (numbers, window) = read(&folder, true);
        prop_assert_eq!(numbers, expected);
        prop_assert_eq!(window.state.lock().unwrap().corrupt, 0);
        prop_assert!(!folder.segment().exists(), "all is settled");
    }

    /// Zeros or rubbish behind the end, as a file system may leave them.
    #[test]
    fn anything_behind_the_end_harms_nothing(sizes in prop::collection::vec(0..300_usize, 1..8), tail in prop::collection::vec(any::<u8>(), 0..200), zeros in 0..200_usize) {
        let folder = Folder::new();
        write(&folder, &sizes);
        let mut bytes = fs::read(folder.segment()).unwrap();
        bytes.extend(&tail);
        bytes.extend(vec![0; zeros]);
        fs::write(folder.segment(), bytes).unwrap();
        let (numbers, _) = read(&folder, true);
        prop_assert_eq!(numbers, (0..sizes.len() as u64).collect::<Vec<_>>());
    }

    /// A mark that is lost or damaged costs a duplicate, never a request.
    #[test]
    fn flipped_or_cut_marks_lose_nothing(settled in 1..8_usize, place in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
        let folder = Folder::new();
        write(&folder, &[10; 8]);
        let offsets = [vec![0], ends(&[10; 8])].concat();
        let marks = files::marks_path(&folder.0.join("traces"), 1);
        let mut bytes = Vec::new();
        for offset in &offsets[..settled] {
            files::mark(Position { segment: 1, offset: *offset as u32 }, &mut bytes);
        }
        let place = place.index(bytes.len());
        match cut {
            true => bytes.truncate(place),
            false => bytes[place] ^= 1 << bit,
        }
        fs::write(&marks, bytes).unwrap();
        let (numbers, _) = read(&folder, false);
        let sent: Vec<_> = (settled as u64..8).collect();
        prop_assert!(numbers.ends_with(&sent), "{numbers:?}");
        if !cut {
            prop_assert_eq!(numbers.len(), 8 - settled + 1);
        }
    }
}

#[test]
fn delivered_requests_are_not_sent_again_and_their_segments_go() {
    let folder = Folder::new();
    write(&folder, &[100; 20]);
    let (log, window, backlog) = start(&folder, 20);
    assert_eq!((backlog.requests, backlog.items), (20, 60));
    log.read();
    while window.state.lock().unwrap().put.len() < 20 {
        thread::yield_now();
    }
    let put: Vec<_> = window.state.lock().unwrap().put.iter().map(|(_, at)| *at).collect();
    put[..15].iter().for_each(|at| log.settle(*at));
    log.close().blocking_recv().unwrap();
    assert_eq!(Log::open(&folder.place()).unwrap().requests, 5);
    assert_eq!(read(&folder, true).0, [15, 16, 17, 18, 19]);
    assert_eq!(fs::read_dir(folder.0.join("traces")).unwrap().count(), 0);
}

#[test]
fn a_long_queue_goes_over_many_segments_and_only_the_window_is_in_memory() {
    let folder = Folder::new();
    let (log, window, _) = start(&folder, 3);
    let mut waiting = Vec::new();
    for n in 0..100 {
        waiting.push(log.append(request(n, 1 << 20)));
    }
    waiting.into_iter().for_each(|done| done.blocking_recv().unwrap().unwrap());
    assert!(files::segments(&folder.0.join("traces")).unwrap().len() >= 5);
    assert_eq!(window.state.lock().unwrap().put.len(), 3);
    assert!(log.disk_bytes() > 100 << 20);
    log.close().blocking_recv().unwrap();
    drop(log);
    assert_eq!(read(&folder, true).0, (0..100).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(folder.0.join("traces")).unwrap().count(), 0);
}

#[test]
fn who_appends_at_the_same_time_gets_an_answer_each_and_nothing_is_mixed() {
    let folder = Folder::new();
    let (log, window, _) = start(&folder, usize::MAX);
    thread::scope(|scope| {
        for worker in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..50 {
                    assert!(append(log, request(worker * 50 + n, 10 + n as usize * 7)));
                }
            });
        }
    });
    let state = window.state.lock().unwrap();
    let mut numbers: Vec<_> = state.put.iter().map(|(request, _)| number(request)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
    for (found, _) in &state.put {
        let n = number(found);
        assert_eq!(found.bytes, request(n, 10 + (n % 50) as usize * 7).bytes);
    }
}

#[test]
fn a_folder_that_cannot_be_written_refuses_and_takes_again_when_it_can() {
    let folder = Folder::new();
    let (log, window, _) = start(&folder, usize::MAX);
    let traces = folder.0.join("traces");
    fs::remove_dir_all(&traces).unwrap();
    // The first segment is begun with the first request.
    let status = log.append(request(0, 10)).blocking_recv().unwrap().unwrap_err();
    assert!(status.is_retryable() && status.retry_after.is_some(), "{status:?}");
    assert_eq!(window.state.lock().unwrap().refused, 1);
    fs::create_dir(&traces).unwrap();
    assert!(append(&log, request(1, 10)));
    assert_eq!(window.state.lock().unwrap().put.len(), 1);
}

fn storage(directory: &Path, dead_letters_max_mib: u64) -> FileStorageConfig {
    FileStorageConfig {
        directory: directory.to_owned(),
        create_directory: true,
        timeout: tapio_proto::transport::GoDuration(Duration::from_millis(100)),
        dead_letters_max_mib,
        ..FileStorageConfig::default()
    }
}

#[test]
fn two_do_not_share_a_directory() {
    let folder = Folder::new();
    let config = storage(&folder.0.join("a/b"), 1);
    let first = Storage::open(&config).unwrap();
    // This process may, to go on through a reload.
    drop(Storage::open(&config).unwrap());
    let lock = || fs::File::open(folder.0.join("a/b/tapio.lock")).unwrap();
    assert!(lock().try_lock().is_err());
    drop(first);
    let other = lock();
    other.try_lock().unwrap();
    let error = Storage::open(&config).unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    drop(other);
    Storage::open(&config).unwrap();
}

#[test]
fn dead_letters_are_kept_with_their_reason_counted_and_bounded() {
    let folder = Folder::new();
    let store = Storage::open(&storage(&folder.0, 1)).unwrap();
    let dead = store.dead_letters("otlp_grpc/a b");
    dead.park(&[request(1, 10), request(2, 10)], "too large").unwrap();
    dead.park(&[request(3, 10)], "stopped").unwrap();
    let error = dead.park(&[request(4, 1 << 20)], "too large").unwrap_err().to_string();
    assert!(error.contains("limit of 1 MiB") && error.contains("tapio queue"), "{error}");
    let found = holdings(&folder.0).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].exporter.as_str(), found[0].signal), ("otlp_grpc/a b", None));
    assert_eq!((found[0].requests, found[0].items), (3, 9));
    assert_eq!(found[0].reasons.get("too large"), Some(&2));
    // Replay: what is there now, not what comes meanwhile.
    ask_replay(&folder.0, "otlp_grpc/a b").unwrap();
    assert!(dead.replay_asked());
    let segments = dead.begin_replay().unwrap();
    dead.park(&[request(5, 10)], "again").unwrap();
    let read: Vec<_> = segments.iter().flat_map(|id| dead.read(*id, 0).unwrap().0).collect();
    assert_eq!(read.iter().map(number).collect::<Vec<_>>(), [1, 2, 3]);
    segments.iter().for_each(|id| dead.replayed(*id).unwrap());
    dead.end_replay().unwrap();
    assert!(!dead.replay_asked());
    assert_eq!(drop_dead_letters(&folder.0, "otlp_grpc/a b").unwrap(), (1, 3));
    assert_eq!(holdings(&folder.0).unwrap()[0].requests, 0);
    // Parking goes on after somebody has deleted the file that was being written.
    dead.park(&[request(6, 10)], "again").unwrap();
    assert_eq!(holdings(&folder.0).unwrap()[0].requests, 1);
}

#[test]
fn a_damaged_dead_letter_is_set_aside_and_the_others_are_replayed() {
    let folder = Folder::new();
    let store = Storage::open(&storage(&folder.0, 1)).unwrap();
    let dead = store.dead_letters("otlp");
    dead.park(&[request(1, 100), request(2, 100), request(3, 100)], "no").unwrap();
    let segment = files::segment_path(dead.folder(), 1);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (read, next) = dead.read(1, 0).unwrap();
    assert_eq!((read.iter().map(number).collect::<Vec<_>>(), next), (vec![1, 3], None));
    assert_eq!(fs::read_dir(folder.0.join("otlp/corrupt")).unwrap().count(), 1);
}

#[test]
fn an_exporters_id_is_a_folder_name_and_back() {
    for id in ["otlp_grpc", "otlp_http/a b", "x/..", "../../etc", "ä/%2F", "otlp/.hidden"] {
        let name = super::folder_name(id);
        assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
        assert_eq!(super::exporter_id(&name).as_deref(), Some(id));
    }
}
