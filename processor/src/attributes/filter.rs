//! `include` and `exclude` of the `attributes` processor: which records it works on.

use std::collections::HashSet;

use regex::Regex;
use serde::Deserialize;
use tapio_proto::{
    Signal, attr,
    view::{AnyValue, Attributes, LogView, MetricView, Record, ResourceView, ScopeGroup, SpanView},
};

use super::{
    pattern::compile,
    value::{Configured, as_text, equal, type_name},
};

/// The properties of `include` or `exclude`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MatchConfig {
    match_type: String,
    /// The Collector's cache of results; taken and not needed.
    #[serde(rename = "regexp")]
    _regexp: RegexpConfig,
    services: Vec<String>,
    span_names: Vec<String>,
    span_kinds: Vec<String>,
    log_bodies: Vec<String>,
    log_severity_texts: Vec<String>,
    log_severity_number: Option<SeverityConfig>,
    metric_names: Vec<String>,
    attributes: Vec<AttributeConfig>,
    resources: Vec<AttributeConfig>,
    libraries: Vec<LibraryConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RegexpConfig {
    #[serde(rename = "cacheenabled")]
    _enabled: bool,
    #[serde(rename = "cachemaxnumentries")]
    _entries: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SeverityConfig {
    min: i32,
    match_undefined: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AttributeConfig {
    key: String,
    value: Configured,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LibraryConfig {
    name: String,
    version: Option<String>,
}

/// Compiled properties for one signal. All must match; an empty list matches everything.
pub(crate) struct Matcher {
    services: Option<Texts>,
    resources: Vec<Property>,
    libraries: Vec<(Texts, Option<Texts>)>,
    /// Names of spans or of metrics.
    names: Option<Texts>,
    kinds: Option<Texts>,
    bodies: Option<Texts>,
    severity_texts: Option<Texts>,
    severity: Option<SeverityConfig>,
    attributes: Vec<Property>,
}

/// Some texts, or some patterns that a text may contain.
enum Texts {
    Strict(HashSet<String>),
    Patterns(Vec<Regex>),
}

/// An attribute that must be there, with a value if one is asked for.
struct Property {
    key: String,
    value: Wanted,
}

enum Wanted {
    Any,
    Same(Vec<u8>),
    Like(Texts),
}

/// What the Collector takes a resource without a name for.
const NO_SERVICE: &str = "<nil-service-name>";

const SPAN_KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

impl MatchConfig {
    /// Refuses what a pipeline of this signal has no use for, in the Collector's words.
    fn check(&self, signal: Signal) -> Result<(), String> {
        let given = |names: &[&[String]]| names.iter().any(|list| !list.is_empty());
        let common = !self.attributes.is_empty() || !self.libraries.is_empty();
        let resources = !self.resources.is_empty();
        let of_logs = given(&[&self.log_bodies, &self.log_severity_texts])
            || self.log_severity_number.is_some();
        let of_spans = given(&[&self.services, &self.span_names, &self.span_kinds]);
        match signal {
            Signal::Traces => {
                for (key, unfit) in [
                    ("log_bodies", !self.log_bodies.is_empty()),
                    ("log_severity_texts", !self.log_severity_texts.is_empty()),
                    ("log_severity_number", self.log_severity_number.is_some()),
                    ("metric_names", !self.metric_names.is_empty()),
                ] {
                    if unfit {
                        return Err(format!("{key} should not be specified for trace spans"));
                    }
                }
                if !(of_spans || common || resources) {
                    return Err("at least one of \"attributes\", \"libraries\",  or \"resources\" field must be specified".into());
                }
                let known = |kind: &String| SPAN_KINDS[1..].contains(&kind.as_str());
                if self.match_type == "strict" && !self.span_kinds.iter().all(known) {
                    return Err(format!(
                        "span_kinds string must match one of the standard span kinds when match_type=strict: [{}]",
                        SPAN_KINDS[1..].join(" ")
                    ));
                }
            }
            Signal::Logs => {
                if of_spans || !self.metric_names.is_empty() {
                    return Err("services, span_names, span_kinds and metric_names are not valid for log records".into());
                }
                if !(of_logs || common || resources) {
                    return Err("at least one of \"attributes\", \"libraries\", \"span_kinds\", \"resources\", \"log_bodies\", \"log_severity_texts\" or \"log_severity_number\" field must be specified".into());
                }
            }
            Signal::Metrics | Signal::Profiles => {
                if of_spans || of_logs || common {
                    return Err("\"span_names\", \"span_kinds\", \"log_bodies\", \"log_severity_texts\", \"log_severity_number\", \"services\", \"attributes\" and \"libraries\" are not valid for metrics".into());
                }
                if self.metric_names.is_empty() && !resources {
                    return Err(
                        "at least one of \"metric_names\" or \"resources\" field must be specified"
                            .into(),
                    );
                }
            }
        }
        Ok(())
    }
}

impl Matcher {
    /// Compiles the properties for a pipeline of this signal.
    pub(crate) fn new(config: &MatchConfig, signal: Signal) -> Result<Self, String> {
        config.check(signal)?;
        let kind = config.match_type.as_str();
        let error = |what: &str| {
            let head = format!("error creating {what} filters: ");
            move |text: String| format!("{head}{text}")
        };
        let texts = |list: &[String], what: &str| match list {
            [] => Ok(None),
            list => Texts::new(kind, list).map(Some).map_err(error(what)),
        };
        let libraries = config.libraries.iter().map(|library| {
            let one = |text: &String, what: &str| {
                Texts::new(kind, std::slice::from_ref(text)).map_err(error(what))
            };
            let version = library.version.as_ref().map(|version| one(version, "library version"));
            Ok((one(&library.name, "library name")?, version.transpose()?))
        });
        let names = match signal {
            Signal::Metrics => &config.metric_names,
            _ => &config.span_names,
        };
        Ok(Matcher {
            libraries: libraries.collect::<Result<_, String>>()?,
            attributes: properties(kind, &config.attributes).map_err(error("attribute"))?,
            resources: properties(kind, &config.resources).map_err(error("resource"))?,
            services: texts(&config.services, "service name")?,
            names: texts(names, "span name")?,
            kinds: texts(&config.span_kinds, "span kind")?,
            bodies: texts(&config.log_bodies, "log record body")?,
            severity_texts: texts(&config.log_severity_texts, "log record severity text")?,
            severity: config.log_severity_number.clone(),
        })
    }

    /// Does the resource match, as far as a resource is asked for?
    pub(crate) fn resource(&self, resource: &ResourceView<'_>) -> bool {
        let service = || {
            let name = resource.attribute(attr::SERVICE_NAME);
            name.map_or(NO_SERVICE.into(), |name| as_text(&name))
        };
        self.services.as_ref().is_none_or(|services| services.contain(&service()))
            && matches(&self.resources, &resource.attributes())
    }

    /// Does the scope match, as far as a scope is asked for?
    pub(crate) fn scope(&self, scope: &ScopeGroup<'_>) -> bool {
        self.libraries.iter().all(|(name, version)| {
            name.contain(scope.name())
                && version.as_ref().is_none_or(|version| version.contain(scope.version()))
        })
    }

    /// Is nothing of the records themselves asked for?
    pub(crate) fn ends_at_scope(&self) -> bool {
        let texts = [&self.names, &self.kinds, &self.bodies, &self.severity_texts];
        texts.iter().all(|texts| texts.is_none())
            && self.severity.is_none()
            && self.attributes.is_empty()
    }

    /// Does the record itself match?
    pub(crate) fn record(&self, record: &Record<'_>) -> bool {
        match record {
            Record::Span(span) => self.span(span),
            Record::Log(log) => self.log(log),
            Record::Metric(metric) => self.metric(metric),
        }
    }

    fn span(&self, span: &SpanView<'_>) -> bool {
        let kind =
            usize::try_from(span.kind).ok().and_then(|kind| SPAN_KINDS.get(kind)).unwrap_or(&"");
        wanted(&self.names, || span.name.into())
            && wanted(&self.kinds, || (*kind).into())
            && matches(&self.attributes, &span.attributes())
    }

    fn log(&self, log: &LogView<'_>) -> bool {
        let severe = |severity: &SeverityConfig| match log.severity_number {
            0 => severity.match_undefined,
            number => number >= severity.min,
        };
        wanted(&self.bodies, || as_text(&log.body.unwrap_or(AnyValue::Empty)))
            && wanted(&self.severity_texts, || log.severity_text.into())
            && self.severity.as_ref().is_none_or(severe)
            && matches(&self.attributes, &log.attributes())
    }

    fn metric(&self, metric: &MetricView<'_>) -> bool {
        wanted(&self.names, || metric.name.into())
    }
}

fn wanted<'a>(texts: &Option<Texts>, text: impl FnOnce() -> std::borrow::Cow<'a, str>) -> bool {
    texts.as_ref().is_none_or(|texts| texts.contain(&text()))
}

fn properties(kind: &str, configs: &[AttributeConfig]) -> Result<Vec<Property>, String> {
    let property = |config: &AttributeConfig| {
        if config.key.is_empty() {
            return Err("can't have empty key in the list of attributes".to_owned());
        }
        let value = match &config.value.0 {
            None => Wanted::Any,
            Some(value) if kind == "strict" => Wanted::Same(value.clone()),
            Some(value) => match AnyValue::decode(value) {
                AnyValue::String(text) => Wanted::Like(Texts::new(kind, &[text.to_owned()])?),
                other if kind == "regexp" => {
                    return Err(format!(
                        "match_type=regexp for {:?} only supports Str, but found {}",
                        config.key,
                        type_name(&other)
                    ));
                }
                _ => return Err(unknown(kind)),
            },
        };
        Ok(Property { key: config.key.clone(), value })
    };
    configs.iter().map(property).collect()
}

/// Is each property there, with its value?
fn matches(properties: &[Property], attributes: &Attributes<'_>) -> bool {
    properties.iter().all(|property| {
        let found = attributes.flatten().find(|attribute| attribute.key == property.key);
        found.is_some_and(|attribute| match &property.value {
            Wanted::Any => true,
            Wanted::Same(value) => equal(&AnyValue::decode(value), &attribute.value),
            Wanted::Like(texts) => {
                let scalar = matches!(
                    attribute.value,
                    AnyValue::String(_)
                        | AnyValue::Bool(_)
                        | AnyValue::Int(_)
                        | AnyValue::Double(_)
                );
                scalar && texts.contain(&as_text(&attribute.value))
            }
        })
    })
}

fn unknown(kind: &str) -> String {
    format!("unrecognized match_type: '{kind}', valid types are: [regexp strict]")
}

impl Texts {
    fn new(kind: &str, list: &[String]) -> Result<Self, String> {
        match kind {
            "strict" => Ok(Texts::Strict(list.iter().cloned().collect())),
            "regexp" => {
                let patterns = list.iter().map(|pattern| compile(pattern));
                Ok(Texts::Patterns(patterns.collect::<Result<_, _>>()?))
            }
            other => Err(unknown(other)),
        }
    }

    fn contain(&self, text: &str) -> bool {
        match self {
            Texts::Strict(texts) => texts.contains(text),
            Texts::Patterns(patterns) => patterns.iter().any(|pattern| pattern.is_match(text)),
        }
    }
}
