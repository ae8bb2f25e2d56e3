//! How long whoever stops may take: all of a shutdown is to be over before Kubernetes kills.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Kubernetes kills 30 s after it has asked. What is left is for writing down what was not delivered.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);
/// Of it, for the requests that receivers have under way; the rest is for what is queued then.
const RECEIVERS_LIMIT: Duration = Duration::from_secs(18);
/// For what is queued.
const EXPORTERS_LIMIT: Duration = Duration::from_secs(20);
/// For the requests under way when a reload exchanges what serves them: intake is not to pause longer.
pub(crate) const RELOAD_LIMIT: Duration = Duration::from_secs(2);

/// Whether the program has been told to stop, and since when.
pub(crate) struct Ending(watch::Sender<Option<Instant>>);

impl Default for Ending {
    fn default() -> Self {
        Ending(watch::Sender::new(None))
    }
}

impl Ending {
    /// From now on everything is on its way down; said twice, it is the first that counts.
    pub(crate) fn begin(&self) {
        self.0.send_if_modified(|since| match since {
            Some(_) => false,
            None => {
                *since = Some(Instant::now());
                true
            }
        });
    }

    /// When the program is told to stop.
    pub(crate) async fn begun(&self) {
        // The sender is ours, so it cannot be gone.
        drop(self.0.subscribe().wait_for(Option::is_some).await);
    }

    /// When a receiver that was told to stop now has to be gone.
    pub(crate) async fn receivers(&self) {
        self.late(RELOAD_LIMIT, RECEIVERS_LIMIT, RECEIVERS_LIMIT).await;
    }

    /// When an exporter that was told to stop now has to be gone.
    pub(crate) async fn exporters(&self) {
        self.late(EXPORTERS_LIMIT, EXPORTERS_LIMIT, SHUTDOWN_LIMIT).await;
    }

    /// So long after now, by what is going on; and never so long after the program was told to stop.
    async fn late(&self, reload: Duration, shutdown: Duration, whole: Duration) {
        let now = Instant::now();
        let begun = *self.0.borrow();
        let late = begun.map_or(now + reload, |begun| (now + shutdown).min(begun + whole));
        tokio::select! {
            () = sleep_until(late) => {}
            () = self.begun(), if begun.is_none() => {
                sleep_until(late.min(Instant::now() + whole)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: a reload never pauses intake for long, a shutdown is one limit for all, and being told to
    /// stop shortens what a reload had begun.
    #[tokio::test(start_paused = true)]
    async fn limits_are_by_what_is_going_on() {
        let ending = Ending::default();
        let start = Instant::now();
        ending.receivers().await;
        assert_eq!(start.elapsed().as_secs(), 2);

        let start = Instant::now();
        tokio::join!(ending.exporters(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ending.begin();
        });
        assert_eq!(start.elapsed().as_secs(), 20);
        ending.begin();
        ending.receivers().await;
        assert_eq!(start.elapsed().as_secs(), 20, "they have had their time");
        ending.exporters().await;
        assert_eq!(start.elapsed().as_secs(), 26, "25 s after it was told to stop");
    }
}
