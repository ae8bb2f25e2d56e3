//! The `otlp` receiver and the two OTLP exporters, in this program's terms.

use std::sync::Arc;

use tapio_exporter::{
    ConfigError, Exporter, Observer, OtlpGrpcConfig, OtlpHttpConfig, QueueConfig, RetryConfig,
    SendConfig, otlp_grpc, otlp_http,
};
use tapio_proto::{Signal, Status};
use tapio_receiver::{Auth, Consumers, OtlpConfig, OtlpReceiver, Transports, check_endpoint};

use super::{
    Context, Outputs, Stage, Stop,
    observe::{ExporterCounts, ReceiverCounts},
};
use crate::telemetry::Kind;

pub(super) fn check_receiver(config: &OtlpConfig) -> Result<(), String> {
    let (grpc, http) = (&config.protocols.grpc, &config.protocols.http);
    if grpc.is_none() && http.is_none() {
        return Err("must specify at least one protocol when using the OTLP receiver".into());
    }
    for (name, endpoint, transport, tls) in grpc
        .iter()
        .map(|grpc| ("grpc", &grpc.endpoint, grpc.transport, &grpc.tls))
        .chain(http.iter().map(|http| ("http", &http.endpoint, http.transport, &http.tls)))
    {
        let wrong = |why: String| format!("protocols::{name}: {why}");
        if transport != Transports::Unix {
            check_endpoint(endpoint).map_err(wrong)?;
        }
        if let Some(tls) = tls {
            tls.check().map_err(wrong)?;
        }
    }
    let grpc = grpc.iter().flat_map(|grpc| &grpc.middlewares);
    let http = http.iter().flat_map(|http| &http.middlewares);
    no_middlewares(grpc.chain(http).map(|middleware| &middleware.id))
}

/// The Collector resolves these among its extensions.
fn no_middlewares<'a>(mut ids: impl Iterator<Item = &'a String>) -> Result<(), String> {
    match ids.next() {
        None => Ok(()),
        Some(id) => Err(format!(
            "middlewares: Tapio has no extension that can be one, so not \"{id}\": leave it out here, or keep the Collector in front for it"
        )),
    }
}

pub(super) async fn start_receiver(
    config: OtlpConfig,
    context: Context,
    mut outputs: Outputs,
) -> Result<Stop, String> {
    let consumers = Consumers {
        traces: outputs.remove(&Signal::Traces),
        metrics: outputs.remove(&Signal::Metrics),
        logs: outputs.remove(&Signal::Logs),
        profiles: outputs.remove(&Signal::Profiles),
    };
    let counts = Arc::new(ReceiverCounts::new(&context));
    let server = |name: &str| context.host.authenticators.server(name);
    let auth = Auth {
        grpc: match config.protocols.grpc.as_ref().and_then(|grpc| grpc.auth.as_ref()) {
            Some(auth) => Some(server(&auth.authenticator)?),
            None => None,
        },
        http: match config.protocols.http.as_ref().and_then(|http| http.auth.as_ref()) {
            Some(auth) => Some(server(&auth.authenticator)?),
            None => None,
        },
    };
    let handle = OtlpReceiver::start_with(&config, consumers, auth, counts)
        .await
        .map_err(|error| error.to_string())?;
    let Context { id, host } = context;
    if let Some(address) = handle.grpc_address() {
        tracing::info!(receiver = %id, endpoint = %address, "Starting GRPC server");
    }
    if let Some(address) = handle.http_address() {
        tracing::info!(receiver = %id, endpoint = %address, "Starting HTTP server");
    }
    Ok(Box::new(move || {
        Box::pin(async move {
            let cut = handle.shutdown_when(host.ending.receivers()).await;
            if cut > 0 {
                tracing::warn!(receiver = %id, connections = cut, "Requests under way did not end in time. Their senders were not told that they are taken.");
            }
        })
    }))
}

pub(super) fn check_grpc(config: &OtlpGrpcConfig) -> Result<(), String> {
    no_middlewares(config.middlewares.iter().map(|middleware| &middleware.id))?;
    let mut idle = config.clone();
    idle.sending_queue.enabled = false;
    idle.auth = None;
    idle.tls = idle.tls.without_files();
    check_exporter(&config.sending_queue, &config.retry_on_failure, |unseen| {
        otlp_grpc("", &idle, unseen)
    })
}

pub(super) fn check_http(config: &OtlpHttpConfig) -> Result<(), String> {
    no_middlewares(config.middlewares.iter().map(|middleware| &middleware.id))?;
    let mut idle = config.clone();
    idle.sending_queue.enabled = false;
    idle.auth = None;
    idle.tls = idle.tls.without_files();
    check_exporter(&config.sending_queue, &config.retry_on_failure, |unseen| {
        otlp_http("", &idle, unseen)
    })
}

/// Builds the exporter without its queue, which has nothing to run then: endpoint and headers are
/// looked at, and nothing is sent. Certificates are for the start: `validate` may run where they are
/// not, and an exporter that no pipeline uses needs none.
fn check_exporter(
    queue: &QueueConfig,
    retry: &RetryConfig,
    build: impl FnOnce(Arc<dyn Observer>) -> Result<Exporter, ConfigError>,
) -> Result<(), String> {
    let queue = SendConfig::new(queue.clone(), retry.clone()).map(drop);
    queue.and_then(|()| build(Arc::new(Unseen)).map(drop)).map_err(|error| error.to_string())
}

/// For an exporter that sends nothing.
struct Unseen;

impl Observer for Unseen {
    fn sent(&self, _: Signal, _: usize) {}
    fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
    fn enqueue_failed(&self, _: Signal, _: usize) {}
}

pub(super) async fn start_grpc(
    mut config: OtlpGrpcConfig,
    context: Context,
) -> Result<Stage, String> {
    context.host.authenticators.resolve(config.auth.as_mut())?;
    find_storage(&mut config.sending_queue, &context)?;
    let (counts, id) = (Arc::new(ExporterCounts::new(&context)), context.id.to_string());
    start(move || otlp_grpc(&id, &config, counts), &context).await
}

pub(super) async fn start_http(
    mut config: OtlpHttpConfig,
    context: Context,
) -> Result<Stage, String> {
    context.host.authenticators.resolve(config.auth.as_mut())?;
    find_storage(&mut config.sending_queue, &context)?;
    let (counts, id) = (Arc::new(ExporterCounts::new(&context)), context.id.to_string());
    start(move || otlp_http(&id, &config, counts), &context).await
}

/// The storage that a queue names. One that names none stays in memory, and has the first storage
/// that there is for its dead letters.
fn find_storage(queue: &mut QueueConfig, context: &Context) -> Result<(), String> {
    let id = queue.storage.as_deref();
    queue.opened = context.host.storages.get(id);
    match (id, &queue.opened) {
        (Some(id), None) if queue.enabled => Err(format!(
            "no storage client extension found: sending_queue::storage names \"{id}\", which is no file_storage in service::extensions"
        )),
        _ => Ok(()),
    }
}

/// Builds an exporter where it may read its queue from disk.
async fn start(
    build: impl FnOnce() -> Result<Exporter, ConfigError> + Send + 'static,
    context: &Context,
) -> Result<Stage, String> {
    let built = tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?;
    queued(built, context)
}

/// An exporter with a sending queue: its size is shown, and it is drained at the end.
fn queued(exporter: Result<Exporter, ConfigError>, context: &Context) -> Result<Stage, String> {
    let exporter = Arc::new(exporter.map_err(|error| error.to_string())?);
    let metrics = &context.host.metrics;
    for signal in Signal::ALL {
        if exporter.queue_capacity(signal) == 0 {
            continue;
        }
        let labels = [("exporter", context.id.as_str()), ("data_type", signal.name())];
        let (size, capacity) = (Arc::clone(&exporter), Arc::clone(&exporter));
        metrics.read(
            Kind::Gauge,
            "otelcol_exporter_queue_size",
            "Current size of the sending queue",
            &labels,
            move || size.queue_size(signal) as f64,
        );
        metrics.read(
            Kind::Gauge,
            "otelcol_exporter_queue_capacity",
            "Capacity of the sending queue",
            &labels,
            move || capacity.queue_capacity(signal) as f64,
        );
        let (held, most) = (Arc::clone(&exporter), Arc::clone(&exporter));
        metrics.read(
            Kind::Gauge,
            "tapio_queue_memory_bytes",
            "What the sending queue takes in memory",
            &labels,
            move || held.queue_memory(signal).map_or(0, |(held, _)| held) as f64,
        );
        metrics.read(
            Kind::Gauge,
            "tapio_queue_memory_capacity_bytes",
            "What the sending queue may take in memory (sending_queue::max_mib)",
            &labels,
            move || most.queue_memory(signal).map_or(0, |(_, most)| most) as f64,
        );
        if exporter.queue_disk_bytes(signal).is_some() {
            let disk = Arc::clone(&exporter);
            metrics.read(
                Kind::Gauge,
                "tapio_queue_disk_bytes",
                "What the sending queue takes on disk",
                &labels,
                move || disk.queue_disk_bytes(signal).unwrap_or(0) as f64,
            );
        }
    }
    if exporter.dead_letters().is_some() {
        let labels = [("exporter", context.id.as_str())];
        let (requests, bytes) = (Arc::clone(&exporter), Arc::clone(&exporter));
        metrics.read(
            Kind::Gauge,
            "tapio_queue_dead_letters",
            "Requests among the dead letters: `tapio queue list` tells why",
            &labels,
            move || requests.dead_letters().map_or(0.0, |(requests, _)| requests as f64),
        );
        metrics.read(
            Kind::Gauge,
            "tapio_queue_dead_letters_disk_bytes",
            "What the dead letters take on disk",
            &labels,
            move || bytes.dead_letters().map_or(0.0, |(_, bytes)| bytes as f64),
        );
    }
    let (stop, host) = (Arc::clone(&exporter), Arc::clone(&context.host));
    Ok(Stage {
        next: Arc::clone(&exporter) as _,
        stop: Box::new(move || {
            Box::pin(async move {
                stop.shutdown_when(host.ending.exporters()).await;
            })
        }),
        keeper: Some(exporter),
    })
}
