//! What receivers and exporters tell about their work, as the Collector's own metrics.

use std::sync::Arc;

use tapio_proto::{Accepted, Consumer, Next, Pending, Request, Signal, Status};
use tapio_receiver::{Limit, Transport, Verdict};

use super::Context;
use crate::telemetry::{Counter, Registry};

/// One counter for each signal.
type BySignal = [Counter; Signal::ALL.len()];

/// Counts for a receiver: `otelcol_receiver_{accepted,refused,failed}_ITEM{receiver,transport}`.
pub(super) struct ReceiverCounts {
    /// By transport, then by verdict.
    counters: [[BySignal; 3]; 2],
    /// By transport: `tapio_receiver_limited{receiver,transport,reason}`.
    limited: [[Counter; Limit::ALL.len()]; 2],
}

/// Counts for an exporter: `otelcol_exporter_{sent,send_failed,enqueue_failed}_ITEM{exporter}`.
pub(super) struct ExporterCounts {
    sent: BySignal,
    send_failed: BySignal,
    enqueue_failed: BySignal,
}

/// Counts what an exporter without a queue of its own takes and refuses.
pub(super) struct Counted {
    next: Next,
    counts: ExporterCounts,
}

/// The counters `prefix_ITEM` of all signals.
fn by_signal(
    metrics: &Registry,
    prefix: &str,
    help: &'static str,
    labels: &[(&str, &str)],
) -> BySignal {
    Signal::ALL
        .map(|signal| metrics.counter(&format!("{prefix}_{}", signal.items_name()), help, labels))
}

// === impl ReceiverCounts ===

impl ReceiverCounts {
    pub(super) fn new(context: &Context) -> Self {
        let counters = [Transport::Grpc, Transport::Http].map(|transport| {
            let labels = [("receiver", context.id.as_str()), ("transport", transport.name())];
            let verdict = |prefix: &str, help| by_signal(&context.host.metrics, prefix, help, &labels);
            [
                verdict("otelcol_receiver_accepted", "Items pushed into the pipeline and acknowledged"),
                verdict("otelcol_receiver_refused", "Items that the pipeline refused"),
                verdict("otelcol_receiver_failed", "Items, or requests whose items could not be counted, that never reached the pipeline"),
            ]
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
        ReceiverCounts { counters, limited }
    }
}

impl tapio_receiver::Observer for ReceiverCounts {
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

// === impl ExporterCounts ===

impl ExporterCounts {
    pub(super) fn new(context: &Context) -> Self {
        let labels = [("exporter", context.id.as_str())];
        let count = |prefix: &str, help| by_signal(&context.host.metrics, prefix, help, &labels);
        ExporterCounts {
            sent: count("otelcol_exporter_sent", "Items that the destination took"),
            send_failed: count(
                "otelcol_exporter_send_failed",
                "Items that the destination did not take",
            ),
            enqueue_failed: count(
                "otelcol_exporter_enqueue_failed",
                "Items for which the sending queue had no room",
            ),
        }
    }
}

impl tapio_exporter::Observer for ExporterCounts {
    fn sent(&self, signal: Signal, items: usize) {
        self.sent[signal as usize].add(items as u64);
    }

    fn send_failed(&self, signal: Signal, items: usize, _: &Status) {
        self.send_failed[signal as usize].add(items as u64);
    }

    fn enqueue_failed(&self, signal: Signal, items: usize) {
        self.enqueue_failed[signal as usize].add(items as u64);
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
            let counter =
                if outcome.is_ok() { &self.counts.sent } else { &self.counts.send_failed };
            counter[signal as usize].add(items);
            outcome
        })
    }
}
