//! The gate between a receiver and its pipelines: while a reload exchanges the pipelines, the receiver
//! goes on listening, and what comes waits here.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tapio_proto::{Consumer, Next, Pending, Request, Status, transport::Compression};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

/// Requests that may wait at a gate; more are told to come again.
const MOST_WAITING: usize = 256;
/// How long a request waits: less than the ten seconds that SDKs give an export.
const PATIENCE: Duration = Duration::from_secs(8);
/// What a sender that finds no room is told to wait.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// How often a closing gate looks whether the requests under way are through.
const LOOK: Duration = Duration::from_millis(2);

/// Passes requests on; closed, it keeps them.
pub(crate) struct Gate {
    /// What is behind it, one reference for each request under way; nothing while it is closed.
    lane: RwLock<Option<Arc<Next>>>,
    opened: Notify,
    waiting: AtomicUsize,
}

impl Gate {
    /// An open gate.
    pub(crate) fn before(next: Next) -> Self {
        Gate {
            lane: RwLock::new(Some(Arc::new(next))),
            opened: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Lets nothing more through, and waits until what is under way is through; `false` when it still
    /// was not at the limit.
    pub(crate) async fn close(&self, limit: Duration) -> bool {
        let Some(lane) = self.lane.write().unwrap_or_else(PoisonError::into_inner).take() else {
            return true;
        };
        let deadline = Instant::now() + limit;
        while Arc::strong_count(&lane) > 1 {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Opens it, with other pipelines behind it.
    pub(crate) fn open(&self, next: Next) {
        *self.lane.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(next));
        self.opened.notify_waiters();
    }

    fn lane(&self) -> Option<Arc<Next>> {
        self.lane.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn wait(&self) -> Result<Arc<Next>, Status> {
        let _place = Place::take(&self.waiting).ok_or_else(refusal)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            // Heard from here on, so that it cannot open unheard between the look and the wait.
            opened.as_mut().enable();
            if let Some(lane) = self.lane() {
                return Ok(lane);
            }
            timeout_at(deadline, opened).await.map_err(|_| refusal())?;
        }
    }
}

impl Consumer for Gate {
    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            let lane = match self.lane() {
                Some(lane) => lane,
                None => self.wait().await?,
            };
            // Asked of other pipelines, before a reload.
            if request.is_closed().is_some_and(|compression| !lane.takes_closed(compression)) {
                return Err(refusal());
            }
            lane.consume(request).await
        })
    }

    fn takes_closed(&self, compression: Compression) -> bool {
        self.lane().is_some_and(|lane| lane.takes_closed(compression))
    }
}

fn refusal() -> Status {
    Status::unavailable("the configuration is being reloaded").with_retry_after(COME_AGAIN)
}

/// A place among those that wait, given back when its holder goes, also when it goes away early.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Relaxed) < MOST_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use tapio_proto::{Accepted, Signal};

    use super::*;

    /// Answers after a while, and counts.
    #[derive(Default)]
    struct Slow(AtomicUsize);

    impl Consumer for Slow {
        fn consume(&self, _: Request) -> Pending<'_> {
            Box::pin(async {
                sleep(Duration::from_millis(50)).await;
                self.0.fetch_add(1, Relaxed);
                Ok(Accepted::default())
            })
        }
    }

    fn request() -> Request {
        Request::new(Signal::Logs, Bytes::new(), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_ends_and_what_comes_waits_for_the_next_pipelines() {
        let (old, new) = (Arc::new(Slow::default()), Arc::new(Slow::default()));
        let gate = Arc::new(Gate::before(old.clone()));
        let send = || {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.consume(request()).await })
        };
        let under_way = send();
        sleep(Duration::from_millis(1)).await;
        assert!(gate.close(Duration::from_secs(1)).await);
        assert_eq!(old.0.load(Relaxed), 1);
        under_way.await.unwrap().unwrap();
        let late = send();
        sleep(Duration::from_millis(100)).await;
        assert!(!late.is_finished());
        gate.open(new.clone());
        late.await.unwrap().unwrap();
        assert_eq!((old.0.load(Relaxed), new.0.load(Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn what_was_left_closed_for_other_pipelines_comes_again() {
        struct Through;
        impl Consumer for Through {
            fn consume(&self, _: Request) -> Pending<'_> {
                Box::pin(async { Ok(Accepted::default()) })
            }
            fn takes_closed(&self, compression: Compression) -> bool {
                compression == Compression::Gzip
            }
        }
        let gate = Gate::before(Arc::new(Through));
        let closed = || Request::closed(Signal::Logs, Compression::Gzip, Bytes::from_static(b"x"));
        assert!(gate.takes_closed(Compression::Gzip));
        gate.consume(closed()).await.unwrap();
        assert!(gate.close(Duration::from_secs(1)).await);
        assert!(!gate.takes_closed(Compression::Gzip));
        gate.open(Arc::new(Slow::default()));
        assert!(gate.consume(closed()).await.unwrap_err().is_retryable());
        gate.consume(request()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_limits_in_time_and_number() {
        let gate = Arc::new(Gate::before(Arc::new(Slow::default())));
        gate.close(Duration::ZERO).await;
        let waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.consume(request()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = gate.consume(request()).await.unwrap_err();
        assert_eq!(refused.retry_after, Some(COME_AGAIN));
        for task in waiting {
            assert!(task.await.unwrap().unwrap_err().is_retryable());
        }
        assert_eq!(gate.waiting.load(Relaxed), 0);
    }
}
