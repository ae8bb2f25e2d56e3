//! A file that is read again when it has changed: credentials that are rotated while the hop runs.

use std::{
    fs,
    io::Read,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the file's time is looked at, and only while it is asked for.
const EVERY: Duration = Duration::from_secs(1);
/// A file of credentials is not larger.
const MAX_SIZE: u64 = 16 << 20;

/// What a file said when it was last read.
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Option<(SystemTime, u64)>,
    looked: Instant,
}

impl<T> Watched<T> {
    /// Reads it for the first time; from then on what was read stays when reading fails.
    pub(super) fn open(
        path: PathBuf,
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<Self, String> {
        let (stamp, looked) = (stamp(&path), Instant::now());
        let value = Arc::new(read(&path, parse)?);
        Ok(Watched { path, parse, state: Mutex::new(State { value, stamp, looked }) })
    }

    pub(super) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= EVERY {
            state.looked = Instant::now();
            let now = stamp(&self.path);
            if now != state.stamp {
                match read(&self.path, self.parse) {
                    Ok(value) => {
                        state.value = Arc::new(value);
                        state.stamp = now;
                        tracing::info!(file = %self.path.display(), "Credentials were read again");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "Reading credentials again failed. Those read before are kept.");
                    }
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

fn read<T>(path: &PathBuf, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let fail = |error: String| format!("{}: {error}", path.display());
    let file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    parse(&text).map_err(fail)
}
