//! What receivers and exporters tell about their work, as the Collector's own metrics.

use std::sync::Arc;

use tapio_proto::{Accepted, Consumer, Next, Pending, Request, Signal, Status};
use tapio_receiver::{Limit, Transport, Verdict};

use super::Context;
use crate::telemetry::{Counter, Histogram, Kind, Registry};

/// One counter for each signal.
type BySignal = [Counter; Signal::ALL.len()];

/// Counts for a receiver: `otelcol_receiver_{accepted,refused,failed}_ITEM{receiver,transport}`.
pub(super) struct ReceiverCounts {
    /// By transport, then by verdict.
    counters: [[BySignal; 3]; 2],
    /// By transport: `tapio_receiver_limited{receiver,transport,reason}`.
    limited: [[Counter; Limit::ALL.len()]; 2],
    metrics: Arc<Registry>,
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
}

/// Counts for a processor, as the Collector counts for most of its own:
/// `otelcol_processor_{incoming,outgoing}_items{otel_signal,processor}`, and for `memory_limiter`
/// `otelcol_processor_{accepted,refused}_ITEM{processor}`.
pub(crate) struct ProcessorCounts(Option<(Counter, Counter)>);

/// Counts for the batch processor: `otelcol_processor_batch_*{processor}`.
pub(super) struct BatchCounts {
    size: Histogram,
    bytes: Histogram,
    full: Counter,
    timeout: Counter,
}

/// Counts what passes.
struct Passing {
    next: Next,
    count: Counter,
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

/// The same for bytes.
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
        ReceiverCounts { counters, limited, metrics: Arc::clone(&context.host.metrics) }
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
        ProcessorCounts(Some((incoming, outgoing)))
    }

    /// `next`, counting what comes to the processor.
    pub(crate) fn incoming(&self, next: Next) -> Next {
        match &self.0 {
            Some((count, _)) => Arc::new(Passing { next, count: count.clone() }),
            None => next,
        }
    }

    /// `next`, counting what the processor passes on.
    pub(crate) fn outgoing(&self, next: Next) -> Next {
        match &self.0 {
            Some((_, count)) => Arc::new(Passing { next, count: count.clone() }),
            None => next,
        }
    }
}

impl Consumer for Passing {
    fn consume(&self, request: Request) -> Pending<'_> {
        self.count.add(request.items as u64);
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

impl tapio_processor::batch::Observer for BatchCounts {
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
        self.batch_size.record(items as u64);
    }

    fn send_failed(&self, signal: Signal, items: usize, status: &Status) {
        self.failed(signal, items, status);
        self.batch_size.record(items as u64);
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
