//! The `health_check` extension: 200 while the hop runs, 503 while it starts or stops.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use tapio_proto::{
    model::Time,
    transport::{GoDuration, null_is_none},
};
use tapio_receiver::{Transports, check_endpoint};

use crate::{
    components::{Context, Stop},
    telemetry::{Health, Page, Reply, serve},
};

/// Its keys are the Collector's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HealthCheck {
    /// `host:port`.
    endpoint: String,
    /// The page answers to this path, and to everything below it if it ends with a slash.
    path: String,
    response_body: Option<ResponseBody>,
    #[serde(rename = "check_collector_pipeline")]
    _check_collector_pipeline: CheckPipeline,
    transport: Transports,
    #[serde(deserialize_with = "null_is_none")]
    tls: Option<IgnoredAny>,
    #[serde(deserialize_with = "null_is_none")]
    auth: Option<IgnoredAny>,
    middlewares: Vec<IgnoredAny>,
    // Keys of the Collector's HTTP servers that this page has no use for: an answer of a few bytes, on a
    // connection that is closed after it, within limits of its own.
    cors: Option<IgnoredAny>,
    response_headers: Option<IgnoredAny>,
    compression_algorithms: Option<IgnoredAny>,
    include_metadata: Option<bool>,
    keep_alives_enabled: Option<bool>,
    max_request_body_size: Option<u64>,
    read_timeout: Option<GoDuration>,
    read_header_timeout: Option<GoDuration>,
    write_timeout: Option<GoDuration>,
    idle_timeout: Option<GoDuration>,
}

/// Accepted for the Collector's sake, which has it switched off and advises against it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CheckPipeline {
    #[serde(rename = "enabled")]
    _enabled: bool,
    #[serde(rename = "interval")]
    _interval: GoDuration,
    #[serde(rename = "exporter_failure_threshold")]
    _exporter_failure_threshold: u32,
}

/// Bodies in place of the standard ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResponseBody {
    healthy: String,
    unhealthy: String,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            endpoint: "127.0.0.1:13133".into(),
            path: "/".into(),
            response_body: None,
            _check_collector_pipeline: CheckPipeline::default(),
            transport: Transports::default(),
            tls: None,
            auth: None,
            middlewares: Vec::new(),
            cors: None,
            response_headers: None,
            compression_algorithms: None,
            include_metadata: None,
            keep_alives_enabled: None,
            max_request_body_size: None,
            read_timeout: None,
            read_header_timeout: None,
            write_timeout: None,
            idle_timeout: None,
        }
    }
}

impl HealthCheck {
    /// With the usual place for what is not said.
    pub(super) fn at(endpoint: Option<String>, path: Option<String>) -> Self {
        let usual = HealthCheck::default();
        HealthCheck {
            endpoint: endpoint.unwrap_or(usual.endpoint),
            path: path.unwrap_or(usual.path),
            ..usual
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.endpoint.is_empty() {
            return Err("requires a non-empty \"endpoint\"".into());
        }
        if !self.path.starts_with('/') {
            return Err("path must start with /".into());
        }
        if self.transport == Transports::Unix {
            return Err("transport: the page is served over TCP only; leave the key out".into());
        }
        // Whoever relies on one of them must not get an open page instead.
        let not_here = |key: &str| {
            Err(format!(
                "{key}: the page of health_check has none in Tapio, it is open to whoever reaches its endpoint: leave the key out, and bind it where only probes do"
            ))
        };
        match (&self.tls, &self.auth, self.middlewares.is_empty()) {
            (Some(_), _, _) => not_here("tls"),
            (_, Some(_), _) => not_here("auth"),
            (_, _, false) => not_here("middlewares"),
            _ => check_endpoint(&self.endpoint),
        }
    }

    /// The keys that are set and change nothing.
    fn idle(&self) -> Vec<&'static str> {
        [
            ("cors", self.cors.is_some()),
            ("response_headers", self.response_headers.is_some()),
            ("compression_algorithms", self.compression_algorithms.is_some()),
            ("include_metadata", self.include_metadata.is_some()),
            ("keep_alives_enabled", self.keep_alives_enabled.is_some()),
            ("max_request_body_size", self.max_request_body_size.is_some()),
            ("read_timeout", self.read_timeout.is_some()),
            ("read_header_timeout", self.read_header_timeout.is_some()),
            ("write_timeout", self.write_timeout.is_some()),
            ("idle_timeout", self.idle_timeout.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
        .collect()
    }

    fn reply(&self, path: &str, health: &Health) -> Reply {
        let below = self.path.ends_with('/') && path.starts_with(&self.path);
        if path != self.path && !below {
            return Reply::not_found();
        }
        let since = health.ready_since();
        let status = if since.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if let Some(bodies) = &self.response_body {
            let body = if since.is_some() { &bodies.healthy } else { &bodies.unhealthy };
            return Reply { status, content_type: "text/plain; charset=utf-8", body: body.clone() };
        }
        let body = match since {
            Some(since) => {
                let up_since = since.wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64);
                let (up_since, uptime) = (Time::from_unix_nano(up_since), GoDuration(since.monotonic.elapsed()));
                format!("{{\"status\":\"Server available\",\"upSince\":\"{up_since}\",\"uptime\":\"{uptime}\"}}")
            }
            None => "{\"status\":\"Server not available\",\"upSince\":\"0001-01-01T00:00:00Z\",\"uptime\":\"\"}".into(),
        };
        Reply::json(status, body)
    }
}

pub(crate) async fn start(config: HealthCheck, context: Context) -> Result<Stop, String> {
    let endpoint = config.endpoint.clone();
    let idle = config.idle();
    if !idle.is_empty() {
        tracing::warn!(
            extension = %context.id,
            keys = idle.join(", "),
            "These keys have no effect on the page of health_check: its answers are a few bytes, each on a connection of its own."
        );
    }
    let page: Page = Arc::new(move |uri| config.reply(uri.path(), &context.host.health));
    let (address, stop) = serve(&endpoint, page).await?;
    tracing::info!(endpoint = %address, "Starting health_check extension");
    Ok(stop)
}
