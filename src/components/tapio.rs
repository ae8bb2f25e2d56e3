//! The `tapio` processor: one analysis behind all pipelines that name it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use serde::Deserialize;
use tapio_processor::{
    Analysis, AnalysisConfig, Patterns, Reason,
    story::{Importance, Objective, Weight},
};
use tapio_proto::{Next, Signal, transport::GoDuration};

use super::{Context, Stage, nothing_to_stop};
use crate::telemetry::{Kind, Registry};

/// `processors: tapio:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// Memory for the tables that can be queried, in MiB; over it the oldest rows go.
    store_mib: usize,
    /// Memory for telemetry that waits to be analysed, in MiB; what comes on top passes unanalysed, and is counted.
    queue_mib: usize,
    /// Longest pass of the correlation; one that takes longer is cut and made again on a smaller window.
    pass_budget: GoDuration,
    /// Folders with patterns (`*.yaml`) beside the built-in ones; one with a known id replaces it.
    patterns: Vec<PathBuf>,
    /// Items that the analysis takes in before it shows what they changed, if as many wait.
    batch_size: usize,
    /// Queries of one pass that run at once; at most one for each core but one, which is left to the hop.
    workers: usize,
    /// Events, and rows of changes, that causes are looked for in; over it the oldest go.
    buffer_size: usize,
    /// Below this confidence a story begins with "Perhaps:".
    confidence_threshold: f64,
    /// What services promise their users; the first that fits a service.
    objectives: Vec<ObjectiveConfig>,
    /// How much the business misses services; the first that fits a service, else 1.
    weights: Vec<WeightConfig>,
    /// The `file_storage` in which incidents that are over are remembered; without it a restart forgets them.
    storage: Option<String>,
}

/// A service level objective.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectiveConfig {
    /// `namespace/name`, either of which may be `*`.
    service: String,
    /// Percent of requests that must be answered well.
    availability: f64,
    /// An answer that takes longer is none.
    within: Option<GoDuration>,
    #[serde(default = "window_days")]
    window_days: f64,
}

fn window_days() -> f64 {
    Objective::WINDOW_DAYS
}

/// Weight of services by namespace and labels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightConfig {
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    weight: f64,
}

impl Default for Config {
    fn default() -> Self {
        let analysis = AnalysisConfig::default();
        Config {
            store_mib: analysis.store_bytes >> 20,
            queue_mib: analysis.tee_bytes >> 20,
            patterns: Vec::new(),
            batch_size: analysis.batch_items,
            workers: analysis.workers,
            buffer_size: analysis.buffer_events,
            confidence_threshold: analysis.threshold,
            objectives: Vec::new(),
            weights: Vec::new(),
            storage: None,
            pass_budget: GoDuration::from_millis(analysis.pass_budget.as_millis() as u64),
        }
    }
}

impl Config {
    fn load_patterns(&self) -> Result<Patterns, String> {
        let mut patterns = Patterns::builtin().map_err(|error| error.to_string())?;
        for folder in &self.patterns {
            patterns.add_folder(folder).map_err(|error| error.to_string())?;
        }
        Ok(patterns)
    }

    fn importance(&self) -> Importance {
        let objectives = self.objectives.iter().map(|config| Objective {
            service: config.service.clone(),
            availability: config.availability,
            within: config.within.map(|within| *within),
            window_days: config.window_days,
        });
        let weights = self.weights.iter().map(|config| Weight {
            namespace: config.namespace.clone(),
            labels: config.labels.clone(),
            weight: config.weight,
        });
        Importance { objectives: objectives.collect(), weights: weights.collect() }
    }

    fn analysis(&self, history: Option<PathBuf>) -> AnalysisConfig {
        AnalysisConfig {
            store_bytes: self.store_mib << 20,
            tee_bytes: self.queue_mib << 20,
            pass_budget: *self.pass_budget,
            batch_items: self.batch_size,
            buffer_events: self.buffer_size,
            workers: self.workers,
            threshold: self.confidence_threshold,
            importance: self.importance(),
            history,
        }
    }

    /// The file for incidents that are over.
    fn history(&self, context: &Context) -> Result<Option<PathBuf>, String> {
        let Some(storage) = &self.storage else { return Ok(None) };
        let opened = context.host.storages.get(Some(storage)).ok_or_else(|| {
            format!(
                "no storage client extension found: storage names \"{storage}\", which is no file_storage in service::extensions"
            )
        })?;
        Ok(Some(opened.file(context.id.as_str(), "history.jsonl")))
    }
}

pub(super) fn check(config: &Config) -> Result<(), String> {
    for (key, mib) in [("store_mib", config.store_mib), ("queue_mib", config.queue_mib)] {
        // A petabyte is a typo, and would overflow in bytes.
        if mib == 0 || mib >= 1 << 30 {
            return Err(format!("'{key}' must be greater than zero and less than {}", 1 << 30));
        }
    }
    if config.pass_budget.is_zero() {
        return Err("'pass_budget' must be greater than zero".to_owned());
    }
    // A million events are a gigabyte.
    for (key, size, most) in [
        ("batch_size", config.batch_size, 1 << 20),
        ("buffer_size", config.buffer_size, 1 << 20),
        ("workers", config.workers, 1024),
    ] {
        if size == 0 || size > most {
            return Err(format!("'{key}' must be greater than zero and at most {most}"));
        }
    }
    if !(0.0..=1.0).contains(&config.confidence_threshold) {
        return Err("'confidence_threshold' must be from 0 to 1".to_owned());
    }
    for (at, objective) in config.objectives.iter().enumerate() {
        Objective::check(objective.availability, objective.window_days)
            .map_err(|error| format!("'objectives[{at}]' of {}: {error}", objective.service))?;
        if objective.within.is_some_and(|within| within.is_zero()) {
            return Err(format!("'objectives[{at}].within' must be greater than zero"));
        }
    }
    for (at, rule) in config.weights.iter().enumerate() {
        if !(rule.weight.is_finite() && rule.weight >= 0.0) {
            return Err(format!("'weights[{at}].weight' must be a number from 0 on"));
        }
    }
    config.load_patterns().map(drop)
}

pub(super) async fn start(
    config: Config,
    context: Context,
    signal: Signal,
    next: Next,
) -> Result<Stage, String> {
    let history = config.history(&context)?;
    let Context { id, host } = context;
    let analysis = host.analysis_of(&id, format!("{config:?} {history:?}"), || {
        let patterns = Arc::new(config.load_patterns()?);
        patterns.replaced().iter().for_each(|line| tracing::info!("{line}"));
        let analysis =
            Analysis::start(config.analysis(history.clone()), patterns, Arc::clone(&host.pressure))
                .map_err(|error| error.to_string())?;
        show(&analysis, id.as_str(), &host.metrics);
        Ok(analysis)
    })?;
    Ok(Stage::new(analysis.processor(signal, next), nothing_to_stop()))
}

/// The analysis' own figures.
fn show(analysis: &Arc<Analysis>, id: &str, metrics: &Arc<Registry>) {
    let labels = [("processor", id)];
    let stat = |kind, name: &str, help, read: fn(&Analysis) -> f64| {
        let analysis = Arc::clone(analysis);
        metrics.read(kind, name, help, &labels, move || read(&analysis));
    };
    use Kind::{Counter, Gauge};
    stat(Counter, "tapio_analysis_requests", "Requests that the analysis took in", |a| {
        a.stats().analysed.load(Relaxed) as f64
    });
    stat(
        Counter,
        "tapio_analysis_dropped_items",
        "Items that passed unanalysed because the analysis was behind",
        |a| a.stats().dropped_items.load(Relaxed) as f64,
    );
    stat(
        Counter,
        "tapio_analysis_sampled_items",
        "Spans that passed unanalysed because the analysis was behind, and that others stand for",
        |a| a.stats().sampled_items.load(Relaxed) as f64,
    );
    for reason in Reason::ALL {
        let (labels, analysis) =
            ([("processor", id), ("reason", reason.name())], Arc::clone(analysis));
        metrics.read(
            Counter,
            "tapio_quarantined_items",
            "Items that passed unanalysed because of what they lack or say; the table quarantine shows some",
            &labels,
            move || analysis.stats().quarantined_items[reason as usize].load(Relaxed) as f64,
        );
    }
    stat(
        Gauge,
        "tapio_analysis_queue_bytes",
        "Bytes of requests that wait for the analysis",
        |a| a.stats().waiting_bytes.load(Relaxed) as f64,
    );
    stat(Counter, "tapio_analysis_passes", "Passes of the correlation", |a| {
        a.stats().passes.load(Relaxed) as f64
    });
    stat(
        Counter,
        "tapio_analysis_passes_seconds",
        "How long the passes of the correlation took together",
        |a| a.stats().passes_us.load(Relaxed) as f64 / 1e6,
    );
    stat(Counter, "tapio_analysis_failed_passes", "Passes of the correlation that failed", |a| {
        a.stats().failed_passes.load(Relaxed) as f64
    });
    stat(
        Counter,
        "tapio_analysis_cut_passes",
        "Passes of the correlation that took longer than 'pass_budget', and were made again on less",
        |a| a.stats().cut_passes.load(Relaxed) as f64,
    );
    stat(
        Gauge,
        "tapio_analysis_lookback_seconds",
        "How much of the past passes look at, 7200 unless they take too long; 0 before the first",
        |a| a.stats().lookback_seconds.load(Relaxed) as f64,
    );
    stat(
        Gauge,
        "tapio_analysis_resolution",
        "How closely telemetry is looked at: 3 all, 2 spans sampled, 1 rollups only, 0 paused as memory is short",
        |a| 3.0 - f64::from(a.resolution() as u8),
    );
    stat(
        Gauge,
        "tapio_analysis_isolated",
        "Queries and patterns that fail and are left out",
        |a| a.isolated().len() as f64,
    );
    let (of, registry, processor) =
        (Arc::downgrade(analysis), Arc::downgrade(metrics), id.to_owned());
    analysis.on_isolated(move |part, name| {
        let Some(metrics) = registry.upgrade() else { return };
        let (of, isolated) = (of.clone(), name.to_owned());
        metrics.read(
            Gauge,
            "tapio_analysis_isolated_part",
            "1 while this query or pattern fails and is left out",
            &[("processor", &processor), ("part", part), ("name", name)],
            move || {
                let all = of.upgrade().map(|analysis| analysis.isolated()).unwrap_or_default();
                f64::from(u8::from(all.iter().any(|one| one.name == isolated)))
            },
        );
    });
    stat(
        Counter,
        "tapio_marked_resources",
        "Resources whose spans or log records were marked with a story",
        |a| a.stats().marked_resources.load(Relaxed) as f64,
    );
    stat(Counter, "tapio_stories_opened", "Stories that were opened", |a| {
        a.stats().stories_opened.load(Relaxed) as f64
    });
    stat(Gauge, "tapio_stories_open", "Stories that are open", |a| {
        a.stats().stories_open.load(Relaxed) as f64
    });
    stat(Counter, "tapio_stories_lost", "Tellings of stories that no pipeline took", |a| {
        a.stats().tellings_lost.load(Relaxed) as f64
    });
    for table in analysis.store().tables() {
        let labels = [("processor", id), ("table", table.name())];
        let (rows, bytes, evicted) = (Arc::clone(table), Arc::clone(table), Arc::clone(table));
        metrics.read(Gauge, "tapio_store_rows", "Rows that a table holds", &labels, move || {
            rows.stats().rows as f64
        });
        metrics.read(Gauge, "tapio_store_bytes", "Bytes that a table holds", &labels, move || {
            bytes.stats().bytes as f64
        });
        metrics.read(
            Counter,
            "tapio_store_evicted_rows",
            "Rows that went to make room for newer ones",
            &labels,
            move || evicted.stats().evicted_rows as f64,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_setting_cannot_be_is_refused_with_its_name() {
        assert_eq!(check(&Config::default()), Ok(()));
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            check(&config).expect_err("it is refused")
        };
        for (key, error) in [
            ("store_mib", wrong(|c| c.store_mib = 0)),
            ("queue_mib", wrong(|c| c.queue_mib = 1 << 30)),
            ("batch_size", wrong(|c| c.batch_size = 0)),
            ("buffer_size", wrong(|c| c.buffer_size = 100_000_000)),
            ("workers", wrong(|c| c.workers = 0)),
            ("confidence_threshold", wrong(|c| c.confidence_threshold = 70.0)),
            ("confidence_threshold", wrong(|c| c.confidence_threshold = f64::NAN)),
        ] {
            assert!(error.starts_with(&format!("'{key}' must be")), "{error}");
        }
        let wrong = wrong(|config| {
            config.objectives = vec![ObjectiveConfig {
                service: "shop/frontend".to_owned(),
                availability: 100.0,
                within: None,
                window_days: 30.0,
            }];
        });
        assert_eq!(
            wrong,
            "'objectives[0]' of shop/frontend: availability must be more than 0 and less than 100 percent"
        );
    }
}
