//! A worker of a queue: takes requests, sends them as one or piece by piece, and settles what became of them.

use std::{sync::Arc, time::Duration};

use tapio_proto::{Accepted, Outcome, Signal};
use tokio::sync::watch;

use super::Shared;
use crate::send::{
    batch::{self, Batch},
    queue::{Entry, Queue},
    retry::{self, Duty},
};

/// Attempts for which a worker waits; after them the request goes behind the others, so that a few
/// which the backend cannot take do not hold up the rest.
const ATTEMPTS_IN_A_ROW: u32 = 3;
/// What cannot be parked is tried again after this.
const UNPARKED_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn work(
    shared: Arc<Shared>,
    lane: Arc<Queue>,
    signal: Signal,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let batch = match signal {
            // Each has a dictionary of its own, which would be mixed up with the others'.
            Signal::Profiles => lane.pop().await.map(Batch::alone),
            _ => lane.gatherer.next(&lane).await,
        };
        let Some(batch) = batch else { return };
        // One request that the backend never takes must not condemn its neighbours.
        for refused in deliver(&shared, &lane, batch, &mut closing).await {
            deliver(&shared, &lane, Batch::alone(refused), &mut closing).await;
        }
    }
}

/// Sends requests as one, until they are settled or wait for their next turn; of those that are sent piece by
/// piece, until the piece is. Those of several that were refused for good come back, to be tried one by one.
async fn deliver(
    shared: &Shared,
    lane: &Queue,
    batch: Batch,
    closing: &mut watch::Receiver<bool>,
) -> Vec<Entry> {
    let request = batch::merged(&batch);
    let mut entries = batch.entries;
    let Some(request) = request else { return entries };
    // With `wait_for_result` the senders still have the requests.
    let duty = match entries.iter().all(|entry| entry.done.is_some()) {
        true => Duty::Senders,
        false => Duty::Ours,
    };
    // Of those that were tried before, the one that was tried most often.
    let before = entries.iter().filter_map(|entry| entry.attempts);
    let before = before.max_by_key(|attempts| attempts.failed);
    let mut attempts = before.unwrap_or_else(|| shared.retry.attempts());
    let (signal, items) = (request.signal, request.items);
    let later = |entries: Vec<Entry>, attempts, wait| {
        for mut entry in entries {
            entry.attempts = Some(attempts);
            lane.delay(entry, wait);
        }
        Vec::new()
    };
    let outcome = loop {
        let status = match shared.next.consume(request.clone()).await {
            Ok(accepted) => break Ok(accepted),
            Err(status) => status,
        };
        if is_left(lane, &entries, closing) {
            return later(entries, attempts, Duration::ZERO);
        }
        let Some(wait) = shared.retry.next(&mut attempts, &status, duty) else {
            break Err(status);
        };
        retry::told(&shared.name, &status, wait);
        if attempts.failed >= ATTEMPTS_IN_A_ROW {
            return later(entries, attempts, wait);
        }
        retry::pause(wait, closing).await;
        if lane.is_abandoned() {
            return later(entries, attempts, Duration::ZERO);
        }
    };
    match (&outcome, duty) {
        (Ok(accepted), _) => shared.taken(signal, items, accepted),
        (Err(_), _) if entries.len() > 1 => {
            entries.iter_mut().for_each(|entry| entry.attempts = None);
            return entries;
        }
        (Err(status), Duty::Senders) => shared.rejected(signal, items, status),
        (Err(status), Duty::Ours) => {
            if !shared.give_up(request, status).await {
                return later(entries, attempts, UNPARKED_WAIT);
            }
        }
    }
    let mut outcome = outcome;
    // Who may try again sends all of it again: what followed now would come twice.
    let again = matches!(&outcome, Err(status) if duty == Duty::Senders && status.is_retryable());
    for mut entry in entries {
        let items = entry.parcel.items();
        let share = share(&mut outcome, items);
        if entry.parcel.goes_on() && !again {
            entry.parcel.answered(share);
            entry.attempts = None;
            lane.go_on(entry, items);
            continue;
        }
        lane.done(entry.ticket(), entry.held());
        if let (Some(log), Some(at)) = (lane.log(), entry.at) {
            log.settle(at);
        }
        if let Some(done) = entry.done {
            // A sender that has gone away needs no answer.
            let _ = done.send(entry.parcel.ended(share));
        }
    }
    Vec::new()
}

/// Whether requests that the backend has just not taken are left to whoever comes next: a successor, or,
/// as they are on disk, the next start.
fn is_left(lane: &Queue, entries: &[Entry], closing: &watch::Receiver<bool>) -> bool {
    if *closing.borrow() && entries.iter().any(|entry| entry.at.is_some()) {
        lane.abandon();
    }
    lane.is_abandoned()
}

/// What one of several requests is told. Which items of a merged one were rejected is not known, only
/// how many: the count is shared out so that its sum stays true.
fn share(outcome: &mut Outcome, items: usize) -> Outcome {
    let mut mine = outcome.clone();
    if let (Ok(Accepted { partial: Some(left) }), Ok(Accepted { partial: Some(mine) })) =
        (outcome, &mut mine)
    {
        mine.rejected = left.rejected.min(i64::try_from(items).unwrap_or(i64::MAX));
        left.rejected -= mine.rejected;
    }
    mine
}
