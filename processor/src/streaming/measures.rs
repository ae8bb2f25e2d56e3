//! Metrics of requests to the same windows that spans go to: how many there were, failed and how long they took
//! since the point before, whichever temporality, and however histograms are written.
//!
//! Where the spans of a service come they tell more, and its metrics are not counted.

mod known;

use std::time::Duration;

pub use known::{Labels, Metric};
use known::{Part, Tells, Whose};
use tapio_proto::{
    model::Time,
    view::{Attributes, ExponentialHistogramView, HistogramView, PointValue, PointView},
};

use super::{
    Map, ServiceId, SpanKind,
    windows::{Counted, KEPT},
};

/// Series kept, and metrics of one sender; over it those that were silent for [`SILENT`] make room.
const MOST_SERIES: usize = 100_000;
/// What came so long ago comes no more.
const SILENT: Duration = Duration::from_secs(900);
/// Time from one look for silent series to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// Points of one collection have times as near as this.
const TOGETHER: Duration = Duration::from_millis(500);
/// What no point told of for longer than this is no interval.
const LONGEST: Duration = Duration::from_secs(600);
/// Into so many parts a bucket is spread, evenly: or a median would jump from bound to bound.
const PARTS: u64 = 16;

/// The parts of a metric of one sender, whatever their attributes.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// The newest collection, and the one before.
    newest: Time,
    before: Option<Time>,
    /// Since when its sums count.
    start: Time,
}

/// One series as of its newest point.
#[derive(Default)]
struct Series {
    time: Time,
    start: Time,
    /// Values so far, and their sum.
    count: f64,
    sum: f64,
    buckets: Buckets,
    /// What it gained with the newest point.
    gained: f64,
    /// Points, and how often it fell or began anew with one.
    points: u32,
    falls: u32,
}

/// Counts by bucket.
#[derive(Clone, Debug, Default, PartialEq)]
enum Buckets {
    #[default]
    None,
    Explicit(Vec<u64>),
    /// Scale, and the zeroes before buckets from an index on.
    Exponential(i32, u64, i32, Vec<u64>),
}

/// Requests since the point before.
#[derive(Debug, Default, PartialEq)]
pub struct Gain {
    /// Since when, and until when.
    pub during: (Time, Time),
    /// How many there were.
    pub requests: u64,
    /// How many took about so many nanoseconds.
    pub took: Vec<(u64, u64)>,
}

/// All series of requests.
#[derive(Default)]
pub struct Measures {
    streams: Map<u64, Stream>,
    series: Map<u64, Series>,
    /// Rows of metrics that count a service's requests, and when they last did.
    rows: Map<(ServiceId, SpanKind), Vec<(u8, Time)>>,
    /// When a service's spans last came, for each side.
    spans: Map<(ServiceId, SpanKind), Time>,
    swept: Time,
}

impl Measures {
    /// Spans of a service came.
    pub fn spans(&mut self, service: ServiceId, kind: SpanKind, now: Time) {
        self.spans.insert((service, kind), now);
    }

    /// Is this metric the one by which a service's requests are counted, if any is?
    pub fn counts(
        &mut self,
        metric: &Metric,
        (service, kind): (ServiceId, SpanKind),
        now: Time,
    ) -> bool {
        let rows = self.rows.entry((service, kind)).or_default();
        match rows.iter_mut().find(|(row, _)| *row == metric.row) {
            Some((_, last)) => *last = now,
            None => rows.push((metric.row, now)),
        }
        rows.retain(|(_, last)| *last + SILENT >= now);
        let spans = self.spans.get(&(service, kind)).is_some_and(|last| *last + KEPT >= now);
        !spans && !rows.iter().any(|(row, _)| metric.gives_way(*row))
    }

    /// What a series gained with this point; `sender` tells its resource from others, `delta` is its
    /// temporality.
    ///
    /// Of what is seen for the first time nothing is known but that it was there. Only attributes that are new
    /// to a metric that came before count from nothing: their first requests are what they tell.
    pub fn gain(
        &mut self,
        metric: &Metric,
        (sender, delta): (u64, bool),
        point: &PointView<'_>,
        now: Time,
    ) -> Option<Gain> {
        let (count, sum, buckets) = read(metric, point)?;
        let (time, start) = (
            Time::from_unix_nano(point.time_unix_nano),
            Time::from_unix_nano(point.start_time_unix_nano),
        );
        let of =
            |part: Part| self.series.hasher().hash_one((sender, metric.row, part as u8, delta));
        let attributes = self.identity(point.attributes());
        let one = |part: Part| of(part) ^ attributes;
        let (stream, key) = (of(metric.part), one(metric.part));
        let other = one(if metric.part == Part::Sum { Part::Count } else { Part::Sum });
        self.sweep(now);
        let full = self.series.len() >= MOST_SERIES && !self.series.contains_key(&key);
        if full {
            return None;
        }
        let stream = self.streams.entry(stream).or_default();
        if stream.newest == Time::default() {
            stream.newest = time;
        } else if stream.newest + TOGETHER < time {
            (stream.before, stream.newest) = (Some(stream.newest), time);
        }
        let same_start = start == Time::default() || start == stream.start;
        stream.start = start;
        let before = stream.before;
        let known = self.series.contains_key(&key);
        let series = self.series.entry(key).or_default();
        if known && series.time >= time {
            return None;
        }
        let (was_start, was_time) = (series.start, series.time);
        let anew = was_start != start || count < series.count;
        series.points += 1;
        series.falls += u32::from(known && !delta && anew);
        let since = match (known, delta) {
            (true, true) if start > Time::default() => Some(start.max(was_time)),
            (true, _) => Some(was_time),
            // As new as the metric itself, or told by a process that began since.
            (false, _) => before.filter(|b| delta || same_start || start + TOGETHER >= *b),
        };
        let from_nothing = delta || !known || anew;
        let zero = (0.0, 0.0, Buckets::None);
        let (count_before, sum_before, buckets_before) = if from_nothing {
            zero
        } else {
            (series.count, series.sum, std::mem::take(&mut series.buckets))
        };
        let gained = if metric.part == Part::Sum { sum - sum_before } else { count - count_before };
        let took_seconds = sum - sum_before;
        let took = match metric.known.tells {
            Tells::Counts => Vec::new(),
            _ => spread(&buckets, &buckets_before, metric.seconds, point),
        };
        (series.time, series.start, series.count, series.sum, series.buckets) =
            (time, start, count, sum, buckets);
        series.gained = gained;
        // Several that say they are one: each falls behind the other.
        let doubtful = series.falls >= 2 && series.falls * 4 > series.points;
        let since = since.filter(|since| *since < time && *since + LONGEST >= time && !doubtful)?;
        let mut gain = Gain { during: (since, time), requests: 0, took };
        let (mut requests, mut seconds) = (gained, took_seconds);
        if metric.part != Part::Whole {
            let pair = self.series.get(&other).filter(|pair| pair.time == time);
            match (metric.part, pair) {
                (Part::Sum, Some(pair)) => (requests, seconds) = (pair.gained, gained),
                (Part::Sum, None) => return None,
                (_, Some(pair)) => seconds = pair.gained,
                (_, None) => seconds = 0.0,
            }
        }
        let n = if requests >= 0.0 { requests.round() as u64 } else { 0 };
        if metric.known.tells != Tells::Durations && metric.part != Part::Sum {
            gain.requests = n;
        }
        if gain.took.is_empty() && metric.known.tells != Tells::Counts && n > 0 && seconds > 0.0 {
            gain.took = vec![(nanos(seconds / n as f64 * metric.seconds), n)];
        }
        (gain.requests > 0 || !gain.took.is_empty()).then_some(gain)
    }

    fn sweep(&mut self, now: Time) {
        if self.series.len() < MOST_SERIES || self.swept + PAUSE > now {
            return;
        }
        self.swept = now;
        self.series.retain(|_, series| series.time + SILENT >= now);
        self.streams.retain(|_, stream| stream.newest + SILENT >= now);
        self.rows.retain(|_, rows| rows.iter().any(|(_, last)| *last + SILENT >= now));
        self.spans.retain(|_, last| *last + KEPT >= now);
    }

    /// A number for these attributes, in whichever order.
    pub fn identity(&self, attributes: Attributes<'_>) -> u64 {
        attributes.flatten().fold(0, |sum, attribute| {
            let text = attribute.value.as_str().unwrap_or_default();
            let number = attribute.value.as_f64().map(f64::to_bits);
            sum.wrapping_add(self.series.hasher().hash_one((attribute.key, text, number)))
        })
    }
}

impl Gain {
    /// The same as requests of a service that all ended as these did.
    pub fn counted<'a>(
        &'a self,
        service: ServiceId,
        whose: &'a Whose<'_>,
        (operation, failed): (&'a str, Option<&'a str>),
        arrived: Time,
    ) -> Counted<'a> {
        Counted {
            service,
            kind: whose.kind,
            operation,
            peer: &whose.peer,
            during: self.during,
            requests: self.requests,
            failed,
            took: &self.took,
            arrived,
        }
    }
}

/// Values so far, their sum and their buckets.
fn read(metric: &Metric, point: &PointView<'_>) -> Option<(f64, f64, Buckets)> {
    let read = match &point.value {
        PointValue::Int(value) if *value >= 0 => number(metric, *value as f64),
        PointValue::Double(value) if *value >= 0.0 => number(metric, *value),
        PointValue::Histogram(h) => (h.count as f64, h.sum.unwrap_or_default(), explicit(h)),
        PointValue::ExponentialHistogram(h) => {
            (h.count as f64, h.sum.unwrap_or_default(), exponential(h))
        }
        PointValue::Summary(s) => (s.count as f64, s.sum, Buckets::None),
        _ => return None,
    };
    (read.0.is_finite() && read.1.is_finite()).then_some(read)
}

fn number(metric: &Metric, value: f64) -> (f64, f64, Buckets) {
    match metric.part {
        Part::Sum => (value, value, Buckets::None),
        _ => (value, 0.0, Buckets::None),
    }
}

/// Buckets kept of a histogram.
const MOST_BUCKETS: usize = 512;

fn explicit(h: &HistogramView<'_>) -> Buckets {
    let counts: Vec<u64> = h.bucket_counts().take(MOST_BUCKETS).collect();
    if counts.len() < 2 { Buckets::None } else { Buckets::Explicit(counts) }
}

fn exponential(h: &ExponentialHistogramView<'_>) -> Buckets {
    let counts: Vec<u64> = h.positive.bucket_counts().take(MOST_BUCKETS).collect();
    Buckets::Exponential(h.scale, h.zero_count, h.positive.offset, counts)
}

/// How many values took how long, of those that came since; none where the buckets are not the same.
fn spread(now: &Buckets, before: &Buckets, seconds: f64, point: &PointView<'_>) -> Vec<(u64, u64)> {
    let mut took = Vec::new();
    let mut add = |from: f64, to: f64, n: u64| {
        let parts = n.min(PARTS);
        for part in 0..parts {
            let share = n * (part + 1) / parts - n * part / parts;
            let at = from + (to - from) * (part as f64 + 0.5) / parts as f64;
            took.push((nanos(at * seconds), share));
        }
    };
    match (now, before) {
        (Buckets::Explicit(now), Buckets::None) => {
            buckets(now, &vec![0; now.len()], point, &mut add);
        }
        (Buckets::Explicit(now), Buckets::Explicit(before)) if now.len() == before.len() => {
            buckets(now, before, point, &mut add);
        }
        (Buckets::Exponential(scale, zeroes, offset, counts), before) => {
            let base = 2_f64.powf(2_f64.powi(-scale));
            let (zeroes_before, offset_before, counts_before) = match before {
                Buckets::Exponential(s, zeroes, offset, counts) if s == scale => {
                    (*zeroes, *offset, counts.as_slice())
                }
                Buckets::None => (0, 0, &[][..]),
                _ => return Vec::new(),
            };
            add(0.0, 0.0, zeroes.saturating_sub(zeroes_before));
            for (index, n) in (*offset..).zip(counts) {
                let place = usize::try_from(index.saturating_sub(offset_before)).ok();
                let known = place.and_then(|place| counts_before.get(place)).copied();
                let from = base.powi(index);
                add(from, from * base, n.saturating_sub(known.unwrap_or_default()));
            }
        }
        _ => {}
    }
    took
}

fn buckets(
    now: &[u64],
    before: &[u64],
    point: &PointView<'_>,
    add: &mut impl FnMut(f64, f64, u64),
) {
    let PointValue::Histogram(h) = &point.value else { return };
    let bounds: Vec<f64> = h.explicit_bounds().take(MOST_BUCKETS).collect();
    let last = bounds.last().copied().unwrap_or_default();
    for (at, (now, before)) in now.iter().zip(before).enumerate() {
        let from = at.checked_sub(1).and_then(|at| bounds.get(at)).copied().unwrap_or(0.0);
        let to = bounds.get(at).copied().unwrap_or(2.0 * last);
        add(from.max(0.0), to.max(0.0), now.saturating_sub(*before));
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64
}
