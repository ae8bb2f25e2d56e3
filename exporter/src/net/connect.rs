//! Opening a connection, by TCP or TLS.

use std::{io, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{ClientTls, ConfigError, Endpoint};

/// For TCP and TLS handshakes together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection of either kind.
pub(crate) type Stream = Box<dyn Io>;

/// What HTTP needs of a connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens connections to one endpoint.
pub(crate) struct Connector {
    pub(crate) endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// `alpn` is the protocol to agree on when the endpoint speaks TLS.
    pub(crate) fn new(
        endpoint: Endpoint,
        tls: &ClientTls,
        alpn: &[u8],
    ) -> Result<Self, ConfigError> {
        if !endpoint.tls {
            return Ok(Connector { endpoint, tls: None });
        }
        let name = tls.server_name_override.clone().unwrap_or_else(|| endpoint.host.clone());
        let server = ServerName::try_from(name.clone()).map_err(|_| {
            ConfigError::new("endpoint", format!("{name:?} can be no name in a certificate"))
        })?;
        let connector = TlsConnector::from(Arc::clone(&tls.config(alpn)?));
        Ok(Connector { endpoint, tls: Some((connector, server)) })
    }

    /// Opens a connection; the error says where to and why not.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let authority = self.endpoint.authority();
        let opened = timeout(CONNECT_LIMIT, async {
            let host = (self.endpoint.host.as_str(), self.endpoint.port);
            let stream = TcpStream::connect(host).await?;
            stream.set_nodelay(true)?;
            let Some((connector, server)) = &self.tls else {
                return Ok(Box::new(stream) as Stream);
            };
            let stream = connector.connect(server.clone(), stream).await?;
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
