//! The process itself, from `/proc/self`.

use std::time::Instant;

use super::registry::{Kind, Registry};

/// Clock ticks in a second in `/proc/self/stat`: `USER_HZ`, 100 on every Linux architecture Rust runs on.
const USER_HZ: f64 = 100.0;

/// Adds the Collector's `otelcol_process_*` that mean something without a garbage collector.
pub(crate) fn register(metrics: &Registry) {
    let started = Instant::now();
    metrics.read(
        Kind::Counter,
        "otelcol_process_uptime",
        "Uptime of the process in seconds",
        &[],
        move || started.elapsed().as_secs_f64(),
    );
    metrics.read(
        Kind::Counter,
        "otelcol_process_cpu_seconds",
        "Total CPU user and system time in seconds",
        &[],
        || cpu_seconds().unwrap_or(0.0),
    );
    metrics.read(
        Kind::Gauge,
        "otelcol_process_memory_rss",
        "Total physical memory (resident set size) in bytes",
        &[],
        || rss_bytes().unwrap_or(0.0),
    );
}

/// User and system time; the fields 14 and 15 of proc_pid_stat(5), counted after the name in parentheses.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

/// `VmRSS` of proc_pid_status(5), which is in KiB whatever the page size.
fn rss_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_size_and_its_work() {
        assert!(rss_bytes().unwrap() > 100_000.0);
        // Work until it shows: the clock has ticks of 10 ms.
        let before = cpu_seconds().unwrap();
        let mut x = 1_u64;
        while cpu_seconds().unwrap() - before < 0.02 {
            x = (0..1000).fold(x, |x, i| std::hint::black_box(x.wrapping_mul(31) + i));
        }
        assert!(x != 0 && cpu_seconds().unwrap() > before);
    }
}
