//! Where Tapio's own telemetry goes: the `otlp` exporter of the OpenTelemetry configuration schema
//! (0.2 and 0.3), turned into one of Tapio's own.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use tapio_exporter::{OtlpGrpcConfig, OtlpHttpConfig};

use crate::config::{decode, yaml};

/// Times are milliseconds.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Otlp {
    /// `grpc` or `http/protobuf`.
    protocol: String,
    endpoint: String,
    insecure: Option<bool>,
    certificate: Option<String>,
    client_certificate: Option<String>,
    client_key: Option<String>,
    compression: Option<String>,
    headers: Headers,
    headers_list: Option<String>,
    timeout: Option<u64>,
    temporality_preference: Option<String>,
    default_histogram_aggregation: Option<String>,
}

/// A list of names and values, or (0.2) a map.
#[derive(Clone, Default, PartialEq)]
struct Headers(BTreeMap<String, String>);

/// An exporter that is not started yet. Neither queues nor tries again: what is missed is told by the
/// next metrics.
pub(crate) enum Target {
    Grpc(Box<OtlpGrpcConfig>),
    Http(Box<OtlpHttpConfig>),
}

impl Otlp {
    /// The exporter that it means.
    pub(crate) fn target(&self) -> Result<Target, String> {
        if self.endpoint.is_empty() {
            return Err("otlp: requires a non-empty \"endpoint\"".into());
        }
        if self
            .temporality_preference
            .as_deref()
            .is_some_and(|preference| preference != "cumulative")
        {
            return Err("otlp: temporality_preference: only cumulative is told".into());
        }
        if self
            .default_histogram_aggregation
            .as_deref()
            .is_some_and(|kind| kind != "explicit_bucket_histogram")
        {
            return Err(
                "otlp: default_histogram_aggregation: only explicit_bucket_histogram is told"
                    .into(),
            );
        }
        let insecure = self.insecure.unwrap_or(false);
        let endpoint = match self.endpoint.contains("://") {
            true => self.endpoint.clone(),
            false => format!("{}://{}", if insecure { "http" } else { "https" }, self.endpoint),
        };
        let mut body = vec![
            format!("timeout: {}ms", self.timeout.unwrap_or(10_000)),
            format!("compression: {}", quoted(self.compression.as_deref().unwrap_or("none"))),
            "sending_queue: {enabled: false}".to_owned(),
            "retry_on_failure: {enabled: false}".to_owned(),
        ];
        let headers: Vec<_> = self
            .headers
            .0
            .iter()
            .map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)))
            .chain(self.headers_list.iter().flat_map(|list| list.split(',')).filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some(format!("{}: {}", quoted(name.trim()), quoted(value.trim())))
            }))
            .collect();
        body.push(format!("headers: {{{}}}", headers.join(", ")));
        let mut tls = vec![format!("insecure: {insecure}")];
        for (key, path) in [
            ("ca_file", &self.certificate),
            ("cert_file", &self.client_certificate),
            ("key_file", &self.client_key),
        ] {
            tls.extend(path.iter().map(|path| format!("{key}: {}", quoted(path))));
        }
        body.push(format!("tls: {{{}}}", tls.join(", ")));
        let bad = |text: String| format!("otlp: {text}");
        match self.protocol.as_str() {
            "grpc" => {
                body.push(format!("endpoint: {}", quoted(&endpoint)));
                Ok(Target::Grpc(Box::new(read(&body).map_err(bad)?)))
            }
            "http/protobuf" => {
                let authority = endpoint.split_once("://").map_or("", |(_, rest)| rest);
                match authority.trim_end_matches('/').contains('/') {
                    // A path is used as it is, as in the schema.
                    true => ["traces", "metrics", "logs"].into_iter().for_each(|signal| {
                        body.push(format!("{signal}_endpoint: {}", quoted(&endpoint)));
                    }),
                    false => {
                        body.push(format!("endpoint: {}", quoted(endpoint.trim_end_matches('/'))))
                    }
                }
                Ok(Target::Http(Box::new(read(&body).map_err(bad)?)))
            }
            other => Err(format!("otlp: unknown protocol {other:?}; use grpc or http/protobuf")),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[String]) -> Result<T, String> {
    let node =
        yaml::parse("otlp", &format!("{{{}}}", body.join(", "))).map_err(|problem| problem.text)?;
    decode(&node)
        .map_err(|wrong| wrong.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; "))
}

/// A YAML scalar in double quotes.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Headers may be secrets: only their names are shown.
impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.endpoint)
            .field("headers", &self.headers.0.keys())
            .finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Header {
            name: String,
            #[serde(default)]
            value: String,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of {name, value}, or a map")
            }

            fn visit_unit<E>(self) -> Result<Headers, E> {
                Ok(Headers::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::default();
                while let Some(Header { name, value }) = list.next_element()? {
                    headers.0.insert(name, value);
                }
                Ok(headers)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::default();
                while let Some((name, value)) = map.next_entry()? {
                    headers.0.insert(name, value);
                }
                Ok(headers)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn target(text: &str) -> Target {
        let node = yaml::parse("t", text).unwrap();
        decode::<Otlp>(&node).unwrap().target().unwrap()
    }

    #[test]
    fn endpoints_follow_the_schema() {
        let Target::Grpc(grpc) =
            target("{protocol: grpc, endpoint: 'x:4317', insecure: true, headers: {a: b}}")
        else {
            panic!("not gRPC")
        };
        assert_eq!((grpc.endpoint.as_str(), grpc.headers.len()), ("http://x:4317", 1));
        let Target::Http(http) = target(
            "{protocol: http/protobuf, endpoint: 'https://x/own/path', headers: [{name: a, value: b}]}",
        ) else {
            panic!("not HTTP")
        };
        assert_eq!(http.metrics_endpoint, "https://x/own/path");
        let Target::Http(http) = target("{protocol: http/protobuf, endpoint: 'http://x:4318/'}")
        else {
            panic!("not HTTP")
        };
        assert_eq!((http.endpoint.as_str(), http.sending_queue.enabled), ("http://x:4318", false));
    }

    #[test]
    fn secrets_are_not_shown() {
        let node = yaml::parse("t", "{headers: {authorization: hush}}").unwrap();
        let shown = format!("{:?}", decode::<Otlp>(&node).unwrap());
        assert!(shown.contains("authorization") && !shown.contains("hush"), "{shown}");
    }
}
