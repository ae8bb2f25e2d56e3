//! An exporter: for each signal a queue and its workers, or straight to the backend.

use std::{sync::Arc, time::Duration};

use tapio_proto::{Accepted, Code, Consumer, Next, Outcome, Pending, Request, Signal, Status};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    SendConfig,
    queue::{Entry, Load, Overflow, Queue},
    retry::{Duty, RetryConfig},
};

/// Is told what becomes of items, for the Collector's own metrics.
pub trait Observer: Send + Sync + 'static {
    /// The backend took them.
    fn sent(&self, signal: Signal, items: usize);
    /// They were given up: the backend refused them for good, or rejected them in part.
    fn send_failed(&self, signal: Signal, items: usize, status: &Status);
    /// The queue did not take them; the sender was told.
    fn enqueue_failed(&self, signal: Signal, items: usize);
}

/// What a shutdown could not deliver in its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Requests.
    pub requests: usize,
    /// Spans, data points, log records.
    pub items: usize,
}

/// A running exporter.
pub struct Exporter {
    shared: Arc<Shared>,
    lanes: Option<[Arc<Queue>; Signal::ALL.len()]>,
    wait_for_result: bool,
    block_on_overflow: bool,
    closing: watch::Sender<bool>,
    workers: tokio::sync::Mutex<JoinSet<()>>,
}

struct Shared {
    name: String,
    next: Next,
    retry: RetryConfig,
    observer: Arc<dyn Observer>,
}

/// What a sender should wait when the queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_secs(1);

impl Exporter {
    /// Puts queue and retries before `next`. Must be called within a tokio runtime.
    pub fn start(
        name: &str,
        config: SendConfig,
        next: Next,
        observer: Arc<dyn Observer>,
    ) -> Exporter {
        let SendConfig { queue, retry } = config;
        let shared = Arc::new(Shared { name: name.to_owned(), next, retry, observer });
        let (closing, closed) = watch::channel(false);
        let mut workers = JoinSet::new();
        let lanes = queue.enabled.then(|| {
            Signal::ALL.map(|_| {
                let lane = Arc::new(Queue::new(&queue));
                for _ in 0..queue.num_consumers {
                    let (shared, lane) = (Arc::clone(&shared), Arc::clone(&lane));
                    workers.spawn(work(shared, lane, closed.clone()));
                }
                lane
            })
        });
        Exporter {
            shared,
            lanes,
            wait_for_result: queue.wait_for_result,
            block_on_overflow: queue.block_on_overflow,
            closing,
            workers: tokio::sync::Mutex::new(workers),
        }
    }

    /// The component's id in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How full the queue of a signal is, in what its sizer counts; 0 without a queue.
    pub fn queue_size(&self, signal: Signal) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes[signal as usize].size())
    }

    /// The capacity of the queue of a signal, in what its sizer counts; 0 without a queue.
    pub fn queue_capacity(&self, signal: Signal) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes[signal as usize].capacity())
    }

    /// Takes no more and delivers what it has, for at most `limit`; says what was left.
    pub async fn shutdown(&self, limit: Duration) -> Leftover {
        let deadline = Instant::now() + limit;
        self.closing.send_replace(true);
        let lanes = self.lanes.iter().flatten();
        lanes.clone().for_each(|lane| lane.close());
        let mut workers = self.workers.lock().await;
        let drained = async { while workers.join_next().await.is_some() {} };
        if timeout_at(deadline, drained).await.is_err() {
            workers.shutdown().await;
        }
        let left = lanes.fold(Leftover::default(), |left, lane| {
            let load = lane.load();
            Leftover { requests: left.requests + load.requests, items: left.items + load.items }
        });
        if left.requests > 0 {
            tracing::error!(
                exporter = self.name(),
                requests = left.requests,
                items = left.items,
                "Shut down with undelivered data: the backend did not take it in time. \
                 Acknowledged requests in the memory queue are lost."
            );
        }
        left
    }

    async fn enqueue(&self, lane: &Queue, request: Request) -> Outcome {
        let (signal, items) = (request.signal, request.items);
        let (done, outcome) = match self.wait_for_result {
            true => {
                let (done, outcome) = oneshot::channel();
                (Some(done), Some(outcome))
            }
            false => (None, None),
        };
        let entry = Entry { request, done };
        let pushed = match self.block_on_overflow {
            true => lane.push_or_wait(entry).await,
            false => lane.push(entry),
        };
        if let Err((_, why)) = pushed {
            self.shared.observer.enqueue_failed(signal, items);
            return Err(refusal(why));
        }
        match outcome {
            None => Ok(Accepted::default()),
            Some(outcome) => outcome.await.unwrap_or_else(|_| Err(refusal(Overflow::Closed))),
        }
    }
}

impl Consumer for Exporter {
    fn consume(&self, request: Request) -> Pending<'_> {
        Box::pin(async move {
            match &self.lanes {
                Some(lanes) => self.enqueue(&lanes[request.signal as usize], request).await,
                None => {
                    let mut closing = self.closing.subscribe();
                    self.shared.send(request, Duty::Senders, &mut closing).await
                }
            }
        })
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Shared {
    async fn send(
        &self,
        request: Request,
        duty: Duty,
        closing: &mut watch::Receiver<bool>,
    ) -> Outcome {
        let (signal, items) = (request.signal, request.items);
        let next = self.next.as_ref();
        let outcome = self.retry.send(&self.name, next, request, duty, closing).await;
        match &outcome {
            Ok(accepted) => self.taken(signal, items, accepted),
            Err(status) => {
                self.observer.send_failed(signal, items, status);
                let (exporter, error) = (&self.name, &status.message);
                match duty {
                    Duty::Ours => tracing::error!(
                        exporter, code = ?status.code, %error, dropped_items = items,
                        "Exporting failed. Dropping data."
                    ),
                    Duty::Senders => tracing::debug!(
                        exporter, code = ?status.code, %error, rejected_items = items,
                        "Exporting failed. Rejecting data."
                    ),
                }
            }
        }
        outcome
    }

    fn taken(&self, signal: Signal, items: usize, accepted: &Accepted) {
        let Some(partial) = &accepted.partial else {
            return self.observer.sent(signal, items);
        };
        let rejected = usize::try_from(partial.rejected).unwrap_or(0).min(items);
        self.observer.sent(signal, items - rejected);
        if rejected > 0 {
            let status = Status::new(Code::InvalidArgument, partial.message.clone());
            self.observer.send_failed(signal, rejected, &status);
        }
        tracing::warn!(
            exporter = self.name,
            message = partial.message,
            rejected,
            items = signal.items_name(),
            "Partial success response"
        );
    }
}

async fn work(shared: Arc<Shared>, lane: Arc<Queue>, mut closing: watch::Receiver<bool>) {
    while let Some(Entry { request, done }) = lane.pop().await {
        // With `wait_for_result` the sender still has the request.
        let duty = if done.is_some() { Duty::Senders } else { Duty::Ours };
        let load = Load::of(&request);
        let outcome = shared.send(request, duty, &mut closing).await;
        lane.done(load);
        if let Some(done) = done {
            // A sender that has gone away needs no answer.
            let _ = done.send(outcome);
        }
    }
}

fn refusal(why: Overflow) -> Status {
    match why {
        Overflow::Full => Status {
            retry_after: Some(QUEUE_FULL_WAIT),
            ..Status::new(Code::Unavailable, "sending queue is full")
        },
        Overflow::TooLarge => Status::new(
            Code::ResourceExhausted,
            "the request is too large for the sending queue: it is more than queue_size or max_mib",
        ),
        Overflow::Closed => Status::new(Code::Unavailable, "the exporter is shutting down"),
    }
}
