//! What tells of Tapio from outside, as `service.telemetry` says: pages, pushes, spans.

use std::sync::Arc;

use super::{
    Tracer,
    page::{self, Page, Reply},
    process,
    prometheus::View,
    push,
    registry::Kind,
    resource::Resource,
    spans,
};
use crate::{
    components::{Host, Stop},
    config::telemetry::{Level, Prometheus, Telemetry},
};

/// What runs, and the ways to stop it.
#[derive(Default)]
pub(crate) struct Own {
    /// What it was started with.
    telemetry: Option<Telemetry>,
    stops: Vec<Stop>,
    traces: Option<Stop>,
}

impl Own {
    /// Starts all readers and what sends spans.
    pub(crate) async fn start(telemetry: &Telemetry, host: &Arc<Host>) -> Result<Self, String> {
        let mut own = Own { telemetry: Some(telemetry.clone()), ..Own::default() };
        match own.build(telemetry, host).await {
            Ok(()) => Ok(own),
            Err(error) => {
                host.set_tracer(None);
                if let Some(last_spans) = own.close().await {
                    last_spans().await;
                }
                Err(error)
            }
        }
    }

    async fn build(&mut self, telemetry: &Telemetry, host: &Arc<Host>) -> Result<(), String> {
        let who = Arc::new(Resource::new(&telemetry.resource));
        let started = spans::start(&telemetry.traces, &who, host).map_err(|text| {
            format!("failed to start own traces: {text} (service::telemetry::traces::processors)")
        })?;
        let (tracer, stop): (Option<Arc<Tracer>>, _) = started.unzip();
        self.traces = stop;
        host.set_tracer(tracer);
        let metrics = &telemetry.metrics;
        host.metrics.set_detailed(metrics.level == Level::Detailed);
        host.metrics.set_read(metrics.level != Level::None);
        if metrics.level == Level::None {
            return Ok(());
        }
        process::register(&host.metrics);
        tell_who(&who, host);
        if let Some(address) = &metrics.address {
            return self
                .page(address.clone(), Prometheus::default(), metrics.level, &who, host)
                .await;
        }
        for reader in &metrics.readers {
            if let Some(periodic) = &reader.periodic {
                let stop = push::start(periodic, metrics.level, Arc::clone(&host.metrics), Arc::clone(&who))
                    .map_err(|text| format!("failed to start the push of self metrics: {text} (service::telemetry::metrics::readers)"))?;
                self.stops.push(stop);
            }
            if let Some(pull) = &reader.pull {
                let style = pull.exporter.prometheus.clone();
                let endpoint = match style.host.contains(':') {
                    true => format!("[{}]:{}", style.host, style.port),
                    false => format!("{}:{}", style.host, style.port),
                };
                self.page(endpoint, style, metrics.level, &who, host).await?;
            }
        }
        Ok(())
    }

    async fn page(
        &mut self,
        endpoint: String,
        style: Prometheus,
        level: Level,
        who: &Resource,
        host: &Host,
    ) -> Result<(), String> {
        let constant = match &style.with_resource_constant_labels {
            Some(choice) => who
                .attributes()
                .iter()
                .filter(|(name, _)| choice.takes(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            None => Vec::new(),
        };
        let (view, metrics) = (View { level, style, constant }, Arc::clone(&host.metrics));
        let page: Page = Arc::new(move |uri| match uri.path() {
            "/metrics" => Reply {
                status: http::StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
                body: view.page(&metrics),
            },
            _ => Reply::not_found(),
        });
        let (_, stop) = page::serve(&endpoint, page).await.map_err(|text| {
            format!("failed to start the page of self metrics: {text} (service::telemetry::metrics::readers; level: none switches it off)")
        })?;
        self.stops.push(stop);
        Ok(())
    }

    /// Does it run as `telemetry` says?
    pub(crate) fn runs(&self, telemetry: &Telemetry) -> bool {
        self.telemetry.as_ref() == Some(telemetry)
    }

    /// The last push is made and the pages close. What is returned sends the last spans: it ends when
    /// the pipelines that make them are gone.
    pub(crate) async fn close(self) -> Option<Stop> {
        for stop in self.stops {
            stop().await;
        }
        self.traces
    }
}

/// The series that say who speaks and whether the page works.
fn tell_who(who: &Resource, host: &Arc<Host>) {
    let labels: Vec<_> =
        who.attributes().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // The name of before a reload goes.
    host.metrics.remove("target_info");
    host.metrics.read(Kind::Gauge, "target_info", "Target metadata", &labels, || 1.0);
    for cause in ["encoding", "gathering"] {
        host.metrics.counter(
            "promhttp_metric_handler_errors_total",
            "Total number of internal errors encountered by the promhttp metric handler.",
            &[("cause", cause)],
        );
    }
}
