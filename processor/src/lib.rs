//! The store, the topology, the correlation, the patterns, the stories, and the enrichment of passing telemetry.
//!
//! Level 2 of the house: knows signals and what they mean, not where they go.

pub mod kubernetes;
pub mod store;
