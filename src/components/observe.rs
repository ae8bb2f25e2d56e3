//! What receivers and exporters tell about their work, as the Collector's own metrics.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use tapio_proto::{
    Accepted, BatchObserver, Batching, CanBatch, Code, Consumer, Next, Pending, Request, Signal,
    Status, transport::Exchange,
};
use tapio_receiver::{Limit, Transport, Verdict};

use super::Context;
use crate::telemetry::{Counter, Histogram, Kind, Registry};

/// One counter for each signal.
type BySignal = [Counter; Signal::ALL.len()];

/// Counts for a receiver: `otelcol_receiver_{accepted,refused,failed}_ITEM{receiver,transport}`.
pub(super) struct ReceiverCounts {
    metrics: Arc<Registry>,
    /// By transport, then by verdict.
    counters: [[BySignal; 3]; 2],
    /// By transport: `tapio_receiver_limited{receiver,transport,reason}`.
    limited: [[Counter; Limit::ALL.len()]; 2],
}

/// Counts for an exporter: `otelcol_exporter_{sent,send_failed,enqueue_failed}_ITEM{exporter}`.
pub(super) struct ExporterCounts {
    exporter: String,
    metrics: Arc<Registry>,
    sent: BySignal,
    enqueue_failed: BySignal,
    replayed: BySignal,
    parked: BySignal,
    corrupt: BySignal,
    batch_size: Histogram,
    batch_bytes: Histogram,
}

/// Counts for a processor, as the Collector counts for most of its own:
/// `otelcol_processor_{incoming,outgoing}_items{otel_signal,processor}`, and for `memory_limiter`
/// `otelcol_processor_{accepted,refused}_ITEM{processor}`.
pub(crate) struct ProcessorCounts(Option<ProcessorCount>);

struct ProcessorCount {
    metrics: Arc<Registry>,
    incoming: Counter,
    outgoing: Counter,
    /// `otelcol_processor_internal_duration{otel_signal,processor}`
    duration: Histogram,
}

/// Counts for the batch processor: `otelcol_processor_batch_*{processor}`.
pub(super) struct BatchCounts {
    size: Histogram,
    bytes: Histogram,
    full: Counter,
    timeout: Counter,
}

/// Counts what comes to a processor, and times what it does with it.
struct Incoming {
    next: Next,
    metrics: Arc<Registry>,
    count: Counter,
    duration: Histogram,
}

/// Counts what a processor passes on.
struct Outgoing {
    next: Next,
    count: Counter,
    duration: Histogram,
}

thread_local! {
    /// Since when the processor that has this thread has a request. They work as they are called, and call
    /// the next on the same thread.
    static WORKING: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Counts what an exporter without a queue of its own takes and refuses.
pub(super) struct Counted {
    next: Next,
    counts: ExporterCounts,
}

/// Bounds of the histograms of batch sizes, the Collector's.
pub(super) const SIZES: &[f64] = &[
    10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0,
    6000.0, 7000.0, 8000.0, 9000.0, 10000.0, 20000.0, 30000.0, 50000.0, 100000.0,
];

/// Bounds that OpenTelemetry has for whatever has none of its own.
const ANYTHING: &[f64] = &[
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// Bounds of calls and requests, in seconds.
const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Bounds of the bytes that come to an exporter's queue.
const QUEUED: &[f64] = &[
    10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0,
    6000.0,
];

/// Bounds of the bytes of a processor's batches.
const BYTES: &[f64] = &[
    10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0,
    6000.0, 7000.0, 8000.0, 9000.0, 10000.0, 20000.0, 30000.0, 50000.0, 100000.0, 200000.0,
    300000.0, 400000.0, 500000.0, 600000.0, 700000.0, 800000.0, 900000.0, 1e6, 2e6, 3e6, 4e6, 5e6,
    6e6, 7e6, 8e6, 9e6,
];

/// The counters `prefix_ITEM` of all signals.
fn by_signal(metrics: &Registry, prefix: &str, help: &str, labels: &[(&str, &str)]) -> BySignal {
    Signal::ALL
        .map(|signal| metrics.counter(&format!("{prefix}_{}", signal.items_name()), help, labels))
}

// === impl ReceiverCounts ===

impl ReceiverCounts {
    pub(super) fn new(context: &Context) -> Self {
        let counters = [Transport::Grpc, Transport::Http].map(|transport| {
            let labels = [("receiver", context.id.as_str()), ("transport", transport.name())];
            ["accepted", "refused", "failed"].map(|verdict| {
                let prefix = format!("otelcol_receiver_{verdict}");
                by_signal(&context.host.metrics, &prefix, "", &labels)
            })
        });
        let limited = [Transport::Grpc, Transport::Http].map(|transport| {
            Limit::ALL.map(|limit| {
                let labels = [
                    ("receiver", context.id.as_str()),
                    ("transport", transport.name()),
                    ("reason", limit.name()),
                ];
                let help = "Connections and requests that ran into a bound of the receiver";
                context.host.metrics.counter("tapio_receiver_limited", help, &labels)
            })
        });
        ReceiverCounts { metrics: Arc::clone(&context.host.metrics), counters, limited }
    }
}

impl tapio_receiver::Observer for ReceiverCounts {
    fn wants_items(&self) -> bool {
        self.metrics.is_read()
    }

    fn limited(&self, transport: Transport, limit: Limit) {
        let transport = match transport {
            Transport::Grpc => 0,
            Transport::Http => 1,
        };
        let at = Limit::ALL.iter().position(|known| *known == limit);
        if let Some(counter) = at.and_then(|at| self.limited[transport].get(at)) {
            counter.add(1);
        }
    }

    fn received(&self, signal: Signal, transport: Transport, verdict: Verdict, items: usize) {
        let transport = match transport {
            Transport::Grpc => 0,
            Transport::Http => 1,
        };
        let (verdict, items) = match verdict {
            Verdict::Accepted => (0, items),
            Verdict::Refused => (1, items),
            // What cannot be read cannot be counted, and must show all the same.
            Verdict::Malformed => (2, items.max(1)),
        };
        self.counters[transport][verdict][signal as usize].add(items as u64);
    }

    fn measures(&self) -> bool {
        self.metrics.is_detailed()
    }

    fn called(&self, signal: Signal, code: Code, took: Duration) {
        called(&self.metrics, "rpc.server.call.duration", (signal, code, took));
    }

    fn exchanged(&self, exchange: &Exchange<'_>) {
        let answer = ("http.server.response.body.size", exchange.response_bytes);
        exchanged(&self.metrics, "http.server.request", exchange, Some(answer));
    }
}

/// A gRPC call, by `otelgrpc`'s names.
fn called(metrics: &Registry, name: &str, (signal, code, took): (Signal, Code, Duration)) {
    let mut status = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !status.is_empty() {
            status.push('_');
        }
        status.push(letter.to_ascii_uppercase());
    }
    let labels = [
        ("rpc.method", signal.grpc_path().trim_start_matches('/')),
        ("rpc.response.status_code", status.as_str()),
        ("rpc.system.name", "grpc"),
    ];
    metrics.histogram(name, &labels, SECONDS).record_time(took);
}

/// An HTTP request, by `otelhttp`'s names.
fn exchanged(
    metrics: &Registry,
    prefix: &str,
    exchange: &Exchange<'_>,
    answer: Option<(&str, usize)>,
) {
    const METHODS: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    let method = METHODS.into_iter().find(|known| known.eq_ignore_ascii_case(exchange.method));
    // It is a peer's word: no name is longer.
    let host = &exchange.host[..exchange.host.floor_char_boundary(255)];
    // A port that goes without saying is not said.
    let port = exchange.port.filter(|port| *port != if exchange.https { 443 } else { 80 });
    let (port, status) = (port.map(|n| n.to_string()), exchange.status.map(|n| n.to_string()));
    let mut labels = vec![
        ("http.request.method", method.unwrap_or("_OTHER")),
        ("network.protocol.name", "http"),
        ("network.protocol.version", exchange.version),
        ("server.address", host),
        ("url.scheme", if exchange.https { "https" } else { "http" }),
    ];
    labels.extend(port.as_deref().map(|port| ("server.port", port)));
    labels.extend(status.as_deref().map(|status| ("http.response.status_code", status)));
    let name = format!("{prefix}.duration");
    metrics.histogram(&name, &labels, SECONDS).record_time(exchange.took);
    let size = |name: &str, bytes: usize| {
        metrics.histogram(name, &labels, ANYTHING).record(bytes as u64);
    };
    size(&format!("{prefix}.body.size"), exchange.request_bytes);
    if let Some((name, bytes)) = answer {
        size(name, bytes);
    }
}

// === impl ProcessorCounts ===

impl ProcessorCounts {
    pub(crate) fn new(kind: &str, context: &Context, signal: Signal) -> Self {
        // The batch processor has figures of its own, and a Collector knows no `tapio`.
        if matches!(kind, "batch" | "tapio") || signal == Signal::Profiles {
            return ProcessorCounts(None);
        }
        let (metrics, id) = (&context.host.metrics, context.id.as_str());
        let labels = [("otel_signal", signal.name()), ("processor", id)];
        let incoming = metrics.counter("otelcol_processor_incoming_items", "", &labels);
        let outgoing = metrics.counter("otelcol_processor_outgoing_items", "", &labels);
        if kind == "memory_limiter" {
            let item = signal.items_name();
            let read = |name: &str, read: Box<dyn Fn() -> f64 + Send + Sync>| {
                let name = format!("otelcol_processor_{name}_{item}");
                metrics.read(Kind::Counter, &name, "", &[("processor", id)], read);
            };
            let (came, went, passed) = (incoming.clone(), outgoing.clone(), outgoing.clone());
            read("accepted", Box::new(move || passed.get() as f64));
            // It refuses at once or passes on whole; what came and did not go on was refused.
            read("refused", Box::new(move || came.get().saturating_sub(went.get()) as f64));
        }
        let duration = metrics.histogram("otelcol_processor_internal_duration", &labels, ANYTHING);
        let metrics = Arc::clone(metrics);
        ProcessorCounts(Some(ProcessorCount { metrics, incoming, outgoing, duration }))
    }

    /// `next`, counting what comes to the processor.
    pub(crate) fn incoming(&self, next: Next) -> Next {
        match &self.0 {
            Some(ProcessorCount { metrics, incoming, duration, .. }) => Arc::new(Incoming {
                next,
                metrics: Arc::clone(metrics),
                count: incoming.clone(),
                duration: duration.clone(),
            }),
            None => next,
        }
    }

    /// `next`, counting what the processor passes on.
    pub(crate) fn outgoing(&self, next: Next) -> Next {
        match &self.0 {
            Some(ProcessorCount { outgoing, duration, .. }) => {
                Arc::new(Outgoing { next, count: outgoing.clone(), duration: duration.clone() })
            }
            None => next,
        }
    }
}

impl Consumer for Incoming {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        self.count.add(request.items as u64);
        if !self.metrics.is_detailed() {
            return self.next.consume(request);
        }
        WORKING.set(Some(Instant::now()));
        let pending = self.next.consume(request);
        // It passed nothing on.
        if let Some(since) = WORKING.take() {
            self.duration.record_time(since.elapsed());
        }
        pending
    }
}

impl Consumer for Outgoing {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        self.count.add(request.items as u64);
        if let Some(since) = WORKING.take() {
            self.duration.record_time(since.elapsed());
        }
        self.next.consume(request)
    }
}

// === impl BatchCounts ===

impl BatchCounts {
    pub(super) fn new(context: &Context) -> Self {
        let (metrics, labels) = (&context.host.metrics, [("processor", context.id.as_str())]);
        let name = |what: &str| format!("otelcol_processor_batch_{what}");
        // Without `metadata_keys` there is one combination: none.
        metrics.read(Kind::Gauge, &name("metadata_cardinality"), "", &labels, || 1.0);
        BatchCounts {
            size: metrics.histogram(&name("batch_send_size"), &labels, SIZES),
            bytes: metrics.histogram(&name("batch_send_size_bytes"), &labels, BYTES),
            full: metrics.counter(&name("batch_size_trigger_send"), "", &labels),
            timeout: metrics.counter(&name("timeout_trigger_send"), "", &labels),
        }
    }
}

impl BatchObserver for BatchCounts {
    fn left(&self, items: usize, bytes: usize, full: bool) {
        self.size.record(items as u64);
        self.bytes.record(bytes as u64);
        if full { &self.full } else { &self.timeout }.add(1);
    }
}

// === impl ExporterCounts ===

impl ExporterCounts {
    pub(super) fn new(context: &Context) -> Self {
        let (metrics, labels) = (&context.host.metrics, [("exporter", context.id.as_str())]);
        let count = |prefix: &str| by_signal(metrics, prefix, "", &labels);
        let requests = |name: &str, help| {
            Signal::ALL.map(|signal| {
                let labels = [("exporter", context.id.as_str()), ("data_type", signal.name())];
                metrics.counter(name, help, &labels)
            })
        };
        let counts = ExporterCounts {
            exporter: context.id.to_string(),
            metrics: Arc::clone(metrics),
            sent: count("otelcol_exporter_sent"),
            enqueue_failed: count("otelcol_exporter_enqueue_failed"),
            batch_size: metrics.histogram("otelcol_exporter_queue_batch_send_size", &labels, SIZES),
            batch_bytes: metrics.histogram(
                "otelcol_exporter_queue_batch_send_size_bytes",
                &labels,
                QUEUED,
            ),
            replayed: requests(
                "tapio_queue_replayed_requests",
                "Requests that were sent from disk after a start or a replay, perhaps for the second time",
            ),
            parked: requests(
                "tapio_queue_parked_requests",
                "Requests that were put among the dead letters",
            ),
            corrupt: requests(
                "tapio_queue_corrupt_records",
                "Records on disk that could not be read and were set aside",
            ),
        };
        if !metrics.is_detailed() {
            // There before the first failure, so that an alert has something to compare with.
            count("otelcol_exporter_send_failed");
        }
        counts
    }

    fn failed(&self, signal: Signal, items: usize, status: &Status) {
        let name = format!("otelcol_exporter_send_failed_{}", signal.items_name());
        let (error, exporter) = (format!("{:?}", status.code), self.exporter.as_str());
        let permanent = if status.is_retryable() { "false" } else { "true" };
        let detailed =
            [("error.permanent", permanent), ("error.type", &error), ("exporter", exporter)];
        let labels: &[_] =
            if self.metrics.is_detailed() { &detailed } else { &[("exporter", exporter)] };
        self.metrics.counter(&name, "", labels).add(items as u64);
    }
}

impl tapio_exporter::Observer for ExporterCounts {
    fn sent(&self, signal: Signal, items: usize) {
        self.sent[signal as usize].add(items as u64);
    }

    fn send_failed(&self, signal: Signal, items: usize, status: &Status) {
        self.failed(signal, items, status);
    }

    fn offered(&self, items: usize, bytes: usize) {
        if self.metrics.is_detailed() {
            self.batch_size.record(items as u64);
            self.batch_bytes.record(bytes as u64);
        }
    }

    fn measures(&self) -> bool {
        self.metrics.is_detailed()
    }

    fn called(&self, signal: Signal, code: Code, took: Duration) {
        called(&self.metrics, "rpc.client.call.duration", (signal, code, took));
    }

    fn exchanged(&self, exchange: &Exchange<'_>) {
        exchanged(&self.metrics, "http.client.request", exchange, None);
    }

    fn enqueue_failed(&self, signal: Signal, items: usize) {
        self.enqueue_failed[signal as usize].add(items as u64);
    }

    fn replayed(&self, signal: Signal, _: usize) {
        self.replayed[signal as usize].add(1);
    }

    fn parked(&self, signal: Signal, _: usize) {
        self.parked[signal as usize].add(1);
    }

    fn corrupt(&self, signal: Signal) {
        self.corrupt[signal as usize].add(1);
    }
}

// === impl Counted ===

impl Counted {
    pub(super) fn around(next: Next, context: &Context) -> Next {
        Arc::new(Counted { next, counts: ExporterCounts::new(context) })
    }
}

impl Consumer for Counted {
    fn can_batch(&self, _: Signal, _: &Batching) -> CanBatch {
        CanBatch::Indifferent
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        let (signal, items) = (request.signal, request.items as u64);
        Box::pin(async move {
            let outcome: Result<Accepted, Status> = self.next.consume(request).await;
            match &outcome {
                Ok(_) => self.counts.sent[signal as usize].add(items),
                Err(status) => self.counts.failed(signal, items as usize, status),
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread::sleep;

    use super::*;
    use crate::{
        components::Host,
        config::{ComponentId, telemetry::Level},
        telemetry::page_of,
    };

    /// Takes its time, then passes on or refuses.
    struct Slow(Option<Next>);

    impl Consumer for Slow {
        fn consume(&self, request: Request) -> Pending<'_> {
            sleep(Duration::from_millis(20));
            match &self.0 {
                Some(next) => next.consume(request),
                None => Box::pin(async { Err(Status::unavailable("no")) }),
            }
        }
    }

    fn counts(host: &Arc<Host>, id: &str) -> ProcessorCounts {
        let id = ComponentId::parse(id).unwrap();
        let context = Context { id, host: Arc::clone(host) };
        ProcessorCounts::new("attributes", &context, Signal::Logs)
    }

    #[tokio::test]
    async fn each_processor_is_timed_by_itself_and_only_at_level_detailed() {
        let host = Arc::new(Host::default());
        let last = counts(&host, "attributes/last").incoming(Arc::new(Slow(None)));
        let first = counts(&host, "attributes/first");
        let first = first.incoming(Arc::new(Slow(Some(first.outgoing(last)))));
        let mut took = Duration::ZERO;
        for detailed in [false, true, false] {
            host.metrics.set_detailed(detailed);
            let request = Request::new(Signal::Logs, bytes::Bytes::new(), 1);
            let started = Instant::now();
            first.consume(request).await.unwrap_err();
            if detailed {
                took = started.elapsed();
            }
        }
        let page = page_of(&host.metrics, Level::Detailed);
        let value = |what: &str, id: &str| -> f64 {
            let labels = format!("{{otel_signal=\"logs\",processor=\"attributes/{id}\"}} ");
            let line = format!("otelcol_processor_internal_duration_{what}{labels}");
            let line = page.lines().find_map(|one| one.strip_prefix(&line));
            line.unwrap_or_else(|| panic!("no {what} of {id} in {page}")).parse().unwrap()
        };
        assert_eq!((value("count", "first"), value("count", "last")), (1.0, 1.0));
        let (first, last) = (value("sum", "first"), value("sum", "last"));
        assert!(first >= 0.02 && last >= 0.02);
        assert!(first + last <= took.as_secs_f64(), "the first one's holds the last one's");
    }

    #[test]
    fn calls_and_requests_have_the_names_of_the_collectors_libraries() {
        let metrics = Registry::default();
        let took = Duration::from_millis(7);
        called(&metrics, "rpc.client.call.duration", (Signal::Logs, Code::ResourceExhausted, took));
        let exchange = Exchange {
            method: "put",
            host: &"h".repeat(300),
            port: Some(443),
            https: true,
            version: "2.0",
            status: None,
            request_bytes: 12,
            response_bytes: 0,
            took,
        };
        exchanged(&metrics, "http.client.request", &exchange, None);
        let page = page_of(&metrics, Level::Detailed);
        let host = "h".repeat(255);
        for line in [
            "rpc_client_call_duration_sum{rpc_method=\"opentelemetry.proto.collector.logs.v1.LogsService/Export\",rpc_response_status_code=\"RESOURCE_EXHAUSTED\",rpc_system_name=\"grpc\"} 0.007",
            &format!(
                "http_client_request_body_size_sum{{http_request_method=\"PUT\",network_protocol_name=\"http\",network_protocol_version=\"2.0\",server_address=\"{host}\",url_scheme=\"https\"}} 12"
            ),
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in:\n{page}");
        }
        assert_eq!(page_of(&metrics, Level::Normal), "");
    }
}
