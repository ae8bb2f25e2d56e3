//! The streaming gear: what each batch adds to the accumulators. Tens of nanoseconds a record, no
//! judgement; judging is the queries' work.

mod levels;
mod logs;
mod names;
mod parents;
mod series;
mod texts;
mod traces;
mod windows;

pub use levels::{Levels, Resource};
pub use logs::{Templates, signature, template};
pub(crate) use names::Names;
pub use series::{Blame, Meaning, Series, Worse};
pub use traces::Traces;
pub use windows::{CallEdge, Sample, ServiceId, SpanFact, SpanKind, Windows};

/// A map whose keys are not an attacker's to choose without limit: each is bounded, and seeded anew.
type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// Width of a window, ns. Half the ten seconds that an operator's eye resolves: onset is told to
/// within a few seconds, and a service with two requests a second still has ten in a window.
pub const WINDOW: i64 = 5_000_000_000;

/// At most so many bytes of a text, whole characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or_else(|| &text[..text.floor_char_boundary(most)])
}
