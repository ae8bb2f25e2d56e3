//! The streaming gear: what each batch adds to the accumulators. Tens of nanoseconds a record, no
//! judgement; judging is the queries' work.

mod complaints;
mod fills;
mod gauge;
mod instances;
mod levels;
mod logs;
mod measures;
mod names;
mod parents;
mod series;
mod share;
mod strain;
mod texts;
mod traces;
mod windows;

pub use complaints::{Complaint, Complaints, Voice, hosts};
pub use fills::{Content, Filling, Fills, Vessel, vessel};
pub use gauge::{Gauge, Named, Want};
pub use instances::{Instances, Served, Server, Twin};
pub use levels::{Levels, Resource};
pub use logs::{Templates, said, signature, template};
pub use measures::{Labels, Measures, Metric};
pub(crate) use names::Names;
pub use series::{Blame, Meaning, Series, Worse};
pub use share::Share;
pub use strain::{Busy, Strain, Strains};
pub use traces::Traces;
pub use windows::{
    CallEdge, Count, Counted, KEPT, Sample, ServiceId, Silent, SpanFact, SpanKind, Windows,
};

/// A map whose keys are not an attacker's to choose without limit: each is bounded, and seeded anew.
type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// Width of a window, ns. Half the ten seconds that an operator's eye resolves: onset is told to
/// within a few seconds, and a service with two requests a second still has ten in a window.
pub const WINDOW: i64 = 5_000_000_000;

/// At most so many bytes of a text, whole characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or_else(|| &text[..text.floor_char_boundary(most)])
}

/// An id with its bits mixed, so that any of them may choose a place: most ids are random, but some
/// generators count, and some begin or end with a time. The last steps of murmur3, by Austin Appleby.
fn scatter(id: u64) -> u64 {
    let id = (id ^ id >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let id = (id ^ id >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    id ^ id >> 33
}
