//! Binding an address that a configuration names.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, lookup_host};

/// An address could not be bound; the words are Go's, which is what people search for.
#[derive(Debug, thiserror::Error)]
#[error("listen tcp {endpoint}: {what}")]
pub(crate) struct BindError {
    endpoint: String,
    what: String,
}

/// Binds `host:port`. An empty host means every address, IPv6 and IPv4. Port 0 takes a free one.
pub(crate) async fn bind(endpoint: &str) -> Result<TcpListener, BindError> {
    let fail = |what: String| BindError { endpoint: endpoint.to_owned(), what };
    if let Some(port) = endpoint.strip_prefix(':') {
        let port: u16 = port.parse().map_err(|_| fail(format!("address {port}: invalid port")))?;
        // A machine without IPv6 refuses `[::]`.
        for address in [SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))] {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) if address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(fail(words(&error))),
            }
        }
    }
    let addresses = lookup_host(endpoint)
        .await
        .map_err(|error| fail(format!("{error} (expected host:port, such as 0.0.0.0:4317)")))?;
    // Go prefers IPv4 for a name such as `localhost`; so do the clients that are told 127.0.0.1.
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first() else {
        return Err(fail("no such host".to_owned()));
    };
    TcpListener::bind(address).await.map_err(|error| fail(words(&error)))
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".to_owned(),
        _ => format!("bind: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let endpoint = first.local_addr().unwrap().to_string();
        let error = bind(&endpoint).await.unwrap_err().to_string();
        assert_eq!(error, format!("listen tcp {endpoint}: bind: address already in use"));
    }

    #[tokio::test]
    async fn an_empty_host_is_every_address() {
        let port = bind(":0").await.unwrap().local_addr().unwrap();
        assert!(port.ip().is_unspecified());
    }

    #[tokio::test]
    async fn nonsense_says_what_was_expected() {
        for endpoint in ["nonsense", ":port", "127.0.0.1:99999"] {
            let error = bind(endpoint).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("listen tcp {endpoint}: ")), "{error}");
        }
    }
}
