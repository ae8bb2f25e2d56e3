//! How long things take: each series against its own past.
//!
//! The past is a histogram that is kept across holes and forgets slowly. A series is slow when a share
//! of its newest durations lies where hardly any of its past lie, by a binomial bound: one that has a
//! slow tail every day is not slow when the tail comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tapio_proto::model::Time;

/// Durations of so much time in sight are judged, ns.
const RECENT: i64 = 60_000_000_000;
/// The newest durations are judged over each of these, ns in sight.
const SPANS: [i64; 4] = [10_000_000_000, 20_000_000_000, 40_000_000_000, RECENT];
/// Length of a piece of the past, ns in sight, and how many are kept.
const PIECE: i64 = 15_000_000_000;
const MOST_PIECES: usize = 80;
/// Durations kept of a series until they are past.
const MOST_RECENT: usize = 512;
/// Series kept.
const MOST_SERIES: usize = 20_000;
/// Fewer than these say nothing, of now and of the past.
const LEAST: usize = 4;
const LEAST_PAST: u32 = 3;
/// Sight must have begun so long before, ns: what a program does first is slow.
const LEAST_SPAN: i64 = 30_000_000_000;
/// A past of fewer is helped out by that of its like.
const THIN: u32 = 20;
/// A slow one by itself is no news; they must come in so many pieces of time of this length, ns in sight.
const TIMES: usize = 3;
const APART: i64 = 4_000_000_000;
/// Standard errors above chance.
const Z: f64 = 4.0;
/// Share of the newest that must be slow.
const SHARE: f64 = 0.3;
/// Less than this, in ms, nobody sees.
const FLOOR: f32 = 20.0;
/// So many that are not slow end it.
const RELIEF: usize = 4;
/// And so does silence of this length, ns in sight.
const SILENT: i64 = 40_000_000_000;
/// After a hole in what is seen nobody knows whether it goes on: so long it may stay unseen, ns in sight.
const UNSEEN: i64 = 15_000_000_000;
/// Of a series with so few durations every one may be the first slow one...
const MOST_SPLITS: usize = 32;
/// ... if of those since then so many are slow, and by so much more than three of four of the past: one or
/// two that were slow long ago do not hide that all are.
const ALL: f64 = 0.9;
const CLEARLY: f32 = 2.0;
const MOST_OF_PAST: f64 = 0.75;
/// What has been slow for so long is how it is now, ns in sight.
const ADOPTED: i64 = 1_800_000_000_000;
/// Counts of a past are halved above this.
const MOST_PAST: u32 = 20_000;
/// Buckets: four to each doubling from 1 us.
const BUCKETS: usize = 112;

/// What takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "numbers of what they are called")]
pub enum What {
    /// A span of a service less what it waits for.
    Own { service: u32, operation: u32 },
    /// A call that nobody answers who tells of it.
    Out { service: u32, operation: u32 },
    /// Between caller and callee: the caller's span less the callee's.
    Way { caller: u32, callee: u32 },
    /// The whole of what a service was asked.
    Whole { service: u32, operation: u32 },
}

impl What {
    fn holds(&self, gone: &BTreeSet<u32>) -> bool {
        let (a, b) = match self {
            What::Own { service, operation }
            | What::Out { service, operation }
            | What::Whole { service, operation } => (service, operation),
            What::Way { caller, callee } => (caller, callee),
        };
        gone.contains(a) || gone.contains(b)
    }
}

/// Durations of old, on a logarithmic scale.
#[derive(Clone, Debug)]
struct Past {
    counts: Box<[u32; BUCKETS]>,
    total: u32,
}

impl Default for Past {
    fn default() -> Self {
        Past { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

fn bucket(ms: f32) -> usize {
    (((ms * 1e3).max(1.0).log2() * 4.0) as usize).min(BUCKETS - 1)
}

impl Past {
    fn add(&mut self, ms: f32) {
        self.counts[bucket(ms)] += 1;
        self.total += 1;
        if self.total > MOST_PAST {
            self.counts.iter_mut().for_each(|n| *n /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// Upper bound of the bucket in which the quantile lies, ms.
    fn quantile(&self, q: f64) -> f32 {
        let wanted = ((f64::from(self.total) * q).ceil() as u32).max(1);
        let mut below = 0;
        for (at, n) in self.counts.iter().enumerate() {
            below += n;
            if below >= wanted {
                return 2f32.powf((at + 1) as f32 / 4.0) / 1e3;
            }
        }
        0.0
    }

    fn above(&self, ms: f32) -> f64 {
        self.counts[(bucket(ms) + 1).min(BUCKETS)..].iter().map(|n| f64::from(*n)).sum()
    }
}

/// A duration that is not past yet.
#[derive(Clone, Copy, Debug)]
struct Now {
    seen: i64,
    at: Time,
    ms: f32,
}

/// A series that is slow now.
#[derive(Clone, Debug, PartialEq)]
pub struct Slow {
    /// First of the slow ones.
    pub onset: Time,
    /// Newest duration, and how many were judged.
    pub last: Time,
    /// Durations since the onset.
    pub n: usize,
    /// Standard errors above chance.
    pub score: f64,
    /// Fifth, half and four fifths of the past, ms.
    pub before: [f32; 3],
    /// The same since the onset.
    pub now: [f32; 3],
    /// Time lost since the onset, ms.
    pub excess: f64,
    /// For how long it has been seen to be slow, ns in sight.
    pub told: i64,
    since: i64,
    bound: f32,
    share: f64,
}

impl Slow {
    /// Are even the fast ones slower, as they are when each packet is held back? What waits for a
    /// processor has some that need not wait.
    pub fn is_shifted(&self) -> bool {
        let shift = |q: usize| self.now[q] - self.before[q];
        shift(0) >= 0.4 * shift(1)
    }
}

/// Where the slower ones of each piece of the past lay: some are slow for a while every day.
#[derive(Debug, Default)]
struct Pieces {
    now: Vec<f32>,
    since: i64,
    slower: VecDeque<f32>,
}

impl Pieces {
    fn add(&mut self, now: &Now) {
        if self.now.is_empty() {
            self.since = now.seen;
        }
        if self.now.len() < MOST_RECENT {
            self.now.push(now.ms);
        }
        if self.since + PIECE <= now.seen && self.now.len() >= LEAST {
            let mut all = std::mem::take(&mut self.now);
            all.sort_unstable_by(f32::total_cmp);
            if self.slower.len() >= MOST_PIECES {
                self.slower.pop_front();
            }
            self.slower.push_back(all[all.len() * 4 / 5]);
        }
    }

    /// Nine of ten pieces lie below this; a few pieces all do.
    fn bound(&self) -> f32 {
        let mut all: Vec<f32> = self.slower.iter().copied().collect();
        all.sort_unstable_by(f32::total_cmp);
        all.get((all.len() * 9 / 10).min(all.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Series {
    past: Past,
    pieces: Pieces,
    recent: VecDeque<Now>,
    slow: Option<Slow>,
}

impl Series {
    fn grow_old(&mut self, now: Now, of_like: &mut Past) {
        if self.slow.as_ref().is_none_or(|slow| now.at < slow.onset) {
            self.past.add(now.ms);
            self.pieces.add(&now);
            of_like.add(now.ms);
        }
    }

    /// Few slow ones of late do not make it well; several that are not slow do, and that nobody asks.
    fn is_well(&self, old: &Slow, seen: i64, hole: i64) -> bool {
        // What was slow before a hole has to be seen again.
        if old.since < hole && seen <= hole + RECENT {
            let since = self.recent.iter().find(|now| now.seen >= hole);
            let over = match since {
                Some(first) => old.share >= 0.95 && first.ms <= old.bound,
                None => hole + UNSEEN < seen,
            };
            if over {
                return true;
            }
        }
        let newest = self.recent.iter().rev().take(2 * RELIEF);
        let (n, slow) =
            newest.fold((0, 0), |(n, slow), now| (n + 1, slow + usize::from(now.ms > old.bound)));
        let silent = self.recent.back().is_none_or(|now| now.seen + SILENT < seen);
        // Where all were slow the first two that are not say enough.
        let all =
            old.share >= 0.95 && self.recent.iter().rev().take(2).all(|now| now.ms <= old.bound);
        silent || (n >= 2 && all) || (n >= RELIEF && slow * 4 < n)
    }

    fn judge(&mut self, seen: i64, hole: i64, of_like: &mut Past) {
        while self.recent.front().is_some_and(|now| now.seen + RECENT < seen)
            && let Some(now) = self.recent.pop_front()
        {
            self.grow_old(now, of_like);
        }
        if self.slow.as_ref().is_some_and(|slow| slow.since + ADOPTED < seen) {
            (self.slow, self.past, self.pieces) = (None, Past::default(), Pieces::default());
        }
        let found = self.find(seen, of_like);
        self.slow = match (self.slow.take(), found) {
            (Some(old), Some(new)) if !self.is_well(&old, seen, hole) => {
                // The clearest look says what it is.
                let (before, now) = if old.score > new.score {
                    (old.before, old.now)
                } else {
                    (new.before, new.now)
                };
                let onset = old.onset.min(new.onset);
                Some(Slow {
                    onset,
                    since: old.since,
                    told: seen - old.since,
                    before,
                    now,
                    score: old.score.max(new.score),
                    ..new
                })
            }
            (Some(old), None) if !self.is_well(&old, seen, hole) => {
                let slow = self.recent.iter().filter(|now| now.ms > old.bound).map(|now| now.at);
                let last = slow.max().unwrap_or(old.last).max(old.last);
                Some(Slow { last, told: seen - old.since, ..old })
            }
            (Some(old), _) => {
                // It is over, and no habit.
                self.recent.retain(|now| now.at < old.onset || now.at > old.last);
                None
            }
            (None, found) => found,
        };
    }

    /// Above this a duration is slow, the chance that one of the past is, and of how many that is known.
    fn bound(&self, past: &Past, of_like: &Past, all: bool) -> (f32, f64, f64) {
        let middle = past.quantile(0.5);
        // Of a short past the slowest two may be chance.
        let most = (1.0 - 2.0 / f64::from(past.total.max(1))).clamp(0.5, 0.95);
        let (most, times) = if all { (most.min(MOST_OF_PAST), CLEARLY) } else { (most, 1.25) };
        let mut bound = past.quantile(most).max(self.pieces.bound()) * times;
        bound = bound.max(2.0 * middle).max(middle + FLOOR);
        let (mut above, mut of) = (past.above(bound), f64::from(past.total));
        if past.total < THIN && of_like.total > 0 {
            bound = bound.max(of_like.quantile(0.95));
            let help = f64::from(THIN.min(of_like.total));
            above = past.above(bound) + help * of_like.above(bound) / f64::from(of_like.total);
            of += help;
        }
        (bound, (above + 0.5) / (of + 1.0), of)
    }

    fn find(&self, seen: i64, of_like: &Past) -> Option<Slow> {
        let well = |now: &Now| self.slow.as_ref().is_none_or(|slow| now.at < slow.onset);
        let mut best: Option<(f64, f32, [f32; 3])> = None;
        let mut starts: Vec<(i64, f64)> = SPANS.iter().map(|span| (seen - span, SHARE)).collect();
        if self.recent.len() <= MOST_SPLITS {
            starts.extend(self.recent.iter().map(|now| (now.seen, ALL)));
        }
        for (start, share) in starts {
            let new = |now: &&Now| now.seen >= start;
            // The past of this span: what came before it, if it is not known to be slow.
            let mut past = self.past.clone();
            self.recent
                .iter()
                .filter(|now| !new(now) && well(now))
                .for_each(|now| past.add(now.ms));
            if past.total < LEAST_PAST || start < LEAST_SPAN {
                continue;
            }
            let (bound, p, of) = self.bound(&past, of_like, share == ALL);
            let run = self.recent.iter().filter(new);
            let (mut n, mut x, mut times) = (0.0, 0.0, BTreeSet::new());
            for now in run {
                n += 1.0;
                if now.ms > bound {
                    x += 1.0;
                    times.insert(now.seen / APART);
                }
            }
            let newest = self.recent.iter().rev().take(8);
            let (few, slow) =
                newest.fold((0, 0), |(n, slow), now| (n + 1, slow + i32::from(now.ms > bound)));
            let score = (x - 0.5 - n * p) / (n * p * (1.0 - p) * (1.0 + n / of) + 0.25).sqrt();
            if n >= LEAST as f64
                && x >= share * n
                && score >= Z
                && times.len() >= TIMES
                && slow * 4 >= few
                && best.as_ref().is_none_or(|(most, ..)| score > *most)
            {
                let before = [past.quantile(0.2), past.quantile(0.5), past.quantile(0.8)];
                best = Some((score, bound, before));
            }
        }
        let (score, bound, before) = best?;
        // It began where the slow ones began to gather.
        let (mut gathered, mut most, mut from) = (0.0, 0.0, self.recent.len() - 1);
        for (at, now) in self.recent.iter().enumerate().rev() {
            gathered += if now.ms > bound { 1.0 - SHARE / 2.0 } else { -SHARE / 2.0 };
            if gathered >= most {
                (most, from) = (gathered, at);
            }
        }
        let since: Vec<&Now> = self.recent.iter().skip(from).collect();
        let onset = since.iter().map(|now| now.at).min()?;
        let mut sorted: Vec<f32> = since.iter().map(|now| now.ms).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let quantile = |q: f64| sorted[((sorted.len() as f64 * q) as usize).min(sorted.len() - 1)];
        let excess = sorted.iter().map(|ms| f64::from((ms - before[1]).max(0.0))).sum();
        Some(Slow {
            onset,
            last: since.iter().map(|now| now.at).max()?,
            n: sorted.len(),
            score,
            before,
            now: [quantile(0.2), quantile(0.5), quantile(0.8)],
            excess,
            told: 0,
            since: seen,
            bound,
            share: since.iter().filter(|now| now.ms > bound).count() as f64 / since.len() as f64,
        })
    }
}

/// All series.
#[derive(Debug, Default)]
pub(super) struct Durations {
    series: BTreeMap<What, Series>,
    touched: BTreeSet<What>,
    /// The past of all of a sort: for those whose own is thin.
    of_like: [Past; 4],
    /// When the last hole in what is seen ended, ns in sight.
    hole: i64,
}

fn sort(what: &What) -> usize {
    match what {
        What::Own { .. } => 0,
        What::Out { .. } => 1,
        What::Way { .. } => 2,
        What::Whole { .. } => 3,
    }
}

impl Durations {
    pub(super) fn add(&mut self, what: What, seen: i64, at: Time, ms: f32) {
        if !self.series.contains_key(&what) && self.series.len() >= MOST_SERIES {
            return;
        }
        let series = self.series.entry(what).or_default();
        if series.recent.len() >= MOST_RECENT
            && let Some(old) = series.recent.pop_front()
        {
            series.grow_old(old, &mut self.of_like[sort(&what)]);
        }
        series.recent.push_back(Now { seen, at, ms });
        self.touched.insert(what);
    }

    pub(super) fn judge(&mut self, seen: i64) {
        for what in std::mem::take(&mut self.touched) {
            if let Some(series) = self.series.get_mut(&what) {
                series.judge(seen, self.hole, &mut self.of_like[sort(&what)]);
                if series.slow.is_some() {
                    // What is slow is looked at until it is not.
                    self.touched.insert(what);
                }
            }
        }
    }

    /// After a hole: what was slow has to be seen again.
    pub(super) fn hidden(&mut self, seen: i64) {
        self.hole = seen;
    }

    /// After a long hole: what was, was; what is, is to be seen.
    pub(super) fn lost(&mut self) {
        for (what, series) in &mut self.series {
            let like = &mut self.of_like[sort(what)];
            let bound = series.bound(&series.past, like, false).0;
            while let Some(now) = series.recent.pop_front() {
                // What looked odd when sight was lost is no habit.
                if series.past.total < LEAST_PAST || now.ms <= bound {
                    series.grow_old(now, like);
                }
            }
            series.slow = None;
        }
    }

    pub(super) fn forget(&mut self, gone: &BTreeSet<u32>) {
        self.series.retain(|what, _| !what.holds(gone));
        self.touched.retain(|what| !what.holds(gone));
    }

    pub(super) fn slow(&self) -> impl Iterator<Item = (&What, &Slow)> {
        self.series.iter().filter_map(|(what, series)| Some((what, series.slow.as_ref()?)))
    }

    pub(super) fn usual(&self) -> BTreeMap<u32, f64> {
        let mut most: BTreeMap<u32, (u32, f64)> = BTreeMap::new();
        for (what, series) in &self.series {
            if let What::Whole { service, .. } = what {
                let total = series.past.total;
                let known = most.entry(*service).or_default();
                if total > known.0 {
                    *known = (total, f64::from(series.past.quantile(0.5)));
                }
            }
        }
        most.into_iter().map(|(service, (_, ms))| (service, ms)).collect()
    }

    pub(super) fn ways(&self, seen: i64) -> impl Iterator<Item = (u32, u32)> {
        self.series.iter().filter_map(move |(what, series)| match what {
            What::Way { caller, callee } => {
                let now = series.recent.iter().rev().take_while(|now| now.seen + RECENT >= seen);
                (now.count() >= LEAST && series.past.total >= LEAST_PAST)
                    .then_some((*caller, *callee))
            }
            _ => None,
        })
    }
}
