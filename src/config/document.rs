//! The whole configuration, decoded and checked: a value of [`Config`] can be built, or fails for a
//! reason outside of it (a port in use, a certificate that is not there).

use std::collections::BTreeMap;

use tapio_proto::Signal;

use super::{
    connectors,
    decode::decode,
    expand::Warnings,
    id::{ComponentId, PipelineId},
    identity::identity,
    node::{Node, Place, Value},
    problem::Problems,
    show,
    source::Loaded,
    suggest::did_you_mean,
    telemetry::Telemetry,
};
use crate::components::{
    self, Component, Fault, MakeConnector, MakeExporter, MakeExtension, MakeProcessor, MakeReceiver,
};

/// A checked configuration; the default one is of a Tapio that does nothing.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) receivers: Section<MakeReceiver>,
    pub(crate) processors: Section<MakeProcessor>,
    pub(crate) exporters: Section<MakeExporter>,
    pub(crate) connectors: Section<MakeConnector>,
    pub(crate) extensions: Section<MakeExtension>,
    pub(crate) service: Service,
    /// Worth a line in the log, but no error.
    pub(crate) warnings: Warnings,
    /// All of it as JSON, without secrets, for those who look from outside.
    pub(crate) shown: String,
}

/// The `service` section.
#[derive(Default)]
pub(crate) struct Service {
    pub(crate) extensions: Vec<ComponentId>,
    pub(crate) pipelines: Vec<Pipeline>,
    pub(crate) telemetry: Telemetry,
}

/// One pipeline; the order of the processors is the order of the flow. Among its receivers and exporters
/// are the connectors from and to other pipelines.
pub(crate) struct Pipeline {
    pub(crate) id: PipelineId,
    pub(crate) receivers: Vec<ComponentId>,
    pub(crate) processors: Vec<ComponentId>,
    pub(crate) exporters: Vec<ComponentId>,
}

impl Pipeline {
    /// The exporters, each once: one that is named twice gets everything once, as in the Collector.
    pub(crate) fn distinct_exporters(&self) -> impl Iterator<Item = &ComponentId> {
        let all = &self.exporters;
        all.iter().enumerate().filter(|(i, id)| !all[..*i].contains(id)).map(|(_, id)| id)
    }
}

/// The components of one section.
pub(crate) type Section<M> = BTreeMap<ComponentId, Entry<M>>;

/// A component that is configured and not yet built.
pub(crate) struct Entry<M: 'static> {
    pub(crate) component: &'static Component<M>,
    pub(crate) make: M,
    pub(crate) place: Place,
    /// Equal in two configurations when the component is the same; see [`identity`].
    pub(crate) identity: Option<String>,
}

const TOP: [&str; 6] =
    ["receivers", "processors", "exporters", "connectors", "extensions", "service"];

impl Config {
    /// Decodes and checks; names everything that is wrong.
    pub(crate) fn new(loaded: Loaded) -> Result<Self, Problems> {
        let Loaded { root, mut warnings } = loaded;
        let mut problems = Problems::default();
        if root.entries().is_empty() {
            problems.add(&root.place, "empty configuration file: service::pipelines: service must have at least one pipeline");
            return Err(problems);
        }
        unknown_keys(&root, "otelcol.configSettings", &TOP, &mut problems);
        let mut reader = Reader { root: &root, problems: &mut problems, warnings: &mut warnings };
        let receivers = reader.section("receivers", components::RECEIVERS);
        let processors = reader.section("processors", components::PROCESSORS);
        let exporters = reader.section("exporters", components::EXPORTERS);
        let extensions = reader.section("extensions", components::EXTENSIONS);
        let connectors = reader.section("connectors", components::CONNECTORS);
        reader.require("receivers", "no receiver configuration specified in config");
        reader.require("exporters", "no exporter configuration specified in config");
        // What refers to a component that is wrong itself would only be noise.
        let decoded = reader.problems.is_empty();
        let service = reader.service();
        let config = Config {
            receivers,
            processors,
            exporters,
            connectors,
            extensions,
            service,
            warnings: Vec::new(),
            shown: show::json(&root, true),
        };
        if decoded {
            check_references(&config, &root, &mut problems);
        }
        if problems.is_empty() {
            connectors::check(&config, &root, &mut problems);
        }
        if problems.is_empty() { Ok(Config { warnings, ..config }) } else { Err(problems) }
    }
}

struct Reader<'a> {
    root: &'a Node,
    problems: &'a mut Problems,
    warnings: &'a mut Warnings,
}

impl Reader<'_> {
    fn require(&mut self, name: &str, text: &str) {
        if self.root.get(name).is_none_or(|node| node.entries().is_empty()) {
            self.problems.add_anywhere(format!("{}: {text}", self.root.place.source));
        }
    }

    /// Decodes every component of a section, used or not.
    fn section<M>(&mut self, name: &'static str, known: &'static [Component<M>]) -> Section<M> {
        let mut section = Section::new();
        let Some(node) = self.root.get(name) else { return section };
        if !is_map(node) {
            self.problems.add(
                &node.place,
                format!("'{name}' expected a map or struct, got {:?}", node.value.type_name()),
            );
        }
        for (key, body) in node.entries() {
            let id = match ComponentId::parse(&key.text) {
                Ok(id) => id,
                Err(text) => {
                    self.problems.add(&key.place, format!("'{name}' {text}"));
                    continue;
                }
            };
            let Some(component) = known.iter().find(|component| component.answers_to(id.kind()))
            else {
                let names: Vec<_> = known.iter().map(|component| component.name).collect();
                let hint = match did_you_mean(id.kind(), &names) {
                    hint if hint.is_empty() => elsewhere(name).to_owned(),
                    hint => hint,
                };
                let names = names.join(" ");
                let text = format!(
                    "'{name}' unknown type: {:?} for id: \"{id}\" (valid values: [{names}]){hint}",
                    id.kind()
                );
                self.problems.add(&key.place, text);
                continue;
            };
            if component.name != id.kind() {
                self.warnings.push(format!(
                    "{:?} alias is deprecated; use {:?} instead ({})",
                    id.kind(),
                    component.name,
                    key.place
                ));
            }
            match (component.decode)(body) {
                Ok(make) => {
                    let (place, identity) = (key.place.clone(), identity(&id, body));
                    section.insert(id, Entry { component, make, place, identity });
                }
                Err(Fault::Decode(wrong)) => {
                    for (place, text) in wrong {
                        self.problems.add(
                            &place,
                            format!("'{name}' error reading configuration for \"{id}\": {text}"),
                        );
                    }
                }
                // A text that begins with `::` goes on with the path.
                Err(Fault::Invalid(text)) if text.starts_with("::") => {
                    self.problems.add(&key.place, format!("{name}::{id}{text}"))
                }
                Err(Fault::Invalid(text)) => {
                    self.problems.add(&key.place, format!("{name}::{id}: {text}"))
                }
            }
        }
        section
    }

    fn service(&mut self) -> Service {
        let mut service = Service::default();
        let Some(node) = self.root.get("service") else {
            self.problems.add_anywhere(format!(
                "{}: service::pipelines: service must have at least one pipeline",
                self.root.place.source
            ));
            return service;
        };
        unknown_keys(node, "service", &["extensions", "pipelines", "telemetry"], self.problems);
        service.extensions = self.references("service::extensions", node.get("extensions"));
        if let Some(telemetry) = node.get("telemetry") {
            match decode::<Telemetry>(telemetry) {
                Ok(decoded) => {
                    if let Err(text) = decoded.check() {
                        self.problems.add(&telemetry.place, format!("service::telemetry: {text}"));
                    }
                    service.telemetry = decoded;
                }
                Err(wrong) => wrong.iter().for_each(|(place, text)| {
                    self.problems.add(place, format!("'service.telemetry' {text}"))
                }),
            }
            self.warnings.extend(service.telemetry.unused().map(|key| {
                format!("service::telemetry::{key} has no effect in Tapio ({})", telemetry.place)
            }));
        }
        let pipelines = node.get("pipelines").map(Node::entries).unwrap_or_default();
        if pipelines.is_empty() {
            let place = node.get("pipelines").unwrap_or(node).place.clone();
            self.problems
                .add(&place, "service::pipelines: service must have at least one pipeline");
        }
        for (key, body) in pipelines {
            match PipelineId::parse(&key.text) {
                Ok(id) => service.pipelines.extend(self.pipeline(id, body)),
                Err(text) => self.problems.add(&key.place, format!("'service.pipelines' {text}")),
            }
        }
        service
    }

    fn pipeline(&mut self, id: PipelineId, body: &Node) -> Option<Pipeline> {
        let path = format!("service::pipelines::{id}");
        unknown_keys(
            body,
            &format!("service.pipelines.{id}"),
            &["receivers", "processors", "exporters"],
            self.problems,
        );
        let mut list = |name: &str| self.references(&path, body.get(name));
        let (receivers, processors, exporters) =
            (list("receivers"), list("processors"), list("exporters"));
        for (name, ids) in [("receiver", &receivers), ("exporter", &exporters)] {
            if ids.is_empty() {
                self.problems.add(&body.place, format!("{path}: must have at least one {name}"));
            }
        }
        Some(Pipeline { id, receivers, processors, exporters })
    }

    /// A list of component names.
    fn references(&mut self, path: &str, list: Option<&Node>) -> Vec<ComponentId> {
        let Some(list) = list else { return Vec::new() };
        let texts = match decode::<Vec<String>>(list) {
            Ok(texts) => texts,
            Err(_) if list.is_null() => return Vec::new(),
            Err(wrong) => {
                wrong
                    .iter()
                    .for_each(|(place, text)| self.problems.add(place, format!("{path}: {text}")));
                return Vec::new();
            }
        };
        let parsed = texts.iter().map(|text| ComponentId::parse(text));
        parsed
            .filter_map(|id| {
                id.map_err(|text| self.problems.add(&list.place, format!("{path}: {text}"))).ok()
            })
            .collect()
    }
}

/// Every name in the service section must be configured, once, and fit the signal.
fn check_references(config: &Config, root: &Node, problems: &mut Problems) {
    let service = root.get("service");
    let names = service.and_then(|service| service.get("extensions"));
    let extension = |id: &ComponentId| config.extensions.get(id).map(|_| Ok(()));
    let ids = &config.service.extensions;
    check_list("service::extensions", "extension", ids, names, extension, problems);
    for pipeline in &config.service.pipelines {
        let path = format!("service::pipelines::{}", pipeline.id);
        let body = service
            .and_then(|service| service.get("pipelines"))
            .and_then(|all| all.get(&pipeline.id.to_string()));
        let list = |name| body.and_then(|body| body.get(name));
        let signal = pipeline.id.signal;
        let connector = |id: &ComponentId| config.connectors.get(id).map(|_| Ok(()));
        let receiver =
            |id: &ComponentId| carries(&config.receivers, id, signal).or_else(|| connector(id));
        let exporter =
            |id: &ComponentId| carries(&config.exporters, id, signal).or_else(|| connector(id));
        let processor = |id: &ComponentId| {
            let entry = config.processors.get(id)?;
            Some(carries(&config.processors, id, signal)?.and_then(|()| (entry.make.fits)(signal)))
        };
        let Pipeline { receivers, processors, exporters, .. } = pipeline;
        check_list(&path, "receiver", receivers, list("receivers"), receiver, problems);
        check_list(&path, "processor", processors, list("processors"), processor, problems);
        check_list(&path, "exporter", exporters, list("exporters"), exporter, problems);
    }
}

/// Can the component carry the signal? `None` if it is not configured.
fn carries<M>(
    section: &Section<M>,
    id: &ComponentId,
    signal: Signal,
) -> Option<Result<(), String>> {
    let entry = section.get(id)?;
    let known = entry.component.signals.contains(&signal);
    Some(if known { Ok(()) } else { Err("telemetry type is not supported".to_owned()) })
}

fn check_list(
    path: &str,
    kind: &str,
    ids: &[ComponentId],
    list: Option<&Node>,
    find: impl Fn(&ComponentId) -> Option<Result<(), String>>,
    problems: &mut Problems,
) {
    for (i, id) in ids.iter().enumerate() {
        let text = match find(id) {
            None => format!("{path}: references {kind} \"{id}\" which is not configured"),
            Some(_) if kind == "processor" && ids[..i].contains(id) => {
                format!("{path}: references {kind} \"{id}\" multiple times")
            }
            Some(Err(text)) => {
                let pipeline = path.rsplit("::").next().unwrap_or_default();
                let wanted = match kind {
                    "processor" => format!(", in pipeline \"{pipeline}\""),
                    _ => {
                        let signal = pipeline.split('/').next().unwrap_or_default();
                        format!(" for data type \"{signal}\"")
                    }
                };
                format!("{path}: failed to create \"{id}\" {kind}{wanted}: {text}")
            }
            Some(Ok(())) => continue,
        };
        let place = list.and_then(|list| match &list.value {
            Value::List(nodes) => nodes.get(i).map(|node| &node.place),
            _ => Some(&list.place),
        });
        match place {
            Some(place) => problems.add(place, text),
            None => problems.add_anywhere(text),
        }
    }
}

/// What to do about a component that a Collector has and Tapio has not.
fn elsewhere(section: &str) -> &'static str {
    match section {
        "exporters" => {
            "; Tapio has no such exporter: keep a Collector behind it for this one, and send there by otlp_grpc"
        }
        "extensions" => {
            "; Tapio has no such extension: leave it out here, or keep the Collector in front for it"
        }
        _ => {
            "; Tapio has no such component: keep the Collector in front for it, and let it send here by otlp_grpc"
        }
    }
}

fn unknown_keys(node: &Node, path: &str, known: &[&str], problems: &mut Problems) {
    if !is_map(node) {
        problems.add(
            &node.place,
            format!("'{path}' expected a map or struct, got {:?}", node.value.type_name()),
        );
    }
    for (key, _) in node.entries() {
        if !known.contains(&key.text.as_str()) {
            problems.add(
                &key.place,
                format!(
                    "'{path}' has invalid keys: {}{}",
                    key.text,
                    did_you_mean(&key.text, known)
                ),
            );
        }
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.value, Value::Map(_) | Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{expand::expand, yaml};

    const GOOD: &str = include_str!("../../tests/config/good.yaml");

    fn config(text: &str) -> Result<Config, Problems> {
        let (mut root, mut warnings, mut problems) =
            (yaml::parse("t", text)?, Warnings::new(), Problems::default());
        expand(&mut root, &|_| None, &mut warnings, &mut problems);
        if problems.is_empty() { Config::new(Loaded { root, warnings }) } else { Err(problems) }
    }

    fn problems(text: &str) -> String {
        config(text).err().map(|problems| problems.to_string()).unwrap_or_default()
    }

    /// Scenario: a configuration is cut anywhere, loses any line, or has any character replaced.
    /// Guarantees: an answer, never a panic; a problem that is told is told with a text.
    #[test]
    fn broken_configurations_are_answered() {
        assert!(config(GOOD).is_ok(), "{}", problems(GOOD));
        let cuts = (0..GOOD.len())
            .step_by(5)
            .filter(|at| GOOD.is_char_boundary(*at))
            .map(|at| GOOD[..at].to_owned());
        let lines: Vec<_> = GOOD.lines().collect();
        let without = (0..lines.len()).map(|i| [&lines[..i], &lines[i + 1..]].concat().join("\n"));
        let swapped = GOOD.char_indices().step_by(5).map(|(i, c)| {
            let other = match c {
                ' ' => "\t",
                ':' => "[",
                _ => ":",
            };
            format!("{}{other}{}", &GOOD[..i], &GOOD[i + c.len_utf8()..])
        });
        for text in cuts.chain(without).chain(swapped) {
            if let Err(problems) = config(&text) {
                assert!(!problems.to_string().is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn every_section_must_be_a_map() {
        for section in TOP {
            let found = problems(&format!("{section}: [a]"));
            assert!(
                found.contains("expected a map or struct, got \"[]interface {}\""),
                "{section}: {found}"
            );
        }
    }

    #[test]
    fn ids_follow_the_collectors_rules() {
        for (id, words) in [
            ("2otlp", "invalid character(s) in type"),
            ("otlp/", "after / should not be empty"),
            ("/a", "before / should not be empty"),
        ] {
            let found = problems(&format!("exporters: {{{id}: }}"));
            assert!(found.contains(words), "{id}: {found}");
        }
    }

    #[test]
    fn unknown_connectors_are_said_so() {
        assert!(problems("connectors: {spanmetrics: }").contains(
            "'connectors' unknown type: \"spanmetrics\" for id: \"spanmetrics\" (valid values: [forward])"
        ));
    }
}
