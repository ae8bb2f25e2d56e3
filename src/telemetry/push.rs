//! Self metrics by OTLP, again and again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tapio_exporter::{Exporter, otlp_grpc, otlp_http};
use tapio_proto::{
    Consumer, Request, Signal, Status, attr,
    splice::encode_attributes,
    wire::{put_fixed64_field, put_len_field, put_message, put_varint_field},
};

use super::{
    registry::{Kind, Labels, Point, Registry, Snapshot},
    resource::Resource,
};
use crate::{
    components::Stop,
    config::telemetry::{Level, Periodic, Target},
};

/// For the last push when Tapio stops.
const LAST_LIMIT: Duration = Duration::from_secs(2);
/// AGGREGATION_TEMPORALITY_CUMULATIVE
const CUMULATIVE: u64 = 2;

/// Starts pushing; the last push is made when it is stopped.
pub(crate) fn start(
    periodic: &Periodic,
    level: Level,
    metrics: Arc<Registry>,
    who: Arc<Resource>,
) -> Result<Stop, String> {
    let otlp = periodic.exporter.otlp.as_ref().ok_or("must specify one exporter: otlp")?;
    let exporter = exporter(&otlp.target()?)?;
    let (interval, timeout) =
        (Duration::from_millis(periodic.interval), Duration::from_millis(periodic.timeout));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let started = nanos(SystemTime::now());
    let pushing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopped => true,
            };
            let request = request(&metrics, level, &who, started);
            let limit = if last { timeout.min(LAST_LIMIT) } else { timeout };
            let error = match tokio::time::timeout(limit, exporter.consume(request)).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(status.to_string()),
                Err(_) => Some(format!("no answer in {limit:?}")),
            };
            if let Some(error) = error {
                tracing::warn!(
                    error,
                    "Self metrics could not be pushed. The next push tells the same sums."
                );
            }
            if last {
                return;
            }
        }
    });
    Ok(Box::new(move || {
        Box::pin(async move {
            drop(stop);
            // A panic while pushing is in the log already.
            let _ = pushing.await;
        })
    }))
}

/// An exporter for Tapio's own telemetry; it counts nothing, or it would change what it tells.
pub(super) fn exporter(target: &Target) -> Result<Exporter, String> {
    let unseen = Arc::new(Unseen);
    match target {
        Target::Grpc(config) => otlp_grpc("service::telemetry", config, unseen),
        Target::Http(config) => otlp_http("service::telemetry", config, unseen),
    }
    .map_err(|error| error.to_string())
}

struct Unseen;

impl tapio_exporter::Observer for Unseen {
    fn sent(&self, _: Signal, _: usize) {}
    fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
    fn enqueue_failed(&self, _: Signal, _: usize) {}
}

/// One `ExportMetricsServiceRequest` with everything of the level.
fn request(metrics: &Registry, level: Level, who: &Resource, started: u64) -> Request {
    let now = nanos(SystemTime::now());
    let mut items = 0;
    let mut families: Vec<_> = metrics
        .snapshot()
        .into_iter()
        // These are Prometheus' own.
        .filter(|family| family.name != "target_info" && !family.name.starts_with("promhttp_"))
        .filter(|family| family.about.level <= level && !family.points.is_empty())
        .collect();
    families.sort_by_key(|family| family.about.scope);
    let mut bytes = Vec::new();
    put_message(&mut bytes, 1, |group| {
        put_len_field(group, 1, &who.encoded());
        for scope in families.chunk_by(|a, b| a.about.scope == b.about.scope) {
            put_message(group, 2, |out| {
                put_message(out, 1, |out| put_len_field(out, 1, scope[0].about.scope.as_bytes()));
                for family in scope {
                    items += family.points.len();
                    put_message(out, 2, |out| metric(out, family, (started, now)));
                }
            });
        }
    });
    Request::new(Signal::Metrics, Bytes::from(bytes), items)
}

/// Field numbers: opentelemetry/proto/metrics/v1/metrics.proto.
fn metric(out: &mut Vec<u8>, family: &Snapshot, times: (u64, u64)) {
    put_len_field(out, 1, family.name.as_bytes());
    put_len_field(out, 2, family.about.help.as_bytes());
    put_len_field(out, 3, family.about.unit.as_bytes());
    let field = match family.kind {
        Kind::Gauge => 5,
        Kind::Counter => 7,
        Kind::Histogram => 9,
    };
    put_message(out, field, |out| {
        for (labels, value) in &family.points {
            put_message(out, 1, |out| point(out, labels, value, times));
        }
        if family.kind != Kind::Gauge {
            put_varint_field(out, 2, CUMULATIVE);
        }
        if family.kind == Kind::Counter {
            put_varint_field(out, 3, 1); // is_monotonic
        }
    });
}

fn point(out: &mut Vec<u8>, labels: &Labels, value: &Point, (started, now): (u64, u64)) {
    put_fixed64_field(out, 2, started);
    put_fixed64_field(out, 3, now);
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| (name.as_str(), attr::Value::Text(value))).collect();
    match value {
        Point::Whole(whole) => put_fixed64_field(out, 6, *whole),
        Point::Number(number) => put_fixed64_field(out, 4, number.to_bits()),
        Point::Histogram { bounds, counts, sum } => {
            put_fixed64_field(out, 4, counts.iter().sum());
            put_fixed64_field(out, 5, sum.to_bits());
            let packed = |numbers: &mut dyn Iterator<Item = u64>| {
                numbers.flat_map(u64::to_le_bytes).collect::<Vec<_>>()
            };
            put_len_field(out, 6, &packed(&mut counts.iter().copied()));
            put_len_field(out, 7, &packed(&mut bounds.iter().map(|bound| bound.to_bits())));
            out.extend(encode_attributes(9, &labels));
            return;
        }
    }
    out.extend(encode_attributes(7, &labels));
}

/// Since 1970.
pub(super) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_push_is_a_request_that_the_receiver_would_take() {
        let registry = Registry::default();
        registry.counter("otelcol_receiver_accepted_spans", "", &[("receiver", "otlp")]).add(7);
        registry.read(Kind::Gauge, "otelcol_process_memory_rss", "", &[], || 2.5);
        registry
            .histogram("otelcol_processor_batch_batch_send_size", &[], &[10.0, 25.0])
            .record(11);
        let who = Resource::new(&BTreeMap::new());
        let request = request(&registry, Level::Normal, &who, 1);
        assert_eq!(request.items, 3);
        let json = tapio_proto::json::from_proto(Signal::Metrics, &request.bytes).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = json.to_string();
        for part in [
            "\"asInt\":\"7\"",
            "\"asDouble\":2.5",
            "\"bucketCounts\":[\"0\",\"1\",\"0\"]",
            "\"explicitBounds\":[10.0,25.0]",
            "\"isMonotonic\":true",
            "\"unit\":\"By\"",
            "go.opentelemetry.io/collector/service",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
