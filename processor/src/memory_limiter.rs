//! The `memory_limiter` processor: refuses requests while the process uses too much memory.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tapio_proto::{Code, Consumer, Next, Pending, Request, Status, transport::GoDuration};

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
}

/// Refuses above the soft limit.
pub struct MemoryLimiter {
    next: Next,
    soft_limit: u64,
    check_interval: Duration,
    read: fn() -> Option<u64>,
    state: Mutex<State>,
}

struct State {
    checked: Option<Instant>,
    refusing: bool,
}

/// What a refused sender should wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl MemoryLimiterConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        let fail = |why: &str| Err(why.to_owned());
        if self.check_interval.is_zero() {
            return fail("'check_interval' must be greater than zero");
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

    /// In bytes, where the container or machine has `total`.
    fn soft_limit(&self, total: u64) -> u64 {
        let share = |percentage: u64| (u128::from(total) * u128::from(percentage) / 100) as u64;
        let (hard, spike) = match self.limit_mib {
            0 => (share(self.limit_percentage), share(self.spike_limit_percentage)),
            mib => (mib << 20, self.spike_limit_mib << 20),
        };
        hard - if spike == 0 { hard / 5 } else { spike }
    }
}

impl MemoryLimiter {
    /// Stands before `next`.
    pub fn new(config: &MemoryLimiterConfig, next: Next) -> Self {
        Self::with(config, next, total_memory().unwrap_or(u64::MAX), resident_memory)
    }

    fn with(
        config: &MemoryLimiterConfig,
        next: Next,
        total: u64,
        read: fn() -> Option<u64>,
    ) -> Self {
        MemoryLimiter {
            next,
            soft_limit: config.soft_limit(total),
            check_interval: *config.check_interval,
            read,
            state: Mutex::new(State { checked: None, refusing: false }),
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
        let refusing = used > self.soft_limit;
        if refusing != state.refusing {
            let (cur_mem_mib, limit_mib) = (used >> 20, self.soft_limit >> 20);
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

impl Consumer for MemoryLimiter {
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
        f.debug_struct("MemoryLimiter")
            .field("soft_limit", &self.soft_limit)
            .finish_non_exhaustive()
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
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

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
    async fn refuses_above_the_soft_limit_and_recovers() {
        let config = MemoryLimiterConfig {
            check_interval: GoDuration(Duration::from_nanos(1)),
            limit_mib: 100,
            ..MemoryLimiterConfig::default()
        };
        let limiter =
            MemoryLimiter::with(&config, Arc::new(Sink), 0, || Some(USED.load(Ordering::Relaxed)));
        let request = Request { signal: Signal::Logs, bytes: bytes::Bytes::new(), items: 0 };
        for (mib, refused) in [(79, false), (81, true), (200, true), (80, false)] {
            USED.store(mib << 20, Ordering::Relaxed);
            let outcome = limiter.consume(request.clone()).await;
            assert_eq!(outcome.is_err(), refused, "{mib} MiB");
            if let Err(status) = outcome {
                assert_eq!(status.message, "data refused due to high memory usage");
                assert!(status.retry_after.is_some() && status.is_retryable());
            }
        }
    }

    #[test]
    fn limits_are_mib_or_shares() {
        let config = MemoryLimiterConfig {
            limit_percentage: 80,
            spike_limit_percentage: 25,
            ..MemoryLimiterConfig::default()
        };
        assert_eq!(config.soft_limit(1000), 550);
        let config = MemoryLimiterConfig {
            limit_mib: 100,
            spike_limit_mib: 30,
            ..MemoryLimiterConfig::default()
        };
        assert_eq!(config.soft_limit(1000), 70 << 20);
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
