//! What belongs to an operation: which steps, calls and log lines its requests have, and how often.
//!
//! Two things are news. Requests of a kind that was never seen: with other steps than any of the past
//! has, more often than new kinds come up otherwise. And, where there are many requests, a share of a
//! step that moves by far more than it moved from one piece of the past to the next: where the mix of
//! requests changes all day, a change of the mix is no news.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use tapio_proto::model::Time;

/// Requests of so much time in sight are judged, ns.
const RECENT: i64 = 60_000_000_000;
const SPANS: [i64; 3] = [15_000_000_000, 30_000_000_000, RECENT];
/// Requests kept of an operation until they are past.
const MOST_RECENT: usize = 512;
/// Operations kept.
const MOST_SHAPES: usize = 10_000;
/// Steps told apart in one request.
const MOST_STEPS: usize = 200;
/// Length of a piece of the past, ns in sight, and how many are kept.
const PIECE: i64 = 15_000_000_000;
const MOST_PIECES: usize = 60;
/// Fewer requests than these say nothing, of now and of the past.
const LEAST: f64 = 4.0;
const LEAST_PAST: f64 = 5.0;
/// Past of fewer requests says little of what is rare.
const SHORT: f64 = 15.0;
/// The past must be so long, ns in sight: what comes all at once is one request's doing.
const LEAST_SPAN: i64 = 30_000_000_000;
/// Standard errors above chance, of new kinds and of a mix.
const Z: f64 = 4.0;
const Z_MIX: f64 = 6.0;
/// A mix is known by so many pieces of the past, with so many requests each.
const MIX_PIECES: usize = 6;
const MIX_EACH: u32 = 8;
/// Kinds of requests remembered of an operation.
const MOST_KINDS: usize = 2_000;
/// So many requests long it is remembered how often new kinds come up.
const MEMORY: f64 = 300.0;
/// A step that so many of the past had belongs to the operation; one that so few had does not.
const ALWAYS: f64 = 0.8;
const NEVER: f64 = 0.05;
/// By so much the share of a step must have moved...
const MOVED: f64 = 0.3;
/// ... or of so many that were expected none must have come.
const NONE_OF: f64 = 12.0;
/// A service that begins to log is not judged by that for so long, ns in sight.
const YOUNG: i64 = 90_000_000_000;
/// So many requests as ever end it.
const RELIEF: usize = 4;
/// And so does silence of this length, ns in sight.
const SILENT: i64 = 40_000_000_000;
/// What has been so for so long is how it is now, ns in sight.
const ADOPTED: i64 = 1_800_000_000_000;

/// Something that a service does in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// It has a span of this operation.
    Span(u32),
    /// It calls this operation of this service.
    Call(u32, u32),
    /// It logs a line of this template.
    Line(u32),
    /// It logs an error of this template.
    Error(u32),
    /// This service is the last that it calls.
    Last(u32),
}

/// One step whose share has moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// The step.
    pub step: Step,
    /// Share of the requests that had it, and that have it.
    pub before: f64,
    /// Share of the requests that have it.
    pub now: f64,
    /// Standard errors from what was expected.
    pub score: f64,
}

/// An operation that does not do what it usually does.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// First request that shows it.
    pub onset: Time,
    /// Newest request that shows it.
    pub last: Time,
    /// Requests judged.
    pub n: usize,
    /// Steps that are missing, the clearest first.
    pub missing: Vec<Moved>,
    /// Steps that are new or come much more often.
    pub more: Vec<Moved>,
    /// Of the requests that show it: the share that calls each service, and that calls it last.
    pub asks: BTreeMap<u32, (f64, f64)>,
    /// Is it only the mix of kinds that are all known?
    pub mix: bool,
    /// For how long it has been seen, ns in sight.
    pub told: i64,
    since: i64,
    share: f64,
}

impl Deviation {
    /// How clear it is.
    pub fn score(&self) -> f64 {
        let all = self.missing.iter().chain(&self.more);
        all.map(|moved| moved.score).fold(0.0, f64::max)
    }

    /// Does a request show it?
    fn shows(&self, steps: &[Step]) -> bool {
        let has = |step: &Step| steps.binary_search(step).is_ok();
        self.missing.iter().any(|m| m.before >= 0.5 && !has(&m.step))
            || self.more.iter().any(|m| m.before <= 0.5 && has(&m.step))
    }
}

#[derive(Debug)]
struct Now {
    seen: i64,
    at: Time,
    steps: Vec<Step>,
}

#[derive(Debug, Default)]
struct Piece {
    since: i64,
    n: u32,
    counts: HashMap<Step, u32>,
}

#[derive(Debug, Default)]
struct Shape {
    pieces: VecDeque<Piece>,
    n: f64,
    counts: BTreeMap<Step, u32>,
    recent: VecDeque<Now>,
    deviation: Option<Deviation>,
    /// Kinds of requests seen, by the hash of their steps.
    kinds: HashSet<u64>,
    /// How many were learnt of late, and how many of them were of a new kind.
    learnt: f64,
    novel: f64,
    /// When the first came, ns in sight.
    first: Option<i64>,
}

/// The kind of a request: the hash of its steps (FNV-1a). The last call follows from them.
fn kind(steps: &[Step]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for step in steps {
        let (tag, a, b) = match step {
            Step::Span(a) => (1, *a, 0),
            Step::Call(a, b) => (2, *a, *b),
            Step::Line(a) => (3, *a, 0),
            Step::Error(a) => (4, *a, 0),
            Step::Last(_) => continue,
        };
        for word in [tag, a, b] {
            hash = (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

impl Shape {
    fn grow_old(&mut self, now: Now) {
        if self.deviation.as_ref().is_some_and(|d| now.at >= d.onset) {
            return;
        }
        let fresh = self.kinds.len() < MOST_KINDS && self.kinds.insert(kind(&now.steps));
        if self.n > 0.0 {
            self.learnt += 1.0;
            self.novel += f64::from(u8::from(fresh));
            if self.learnt > MEMORY {
                (self.learnt, self.novel) = (self.learnt * 0.9, self.novel * 0.9);
            }
        }
        if self.pieces.back().is_none_or(|piece| piece.since + PIECE < now.seen) {
            if self.pieces.len() >= MOST_PIECES
                && let Some(old) = self.pieces.pop_front()
            {
                self.n -= f64::from(old.n);
                for (step, n) in old.counts {
                    if let Some(count) = self.counts.get_mut(&step) {
                        *count -= n.min(*count);
                    }
                }
                self.counts.retain(|_, n| *n > 0);
            }
            self.pieces.push_back(Piece { since: now.seen, ..Piece::default() });
        }
        let Some(piece) = self.pieces.back_mut() else { return };
        piece.n += 1;
        self.n += 1.0;
        for step in now.steps {
            *piece.counts.entry(step).or_default() += 1;
            *self.counts.entry(step).or_default() += 1;
        }
    }

    /// Some that are as they always were make it well, and that nobody asks.
    fn is_well(&self, old: &Deviation, seen: i64) -> bool {
        let newest = self.recent.iter().rev().take(2 * RELIEF);
        let (n, odd) =
            newest.fold((0, 0), |(n, odd), now| (n + 1, odd + usize::from(old.shows(&now.steps))));
        let silent = self.recent.back().is_none_or(|now| now.seen + SILENT < seen);
        // Where all were odd the first two that are not say enough.
        let all =
            old.share >= 0.95 && self.recent.iter().rev().take(2).all(|now| !old.shows(&now.steps));
        silent || (n >= 2 && all) || (n >= RELIEF && odd * 4 < n)
    }

    /// `young`: its service has not logged for long.
    fn judge(&mut self, seen: i64, young: bool) {
        while self.recent.front().is_some_and(|now| now.seen + RECENT < seen)
            && let Some(now) = self.recent.pop_front()
        {
            self.grow_old(now);
        }
        if self.deviation.as_ref().is_some_and(|d| d.since + ADOPTED < seen) {
            let recent = std::mem::take(&mut self.recent);
            *self = Shape { recent, ..Shape::default() };
        }
        let found = self.find(seen, young);
        self.deviation = match (self.deviation.take(), found) {
            (Some(old), Some(new)) if old.mix || !self.is_well(&old, seen) => {
                let onset = old.onset.min(new.onset);
                Some(Deviation { onset, since: old.since, told: seen - old.since, ..new })
            }
            (Some(old), None) if !self.is_well(&old, seen) => {
                let showing =
                    self.recent.iter().filter(|now| old.shows(&now.steps)).map(|now| now.at);
                let last = showing.max().unwrap_or(old.last).max(old.last);
                Some(Deviation { last, told: seen - old.since, ..old })
            }
            (Some(old), _) => {
                // It is over, and no habit.
                self.recent.retain(|now| {
                    now.at < old.onset || now.at > old.last || !old.shows(&now.steps)
                });
                None
            }
            (None, found) => found,
        };
    }

    fn find(&self, seen: i64, young: bool) -> Option<Deviation> {
        let well = |now: &Now| self.deviation.as_ref().is_none_or(|d| now.at < d.onset);
        let logs = |step: &Step| matches!(step, Step::Line(_) | Step::Error(_));
        let mut best: Option<(f64, Deviation)> = None;
        for span in SPANS {
            let run: Vec<&Now> = self.recent.iter().filter(|now| now.seen + span >= seen).collect();
            let older: Vec<&Now> =
                self.recent.iter().filter(|now| now.seen + span < seen && well(now)).collect();
            let n = run.len() as f64;
            let of = self.n + older.len() as f64;
            let first = self.first.unwrap_or(seen);
            if n < LEAST || of < LEAST_PAST || first + span + LEAST_SPAN > seen {
                continue;
            }
            let mut before = self.counts.clone();
            older
                .iter()
                .flat_map(|now| &now.steps)
                .for_each(|s| *before.entry(*s).or_default() += 1);
            let known: HashSet<u64> = older.iter().map(|now| kind(&now.steps)).collect();
            let fresh: Vec<&Now> = run
                .iter()
                .copied()
                .filter(|now| {
                    let kind = kind(&now.steps);
                    !self.kinds.contains(&kind) && !known.contains(&kind)
                })
                .collect();
            // Log lines that begin or end all at once are a signal that begins or ends.
            let mute = |of: &[&Now]| !of.iter().flat_map(|now| &now.steps).any(logs);
            let silent = young || mute(&run) || (!fresh.is_empty() && mute(&fresh));
            let heard = |step: &&Step| !(silent && logs(step));
            let counted = |of: &[&Now]| {
                let mut counts: BTreeMap<Step, u32> = BTreeMap::new();
                of.iter()
                    .flat_map(|now| &now.steps)
                    .filter(heard)
                    .for_each(|step| *counts.entry(*step).or_default() += 1);
                counts
            };
            let x = fresh.len() as f64;
            let q = (self.novel + 0.5) / (self.learnt + older.len() as f64 + 1.0);
            let wide = n * q * (1.0 - q) * (1.0 + n / (self.learnt + older.len() as f64 + 1.0));
            let score = (x - 0.5 - n * q) / (wide + 0.25).sqrt();
            let (mut missing, mut more, mut mix) = (Vec::new(), Vec::new(), false);
            if score >= Z && x >= MOVED * n && x >= 3.0 {
                let counts = counted(&fresh);
                let steps: BTreeSet<&Step> =
                    before.keys().filter(heard).chain(counts.keys()).collect();
                for step in steps {
                    let was = f64::from(before.get(step).copied().unwrap_or(0)) / of;
                    let now = f64::from(counts.get(step).copied().unwrap_or(0)) / x;
                    let moved = Moved { step: *step, before: was, now, score };
                    if was >= ALWAYS && now <= 0.3 {
                        missing.push(moved);
                        continue;
                    }
                    let last = matches!(step, Step::Last(_));
                    if now >= 0.5 && ((!last && was <= NEVER) || (last && now - was >= MOVED)) {
                        more.push(moved);
                    }
                }
                // A way that is new is a feature; what is left out or fails is none. And an error that
                // is gone is good news.
                let error = |m: &Moved| matches!(m.step, Step::Error(_));
                // With a short past most of what is new is only rare; an error is not.
                let rare = of < SHORT && !more.iter().any(error);
                let fails = !missing.is_empty() || more.iter().any(error);
                if missing.iter().any(error) || !fails || rare {
                    missing.clear();
                    more.clear();
                }
            }
            let pieces = self.pieces.iter().filter(|piece| piece.n >= MIX_EACH).count();
            if missing.is_empty()
                && more.is_empty()
                && pieces >= MIX_PIECES
                && n >= f64::from(MIX_EACH)
            {
                mix = true;
                let counts = counted(&run);
                let steps: BTreeSet<&Step> =
                    self.counts.keys().filter(heard).chain(counts.keys()).collect();
                for step in steps {
                    let x = counts.get(step).copied().unwrap_or(0);
                    if let Some(moved) = self.moved(*step, n, f64::from(x)) {
                        if moved.now < moved.before {
                            missing.push(moved)
                        } else {
                            more.push(moved)
                        }
                    }
                }
            }
            if missing.is_empty() && more.is_empty() {
                continue;
            }
            for all in [&mut missing, &mut more] {
                all.sort_by(|a, b| {
                    let by = |m: &Moved| ((m.now - m.before).abs(), m.score);
                    by(b).partial_cmp(&by(a)).unwrap_or(std::cmp::Ordering::Equal)
                });
            }
            let n = run.len();
            let asks = BTreeMap::new();
            let onset = Time(i64::MAX);
            let d = Deviation {
                onset,
                last: Time::default(),
                n,
                missing,
                more,
                asks,
                mix,
                told: 0,
                since: seen,
                share: 0.0,
            };
            let Some(d) = self.since(d) else { continue };
            if best.as_ref().is_none_or(|(most, b)| (!d.mix, d.score()) > (!b.mix, *most)) {
                best = Some((d.score(), d));
            }
        }
        best.map(|(_, d)| d)
    }

    /// Since when requests show it, if the newest still do; and whom those that show it ask.
    fn since(&self, mut d: Deviation) -> Option<Deviation> {
        let shows: Vec<bool> = self.recent.iter().map(|now| d.shows(&now.steps)).collect();
        let rare = d.missing.iter().all(|m| m.before < 0.5) && d.more.is_empty();
        let newest = shows.iter().rev().take(8);
        if !rare && newest.clone().filter(|shows| **shows).count() * 4 < newest.count() {
            return None;
        }
        let (mut gathered, mut most) = (0.0, -1.0);
        for (now, shows) in self.recent.iter().zip(&shows).rev() {
            gathered += if *shows || rare { 0.8 } else { -0.2 };
            if gathered >= most && (*shows || rare) {
                (most, d.onset) = (gathered, d.onset.min(now.at));
                d.last = d.last.max(now.at);
            }
        }
        if d.onset == Time(i64::MAX) {
            return None;
        }
        let showing: Vec<&Now> = self
            .recent
            .iter()
            .zip(&shows)
            .filter(|(now, shows)| **shows && now.at >= d.onset)
            .map(|(now, _)| now)
            .collect();
        let after = self.recent.iter().filter(|now| now.at >= d.onset).count().max(1);
        d.share = showing.len() as f64 / after as f64;
        let each = 1.0 / showing.len().max(1) as f64;
        for now in &showing {
            let mut asked = BTreeSet::new();
            for step in &now.steps {
                match step {
                    Step::Call(callee, _) if asked.insert(*callee) => {
                        d.asks.entry(*callee).or_default().0 += each;
                    }
                    Step::Last(callee) => d.asks.entry(*callee).or_default().1 += each,
                    _ => {}
                }
            }
        }
        Some(d)
    }

    fn moved(&self, step: Step, n: f64, x: f64) -> Option<Moved> {
        let before = f64::from(self.counts.get(&step).copied().unwrap_or(0));
        let p = (before + 0.5) / (self.n + 1.0);
        let none = x == 0.0 && before > 0.0 && n * p >= NONE_OF;
        let off = (x - n * p).abs() - 0.5;
        if (x / n - p).abs() < MOVED && !none {
            return None;
        }
        let var = n * p * (1.0 - p) * (1.0 + n / self.n);
        if off < Z_MIX * (var + 0.25).sqrt() {
            return None;
        }
        // How much more the share moves from piece to piece than chance alone would move it.
        let (mut sum, mut of) = (0.0, 0.0);
        for piece in self.pieces.iter().filter(|piece| piece.n >= MIX_EACH) {
            let m = f64::from(piece.n);
            let k = f64::from(piece.counts.get(&step).copied().unwrap_or(0));
            sum += (k - m * p).powi(2) / (m * p * (1.0 - p));
            of += 1.0;
        }
        let usual = if (0.05..0.95).contains(&p) { 3.0 } else { 1.0 };
        let wide = ((sum + 3.0 * usual) / (of + 3.0)).max(1.0);
        let score = off / (var * wide + 0.25).sqrt();
        (score >= Z_MIX && (!none || (x / n - p).abs() >= MOVED || n * p >= NONE_OF * wide))
            .then_some(Moved { step, before: p, now: x / n, score })
    }
}

/// All operations.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    shapes: BTreeMap<(u32, u32), Shape>,
    touched: BTreeSet<(u32, u32)>,
    /// Since when each service is seen, and since when it logs, ns in sight.
    services: BTreeMap<u32, (i64, Option<i64>)>,
}

impl Shapes {
    pub(super) fn add(&mut self, of: (u32, u32), seen: i64, at: Time, mut steps: Vec<Step>) {
        if !self.shapes.contains_key(&of) && self.shapes.len() >= MOST_SHAPES {
            return;
        }
        steps.truncate(MOST_STEPS);
        let (_, logs) = self.services.entry(of.0).or_insert((seen, None));
        if logs.is_none() && steps.iter().any(|s| matches!(s, Step::Line(_) | Step::Error(_))) {
            *logs = Some(seen);
        }
        let shape = self.shapes.entry(of).or_default();
        if shape.recent.len() >= MOST_RECENT
            && let Some(old) = shape.recent.pop_front()
        {
            shape.grow_old(old);
        }
        shape.first.get_or_insert(seen);
        shape.recent.push_back(Now { seen, at, steps });
        self.touched.insert(of);
    }

    pub(super) fn judge(&mut self, seen: i64) {
        for of in std::mem::take(&mut self.touched) {
            if let Some(shape) = self.shapes.get_mut(&of) {
                let (first, logs) = self.services.get(&of.0).copied().unwrap_or((seen, None));
                let young = logs.is_none_or(|logs| logs > first + YOUNG / 3 && logs + YOUNG > seen);
                shape.judge(seen, young);
                if shape.deviation.is_some() {
                    self.touched.insert(of);
                }
            }
        }
    }

    /// After a long hole: what was, was; what is, is to be seen.
    pub(super) fn lost(&mut self) {
        for shape in self.shapes.values_mut() {
            while let Some(now) = shape.recent.pop_front() {
                shape.grow_old(now);
            }
            shape.deviation = None;
        }
    }

    pub(super) fn forget(&mut self, gone: &BTreeSet<u32>) {
        self.shapes
            .retain(|(service, operation), _| !gone.contains(service) && !gone.contains(operation));
        self.touched.retain(|of| self.shapes.contains_key(of));
        self.services.retain(|service, _| !gone.contains(service));
        for shape in self.shapes.values_mut() {
            let here = |step: &Step| match step {
                Step::Span(a) | Step::Line(a) | Step::Error(a) | Step::Last(a) => !gone.contains(a),
                Step::Call(a, b) => !gone.contains(a) && !gone.contains(b),
            };
            shape.counts.retain(|step, _| here(step));
            shape.pieces.iter_mut().for_each(|piece| piece.counts.retain(|step, _| here(step)));
            shape.recent.iter_mut().for_each(|now| now.steps.retain(here));
        }
    }

    pub(super) fn deviations(&self) -> impl Iterator<Item = ((u32, u32), &Deviation)> {
        self.shapes.iter().filter_map(|(of, shape)| Some((*of, shape.deviation.as_ref()?)))
    }

    /// Errors that are news now.
    pub(super) fn errors(&self) -> impl Iterator<Item = u32> {
        let more = self.deviations().filter(|(_, d)| !d.mix).flat_map(|(_, d)| &d.more);
        more.filter_map(
            |moved| if let Step::Error(error) = moved.step { Some(error) } else { None },
        )
    }

    pub(super) fn callees(&self, service: u32) -> BTreeSet<u32> {
        let mine = self.shapes.range((service, 0)..=(service, u32::MAX));
        let steps = mine.flat_map(|(_, shape)| shape.counts.keys());
        steps
            .filter_map(|step| if let Step::Call(callee, _) = step { Some(*callee) } else { None })
            .collect()
    }
}
