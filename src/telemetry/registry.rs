//! Counters and gauges, and the Prometheus text that shows them.
//!
//! Written by hand because the Collector's names carry no `_total`, which client libraries append.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// All metrics of one running Tapio.
#[derive(Default)]
pub(crate) struct Registry(Mutex<BTreeMap<String, Family>>);

/// What a metric means to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// A number that only grows; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

struct Family {
    kind: Kind,
    help: &'static str,
    /// Rendered labels and what reads the value, called at each look at the page.
    series: BTreeMap<String, Read>,
}

type Read = Box<dyn Fn() -> f64 + Send + Sync>;

// === impl Counter ===

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Registry ===

impl Registry {
    /// A new counter. A series that is there already (same name and labels) is replaced.
    pub(crate) fn counter(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Counter {
        let counter = Counter::default();
        let read = counter.clone();
        self.read(Kind::Counter, name, help, labels, move || read.get() as f64);
        counter
    }

    /// A metric whose value somebody else keeps; `read` must be quick.
    pub(crate) fn read(
        &self,
        kind: Kind,
        name: &str,
        help: &'static str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            kind,
            help,
            series: BTreeMap::new(),
        });
        family.series.insert(render(labels), Box::new(read));
    }

    /// The sum over all series of a metric; `None` when there is none of that name.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.get(name).map(|family| family.series.values().map(|read| read()).sum())
    }

    /// The Prometheus text exposition format, version 0.0.4, sorted by name and labels.
    pub(crate) fn exposition(&self) -> String {
        let mut out = String::new();
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in families.iter() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (labels, read) in &family.series {
                let _ = writeln!(out, "{name}{labels} {}", read());
            }
        }
        out
    }
}

/// `{a="x",b="y"}`, sorted; nothing when there are no labels.
fn render(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    let escape =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> =
        sorted.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_prometheus_text() {
        let registry = Registry::default();
        let spans = registry.counter(
            "b_spans",
            "Spans.",
            &[("transport", "grpc"), ("receiver", "otlp/\"x\"")],
        );
        registry.read(Kind::Gauge, "a_level", "Level.", &[], || 1.5);
        spans.add(3);
        spans.clone().add(4);
        assert_eq!(
            registry.exposition(),
            "# HELP a_level Level.\n# TYPE a_level gauge\na_level 1.5\n\
             # HELP b_spans Spans.\n# TYPE b_spans counter\nb_spans{receiver=\"otlp/\\\"x\\\"\",transport=\"grpc\"} 7\n"
        );
        assert_eq!(registry.value("b_spans"), Some(7.0));
        assert_eq!(registry.value("c"), None);
    }
}
