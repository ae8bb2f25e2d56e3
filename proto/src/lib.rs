//! The language everything in Tapio speaks: OTLP wire views and splices, the unified event,
//! entity and story, their Arrow schemas, attribute names.
//!
//! Level 0 of the house: knows neither tokio nor sockets nor SQL.

pub mod attr;
pub mod check;
pub mod columns;
pub mod edit;
pub mod hop;
pub mod json;
pub mod model;
mod parcel;
mod plan;
pub mod response;
mod schema;
pub mod signal;
pub mod splice;
pub mod split;
pub mod status;
pub mod transport;
pub mod view;
pub mod wire;

pub use check::check;
pub use hop::{
    Accepted, BatchObserver, Batching, CanBatch, Compressed, Consumer, Metadata, Next, Outcome,
    PartialSuccess, Pending, Request,
};
pub use parcel::Parcel;
pub use response::{decode_response, encode_response, response_from_json, response_to_json};
pub use signal::Signal;
pub use split::Most;
pub use status::{Code, Status};
pub use wire::WireError;
