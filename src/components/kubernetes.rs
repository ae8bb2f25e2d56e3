//! The `k8s_attributes` processor in this program's terms.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tapio_processor::k8s_attributes::{K8sAttributes, K8sAttributesConfig};
use tapio_proto::{Next, Signal};

use super::{Context, Stage, nothing_to_stop};
use crate::telemetry::Kind;

pub(super) async fn start(
    config: K8sAttributesConfig,
    context: Context,
    signal: Signal,
    next: Next,
) -> Result<Stage, String> {
    let Context { id, host } = context;
    if let Some(unserved) = config.unserved()
        && host.first_warning(&id)
    {
        tracing::warn!(processor = %id, "Tapio does not ask the Kubernetes API, so this has no effect: {unserved}. Pods are found by their addresses, names, uids and containers.");
    }
    let missed = Arc::new(AtomicU64::new(0));
    let labels = [("processor", id.as_str()), ("otel_signal", signal.name())];
    let (count, directory) = (Arc::clone(&missed), Arc::clone(&host.directory));
    host.metrics.read(
        Kind::Counter,
        "tapio_k8s_attributes_missed_resources",
        "Resources whose pod is not known",
        &labels,
        move || count.load(Relaxed) as f64,
    );
    host.metrics.read(
        Kind::Gauge,
        "otelcol_otelsvc_k8s_pod_table_size",
        "Size of table containing pod info",
        &[],
        move || directory.newest().len() as f64,
    );
    let processor = K8sAttributes::new(&config, Arc::clone(&host.directory), missed, next)?;
    Ok(Stage::new(Arc::new(processor), nothing_to_stop()))
}
