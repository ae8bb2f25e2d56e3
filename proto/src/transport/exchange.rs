//! What is told of an HTTP request and its answer to who measures them.

use std::time::Duration;

/// An HTTP request that was answered, or that got no answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// As it was sent.
    pub method: &'a str,
    /// The server as its client names it, without the port.
    pub host: &'a str,
    /// The server's port, if it is named.
    pub port: Option<u16>,
    /// Over TLS.
    pub https: bool,
    /// `1.1`, `2.0`.
    pub version: &'a str,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// Bytes of the request's body, as they go over the wire.
    pub request_bytes: usize,
    /// Bytes of the answer's body.
    pub response_bytes: usize,
    /// From the request to its answer.
    pub took: Duration,
}

/// Host and port of a `host` header or an authority; an address in brackets loses them.
pub fn split_host_port(text: &str) -> (&str, Option<u16>) {
    let (host, port) = match text.rsplit_once(':') {
        // The last part of an address in brackets is no port.
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_from_its_port() {
        for (text, host, port) in [
            ("shop", "shop", None),
            ("shop:4318", "shop", Some(4318)),
            ("shop:", "shop", None),
            ("shop:99999", "shop", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]:4318", "::1", Some(4318)),
            ("[::1]", "::1", None),
            ("", "", None),
        ] {
            assert_eq!(split_host_port(text), (host, port), "{text}");
        }
    }
}
