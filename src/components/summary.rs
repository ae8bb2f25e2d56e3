//! The `summary` exporter: keeps everything here, and every few seconds in which something came says
//! on the terminal, in one line, what came and whether a story is open.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tapio_proto::{
    Accepted, Consumer, Next, Pending, Request, Signal, model::Time, transport::GoDuration,
};

use super::{Context, Host, Stage, Stop, observe::Counted};

/// Configuration of the exporter.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// Time between two lines.
    interval: GoDuration,
}

#[derive(Default)]
struct Counts {
    items: [AtomicU64; Signal::ALL.len()],
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Config { interval: GoDuration::from_secs(5) }
    }
}

pub(super) fn check(config: &Config) -> Result<(), String> {
    if config.interval.is_zero() {
        Err("'interval' must be greater than zero".into())
    } else {
        Ok(())
    }
}

pub(super) async fn start(config: Config, context: Context) -> Result<Stage, String> {
    let counts = Arc::new(Counts::default());
    let next = Counted::around(Arc::clone(&counts) as Next, &context);
    let printer = tokio::spawn(print(Arc::clone(&counts), context.host, *config.interval));
    let last = Arc::clone(&counts);
    let stop: Stop = Box::new(move || {
        printer.abort();
        Box::pin(async move { line(&last, None) })
    });
    Ok(Stage::new(next, stop))
}

async fn print(counts: Arc<Counts>, host: Arc<Host>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        line(&counts, host.metrics.value("tapio_stories_open"));
    }
}

/// Prints what came since the last line; nothing when nothing came.
fn line(counts: &Counts, stories: Option<f64>) {
    let came = counts.take();
    if came.iter().all(|(_, items)| *items == 0) {
        return;
    }
    let what = came
        .iter()
        .filter(|(_, items)| *items > 0)
        .map(|(signal, items)| format!("{items} {}", words(*signal)));
    let stories = match stories {
        Some(0.0) => " · no open story".to_owned(),
        Some(1.0) => " · 1 open story: tapio stories".to_owned(),
        Some(open) => format!(" · {open} open stories: tapio stories"),
        None => String::new(),
    };
    let now = Time::from_unix_nano(
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_nanos() as u64),
    );
    // A closed terminal is no reason to stop the hop.
    let _ = writeln!(
        std::io::stdout(),
        "{} {}{stories}",
        now.clock(),
        what.collect::<Vec<_>>().join(", ")
    );
}

fn words(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "spans",
        Signal::Metrics => "metric points",
        Signal::Logs => "log records",
        Signal::Profiles => "profiles",
    }
}

// === impl Counts ===

impl Counts {
    fn take(&self) -> Vec<(Signal, u64)> {
        Signal::ALL.into_iter().zip(self.items.iter().map(|items| items.swap(0, Relaxed))).collect()
    }
}

impl Consumer for Counts {
    fn consume(&self, request: Request) -> Pending<'_> {
        // The samples of a profile are not counted, so the request is.
        let items = if request.signal == Signal::Profiles { 1 } else { request.items as u64 };
        self.items[request.signal as usize].fetch_add(items, Relaxed);
        Box::pin(async { Ok(Accepted::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn counts_are_taken_once() {
        let counts = Counts::default();
        for (signal, items) in [(Signal::Logs, 3), (Signal::Logs, 4), (Signal::Profiles, 0)] {
            counts.consume(Request::new(signal, Bytes::new(), items)).await.unwrap();
        }
        assert_eq!(
            counts.take(),
            [(Signal::Traces, 0), (Signal::Metrics, 0), (Signal::Logs, 7), (Signal::Profiles, 1)]
        );
        assert!(counts.take().iter().all(|(_, items)| *items == 0));
    }
}
