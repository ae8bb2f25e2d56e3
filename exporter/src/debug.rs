//! The `debug` exporter: what passes, in the log, or as it is on an output of its own.

use std::{
    fs,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, de};
use tapio_proto::{
    Accepted, Consumer, Pending, Request, Signal, json,
    wire::{Fields, Value},
};

use crate::{net::ConfigError, send::QueueConfig};

/// The target of the lines: whoever thins the log out leaves them, as they have a sampling of their own.
pub const DEBUG_TARGET: &str = module_path!();

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
    /// Lines of the log; otherwise plain text on the outputs.
    pub use_internal_logger: bool,
    /// `stdout`, `stderr` or files, for plain text.
    pub output_paths: Option<Vec<String>>,
    /// Accepted for the Collector's sake: what is printed has nothing to wait for.
    pub sending_queue: Option<QueueConfig>,
}

/// `verbosity:`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// A line of counts for each request.
    #[default]
    Basic,
    /// And the request as a line of OTLP JSON.
    Normal,
    /// And the request as indented OTLP JSON.
    Detailed,
}

impl<'de> Deserialize<'de> for Verbosity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "basic" => Ok(Verbosity::Basic),
            "normal" => Ok(Verbosity::Normal),
            "detailed" => Ok(Verbosity::Detailed),
            _ => Err(de::Error::unknown_variant(&text, &["basic", "normal", "detailed"])),
        }
    }
}

/// Prints and accepts.
pub struct Debug {
    name: String,
    config: DebugConfig,
    window: Mutex<(Instant, u64)>,
    /// None: the log.
    outputs: Option<Mutex<Vec<Box<dyn Write + Send>>>>,
}

/// What is in a request.
struct Counts {
    resources: usize,
    metrics: usize,
    items: usize,
}

impl Default for DebugConfig {
    fn default() -> Self {
        DebugConfig {
            verbosity: Verbosity::Basic,
            sampling_initial: 2,
            sampling_thereafter: 1,
            use_internal_logger: true,
            output_paths: None,
            sending_queue: None,
        }
    }
}

impl DebugConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self.use_internal_logger && self.output_paths.is_some() {
            true => Err(ConfigError::new(
                "output_paths",
                "output_paths is not supported when use_internal_logger is true",
            )),
            false => self.sending_queue.as_ref().map_or(Ok(()), QueueConfig::check),
        }
    }
}

impl Debug {
    /// `name` is the component's id in the configuration.
    pub fn new(name: &str, config: DebugConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let open = |path: &String| -> Result<Box<dyn Write + Send>, ConfigError> {
            match path.as_str() {
                "stdout" => Ok(Box::new(io::stdout())),
                "stderr" => Ok(Box::new(io::stderr())),
                path => match fs::OpenOptions::new().create(true).append(true).open(path) {
                    Ok(file) => Ok(Box::new(file)),
                    Err(error) => {
                        let why = format!(
                            "{path}: {error}; use stdout, stderr or a file that can be written"
                        );
                        Err(ConfigError::new("output_paths", why))
                    }
                },
            }
        };
        let outputs = match config.use_internal_logger {
            true => None,
            false => {
                let stdout = || vec!["stdout".to_owned()];
                let paths = config.output_paths.clone().unwrap_or_else(stdout);
                Some(Mutex::new(paths.iter().map(open).collect::<Result<_, _>>()?))
            }
        };
        let window = Mutex::new((Instant::now(), 0));
        Ok(Debug { name: name.to_owned(), config, window, outputs })
    }

    fn print(&self, request: &Request) {
        if !self.sampled() {
            return;
        }
        let counts = Counts::of(request);
        let json = || json::from_proto(request.signal, &request.bytes).ok();
        let content = match self.config.verbosity {
            Verbosity::Basic => None,
            Verbosity::Normal => json(),
            Verbosity::Detailed => json()
                .and_then(|json| serde_json::from_str::<serde_json::Value>(&json).ok())
                .map(|value| format!("{value:#}")),
        };
        match &self.outputs {
            None => self.log(request.signal, &counts, content),
            Some(outputs) => {
                let mut text = counts.line(request.signal);
                text.push('\n');
                if let Some(content) = content {
                    text.push_str(&content);
                    text.push('\n');
                }
                for out in outputs.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    // A closed output must not stop the hop.
                    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                }
            }
        }
    }

    fn log(&self, signal: Signal, counts: &Counts, content: Option<String>) {
        let Counts { resources, metrics, items } = *counts;
        let exporter = self.name.as_str();
        match signal {
            Signal::Traces => tracing::info!(
                target: DEBUG_TARGET, exporter, "resource spans" = resources, spans = items, "Traces"
            ),
            Signal::Logs => tracing::info!(
                target: DEBUG_TARGET, exporter, "resource logs" = resources, "log records" = items, "Logs"
            ),
            Signal::Metrics => tracing::info!(
                target: DEBUG_TARGET, exporter, "resource metrics" = resources, metrics,
                "data points" = items, "Metrics"
            ),
            Signal::Profiles => tracing::info!(
                target: DEBUG_TARGET, exporter, "resource profiles" = resources, "Profiles"
            ),
        }
        if let Some(content) = content {
            tracing::info!(target: DEBUG_TARGET, exporter, signal = signal.name(), "{content}");
        }
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

impl Counts {
    fn of(request: &Request) -> Self {
        let metrics = match request.signal {
            Signal::Metrics => depth_count(&request.bytes, &[1, 2, 2]),
            _ => 0,
        };
        Counts { resources: depth_count(&request.bytes, &[1]), metrics, items: request.items }
    }

    /// `Traces<TAB>{"resource spans": 1, "spans": 2}`
    fn line(&self, signal: Signal) -> String {
        let Counts { resources, metrics, items } = self;
        match signal {
            Signal::Traces => {
                format!("Traces\t{{\"resource spans\": {resources}, \"spans\": {items}}}")
            }
            Signal::Logs => {
                format!("Logs\t{{\"resource logs\": {resources}, \"log records\": {items}}}")
            }
            Signal::Metrics => format!(
                "Metrics\t{{\"resource metrics\": {resources}, \"metrics\": {metrics}, \"data points\": {items}}}"
            ),
            Signal::Profiles => format!("Profiles\t{{\"resource profiles\": {resources}}}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::test_support::Lines;

    fn request() -> Request {
        Request::new(Signal::Traces, vec![0x0a, 0].into(), 3)
    }

    fn config(value: serde_json::Value) -> DebugConfig {
        serde_json::from_value(value).unwrap()
    }

    /// Guarantees: what passes is told through the log, with the component's name; what is in it follows as a
    /// line of its own, and `verbosity` is read in any case.
    #[tokio::test]
    async fn what_passes_is_told_in_the_log() {
        let (lines, _listening) = Lines::listen();
        let debug = Debug::new("debug/x", config(serde_json::json!({}))).unwrap();
        debug.consume(request()).await.unwrap();
        let told = lines.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("INFO Traces exporter=\"debug/x\""), "{told:?}");
        assert!(told[0].contains("resource spans=1 spans=3"), "{told:?}");
        let config = config(serde_json::json!({"verbosity": "Detailed", "sending_queue": {}}));
        let debug = Debug::new("debug", config).unwrap();
        debug.consume(request()).await.unwrap();
        let told = lines.take();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].starts_with("INFO {\n  \"resourceSpans\""), "{told:?}");
    }

    /// Guarantees: without the internal logger it is plain text on the outputs; the two exclude each other.
    #[tokio::test]
    async fn outputs_of_its_own_get_plain_text() {
        let path = std::env::temp_dir().join(format!("tapio-debug-{}.txt", std::process::id()));
        let own = serde_json::json!({"use_internal_logger": false, "output_paths": [path]});
        let debug = Debug::new("debug", config(own)).unwrap();
        debug.consume(request()).await.unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written, "Traces\t{\"resource spans\": 1, \"spans\": 3}\n");
        fs::remove_file(path).unwrap();
        let both = config(serde_json::json!({"output_paths": ["stdout"]}));
        let error = both.check().unwrap_err().to_string();
        assert!(error.contains("use_internal_logger"), "{error}");
        let nowhere =
            serde_json::json!({"use_internal_logger": false, "output_paths": ["/nowhere/x"]});
        let error = Debug::new("debug", config(nowhere)).unwrap_err().to_string();
        assert!(error.contains("output_paths: /nowhere/x"), "{error}");
    }
}
