//! What requests came to over several times, for the windows in which failures are new.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tapio_proto::model::{Entity, Time};

use crate::{
    correlation::rows::{Answer, Sum},
    streaming::WINDOW,
};

/// Times that are summed up, in windows: 5, 15, 60 and 300 s.
const SPANS: [i64; 4] = [1, 3, 12, 60];
/// Services told apart; over it they are numbered anew.
const MOST: usize = 50_000;

/// So few failures may be what a caller passes on.
const ERRING: i64 = 2;

/// Kind, namespace and name of one who answers.
type Who = (Arc<str>, Arc<str>, Arc<str>);

/// A row of `answers`, as much as is summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    who: u32,
    count: u32,
    errors: u32,
    failed: Option<Time>,
    calm: bool,
}

/// Those who answer, by number.
#[derive(Default)]
pub(super) struct Answering {
    all: Vec<Who>,
    numbers: HashMap<Who, u32>,
}

/// Sums up to and with one window: of all windows, and of the calm ones.
#[derive(Clone, Copy, Default)]
struct Upto {
    count: i64,
    errors: i64,
    calm_count: i64,
    calm_errors: i64,
}

impl Answering {
    /// Is there no room for more?
    pub(super) fn is_full(&self) -> bool {
        self.all.len() >= MOST
    }

    /// A row of `answers` in short.
    pub(super) fn short(&mut self, row: &Answer) -> Short {
        let who: Who =
            (row.kind.as_str().into(), row.namespace.as_str().into(), row.service.as_str().into());
        let number = *self.numbers.entry(who).or_insert_with_key(|who| {
            self.all.push(who.clone());
            (self.all.len() - 1) as u32
        });
        let small = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let (count, errors) = (small(row.count), small(row.errors));
        Short { who: number, count, errors, failed: row.failed, calm: row.calm }
    }

    /// The sums that end with each window to which failures came at `recent` or later, of windows in order.
    pub(super) fn sums<'a>(
        &self,
        windows: impl Iterator<Item = (Time, &'a [Short])> + Clone,
        recent: Time,
    ) -> Vec<Sum> {
        let is_new = |row: &Short| row.errors > 0 && row.failed.is_some_and(|at| at >= recent);
        let new = windows.clone().flat_map(|(_, rows)| rows).filter(|row| is_new(row));
        let mut series: BTreeMap<u32, Vec<(Time, Short)>> =
            new.map(|row| (row.who, Vec::new())).collect();
        if series.is_empty() {
            return Vec::new();
        }
        for (bucket, rows) in windows {
            for row in rows {
                if let Some(all) = series.get_mut(&row.who) {
                    all.push((bucket, *row));
                }
            }
        }
        let mut sums = Vec::new();
        for (who, rows) in &series {
            let mut upto = vec![Upto::default()];
            let mut sum = Upto::default();
            for (_, row) in rows {
                let (count, errors) = (i64::from(row.count), i64::from(row.errors));
                sum.count += count;
                sum.errors += errors;
                if row.calm {
                    sum.calm_count += count;
                    sum.calm_errors += errors;
                }
                upto.push(sum);
            }
            for (at, (bucket, row)) in rows.iter().enumerate() {
                if let Some(failed) = row.failed.filter(|_| is_new(row)) {
                    let who = &self.all[*who as usize];
                    sums.extend(of(who, rows, &upto, (at, *bucket, failed)));
                }
            }
        }
        sums
    }
}

/// The sums that end with the window `at`.
fn of(
    (kind, namespace, service): &Who,
    rows: &[(Time, Short)],
    upto: &[Upto],
    (at, bucket, failed): (usize, Time, Time),
) -> [Sum; SPANS.len()] {
    let end = upto[at + 1];
    // What is not before a time that is summed up.
    let before =
        |windows: i64| upto[rows.partition_point(|row| row.0.0 <= bucket.0 - windows * WINDOW)];
    let mut still = f64::INFINITY;
    SPANS.map(|windows| {
        let past = before(windows);
        let (count, errors) = (end.count - past.count, end.errors - past.errors);
        let share = errors as f64 / count as f64;
        // The shortest time fades against itself; each other against those that are shorter.
        let least = if windows == SPANS[0] { share } else { still };
        still = still.min(share);
        Sum {
            bucket,
            kind: kind.to_string(),
            namespace: namespace.to_string(),
            service: service.to_string(),
            failed,
            span_s: windows * WINDOW / 1_000_000_000,
            count,
            errors,
            past_count: past.calm_count,
            past_errors: past.calm_errors,
            still: least,
        }
    })
}

/// Do the requests that a service answers fail more than is usual for it, be it too few to be proven?
pub(super) fn errs(sum: &Sum) -> bool {
    let usual = sum.past_errors as f64 / sum.past_count.max(1) as f64;
    sum.kind == "error_ratio"
        && sum.errors >= ERRING
        && sum.errors as f64 > 2.0 * usual * sum.count as f64 + 1.0
}

/// The service whose requests are summed up.
pub(super) fn service(sum: &Sum) -> Entity {
    Entity::new("Service", &sum.namespace, &sum.service)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A window of `shop`, in which ten answered.
    fn row(bucket: i64, errors: i64, failed: Option<i64>, calm: bool) -> Answer {
        Answer {
            bucket: Time(bucket * WINDOW),
            kind: "error_ratio".to_owned(),
            namespace: String::new(),
            service: "shop".to_owned(),
            count: 10,
            errors,
            first_error: None,
            failed: failed.map(|at| Time(at * WINDOW)),
            calm,
        }
    }

    #[test]
    fn each_time_is_summed_up_and_held_against_the_calm_before_it() {
        let mut answering = Answering::default();
        let rows: Vec<Answer> = (0..20)
            .map(|at| match at {
                5 => row(at, 1, Some(5), true),
                // A bout that was: no past.
                8 => row(at, 9, Some(8), false),
                18 => row(at, 2, Some(19), true),
                19 => row(at, 6, Some(19), true),
                _ => row(at, 0, None, true),
            })
            .collect();
        let short: Vec<(Time, Vec<Short>)> =
            rows.iter().map(|row| (row.bucket, vec![answering.short(row)])).collect();
        let windows = short.iter().map(|(bucket, rows)| (*bucket, &rows[..]));
        let sums = answering.sums(windows, Time(19 * WINDOW));
        assert_eq!(sums.len(), 8, "of the two windows to which failures came");
        let told: Vec<_> = sums[4..]
            .iter()
            .map(|s| (s.span_s, s.count, s.errors, s.past_count, s.past_errors))
            .collect();
        assert_eq!(
            told,
            [(5, 10, 6, 180, 3), (15, 30, 8, 160, 1), (60, 120, 17, 80, 1), (300, 200, 18, 0, 0)]
        );
        let still: Vec<f64> = sums[4..].iter().map(|s| s.still).collect();
        assert_eq!(still, [0.6, 0.6, 8.0 / 30.0, 17.0 / 120.0]);
    }
}
