//! Binding an address that a configuration names.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host},
};

/// What `endpoint` is an address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Tcp,
    Tcp4,
    Tcp6,
    Unix,
}

/// A bound address.
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// The socket's file is removed with the listener.
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// Removes the file of a unix socket when it is dropped.
pub(crate) struct SocketFile(PathBuf);

/// What a connection is read from and written to.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// An accepted connection.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An address could not be bound; the words are Go's, which is what people search for.
#[derive(Debug, thiserror::Error)]
#[error("listen {network} {endpoint}: {what}")]
pub(crate) struct BindError {
    network: &'static str,
    endpoint: String,
    what: String,
}

/// Whether a text can be a `host:port` to listen at, as far as can be told without listening.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let port = endpoint.rsplit_once(':').map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) => {
            Err(format!("endpoint {endpoint:?}: the port is to be a number from 0 to 65535"))
        }
        None => Err(format!("endpoint {endpoint:?}: missing port in address; expected HOST:PORT")),
    }
}

/// Binds `host:port`, or the path of a unix socket. An empty host means every address, IPv6 and
/// IPv4. Port 0 takes a free one.
pub(crate) async fn bind(network: Network, endpoint: &str) -> Result<Listener, BindError> {
    let fail =
        |what: String| BindError { network: network.name(), endpoint: endpoint.to_owned(), what };
    if network == Network::Unix {
        return bind_unix(Path::new(endpoint)).await.map_err(|error| fail(words(&error)));
    }
    if let Some(port) = endpoint.strip_prefix(':') {
        let port: u16 = port.parse().map_err(|_| {
            fail(format!("address {port}: invalid port (expected host:port, such as 0.0.0.0:4317)"))
        })?;
        // A machine without IPv6 refuses `[::]`.
        for address in [SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))] {
            if !network.takes(&address) {
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(Listener::Tcp(listener)),
                Err(error)
                    if network == Network::Tcp
                        && address.is_ipv6()
                        && error.kind() != io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(fail(words(&error))),
            }
        }
    }
    let addresses = lookup_host(endpoint)
        .await
        .map_err(|error| fail(format!("{error} (expected host:port, such as 0.0.0.0:4317)")))?;
    // Go prefers IPv4 for a name such as `localhost`; so do the clients that are told 127.0.0.1.
    let mut addresses: Vec<_> = addresses.filter(|address| network.takes(address)).collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let Some(address) = addresses.first() else {
        return Err(fail("no such host".to_owned()));
    };
    let listener = TcpListener::bind(address).await.map_err(|error| fail(words(&error)))?;
    Ok(Listener::Tcp(listener))
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    // A process that was killed leaves its socket behind; if nobody answers there it is ours.
    let left = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left && UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix { listener, _file: SocketFile(path.to_owned()) })
}

// === impl Network ===

impl Network {
    fn name(self) -> &'static str {
        match self {
            Network::Tcp => "tcp",
            Network::Tcp4 => "tcp4",
            Network::Tcp6 => "tcp6",
            Network::Unix => "unix",
        }
    }

    fn takes(self, address: &SocketAddr) -> bool {
        match self {
            Network::Tcp4 => address.is_ipv4(),
            Network::Tcp6 => address.is_ipv6(),
            _ => true,
        }
    }
}

// === impl Listener ===

impl Listener {
    /// The next connection, and who is at its other end.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                Ok((Stream::Tcp(stream), Some(peer.ip())))
            }
            Listener::Unix { listener, .. } => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }

    /// The address of a TCP listener.
    pub(crate) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Some),
            Listener::Unix { .. } => Ok(None),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
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
        let first = bind(Network::Tcp, "127.0.0.1:0").await.unwrap();
        let endpoint = first.address().unwrap().unwrap().to_string();
        let error = bind(Network::Tcp, &endpoint).await.err().unwrap().to_string();
        assert_eq!(error, format!("listen tcp {endpoint}: bind: address already in use"));
    }

    #[tokio::test]
    async fn an_empty_host_is_every_address() {
        for network in [Network::Tcp, Network::Tcp4] {
            let bound = bind(network, ":0").await.unwrap().address().unwrap().unwrap();
            assert!(bound.ip().is_unspecified());
            assert!(network == Network::Tcp || bound.is_ipv4());
        }
    }

    #[tokio::test]
    async fn nonsense_says_what_was_expected() {
        for endpoint in ["nonsense", ":port", "127.0.0.1:99999"] {
            let error = bind(Network::Tcp, endpoint).await.err().unwrap().to_string();
            assert!(error.starts_with(&format!("listen tcp {endpoint}: ")), "{error}");
            assert!(error.contains("expected host:port"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("tapio-listen-{}.sock", std::process::id()));
        let name = path.to_str().unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let first = bind(Network::Unix, name).await.unwrap();
        let error = bind(Network::Unix, name).await.err().unwrap().to_string();
        assert_eq!(error, format!("listen unix {name}: bind: address already in use"));
        drop(first);
        assert!(!path.exists());
    }
}
