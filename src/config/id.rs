//! Names of components (`type[/name]`) and pipelines (`signal[/name]`).

use std::fmt;

use tapio_proto::Signal;

/// `type[/name]`, as the user wrote it; labels and log lines carry it so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ComponentId(String);

/// `signal[/name]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PipelineId {
    pub(crate) signal: Signal,
    text: String,
}

impl ComponentId {
    /// The Collector's rule: type `^[a-zA-Z][0-9a-zA-Z_]{0,62}$`, name without blanks and control characters.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = split(text)?;
        let letters = kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !letters || kind.len() > 63 || !kind.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!("in {text:?} id: invalid character(s) in type {kind:?}"));
        }
        if name.is_some_and(|name| {
            name.len() > 1024 || name.chars().any(|c| c.is_whitespace() || c.is_control())
        }) {
            return Err(format!("in {text:?} id: invalid character(s) in name"));
        }
        Ok(ComponentId(text.to_owned()))
    }

    /// The type: what stands before the slash.
    pub(crate) fn kind(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl PipelineId {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, _) = split(text)?;
        let signal = Signal::ALL.into_iter().find(|signal| signal.name() == kind);
        let signal =
            signal.ok_or_else(|| format!("in {text:?} id: unknown pipeline signal: {kind:?}"))?;
        Ok(PipelineId { signal, text: text.to_owned() })
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    match text.split_once('/') {
        _ if text.is_empty() => Err("id must not be empty".into()),
        Some(("", _)) => Err(format!("in {text:?} id: the part before / should not be empty")),
        Some((_, "")) => Err(format!("in {text:?} id: the part after / should not be empty")),
        Some((kind, name)) => Ok((kind, Some(name))),
        None => Ok((text, None)),
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
