//! Headers that a configuration adds to each request.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::ConfigError;

/// Who is calling, as OTLP asks its exporters to say.
pub(crate) const USER_AGENT: &str = concat!("Tapio/", env!("CARGO_PKG_VERSION"));

/// A text that may be a secret: it is sent, never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Opaque(pub String);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// The configured headers, checked.
pub(crate) fn header_map(headers: &BTreeMap<String, Opaque>) -> Result<HeaderMap, ConfigError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let key = HeaderName::try_from(name.as_str())
            .map_err(|_| ConfigError::new("headers", format!("{name:?} is no header name")))?;
        let mut value = HeaderValue::try_from(value.0.as_str()).map_err(|_| {
            ConfigError::new("headers", format!("the value of {name} holds a control character"))
        })?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}
