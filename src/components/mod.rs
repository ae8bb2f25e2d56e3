//! The table of components. A new one is a folder where its level is, an adapter here when it has a
//! life of its own, and one line in its table.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::de::DeserializeOwned;
use tapio_exporter::Exporter;
use tapio_processor::{
    Analysis, Pressure,
    attributes::{AttributesConfig, ResourceConfig},
    batch::BatchConfig,
    k8s_attributes::K8sAttributesConfig,
    kubernetes::Directory,
    memory_limiter::MemoryLimiterConfig,
};
use tapio_proto::{Next, Signal};

use crate::{
    config::{ComponentId, Node, Wrong, decode},
    ending::Ending,
    extensions::{
        Authenticators, BasicAuth, BearerTokenAuth, HeadersSetter, HealthCheck, HealthCheckV2, Sql,
        Storages, Zpages, basicauth, bearertokenauth, check_file_storage, file_storage,
        headers_setter, health_check, health_check_v2, sql, zpages,
    },
    telemetry::{Health, Registry, Tracer},
};

mod kubernetes;
mod local;
mod observe;
mod otlp;
mod summary;
mod tapio;

pub(crate) use self::observe::ProcessorCounts;

/// Most components carry every signal.
const ALL: &[Signal] = &Signal::ALL;
/// Attributes of profiles are indices into their dictionary, which passes unread.
const WITH_ATTRIBUTES: &[Signal] = &[Signal::Traces, Signal::Metrics, Signal::Logs];

pub(crate) static RECEIVERS: &[Component<MakeReceiver>] = &[
    Component::new("nop", ALL, |body| receiver(body, anything, local::start_nop_receiver))
        .stability("Beta"),
    Component::new("otlp", ALL, |body| receiver(body, otlp::check_receiver, otlp::start_receiver))
        .module("tapio-receiver")
        .stability("Beta"),
];

pub(crate) static PROCESSORS: &[Component<MakeProcessor>] = &[
    Component::new("attributes", WITH_ATTRIBUTES, |body| {
        let check = AttributesConfig::check;
        filtering(body, check, AttributesConfig::fits, local::start_attributes)
    })
    .module("tapio-processor")
    .stability("Beta"),
    Component::new("batch", ALL, |body| processor(body, BatchConfig::check, local::start_batch))
        .module("tapio-processor")
        .stability("Beta"),
    Component::new("k8s_attributes", WITH_ATTRIBUTES, |body| {
        processor(body, K8sAttributesConfig::check, kubernetes::start)
    })
    .aliases(&["k8sattributes"])
    .module("tapio-processor"),
    Component::new("memory_limiter", ALL, |body| {
        processor(body, MemoryLimiterConfig::check, local::start_memory_limiter)
    })
    .module("tapio-processor")
    .stability("Beta"),
    Component::new("resource", WITH_ATTRIBUTES, |body| {
        processor(body, ResourceConfig::check, local::start_resource)
    })
    .module("tapio-processor")
    .stability("Beta"),
    Component::new("tapio", ALL, |body| processor(body, tapio::check, tapio::start))
        .module("tapio-processor"),
];

pub(crate) static EXPORTERS: &[Component<MakeExporter>] = &[
    Component::new("debug", ALL, |body| exporter(body, local::check_debug, local::start_debug))
        .module("tapio-exporter"),
    Component::new("file", ALL, |body| exporter(body, local::check_file, local::start_file))
        .module("tapio-exporter"),
    Component::new("nop", ALL, |body| exporter(body, anything, local::start_nop_exporter))
        .module("tapio-exporter")
        .stability("Beta"),
    Component::new("otlp_grpc", ALL, |body| exporter(body, otlp::check_grpc, otlp::start_grpc))
        .aliases(&["otlp"])
        .module("tapio-exporter")
        .stability("Beta"),
    Component::new("otlp_http", ALL, |body| exporter(body, otlp::check_http, otlp::start_http))
        .aliases(&["otlphttp"])
        .module("tapio-exporter")
        .stability("Beta"),
    Component::new("summary", ALL, |body| exporter(body, summary::check, summary::start)),
];

/// A connector joins pipelines of the same signal.
pub(crate) static CONNECTORS: &[Component<MakeConnector>] =
    &[Component::new("forward", ALL, |body| connector::<local::Nothing>(body, local::forward))
        .stability("Beta")];

pub(crate) static EXTENSIONS: &[Component<MakeExtension>] = &[
    Component::new("basicauth", &[], |body| extension(body, BasicAuth::check, basicauth))
        .stability("Beta")
        .before_pipelines(),
    Component::new("bearertokenauth", &[], |body| {
        extension(body, BearerTokenAuth::check, bearertokenauth)
    })
    .stability("Beta")
    .before_pipelines(),
    Component::new("headers_setter", &[], |body| {
        extension(body, HeadersSetter::check, headers_setter)
    })
    .stability("Beta")
    .before_pipelines(),
    Component::new("file_storage", &[], |body| extension(body, check_file_storage, file_storage))
        .stability("Beta")
        .before_pipelines(),
    Component::new("health_check", &[], |body| extension(body, HealthCheck::check, health_check))
        .stability("Beta"),
    Component::new("healthcheckv2", &[], |body| {
        extension(body, HealthCheckV2::check, health_check_v2)
    }),
    Component::new("sql", &[], |body| extension(body, Sql::check, sql)),
    Component::new("zpages", &[], |body| extension(body, Zpages::check, zpages)).stability("Beta"),
];

/// A kind of component: how it is named, what it can do, and how its configuration becomes one.
pub(crate) struct Component<M: 'static> {
    pub(crate) name: &'static str,
    /// Old names that still work.
    pub(crate) aliases: &'static [&'static str],
    /// Where the code is.
    pub(crate) module: &'static str,
    /// What it can carry; none for extensions.
    pub(crate) signals: &'static [Signal],
    pub(crate) stability: &'static str,
    /// An extension that pipelines stand on is started before them.
    pub(crate) before_pipelines: bool,
    pub(crate) decode: fn(&Node) -> Result<M, Fault>,
}

/// Why a body does not make a component.
pub(crate) enum Fault {
    /// Keys or types are wrong, each at its place.
    Decode(Wrong),
    /// It decodes and cannot work; in the component's words.
    Invalid(String),
}

/// What a component is given when it starts.
#[derive(Clone)]
pub(crate) struct Context {
    /// Its name in the configuration; labels and log lines carry it.
    pub(crate) id: ComponentId,
    pub(crate) host: Arc<Host>,
}

/// What all components of one running Tapio share.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) metrics: Arc<Registry>,
    pub(crate) health: Health,
    /// How long those may take that are told to stop.
    pub(crate) ending: Ending,
    /// Where exporters keep what they must not lose.
    pub(crate) storages: Storages,
    /// Whether memory is short.
    pub(crate) pressure: Arc<Pressure>,
    /// The pods that the first analysis knows, for processors that ask.
    pub(crate) directory: Arc<Directory>,
    /// Processors that have said what they cannot do; one in several pipelines says it once.
    warned: Mutex<BTreeSet<ComponentId>>,
    /// Who knows senders, and says who we are.
    pub(crate) authenticators: Authenticators,
    analyses: Mutex<BTreeMap<ComponentId, Kept>>,
    tracer: Mutex<Option<Arc<Tracer>>>,
    /// The configuration that runs, for those who ask.
    pub(crate) running: Mutex<String>,
}

/// An analysis goes on through a reload that does not change its settings.
struct Kept {
    settings: String,
    analysis: Arc<Analysis>,
}

/// Where a receiver sends each signal; a signal that is absent has no pipeline.
pub(crate) type Outputs = BTreeMap<Signal, Next>;

/// A started processor or exporter.
pub(crate) struct Stage {
    pub(crate) next: Next,
    pub(crate) stop: Stop,
    /// Of an exporter that keeps what was acknowledged until it is delivered.
    pub(crate) keeper: Option<Arc<Exporter>>,
}

pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A component on its way up; an error is a text for the person at the terminal.
pub(crate) type Starting<T> = Task<Result<T, String>>;
/// Stops a component: it takes nothing new, drains what it holds within its own limit, and is gone.
pub(crate) type Stop = Box<dyn FnOnce() -> Task<()> + Send>;

pub(crate) type MakeReceiver = Box<dyn Fn(Context, Outputs) -> Starting<Stop> + Send + Sync>;
/// A processor: can its configuration work in a pipeline of this signal, and how it starts, once for
/// each pipeline that names it.
pub(crate) struct MakeProcessor {
    pub(crate) fits: Box<dyn Fn(Signal) -> Result<(), String> + Send + Sync>,
    pub(crate) start: Box<dyn Fn(Context, Signal, Next) -> Starting<Stage> + Send + Sync>,
}
pub(crate) type MakeExporter = Box<dyn Fn(Context) -> Starting<Stage> + Send + Sync>;
/// From what a connector feeds to what it is fed by.
pub(crate) type MakeConnector = Box<dyn Fn(Outputs) -> Outputs + Send + Sync>;
pub(crate) type MakeExtension = Box<dyn Fn(Context) -> Starting<Stop> + Send + Sync>;

// === impl Stage ===

impl Stage {
    pub(crate) fn new(next: Next, stop: Stop) -> Self {
        Stage { next, stop, keeper: None }
    }
}

// === impl Host ===

impl Host {
    /// The analysis that the doors show: the one of the `tapio` processor, if there is one.
    pub(crate) fn analysis(&self) -> Option<Arc<Analysis>> {
        self.lock().values().next().map(|kept| Arc::clone(&kept.analysis))
    }

    /// What fails in the analysis of a `tapio` processor and is left out, in a line; the rest of it runs.
    pub(crate) fn ails(&self, id: &str) -> Option<String> {
        let analyses = self.lock();
        let (_, kept) = analyses.iter().find(|(of, _)| of.as_str() == id)?;
        let out: Vec<String> = kept
            .analysis
            .isolated()
            .into_iter()
            .map(|one| {
                format!("the {} {} fails and is left out: {}", one.part.name(), one.name, one.error)
            })
            .collect();
        (!out.is_empty()).then(|| out.join("; "))
    }

    /// The analysis of one `tapio` processor, started when its first pipeline asks for it; one with the
    /// same settings is kept.
    fn analysis_of(
        &self,
        id: &ComponentId,
        settings: String,
        start: impl FnOnce() -> Result<Arc<Analysis>, String>,
    ) -> Result<Arc<Analysis>, String> {
        let mut analyses = self.lock();
        if let Some(kept) = analyses.get(id).filter(|kept| kept.settings == settings) {
            return Ok(Arc::clone(&kept.analysis));
        }
        analyses.remove(id);
        let analysis = start()?;
        if analyses.is_empty() {
            analysis.feed(&self.directory);
        }
        analyses.insert(id.clone(), Kept { settings, analysis: Arc::clone(&analysis) });
        Ok(analysis)
    }

    /// Is this the first time that the component asks?
    fn first_warning(&self, id: &ComponentId) -> bool {
        self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
    }

    /// The pipelines are about to be exchanged: stories go out by the next ones, which warn anew.
    pub(crate) fn detach_analyses(&self) {
        self.warned.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.lock().values().for_each(|kept| kept.analysis.detach());
    }

    /// Ends the analyses that no pipeline names any more.
    pub(crate) fn keep_analyses(&self, used: impl Fn(&ComponentId) -> bool) {
        self.lock().retain(|id, _| used(id));
    }

    /// What traces the hop's own requests, if anything does.
    pub(crate) fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_tracer(&self, tracer: Option<Arc<Tracer>>) {
        *self.tracer.lock().unwrap_or_else(PoisonError::into_inner) = tracer;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ComponentId, Kept>> {
        self.analyses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Component ===

impl<M> Component<M> {
    const fn new(
        name: &'static str,
        signals: &'static [Signal],
        decode: fn(&Node) -> Result<M, Fault>,
    ) -> Self {
        Component {
            name,
            aliases: &[],
            module: "tapio",
            signals,
            stability: "Development",
            before_pipelines: false,
            decode,
        }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Component { aliases, ..self }
    }

    const fn module(self, module: &'static str) -> Self {
        Component { module, ..self }
    }

    const fn stability(self, stability: &'static str) -> Self {
        Component { stability, ..self }
    }

    const fn before_pipelines(self) -> Self {
        Component { before_pipelines: true, ..self }
    }

    pub(crate) fn answers_to(&self, kind: &str) -> bool {
        self.name == kind || self.aliases.contains(&kind)
    }
}

// === from a body to a component ===

/// Decodes a body and checks what serde cannot.
fn body<C: DeserializeOwned>(
    node: &Node,
    check: impl Fn(&C) -> Result<(), String>,
) -> Result<C, Fault> {
    let config: C = decode(node).map_err(Fault::Decode)?;
    check(&config).map_err(Fault::Invalid)?;
    Ok(config)
}

fn receiver<C, F>(
    node: &Node,
    check: fn(&C) -> Result<(), String>,
    start: fn(C, Context, Outputs) -> F,
) -> Result<MakeReceiver, Fault>
where
    C: DeserializeOwned + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Stop, String>> + Send + 'static,
{
    let config = body(node, check)?;
    Ok(Box::new(move |context, outputs| Box::pin(start(config.clone(), context, outputs))))
}

fn processor<C, F>(
    node: &Node,
    check: fn(&C) -> Result<(), String>,
    start: fn(C, Context, Signal, Next) -> F,
) -> Result<MakeProcessor, Fault>
where
    C: DeserializeOwned + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Stage, String>> + Send + 'static,
{
    filtering(node, check, |_, _| Ok(()), start)
}

/// A processor whose configuration may suit one signal and not another.
fn filtering<C, F>(
    node: &Node,
    check: fn(&C) -> Result<(), String>,
    fits: fn(&C, Signal) -> Result<(), String>,
    start: fn(C, Context, Signal, Next) -> F,
) -> Result<MakeProcessor, Fault>
where
    C: DeserializeOwned + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Stage, String>> + Send + 'static,
{
    let config = body(node, check)?;
    let same = config.clone();
    Ok(MakeProcessor {
        fits: Box::new(move |signal| fits(&same, signal)),
        start: Box::new(move |context, signal, next| {
            Box::pin(start(config.clone(), context, signal, next))
        }),
    })
}

fn connector<C: DeserializeOwned>(
    node: &Node,
    connect: fn(Outputs) -> Outputs,
) -> Result<MakeConnector, Fault> {
    body(node, anything::<C>)?;
    Ok(Box::new(connect))
}

fn exporter<C, F>(
    node: &Node,
    check: fn(&C) -> Result<(), String>,
    start: fn(C, Context) -> F,
) -> Result<MakeExporter, Fault>
where
    C: DeserializeOwned + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Stage, String>> + Send + 'static,
{
    let config = body(node, check)?;
    Ok(Box::new(move |context| Box::pin(start(config.clone(), context))))
}

fn extension<C, F>(
    node: &Node,
    check: fn(&C) -> Result<(), String>,
    start: fn(C, Context) -> F,
) -> Result<MakeExtension, Fault>
where
    C: DeserializeOwned + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Stop, String>> + Send + 'static,
{
    let config = body(node, check)?;
    Ok(Box::new(move |context| Box::pin(start(config.clone(), context))))
}

/// For components whose every value is good.
fn anything<C>(_: &C) -> Result<(), String> {
    Ok(())
}

/// For components that hold nothing.
pub(crate) fn nothing_to_stop() -> Stop {
    Box::new(|| Box::pin(async {}))
}
