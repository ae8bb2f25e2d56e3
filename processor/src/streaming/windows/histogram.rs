//! How long spans took: counts by the bucket they fell into, of the few buckets that any fell into.

/// Buckets: four to each doubling from 1 us, up to about 20 min.
const BUCKETS: u8 = 120;

/// Counts by bucket, in the order of the buckets; most operations need a dozen.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram(Vec<(u8, u16)>);

impl Histogram {
    /// So many took so long. A bucket that is full halves them all: the quantiles stay what they were.
    pub(super) fn add(&mut self, nanos: u64, weight: u32) {
        let bucket = bucket_of(nanos);
        let at = self.0.partition_point(|(known, _)| *known < bucket);
        if self.0.get(at).is_none_or(|(known, _)| *known != bucket) {
            self.0.insert(at, (bucket, 0));
        }
        loop {
            let count = &mut self.0[at].1;
            match u16::try_from(u32::from(*count).saturating_add(weight)) {
                Ok(sum) => return *count = sum,
                Err(_) if weight > u32::from(u16::MAX / 2) => return *count = u16::MAX,
                Err(_) => self.0.iter_mut().for_each(|(_, n)| *n = n.div_ceil(2)),
            }
        }
    }

    /// Gives up room for buckets that are not there.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Upper bound of the bucket in which the quantile lies, ms: within 19 %.
    pub(super) fn quantile_ms(&self, q: f64) -> f64 {
        let wanted = ((self.total() as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        let reached = self.0.iter().find(|(_, n)| {
            below += u64::from(*n);
            below >= wanted
        });
        reached.map_or(0.0, |(bucket, _)| 2f64.powf((f64::from(*bucket) + 1.0) / 4.0) / 1e3)
    }

    /// Share of those above the bucket in which this many nanoseconds lie, 0 to 1.
    pub(super) fn share_over(&self, nanos: u64) -> f64 {
        let bucket = bucket_of(nanos);
        let over = self.0.iter().filter(|(known, _)| *known > bucket);
        over.map(|(_, n)| u64::from(*n)).sum::<u64>() as f64 / self.total().max(1) as f64
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(_, n)| u64::from(*n)).sum()
    }
}

fn bucket_of(nanos: u64) -> u8 {
    let micros = (nanos as f64 / 1e3).max(1.0);
    ((micros.log2() * 4.0) as u8).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_shares_are_right_to_a_bucket_and_stay_so_when_one_is_full() {
        let mut histogram = Histogram::default();
        for _ in 0..3 {
            histogram.add(10_000_000, 30_000);
            histogram.add(1_000_000_000, 10_000);
        }
        let near = |ms: f64, told: f64| told >= ms && told <= ms * 1.19;
        assert!(near(10.0, histogram.quantile_ms(0.5)), "{histogram:?}");
        assert!(near(1000.0, histogram.quantile_ms(0.99)), "{histogram:?}");
        assert!((histogram.share_over(100_000_000) - 0.25).abs() < 0.01, "{histogram:?}");
        assert!(
            (Histogram::default().quantile_ms(0.5), histogram.share_over(u64::MAX)) == (0.0, 0.0)
        );
    }
}
