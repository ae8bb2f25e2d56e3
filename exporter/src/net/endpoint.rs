//! Where a backend is: the forms of `endpoint` that the Collector takes.

use std::path::PathBuf;

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
    /// A Unix socket, in place of host and port.
    pub(crate) socket: Option<PathBuf>,
}

impl Endpoint {
    /// `host:port`, `http://host:port`, `https://host:port`, `dns:///host:port` or `unix:///path`. The scheme
    /// decides about TLS; without one `insecure` does.
    pub(crate) fn grpc(text: &str, insecure: bool) -> Result<Self, ConfigError> {
        let fail = |why: &str| Err(ConfigError::new("endpoint", format!("{text:?}: {why}")));
        if text.is_empty() {
            return Err(ConfigError::new("endpoint", "requires a non-empty \"endpoint\""));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return fail("a socket is named by its whole path (expected unix:///path)");
            }
            return Ok(Endpoint {
                host: "localhost".to_owned(),
                port: 0,
                tls: !insecure,
                path: "/".to_owned(),
                host_header: "localhost".to_owned(),
                socket: Some(path.into()),
            });
        }
        let name = ["dns:///", "passthrough:///"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        if name.starts_with("dns://") {
            return fail("only the system's resolver is asked (expected dns:///host:port)");
        }
        let bare = name.trim_start_matches("http://").trim_start_matches("https://");
        if bare.trim_end_matches('/').contains('/') {
            // In the Collector's words, which takes the path for a part of the port.
            let port = bare.rsplit_once(':').map_or(bare, |(_, port)| port);
            return fail(&format!(
                "invalid port {port:?}: gRPC knows no path (expected host:port)"
            ));
        }
        let host = bare.trim_end_matches('/').rsplit(']').next().unwrap_or_default();
        if !host.contains(':') && !name.starts_with("https://") {
            return fail("missing port in address (expected host:port; by custom 4317)");
        }
        // No host is this one, as in Go.
        let local = if bare.starts_with(':') { "localhost" } else { "" };
        let with_scheme = if name.starts_with("http://") {
            format!("http://{local}{bare}")
        } else if name.starts_with("https://") || !insecure {
            format!("https://{local}{bare}")
        } else {
            format!("http://{local}{bare}")
        };
        let endpoint = Self::parse("endpoint", text, &with_scheme, "host:port")?;
        Ok(Endpoint { path: "/".to_owned(), ..endpoint })
    }

    /// A URL with a scheme; the path is used as it is.
    pub(crate) fn http(key: &'static str, text: &str) -> Result<Self, ConfigError> {
        if text.starts_with("unix:") || text.starts_with("http+unix:") {
            let why = format!("{text:?}: only otlp_grpc sends to a socket (unix:///path)");
            return Err(ConfigError::new(key, why));
        }
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
        Ok(Endpoint { host, port, tls, path, host_header, socket: None })
    }

    /// `host:port` for messages.
    pub(crate) fn authority(&self) -> String {
        if let Some(socket) = &self.socket {
            socket.display().to_string()
        } else if self.host.contains(':') {
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
            (":4317", true, "localhost:4317", false),
            ("unix:///run/otlp.sock", true, "/run/otlp.sock", false),
            ("unix:///run/otlp.sock", false, "/run/otlp.sock", true),
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
        for (text, why) in [
            ("tempo", "missing port"),
            ("http://tempo", "missing port"),
            ("[::1]", "missing port"),
            ("https://tempo:4317/path", "no path"),
            ("tempo:4317/path", "no path"),
            ("unix://run/otlp.sock", "unix:///path"),
            ("dns://1.1.1.1/tempo:4317", "dns:///host:port"),
        ] {
            let error = Endpoint::grpc(text, true).unwrap_err().to_string();
            assert!(error.starts_with("endpoint: ") && error.contains(why), "{error}");
        }
        let error = Endpoint::http("endpoint", "unix:///run/x/v1/traces").unwrap_err().to_string();
        assert!(error.contains("otlp_grpc"), "{error}");
        let error = Endpoint::http("traces_endpoint", "tempo:4318").unwrap_err().to_string();
        assert!(error.starts_with("traces_endpoint: \"tempo:4318\" is no endpoint"), "{error}");
    }
}
