//! The PostgreSQL door: SQL over the store, read-only, for psql, Grafana and the program's own commands.
//!
//! It runs on a thread of its own, so that a heavy question takes no worker from the hop, and builds
//! nothing of DataFusion before the first client comes.

mod guard;
mod hook;
mod session;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread,
    time::Duration,
};

use datafusion_postgres::pgwire::tokio::process_socket;
use tapio_processor::store::Store;
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
};

use guard::Handlers;

/// Where the door is unless somebody says otherwise; 5432 is left to a PostgreSQL.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:15432";
/// Clients at a time.
const CONNECTIONS: usize = 32;
/// Longest run of a query, its rows included.
const RUN: Duration = Duration::from_secs(30);
/// Rest after the operating system refused a connection (no file descriptors).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    /// It would be open to others than this machine.
    #[error(
        "SQL door: {0} is not a loopback address; the door asks for no password yet, so it opens on 127.0.0.1 or ::1 only"
    )]
    Exposed(SocketAddr),
    /// The address is taken, or not ours.
    #[error("SQL door: cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The operating system's word.
        source: io::Error,
    },
}

/// An open door; dropping it closes it, and cuts what runs.
#[derive(Debug)]
pub(crate) struct DoorHandle {
    address: SocketAddr,
    _close: oneshot::Sender<()>,
}

impl DoorHandle {
    /// Where it listens; the port is the real one when 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Opens the door over the store.
pub(crate) fn start(store: Arc<Store>, address: SocketAddr) -> Result<DoorHandle, DoorError> {
    open(store, address, RUN)
}

fn open(store: Arc<Store>, address: SocketAddr, run: Duration) -> Result<DoorHandle, DoorError> {
    if !address.ip().is_loopback() {
        return Err(DoorError::Exposed(address));
    }
    let listen = |source| DoorError::Listen { address, source };
    let listener = StdListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(listen)?;
    let (close, closed) = oneshot::channel();
    let serve = move || runtime.block_on(serve(listener, store, run, closed));
    thread::Builder::new().name("tapio-sql".to_owned()).spawn(serve).map_err(listen)?;
    Ok(DoorHandle { address, _close: close })
}

async fn serve(
    listener: StdListener,
    store: Arc<Store>,
    run: Duration,
    mut closed: oneshot::Receiver<()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "SQL door: closed"),
    };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut handlers = None;
    loop {
        let accepted = tokio::select! {
            _ = &mut closed => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "SQL door: no connection taken");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            tracing::warn!(%client, limit = CONNECTIONS, "SQL door: refused, too many clients");
            continue;
        };
        let handlers = match &handlers {
            Some(handlers) => Arc::clone(handlers),
            None => match Handlers::new(&store, run) {
                Ok(new) => Arc::clone(handlers.insert(Arc::new(new))),
                Err(error) => {
                    tracing::error!(%error, "SQL door: no session over the store");
                    continue;
                }
            },
        };
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(socket, handlers).await {
                tracing::debug!(%client, %error, "SQL door: connection ended");
            }
        });
    }
}

/// Serves one client until it has gone; what still runs for it then is dropped.
async fn connection(socket: TcpStream, handlers: Arc<Handlers>) -> io::Result<()> {
    // The server does not read while a query runs, so a second handle watches for the end.
    let socket = socket.into_std()?;
    let watch = TcpStream::from_std(socket.try_clone()?)?;
    let socket = TcpStream::from_std(socket)?;
    tokio::select! {
        done = process_socket(socket, None, handlers) => done,
        gone = gone(&watch) => gone,
    }
}

async fn gone(watch: &TcpStream) -> io::Result<()> {
    while !watch.ready(Interest::READABLE).await?.is_read_closed() {
        // Data is the server's to read; "would block" makes the next `ready` wait for news.
        let _ = watch.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
    Ok(())
}
