//! The store, the topology, the correlation, the patterns, the stories, and the enrichment of passing
//! telemetry.
//!
//! Level 2 of the house: knows signals and what they mean, not where they go.

mod analysis;
pub mod attributes;
pub mod batch;
mod clock;
pub mod correlation;
mod engine;
mod enrich;
mod history;
mod ingest;
pub mod k8s_attributes;
pub mod kubernetes;
pub mod memory_limiter;
mod patterns;
mod pressure;
pub mod replay;
pub mod requests;
pub mod store;
pub mod story;
pub mod streaming;
mod tables;
mod topology;
mod validator;

pub use analysis::{Analysis, AnalysisConfig, AnalysisStats};
pub use engine::Engine;
pub use patterns::{Bench, Effect, Pattern, PatternError, Patterns, Step, Trial, TrialError};
pub use pressure::{Pressure, Resolution};
pub use story::Telling;
pub use tables::StoryRow;
pub use validator::{Quarantined, Reason};

mod files {
    include!(concat!(env!("OUT_DIR"), "/files.rs"));
}
