//! Dead letters go back into the queue when `tapio queue replay` asks for it.

use std::{io, sync::Arc, time::Duration};

use tapio_proto::Request;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{Shared, park};
use crate::storage::DeadLetters;

/// How often it is looked whether dead letters are to be replayed.
const REPLAY_LOOK: Duration = Duration::from_secs(2);

/// Puts dead letters back into the queue when `tapio queue replay` asks for it.
pub(super) async fn watch_for_replay(
    shared: Arc<Shared>,
    dead: Arc<DeadLetters>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        // The next look counts again, and what cannot be read the replay tells.
        drop(on_disk(&dead, DeadLetters::count).await);
        // A look at one name in a folder: not worth a thread.
        if dead.replay_asked() {
            tokio::select! {
                outcome = replay(&shared, &dead) => {
                    if let Err(error) = outcome {
                        tracing::error!(
                            exporter = shared.name, dead_letters = %dead.folder().display(), %error,
                            "The replay of the dead letters was broken off; it is tried again."
                        );
                    }
                }
                _ = closing.wait_for(|closing| *closing) => return,
            }
        }
        tokio::select! {
            () = sleep(REPLAY_LOOK) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

async fn replay(shared: &Shared, dead: &Arc<DeadLetters>) -> io::Result<()> {
    let (mut requests, mut items) = (0, 0);
    let segments = on_disk(dead, |dead| dead.begin_replay()).await?;
    for segment in segments {
        let mut from = Some(0);
        while let Some(at) = from {
            let (some, next) = on_disk(dead, move |dead| dead.read(segment, at)).await?;
            for request in some {
                (requests, items) = (requests + 1, items + request.items);
                shared.observer.replayed(request.signal, request.items);
                back_into_queue(shared, dead, request).await;
            }
            from = next;
        }
        on_disk(dead, move |dead| dead.replayed(segment)).await?;
    }
    on_disk(dead, |dead| dead.end_replay()).await?;
    tracing::info!(exporter = shared.name, requests, items, "Dead letters are in the queue again.");
    Ok(())
}

/// Not given up before it is in the queue, or among the dead letters again.
async fn back_into_queue(shared: &Shared, dead: &Arc<DeadLetters>, request: Request) {
    let Some(lane) = shared.lane(request.signal) else { return };
    loop {
        let Err(status) = shared.enqueue(lane, request.clone(), true).await else { return };
        // It is larger than the queue has become, say; else the disk has no room now.
        if !status.is_retryable()
            && park(dead, vec![request.clone()], &status.to_string()).await.is_ok()
        {
            return shared.observer.parked(request.signal, request.items);
        }
        sleep(REPLAY_LOOK).await;
    }
}

async fn on_disk<T: Send + 'static>(
    dead: &Arc<DeadLetters>,
    what: impl FnOnce(&DeadLetters) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let dead = Arc::clone(dead);
    spawn_blocking(move || what(&dead)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
