//! A running Tapio: pipelines, extensions and self metrics, started and stopped as one.

use std::sync::Arc;

use crate::{
    components::{Context, Host, Stop},
    config::Config,
    error::{Error, Result},
    graph::Graph,
    telemetry::metrics_page,
};

/// What the program and its commands hold while the hop runs.
pub(crate) struct Service {
    host: Arc<Host>,
    graph: Graph,
    extensions: Vec<Stop>,
    metrics: Option<Stop>,
}

/// The runtime of the hop: a worker for each core, at least two, so that one slow poll does not stop the doors.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.max(2))
        .enable_all()
        .build()?)
}

impl Service {
    /// Starts what pipelines stand on, exporters, processors, receivers and the other extensions, in this order. What had started is stopped
    /// when something later fails.
    pub(crate) async fn start(config: Config) -> Result<Self> {
        tracing::info!(
            Version = env!("CARGO_PKG_VERSION"),
            NumCPU = std::thread::available_parallelism().map_or(0, usize::from),
            "Starting tapio..."
        );
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let host = Arc::new(Host::default());
        let metrics =
            metrics_page::start(&config.service.telemetry, &host).await.map_err(Error::new)?;
        let graph = Graph::default();
        let mut service = Service { host, graph, extensions: Vec::new(), metrics };
        if let Err(error) = service.start_all(&config).await {
            service.stop().await;
            return Err(error);
        }
        service.host.health.set_ready(true);
        tracing::info!("Everything is ready. Begin running and processing data.");
        Ok(service)
    }

    async fn start_all(&mut self, config: &Config) -> Result<()> {
        tracing::info!("Starting extensions...");
        self.start_extensions(config, true).await?;
        self.graph = Graph::start(config, &self.host).await.map_err(Error::new)?;
        self.start_extensions(config, false).await
    }

    /// Those that pipelines stand on, or the others.
    async fn start_extensions(&mut self, config: &Config, before_pipelines: bool) -> Result<()> {
        for id in &config.service.extensions {
            let Some(entry) = config.extensions.get(id) else { continue };
            if entry.component.before_pipelines != before_pipelines {
                continue;
            }
            let context = Context { id: id.clone(), host: Arc::clone(&self.host) };
            let stop = (entry.make)(context).await.map_err(|text| {
                Error::new(format!(
                    "{}: failed to start extensions: failed to start \"{id}\" extension: {text}",
                    entry.place
                ))
            })?;
            self.extensions.push(stop);
        }
        Ok(())
    }

    /// What the components share; commands that run beside the hop ask it for the analysis.
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Not ready any more, then receivers, processors and exporters, which drain what they hold within their limits.
    pub(crate) async fn stop(self) {
        self.host.health.set_ready(false);
        tracing::info!("Starting shutdown...");
        self.graph.stop().await;
        tracing::info!("Stopping extensions...");
        for stop in self.extensions.into_iter().rev() {
            stop().await;
        }
        if let Some(stop) = self.metrics {
            stop().await;
        }
        tracing::info!("Shutdown complete.");
    }
}
