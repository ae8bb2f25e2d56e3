//! The store, the topology, the correlation, the patterns, the stories, and the enrichment of passing
//! telemetry.
//!
//! Level 2 of the house: knows signals and what they mean, not where they go.

pub mod batch;
pub mod kubernetes;
pub mod memory_limiter;
pub mod patterns;
pub mod store;

pub use patterns::{PatternError, Patterns};

mod files {
    include!(concat!(env!("OUT_DIR"), "/files.rs"));
}

pub mod correlation {
    //! The reduced tables.
    pub mod rows;
}
