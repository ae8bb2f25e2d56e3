//! Time limits that cost nothing while they hold.
//!
//! A limit is for the rare case, but a timer of its own for each request is set each time: it is earlier
//! than all others of an idle program, so whoever waits for the next event is woken to wait for less. A
//! timer that is kept, and only put off, stays where it is until it would have run out.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that are kept; more are made and thrown away.
const KEPT: usize = 256;

/// Timers for many short waits with limits of about the same length; clones share them. Belongs to the
/// runtime that it is used in.
#[derive(Clone, Debug, Default)]
pub struct Timers(Arc<Mutex<Vec<Pin<Box<Sleep>>>>>);

/// A limit for one or several waits together.
#[derive(Debug)]
pub struct Timer {
    timers: Timers,
    /// `None` when that is too far away to be told.
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// A limit that begins now.
    pub fn start(&self, limit: Duration) -> Timer {
        let deadline = Instant::now().checked_add(limit);
        Timer { timers: self.clone(), deadline, sleep: None }
    }

    fn take(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => Box::pin(sleep_until(deadline)),
        }
    }
}

impl Timer {
    /// What `future` comes to, or `None` when the limit is over before.
    pub async fn limit<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let Some(deadline) = self.deadline else { return Poll::Pending };
            let sleep = self.sleep.get_or_insert_with(|| self.timers.take(deadline));
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(sleep) = self.sleep.take() else { return };
        let mut kept = self.timers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_holds_each_limit_anew() {
        let timers = Timers::default();
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(timers.start(second).limit(pending::<()>()).await, None);
            assert_eq!(start.elapsed(), second);
            // It is put off before it runs out, and after.
            for wait in [second / 2, second * 2] {
                assert_eq!(timers.start(wait * 2).limit(sleep(wait)).await, Some(()));
            }
            assert_eq!(timers.0.lock().unwrap().len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn several_waits_share_a_limit_and_what_is_ready_needs_none() {
        let timers = Timers::default();
        let mut timer = timers.start(Duration::from_secs(3));
        assert_eq!(timer.limit(ready(1)).await, Some(1));
        assert!(timer.sleep.is_none());
        assert_eq!(timer.limit(sleep(Duration::from_secs(2))).await, Some(()));
        assert_eq!(timer.limit(sleep(Duration::from_secs(2))).await, None);
        let mut endless = timers.start(Duration::MAX);
        assert_eq!(endless.limit(sleep(Duration::from_secs(9))).await, Some(()));
    }
}
