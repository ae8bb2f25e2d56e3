//! A configuration as text again, with or without its secrets.

use serde_json::{Map, Value as Json};

use super::node::{Node, Number, Value, boolean, number};

/// What stands for a secret, as in the Collector.
const REDACTED: &str = "[REDACTED]";
/// Keys whose value is a secret wherever they stand: what the Collector's own and contrib components
/// declare opaque.
const SECRETS: &[&str] = &[
    "password",
    "token",
    "tokens",
    "bearer_token",
    "api_key",
    "secret",
    "client_secret",
    "access_key",
    "secret_key",
    "key_pem",
    "cert_pem",
    "ca_pem",
    "inline",
    "headers_list",
];
/// Keys below which everything is a secret: a map, or a list of names and values.
const SECRET_MAPS: &[&str] = &["headers", "response_headers"];

/// Pretty JSON.
pub(crate) fn json(root: &Node, redacted: bool) -> String {
    // A tree of texts, lists and maps has a JSON form.
    serde_json::to_string_pretty(&value(root, redacted, false)).unwrap_or_default()
}

/// Block-style YAML.
pub(crate) fn yaml(root: &Node, redacted: bool) -> String {
    let mut out = String::new();
    block(&value(root, redacted, false), 0, &mut out);
    out
}

fn value(node: &Node, redacted: bool, secret: bool) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { .. } if secret => REDACTED.into(),
        Value::Scalar { text, .. } if redacted && credentials(text).is_some() => {
            let (start, end) = credentials(text).unwrap_or_default();
            format!("{}{REDACTED}{}", &text[..start], &text[end..]).into()
        }
        Value::Scalar { text, plain: false } => text.as_str().into(),
        Value::Scalar { text, .. } => scalar(text),
        Value::List(nodes) => nodes.iter().map(|node| value(node, redacted, secret)).collect(),
        Value::Map(entries) => {
            let mut map = Map::new();
            for (key, node) in entries {
                let name = key.text.as_str();
                // Names in a list of names and values say what is hidden.
                let named = secret && matches!(name, "name" | "key");
                let hidden = secret || SECRETS.contains(&name) || SECRET_MAPS.contains(&name);
                map.insert(name.into(), value(node, redacted, redacted && hidden && !named));
            }
            Json::Object(map)
        }
    }
}

/// Where in a URL its user and password stand, if it has them: `https://user:password@host`.
fn credentials(text: &str) -> Option<(usize, usize)> {
    let start = text.find("://")? + 3;
    let rest = &text[start..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    Some((start, start + authority.rfind('@')?))
}

/// A plain scalar as the Collector reads it.
fn scalar(text: &str) -> Json {
    match number(text) {
        Some(Number::Int(whole)) => whole.into(),
        Some(Number::Large(whole)) => whole.into(),
        Some(Number::Float(real)) if real.is_finite() => real.into(),
        _ => boolean(text).map_or_else(|| text.into(), Json::from),
    }
}

fn block(value: &Json, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        Json::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = text(key);
                // YAML looks no further than 1,024 characters for the colon of a key.
                *out += &match key.chars().count() {
                    0..=1_000 => format!("{margin}{key}:"),
                    _ => format!("{margin}? {key}\n{margin}:"),
                };
                after(value, indent + 4, out);
            }
        }
        Json::Array(list) if !list.is_empty() => {
            for value in list {
                // The first line of an element stands behind its dash.
                let mut element = String::new();
                block(value, indent + 2, &mut element);
                *out += &format!("{margin}- {}", element.trim_start());
            }
        }
        other => *out += &format!("{margin}{}\n", inline(other)),
    }
}

/// What comes after `key:` or `-`.
fn after(value: &Json, indent: usize, out: &mut String) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Json::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        other => *out += &format!(" {}\n", inline(other)),
    }
}

fn inline(value: &Json) -> String {
    match value {
        Json::Object(_) => "{}".into(),
        Json::Array(_) => "[]".into(),
        Json::String(string) => text(string),
        // Numbers, booleans and null are written alike in both.
        other => other.to_string(),
    }
}

/// Plain where it cannot be taken for anything else, in double quotes otherwise: JSON's are YAML's.
fn text(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | ' ');
    let plain = text.chars().all(|c| harmless(c) || c == ':')
        && (text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') || is_duration(text))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { text.to_owned() } else { Json::from(text).to_string() }
}

/// `5s` and the like start with a digit and are no number.
fn is_duration(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h'])
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, 'n' | 'u' | 'm' | 's' | 'h'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::yaml as parser;

    const TEXT: &str = "exporters:
    otlp_grpc:
        endpoint: \"127.0.0.1:4317\"
        headers:
            authorization: Bearer hush
        tls:
            key_pem: hush
            insecure: true
        retry_on_failure: {}
        timeout: 5s
service:
    telemetry:
        metrics:
            readers:
                - periodic:
                      interval: 30000
                      exporter:
                          otlp:
                              headers:
                                  - name: x-key
                                    value: hush
    pipelines:
        traces:
            exporters:
                - otlp_grpc
";

    #[test]
    fn secrets_are_hidden_and_the_rest_is_as_it_was_written() {
        let root = parser::parse("t", TEXT).unwrap();
        let shown = yaml(&root, true);
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(shown.matches("[REDACTED]").count(), 3, "{shown}");
        assert!(shown.contains("name: x-key"), "{shown}");
        assert!(!json(&root, true).contains("hush"));
        assert!(json(&root, false).contains("Bearer hush"));
    }

    /// Guarantees: neither tokens in a list nor credentials in a URL are shown; the rest of the URL is.
    #[test]
    fn tokens_and_credentials_in_urls_are_hidden() {
        let text = "{tokens: [hush, hush2], endpoint: 'https://me:hu%2Fsh@h:1/p@q', proxy_url: http://hush@proxy, other: a@b}";
        let root = parser::parse("t", text).unwrap();
        let shown = yaml(&root, true);
        assert!(!shown.contains("hu"), "{shown}");
        assert!(shown.contains("https://[REDACTED]@h:1/p@q"), "{shown}");
        assert!(shown.contains("http://[REDACTED]@proxy") && shown.contains("a@b"), "{shown}");
        assert!(yaml(&root, false).contains("me:hu%2Fsh@h"));
    }

    #[test]
    fn what_is_printed_reads_as_the_same_configuration() {
        let root = parser::parse("t", TEXT).unwrap();
        assert_eq!(yaml(&root, false), TEXT);
        let odd = parser::parse("t", "{a: '0123', b: 0123, c: 'true', d: true, e: ~, f: 'x: y', g: [], h: '#', i: 1.5, j: ''}").unwrap();
        let again = parser::parse("t", &yaml(&odd, false)).unwrap();
        assert_eq!(json(&again, false), json(&odd, false));
    }
}
