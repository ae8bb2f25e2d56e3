//! The Prometheus text exposition format, version 0.0.4.
//!
//! Written by hand because the Collector's names carry no `_total` unless asked for, which client
//! libraries append.

use std::fmt::Write;

use super::registry::{Kind, Labels, Point, Registry, Snapshot};
use crate::config::telemetry::{Level, Prometheus};

/// How a page shows the metrics.
pub(crate) struct View {
    pub(crate) level: Level,
    pub(crate) style: Prometheus,
    /// Labels of every series.
    pub(crate) constant: Vec<(String, String)>,
}

impl View {
    /// The page, sorted by name and labels.
    pub(crate) fn page(&self, registry: &Registry) -> String {
        let mut out = String::new();
        for family in registry.snapshot() {
            if family.about.level <= self.level && !family.points.is_empty() {
                self.family(&mut out, &family);
            }
        }
        out
    }

    fn family(&self, out: &mut String, family: &Snapshot) {
        let name = self.name(family);
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.about.help);
        for (labels, point) in &family.points {
            let mut labels = labels.clone();
            if !is_plain(&family.name) {
                labels.extend(self.constant.iter().cloned());
                if !self.style.without_scope_info {
                    labels.push(("otel_scope_name".into(), family.about.scope.into()));
                    labels.push(("otel_scope_schema_url".into(), String::new()));
                    labels.push(("otel_scope_version".into(), String::new()));
                }
            }
            match point {
                Point::Whole(value) => {
                    let _ = writeln!(out, "{name}{} {value}", render(&labels, None));
                }
                Point::Number(value) => {
                    let _ = writeln!(out, "{name}{} {value}", render(&labels, None));
                }
                Point::Histogram { bounds, counts, sum } => {
                    let mut below = 0;
                    for (i, count) in counts.iter().enumerate() {
                        below += count;
                        let bound = bounds.get(i).map_or("+Inf".to_owned(), |bound| go(*bound));
                        let labels = render(&labels, Some(&bound));
                        let _ = writeln!(out, "{name}_bucket{labels} {below}");
                    }
                    let labels = render(&labels, None);
                    let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {below}");
                }
            }
        }
    }

    /// With unit and type at its end if the reader wants them, each once.
    fn name(&self, family: &Snapshot) -> String {
        let mut name = family.name.replace('.', "_");
        if is_plain(&name) {
            return name;
        }
        if !self.style.without_units {
            let unit = match family.about.unit {
                "s" => "_seconds",
                "By" => "_bytes",
                _ => "",
            };
            if !name.ends_with(unit) {
                name += unit;
            }
        }
        if !self.style.without_type_suffix && family.kind == Kind::Counter {
            name += "_total";
        }
        name
    }
}

/// A bound as Go writes it, for it is a label: from a million on with an exponent.
fn go(bound: f64) -> String {
    if bound < 1e6 {
        return bound.to_string();
    }
    let text = format!("{bound:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}e+{exponent:0>2}")
}

/// Names that are Prometheus' own, whatever the reader's style.
fn is_plain(name: &str) -> bool {
    matches!(name, "target_info" | "promhttp_metric_handler_errors_total")
}

/// `{a="x",b="y"}`, sorted; nothing when there are no labels.
fn render(labels: &Labels, bound: Option<&str>) -> String {
    let escape =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{}=\"{}\"", name.replace('.', "_"), escape(value)))
        .collect();
    pairs.sort_unstable();
    // The last one, as the Collector's library writes it.
    pairs.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let registry = Registry::default();
        let labels = [("transport", "grpc"), ("receiver", "otlp/\"x\"")];
        registry.counter("otelcol_receiver_accepted_spans", "", &labels).add(7);
        registry.read(Kind::Counter, "otelcol_process_uptime", "", &[], || 1.5);
        registry.histogram("otelcol_processor_batch_batch_send_size", &[], &[10.0]).record(11);
        registry
    }

    fn page(level: Level, without: bool) -> String {
        let style = Prometheus {
            without_scope_info: without,
            without_type_suffix: without,
            without_units: without,
            ..Prometheus::default()
        };
        View { level, style, constant: Vec::new() }.page(&registry())
    }

    #[test]
    fn the_page_is_prometheus_text_in_the_collectors_words() {
        assert_eq!(
            page(Level::Normal, true),
            "# HELP otelcol_process_uptime Uptime of the process [Alpha]\n# TYPE otelcol_process_uptime counter\notelcol_process_uptime 1.5\n\
             # HELP otelcol_processor_batch_batch_send_size Number of units in the batch [Development]\n# TYPE otelcol_processor_batch_batch_send_size histogram\n\
             otelcol_processor_batch_batch_send_size_bucket{le=\"10\"} 0\notelcol_processor_batch_batch_send_size_bucket{le=\"+Inf\"} 1\n\
             otelcol_processor_batch_batch_send_size_sum 11\notelcol_processor_batch_batch_send_size_count 1\n\
             # HELP otelcol_receiver_accepted_spans Number of spans successfully pushed into the pipeline. [Alpha]\n# TYPE otelcol_receiver_accepted_spans counter\n\
             otelcol_receiver_accepted_spans{receiver=\"otlp/\\\"x\\\"\",transport=\"grpc\"} 7\n"
        );
    }

    #[test]
    fn bounds_are_written_as_go_does() {
        let all = [0.005, 0.0, 2.5, 100_000.0, 1e6, 1.5e6, 9e6];
        assert_eq!(all.map(go), ["0.005", "0", "2.5", "100000", "1e+06", "1.5e+06", "9e+06"]);
    }

    #[test]
    fn suffixes_and_scopes_are_shown_to_who_asks_for_them() {
        let page = page(Level::Normal, false);
        for line in [
            "otelcol_process_uptime_seconds_total{otel_scope_name=\"go.opentelemetry.io/collector/service\",otel_scope_schema_url=\"\",otel_scope_version=\"\"} 1.5",
            "# TYPE otelcol_receiver_accepted_spans_total counter",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }

    #[test]
    fn a_level_leaves_out_what_is_above_it() {
        assert!(!page(Level::Basic, true).contains("batch_send_size"));
    }
}
