//! Which traces are looked at span by span. Windows count all spans; rows and the search for parents are
//! for whole traces, as many as there is room and time for.

use tapio_proto::model::Time;

use super::{WINDOW, scatter};

/// Spans a window that are looked at: 20,000 a second.
const MOST: u64 = 100_000;

/// Takes every trace, or one of two, four, eight by its id, so that there are not too many spans.
#[derive(Debug, Default)]
pub struct Traces {
    /// One of `1 << shift` is taken.
    shift: u32,
    window: Time,
    taken: u64,
}

impl Traces {
    /// Is a span of this trace, seen at `now`, looked at? Spans without a trace are.
    pub fn takes(&mut self, trace_id: &[u8], now: Time) -> bool {
        let window = now.bucket(WINDOW);
        if self.window != window {
            self.window = window;
            if self.taken < MOST / 4 {
                self.shift = self.shift.saturating_sub(1);
            }
            self.taken = 0;
        } else if self.taken >= MOST {
            self.shift = (self.shift + 1).min(32);
            self.taken = MOST / 2;
        }
        // The low bits are random even where the high ones are a time.
        let random = trace_id.last_chunk().map_or(0, |id| u64::from_le_bytes(*id));
        let takes = scatter(random) & ((1 << self.shift) - 1) == 0;
        self.taken += u64::from(takes);
        takes
    }

    /// How many spans one that is looked at stands for.
    pub fn weight(&self) -> u32 {
        1 << self.shift.min(31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
