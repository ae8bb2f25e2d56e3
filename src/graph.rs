//! The pipelines of a configuration as running components.
//!
//! An exporter or a receiver is one instance, shared by the pipelines that name it; a processor is one
//! instance in each; a connector is the exporter of some pipelines and the receiver of others. Started
//! from the back to the front, so that nothing is sent to what is not there yet; stopped from the front
//! to the back, so that nothing in flight is lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tapio_exporter::Fanout;
use tapio_proto::Next;

use crate::{
    components::{Context, Host, Outputs, Stage, Stop},
    config::{ComponentId, Config, Pipeline, depths},
};

/// All of the shutdown: a component that hangs does not keep the process.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);

/// What runs, as the ways to stop it.
#[derive(Default)]
pub(crate) struct Graph {
    receivers: Vec<Stop>,
    /// For each pipeline, in the order of the flow; by how many pipelines follow it.
    processors: BTreeMap<usize, Vec<Vec<Stop>>>,
    exporters: Vec<Stop>,
}

impl Graph {
    /// Starts the pipelines. When a component fails, those that had started are stopped.
    pub(crate) async fn start(config: &Config, host: &Arc<Host>) -> Result<Self, String> {
        let mut graph = Graph::default();
        match graph.build(config, host).await {
            Ok(()) => {
                if host.directory.is_idle() {
                    tracing::warn!(
                        "k8s_attributes knows no pods: no `tapio` processor is in a pipeline, so only what resources say themselves is used. Put `tapio` into the pipelines by which Kubernetes objects come."
                    );
                }
                Ok(graph)
            }
            Err(error) => {
                graph.stop().await;
                Err(error)
            }
        }
    }

    async fn build(&mut self, config: &Config, host: &Arc<Host>) -> Result<(), String> {
        let pipelines = &config.service.pipelines;
        let context = |id: &ComponentId| Context { id: id.clone(), host: Arc::clone(host) };

        let mut exporters: BTreeMap<&ComponentId, Next> = BTreeMap::new();
        for (id, entry) in &config.exporters {
            if pipelines.iter().any(|pipeline| pipeline.exporters.contains(id)) {
                let Stage { next, stop } = (entry.make)(context(id)).await.map_err(|text| {
                    format!(
                        "{}: cannot start pipelines: failed to start \"{id}\" exporter: {text}",
                        entry.place
                    )
                })?;
                self.exporters.push(stop);
                exporters.insert(id, next);
            }
        }

        let depths = depths(config);
        let depth = |pipeline: &Pipeline| depths.get(&pipeline.id).copied().unwrap_or_default();
        let mut backwards: Vec<&Pipeline> = pipelines.iter().collect();
        backwards.sort_by_key(|pipeline| depth(pipeline));

        let mut heads: Vec<(&Pipeline, Next)> = Vec::new();
        for pipeline in backwards {
            let mut nexts = Vec::new();
            for id in pipeline.distinct_exporters() {
                nexts.extend(exporters.get(id).cloned());
                if let Some(entry) = config.connectors.get(id) {
                    let mut outputs = outputs(&heads, id);
                    outputs.retain(|signal, _| *signal == pipeline.id.signal);
                    nexts.extend((entry.make)(outputs).remove(&pipeline.id.signal));
                }
            }
            let mut next = Fanout::of(nexts);
            // Each new one stands in front of those before.
            let mut stops = Vec::new();
            for id in pipeline.processors.iter().rev() {
                let Some(entry) = config.processors.get(id) else { continue };
                match (entry.make.start)(context(id), pipeline.id.signal, next).await {
                    Ok(stage) => {
                        next = stage.next;
                        stops.insert(0, stage.stop);
                    }
                    Err(text) => {
                        self.processors.entry(depth(pipeline)).or_default().push(stops);
                        return Err(format!(
                            "{}: cannot start pipelines: failed to start \"{id}\" processor: {text}",
                            entry.place
                        ));
                    }
                }
            }
            self.processors.entry(depth(pipeline)).or_default().push(stops);
            heads.push((pipeline, next));
        }

        for (id, entry) in &config.receivers {
            let outputs = outputs(&heads, id);
            if outputs.is_empty() {
                continue;
            }
            let stop = (entry.make)(context(id), outputs).await.map_err(|text| {
                format!(
                    "{}: cannot start pipelines: failed to start \"{id}\" receiver: {text}",
                    entry.place
                )
            })?;
            self.receivers.push(stop);
        }
        Ok(())
    }

    /// Receivers first, then what they fed; each level is done before the next begins.
    pub(crate) async fn stop(self) {
        let all = async {
            together(self.receivers).await;
            for stops in self.processors.into_values().rev() {
                together(stops.into_iter().map(in_order).collect()).await;
            }
            together(self.exporters).await;
        };
        if tokio::time::timeout(SHUTDOWN_LIMIT, all).await.is_err() {
            tracing::error!(
                seconds = SHUTDOWN_LIMIT.as_secs(),
                "Pipelines did not stop in time. What they still held is lost."
            );
        }
    }
}

/// What a receiver or a connector feeds: all pipelines that name it, signal by signal.
fn outputs(heads: &[(&Pipeline, Next)], id: &ComponentId) -> Outputs {
    let mut outputs: BTreeMap<_, Vec<Next>> = BTreeMap::new();
    for (pipeline, head) in heads.iter().filter(|(pipeline, _)| pipeline.receivers.contains(id)) {
        outputs.entry(pipeline.id.signal).or_default().push(Arc::clone(head));
    }
    outputs.into_iter().map(|(signal, heads)| (signal, Fanout::of(heads))).collect()
}

/// Stops all at the same time.
async fn together(stops: Vec<Stop>) {
    let running: Vec<_> = stops.into_iter().map(|stop| tokio::spawn(stop())).collect();
    for task in running {
        // A panic while stopping is in the log already; the others still get their turn.
        let _ = task.await;
    }
}

fn in_order(stops: Vec<Stop>) -> Stop {
    Box::new(move || {
        Box::pin(async move {
            for stop in stops {
                stop().await;
            }
        })
    })
}
