//! The actions of the `attributes` and `resource` processors, with the Collector's keys and words.

use std::borrow::Cow;

use regex::Regex;
use serde::Deserialize;
use tapio_proto::{Metadata, edit::AttributeList, view::AnyValue};

use super::{
    pattern::compile,
    value::{Configured, hashed, text, to_double, to_int, to_text},
};

/// One entry of `actions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ActionConfig {
    key: String,
    action: String,
    value: Configured,
    default_value: Configured,
    from_attribute: String,
    from_context: String,
    pattern: String,
    converted_type: String,
}

/// A compiled action.
pub(crate) struct Action {
    key: String,
    what: What,
}

enum What {
    Put { when: When, source: Source },
    Delete(Option<Regex>),
    Hash(Option<Regex>),
    Extract { pattern: Regex, names: Vec<String> },
    Convert(fn(&AnyValue<'_>) -> Option<Vec<u8>>),
}

#[derive(Clone, Copy, PartialEq)]
enum When {
    Absent,
    Present,
    Always,
}

/// Where a value comes from; the first that there is.
struct Source {
    value: Option<Vec<u8>>,
    context: String,
    attribute: String,
    default: Option<Vec<u8>>,
}

impl Action {
    /// Compiles a list of actions, or says which cannot work.
    pub(crate) fn compile(actions: &[ActionConfig]) -> Result<Vec<Self>, String> {
        actions.iter().enumerate().map(|(i, config)| Action::new(i, config)).collect()
    }

    fn new(i: usize, config: &ActionConfig) -> Result<Self, String> {
        let name = config.action.to_lowercase();
        let by_pattern = matches!(name.as_str(), "delete" | "hash");
        if config.key.is_empty() && by_pattern && config.pattern.is_empty() {
            return Err(format!(
                "error creating AttrProc due to missing required field (at least one of \"key\" and \"pattern\" have to be used) at the {i}-th action"
            ));
        }
        if config.key.is_empty() && !by_pattern {
            return Err(format!(
                "error creating AttrProc due to missing required field \"key\" at the {i}-th action"
            ));
        }
        config.what(&name).map(|what| Action { key: config.key.clone(), what }).map_err(|text| {
            format!(
                "error with key {:?} ({i}-th action): error creating AttrProc{text}",
                config.key
            )
        })
    }

    /// Carries the action out on what `sender` sent, if that is known.
    pub(crate) fn apply<'a>(
        &'a self,
        attributes: &mut AttributeList<'a>,
        sender: Option<&Metadata>,
    ) {
        let is_key = |key: &str| !self.key.is_empty() && key == self.key;
        match &self.what {
            What::Put { when, source } => source.put(*when, &self.key, attributes, sender),
            What::Delete(pattern) => attributes.remove(|key| picked(key, &is_key, pattern)),
            What::Hash(pattern) => {
                attributes.change(|key| picked(key, &is_key, pattern), |value| Some(hashed(value)));
            }
            What::Extract { pattern, names } => extract(&self.key, pattern, names, attributes),
            What::Convert(convert) => attributes.change(is_key, convert),
        }
    }
}

fn picked(key: &str, is_key: &impl Fn(&str) -> bool, pattern: &Option<Regex>) -> bool {
    is_key(key) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(key))
}

fn extract<'a>(
    key: &str,
    pattern: &Regex,
    names: &'a [String],
    attributes: &mut AttributeList<'a>,
) {
    let Some(source) = attributes.get(key).cloned() else { return };
    let AnyValue::String(source) = AnyValue::decode(&source) else { return };
    let Some(found) = pattern.captures(source) else { return };
    for (i, name) in names.iter().enumerate() {
        let part = found.get(i + 1).map_or("", |part| part.as_str());
        attributes.set(name, text(part));
    }
}

/// What is known of the sender by a name of `from_context`: `client.address`, `metadata.HEADER`,
/// `auth.ATTRIBUTE`, or a header alone. Several values are joined with `;`.
fn told(name: &str, sender: &Metadata) -> Option<String> {
    if name == "client.address" {
        return sender.peer.map(|peer| peer.to_string());
    }
    if let Some(attribute) = name.strip_prefix("auth.") {
        return sender.attribute(attribute).map(str::to_owned);
    }
    let header = name.strip_prefix("metadata.").unwrap_or(name);
    let values: Vec<_> =
        sender.header(header).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    (!values.is_empty()).then(|| values.join(";"))
}

impl Source {
    fn put<'a>(
        &'a self,
        when: When,
        key: &'a str,
        attributes: &mut AttributeList<'a>,
        sender: Option<&Metadata>,
    ) {
        let borrowed = |value: &'a Option<Vec<u8>>| value.as_deref().map(Cow::Borrowed);
        let of_sender = || Some(Cow::Owned(text(&told(&self.context, sender?)?)));
        let attribute = || attributes.get(&self.attribute).filter(|_| !self.attribute.is_empty());
        let value = borrowed(&self.value)
            .or_else(of_sender)
            .or_else(|| attribute().cloned())
            .or_else(|| borrowed(&self.default));
        let Some(value) = value else { return };
        match when {
            When::Absent if attributes.get(key).is_some() => {}
            When::Absent => attributes.push(key, value),
            When::Present => attributes.replace(key, value),
            When::Always => attributes.set(key, value),
        }
    }
}

impl ActionConfig {
    /// The action, or the end of a sentence that says what is wrong.
    fn what(&self, name: &str) -> Result<What, String> {
        let sources = usize::from(self.value.0.is_some())
            + usize::from(!self.from_attribute.is_empty())
            + usize::from(!self.from_context.is_empty());
        let unused = |key: &str| {
            Err(format!(
                ". Action \"{name}\" does not use the {key:?} field. This must not be specified"
            ))
        };
        Ok(match name {
            "insert" | "update" | "upsert" => {
                if sources == 0 && self.default_value.0.is_none() {
                    return Err(". Either field \"value\", \"from_attribute\", \"from_context\", or \"default_value\" must be specified".into());
                }
                if sources > 1 {
                    return Err(" due to multiple value sources being set".into());
                }
                if !self.pattern.is_empty() {
                    return unused("pattern");
                }
                if !self.converted_type.is_empty() {
                    return unused("converted_type");
                }
                let when = match name {
                    "insert" => When::Absent,
                    "update" => When::Present,
                    _ => When::Always,
                };
                let source = Source {
                    value: self.value.0.clone(),
                    context: self.from_context.clone(),
                    attribute: self.from_attribute.clone(),
                    default: self.default_value.0.clone(),
                };
                What::Put { when, source }
            }
            "delete" | "hash" => {
                if self.value.0.is_some() || !self.from_attribute.is_empty() {
                    return Err(format!(
                        ". Action \"{name}\" does not use \"value\" or \"from_attribute\" field. These must not be specified"
                    ));
                }
                let pattern = if self.pattern.is_empty() { None } else { Some(self.regex()?) };
                if !self.converted_type.is_empty() {
                    return unused("converted_type");
                }
                if name == "delete" { What::Delete(pattern) } else { What::Hash(pattern) }
            }
            "extract" => {
                if sources > 0 {
                    return Err(format!(
                        ". Action \"{name}\" does not use a value source field. These must not be specified"
                    ));
                }
                if self.pattern.is_empty() {
                    return Err(format!(
                        " due to missing required field \"pattern\" for action \"{name}\""
                    ));
                }
                if !self.converted_type.is_empty() {
                    return unused("converted_type");
                }
                let pattern = self.regex()?;
                let names: Vec<_> = pattern.capture_names().skip(1).collect();
                if names.is_empty() {
                    return Err(". Field \"pattern\" contains no named matcher groups".into());
                }
                let named: Option<Vec<String>> =
                    names.into_iter().map(|name| name.map(str::to_owned)).collect();
                let Some(names) = named else {
                    return Err(
                        ". Field \"pattern\" contains at least one unnamed matcher group".into()
                    );
                };
                What::Extract { pattern, names }
            }
            "convert" => {
                if sources > 0 || !self.pattern.is_empty() {
                    return Err(format!(
                        ". Action \"{name}\" does not use value sources or \"pattern\" field. These must not be specified"
                    ));
                }
                What::Convert(match self.converted_type.as_str() {
                    "string" => to_text,
                    "int" => to_int,
                    "double" => to_double,
                    "" => {
                        return Err(format!(
                            " due to missing required field \"converted_type\" for action \"{name}\""
                        ));
                    }
                    other => {
                        return Err(format!(
                            " due to invalid value \"{other}\" in field \"converted_type\" for action \"{name}\""
                        ));
                    }
                })
            }
            other => return Err(format!(" due to unsupported action {other:?}")),
        })
    }

    fn regex(&self) -> Result<Regex, String> {
        compile(&self.pattern)
            .map_err(|_| format!(". Field \"pattern\" has invalid pattern: \"{}\"", self.pattern))
    }
}
