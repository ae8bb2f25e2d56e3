//! The `health_check` extension: 200 while the hop runs, 503 while it starts or stops.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use tapio_proto::{model::Time, transport::GoDuration};

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
        Ok(())
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
    let page: Page = Arc::new(move |uri| config.reply(uri.path(), &context.host.health));
    let (address, stop) = serve(&endpoint, page).await?;
    tracing::info!(endpoint = %address, "Starting health_check extension");
    Ok(stop)
}
