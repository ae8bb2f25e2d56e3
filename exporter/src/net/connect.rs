//! Opening a connection, by TCP or TLS, to whichever address of a name answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientTls, ConfigError, Endpoint, Proxy};

/// For TCP and TLS handshakes together, and for finding out what a name stands for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An address that has not answered by then is not waited for alone: the next one is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Of the addresses of a name, the first so many are used.
const MAX_ADDRESSES: usize = 64;

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

impl Io for UnixStream {}

impl<S: Io> Io for TlsStream<S> {
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
    /// Which of several addresses the next connection tries first.
    turn: AtomicUsize,
    /// What tests have the name stand for.
    #[cfg(test)]
    pub(crate) stands_for: Mutex<Vec<SocketAddr>>,
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
        let connector = |endpoint, tls| Connector {
            endpoint,
            tls,
            proxy,
            turn: AtomicUsize::new(0),
            #[cfg(test)]
            stands_for: Mutex::default(),
        };
        if !endpoint.tls {
            return Ok(connector(endpoint, None));
        }
        let name = tls.server_name_override.clone().unwrap_or_else(|| endpoint.host.clone());
        let server = ServerName::try_from(name.clone()).map_err(|_| {
            ConfigError::new("endpoint", format!("{name:?} can be no name in a certificate"))
        })?;
        let current = Mutex::new((TlsConnector::from(tls.config(alpn)?), Instant::now()));
        let tls = Tls { server, config: tls.clone(), alpn: alpn.to_vec(), current };
        Ok(connector(endpoint, Some(tls)))
    }

    /// Whether requests go to a proxy that wants the whole URL: in the clear there is no tunnel.
    pub(crate) fn forwarding(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.endpoint.tls)
    }

    /// Whether it is for us to choose among the addresses of the name: a proxy looks them up itself.
    pub(crate) fn chooses(&self) -> bool {
        self.proxy.is_none() && self.endpoint.socket.is_none()
    }

    /// What the name stands for now, in the resolver's order.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.in_time(self.lookup()).await
    }

    /// Opens a connection to the address that answers first; the error says where to and why not.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        self.in_time(async {
            if let Some(socket) = &self.endpoint.socket {
                return self.secured(UnixStream::connect(socket).await?).await;
            }
            let mut addresses = self.lookup().await?;
            // A dead one is not always first, and the load of many connections is spread.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
            addresses.rotate_left(turn);
            self.over(first_to_answer(addresses).await?).await
        })
        .await
    }

    /// Opens a connection to one address of the name.
    pub(crate) async fn connect_to(&self, address: SocketAddr) -> io::Result<Stream> {
        let opened = self.in_time(async { self.over(TcpStream::connect(address).await?).await });
        opened.await.map_err(|error| match address.to_string() {
            at if error.to_string().contains(&at) => error,
            at => io::Error::new(error.kind(), format!("{error} ({at})")),
        })
    }

    async fn lookup(&self) -> io::Result<Vec<SocketAddr>> {
        #[cfg(test)]
        if let Ok(given) = self.stands_for.lock()
            && !given.is_empty()
        {
            return Ok(given.clone());
        }
        let to = self.proxy.as_ref().map_or(&self.endpoint, |proxy| &proxy.endpoint);
        let mut addresses = Vec::new();
        for address in lookup_host((to.host.as_str(), to.port)).await? {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// What comes above TCP.
    async fn over(&self, mut stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| self.endpoint.tls || proxy.tunnel) {
            proxy.connect(&mut stream, &self.endpoint.authority()).await?;
        }
        self.secured(stream).await
    }

    async fn secured(&self, stream: impl Io + 'static) -> io::Result<Stream> {
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream) as Stream);
        };
        let secured = tls.connector().connect(tls.server.clone(), stream).await;
        Ok(Box::new(secured.map_err(|error| tls.explained(error))?) as Stream)
    }

    async fn in_time<T>(&self, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let kind = if self.endpoint.socket.is_some() { "unix" } else { "tcp" };
        let to = format!("dial {kind} {}", self.endpoint.authority());
        match timeout(CONNECT_LIMIT, what).await {
            Ok(done) => {
                done.map_err(|error| io::Error::new(error.kind(), format!("{to}: {error}")))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{to}: no connection within {CONNECT_LIMIT:?}"),
            )),
        }
    }
}

/// Tries the addresses one after another, each beside those that have not answered yet. All get their turn
/// in the first half of the time that there is.
async fn first_to_answer(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [address] = addresses[..] {
        return TcpStream::connect(address).await;
    }
    let pause = STAGGER.min(CONNECT_LIMIT / 2 / u32::try_from(addresses.len()).unwrap_or(1).max(1));
    let mut trouble = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut waiting = addresses.into_iter();
    // Those that did not come first are given up with it.
    let mut attempts = JoinSet::new();
    loop {
        let next = waiting.next();
        let last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(async move {
                let with_address =
                    |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
                TcpStream::connect(address).await.map_err(with_address)
            });
        }
        let ended = match last {
            true => attempts.join_next().await,
            false => match timeout(pause, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => trouble = error,
            Some(Err(_)) => {}
            None => return Err(trouble),
        }
    }
}

impl Tls {
    /// Says what to do where the backend does not seem to speak TLS at all.
    fn explained(&self, error: io::Error) -> io::Error {
        let remedy = match self.alpn == b"h2" {
            true => "set tls::insecure: true",
            false => "write http:// in its endpoint",
        };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let text = match cause {
            Some(rustls::Error::InvalidMessage(_)) => {
                format!("the backend does not speak TLS ({error}): {remedy}, or see that it does")
            }
            None if error.kind() == io::ErrorKind::UnexpectedEof
                || error.kind() == io::ErrorKind::ConnectionReset =>
            {
                format!(
                    "the backend closed the connection in the TLS handshake: if it does not speak TLS, {remedy}"
                )
            }
            _ => return error,
        };
        io::Error::new(error.kind(), text)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::test_support::{Backlog, alone};

    fn connector() -> Connector {
        let endpoint = Endpoint::http("endpoint", "http://backend.test:4318").unwrap();
        Connector::new(endpoint, &ClientTls::default(), b"http/1.1", None).unwrap()
    }

    /// Guarantees: an address that does not even refuse costs a connection to another one a moment, and no
    /// connection as many of them as there are; what refuses costs nothing.
    #[tokio::test]
    async fn the_first_address_that_answers_is_taken() {
        let (hole, refusing) = (Backlog::full().await, alone().await);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let connector = connector();
        *connector.stands_for.lock().unwrap() = vec![hole.address, refusing, hole.address, good];
        for _ in 0..5 {
            let started = Instant::now();
            connector.connect().await.unwrap();
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }

    /// Guarantees: each connection begins at another address, so that none is always first.
    #[tokio::test]
    async fn each_connection_begins_at_the_next_address() {
        let listeners = [
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let connector = connector();
        *connector.stands_for.lock().unwrap() =
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        for listener in listeners.iter().cycle().take(4) {
            let (opened, came) =
                tokio::join!(connector.connect(), timeout(CONNECT_LIMIT, listener.accept()));
            opened.unwrap();
            came.unwrap().unwrap();
        }
    }

    /// Guarantees: where no address answers the error names one and says why.
    #[tokio::test]
    async fn where_none_answers_the_error_says_so() {
        let connector = connector();
        let (one, other) = (alone().await, alone().await);
        *connector.stands_for.lock().unwrap() = vec![one, other];
        let error = connector.connect().await.err().unwrap().to_string();
        assert!(error.starts_with("dial tcp backend.test:4318: 127.0.0.1:"), "{error}");
        let error = connector.connect_to(one).await.err().unwrap().to_string();
        assert!(error.contains(&one.to_string()), "{error}");
    }
}
