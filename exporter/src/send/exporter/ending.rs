//! How an exporter ends: what it has is delivered, kept on disk, given to a successor, or put among the dead letters.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tapio_proto::{Consumer, Next, Request, Signal};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{Exporter, Leftover, PARK_BATCH, Shared, Uncounted, park};
use crate::{
    send::{
        SendConfig,
        queue::{Load, Queue},
        retry,
    },
    storage::Log,
};

/// For what is under way when an exporter gives way to its successor.
const HALT_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether a queue is empty.
const EMPTY_LOOK: Duration = Duration::from_millis(50);
/// Requests that are written to a successor's disk with one sync.
const INHERIT_BATCH: usize = 256;
/// For the log's thread to end.
const LOG_LIMIT: Duration = Duration::from_secs(10);

impl Exporter {
    /// Takes no more and delivers what it has, for at most `limit`. What is on disk stays there as
    /// soon as the backend does not take it; what is left in memory is put among the dead letters if
    /// there is a storage. Says what was left.
    pub async fn shutdown(&self, limit: Duration) -> Leftover {
        self.shutdown_when(sleep(limit)).await
    }

    /// The same, until something happens.
    pub async fn shutdown_when(&self, late: impl Future<Output = ()>) -> Leftover {
        self.end_workers(late).await;
        let mut left = Leftover::default();
        for lane in self.shared.lanes.iter().flatten() {
            let load = lane.load();
            if let Some(log) = lane.log() {
                if !self.halted.load(Ordering::Relaxed) {
                    left.kept += load.requests;
                    self.close_log(log).await;
                }
                continue;
            }
            let (parked, items) = self.park_all(lane.drain()).await;
            left.kept += parked;
            left.requests += load.requests - parked.min(load.requests);
            left.items += load.items - items.min(load.items);
        }
        self.tell(&left);
        left
    }

    /// Whoever waits for the backend's answer, without a queue, gets it after the next attempt. For a
    /// shutdown, which such requests hold up.
    pub fn hurry(&self) {
        if self.shared.lanes.is_none() {
            self.closing.send_replace(true);
        }
    }

    /// Takes no more and tries no more, for a successor is to go on: what is under way has a second to
    /// end. What is on disk is given free; what is in memory waits for [`Exporter::hand_over`].
    pub async fn halt(&self) {
        self.shared.lanes.iter().flatten().for_each(|lane| lane.abandon());
        self.end_workers(sleep(HALT_LIMIT)).await;
        if self.halted.swap(true, Ordering::Relaxed) {
            return;
        }
        for lane in self.shared.lanes.iter().flatten() {
            if let Some(log) = lane.log() {
                self.close_log(log).await;
            }
        }
    }

    /// Gives what a halted exporter has in memory to its successor: into its queue, over its bounds if it
    /// must be, for it was acknowledged. Without a queue there it is sent that way, until it is late. What
    /// the successor does not take ends as at a shutdown. What is on disk in a place that the successor does
    /// not look at is sent by it as well, and stays there when it is late.
    pub async fn hand_over(&self, to: &Arc<Exporter>, late: impl Future<Output = ()>) -> Leftover {
        let mut late = pin!(late);
        let disk = self.shared.queue.disk().filter(|_| self.shared.lanes.is_some());
        if disk.is_some_and(|storage| !to.sends_from(storage.directory(), Some(Signal::Traces))) {
            self.send_from_disk(to, late.as_mut()).await;
        } else if let Some(lanes) = &self.shared.lanes {
            let taken = match &to.shared.lanes {
                Some(theirs) => {
                    let mut taken = 0;
                    for (ours, theirs) in lanes.iter().zip(theirs) {
                        taken += to.shared.inherit(ours, theirs).await;
                    }
                    taken
                }
                None => {
                    let [traces, metrics, logs, profiles] =
                        lanes.each_ref().map(|lane| self.send_by(lane, to));
                    let sending = async { tokio::join!(traces, metrics, logs, profiles) };
                    tokio::select! {
                        (traces, metrics, logs, profiles) = sending => {
                            traces + metrics + logs + profiles
                        }
                        () = late.as_mut() => 0,
                    }
                }
            };
            if taken > 0 {
                tracing::info!(
                    exporter = self.name(),
                    requests = taken,
                    "What was in the queue goes on by the new settings."
                );
            }
        }
        self.shutdown(Duration::ZERO).await
    }

    /// Opens the queue on disk once more, with the successor behind it, until it is empty.
    async fn send_from_disk(&self, to: &Arc<Exporter>, late: impl Future<Output = ()>) {
        let (name, next) = (self.shared.name.clone(), Arc::clone(to) as Next);
        let config =
            SendConfig { queue: self.shared.queue.clone(), retry: self.shared.retry.clone() };
        // It is the successor that counts.
        let start = move || Exporter::start(&name, config, next, Arc::new(Uncounted));
        let courier = match spawn_blocking(start).await {
            Ok(Ok(courier)) => courier,
            Ok(Err(error)) => {
                tracing::warn!(exporter = self.name(), %error, "What is on disk cannot be handed over");
                return;
            }
            Err(_) => return,
        };
        let emptied = async {
            while courier.shared.lanes.iter().flatten().any(|lane| lane.load().requests > 0) {
                sleep(EMPTY_LOOK).await;
            }
        };
        tokio::select! {
            () = emptied => {}
            () = late => {}
        }
        courier.shutdown(Duration::ZERO).await;
    }

    /// Sends what is in a queue by an exporter that has none; how many requests it took.
    async fn send_by(&self, lane: &Queue, to: &Exporter) -> usize {
        let mut taken = 0;
        while let Some(request) = lane.first() {
            let status = match to.consume(request).await {
                Ok(_) => {
                    taken += 1;
                    lane.settle_first();
                    continue;
                }
                Err(status) => status,
            };
            if status.is_retryable() {
                sleep(retry::LAST_INTERVAL).await;
            } else if let Some(request) = lane.first() {
                if !self.shared.give_up(request, &status).await {
                    break;
                }
                lane.settle_first();
            }
        }
        taken
    }

    /// Takes no more and lets the workers end by themselves, until it is late.
    async fn end_workers(&self, late: impl Future<Output = ()>) {
        self.closing.send_replace(true);
        self.shared.lanes.iter().flatten().for_each(|lane| lane.close());
        let mut workers = self.workers.lock().await;
        let drained = async { while workers.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = drained => true,
            () = late => false,
        };
        if !in_time {
            workers.shutdown().await;
        }
    }

    async fn close_log(&self, log: &Log) {
        if timeout(LOG_LIMIT, log.close()).await.is_err() {
            tracing::warn!(
                exporter = self.name(),
                "the disk is slow: what was delivered last may be sent again after the next start"
            );
        }
    }

    /// Parks what is left of a queue in memory; how many requests and items.
    async fn park_all(&self, mut requests: Vec<Request>) -> (usize, usize) {
        let Some(dead) = &self.shared.dead else { return (0, 0) };
        let (mut parked, mut items) = (0, 0);
        while !requests.is_empty() {
            let some = requests.split_off(requests.len().saturating_sub(PARK_BATCH));
            let (count, sum) =
                (some.len(), some.iter().map(|request| request.items).sum::<usize>());
            for request in &some {
                self.shared.observer.parked(request.signal, request.items);
            }
            let reason = "not delivered when Tapio was stopped";
            if let Err(error) = park(dead, some, reason).await {
                tracing::error!(exporter = self.name(), %error, "Could not park undelivered data");
                break;
            }
            (parked, items) = (parked + count, items + sum);
        }
        (parked, items)
    }

    fn tell(&self, left: &Leftover) {
        if left.kept > 0 {
            tracing::warn!(
                exporter = self.name(),
                requests = left.kept,
                dead_letters = %self.shared.dead_folder().display(),
                "Shut down with undelivered data. It is on disk: what was in a queue on disk is sent as soon as an exporter of this \
                 name has its queue there again, what was in memory is among the dead letters (`tapio queue list`)."
            );
        }
        if left.requests > 0 && self.shared.queue.wait_for_result {
            tracing::warn!(
                exporter = self.name(),
                requests = left.requests,
                items = left.items,
                "Shut down while senders waited for the backend's answer. They were told that their requests are not taken."
            );
        } else if left.requests > 0 {
            tracing::error!(
                exporter = self.name(),
                requests = left.requests,
                items = left.items,
                "Shut down with undelivered data: the backend did not take it in time. \
                 What was acknowledged of it is lost; a `file_storage` extension would have kept it."
            );
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Where it was not shut down, the logs' threads end all the same.
        self.shared.lanes.iter().flatten().filter_map(|lane| lane.log()).for_each(|log| {
            drop(log.close());
        });
    }
}

impl Shared {
    /// Takes what is in memory of a halted queue; how many requests.
    async fn inherit(&self, from: &Queue, to: &Queue) -> usize {
        let entries = from.take_all();
        let Some(log) = to.log() else {
            let taken = entries.len();
            entries.into_iter().for_each(|entry| to.adopt(entry));
            return taken;
        };
        let (mut taken, mut entries) = (0, entries.into_iter().peekable());
        while entries.peek().is_some() {
            let mut writing = Vec::new();
            for entry in entries.by_ref().take(INHERIT_BATCH) {
                // A sender that waits for the backend still has its request, and is told to come again.
                if entry.done.is_none() {
                    let request = entry.parcel.left();
                    to.make_room(Load::of(&request));
                    writing.push((entry, log.append(request)));
                }
            }
            for (entry, written) in writing {
                match written.await {
                    Ok(Ok(())) => taken += 1,
                    // It ends as at a shutdown.
                    _ => from.adopt(entry),
                }
            }
        }
        taken
    }
}
