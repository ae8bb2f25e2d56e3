//! `retry_on_failure`: which refusals are tried again, and after how long.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde::Deserialize;
use tapio_proto::{Code, Consumer, Outcome, Request, Status, transport::GoDuration};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::net::ConfigError;

/// `retry_on_failure:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Try again at all.
    pub enabled: bool,
    /// Before the second attempt.
    pub initial_interval: GoDuration,
    /// Each wait is drawn from `interval * (1 ± factor)`.
    pub randomization_factor: f64,
    /// From one interval to the next.
    pub multiplier: f64,
    /// The intervals grow no further.
    pub max_interval: GoDuration,
    /// Give up after this; 0 is never. When it is not set, what a sender still waits for is given
    /// up after the Collector's 5 minutes, and what was acknowledged already never is.
    pub max_elapsed_time: Option<GoDuration>,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// The sender waits for the answer and has the request still.
    Senders,
    /// The sender was told that we have it: losing it now would be a lie.
    Ours,
}

/// How often a request was tried, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempts {
    started: Instant,
    interval: Duration,
    pub(super) failed: u32,
}

/// The Collector's `max_elapsed_time`.
const MAX_ELAPSED: Duration = Duration::from_secs(300);
/// While shutting down, nothing waits longer than this for its next attempt.
pub(super) const LAST_INTERVAL: Duration = Duration::from_millis(500);
/// However the intervals are configured, a refusal is not answered with a hot loop...
const SHORTEST: Duration = Duration::from_millis(10);
/// ...and a backend that asks for more patience than this is asked again all the same.
const LONGEST: Duration = Duration::from_secs(3600);

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig {
            enabled: true,
            initial_interval: GoDuration::from_secs(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: GoDuration::from_secs(30),
            max_elapsed_time: None,
        }
    }
}

impl RetryConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |why: &str| Err(ConfigError::new("retry_on_failure", why));
        if !self.enabled {
            return Ok(());
        }
        if !(0.0..=1.0).contains(&self.randomization_factor) {
            return fail("'randomization_factor' must be within [0, 1]");
        }
        if !(self.multiplier.is_finite() && self.multiplier >= 0.0) {
            return fail("'multiplier' must be non-negative");
        }
        match self.max_elapsed_time {
            Some(max) if !max.is_zero() && max < self.initial_interval => {
                fail("'max_elapsed_time' must not be less than 'initial_interval'")
            }
            Some(max) if !max.is_zero() && max < self.max_interval => {
                fail("'max_elapsed_time' must not be less than 'max_interval'")
            }
            _ => Ok(()),
        }
    }

    /// Before the first attempt.
    pub(super) fn attempts(&self) -> Attempts {
        Attempts { started: Instant::now(), interval: *self.initial_interval, failed: 0 }
    }

    /// After an attempt that failed: how long to wait before the next; `None` to give up.
    pub(super) fn next(
        &self,
        attempts: &mut Attempts,
        status: &Status,
        duty: Duty,
    ) -> Option<Duration> {
        attempts.failed = attempts.failed.saturating_add(1);
        if !self.enabled || !again(status, duty) {
            return None;
        }
        let wait = times(attempts.interval, self.jitter(), LONGEST);
        let wait = wait.max(status.retry_after.unwrap_or_default()).clamp(SHORTEST, LONGEST);
        attempts.interval = times(attempts.interval, self.multiplier, *self.max_interval);
        let limit = match (self.max_elapsed_time, duty) {
            (Some(limit), _) if limit.is_zero() => None,
            (Some(limit), _) => Some(*limit),
            (None, Duty::Senders) => Some(MAX_ELAPSED),
            (None, Duty::Ours) => None,
        };
        let late = limit.is_some_and(|limit| attempts.started.elapsed() + wait > limit);
        (!late).then_some(wait)
    }

    /// Sends until it is delivered, refused for good, or time is up.
    pub(super) async fn send(
        &self,
        exporter: &str,
        next: &dyn Consumer,
        request: Request,
        duty: Duty,
        closing: &mut watch::Receiver<bool>,
    ) -> Outcome {
        let mut attempts = self.attempts();
        loop {
            let status = match next.consume(request.clone()).await {
                Ok(accepted) => return Ok(accepted),
                Err(status) => status,
            };
            // A sender that waits can hear it as well.
            if duty == Duty::Senders && *closing.borrow() {
                return Err(status);
            }
            let Some(wait) = self.next(&mut attempts, &status, duty) else { return Err(status) };
            told(exporter, &status, wait);
            pause(wait, closing).await;
        }
    }

    fn jitter(&self) -> f64 {
        // The hasher's keys are random, which is all that jitter needs.
        let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
        1.0 + self.randomization_factor * (random * 2.0 - 1.0)
    }
}

/// Says that there will be another attempt.
pub(super) fn told(exporter: &str, error: &Status, interval: Duration) {
    tracing::info!(
        exporter,
        %error,
        ?interval,
        "Exporting failed. Will retry the request after interval."
    );
}

/// A product that never is more than `most`, nor panics on the way there.
fn times(interval: Duration, factor: f64, most: Duration) -> Duration {
    Duration::try_from_secs_f64(interval.as_secs_f64() * factor)
        .map_or(most, |interval| interval.min(most))
}

/// Whether another attempt may help.
fn again(status: &Status, duty: Duty) -> bool {
    // What is too large stays so. Servers say it with either code: grpc-go with the first, tonic
    // with the second, which OTLP otherwise calls retryable.
    let too_large = ["larger than max", "exceeds", "too large"];
    if matches!(status.code, Code::ResourceExhausted | Code::OutOfRange)
        && status.retry_after.is_none()
        && too_large.iter().any(|words| status.message.contains(words))
    {
        return false;
    }
    // OTLP calls RESOURCE_EXHAUSTED without RetryInfo final, and the Collector drops what it has
    // acknowledged. Backends mean "later" by it all the same.
    status.is_retryable() || (duty == Duty::Ours && status.code == Code::ResourceExhausted)
}

/// Waits; when the exporter is told to stop, not for long.
pub(super) async fn pause(wait: Duration, closing: &mut watch::Receiver<bool>) {
    let ended = tokio::select! {
        () = sleep(wait) => true,
        closed = closing.wait_for(|closing| *closing) => {
            drop(closed);
            false
        }
    };
    if !ended {
        sleep(wait.min(LAST_INTERVAL)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tapio_proto::{Accepted, Pending, Signal};

    use super::*;

    struct Script(Mutex<Vec<Status>>);

    impl Consumer for Script {
        fn consume(&self, _: Request) -> Pending<'_> {
            let next = self.0.lock().unwrap().pop();
            Box::pin(async move { next.map_or(Ok(Accepted::default()), Err) })
        }
    }

    async fn run(
        config: &RetryConfig,
        duty: Duty,
        refusals: Vec<Status>,
    ) -> (Outcome, usize, Duration) {
        let script = Script(Mutex::new(refusals));
        let request = Request::new(Signal::Traces, bytes::Bytes::new(), 1);
        let (_keep, mut closing) = watch::channel(false);
        let started = Instant::now();
        let outcome = config.send("test", &script, request, duty, &mut closing).await;
        (outcome, script.0.into_inner().unwrap().len(), started.elapsed())
    }

    fn unavailable() -> Status {
        Status::new(Code::Unavailable, "gone")
    }

    #[tokio::test(start_paused = true)]
    async fn intervals_grow_to_their_maximum() {
        let config = RetryConfig { randomization_factor: 0.0, ..RetryConfig::default() };
        let (outcome, left, took) = run(&config, Duty::Ours, vec![unavailable(); 8]).await;
        assert!(outcome.is_ok());
        assert_eq!(left, 0);
        // 5, 7.5, 11.25, 16.875, 25.3125, 30, 30, 30
        assert!((took.as_secs_f64() - 155.9).abs() < 0.2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_backends_wait_is_honoured() {
        let mut status = unavailable();
        status.retry_after = Some(Duration::from_secs(77));
        let (_, _, took) = run(&RetryConfig::default(), Duty::Senders, vec![status]).await;
        assert!((77..78).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_waits_gets_the_answer_after_five_minutes() {
        let (outcome, _, took) =
            run(&RetryConfig::default(), Duty::Senders, vec![unavailable(); 1000]).await;
        assert_eq!(outcome.unwrap_err().code, Code::Unavailable);
        assert!(took <= MAX_ELAPSED && took > MAX_ELAPSED - Duration::from_secs(60), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_acknowledged_is_not_given_up_unless_the_user_says_so() {
        let (outcome, left, _) =
            run(&RetryConfig::default(), Duty::Ours, vec![unavailable(); 1000]).await;
        assert!(outcome.is_ok());
        assert_eq!(left, 0);
        let config = RetryConfig {
            max_elapsed_time: Some(GoDuration::from_secs(60)),
            ..RetryConfig::default()
        };
        let (outcome, _, took) = run(&config, Duty::Ours, vec![unavailable(); 1000]).await;
        assert!(outcome.is_err() && (5..=60).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn exhausted_without_retry_info_is_final_only_for_the_sender() {
        let exhausted = Status::new(Code::ResourceExhausted, "rate limited");
        let (outcome, _, _) =
            run(&RetryConfig::default(), Duty::Senders, vec![exhausted.clone()]).await;
        assert!(outcome.is_err());
        let (outcome, _, _) = run(&RetryConfig::default(), Duty::Ours, vec![exhausted]).await;
        assert!(outcome.is_ok());
        let too_large = Status::new(
            Code::ResourceExhausted,
            "grpc: received message larger than max (9 vs. 4)",
        );
        let (outcome, _, _) = run(&RetryConfig::default(), Duty::Ours, vec![too_large]).await;
        assert!(outcome.is_err(), "a message that is too large stays so");
        let too_large = Status::new(Code::OutOfRange, "decoded message length too large: 9");
        let (outcome, _, _) = run(&RetryConfig::default(), Duty::Ours, vec![too_large]).await;
        assert!(outcome.is_err(), "whoever says it");
    }

    #[tokio::test(start_paused = true)]
    async fn no_interval_is_a_hot_loop_an_endless_wait_or_a_panic() {
        let zero = GoDuration::from_secs(0);
        let config = RetryConfig {
            initial_interval: zero,
            max_interval: zero,
            multiplier: 0.0,
            ..RetryConfig::default()
        };
        let (outcome, _, took) = run(&config, Duty::Ours, vec![unavailable(); 100]).await;
        assert!(outcome.is_ok() && took >= SHORTEST * 100, "{took:?}");
        let config = RetryConfig { multiplier: 1e300, ..RetryConfig::default() };
        let (outcome, _, took) = run(&config, Duty::Ours, vec![unavailable(); 100]).await;
        assert!(outcome.is_ok() && took < Duration::from_secs(100 * 45), "{took:?}");
        let mut status = unavailable();
        status.retry_after = Some(Duration::from_secs(1 << 40));
        let (outcome, _, took) = run(&RetryConfig::default(), Duty::Ours, vec![status]).await;
        assert!(outcome.is_ok() && took < LONGEST + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn malformed_is_final() {
        let status = Status::new(Code::InvalidArgument, "no");
        let (outcome, left, took) =
            run(&RetryConfig::default(), Duty::Ours, vec![unavailable(), status]).await;
        assert_eq!(
            (outcome.unwrap_err().code, left, took),
            (Code::InvalidArgument, 1, Duration::ZERO)
        );
    }

    #[test]
    fn impossible_times_are_refused_in_the_collectors_words() {
        let config = RetryConfig {
            max_elapsed_time: Some(GoDuration::from_secs(1)),
            ..RetryConfig::default()
        };
        let error = config.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "::retry_on_failure: 'max_elapsed_time' must not be less than 'initial_interval'"
        );
    }
}
