//! Counters, gauges and histograms, for those who count and those who show.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::catalogue::{About, about};

/// All metrics of one running Tapio.
#[derive(Default)]
pub(crate) struct Registry {
    families: Mutex<BTreeMap<String, Family>>,
    detailed: AtomicBool,
    /// Whether nobody reads them.
    unread: AtomicBool,
}

/// What a metric means to its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A number that only grows; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

/// How often values fell between bounds; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what is above all.
    counts: Vec<AtomicU64>,
    /// In nanoseconds where seconds are told.
    sum: AtomicU64,
    seconds: bool,
}

/// Series of one histogram. Labels may come from peers: beyond these all others are one.
const MAX_HISTOGRAMS: usize = 500;
/// As the OpenTelemetry SDKs call it.
const OVERFLOW: [(&str, &str); 1] = [("otel.metric.overflow", "true")];
/// Nanoseconds in a second.
const NANOS: f64 = 1e9;

struct Family {
    kind: Kind,
    about: About,
    series: BTreeMap<Labels, Value>,
}

/// Sorted by name.
pub(super) type Labels = Vec<(String, String)>;

enum Value {
    Counter(Counter),
    /// Called at each look.
    Read(Box<dyn Fn() -> f64 + Send + Sync>),
    Histogram(Histogram),
}

/// What a metric is at one moment.
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) about: About,
    pub(super) points: Vec<(Labels, Point)>,
}

/// One value.
pub(super) enum Point {
    Whole(u64),
    Number(f64),
    Histogram { bounds: &'static [f64], counts: Vec<u64>, sum: f64 },
}

// === impl Counter ===

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Histogram ===

impl Histogram {
    fn new(bounds: &'static [f64], seconds: bool) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0), seconds }))
    }

    pub(crate) fn record(&self, value: u64) {
        self.add(value as f64, value);
    }

    /// Of a histogram of seconds.
    pub(crate) fn record_time(&self, took: Duration) {
        self.add(took.as_secs_f64(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn add(&self, value: f64, whole: u64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum.fetch_add(whole, Relaxed);
    }
}

// === impl Registry ===

impl Registry {
    /// A counter; the one that is there already if name and labels are the same, so that a component
    /// that a reload made anew goes on counting.
    pub(crate) fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let mut families = self.lock();
        let family = family(&mut families, Kind::Counter, name, help);
        let value = family
            .series
            .entry(sorted(labels))
            .or_insert_with(|| Value::Counter(Counter::default()));
        match value {
            Value::Counter(counter) => counter.clone(),
            other => {
                let counter = Counter::default();
                *other = Value::Counter(counter.clone());
                counter
            }
        }
    }

    /// A histogram; the one that is there already if name and labels are the same.
    pub(crate) fn histogram(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        let mut families = self.lock();
        let family = family(&mut families, Kind::Histogram, name, "");
        let seconds = family.about.unit == "s";
        let mut labels = sorted(labels);
        if family.series.len() >= MAX_HISTOGRAMS && !family.series.contains_key(&labels) {
            labels = sorted(&OVERFLOW);
        }
        let value = family
            .series
            .entry(labels)
            .or_insert_with(|| Value::Histogram(Histogram::new(bounds, seconds)));
        match value {
            Value::Histogram(histogram) => histogram.clone(),
            other => {
                let histogram = Histogram::new(bounds, seconds);
                *other = Value::Histogram(histogram.clone());
                histogram
            }
        }
    }

    /// A metric whose value somebody else keeps; `read` must be quick. Takes the place of one with the
    /// same name and labels.
    pub(crate) fn read(
        &self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let mut families = self.lock();
        let family = family(&mut families, kind, name, help);
        family.series.insert(sorted(labels), Value::Read(Box::new(read)));
    }

    /// Whether the level is `detailed`, at which some series carry more labels.
    pub(crate) fn is_detailed(&self) -> bool {
        self.detailed.load(Relaxed)
    }

    pub(crate) fn set_detailed(&self, detailed: bool) {
        self.detailed.store(detailed, Relaxed);
    }

    /// Whether somebody reads them: not at the level `none`.
    pub(crate) fn is_read(&self) -> bool {
        !self.unread.load(Relaxed)
    }

    pub(crate) fn set_read(&self, read: bool) {
        self.unread.store(!read, Relaxed);
    }

    /// Forgets the series for whose label (name, value) `gone` holds.
    pub(crate) fn forget(&self, gone: impl Fn(&str, &str) -> bool) {
        for family in self.lock().values_mut() {
            family.series.retain(|labels, _| !labels.iter().any(|(name, value)| gone(name, value)));
        }
    }

    /// Takes a metric away.
    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// The sum over all series of a counter or gauge; `None` when there is none of that name.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let families = self.lock();
        let series = families.get(name)?.series.values();
        Some(
            series
                .map(|value| match value.point() {
                    Point::Whole(whole) => whole as f64,
                    Point::Number(number) => number,
                    Point::Histogram { .. } => 0.0,
                })
                .sum(),
        )
    }

    /// All there is, sorted by name and labels.
    pub(super) fn snapshot(&self) -> Vec<Snapshot> {
        let families = self.lock();
        let snapshot = |(name, family): (&String, &Family)| Snapshot {
            name: name.clone(),
            kind: family.kind,
            about: family.about.clone(),
            points: family
                .series
                .iter()
                .map(|(labels, value)| (labels.clone(), value.point()))
                .collect(),
        };
        families.iter().map(snapshot).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Value {
    fn point(&self) -> Point {
        match self {
            Value::Counter(counter) => Point::Whole(counter.get()),
            Value::Read(read) => Point::Number(read()),
            Value::Histogram(Histogram(buckets)) => Point::Histogram {
                bounds: buckets.bounds,
                counts: buckets.counts.iter().map(|count| count.load(Relaxed)).collect(),
                sum: buckets.sum.load(Relaxed) as f64 / if buckets.seconds { NANOS } else { 1.0 },
            },
        }
    }
}

fn family<'a>(
    families: &'a mut BTreeMap<String, Family>,
    kind: Kind,
    name: &str,
    help: &str,
) -> &'a mut Family {
    families.entry(name.to_owned()).or_insert_with(|| Family {
        kind,
        about: about(name, help),
        series: BTreeMap::new(),
    })
}

fn sorted(labels: &[(&str, &str)]) -> Labels {
    let mut labels: Labels =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    labels.sort_unstable();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_made_anew_goes_on_counting_and_one_that_left_is_forgotten() {
        let registry = Registry::default();
        registry.counter("c", "", &[("exporter", "a")]).add(3);
        registry.counter("c", "", &[("exporter", "a")]).add(4);
        registry.counter("c", "", &[("exporter", "b")]).add(1);
        assert_eq!(registry.value("c"), Some(8.0));
        registry.forget(|name, value| name == "exporter" && value == "b");
        assert_eq!(registry.value("c"), Some(7.0));
        assert_eq!(registry.value("d"), None);
    }

    #[test]
    fn a_value_counts_at_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[10.0, 25.0], false);
        [10, 11, 25, 26].into_iter().for_each(|value| histogram.record(value));
        let counts: Vec<_> = histogram.0.counts.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!(histogram.0.sum.load(Relaxed), 72);
    }

    #[test]
    fn times_are_told_in_seconds() {
        let registry = Registry::default();
        let histogram = registry.histogram("rpc.server.call.duration", &[], &[0.1, 0.5]);
        for millis in [100, 101, 600] {
            histogram.record_time(Duration::from_millis(millis));
        }
        let Point::Histogram { counts, sum, .. } = Value::Histogram(histogram).point() else {
            panic!("no histogram")
        };
        assert_eq!((counts, sum), (vec![1, 1, 1], 0.801));
    }

    #[test]
    fn peers_cannot_make_series_without_end() {
        let registry = Registry::default();
        for n in 0..2 * MAX_HISTOGRAMS {
            let host = format!("host-{n}");
            let labels = [("server.address", host.as_str())];
            registry.histogram("http.server.request.duration", &labels, &[1.0]).record(1);
        }
        let snapshot = registry.snapshot();
        assert_eq!(snapshot[0].points.len(), MAX_HISTOGRAMS + 1);
        let overflow = snapshot[0].points.iter().find(|(labels, _)| *labels == sorted(&OVERFLOW));
        let Some((_, Point::Histogram { counts, .. })) = overflow else { panic!("no overflow") };
        assert_eq!(counts.iter().sum::<u64>(), MAX_HISTOGRAMS as u64);
    }
}
