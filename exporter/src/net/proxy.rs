//! Reaching a backend through an HTTP proxy: `proxy_url`, or the environment's HTTPS_PROXY,
//! HTTP_PROXY and NO_PROXY as Go reads them.

use std::io;

use tapio_proto::transport::grpc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{ConfigError, Endpoint};

/// Longest answer of a proxy to CONNECT that is read.
const MAX_ANSWER: usize = 8 << 10;

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) endpoint: Endpoint,
    /// CONNECT also for what is not encrypted, as gRPC needs it.
    pub(crate) tunnel: bool,
    /// `Basic ...`, from the user and password in the URL.
    pub(crate) authorization: Option<String>,
}

impl Proxy {
    /// The proxy for `to`: the one of the configuration, else the environment's.
    pub(crate) fn of(
        configured: &str,
        to: &Endpoint,
        tunnel: bool,
    ) -> Result<Option<Self>, ConfigError> {
        if !configured.is_empty() {
            return Self::parse(configured, tunnel).map(Some);
        }
        if to.socket.is_some() {
            return Ok(None);
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |name: &str| set(name).or_else(|| set(&name.to_lowercase()));
        if bypassed(&either("NO_PROXY").unwrap_or_default(), to) {
            return Ok(None);
        }
        // grpc-go asks for https:// whatever it speaks.
        let name = if to.tls || tunnel { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        either(name).map(|url| Self::parse(&url, tunnel)).transpose()
    }

    fn parse(url: &str, tunnel: bool) -> Result<Self, ConfigError> {
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let endpoint = Endpoint::http("proxy_url", &whole)?;
        if endpoint.tls {
            let why = "only proxies that are reached by http:// are known";
            return Err(ConfigError::new("proxy_url", why));
        }
        let rest = whole.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        let authorization = authority.rsplit_once('@').map(|(user, _)| {
            // Percent-encoded as grpc-message is.
            let user = grpc::decode_message(user.as_bytes());
            let mut encoded = grpc::encode_bin(user.as_bytes());
            while !encoded.len().is_multiple_of(4) {
                encoded.push('=');
            }
            format!("Basic {encoded}")
        });
        Ok(Proxy { endpoint, tunnel, authorization })
    }

    /// Asks the proxy for a tunnel to `authority` (`host:port`).
    pub(super) async fn connect(&self, stream: &mut TcpStream, authority: &str) -> io::Result<()> {
        let mut ask = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(value) = &self.authorization {
            ask.push_str("Proxy-Authorization: ");
            ask.push_str(value);
            ask.push_str("\r\n");
        }
        ask.push_str("\r\n");
        stream.write_all(ask.as_bytes()).await?;
        // Byte by byte, as what follows the head is the tunnel's; it happens once a connection.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == MAX_ANSWER {
                return Err(io::Error::other("the proxy's answer to CONNECT is too long"));
            }
            head.push(stream.read_u8().await?);
        }
        let line = String::from_utf8_lossy(&head);
        let line = line.lines().next().unwrap_or_default();
        match line.split_whitespace().nth(1) {
            Some("200") => Ok(()),
            _ => Err(io::Error::other(format!("the proxy refused CONNECT: {line}"))),
        }
    }
}

/// Whether a host is reached directly: this machine always, and what NO_PROXY lists.
fn bypassed(list: &str, to: &Endpoint) -> bool {
    let host = to.host.to_ascii_lowercase();
    let address: Option<std::net::IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
            _ => (entry.as_str(), None),
        };
        if port.is_some_and(|port| port != to.port.to_string()) {
            return false;
        }
        let suffix = name.trim_start_matches('*').trim_start_matches('.');
        name == "*"
            || host == name
            || host.strip_suffix(suffix).is_some_and(|rest| {
                rest.ends_with('.') || (rest.is_empty() && !name.starts_with('.'))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_as_go_reads_it() {
        for (list, host, expected) in [
            ("", "backend.test", false),
            ("", "localhost", true),
            ("", "127.0.0.1", true),
            ("*", "backend.test", true),
            ("backend.test", "backend.test", true),
            ("backend.test", "eu.backend.test", true),
            (".backend.test", "backend.test", false),
            ("other.test, .backend.test", "eu.backend.test", true),
            ("backend.test:80", "backend.test", false),
            ("backend.test:4318", "backend.test", true),
            ("end.test", "backend.test", false),
        ] {
            let to = Endpoint::http("endpoint", &format!("http://{host}:4318")).unwrap();
            assert_eq!(bypassed(list, &to), expected, "{list} {host}");
        }
    }
}
