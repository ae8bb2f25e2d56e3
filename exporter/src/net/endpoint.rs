//! Where a backend is: the forms of `endpoint` that the Collector takes.

use http::{Uri, uri::Scheme};

use super::ConfigError;

/// A host, a port, a path, and whether to speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// Path and query; `/` for gRPC.
    pub(crate) path: String,
    /// As it was written: what servers are told, a port only if there was one.
    pub(crate) host_header: String,
}

impl Endpoint {
    /// `host:port`, `http://host:port`, `https://host:port` or `dns:///host:port`. The scheme
    /// decides about TLS; without one `insecure` does.
    pub(crate) fn grpc(text: &str, insecure: bool) -> Result<Self, ConfigError> {
        if text.is_empty() {
            return Err(ConfigError::new("endpoint", "requires a non-empty \"endpoint\""));
        }
        let name = ["dns:///", "passthrough:///", "dns://"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        let with_scheme = if name.starts_with("http://") || name.starts_with("https://") {
            name.to_owned()
        } else if insecure {
            format!("http://{name}")
        } else {
            format!("https://{name}")
        };
        let endpoint = Self::parse("endpoint", text, &with_scheme, "host:port")?;
        Ok(Endpoint { path: "/".to_owned(), ..endpoint })
    }

    /// A URL with a scheme; the path is used as it is.
    pub(crate) fn http(key: &'static str, text: &str) -> Result<Self, ConfigError> {
        Self::parse(key, text, text, "http://host:port or https://host:port")
    }

    fn parse(
        key: &'static str,
        text: &str,
        url: &str,
        expected: &str,
    ) -> Result<Self, ConfigError> {
        let fail =
            || ConfigError::new(key, format!("{text:?} is no endpoint (expected {expected})"));
        let uri: Uri = url.parse().map_err(|_| fail())?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(fail()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(fail)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // `Uri` reads a port that is no number as no port at all.
        let port = match uri.port_u16() {
            Some(port) => port,
            None if authority.rsplit(']').next().is_some_and(|rest| rest.contains(':')) => {
                return Err(fail());
            }
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host_header = authority.rsplit('@').next().unwrap_or(authority).to_owned();
        Ok(Endpoint { host, port, tls, path, host_header })
    }

    /// `host:port` for messages.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_collector() {
        for (text, insecure, authority, tls) in [
            ("tempo:4317", true, "tempo:4317", false),
            ("tempo:4317", false, "tempo:4317", true),
            ("http://tempo:4317", false, "tempo:4317", false),
            ("https://tempo:4317/", true, "tempo:4317", true),
            ("https://tempo", true, "tempo:443", true),
            ("dns:///tempo:4317", true, "tempo:4317", false),
            ("[::1]:4317", true, "[::1]:4317", false),
        ] {
            let endpoint = Endpoint::grpc(text, insecure).unwrap();
            assert_eq!((endpoint.authority().as_str(), endpoint.tls), (authority, tls), "{text}");
        }
        let loki = Endpoint::http("endpoint", "http://loki:3100/otlp/v1/logs?x=1").unwrap();
        assert_eq!((loki.path.as_str(), loki.port), ("/otlp/v1/logs?x=1", 3100));
        let plain = Endpoint::http("endpoint", "https://otlp.example.com/v1").unwrap();
        assert_eq!((plain.host_header.as_str(), plain.port), ("otlp.example.com", 443));
    }

    #[test]
    fn what_is_no_endpoint_says_so() {
        let empty = Endpoint::grpc("", true).unwrap_err().to_string();
        assert_eq!(empty, "requires a non-empty \"endpoint\"");
        for text in ["tempo:port", "tempo:99999", "ftp://tempo:1", "http://", "a b"] {
            assert!(Endpoint::grpc(text, true).is_err(), "{text}");
        }
        let error = Endpoint::http("traces_endpoint", "tempo:4318").unwrap_err().to_string();
        assert!(error.starts_with("traces_endpoint: \"tempo:4318\" is no endpoint"), "{error}");
    }
}
