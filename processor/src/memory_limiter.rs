//! The `memory_limiter` processor: refuses requests while the process uses too much memory.
//!
//! Above the soft limit the analysis gives way first (see [`Pressure`]); what is still above it at the
//! next look, or above the hard limit at any, makes it refuse. Memory that was freed may stay with the
//! process, for its next use: where refusing has stopped to bring anything it ends, a little above.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tapio_proto::{
    Batching, CanBatch, Code, Consumer, Next, Pending, Request, Signal, Status,
    transport::GoDuration,
};

use crate::pressure::Pressure;

/// `processors: memory_limiter:`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryLimiterConfig {
    /// Between two looks at the memory.
    pub check_interval: GoDuration,
    /// Hard limit of the resident memory, in MiB.
    pub limit_mib: u64,
    /// The soft limit, at which requests are refused, is this much below the hard one; 20 % of it
    /// when 0.
    pub spike_limit_mib: u64,
    /// The hard limit as a share of the memory that the container or the machine has; used when
    /// `limit_mib` is 0.
    pub limit_percentage: u64,
    /// As `spike_limit_mib`, as a share of the same memory.
    pub spike_limit_percentage: u64,
    /// Accepted for the Collector's sake: there is no garbage to collect.
    pub min_gc_interval_when_soft_limited: Option<GoDuration>,
    /// Accepted for the Collector's sake: there is no garbage to collect.
    pub min_gc_interval_when_hard_limited: Option<GoDuration>,
}

/// Refuses above the soft limit.
pub struct MemoryLimiter {
    next: Next,
    limits: Limits,
    check_interval: Duration,
    read: fn() -> Option<u64>,
    pressure: Arc<Pressure>,
    state: Mutex<State>,
}

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    soft: u64,
    hard: u64,
}

#[derive(Default)]
struct State {
    checked: Option<Instant>,
    refusing: bool,
    /// The limit above which it refuses, where it is not the soft one.
    raised: Option<u64>,
    /// Looks in a row at which there was too much.
    above: u32,
    /// Looks in a row at which refusing changed nothing, and the memory at the last one.
    still: u32,
    last: u64,
}

/// After so many looks at which refusing changed nothing it is of no use.
const STILL: u32 = 5;
/// What a refused sender should wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl MemoryLimiterConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        let fail = |why: &str| Err(why.to_owned());
        if self.check_interval.is_zero() {
            return fail("'check_interval' must be greater than zero");
        }
        let soft = self.min_gc_interval_when_soft_limited.unwrap_or(GoDuration::from_secs(10));
        if self.min_gc_interval_when_hard_limited.is_some_and(|hard| hard > soft) {
            return fail(
                "'min_gc_interval_when_soft_limited' should be larger than 'min_gc_interval_when_hard_limited'",
            );
        }
        if self.limit_mib == 0 && self.limit_percentage == 0 {
            return fail("'limit_mib' or 'limit_percentage' must be greater than zero");
        }
        if self.limit_percentage > 100 || self.spike_limit_percentage > 100 {
            return fail(
                "'limit_percentage' and 'spike_limit_percentage' must be greater than zero and less than or equal to hundred",
            );
        }
        if self.limit_mib > 0 && self.spike_limit_mib >= self.limit_mib {
            return fail("'spike_limit_mib' must be smaller than 'limit_mib'");
        }
        if self.limit_mib == 0 && self.spike_limit_percentage >= self.limit_percentage {
            return fail("'spike_limit_percentage' must be smaller than 'limit_percentage'");
        }
        Ok(())
    }

    /// Where the container or machine has `total` bytes.
    fn limits(&self, total: u64) -> Limits {
        let share = |percentage: u64| (u128::from(total) * u128::from(percentage) / 100) as u64;
        let (hard, spike) = match self.limit_mib {
            0 => (share(self.limit_percentage), share(self.spike_limit_percentage)),
            mib => (mib << 20, self.spike_limit_mib << 20),
        };
        Limits { soft: hard - if spike == 0 { hard / 5 } else { spike }, hard }
    }
}

impl MemoryLimiter {
    /// Stands before `next`, and tells `pressure` when memory is short.
    pub fn new(config: &MemoryLimiterConfig, next: Next, pressure: Arc<Pressure>) -> Self {
        let limits = config.limits(total_memory().unwrap_or(u64::MAX));
        Self::with(limits, config, next, pressure, resident_memory)
    }

    fn with(
        limits: Limits,
        config: &MemoryLimiterConfig,
        next: Next,
        pressure: Arc<Pressure>,
        read: fn() -> Option<u64>,
    ) -> Self {
        MemoryLimiter {
            next,
            limits,
            check_interval: *config.check_interval,
            read,
            pressure,
            state: Mutex::default(),
        }
    }

    /// Looks at the memory when the last look is older than the interval: no task of its own, and
    /// nothing to do while nothing passes.
    fn refusing(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.is_some_and(|at| at.elapsed() < self.check_interval) {
            return state.refusing;
        }
        state.checked = Some(Instant::now());
        let Some(used) = (self.read)() else {
            return state.refusing;
        };
        let refusing = state.judge(used, self.limits);
        self.pressure.set(state.above > 0);
        if refusing != state.refusing {
            let limit = state.raised.unwrap_or(self.limits.soft);
            let (cur_mem_mib, limit_mib) = (used >> 20, limit >> 20);
            if refusing {
                tracing::warn!(
                    cur_mem_mib,
                    limit_mib,
                    "Memory usage is above soft limit. Refusing data."
                );
            } else {
                tracing::info!(
                    cur_mem_mib,
                    limit_mib,
                    "Memory usage back within limits. Resuming normal operation."
                );
            }
        }
        state.refusing = refusing;
        refusing
    }
}

impl State {
    /// Whether to refuse, now that `used` bytes are.
    fn judge(&mut self, used: u64, limits: Limits) -> bool {
        if used <= limits.soft {
            self.raised = None;
        }
        if used <= self.raised.unwrap_or(limits.soft) {
            (self.above, self.still) = (0, 0);
            return false;
        }
        self.above += 1;
        let same = used.abs_diff(self.last) <= used / 100;
        self.still = if self.refusing && same { self.still + 1 } else { 0 };
        self.last = used;
        if self.still >= STILL {
            let left = limits.hard.saturating_sub(used) / 2;
            self.raised = Some(used + left.max(limits.hard / 50));
            (self.above, self.still) = (0, 0);
            return false;
        }
        used > limits.hard || self.above > 1
    }
}

impl Consumer for MemoryLimiter {
    fn can_batch(&self, signal: Signal, batching: &Batching) -> CanBatch {
        self.next.can_batch(signal, batching)
    }

    fn batch(&self, signal: Signal, batching: &Arc<Batching>) {
        self.next.batch(signal, batching);
    }

    fn consume(&self, request: Request) -> Pending<'_> {
        if !self.refusing() {
            return self.next.consume(request);
        }
        let status = Status {
            retry_after: Some(RETRY_AFTER),
            ..Status::new(Code::Unavailable, "data refused due to high memory usage")
        };
        Box::pin(std::future::ready(Err(status)))
    }
}

impl std::fmt::Debug for MemoryLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLimiter").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Resident memory of this process, in bytes; `VmRSS` of proc(5).
fn resident_memory() -> Option<u64> {
    kib_of("VmRSS:", &fs::read_to_string("/proc/self/status").ok()?)
}

/// What the container may use, or the machine has, in bytes; cgroup v2's `memory.max`, v1's
/// `memory.limit_in_bytes`, and `MemTotal` of proc(5).
fn total_memory() -> Option<u64> {
    let machine = kib_of("MemTotal:", &fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Some(group.unwrap_or(machine).min(machine))
}

fn kib_of(key: &str, text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU64, Ordering};

    use tapio_proto::{Accepted, Signal};

    use super::*;

    struct Sink;

    impl Consumer for Sink {
        fn consume(&self, _: Request) -> Pending<'_> {
            Box::pin(std::future::ready(Ok(Accepted::default())))
        }
    }

    static USED: AtomicU64 = AtomicU64::new(0);

    #[tokio::test]
    async fn the_analysis_gives_way_first_then_it_refuses_and_recovers() {
        let config = MemoryLimiterConfig {
            check_interval: GoDuration(Duration::from_nanos(1)),
            limit_mib: 100,
            ..MemoryLimiterConfig::default()
        };
        let pressure = Arc::new(Pressure::default());
        let limiter = MemoryLimiter::with(
            config.limits(0),
            &config,
            Arc::new(Sink),
            Arc::clone(&pressure),
            || Some(USED.load(Ordering::Relaxed)),
        );
        let request = Request::new(Signal::Logs, bytes::Bytes::new(), 0);
        for (mib, short, refused) in [
            (79, false, false),
            (81, true, false),
            (81, true, true),
            (80, false, false),
            (101, true, true),
            (80, false, false),
        ] {
            USED.store(mib << 20, Ordering::Relaxed);
            let outcome = limiter.consume(request.clone()).await;
            assert_eq!((outcome.is_err(), pressure.is_on()), (refused, short), "{mib} MiB");
            if let Err(status) = outcome {
                assert_eq!(status.message, "data refused due to high memory usage");
                assert!(status.retry_after.is_some() && status.is_retryable());
            }
        }
    }

    /// Guarantees: memory that the process keeps though it has freed it does not close the hop for good,
    /// and does not let it grow without end either.
    #[test]
    fn refusing_ends_where_it_brings_nothing() {
        let limits = Limits { soft: 800, hard: 1000 };
        let mut state = State::default();
        let mut look = |used: u64| {
            state.refusing = state.judge(used, limits);
            state.refusing
        };
        assert!(!look(850), "the analysis first");
        let refused = (0..20).take_while(|_| look(850)).count();
        assert!((3..=8).contains(&refused), "{refused}");
        assert!(!look(850), "it takes what comes again");
        assert!(!look(920), "and up to half of what is left");
        assert!(!look(930) && look(930), "not more");
        assert!(look(1001));
        assert!(!look(790) && !look(850) && look(850), "below the soft limit it is as before");
    }

    #[test]
    fn limits_are_mib_or_shares() {
        let config = MemoryLimiterConfig {
            limit_percentage: 80,
            spike_limit_percentage: 25,
            ..MemoryLimiterConfig::default()
        };
        assert_eq!(config.limits(1000), Limits { soft: 550, hard: 800 });
        let config = MemoryLimiterConfig {
            limit_mib: 100,
            spike_limit_mib: 30,
            ..MemoryLimiterConfig::default()
        };
        assert_eq!(config.limits(1000).soft, 70 << 20);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let text = MemoryLimiterConfig::default().check().unwrap_err();
        assert_eq!(text, "'check_interval' must be greater than zero");
        let config = MemoryLimiterConfig {
            check_interval: GoDuration::from_secs(1),
            ..MemoryLimiterConfig::default()
        };
        assert!(config.check().is_err());
        assert!(MemoryLimiterConfig { limit_mib: 9, ..config.clone() }.check().is_ok());
        assert!(
            MemoryLimiterConfig { limit_mib: 9, spike_limit_mib: 9, ..config }.check().is_err()
        );
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(resident_memory().unwrap() > 1 << 20);
        assert!(total_memory().unwrap() > resident_memory().unwrap());
    }
}
