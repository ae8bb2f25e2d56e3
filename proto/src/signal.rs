//! The OTLP signals and the field numbers that tell them apart.
//!
//! Traces, metrics and logs have one shape on the wire: a request holds resources, a resource holds
//! scopes, a scope holds records. Code that walks a request is written once against [`Signal`] and
//! asks it for the numbers.

/// An OTLP signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// `opentelemetry.proto.trace.v1`
    Traces,
    /// `opentelemetry.proto.metrics.v1`
    Metrics,
    /// `opentelemetry.proto.logs.v1`
    Logs,
    /// `opentelemetry.proto.profiles.v1development`: passed through as opaque bytes.
    Profiles,
}

impl Signal {
    /// Every signal, in the order of the OTLP specification.
    pub const ALL: [Signal; 4] = [Signal::Traces, Signal::Metrics, Signal::Logs, Signal::Profiles];

    /// The pipeline type in a Collector configuration: `traces`, `metrics`, `logs`, `profiles`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
            Signal::Profiles => "profiles",
        }
    }

    /// What the Collector's own metrics count: `spans`, `metric_points`, `log_records`, `profile_samples`.
    pub fn items_name(self) -> &'static str {
        match self {
            Signal::Traces => "spans",
            Signal::Metrics => "metric_points",
            Signal::Logs => "log_records",
            Signal::Profiles => "profile_samples",
        }
    }

    /// Path of the unary gRPC method, as in the `:path` header.
    pub fn grpc_path(self) -> &'static str {
        match self {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Profiles => {
                "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
            }
        }
    }

    /// Default path of OTLP/HTTP.
    pub fn http_path(self) -> &'static str {
        match self {
            Signal::Traces => "/v1/traces",
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
            Signal::Profiles => "/v1development/profiles",
        }
    }

    /// Field of the attributes (`repeated KeyValue`) in a span or a log record; `None` for metrics,
    /// whose attributes sit on data points, and for profiles, whose attributes are indices.
    pub fn record_attributes_field(self) -> Option<u32> {
        match self {
            Signal::Traces => Some(9),
            Signal::Logs => Some(6),
            Signal::Metrics | Signal::Profiles => None,
        }
    }
}
