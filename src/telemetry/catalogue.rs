//! What the Collector says about each of its metrics: unit, help, scope, and from which level on.
//!
//! Source: what a Collector 0.149 shows on its page; `tests/hop.rs` compares the two.

use crate::config::telemetry::Level;

/// What is told of a metric beside its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// In UCUM, as OpenTelemetry writes units.
    pub(crate) unit: &'static str,
    pub(crate) help: String,
    pub(crate) scope: &'static str,
    pub(crate) level: Level,
}

const RECEIVER: &str = "go.opentelemetry.io/collector/receiver/receiverhelper";
const PROCESSOR: &str = "go.opentelemetry.io/collector/processor/processorhelper";
const BATCH: &str = "go.opentelemetry.io/collector/processor/batchprocessor";
const EXPORTER: &str = "go.opentelemetry.io/collector/exporter/exporterhelper";
const SERVICE: &str = "go.opentelemetry.io/collector/service";
const RPC: &str = "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc";
const HTTP: &str = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp";
/// Of what no Collector has.
pub(super) const OWN: &str = "tapio";

/// What is known of a metric by its name; `help` is for those that are not the Collector's.
pub(crate) fn about(name: &str, help: &str) -> About {
    let about = |unit, help: &str, scope, level| About { unit, help: help.into(), scope, level };
    let (basic, normal, detailed) = (Level::Basic, Level::Normal, Level::Detailed);
    if let Some((work, item)) = items(name) {
        let (unit, items) = match item {
            "spans" => ("{spans}", "spans"),
            "metric_points" => ("{datapoints}", "metric points"),
            "log_records" => ("{records}", "log records"),
            _ => ("{samples}", "profile samples"),
        };
        // One of the Collector's own texts lacks a letter.
        let sent = if item == "log_records" { "log record" } else { items };
        let (help, scope) = match work {
            "receiver_accepted" => (
                format!("Number of {items} successfully pushed into the pipeline. [Alpha]"),
                RECEIVER,
            ),
            "receiver_refused" => (
                format!("Number of {items} that could not be pushed into the pipeline. [Alpha]"),
                RECEIVER,
            ),
            "receiver_failed" => (
                format!(
                    "The number of {items} that failed to be processed by the receiver due to internal errors. [Alpha]"
                ),
                RECEIVER,
            ),
            "exporter_sent" => {
                (format!("Number of {sent} successfully sent to destination. [Alpha]"), EXPORTER)
            }
            "exporter_send_failed" => (
                format!(
                    "Number of {items} in failed attempts to send to destination. At detailed telemetry level, includes attributes: error.type (semantic convention), error.permanent. [Alpha]"
                ),
                EXPORTER,
            ),
            "exporter_enqueue_failed" => (
                format!("Number of {items} failed to be added to the sending queue. [Alpha]"),
                EXPORTER,
            ),
            "processor_accepted" => (
                format!(
                    "Number of {items} successfully pushed into the next component in the pipeline. [Deprecated]"
                ),
                PROCESSOR,
            ),
            _ => (
                format!(
                    "Number of {items} that were rejected by the next component in the pipeline. [Deprecated]"
                ),
                PROCESSOR,
            ),
        };
        return About { unit, help, scope, level: basic };
    }
    match name {
        "otelcol_process_uptime" => about("s", "Uptime of the process [Alpha]", SERVICE, basic),
        "otelcol_process_cpu_seconds" => {
            about("s", "Total CPU user and system time in seconds [Alpha]", SERVICE, basic)
        }
        "otelcol_process_memory_rss" => {
            about("By", "Total physical memory (resident set size) [Alpha]", SERVICE, basic)
        }
        "otelcol_exporter_queue_size" => about(
            "{batches}",
            "Current size of the retry queue (in batches). [Alpha]",
            EXPORTER,
            basic,
        ),
        "otelcol_exporter_queue_capacity" => about(
            "{batches}",
            "Fixed capacity of the retry queue (in batches). [Alpha]",
            EXPORTER,
            basic,
        ),
        "otelcol_exporter_queue_batch_send_size" => {
            about("{units}", "Number of units in the batch [Development]", EXPORTER, detailed)
        }
        "otelcol_exporter_queue_batch_send_size_bytes" => about(
            "By",
            "Number of bytes in batch that was sent. Only available on detailed level. [Development]",
            EXPORTER,
            detailed,
        ),
        "otelcol_processor_internal_duration" => about(
            "s",
            "Duration of time taken to process a batch of telemetry data through the processor. [Alpha]",
            PROCESSOR,
            detailed,
        ),
        "rpc.server.call.duration" => about(
            "s",
            "Measures the duration of an incoming Remote Procedure Call (RPC).",
            RPC,
            detailed,
        ),
        "rpc.client.call.duration" => about(
            "s",
            "Measures the duration of an outgoing Remote Procedure Call (RPC).",
            RPC,
            detailed,
        ),
        "http.server.request.duration" => {
            about("s", "Duration of HTTP server requests.", HTTP, detailed)
        }
        "http.server.request.body.size" => {
            about("By", "Size of HTTP server request bodies.", HTTP, detailed)
        }
        "http.server.response.body.size" => {
            about("By", "Size of HTTP server response bodies.", HTTP, detailed)
        }
        "http.client.request.duration" => {
            about("s", "Duration of HTTP client requests.", HTTP, detailed)
        }
        "http.client.request.body.size" => {
            about("By", "Size of HTTP client request bodies.", HTTP, detailed)
        }
        "otelcol_processor_incoming_items" => {
            about("{items}", "Number of items passed to the processor. [Alpha]", PROCESSOR, basic)
        }
        "otelcol_processor_outgoing_items" => about(
            "{items}",
            "Number of items emitted from the processor. [Alpha]",
            PROCESSOR,
            basic,
        ),
        "otelcol_processor_batch_batch_send_size" => {
            about("{units}", "Number of units in the batch [Development]", BATCH, normal)
        }
        "otelcol_processor_batch_batch_send_size_bytes" => about(
            "By",
            "Number of bytes in batch that was sent. Only available on detailed level. [Development]",
            BATCH,
            detailed,
        ),
        "otelcol_processor_batch_batch_size_trigger_send" => about(
            "{times}",
            "Number of times the batch was sent due to a size trigger [Development]",
            BATCH,
            normal,
        ),
        "otelcol_processor_batch_timeout_trigger_send" => about(
            "{times}",
            "Number of times the batch was sent due to a timeout trigger [Development]",
            BATCH,
            normal,
        ),
        "otelcol_processor_batch_metadata_cardinality" => about(
            "{combinations}",
            "Number of distinct metadata value combinations being processed [Development]",
            BATCH,
            normal,
        ),
        _ => About { unit: "", help: help.into(), scope: OWN, level: basic },
    }
}

/// `receiver_accepted`, `spans` of `otelcol_receiver_accepted_spans`.
fn items(name: &str) -> Option<(&str, &str)> {
    const WORKS: [&str; 8] = [
        "receiver_accepted",
        "receiver_refused",
        "receiver_failed",
        "exporter_sent",
        "exporter_send_failed",
        "exporter_enqueue_failed",
        "processor_accepted",
        "processor_refused",
    ];
    let name = name.strip_prefix("otelcol_")?;
    let work = WORKS
        .into_iter()
        .find(|work| name.strip_prefix(work).is_some_and(|rest| rest.starts_with('_')))?;
    let item = &name[work.len() + 1..];
    matches!(item, "spans" | "metric_points" | "log_records" | "profile_samples" | "profiles")
        .then_some((work, item))
}
