//! The pipelines of a configuration as running components.
//!
//! An exporter or a receiver is one instance, shared by the pipelines that name it; a processor is one
//! instance in each; a connector is the exporter of some pipelines and the receiver of others. Started
//! from the back to the front, so that nothing is sent to what is not there yet; stopped from the front
//! to the back, so that nothing in flight is lost.
//!
//! At a reload nobody waits for a backend: what an exporter of before still has goes to the new one of its
//! name, and one without a successor delivers it while the new pipelines run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tapio_exporter::{Exporter as Keeper, Fanout};
use tapio_proto::{Next, Signal};
use tokio::task::JoinSet;

use crate::{
    components::{Context, Host, Outputs, ProcessorCounts, Stage, Stop},
    config::{ComponentId, Config, Pipeline, depths},
    ending::{RELOAD_LIMIT, SHUTDOWN_LIMIT},
    gate::Gate,
    telemetry::spans,
};

/// A component that hangs does not keep the process.
const HANGS: Duration = SHUTDOWN_LIMIT.saturating_add(Duration::from_secs(3));

/// What runs, and the ways to stop it.
#[derive(Default)]
pub(crate) struct Graph {
    receivers: BTreeMap<ComponentId, Receiver>,
    /// For each pipeline, in the order of the flow; by how many pipelines follow it.
    processors: BTreeMap<usize, Vec<Vec<Stop>>>,
    exporters: BTreeMap<ComponentId, Exporter>,
    /// Exporters of the configuration of before, until the new one runs: those that have given way to one of
    /// the same name, and those that nobody feeds any more.
    halted: Vec<(ComponentId, Exporter)>,
    unfed: Vec<(ComponentId, Exporter)>,
    /// They deliver, or hand over, what they have.
    leaving: JoinSet<()>,
    handing_over: BTreeSet<String>,
}

struct Receiver {
    gates: BTreeMap<Signal, Arc<Gate>>,
    stop: Stop,
    identity: Option<String>,
}

struct Exporter {
    next: Next,
    stop: Stop,
    keeper: Option<Arc<Keeper>>,
    identity: Option<String>,
}

impl Graph {
    /// Waits until what a reload of before has replaced is gone; `false` when the program is told to stop.
    pub(crate) async fn is_settled(&mut self, host: &Host) -> bool {
        let gone = async { while self.leaving.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = host.ending.begun() => false,
            () = gone => true,
        }
    }

    /// Runs another configuration from now on. A receiver that is the same in both goes on listening,
    /// and what comes meanwhile waits; an exporter that is the same keeps its queue. The others are
    /// stopped in the order of the flow before new ones start, and exporters hand over what they have. After
    /// an error nothing flows: change again, or stop.
    pub(crate) async fn change_to(
        &mut self,
        config: &Config,
        host: &Arc<Host>,
    ) -> Result<(), String> {
        self.clear_for(config, false).await;
        host.detach_analyses();
        let built = self.build(config, host).await;
        if built.is_ok() {
            self.let_go(host);
        }
        if built.is_ok() && host.directory.is_idle() {
            tracing::warn!(
                "k8s_attributes knows no pods: no `tapio` processor is in a pipeline, so only what resources say themselves is used. Put `tapio` into the pipelines by which Kubernetes objects come."
            );
        }
        built
    }

    /// Stops what does not go on unchanged, front to back; all of it when what it stands on is `renewed`.
    pub(crate) async fn clear_for(&mut self, config: &Config, renewed: bool) {
        let pipelines = &config.service.pipelines;
        let same = |running: &Option<String>, wanted: Option<&Option<String>>| {
            !renewed && running.is_some() && wanted == Some(running)
        };
        let fed = |id: &ComponentId| pipelines.iter().any(|one| one.exporters.contains(id));
        let receivers = std::mem::take(&mut self.receivers).into_iter();
        let stays = |id: &ComponentId, receiver: &Receiver| {
            let signals: std::collections::BTreeSet<_> = pipelines
                .iter()
                .filter(|pipeline| pipeline.receivers.contains(id))
                .map(|pipeline| pipeline.id.signal)
                .collect();
            same(&receiver.identity, config.receivers.get(id).map(|entry| &entry.identity))
                && receiver.gates.keys().copied().eq(signals)
        };
        let (receivers, leaving_receivers): (_, BTreeMap<_, _>) =
            receivers.partition(|(id, receiver)| stays(id, receiver));
        self.receivers = receivers;
        let before = std::mem::take(&mut self.exporters).into_iter();
        let mut leaving = Vec::new();
        for (id, exporter) in before.chain(std::mem::take(&mut self.unfed)) {
            let wanted = config.exporters.get(&id).map(|entry| &entry.identity);
            if fed(&id) && same(&exporter.identity, wanted) {
                self.exporters.insert(id, exporter);
            } else {
                leaving.push((id, exporter));
            }
        }
        let gates: Vec<_> =
            self.receivers.values().flat_map(|receiver| receiver.gates.values()).cloned().collect();
        let closing = together(
            gates
                .into_iter()
                .map(|gate| -> Stop {
                    Box::new(move || {
                        Box::pin(async move {
                            if !gate.close(RELOAD_LIMIT).await {
                                tracing::info!("Requests under way take their time. They go on by the pipelines of before.");
                            }
                        })
                    })
                })
                .collect(),
        );
        let processors = std::mem::take(&mut self.processors);
        let stopping = async {
            tokio::join!(
                together(leaving_receivers.into_values().map(|r| r.stop).collect()),
                closing
            );
            for stops in processors.into_values().rev() {
                together(stops.into_iter().map(in_order).collect()).await;
            }
            let halts = leaving.iter().filter(|(id, _)| fed(id));
            let halts = halts.filter_map(|(_, exporter)| exporter.keeper.clone());
            together(halts.map(halt).collect()).await;
        };
        if tokio::time::timeout(HANGS, stopping).await.is_err() {
            tracing::error!(
                seconds = HANGS.as_secs(),
                "Pipelines did not stop in time. What they still held is lost."
            );
        }
        for (id, exporter) in leaving {
            match (&exporter.keeper, fed(&id)) {
                (None, _) => (exporter.stop)().await,
                (Some(_), true) => self.halted.push((id, exporter)),
                (Some(_), false) => self.unfed.push((id, exporter)),
            }
        }
    }

    /// The new pipelines run: the exporters of before hand over, or deliver, what they have.
    fn let_go(&mut self, host: &Arc<Host>) {
        self.handing_over.clear();
        for (id, before) in std::mem::take(&mut self.halted) {
            self.handing_over.insert(id.to_string());
            let heir = self.exporters.get(&id).and_then(|exporter| exporter.keeper.clone());
            let host = Arc::clone(host);
            self.leaving.spawn(async move {
                match (before.keeper, heir) {
                    (Some(keeper), Some(heir)) => {
                        keeper.hand_over(&heir, host.ending.exporters()).await;
                    }
                    _ => (before.stop)().await,
                }
            });
        }
        for (id, before) in std::mem::take(&mut self.unfed) {
            self.handing_over.insert(id.to_string());
            self.leaving.spawn((before.stop)());
        }
    }

    async fn build(&mut self, config: &Config, host: &Arc<Host>) -> Result<(), String> {
        let pipelines = &config.service.pipelines;
        let context = |id: &ComponentId| Context { id: id.clone(), host: Arc::clone(host) };

        for (id, entry) in &config.exporters {
            let used = pipelines.iter().any(|pipeline| pipeline.exporters.contains(id));
            if !used || self.exporters.contains_key(id) {
                continue;
            }
            let Stage { next, stop, keeper } = (entry.make)(context(id)).await.map_err(|text| {
                format!(
                    "{}: cannot start pipelines: failed to start \"{id}\" exporter: {text}",
                    entry.place
                )
            })?;
            let identity = entry.identity.clone();
            self.exporters.insert(id.clone(), Exporter { next, stop, keeper, identity });
        }

        let tracer = host.tracer();
        let depths = depths(config);
        let depth = |pipeline: &Pipeline| depths.get(&pipeline.id).copied().unwrap_or_default();
        let mut backwards: Vec<&Pipeline> = pipelines.iter().collect();
        backwards.sort_by_key(|pipeline| depth(pipeline));

        let mut heads: Vec<(&Pipeline, Next)> = Vec::new();
        for pipeline in backwards {
            let mut nexts = Vec::new();
            for id in pipeline.distinct_exporters() {
                nexts.extend(self.exporters.get(id).map(|exporter| {
                    let next = Arc::clone(&exporter.next);
                    spans::export(&tracer, id.as_str(), pipeline.id.signal, next)
                }));
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
                let counts =
                    ProcessorCounts::new(entry.component.name, &context(id), pipeline.id.signal);
                next = counts.outgoing(next);
                match (entry.make.start)(context(id), pipeline.id.signal, next).await {
                    Ok(stage) => {
                        next = counts.incoming(stage.next);
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
            let outputs: Outputs = outputs(&heads, id)
                .into_iter()
                .map(|(signal, next)| (signal, spans::receive(&tracer, id.as_str(), signal, next)))
                .collect();
            if outputs.is_empty() {
                continue;
            }
            if let Some(receiver) = self.receivers.get(id) {
                for (signal, next) in outputs {
                    receiver
                        .gates
                        .get(&signal)
                        .iter()
                        .for_each(|gate| gate.open(Arc::clone(&next)));
                }
                continue;
            }
            let gates: BTreeMap<_, _> = outputs
                .into_iter()
                .map(|(signal, next)| (signal, Arc::new(Gate::before(next))))
                .collect();
            let outputs =
                gates.iter().map(|(signal, gate)| (*signal, Arc::clone(gate) as Next)).collect();
            let stop = (entry.make)(context(id), outputs).await.map_err(|text| {
                format!(
                    "{}: cannot start pipelines: failed to start \"{id}\" receiver: {text}",
                    entry.place
                )
            })?;
            let identity = entry.identity.clone();
            self.receivers.insert(id.clone(), Receiver { gates, stop, identity });
        }
        Ok(())
    }

    /// Exporters that just hand over what they have, and say themselves what of it stays on disk.
    pub(crate) fn handing_over(&self) -> &BTreeSet<String> {
        &self.handing_over
    }

    /// The exporters that run, with what they keep.
    pub(crate) fn keepers(&self) -> BTreeMap<String, Option<Arc<Keeper>>> {
        let exporters = self.exporters.iter();
        exporters.map(|(id, exporter)| (id.to_string(), exporter.keeper.clone())).collect()
    }

    /// Receivers first, then what they fed; each level is done before the next begins.
    pub(crate) async fn stop(mut self) {
        let all = async {
            let keepers = self.exporters.values().filter_map(|exporter| exporter.keeper.as_ref());
            keepers.for_each(|keeper| keeper.hurry());
            together(self.receivers.into_values().map(|receiver| receiver.stop).collect()).await;
            for stops in self.processors.into_values().rev() {
                together(stops.into_iter().map(in_order).collect()).await;
            }
            // What is handed over has to be there before those who take it stop.
            let rest = self.halted.into_iter().chain(self.unfed).map(|(_, exporter)| exporter.stop);
            let leaving = async { while self.leaving.join_next().await.is_some() {} };
            tokio::join!(leaving, together(rest.collect()));
            together(self.exporters.into_values().map(|exporter| exporter.stop).collect()).await;
        };
        if tokio::time::timeout(HANGS, all).await.is_err() {
            tracing::error!(
                seconds = HANGS.as_secs(),
                "Pipelines did not stop in time. What they still held is lost."
            );
        }
    }
}

fn halt(keeper: Arc<Keeper>) -> Stop {
    Box::new(move || Box::pin(async move { keeper.halt().await }))
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
