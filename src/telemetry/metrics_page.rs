//! Self metrics on a Prometheus page, as `service.telemetry.metrics` says.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use http::StatusCode;

use super::{
    page::{self, Page, Reply},
    process,
    registry::Kind,
};
use crate::{
    components::{Host, Stop},
    config::telemetry::{MetricsLevel, Telemetry},
};

/// Starts the page; `None` when the level or an empty list of readers switches it off.
pub(crate) async fn start(telemetry: &Telemetry, host: &Arc<Host>) -> Result<Option<Stop>, String> {
    process::register(&host.metrics);
    target_info(telemetry, host);
    if telemetry.metrics.level == MetricsLevel::None {
        return Ok(None);
    }
    let mut stops: Vec<Stop> = Vec::new();
    for reader in &telemetry.metrics.readers {
        let prometheus = &reader.pull.exporter.prometheus;
        let endpoint = if prometheus.host.contains(':') {
            format!("[{}]:{}", prometheus.host, prometheus.port)
        } else {
            format!("{}:{}", prometheus.host, prometheus.port)
        };
        let metrics = Arc::clone(&host.metrics);
        let page: Page = Arc::new(move |path| match path {
            "/metrics" => Reply {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: metrics.exposition(),
            },
            _ => Reply {
                status: StatusCode::NOT_FOUND,
                content_type: "text/plain; charset=utf-8",
                body: "404 page not found\n".into(),
            },
        });
        let (_, stop) = page::serve(&endpoint, page).await.map_err(|text| {
            format!("failed to start the page of self metrics: {text} (service::telemetry::metrics::readers; level: none switches it off)")
        })?;
        stops.push(stop);
    }
    Ok(Some(Box::new(move || {
        Box::pin(async move {
            for stop in stops {
                stop().await;
            }
        })
    })))
}

/// One series that says who speaks, from the resource of the configuration.
fn target_info(telemetry: &Telemetry, host: &Arc<Host>) {
    // Two draws from the standard library's random keys are enough to tell instances apart.
    let random = || RandomState::new().hash_one(0_u8);
    let instance = format!("{:016x}{:016x}", random(), random());
    let mut labels = std::collections::BTreeMap::from([
        ("service_name".to_owned(), "tapio".to_owned()),
        ("service_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("service_instance_id".to_owned(), instance),
    ]);
    for (name, value) in &telemetry.resource {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        match value {
            Some(value) => labels.insert(name, value.clone()),
            None => labels.remove(&name),
        };
    }
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    host.metrics.read(Kind::Gauge, "target_info", "Target metadata", &labels, || 1.0);
}
