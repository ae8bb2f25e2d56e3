//! Addresses that answer in odd ways, for tests.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A listener that nobody serves and whose queue is full: who connects hears nothing, not even a refusal.
pub(crate) struct Backlog {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Backlog {
    pub(crate) async fn full() -> Backlog {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let soon = std::time::Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        Backlog { address, _listener: listener, _waiting: waiting }
    }
}

/// An address at which nobody listens.
pub(crate) async fn alone() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
