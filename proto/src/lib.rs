//! The language everything in Tapio speaks: OTLP wire views and splices, the unified event,
//! entity and story, their Arrow schemas, attribute names.
//!
//! Level 0 of the house: knows neither tokio nor sockets nor SQL.

pub mod hop;
pub mod model;
pub mod signal;
pub mod status;
pub mod transport;

pub use hop::{Accepted, Consumer, Next, Outcome, PartialSuccess, Pending, Request};
pub use signal::Signal;
pub use status::{Code, Status};
