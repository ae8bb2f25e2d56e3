//! Connectors: the exporter of one pipeline and the receiver of another.

use std::collections::{BTreeMap, BTreeSet};

use tapio_proto::Signal;

use super::{
    document::{Config, Pipeline},
    id::{ComponentId, PipelineId},
    node::Node,
    problem::Problems,
};

/// A connector's use must fit: something on both sides of it for each signal, no circle, in the
/// Collector's words. No exporter or receiver can have its name, because none has its type.
pub(super) fn check(config: &Config, root: &Node, problems: &mut Problems) {
    for (id, entry) in &config.connectors {
        for signal in Signal::ALL {
            let into = pipelines(config, signal, |pipeline| &pipeline.exporters, id);
            let from = pipelines(config, signal, |pipeline| &pipeline.receivers, id);
            let (side, other, names) = match (into.is_empty(), from.is_empty()) {
                (false, true) => ("exporter", "receiver", into),
                (true, false) => ("receiver", "exporter", from),
                _ => continue,
            };
            problems.add(&entry.place, format!(
                "failed to build pipelines: connector \"{id}\" used as {side} in [{}] pipeline but not used in any supported {other} pipeline",
                names.join(" ")
            ));
        }
    }
    if let Some(circle) = circle(config) {
        let place = root.get("service").and_then(|service| service.get("pipelines"));
        problems.add(
            &place.unwrap_or(root).place,
            format!("failed to build pipelines: cycle detected: {circle}"),
        );
    }
}

/// The names of the pipelines of a signal that have the connector in a list.
fn pipelines(
    config: &Config,
    signal: Signal,
    list: impl Fn(&Pipeline) -> &Vec<ComponentId>,
    id: &ComponentId,
) -> Vec<String> {
    let all = config.service.pipelines.iter().filter(|pipeline| pipeline.id.signal == signal);
    all.filter(|pipeline| list(pipeline).contains(id))
        .map(|pipeline| pipeline.id.to_string())
        .collect()
}

/// The pipelines that a pipeline feeds, with the connectors between.
fn fed<'c>(
    config: &'c Config,
    pipeline: &'c Pipeline,
) -> impl Iterator<Item = (&'c ComponentId, &'c Pipeline)> {
    let connectors = pipeline.exporters.iter().filter(|id| config.connectors.contains_key(id));
    connectors.flat_map(move |id| {
        let all = config.service.pipelines.iter();
        all.filter(move |to| to.id.signal == pipeline.id.signal && to.receivers.contains(id))
            .map(move |to| (id, to))
    })
}

/// How many pipelines follow each one, at most: those of depth 0 end in exporters only. Whoever starts
/// the pipelines begins there, and whoever stops them ends there.
pub(crate) fn depths(config: &Config) -> BTreeMap<&PipelineId, usize> {
    let pipelines = &config.service.pipelines;
    let mut depths: BTreeMap<_, _> = pipelines.iter().map(|pipeline| (&pipeline.id, 0)).collect();
    // Without a circle no way is longer than there are pipelines.
    for _ in pipelines {
        for pipeline in pipelines {
            let next = fed(config, pipeline).filter_map(|(_, to)| depths.get(&to.id)).max();
            if let Some(depth) = next.map(|next| next + 1) {
                depths.insert(&pipeline.id, depth);
            }
        }
    }
    depths
}

/// A circle of pipelines, if there is one, as the Collector tells it: from a connector to itself.
fn circle(config: &Config) -> Option<String> {
    config.service.pipelines.iter().find_map(|start| {
        let (mut path, mut seen) = (Vec::new(), BTreeSet::new());
        around(config, start, start, &mut seen, &mut path).then(|| told(&path))
    })
}

/// Is there a way from `at` back to `start`? `path` is the way: connectors and where each leads.
fn around<'c>(
    config: &'c Config,
    start: &'c Pipeline,
    at: &'c Pipeline,
    seen: &mut BTreeSet<&'c PipelineId>,
    path: &mut Vec<(&'c ComponentId, &'c Pipeline)>,
) -> bool {
    for (connector, to) in fed(config, at) {
        if !seen.insert(&to.id) {
            continue;
        }
        path.push((connector, to));
        if to.id == start.id || around(config, start, to, seen, path) {
            return true;
        }
        path.pop();
    }
    false
}

fn told(path: &[(&ComponentId, &Pipeline)]) -> String {
    let mut words = Vec::new();
    for (connector, to) in path {
        let signal = to.id.signal.name();
        words.push(format!("connector \"{connector}\" ({signal} to {signal})"));
        let processors = to.processors.iter();
        words.extend(processors.map(|id| format!("processor \"{id}\" in pipeline \"{}\"", to.id)));
    }
    words.extend(words.first().cloned());
    words.join(" -> ")
}
