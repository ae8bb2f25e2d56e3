//! The `bearertokenauth` extension: a token that senders must show, or that we show to backends.

use std::{path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use tapio_exporter::{ClientAuth, Opaque};
use tapio_proto::{Code, Metadata, Status};
use tapio_receiver::{Authenticator, Verified};

use super::{auth::Authenticates, same, watched::Watched};
use crate::components::{Context, Stop};

/// Its keys are the Collector's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BearerTokenAuth {
    /// The header that carries it.
    header: String,
    /// What stands before the token; nothing when empty.
    scheme: String,
    token: Opaque,
    /// Any of them is good for a sender; backends are shown the first.
    tokens: Vec<Opaque>,
    /// A file with a token in each line, read again when it changes.
    filename: PathBuf,
}

impl Default for BearerTokenAuth {
    fn default() -> Self {
        BearerTokenAuth {
            header: "Authorization".into(),
            scheme: "Bearer".into(),
            token: Opaque::default(),
            tokens: Vec::new(),
            filename: PathBuf::new(),
        }
    }
}

struct Bearer {
    header: HeaderName,
    scheme: String,
    tokens: Tokens,
}

enum Tokens {
    Given(Arc<Vec<String>>),
    File(Watched<Vec<String>>),
}

impl BearerTokenAuth {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.token.0.is_empty() && !self.tokens.is_empty() {
            return Err("either tokens or token should be provided, not both".into());
        }
        if self.token.0.is_empty() && self.tokens.is_empty() && self.filename.as_os_str().is_empty()
        {
            return Err("no bearer token provided".into());
        }
        HeaderName::try_from(self.header.as_str())
            .map(drop)
            .map_err(|_| format!("header: {:?} is no header name", self.header))
    }

    fn build(self) -> Result<Bearer, String> {
        let header = HeaderName::try_from(self.header.as_str()).map_err(|e| e.to_string())?;
        let file = !self.filename.as_os_str().is_empty();
        if file && !(self.token.0.is_empty() && self.tokens.is_empty()) {
            tracing::warn!("a filename is specified. Configured token(s) is ignored!");
        }
        let tokens = if file {
            Tokens::File(Watched::open(self.filename, lines)?)
        } else {
            let all = std::iter::once(self.token).chain(self.tokens);
            Tokens::Given(Arc::new(all.map(|t| t.0).filter(|t| !t.is_empty()).collect()))
        };
        Ok(Bearer { header, scheme: self.scheme, tokens })
    }
}

fn lines(text: &str) -> Result<Vec<String>, String> {
    let tokens: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() { Err("holds no token".into()) } else { Ok(tokens) }
}

impl Bearer {
    fn tokens(&self) -> Arc<Vec<String>> {
        match &self.tokens {
            Tokens::Given(tokens) => Arc::clone(tokens),
            Tokens::File(file) => file.get(),
        }
    }

    fn with_scheme(&self, token: &str) -> String {
        if self.scheme.is_empty() { token.to_owned() } else { format!("{} {token}", self.scheme) }
    }

    fn verify(&self, headers: &HeaderMap) -> Result<(), String> {
        let Some(shown) = headers.get(&self.header).filter(|value| !value.is_empty()) else {
            return Err(format!("missing or empty authorization header: {}", self.header));
        };
        let known = self.tokens().iter().fold(false, |known, token| {
            known | same(self.with_scheme(token).as_bytes(), shown.as_bytes())
        });
        if known {
            Ok(())
        } else {
            Err("provided authorization does not match expected scheme or token".into())
        }
    }
}

impl Authenticator for Bearer {
    fn authenticate<'a>(&'a self, headers: &'a HeaderMap) -> Verified<'a> {
        Box::pin(async { self.verify(headers).map(|()| Vec::new()) })
    }
}

impl ClientAuth for Bearer {
    fn apply(&self, headers: &mut HeaderMap, _: Option<&Metadata>) -> Result<(), Status> {
        let tokens = self.tokens();
        let token = tokens.first().map(String::as_str).unwrap_or_default();
        let mut value = HeaderValue::try_from(self.with_scheme(token)).map_err(|_| {
            Status::new(Code::Unauthenticated, "the bearer token holds a control character")
        })?;
        value.set_sensitive(true);
        headers.insert(self.header.clone(), value);
        Ok(())
    }

    fn needs_tls(&self) -> bool {
        true
    }
}

pub(crate) async fn start(config: BearerTokenAuth, context: Context) -> Result<Stop, String> {
    let bearer = Arc::new(config.build()?);
    let authenticates =
        Authenticates { server: Some(Arc::clone(&bearer) as _), client: Some(bearer) };
    Ok(super::running(authenticates, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(json: &str) -> Bearer {
        let config: BearerTokenAuth = serde_json::from_str(json).unwrap();
        config.check().unwrap();
        config.build().unwrap()
    }

    fn shown(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn senders_show_one_of_the_tokens() {
        let server = bearer(r#"{"tokens": ["one", "two"]}"#);
        assert_eq!(server.verify(&shown("Bearer two")), Ok(()));
        let refused = Err("provided authorization does not match expected scheme or token".into());
        for wrong in ["Bearer three", "two", "Bearer", "bearer two", "Bearer two "] {
            assert_eq!(server.verify(&shown(wrong)), refused, "{wrong}");
        }
        let missing = "missing or empty authorization header: authorization";
        assert_eq!(server.verify(&HeaderMap::new()), Err(missing.into()));
    }

    #[test]
    fn backends_are_shown_the_first() {
        let mut headers = HeaderMap::new();
        bearer(r#"{"token": "one"}"#).apply(&mut headers, None).unwrap();
        assert_eq!(headers["authorization"], "Bearer one");
        bearer(r#"{"token": "k", "header": "X-Key", "scheme": ""}"#)
            .apply(&mut headers, None)
            .unwrap();
        assert_eq!(headers["x-key"], "k");
    }

    #[test]
    fn a_rotated_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("tapio-token-{}", std::process::id()));
        std::fs::write(&path, "one\n").unwrap();
        let server = bearer(&serde_json::json!({ "filename": path }).to_string());
        assert_eq!(server.verify(&shown("Bearer one")), Ok(()));
        std::fs::write(&path, "another\n").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(server.verify(&shown("Bearer another")), Ok(()));
        assert!(server.verify(&shown("Bearer one")).is_err());
        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(server.verify(&shown("Bearer another")), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_in_the_collectors_words() {
        for (json, words) in [
            ("{}", "no bearer token provided"),
            (
                r#"{"token":"a","tokens":["b"]}"#,
                "either tokens or token should be provided, not both",
            ),
        ] {
            let config: BearerTokenAuth = serde_json::from_str(json).unwrap();
            assert_eq!(config.check().unwrap_err(), words);
        }
    }
}
