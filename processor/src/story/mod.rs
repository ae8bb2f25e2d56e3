//! Stories: one root, a chain to what users see, the impact, what to do.
//!
//! [`group`] decides what belongs together, [`assemble`] tells it, [`track`] opens, grows and resolves
//! stories over time, [`text`] is what an SRE reads, [`otlp`] what leaves as telemetry.

mod again;
mod assemble;
mod chain;
mod dimension;
mod facts;
mod group;
mod impact;
mod judgement;
pub mod otlp;
pub mod text;
mod track;
mod unexplained;
mod words;

pub use assemble::View;
pub use dimension::Dimension;
pub use facts::Facts;
pub use group::groups;
pub(crate) use group::{front, lasts};
pub use impact::{Importance, Objective, Weight};
pub use track::{Stories, Telling};
pub(crate) use words::{fill, names};
