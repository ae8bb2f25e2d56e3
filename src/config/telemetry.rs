//! `service.telemetry`: what Tapio tells about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

/// Logs go to standard error, metrics to a Prometheus page.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) logs: Logs,
    pub(crate) metrics: Metrics,
    /// Attributes of Tapio itself, over `service.name` and the like; null takes one away.
    pub(crate) resource: BTreeMap<String, Option<String>>,
    traces: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Logs {
    pub(crate) level: LogLevel,
    pub(crate) encoding: Encoding,
    development: Option<IgnoredAny>,
    disable_caller: Option<IgnoredAny>,
    disable_stacktrace: Option<IgnoredAny>,
    initial_fields: Option<IgnoredAny>,
    output_paths: Option<IgnoredAny>,
    error_output_paths: Option<IgnoredAny>,
    processors: Option<IgnoredAny>,
    sampling: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    #[serde(alias = "DEBUG")]
    Debug,
    #[default]
    #[serde(alias = "INFO")]
    Info,
    #[serde(alias = "WARN")]
    Warn,
    #[serde(alias = "ERROR")]
    Error,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Console,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) level: MetricsLevel,
    /// The Collector's default, too: one Prometheus page on loopback.
    pub(crate) readers: Vec<Reader>,
    views: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetricsLevel {
    None,
    Basic,
    #[default]
    Normal,
    Detailed,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reader {
    pub(crate) pull: Pull,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pull {
    pub(crate) exporter: PullExporter,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PullExporter {
    pub(crate) prometheus: Prometheus,
}

/// Where the page is; the path is `/metrics`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Prometheus {
    pub(crate) host: String,
    pub(crate) port: u16,
    without_scope_info: Option<IgnoredAny>,
    without_type_suffix: Option<IgnoredAny>,
    without_units: Option<IgnoredAny>,
    with_resource_constant_labels: Option<IgnoredAny>,
}

impl Telemetry {
    /// Keys that the Collector knows, and that change nothing here.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &'static str> {
        let logs = &self.logs;
        [
            ("traces", &self.traces),
            ("metrics::views", &self.metrics.views),
            ("logs::development", &logs.development),
            ("logs::disable_caller", &logs.disable_caller),
            ("logs::disable_stacktrace", &logs.disable_stacktrace),
            ("logs::initial_fields", &logs.initial_fields),
            ("logs::output_paths", &logs.output_paths),
            ("logs::error_output_paths", &logs.error_output_paths),
            ("logs::processors", &logs.processors),
            ("logs::sampling", &logs.sampling),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.is_some().then_some(name))
        .collect::<Vec<_>>()
        .into_iter()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { level: MetricsLevel::default(), readers: vec![Reader::default()], views: None }
    }
}

impl Default for Prometheus {
    fn default() -> Self {
        Prometheus {
            host: "127.0.0.1".into(),
            port: 8888,
            without_scope_info: None,
            without_type_suffix: None,
            without_units: None,
            with_resource_constant_labels: None,
        }
    }
}
