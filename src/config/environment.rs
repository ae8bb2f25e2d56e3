//! The standard `OTEL_EXPORTER_OTLP_*` variables, laid over the embedded default.
//!
//! Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter". A signal whose endpoint is
//! not named stays here. One step aside: without a `_PROTOCOL`, port 4317 means gRPC, because that is
//! what listens there; every other port means `http/protobuf`, the specification's default.

use std::fmt::Write;

use tapio_proto::Signal;

use super::{
    expand::{Lookup, Warnings},
    node::Node,
    problem::Problem,
    yaml,
};

const SOURCE: &str = "OTEL_EXPORTER_OTLP_*";

/// The exporters that the environment asks for and the pipelines that use them; an empty map when it asks for none.
pub(crate) fn exporters(lookup: Lookup<'_>, warnings: &mut Warnings) -> Result<Node, Problem> {
    let mut exporters: Vec<(String, String)> = Vec::new();
    let mut pipelines = String::new();
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        let Some((kind, body)) = exporter(signal, lookup, warnings)? else { continue };
        // Signals that leave in the same way share one exporter, so one connection and one queue.
        let id = match exporters.iter().find(|(id, same)| id.starts_with(kind) && *same == body) {
            Some((id, _)) => id.clone(),
            None => {
                let id = if exporters.is_empty() {
                    kind.to_owned()
                } else {
                    format!("{kind}/{}", signal.name())
                };
                exporters.push((id.clone(), body));
                id
            }
        };
        let _ = write!(pipelines, "{}: {{exporters: [{id}]}}, ", signal.name());
    }
    if exporters.is_empty() {
        return Ok(Node::empty(SOURCE));
    }
    let bodies = exporters
        .iter()
        .map(|(id, body)| format!("{id}: {{{body}}}"))
        .collect::<Vec<_>>()
        .join(", ");
    yaml::parse(
        SOURCE,
        &format!("{{exporters: {{{bodies}}}, service: {{pipelines: {{{pipelines}}}}}}}"),
    )
}

/// Type and body (flow YAML) of the exporter of one signal; `None` when no endpoint is named for it.
fn exporter(
    signal: Signal,
    lookup: Lookup<'_>,
    warnings: &mut Warnings,
) -> Result<Option<(&'static str, String)>, Problem> {
    let set = |name: &str| {
        lookup(name).filter(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned())
    };
    let own = format!("OTEL_EXPORTER_OTLP_{}", signal.name().to_uppercase());
    let option = |name: &str| {
        set(&format!("{own}_{name}")).or_else(|| set(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let (endpoint, verbatim) =
        match (set(&format!("{own}_ENDPOINT")), set("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            (Some(own), _) => (own, true),
            (None, Some(base)) => (base, false),
            (None, None) => return Ok(None),
        };
    let authority = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
    let port = authority.split('/').next().unwrap_or(authority).rsplit(':').next();
    let grpc = match option("PROTOCOL").as_deref() {
        Some("grpc") => true,
        Some("http/protobuf" | "http/json") => false,
        Some(other) => {
            let text = format!(
                "{own}_PROTOCOL: unknown protocol {other:?}; use grpc, http/protobuf or http/json"
            );
            return Err(Problem { place: None, text });
        }
        None => port == Some("4317"),
    };
    let mut body = match (grpc, verbatim) {
        (true, _) => format!("endpoint: {}", quoted(&endpoint)),
        (false, true) => format!("{}_endpoint: {}", signal.name(), quoted(&endpoint)),
        (false, false) => format!("endpoint: {}", quoted(endpoint.trim_end_matches('/'))),
    };
    if !grpc && option("PROTOCOL").as_deref() == Some("http/json") {
        body += ", encoding: json";
    }
    if let Some(headers) = option("HEADERS") {
        let headers = headers_of(&headers, warnings)
            .into_iter()
            .map(|(name, value)| format!("{}: {}", quoted(&name), quoted(&value)));
        let _ = write!(body, ", headers: {{{}}}", headers.collect::<Vec<_>>().join(", "));
    }
    if let Some(timeout) = option("TIMEOUT") {
        // Milliseconds, says the specification.
        let text = format!("OTEL_EXPORTER_OTLP_TIMEOUT: expected milliseconds, found {timeout:?}");
        let millis: u64 = timeout.parse().map_err(|_| Problem { place: None, text })?;
        let _ = write!(body, ", timeout: {millis}ms");
    }
    // The specification's default is no compression, the Collector's is gzip.
    let _ = write!(
        body,
        ", compression: {}",
        quoted(&option("COMPRESSION").unwrap_or_else(|| "none".into()))
    );
    body += &tls(&endpoint, &option);
    // Nobody has asked for a queue that takes a risk: the sender hears what the backend says.
    body += ", sending_queue: {enabled: false}, retry_on_failure: {enabled: false}";
    Ok(Some((if grpc { "otlp_grpc" } else { "otlp_http" }, body)))
}

fn tls(endpoint: &str, option: &dyn Fn(&str) -> Option<String>) -> String {
    let mut keys = Vec::new();
    let insecure = option("INSECURE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if endpoint.starts_with("http://") || (insecure && !endpoint.starts_with("https://")) {
        keys.push("insecure: true".to_owned());
    }
    for (variable, key) in [
        ("CERTIFICATE", "ca_file"),
        ("CLIENT_CERTIFICATE", "cert_file"),
        ("CLIENT_KEY", "key_file"),
    ] {
        if let Some(path) = option(variable) {
            keys.push(format!("{key}: {}", quoted(&path)));
        }
    }
    if keys.is_empty() { String::new() } else { format!(", tls: {{{}}}", keys.join(", ")) }
}

/// `key=value,key=value`, values percent-encoded as in W3C Baggage.
fn headers_of(text: &str, warnings: &mut Warnings) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (i, pair) in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).enumerate() {
        match pair.split_once('=') {
            Some((name, value)) => {
                headers.push((name.trim().to_owned(), percent_decoded(value.trim())))
            }
            // The text may be a secret: tell its place only.
            None => warnings.push(format!(
                "OTEL_EXPORTER_OTLP_HEADERS: entry {} has no \"=\" and is left out",
                i + 1
            )),
        }
    }
    headers
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let hex = (*first == b'%').then(|| rest.get(..2)).flatten();
        let decoded =
            hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(decoded.unwrap_or(*first));
        bytes = if decoded.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// A YAML scalar in double quotes whose dollars stay dollars.
fn quoted(text: &str) -> String {
    format!("{:?}", text.replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::node::Value;

    /// The overlay for an environment, as `path: text` lines.
    fn overlay(variables: &[(&str, &str)]) -> Vec<String> {
        let lookup =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let mut lines = Vec::new();
        flatten(&exporters(&lookup, &mut Vec::new()).unwrap(), "", &mut lines);
        lines
    }

    fn flatten(node: &Node, path: &str, lines: &mut Vec<String>) {
        match &node.value {
            Value::Map(entries) => entries
                .iter()
                .for_each(|(key, node)| flatten(node, &format!("{path}/{}", key.text), lines)),
            Value::List(nodes) => nodes.iter().for_each(|node| flatten(node, path, lines)),
            Value::Scalar { text, .. } => lines.push(format!("{path}: {text}")),
            Value::Null => lines.push(format!("{path}: null")),
        }
    }

    #[test]
    fn nothing_set_changes_nothing() {
        assert_eq!(overlay(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Vec::<String>::new());
    }

    #[test]
    fn one_endpoint_takes_all_signals_over_one_exporter() {
        assert_eq!(
            overlay(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4317"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20$b")
            ]),
            [
                "/exporters/otlp_grpc/endpoint: http://tempo:4317",
                "/exporters/otlp_grpc/headers/x-key: a $$b",
                "/exporters/otlp_grpc/compression: none",
                "/exporters/otlp_grpc/tls/insecure: true",
                "/exporters/otlp_grpc/sending_queue/enabled: false",
                "/exporters/otlp_grpc/retry_on_failure/enabled: false",
                "/service/pipelines/traces/exporters: otlp_grpc",
                "/service/pipelines/metrics/exporters: otlp_grpc",
                "/service/pipelines/logs/exporters: otlp_grpc",
            ]
        );
    }

    #[test]
    fn a_signal_may_have_its_own_ways() {
        assert_eq!(
            overlay(&[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x"),
                ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "l:4317"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ]),
            [
                "/exporters/otlp_http/traces_endpoint: https://t/x",
                "/exporters/otlp_http/timeout: 1500ms",
                "/exporters/otlp_http/compression: gzip",
                "/exporters/otlp_http/sending_queue/enabled: false",
                "/exporters/otlp_http/retry_on_failure/enabled: false",
                "/exporters/otlp_grpc/logs/endpoint: l:4317",
                "/exporters/otlp_grpc/logs/timeout: 1500ms",
                "/exporters/otlp_grpc/logs/compression: gzip",
                "/exporters/otlp_grpc/logs/tls/insecure: true",
                "/exporters/otlp_grpc/logs/sending_queue/enabled: false",
                "/exporters/otlp_grpc/logs/retry_on_failure/enabled: false",
                "/service/pipelines/traces/exporters: otlp_http",
                "/service/pipelines/logs/exporters: otlp_grpc/logs",
            ]
        );
    }
}
