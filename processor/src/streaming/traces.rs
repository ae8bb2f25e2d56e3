//! Which traces are looked at span by span. Windows count all spans; rows and the search for parents are
//! for whole traces, as many as there is room and time for.

use tapio_proto::model::Time;

use super::{Share, scatter};

/// Spans a window that are looked at: 20,000 a second.
const MOST: u64 = 100_000;

/// Takes every trace, or one of two, four, eight by its id, so that there are not too many spans.
#[derive(Debug)]
pub struct Traces {
    share: Share,
    shift: u32,
}

impl Default for Traces {
    fn default() -> Self {
        Traces { share: Share::new(MOST), shift: 0 }
    }
}

impl Traces {
    /// Is a span of this trace, seen at `now`, looked at? Spans without a trace are.
    pub fn takes(&mut self, trace_id: &[u8], now: Time) -> bool {
        self.shift = self.share.shift(now);
        let takes = Traces::holds(trace_id, self.shift);
        self.share.took(takes.into());
        takes
    }

    /// Is this trace among the one of `1 << shift`? Who is among few is among more as well.
    pub fn holds(trace_id: &[u8], shift: u32) -> bool {
        // The low bits are random even where the high ones are a time.
        let random = trace_id.last_chunk().map_or(0, |id| u64::from_le_bytes(*id));
        scatter(random) & ((1 << shift) - 1) == 0
    }

    /// How many spans one that is looked at stands for.
    pub fn weight(&self) -> u32 {
        1 << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::{super::WINDOW, *};

    #[test]
    fn a_flood_is_thinned_out_by_whole_traces_and_then_all_are_taken_again() {
        let mut traces = Traces::default();
        let mut taken = Vec::new();
        for window in 0..20 {
            // 400,000 spans a second in traces of four for half a minute, then 10,000.
            let spans: u64 = if window < 6 { 2_000_000 } else { 50_000 };
            let (mut count, mut stood_for) = (0, 0);
            for span in 0..spans {
                let mut id = [0; 16];
                id[8..].copy_from_slice(&(window * 1_000_000 + span / 4).to_be_bytes());
                if traces.takes(&id, Time(window as i64 * WINDOW)) {
                    count += 1;
                    stood_for += u64::from(traces.weight());
                }
            }
            taken.push((count, stood_for as f64 / spans as f64));
        }
        assert!(taken.iter().all(|(count, _)| *count < 5 * MOST), "{taken:?}");
        assert!(
            taken[1..6].iter().all(|(count, share)| {
                (MOST / 2..2 * MOST).contains(count) && (0.8..1.2).contains(share)
            }),
            "{taken:?}"
        );
        assert_eq!(taken[19], (50_000, 1.0));
    }
}
