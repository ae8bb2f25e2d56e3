//! Opening a connection, by TCP or TLS.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientTls, ConfigError, Endpoint, Proxy};

/// For TCP and TLS handshakes together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection of either kind.
pub(crate) type Stream = Box<dyn Io>;

/// What HTTP needs of a connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// Tells the peer now what has arrived, not with the next that is sent.
    fn acknowledge(&self) {}
}

impl Io for TcpStream {
    fn acknowledge(&self) {
        // Without it the peer hears of it a little later.
        #[cfg(target_os = "linux")]
        let _ = self.set_quickack(true);
    }
}

impl Io for TlsStream<TcpStream> {
    fn acknowledge(&self) {
        self.get_ref().0.acknowledge();
    }
}

impl<T: Io + ?Sized> Io for Box<T> {
    fn acknowledge(&self) {
        (**self).acknowledge();
    }
}

/// Opens connections to one endpoint.
pub(crate) struct Connector {
    pub(crate) endpoint: Endpoint,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
}

/// TLS that is set up, and set up again when its files are due to be read again.
struct Tls {
    server: ServerName<'static>,
    config: ClientTls,
    alpn: Vec<u8>,
    current: Mutex<(TlsConnector, Instant)>,
}

impl Connector {
    /// `alpn` is the protocol to agree on when the endpoint speaks TLS.
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: &ClientTls,
        alpn: &[u8],
        proxy: Option<Proxy>,
    ) -> Result<Self, ConfigError> {
        if !endpoint.tls {
            return Ok(Connector { endpoint, tls: None, proxy });
        }
        let name = tls.server_name_override.clone().unwrap_or_else(|| endpoint.host.clone());
        let server = ServerName::try_from(name.clone()).map_err(|_| {
            ConfigError::new("endpoint", format!("{name:?} can be no name in a certificate"))
        })?;
        let current = Mutex::new((TlsConnector::from(tls.config(alpn)?), Instant::now()));
        let tls = Tls { server, config: tls.clone(), alpn: alpn.to_vec(), current };
        Ok(Connector { endpoint, tls: Some(tls), proxy })
    }

    /// Whether requests go to a proxy that wants the whole URL: in the clear there is no tunnel.
    pub(crate) fn forwarding(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.endpoint.tls)
    }

    /// Opens a connection; the error says where to and why not.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let authority = self.endpoint.authority();
        let opened = timeout(CONNECT_LIMIT, async {
            let host = match &self.proxy {
                None => (self.endpoint.host.as_str(), self.endpoint.port),
                Some(proxy) => (proxy.endpoint.host.as_str(), proxy.endpoint.port),
            };
            let mut stream = TcpStream::connect(host).await?;
            stream.set_nodelay(true)?;
            if let Some(proxy) =
                self.proxy.as_ref().filter(|proxy| self.endpoint.tls || proxy.tunnel)
            {
                proxy.connect(&mut stream, &authority).await?;
            }
            let Some(tls) = &self.tls else {
                return Ok(Box::new(stream) as Stream);
            };
            let stream = tls.connector().connect(tls.server.clone(), stream).await?;
            Ok(Box::new(stream) as Stream)
        });
        match opened.await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let error: io::Error = error;
                Err(io::Error::new(error.kind(), format!("dial tcp {authority}: {error}")))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("dial tcp {authority}: no connection within {CONNECT_LIMIT:?}"),
            )),
        }
    }
}

impl Tls {
    /// For the next connection. Files that cannot be read any more change nothing but the log.
    fn connector(&self) -> TlsConnector {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let every = *self.config.reload_interval;
        if !every.is_zero() && current.1.elapsed() >= every {
            current.1 = Instant::now();
            match self.config.config(&self.alpn) {
                Ok(config) => current.0 = TlsConnector::from(config),
                Err(error) => {
                    tracing::warn!(%error, "Reading the certificates again failed. Those read before are kept.");
                }
            }
        }
        current.0.clone()
    }
}
