//! What Tapio tells about itself: log lines, metrics, traces, health.

mod catalogue;
mod health;
pub(crate) mod logs;
pub(crate) mod own;
mod page;
mod process;
mod prometheus;
mod push;
mod registry;
mod resource;
mod sampling;
pub(crate) mod spans;

pub(crate) use self::{
    health::{Health, Running, State},
    page::{Page, Reply, serve},
    registry::{Counter, Histogram, Kind, Registry},
    spans::Tracer,
};

/// The page of all metrics at a level, as a Collector writes it.
#[cfg(test)]
pub(crate) fn page_of(metrics: &Registry, level: crate::config::telemetry::Level) -> String {
    let style = crate::config::telemetry::Prometheus::default();
    prometheus::View { level, style, constant: Vec::new() }.page(metrics)
}
