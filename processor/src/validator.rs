//! What of passing telemetry the analysis can use, and what becomes of the rest: it passes on like all
//! else, is counted by reason, and is kept as rows of the `quarantine` table for people to look at.

use std::time::Duration;

use tapio_proto::{
    Signal,
    model::{Row as _, Time, table},
    view::{PointValue, PointView},
};

use crate::{clock::Clock, correlation::CorrelationError, store::Store, streaming::cut};

/// What is later than this from now comes from a clock that says nothing of when it was.
pub(crate) const AHEAD: Duration = Duration::from_secs(300);
/// What is older than this, nothing that fails now is explained by.
const AGE: Duration = Duration::from_secs(24 * 3600);
/// Rows that wait for the next pass; what finds no row of its kind is counted with another service's.
const MOST_ROWS: usize = 256;
/// Bytes of an example.
const TEXT: usize = 300;
/// Bytes of a service's name.
const NAME: usize = 256;

/// Why a record is not analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not say when it was.
    NoTime,
    /// Nothing says whose it is: no service, pod or host.
    NoSource,
    /// A metric without a name.
    NoName,
    /// A data point without a value, that does not say so.
    NoValue,
    /// A span that ends before it starts.
    EndsBeforeStart,
    /// Its time is minutes ahead of everybody else's.
    Ahead,
    /// It is more than a day old.
    TooOld,
    /// There are more services than are told apart.
    TooManyServices,
    /// A Kubernetes object or event that is too large or too deep to be one.
    TooLarge,
}

impl Reason {
    /// All there are.
    pub const ALL: [Reason; 9] = [
        Reason::NoTime,
        Reason::NoSource,
        Reason::NoName,
        Reason::NoValue,
        Reason::EndsBeforeStart,
        Reason::Ahead,
        Reason::TooOld,
        Reason::TooManyServices,
        Reason::TooLarge,
    ];

    /// Its name in the metric and the table.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NoTime => "no_time",
            Reason::NoSource => "no_source",
            Reason::NoName => "no_name",
            Reason::NoValue => "no_value",
            Reason::EndsBeforeStart => "ends_before_start",
            Reason::Ahead => "ahead",
            Reason::TooOld => "too_old",
            Reason::TooManyServices => "too_many_services",
            Reason::TooLarge => "too_large",
        }
    }
}

/// What a record's time must be within.
#[derive(Clone, Copy)]
pub(crate) struct Within {
    oldest: Time,
    newest: Time,
    /// Who sent it has said what time it is.
    pub(crate) said: bool,
}

impl Within {
    /// As the clock stands.
    pub(crate) fn of(clock: &Clock) -> Self {
        let (oldest, newest) = match clock.now() {
            // Nobody has said yet what time it is.
            Time(0) => (Time(1), Time(i64::MAX)),
            now => (now - AGE, now + AHEAD),
        };
        Within { oldest, newest, said: false }
    }

    /// Is that a time, and within?
    pub(crate) fn holds(self, time: Time) -> bool {
        self.oldest <= time && time <= self.newest
    }

    /// What is wrong with a time that is not within. What is hours off may be the first to know better,
    /// until others have spoken.
    pub(crate) fn wrong(self, time: Time, clock: &Clock) -> Option<Reason> {
        match time {
            Time(..=0) => Some(Reason::NoTime),
            _ if self.holds(time) || !clock.doubts(time) => None,
            _ if time > self.newest => Some(Reason::Ahead),
            _ => Some(Reason::TooOld),
        }
    }
}

/// What is wrong with a data point but for its time.
pub(crate) fn wrong_point(metric: &str, point: &PointView<'_>) -> Option<Reason> {
    const NO_RECORDED_VALUE: u32 = 1;
    if metric.is_empty() {
        return Some(Reason::NoName);
    }
    let says_so = point.flags & NO_RECORDED_VALUE != 0;
    (matches!(point.value, PointValue::None) && !says_so).then_some(Reason::NoValue)
}

table! { "quarantine" =>
    /// Records of one kind that were not analysed, by one of them.
    #[derive(Clone, Debug)]
    pub struct Quarantined {
        /// When the first of them came.
        pub time: Time,
        /// `traces`, `logs` or `metrics`.
        pub signal: String,
        /// Why; the values of the label `reason` of `tapio_quarantined_items`.
        pub reason: String,
        /// Who sent it: its service, else its pod or host.
        pub service: String,
        /// When it says that it was; null when it does not say.
        pub said: Option<Time>,
        /// What it is: the name of a span or a metric, or a line's text.
        pub text: String,
        /// How many like it came within the same second, itself included.
        pub items: i64,
    }
}

/// Counts what is not analysed, and gathers the rows until the next pass.
#[derive(Default)]
pub(crate) struct Quarantine {
    rows: Vec<Quarantined>,
    counts: [u64; Reason::ALL.len()],
}

impl Quarantine {
    /// A record, as one of `items`, that came at `now`, says `said` and is described by `text`.
    pub(crate) fn add(
        &mut self,
        (now, said): (Time, Time),
        (signal, reason): (Signal, Reason),
        service: &str,
        text: &str,
        items: u32,
    ) {
        self.counts[reason as usize] += u64::from(items);
        let service = cut(service, NAME);
        let full = self.rows.len() >= MOST_ROWS;
        let like = |row: &&mut Quarantined| {
            row.signal == signal.name()
                && row.reason == reason.name()
                && (full || row.service == service)
        };
        // The last of a kind is most likely the same sender's.
        match self.rows.iter_mut().rev().find(like) {
            Some(row) => row.items = row.items.saturating_add(items.into()),
            None => self.rows.push(Quarantined {
                time: now,
                signal: signal.name().to_owned(),
                reason: reason.name().to_owned(),
                service: service.to_owned(),
                said: (said > Time::default()).then_some(said),
                text: cut(text, TEXT).to_owned(),
                items: items.into(),
            }),
        }
    }

    /// How many there were, by reason, since this was asked last.
    pub(crate) fn take_counts(&mut self) -> [u64; Reason::ALL.len()] {
        std::mem::take(&mut self.counts)
    }

    /// Moves the rows into the store.
    pub(crate) fn flush(&mut self, store: &Store) -> Result<(), CorrelationError> {
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            store.table(Quarantined::TABLE)?.append(Quarantined::batch(&rows)?)?;
        }
        Ok(())
    }
}
