//! `service.telemetry`: what Tapio tells about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use tapio_proto::transport::GoDuration;

mod otlp;

pub(crate) use self::otlp::{Otlp, Target};

/// Keys and defaults are the Collector's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) logs: Logs,
    pub(crate) metrics: Metrics,
    /// Attributes of Tapio itself, over `service.name` and the like; null takes one away.
    pub(crate) resource: BTreeMap<String, Option<String>>,
    pub(crate) traces: Traces,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Logs {
    pub(crate) level: LogLevel,
    pub(crate) encoding: Encoding,
    /// Leaves out which part of the program speaks.
    pub(crate) disable_caller: bool,
    /// Fields of every line.
    pub(crate) initial_fields: BTreeMap<String, String>,
    /// `stderr`, `stdout`, or files, which are appended to.
    pub(crate) output_paths: Vec<String>,
    pub(crate) sampling: Option<Sampling>,
    development: Option<IgnoredAny>,
    disable_stacktrace: Option<IgnoredAny>,
    disable_zap_resource: Option<IgnoredAny>,
    error_output_paths: Option<IgnoredAny>,
    processors: Option<IgnoredAny>,
}

/// Of lines with the same level and message: the first `initial` in each `tick`, then every
/// `thereafter`-th (none if 0).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sampling {
    pub(crate) enabled: bool,
    pub(crate) tick: GoDuration,
    pub(crate) initial: u64,
    pub(crate) thereafter: u64,
}

/// In any case, as the Collector reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl TryFrom<String> for LogLevel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "debug" => Ok(LogLevel::Debug),
            "info" | "" => Ok(LogLevel::Info),
            "warn" | "warning" => Ok(LogLevel::Warn),
            // What a Collector says above `error` it says before it ends, and so does Tapio.
            "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
            _ => Err(format!(
                "unrecognized level: {text:?}; expected one of `debug`, `info`, `warn`, `error`"
            )),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Console,
    Json,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) level: Level,
    /// The Collector's default, too: one Prometheus page on loopback.
    pub(crate) readers: Vec<Reader>,
    /// The old form of one Prometheus reader, `host:port`; the readers are left out then.
    pub(crate) address: Option<String>,
    views: Option<IgnoredAny>,
}

/// How much is told; each level has what those before it have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    #[serde(alias = "None")]
    None,
    #[serde(alias = "Basic")]
    Basic,
    #[default]
    #[serde(alias = "Normal")]
    Normal,
    #[serde(alias = "Detailed")]
    Detailed,
}

/// One of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reader {
    pub(crate) pull: Option<Pull>,
    pub(crate) periodic: Option<Periodic>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pull {
    pub(crate) exporter: PullExporter,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PullExporter {
    pub(crate) prometheus: Prometheus,
}

/// Where the page is; the path is `/metrics`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Prometheus {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) without_scope_info: bool,
    pub(crate) without_type_suffix: bool,
    pub(crate) without_units: bool,
    pub(crate) with_resource_constant_labels: Option<Choice>,
}

/// Names, `*` at the end of one standing for anything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Choice {
    included: Vec<String>,
    excluded: Vec<String>,
}

/// Sends all metrics again and again; times are milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Periodic {
    pub(crate) interval: u64,
    pub(crate) timeout: u64,
    pub(crate) exporter: PushExporter,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PushExporter {
    pub(crate) otlp: Option<Otlp>,
    console: Option<IgnoredAny>,
}

/// Off unless a processor is there to send them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Traces {
    pub(crate) level: Level,
    pub(crate) processors: Vec<SpanProcessor>,
    pub(crate) sampler: Option<Sampler>,
    propagators: Vec<String>,
    limits: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SpanProcessor {
    pub(crate) batch: Option<BatchSpans>,
    pub(crate) simple: Option<SimpleSpans>,
}

/// Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BatchSpans {
    pub(crate) exporter: PushExporter,
    pub(crate) schedule_delay: u64,
    pub(crate) max_queue_size: usize,
    pub(crate) max_export_batch_size: usize,
    pub(crate) export_timeout: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SimpleSpans {
    pub(crate) exporter: PushExporter,
}

/// Which requests are traced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sampler {
    always_on: Option<BTreeMap<String, IgnoredAny>>,
    always_off: Option<BTreeMap<String, IgnoredAny>>,
    trace_id_ratio_based: Option<Ratio>,
    parent_based: Option<ParentBased>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ParentBased {
    root: Option<Box<Sampler>>,
    remote_parent_sampled: Option<IgnoredAny>,
    remote_parent_not_sampled: Option<IgnoredAny>,
    local_parent_sampled: Option<IgnoredAny>,
    local_parent_not_sampled: Option<IgnoredAny>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ratio {
    ratio: f64,
}

/// As in the Collector, all of them: whoever wants spans has named a processor for them.
const DEFAULT_RATIO: f64 = 1.0;

impl Telemetry {
    /// Refuses what cannot work, in the Collector's words where it has any.
    pub(crate) fn check(&self) -> Result<(), String> {
        let metrics = &self.metrics;
        if metrics.level != Level::None && metrics.readers.is_empty() && metrics.address.is_none() {
            return Err(
                "collector telemetry metrics reader should exist when metric level is not none"
                    .into(),
            );
        }
        if metrics.views.is_some() && metrics.level != Level::Detailed {
            return Err("service::telemetry::metrics::views can only be set when service::telemetry::metrics::level is detailed".into());
        }
        for reader in &metrics.readers {
            match (&reader.pull, &reader.periodic) {
                (Some(_), None) => {}
                (None, Some(periodic)) => {
                    if periodic.interval == 0 || periodic.timeout == 0 {
                        return Err("metrics::readers: periodic: interval and timeout must be greater than zero".into());
                    }
                    periodic.exporter.check("metrics::readers: periodic")?;
                }
                _ => return Err("metrics::readers: each must be either pull or periodic".into()),
            }
        }
        for processor in &self.traces.processors {
            match (&processor.batch, &processor.simple) {
                (Some(batch), None) => {
                    if batch.schedule_delay == 0
                        || batch.max_queue_size == 0
                        || batch.max_export_batch_size == 0
                    {
                        return Err("traces::processors: batch: schedule_delay, max_queue_size and max_export_batch_size must be greater than zero".into());
                    }
                    batch.exporter.check("traces::processors: batch")?;
                }
                (None, Some(simple)) => simple.exporter.check("traces::processors: simple")?,
                _ => return Err("traces::processors: each must be either batch or simple".into()),
            }
        }
        let known = |name: &String| matches!(name.as_str(), "tracecontext" | "b3");
        if !self.traces.propagators.iter().all(known) {
            return Err(
                "traces::propagators: unsupported trace propagator; tracecontext and b3 are known"
                    .into(),
            );
        }
        if self.logs.output_paths.iter().any(String::is_empty) {
            return Err(
                "logs::output_paths: a path must not be empty; use stderr, stdout or a file".into(),
            );
        }
        Ok(())
    }

    /// Keys that the Collector knows, and that change nothing here.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &'static str> {
        let (logs, traces) = (&self.logs, &self.traces);
        [
            ("metrics::views", self.metrics.views.is_some()),
            ("logs::development", logs.development.is_some()),
            ("logs::disable_stacktrace", logs.disable_stacktrace.is_some()),
            ("logs::disable_zap_resource", logs.disable_zap_resource.is_some()),
            ("logs::error_output_paths", logs.error_output_paths.is_some()),
            ("logs::processors", logs.processors.is_some()),
            ("traces::propagators", !traces.propagators.is_empty()),
            ("traces::limits", traces.limits.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
    }
}

impl PushExporter {
    fn check(&self, path: &str) -> Result<(), String> {
        match (&self.otlp, &self.console) {
            (Some(otlp), None) => otlp.target().map(drop).map_err(|text| format!("{path}: {text}")),
            (None, Some(_)) => Err(format!(
                "{path}: the console exporter is not in Tapio; use otlp, or a pull reader"
            )),
            _ => Err(format!("{path}: must specify one exporter: otlp")),
        }
    }
}

impl Sampler {
    /// The share of requests without a parent that are traced.
    pub(crate) fn ratio(sampler: &Option<Self>) -> f64 {
        match sampler {
            Some(Sampler { always_on: Some(_), .. }) => 1.0,
            Some(Sampler { always_off: Some(_), .. }) => 0.0,
            Some(Sampler { trace_id_ratio_based: Some(based), .. }) => based.ratio.clamp(0.0, 1.0),
            Some(Sampler { parent_based: Some(ParentBased { root: Some(root), .. }), .. }) => {
                Self::ratio(&Some(root.as_ref().clone()))
            }
            _ => DEFAULT_RATIO,
        }
    }
}

impl Choice {
    pub(crate) fn takes(&self, name: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        (self.included.is_empty() || self.included.iter().any(fits))
            && !self.excluded.iter().any(fits)
    }
}

impl Default for Logs {
    fn default() -> Self {
        Logs {
            level: LogLevel::default(),
            encoding: Encoding::default(),
            disable_caller: false,
            initial_fields: BTreeMap::new(),
            output_paths: vec!["stderr".into()],
            sampling: Some(Sampling::default()),
            development: None,
            disable_stacktrace: None,
            disable_zap_resource: None,
            error_output_paths: None,
            processors: None,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { enabled: true, tick: GoDuration::from_secs(10), initial: 10, thereafter: 100 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let page = Reader { pull: Some(Pull::default()), periodic: None };
        Metrics { level: Level::default(), readers: vec![page], address: None, views: None }
    }
}

impl Default for Prometheus {
    fn default() -> Self {
        Prometheus {
            host: "127.0.0.1".into(),
            port: 8888,
            // As the Collector since 0.152, whoever sets up the reader.
            without_scope_info: true,
            without_type_suffix: true,
            without_units: true,
            with_resource_constant_labels: None,
        }
    }
}

impl Default for Periodic {
    fn default() -> Self {
        Periodic { interval: 30_000, timeout: 30_000, exporter: PushExporter::default() }
    }
}

impl Default for BatchSpans {
    fn default() -> Self {
        BatchSpans {
            exporter: PushExporter::default(),
            schedule_delay: 5_000,
            max_queue_size: 2_048,
            max_export_batch_size: 512,
            export_timeout: 30_000,
        }
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Ratio { ratio: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{decode, yaml};

    fn telemetry(text: &str) -> Result<Telemetry, String> {
        let node = yaml::parse("t", text).unwrap();
        let telemetry: Telemetry = decode(&node).map_err(|wrong| format!("{wrong:?}"))?;
        telemetry.check().map(|()| telemetry)
    }

    #[test]
    fn what_a_collector_takes_is_taken() {
        let taken = telemetry(
            "metrics:
  level: detailed
  readers:
    - pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8889, without_units: false}}}
    - periodic: {interval: 10000, exporter: {otlp: {protocol: http/protobuf, endpoint: 'https://x:4318'}}}
logs: {level: DEBUG, encoding: json, output_paths: [stdout], sampling: {enabled: false}, initial_fields: {a: 1}}
traces:
  processors: [{batch: {exporter: {otlp: {protocol: grpc, endpoint: 'x:4317', insecure: true}}}}]
  sampler: {parent_based: {root: {trace_id_ratio_based: {ratio: 0.5}}}}
resource: {service.name: hop, service.version: }
",
        )
        .unwrap();
        assert_eq!(taken.metrics.level, Level::Detailed);
        assert_eq!(Sampler::ratio(&taken.traces.sampler), 0.5);
        assert_eq!(Sampler::ratio(&None), DEFAULT_RATIO);
        assert_eq!(taken.logs.initial_fields["a"], "1");
        assert_eq!(taken.unused().count(), 0);
        assert_eq!(
            telemetry("metrics: {address: ':8888'}").unwrap().metrics.address.unwrap(),
            ":8888"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_key_and_the_remedy() {
        for (text, words) in [
            ("metrics: {readers: []}", "reader should exist"),
            ("metrics: {views: [], level: normal}", "can only be set when"),
            ("metrics: {readers: [{}]}", "either pull or periodic"),
            (
                "metrics: {readers: [{periodic: {exporter: {console: {}}}}]}",
                "not in Tapio; use otlp",
            ),
            (
                "metrics: {readers: [{periodic: {exporter: {otlp: {protocol: smoke, endpoint: 'x:1'}}}}]}",
                "unknown protocol \"smoke\"",
            ),
            ("traces: {processors: [{batch: {exporter: {otlp: {protocol: grpc}}}}]}", "endpoint"),
            ("traces: {propagators: [x]}", "unsupported trace propagator"),
        ] {
            let found = telemetry(text).unwrap_err();
            assert!(found.contains(words), "{text}: {found}");
        }
    }
}
