//! The `debug` exporter: what passes, on standard error.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tapio_proto::{
    Accepted, Consumer, Pending, Request, Signal, json,
    wire::{Fields, Value},
};

/// `exporters: debug:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DebugConfig {
    /// How much of it.
    pub verbosity: Verbosity,
    /// Requests that are printed in each second, from its first.
    pub sampling_initial: u64,
    /// Of the others in that second each n-th is printed; 0 is none.
    pub sampling_thereafter: u64,
}

/// `verbosity:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    /// A line of counts for each request.
    #[default]
    Basic,
    /// And the request as a line of OTLP JSON.
    Normal,
    /// And the request as indented OTLP JSON.
    Detailed,
}

/// Prints and accepts.
pub struct Debug {
    config: DebugConfig,
    window: Mutex<(Instant, u64)>,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Default for DebugConfig {
    fn default() -> Self {
        let verbosity = Verbosity::Basic;
        DebugConfig { verbosity, sampling_initial: 2, sampling_thereafter: 1 }
    }
}

impl Debug {
    /// Prints to standard error.
    pub fn new(config: DebugConfig) -> Self {
        Self::to(config, Box::new(io::stderr()))
    }

    /// Prints to `out`.
    pub fn to(config: DebugConfig, out: Box<dyn Write + Send>) -> Self {
        Debug { config, window: Mutex::new((Instant::now(), 0)), out: Mutex::new(out) }
    }

    fn print(&self, request: &Request) {
        if !self.sampled() {
            return;
        }
        let mut text = counts(request);
        let json = || json::from_proto(request.signal, &request.bytes).ok();
        match self.config.verbosity {
            Verbosity::Basic => {}
            Verbosity::Normal => {
                text.push('\n');
                text.push_str(&json().unwrap_or_default());
            }
            Verbosity::Detailed => {
                let value =
                    json().and_then(|json| serde_json::from_str::<serde_json::Value>(&json).ok());
                text.push('\n');
                text.push_str(&value.map_or_else(String::new, |value| format!("{value:#}")));
            }
        }
        text.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed standard error must not stop the hop.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn sampled(&self) -> bool {
        let DebugConfig { sampling_initial: initial, sampling_thereafter: thereafter, .. } =
            self.config;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.0.elapsed() >= Duration::from_secs(1) {
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        window.1 <= initial || (thereafter > 0 && (window.1 - initial).is_multiple_of(thereafter))
    }
}

impl Consumer for Debug {
    fn consume(&self, request: Request) -> Pending<'_> {
        self.print(&request);
        Box::pin(std::future::ready(Ok(Accepted::default())))
    }
}

impl std::fmt::Debug for Debug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Debug").field("config", &self.config).finish_non_exhaustive()
    }
}

/// `Traces<TAB>{"resource spans": 1, "spans": 2}`
fn counts(request: &Request) -> String {
    let (resources, items) = (depth_count(&request.bytes, &[1]), request.items);
    match request.signal {
        Signal::Traces => {
            format!("Traces\t{{\"resource spans\": {resources}, \"spans\": {items}}}")
        }
        Signal::Logs => {
            format!("Logs\t{{\"resource logs\": {resources}, \"log records\": {items}}}")
        }
        Signal::Metrics => {
            let metrics = depth_count(&request.bytes, &[1, 2, 2]);
            format!(
                "Metrics\t{{\"resource metrics\": {resources}, \"metrics\": {metrics}, \"data points\": {items}}}"
            )
        }
        Signal::Profiles => format!("Profiles\t{{\"resource profiles\": {resources}}}"),
    }
}

/// How many messages there are at a path of field numbers.
fn depth_count(bytes: &[u8], path: &[u32]) -> usize {
    let Some((number, rest)) = path.split_first() else {
        return 1;
    };
    Fields::new(bytes)
        .map_while(Result::ok)
        .filter(|field| field.number == *number)
        .map(|field| match field.value {
            Value::Len(inner) => depth_count(inner, rest),
            _ => 0,
        })
        .sum()
}
