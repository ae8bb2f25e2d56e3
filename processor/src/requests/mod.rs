//! Requests put together again from their spans and log lines, and what each service and each way
//! between two usually does in them.
//!
//! A span's duration says that somebody waits, not who lets them wait. Put together, a request says it:
//! [`durations`] keeps the time that a service spends itself (its spans less what they wait for) and the
//! time on the way between two (the caller's span less the callee's); [`shapes`] keeps which steps,
//! calls and log lines belong to an operation, so that one that is missing is noticed.
//!
//! All time here is time in sight: while nobody sends spans nothing is learnt, nothing begins and
//! nothing ends.

mod durations;
mod held;
mod put_together;
mod shapes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tapio_proto::model::Time;

pub use durations::{Slow, What};
pub use shapes::{Deviation, Moved, Step};

use crate::streaming::{Names, SpanKind};
use durations::Durations;
use held::Held;
use shapes::Shapes;

/// Names of services, operations and log templates told apart.
const MOST_NAMES: usize = 50_000;
/// Bytes of a name.
const LONGEST: usize = 256;
/// A step of the clock longer than this is a hole in what is seen, ns.
const STEP: i64 = 5_000_000_000;
/// After so long a hole what was slow has to be seen again.
const HIDDEN: Duration = Duration::from_secs(60);
/// What was not seen for so long is told anew when it is seen again.
pub const LOST: Duration = Duration::from_secs(300);
/// Time in sight from one look at what came to the next, ns.
const PAUSE: i64 = 2_000_000_000;
/// An error that is logged for so long is a habit, ns in sight.
const HABIT: i64 = 60_000_000_000;
/// Kinds of errors remembered.
const MOST_ERRORS: usize = 5_000;

/// One span, as far as a request needs it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its id.
    pub id: [u8; 8],
    /// Its parent; zeros without one.
    pub parent: [u8; 8],
    /// Number of the service.
    pub service: u32,
    /// Number of the operation.
    pub operation: u32,
    /// Span kind.
    pub kind: SpanKind,
    /// Start.
    pub start: Time,
    /// End.
    pub end: Time,
}

/// One log line of a request.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The span in which it was said.
    pub span: [u8; 8],
    /// Number of the service.
    pub service: u32,
    /// Number of its template.
    pub template: u32,
    /// Is it an error?
    pub error: bool,
    /// Does it name an exception?
    pub named: bool,
}

/// Time in sight: it stands still while nothing is seen.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    /// Time in sight so far, ns.
    seen: i64,
    last: Time,
}

impl Sight {
    /// Moves on to `at`; says how long nothing was seen.
    fn on(&mut self, at: Time) -> Duration {
        if self.last == Time::default() {
            self.last = at;
        }
        let step = at.0.saturating_sub(self.last.0).max(0);
        self.seen += step.min(STEP);
        self.last = self.last.max(at);
        Duration::from_nanos(step.unsigned_abs())
    }
}

/// Everything that requests told.
pub struct Requests {
    names: Names<Arc<str>>,
    /// A line of each template, to show.
    examples: HashMap<u32, Box<str>>,
    held: Held,
    sight: Sight,
    durations: Durations,
    shapes: Shapes,
    /// Errors by kind, and since when they are logged, in sight.
    errors: BTreeMap<u32, i64>,
    /// Errors that were trouble once: never a habit.
    guilty: BTreeSet<u32>,
    judged: i64,
}

impl Default for Requests {
    fn default() -> Self {
        Requests {
            names: Names::new(MOST_NAMES),
            examples: HashMap::new(),
            held: Held::default(),
            sight: Sight::default(),
            durations: Durations::default(),
            shapes: Shapes::default(),
            errors: BTreeMap::new(),
            guilty: BTreeSet::new(),
            judged: 0,
        }
    }
}

impl Requests {
    /// Is this request one of those that are put together? Under much load a share of them is, all of
    /// its spans or none.
    pub fn wants(&mut self, trace_id: &[u8], now: Time) -> bool {
        self.held.wants(trace_id, now)
    }

    /// The number of a service.
    pub fn service(&mut self, namespace: &str, name: &str, now: Time) -> Option<u32> {
        let mut key = String::with_capacity(namespace.len() + name.len() + 1);
        key.push_str(namespace);
        key.push('/');
        key.push_str(name);
        self.number(&key, now)
    }

    /// The number of a name; none when there is no room.
    pub fn number(&mut self, name: &str, now: Time) -> Option<u32> {
        let name = crate::streaming::cut(name, LONGEST);
        if let Some(id) = self.names.used(name, now) {
            return Some(id);
        }
        if self.names.is_full(now) {
            let oldest = Time(now.0.saturating_sub(3600 * 1_000_000_000));
            let gone: BTreeSet<u32> = self.names.sweep(oldest, now).iter().copied().collect();
            self.examples.retain(|id, _| !gone.contains(id));
            self.errors.retain(|id, _| !gone.contains(id));
            self.guilty.retain(|id| !gone.contains(id));
            self.durations.forget(&gone);
            self.shapes.forget(&gone);
            self.held = Held::default();
        }
        self.names.id(&name.into(), now)
    }

    /// The number of a log template; keeps a line to show for it.
    pub fn template(&mut self, template: &str, line: &str, now: Time) -> Option<u32> {
        let id = self.number(template, now)?;
        self.examples
            .entry(id)
            .or_insert_with(|| crate::streaming::cut(line, LONGEST).to_owned().into());
        Some(id)
    }

    /// A name by its number.
    pub fn name(&self, id: u32) -> &str {
        self.names.name(id).map_or("", |name| name)
    }

    /// A line of a template.
    pub fn example(&self, id: u32) -> &str {
        self.examples.get(&id).map_or("", |line| line)
    }

    /// Namespace and name of a service.
    pub fn told(&self, service: u32) -> (&str, &str) {
        self.name(service).split_once('/').unwrap_or_default()
    }

    /// Takes a span in.
    pub fn span(&mut self, trace_id: &[u8], part: Part, now: Time) {
        self.held.part(trace_id, part, now);
    }

    /// Takes a log line in.
    pub fn line(&mut self, trace_id: &[u8], line: Line, now: Time) {
        self.held.line(trace_id, line, now);
    }

    /// Takes in what is complete by now, and judges it. True when anything was looked at.
    pub fn settle(&mut self, now: Time) -> bool {
        while let Some(whole) = self.held.due(now) {
            let hole = self.sight.on(whole.last);
            if hole > LOST {
                self.durations.lost();
                self.shapes.lost();
            } else if hole > HIDDEN {
                self.durations.hidden(self.sight.seen);
            }
            self.take(&whole);
        }
        if self.sight.seen < self.judged + PAUSE {
            return false;
        }
        self.judged = self.sight.seen;
        self.durations.judge(self.sight.seen);
        self.shapes.judge(self.sight.seen);
        for error in self.shapes.errors() {
            self.guilty.insert(error);
        }
        true
    }

    fn take(&mut self, whole: &held::Open) {
        let seen = self.sight.seen;
        let told = put_together::put_together(whole);
        for (what, at, ms) in &told.durations {
            self.durations.add(*what, seen, *at, *ms);
        }
        let mut habitual = false;
        for line in whole.lines.iter().filter(|line| line.error) {
            habitual |= self.is_habit(line, seen);
        }
        if habitual {
            return;
        }
        for (service, operation, at, steps) in told.shapes {
            self.shapes.add((service, operation), seen, at, steps);
        }
    }

    /// Was this error logged for a while, and nobody was the worse for it? Then it is one of those that are
    /// logged every day, and what such a request does or leaves out is no news.
    fn is_habit(&mut self, line: &Line, seen: i64) -> bool {
        if !self.errors.contains_key(&line.template) && self.errors.len() >= MOST_ERRORS {
            return false;
        }
        let since = *self.errors.entry(line.template).or_insert(seen);
        since + HABIT <= seen && line.named && !self.guilty.contains(&line.template)
    }

    /// What is slow now.
    pub fn slow(&self) -> impl Iterator<Item = (&What, &Slow)> {
        self.durations.slow()
    }

    /// Ways of or to a service on which enough was seen of late to judge them.
    pub fn ways(&self) -> impl Iterator<Item = (u32, u32)> {
        self.durations.ways(self.sight.seen)
    }

    /// How long each service usually takes for what it is asked most, ms.
    pub fn usual(&self) -> BTreeMap<u32, f64> {
        self.durations.usual()
    }

    /// Operations that do not do what they usually do.
    pub fn deviations(&self) -> impl Iterator<Item = ((u32, u32), &Deviation)> {
        self.shapes.deviations()
    }

    /// Whom a service calls, as far as it is known from its requests.
    pub fn callees(&self, service: u32) -> BTreeSet<u32> {
        self.shapes.callees(service)
    }
}
