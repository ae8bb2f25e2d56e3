//! The unified event and what stories are made of: entities, changes, edges, symptoms, stories.
//!
//! Every table that people can query is declared here once, with [`table!`](row): the struct is the
//! row, its field names are the columns, and the Arrow schema follows from the field types.

mod entity;
mod event;
mod row;
mod story;
mod time;

pub use entity::{Edge, Entity, Relation};
pub use event::{Change, ChangeVerb, Event, Severity};
pub use row::{Column, Row, table};
pub use story::{
    Affected, Budget, ChainLink, Evidence, Harm, Hypothesis, Impact, RootCause, Story, StoryKind,
    StoryState, Symptom,
};
pub use time::Time;
