//! Kubernetes facts out of OTLP.
//!
//! A Collector sends the objects of a cluster as log records and counts of them as metrics. A
//! [`Cluster`] keeps the latest state of each object and tells of each observation what it means:
//! somebody changed a field, a container died, a Service lost its last endpoint, an edge of the
//! topology began or ended. It has no clock and no order but that of its input: the same records
//! give the same facts.
//!
//! * What comes in: `views` from the wire, `record` (log records), `metrics` (points), `events`.
//! * What others tell: `notice` (releases, alerts, a provider's status, units of systemd).
//! * What is kept: `cluster`, `objects`, bounded; `bounded` and `latch` remember what was told.
//! * What comes out: `fact`; from `changes` with `diff`, `text`, `becomes`, `passage`,
//!   `manager`, `undo` and `redact`; from
//!   `pod`, `conditions` and `endpoints`; from `links` and `owners`; what was wrong all along: `standing`, `unfit`.
//! * What can be asked: `lookup`; by those who pass by, `directory`.

mod becomes;
mod bounded;
mod changes;
mod cluster;
mod conditions;
mod diff;
pub(crate) mod directory;
mod endpoints;
mod events;
mod fact;
mod heard;
mod latch;
mod links;
mod lookup;
mod manager;
mod metrics;
mod notice;
mod objects;
mod owners;
mod passage;
mod pod;
mod record;
mod redact;
mod rules;
mod standing;
mod template;
mod text;
mod undo;
mod unfit;
pub(crate) mod value;
mod views;

#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Losses, Verb};
pub use directory::{Directory, Snapshot};
pub use fact::Fact;
pub use lookup::Carriers;
pub use metrics::Lookup;
pub use notice::{Alert, Kind, Provider, Release};
pub use objects::Limits;
pub use record::Record;
pub(crate) use standing::telling;
pub use standing::{Finding, Known, Said, Saying, Shown};
