//! A running Tapio: pipelines, extensions and self telemetry, started, exchanged and stopped as one.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use crate::{
    components::{Context, Host, Stop},
    config::{ComponentId, Config},
    error::{Error, Result},
    graph::Graph,
    telemetry::{Counter, Kind, Registry, Running, State, own::Own},
};

/// What the program and its commands hold while the hop runs.
pub(crate) struct Service {
    config: Config,
    host: Arc<Host>,
    graph: Graph,
    extensions: Vec<Extension>,
    own: Own,
    reloads: Reloads,
}

/// How reloads went, for those who look from outside.
struct Reloads {
    success: Counter,
    failure: Counter,
    /// When the configuration that runs came to run, in seconds since 1970.
    last: Arc<AtomicU64>,
}

struct Extension {
    id: ComponentId,
    identity: Option<String>,
    before_pipelines: bool,
    stop: Stop,
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
    /// Starts what pipelines stand on, exporters, processors, receivers and the other extensions, in this
    /// order. What had started is stopped when something later fails.
    pub(crate) async fn start(config: Config) -> Result<Self> {
        tracing::info!(
            Version = env!("CARGO_PKG_VERSION"),
            NumCPU = std::thread::available_parallelism().map_or(0, usize::from),
            "Starting tapio..."
        );
        let host = Arc::new(Host::default());
        let mut service = Service {
            config: Config::default(),
            reloads: Reloads::shown_by(&host.metrics),
            host,
            graph: Graph::default(),
            extensions: Vec::new(),
            own: Own::default(),
        };
        match service.change_to(&config).await {
            Ok(()) => {}
            Err(error) => {
                service.stop().await;
                return Err(error);
            }
        }
        service.config = config;
        service.reloads.runs_now();
        service.host.health.set(State::Ok);
        tracing::info!("Everything is ready. Begin running and processing data.");
        Ok(service)
    }

    /// Runs another configuration from now on, with as little pause as can be. When it does not start,
    /// the one of before runs again, and the error says why; `Err(Lost)` when that fails, too.
    pub(crate) async fn reload(&mut self, config: Config) -> std::result::Result<(), Reload> {
        if !self.graph.is_settled(&self.host).await {
            return Err(Reload::Back(Error::new("the program is told to stop")));
        }
        tracing::warn!("Config updated, restart service");
        let Err(error) = self.change_to(&config).await else {
            self.config = config;
            self.reloads.success.add(1);
            self.reloads.runs_now();
            tracing::info!("Everything is ready. Begin running and processing data.");
            return Ok(());
        };
        let old = mem::take(&mut self.config);
        let back = self.change_to(&old).await;
        self.config = old;
        match back {
            Ok(()) => Err(Reload::Back(error)),
            Err(again) => Err(Reload::Lost(Error::new(format!(
                "{error}; and the configuration of before does not start again: {again}"
            )))),
        }
    }

    /// A configuration could not be used: it does not read, or does not start.
    pub(crate) fn reload_failed(&self) {
        self.reloads.failure.add(1);
    }

    async fn change_to(&mut self, config: &Config) -> Result<()> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let telemetry = &config.service.telemetry;
        let mut last_spans = None;
        if !self.own.runs(telemetry) {
            last_spans = mem::take(&mut self.own).close().await;
            self.own = Own::start(telemetry, &self.host).await.map_err(Error::new)?;
        }
        let stood_on = |e: &Extension| e.before_pipelines && !stays(e, config);
        if self.extensions.iter().any(stood_on) {
            // What stands on one that goes holds on to it, though its own settings may be the same.
            self.graph.clear_for(config, true).await;
        }
        self.stop_extensions(|extension| stays(extension, config)).await;
        tracing::info!("Starting extensions...");
        self.start_extensions(config, true).await?;
        let before = self.host.analysis();
        let changed = self.graph.change_to(config, &self.host).await.map_err(Error::new);
        if let Some(stop) = last_spans {
            stop().await;
        }
        changed?;
        let used = |id: &ComponentId| {
            config.service.pipelines.iter().any(|pipeline| pipeline.processors.contains(id))
        };
        self.host.keep_analyses(used);
        let after = self.host.analysis();
        if before.as_ref().map(Arc::as_ptr) != after.as_ref().map(Arc::as_ptr) {
            // The doors of before show tables that nobody fills any more.
            self.stop_extensions(|extension| extension.before_pipelines).await;
        }
        self.start_extensions(config, false).await?;
        self.forget_what_left(config);
        self.tell_what_runs(config);
        let leaving = self.graph.handing_over().clone();
        self.host.storages.tell_unclaimed(self.graph.keepers(), leaving);
        Ok(())
    }

    /// Those that pipelines stand on, or the others.
    async fn start_extensions(&mut self, config: &Config, before_pipelines: bool) -> Result<()> {
        for id in &config.service.extensions {
            let Some(entry) = config.extensions.get(id) else { continue };
            if entry.component.before_pipelines != before_pipelines
                || self.extensions.iter().any(|extension| extension.id == *id)
            {
                continue;
            }
            let context = Context { id: id.clone(), host: Arc::clone(&self.host) };
            let stop = (entry.make)(context).await.map_err(|text| {
                Error::new(format!(
                    "{}: failed to start extensions: failed to start \"{id}\" extension: {text}",
                    entry.place
                ))
            })?;
            let (id, identity) = (id.clone(), entry.identity.clone());
            self.extensions.push(Extension { id, identity, before_pipelines, stop });
        }
        Ok(())
    }

    /// Stops those that do not stay, the last one first.
    async fn stop_extensions(&mut self, stays: impl Fn(&Extension) -> bool) {
        let (kept, leaving): (Vec<_>, Vec<_>) =
            mem::take(&mut self.extensions).into_iter().partition(stays);
        self.extensions = kept;
        for extension in leaving.into_iter().rev() {
            (extension.stop)().await;
        }
    }

    /// The series of components that left go with them.
    fn forget_what_left(&self, config: &Config) {
        let pipelines = &config.service.pipelines;
        self.host.metrics.forget(|label, id| {
            let of = |list: fn(&crate::config::Pipeline) -> &Vec<ComponentId>| {
                !pipelines.iter().flat_map(list).any(|used| used.as_str() == id)
            };
            match label {
                "receiver" => of(|pipeline| &pipeline.receivers),
                "processor" => of(|pipeline| &pipeline.processors),
                "exporter" => of(|pipeline| &pipeline.exporters),
                _ => false,
            }
        });
    }

    fn tell_what_runs(&self, config: &Config) {
        let names = |ids: &[ComponentId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pipelines = config.service.pipelines.iter().map(|pipeline| Running {
            name: pipeline.id.to_string(),
            receivers: names(&pipeline.receivers),
            processors: names(&pipeline.processors),
            exporters: names(&pipeline.exporters),
        });
        self.host.health.runs(pipelines.collect(), names(&config.service.extensions));
        let mut running =
            self.host.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.clone_from(&config.shown);
    }

    /// What the components share; commands that run beside the hop ask it for the analysis.
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Not ready any more, then receivers, processors and exporters, which drain what they hold within their limits.
    pub(crate) async fn stop(&mut self) {
        self.host.ending.begin();
        self.host.health.set(State::Stopping);
        tracing::info!("Starting shutdown...");
        mem::take(&mut self.graph).stop().await;
        self.host.set_tracer(None);
        tracing::info!("Stopping extensions...");
        self.stop_extensions(|_| false).await;
        if let Some(last_spans) = mem::take(&mut self.own).close().await {
            last_spans().await;
        }
        tracing::info!("Shutdown complete.");
    }
}

impl Reloads {
    fn shown_by(metrics: &Registry) -> Self {
        let count = |result| {
            let help = "Configurations that came by SIGHUP and run, or could not be used";
            metrics.counter("tapio_config_reloads", help, &[("result", result)])
        };
        let last = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&last);
        metrics.read(
            Kind::Gauge,
            "tapio_config_last_success_time",
            "When the configuration that runs was last read, in seconds since 1970",
            &[],
            move || shown.load(Relaxed) as f64,
        );
        Reloads { success: count("success"), failure: count("failure"), last }
    }

    fn runs_now(&self) {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs());
        self.last.store(now, Relaxed);
    }
}

/// Why a reload did not lead to the new configuration.
pub(crate) enum Reload {
    /// The one of before runs.
    Back(Error),
    /// Nothing runs.
    Lost(Error),
}

fn stays(extension: &Extension, config: &Config) -> bool {
    extension.identity.is_some()
        && config.service.extensions.contains(&extension.id)
        && config.extensions.get(&extension.id).map(|entry| &entry.identity)
            == Some(&extension.identity)
}
