//! The `headers_setter` extension: headers of requests on their way out, from the headers they
//! came in with (`include_metadata` of the receiver), from the sender's identity, or fixed.

use std::{path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use tapio_exporter::{ClientAuth, ClientAuthConfig, Opaque};
use tapio_proto::{Code, Metadata, Status};

use super::{auth::Authenticates, watched::Watched};
use crate::components::{Context, Stop};

/// Its keys are the Collector's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HeadersSetter {
    headers: Vec<HeaderConfig>,
    /// An authenticator that comes before.
    additional_auth: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HeaderConfig {
    action: Action,
    key: Option<String>,
    value: Option<Opaque>,
    value_file: Option<PathBuf>,
    from_context: Option<String>,
    from_attribute: Option<String>,
    default_value: Option<Opaque>,
}

/// What becomes of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// Only if it is not there.
    Insert,
    /// Only if it is there.
    Update,
    /// In any case.
    #[default]
    #[serde(alias = "")]
    Upsert,
    /// Taken away.
    Delete,
}

struct Setter {
    headers: Vec<(HeaderName, Action, Source)>,
    before: Option<Arc<dyn ClientAuth>>,
}

enum Source {
    Nothing,
    Value(HeaderValue),
    File(Watched<HeaderValue>),
    Context(String, Option<HeaderValue>),
    Attribute(String, Option<HeaderValue>),
}

impl HeadersSetter {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.headers.is_empty() {
            return Err("missing headers configuration, must contain at least one header".into());
        }
        self.headers.iter().try_for_each(|header| {
            header.name()?;
            if header.action == Action::Delete {
                return Ok(());
            }
            let sources = [
                header.value.is_some(),
                header.value_file.is_some(),
                header.from_context.is_some(),
                header.from_attribute.is_some(),
            ];
            match sources.into_iter().filter(|set| *set).count() {
                0 => Err("missing header source, must be 'from_context', 'from_attribute', 'value' or 'value_file'".into()),
                1 => Ok(()),
                _ => Err("invalid header source, must either 'from_context', 'from_attribute', 'value' or 'value_file'".into()),
            }
        })
    }

    fn build(self, before: Option<Arc<dyn ClientAuth>>) -> Result<Setter, String> {
        let headers = self.headers.into_iter().map(|header| {
            let (name, action) = (header.name()?, header.action);
            Ok((name, action, header.source()?))
        });
        Ok(Setter { headers: headers.collect::<Result<_, String>>()?, before })
    }
}

impl HeaderConfig {
    fn name(&self) -> Result<HeaderName, String> {
        let key = self.key.as_deref().unwrap_or_default();
        if key.is_empty() {
            return Err("missing header name".into());
        }
        HeaderName::try_from(key).map_err(|_| format!("key: {key:?} is no header name"))
    }

    fn source(self) -> Result<Source, String> {
        if self.action == Action::Delete {
            return Ok(Source::Nothing);
        }
        let default = self.default_value.map(|text| value(&text.0)).transpose()?;
        if let Some(text) = self.value {
            return Ok(Source::Value(value(&text.0)?));
        }
        if let Some(path) = self.value_file {
            return Ok(Source::File(Watched::open(path, |text| value(text.trim()))?));
        }
        Ok(match (self.from_context, self.from_attribute) {
            (Some(key), _) => Source::Context(key, default),
            (None, Some(key)) => Source::Attribute(key, default),
            (None, None) => Source::Nothing,
        })
    }
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text).map_err(|_| "the value holds a control character".to_owned())
}

impl Source {
    /// The value for one request; `None` is none, which is sent as an empty one.
    fn of(&self, metadata: Option<&Metadata>) -> Result<HeaderValue, Status> {
        let empty = || HeaderValue::from_static("");
        let or_default = |default: &Option<HeaderValue>| default.clone().unwrap_or_else(empty);
        match self {
            Source::Nothing => Ok(empty()),
            Source::Value(value) => Ok(value.clone()),
            Source::File(file) => Ok(file.get().as_ref().clone()),
            Source::Attribute(key, default) => {
                match metadata.and_then(|metadata| metadata.attribute(key)) {
                    Some(text) => HeaderValue::try_from(text).map_err(|_| {
                        Status::new(Code::InvalidArgument, format!("{key} does not fit a header"))
                    }),
                    None => Ok(or_default(default)),
                }
            }
            Source::Context(key, default) => {
                let mut values = metadata.into_iter().flat_map(|metadata| metadata.header(key));
                let Some(first) = values.next() else { return Ok(or_default(default)) };
                if values.next().is_some() {
                    let text = format!(
                        "{} source keys found in the context, can't determine which one to use",
                        2 + values.count()
                    );
                    return Err(Status::new(Code::InvalidArgument, text));
                }
                HeaderValue::from_bytes(first).map_err(|_| {
                    Status::new(Code::InvalidArgument, format!("{key} does not fit a header"))
                })
            }
        }
    }
}

impl ClientAuth for Setter {
    fn apply(&self, headers: &mut HeaderMap, metadata: Option<&Metadata>) -> Result<(), Status> {
        if let Some(before) = &self.before {
            before.apply(headers, metadata)?;
        }
        for (name, action, source) in &self.headers {
            let there = headers.contains_key(name);
            match action {
                Action::Delete => drop(headers.remove(name)),
                Action::Insert if there => {}
                Action::Update if !there => {}
                _ => {
                    let value = source.of(metadata)?;
                    headers.insert(name.clone(), value);
                }
            }
        }
        Ok(())
    }

    fn needs_tls(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.needs_tls())
    }
}

pub(crate) async fn start(config: HeadersSetter, context: Context) -> Result<Stop, String> {
    let mut before = config
        .additional_auth
        .clone()
        .map(|authenticator| ClientAuthConfig { authenticator, client: None });
    context.host.authenticators.resolve(before.as_mut())?;
    let before = before.and_then(|config| config.client);
    let client: Arc<dyn ClientAuth> = Arc::new(config.build(before)?);
    let authenticates = Authenticates { client: Some(client), server: None };
    Ok(super::running(authenticates, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setter(json: &str) -> Setter {
        let config: HeadersSetter = serde_json::from_str(json).unwrap();
        config.check().unwrap();
        config.build(None).unwrap()
    }

    #[test]
    fn every_action_and_source() {
        let setter = setter(
            r#"{"headers":[
                {"key":"X-Scope-OrgID","from_context":"x-tenant"},
                {"key":"X-Default","from_context":"x-absent","default_value":"nobody"},
                {"key":"X-User","from_attribute":"username"},
                {"action":"insert","key":"X-There","value":"new"},
                {"action":"insert","key":"X-Not-There","value":"new"},
                {"action":"update","key":"X-Gone","value":"new"},
                {"action":"delete","key":"User-Agent"}]}"#,
        );
        let metadata = Metadata {
            headers: vec![("x-tenant".into(), "shop".into())],
            auth: vec![("username", "ada".into())],
            peer: None,
        };
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("Tapio"));
        headers.insert("x-there", HeaderValue::from_static("old"));
        setter.apply(&mut headers, Some(&metadata)).unwrap();
        let mut told: Vec<_> =
            headers.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        told.sort();
        assert_eq!(
            told,
            [
                "x-default=nobody",
                "x-not-there=new",
                "x-scope-orgid=shop",
                "x-there=old",
                "x-user=ada"
            ]
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (json, words) in [
            ("{}", "missing headers configuration"),
            (r#"{"headers":[{"value":"a"}]}"#, "missing header name"),
            (r#"{"headers":[{"key":"a"}]}"#, "missing header source"),
            (
                r#"{"headers":[{"key":"a","value":"b","from_context":"c"}]}"#,
                "invalid header source",
            ),
        ] {
            let config: HeadersSetter = serde_json::from_str(json).unwrap();
            let error = config.check().unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
