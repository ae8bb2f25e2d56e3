//! The connections to a gRPC backend: one for each address that its name stands for, which take turns.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tapio_proto::Status;
use tokio::{sync::Notify, time::Instant};

use super::{
    config::Keepalive,
    connection::{Connection, lock},
    grpc::unavailable,
};
use crate::net::Connector;

/// Between attempts to connect: doubled from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// What a name stands for is not asked more often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Opens connections where there are none, in the background, and gives out those that are open.
pub(super) struct Pool {
    connector: Connector,
    keepalive: Option<Keepalive>,
    /// Each address has a connection; else there is one, to the address that answers first.
    spread: bool,
    state: Mutex<State>,
    /// Which connection is next.
    turn: AtomicUsize,
    /// An attempt to connect has ended, well or not.
    settled: Notify,
    /// The last failure, for those who come while the next attempt is not yet due.
    trouble: Mutex<String>,
}

#[derive(Default)]
struct State {
    channels: Arc<[Arc<Channel>]>,
    /// When it was last asked what the name stands for.
    looked: Option<Instant>,
    /// Somebody is about to open what is due.
    opening: bool,
    /// Of asking.
    backoff: Backoff,
}

/// One connection, or the place of one.
struct Channel {
    /// `None`: whichever answers first.
    address: Option<SocketAddr>,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    opening: bool,
    backoff: Backoff,
}

/// Attempts that failed in a row.
#[derive(Default)]
struct Backoff {
    failures: u32,
    next: Option<Instant>,
}

/// What there is to be had at once.
enum Found {
    Open(Connection),
    /// Nothing, but there may be soon.
    Soon,
    /// Nothing, and nobody is trying.
    Nothing,
}

impl Pool {
    pub(super) fn new(
        connector: Connector,
        keepalive: Option<Keepalive>,
        spread: bool,
    ) -> Arc<Pool> {
        let spread = spread && connector.chooses();
        let state = State {
            channels: if spread { Arc::default() } else { Arc::new([Arc::new(Channel::to(None))]) },
            ..State::default()
        };
        Arc::new(Pool {
            connector,
            keepalive,
            spread,
            state: Mutex::new(state),
            turn: AtomicUsize::new(0),
            settled: Notify::new(),
            trouble: Mutex::default(),
        })
    }

    /// `host:port`, for messages.
    pub(super) fn backend(&self) -> String {
        self.connector.endpoint.authority()
    }

    /// An open connection, the next in turn. Where none is open, the first that comes to be; who waits for
    /// it has a limit of his own, and each attempt has one.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Connection, Status> {
        if let Found::Open(connection) = self.find() {
            return Ok(connection);
        }
        loop {
            // Registered before the look: what is settled in between is not missed.
            let settled = self.settled.notified();
            match self.find() {
                Found::Open(connection) => return Ok(connection),
                Found::Soon => settled.await,
                Found::Nothing => return Err(unavailable(&lock(&self.trouble))),
            }
        }
    }

    /// Looks for an open connection, beginning with the next in turn. What is found broken on the way is
    /// opened again, and nobody waits for that.
    fn find(self: &Arc<Self>) -> Found {
        let channels = Arc::clone(&lock(&self.state).channels);
        let several = channels.len();
        let turn = if several > 1 { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let (mut due, mut soon, mut open) = (false, false, None);
        for step in 0..several {
            // Every other round the other way about: the share of a dead one goes to both its neighbours.
            let step = if (turn / several).is_multiple_of(2) { step } else { several - step };
            let mut link = lock(&channels[(turn + step) % several].link);
            if let Some(connection) = link.open() {
                open = Some(connection);
                break;
            }
            soon |= link.opening;
            due |= !link.opening && link.backoff.is_due();
        }
        if due || channels.is_empty() {
            soon |= self.open_again();
        } else if open.is_none() {
            soon |= lock(&self.state).opening;
        }
        match open {
            Some(connection) => Found::Open(connection),
            None if soon => Found::Soon,
            None => Found::Nothing,
        }
    }

    /// Has all that is due opened. False when it is too early to ask what there is.
    fn open_again(self: &Arc<Self>) -> bool {
        let mut state = lock(&self.state);
        if state.channels.is_empty() && !state.opening && !state.backoff.is_due() {
            return false;
        }
        if !std::mem::replace(&mut state.opening, true) {
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                // What is known does not wait for the resolver, which may be in the same trouble.
                pool.open_due();
                pool.look().await;
                lock(&pool.state).opening = false;
                pool.open_due();
                pool.settled.notify_waiters();
            });
        }
        true
    }

    /// Asks what the name stands for: a backend that went may have come back elsewhere.
    async fn look(&self) {
        let known = lock(&self.state).looked;
        if !self.spread || known.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return;
        }
        let found = self.connector.addresses().await.and_then(|addresses| {
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            if addresses.is_empty() { Err(none()) } else { Ok(addresses) }
        });
        let mut state = lock(&self.state);
        match found {
            Ok(addresses) => {
                // A connection to an address that is none any more ends with the last request on it.
                let kept = |address: SocketAddr| {
                    let mut channels = state.channels.iter();
                    let kept = channels.find(|channel| channel.address == Some(address)).cloned();
                    kept.unwrap_or_else(|| Arc::new(Channel::to(Some(address))))
                };
                state.channels = addresses.into_iter().map(kept).collect();
                state.looked = Some(Instant::now());
                state.backoff = Backoff::default();
            }
            // What was known is better than nothing.
            Err(error) if !state.channels.is_empty() => {
                tracing::debug!(backend = self.backend(), %error, "Looking up the backend failed.");
            }
            Err(error) => {
                state.backoff.failed();
                *lock(&self.trouble) = format!("connection error: {error}");
            }
        }
    }

    /// Opens each connection that is due, side by side.
    fn open_due(self: &Arc<Self>) {
        let channels = Arc::clone(&lock(&self.state).channels);
        for channel in channels.iter() {
            let mut link = lock(&channel.link);
            if link.open().is_none() && !link.opening && link.backoff.is_due() {
                link.opening = true;
                tokio::spawn(Arc::clone(self).open(Arc::clone(channel)));
            }
        }
    }

    async fn open(self: Arc<Self>, channel: Arc<Channel>) {
        let opened = async {
            let stream = match channel.address {
                Some(address) => self.connector.connect_to(address).await?,
                None => self.connector.connect().await?,
            };
            let begun = Connection::begin(stream, self.keepalive.clone()).await;
            begun.map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", self.backend()))
            })
        };
        let opened = opened.await;
        let several = lock(&self.state).channels.len() > 1;
        let mut link = lock(&channel.link);
        link.opening = false;
        match opened {
            Ok(connection) => {
                *link = Link { connection: Some(connection), ..Link::default() };
            }
            Err(error) => {
                // Where it is the only one, whoever sends hears it.
                if link.backoff.failures == 0 && several {
                    tracing::warn!(
                        %error,
                        "One of several addresses of a backend cannot be reached. The others are used meanwhile."
                    );
                }
                link.backoff.failed();
                *lock(&self.trouble) = format!("connection error: {error}");
            }
        }
        drop(link);
        self.settled.notify_waiters();
    }
}

impl Channel {
    fn to(address: Option<SocketAddr>) -> Self {
        Channel { address, link: Mutex::default() }
    }
}

impl Link {
    fn open(&mut self) -> Option<Connection> {
        if self.connection.as_mut().is_some_and(Connection::is_open) {
            return self.connection.clone();
        }
        self.connection = None;
        None
    }
}

impl Backoff {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn failed(&mut self) {
        let wait = FIRST_BACKOFF * 2u32.pow(self.failures.min(8));
        self.next = Some(Instant::now() + wait.min(LAST_BACKOFF));
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Mutex as StdMutex};

    use bytes::Bytes;
    use tapio_proto::{Accepted, Code, Consumer, Pending, Request, Signal};
    use tapio_receiver::{Consumers, Handle, OtlpConfig, OtlpReceiver};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{
        Observer, OtlpGrpcConfig,
        net::test_support::{Backlog, alone},
        otlp::grpc::GrpcClient,
    };

    /// Counts what comes to which of several backends.
    #[derive(Default)]
    struct Came(StdMutex<HashMap<usize, usize>>);

    struct One(Arc<Came>, usize);

    impl Consumer for One {
        fn consume(&self, _: Request) -> Pending<'_> {
            *self.0.0.lock().unwrap().entry(self.1).or_default() += 1;
            Box::pin(std::future::ready(Ok(Accepted::default())))
        }
    }

    struct Unseen;

    impl Observer for Unseen {
        fn sent(&self, _: Signal, _: usize) {}
        fn send_failed(&self, _: Signal, _: usize, _: &Status) {}
        fn enqueue_failed(&self, _: Signal, _: usize) {}
    }

    impl tapio_receiver::Observer for Unseen {
        fn received(
            &self,
            _: Signal,
            _: tapio_receiver::Transport,
            _: tapio_receiver::Verdict,
            _: usize,
        ) {
        }
    }

    async fn backend(came: &Arc<Came>, number: usize, at: &str) -> Handle {
        let config = serde_json::json!({"protocols": {"grpc": {"endpoint": at}}});
        let config: OtlpConfig = serde_json::from_value(config).unwrap();
        let next = Arc::new(One(Arc::clone(came), number)) as tapio_proto::Next;
        OtlpReceiver::start(&config, Consumers::all(&next), Arc::new(Unseen)).await.unwrap()
    }

    fn client(stands_for: Vec<SocketAddr>, more: serde_json::Value) -> GrpcClient {
        let mut config = serde_json::json!({"endpoint": "http://backend.test:4317"});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let config: OtlpGrpcConfig = serde_json::from_value(config).unwrap();
        let client = GrpcClient::new(&config, Arc::new(Unseen)).unwrap();
        *client.pool().connector.stands_for.lock().unwrap() = stands_for;
        client
    }

    fn nothing() -> Request {
        Request::new(Signal::Traces, Bytes::from_static(b"\x0a\x00"), 0)
    }

    fn counts(came: &Came) -> Vec<usize> {
        let mut counts: Vec<_> = came.0.lock().unwrap().drain().collect();
        counts.sort_unstable();
        counts.into_iter().map(|(_, count)| count).collect()
    }

    /// Guarantees: the addresses of a name share what is sent; one that is dead, mute or refuses costs the
    /// others nothing, not even the first request; one that comes to life takes its part; one that goes
    /// leaves its part to the others without an error.
    #[tokio::test(flavor = "multi_thread")]
    async fn addresses_take_turns_and_dead_ones_are_passed_over() {
        let came = Arc::new(Came::default());
        let any = "127.0.0.1:0";
        let (one, two) = (backend(&came, 1, any).await, backend(&came, 2, any).await);
        let (hole, later) = (Backlog::full().await, alone().await);
        let mute = tokio::net::TcpListener::bind(any).await.unwrap();
        let at = |handle: &Handle| handle.grpc_address().unwrap();
        let stands_for = vec![hole.address, later, mute.local_addr().unwrap(), at(&one), at(&two)];
        let client = client(stands_for, serde_json::json!({}));
        let started = Instant::now();
        client.consume(nothing()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
        counts(&came);
        for _ in 0..20 {
            client.consume(nothing()).await.unwrap();
        }
        let shares = counts(&came);
        assert!(shares.len() == 2 && shares.iter().all(|share| *share >= 8), "{shares:?}");
        let three = backend(&came, 3, &later.to_string()).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !came.0.lock().unwrap().contains_key(&3) {
            assert!(Instant::now() < deadline, "the third is never used");
            client.consume(nothing()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        one.shutdown(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        counts(&came);
        for _ in 0..20 {
            client.consume(nothing()).await.unwrap();
        }
        assert_eq!(counts(&came).len(), 2);
        drop((two, three));
    }

    /// Guarantees: a backend that is lost is looked for where its name points now.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_backend_that_moved_is_found() {
        let came = Arc::new(Came::default());
        let first = backend(&came, 1, "127.0.0.1:0").await;
        let client = client(vec![first.grpc_address().unwrap()], serde_json::json!({}));
        client.consume(nothing()).await.unwrap();
        let second = backend(&came, 2, "127.0.0.1:0").await;
        *client.pool().connector.stands_for.lock().unwrap() = vec![second.grpc_address().unwrap()];
        tokio::time::sleep(LOOK_AGAIN).await;
        first.shutdown(Duration::from_secs(1)).await;
        client.consume(nothing()).await.unwrap();
        assert_eq!(came.0.lock().unwrap()[&2], 1);
    }

    /// Guarantees: a backend behind a Unix socket is reached; one that is not there is named by its path.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_unix_socket_is_a_backend() {
        let path = std::env::temp_dir().join(format!("tapio-pool-{}.sock", std::process::id()));
        let endpoint = serde_json::json!({"endpoint": format!("unix://{}", path.display()), "tls": {"insecure": true}});
        let client = client(Vec::new(), endpoint);
        let status = client.consume(nothing()).await.unwrap_err();
        assert!(status.message.contains(path.to_str().unwrap()), "{}", status.message);
        let came = Arc::new(Came::default());
        let config =
            serde_json::json!({"protocols": {"grpc": {"endpoint": path, "transport": "unix"}}});
        let config: OtlpConfig = serde_json::from_value(config).unwrap();
        let next = Arc::new(One(Arc::clone(&came), 1)) as tapio_proto::Next;
        let handle =
            OtlpReceiver::start(&config, Consumers::all(&next), Arc::new(Unseen)).await.unwrap();
        tokio::time::sleep(FIRST_BACKOFF).await;
        client.consume(nothing()).await.unwrap();
        assert_eq!(counts(&came), [1]);
        handle.shutdown(Duration::from_secs(1)).await;
    }

    /// Guarantees: `pick_first` has one connection, to an address that answers.
    #[tokio::test(flavor = "multi_thread")]
    async fn pick_first_stays_with_one() {
        let came = Arc::new(Came::default());
        let (one, two) =
            (backend(&came, 1, "127.0.0.1:0").await, backend(&came, 2, "127.0.0.1:0").await);
        let at = |handle: &Handle| handle.grpc_address().unwrap();
        let hole = Backlog::full().await;
        let client = client(
            vec![hole.address, at(&one), at(&two)],
            serde_json::json!({"balancer_name": "pick_first"}),
        );
        for _ in 0..10 {
            client.consume(nothing()).await.unwrap();
        }
        assert_eq!(counts(&came), [10]);
    }

    /// Guarantees: what is no gRPC port is named with what would send to it; what is no name at all is an
    /// error at once, and the next attempt is not made for each request.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_no_grpc_port_is_named() {
        for (said, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], "4318"),
            (&b"\x15\x03\x01\x00\x02\x02\x46"[..], "speaks TLS here"),
            (&b""[..], "otlp_http"),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    stream.write_all(said).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let client = client(vec![address], serde_json::json!({}));
            let status = client.consume(nothing()).await.unwrap_err();
            assert_eq!(status.code, Code::Unavailable);
            assert!(status.message.contains(expected), "{}", status.message);
        }
    }
}
