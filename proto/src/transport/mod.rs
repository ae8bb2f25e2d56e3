//! What both ends of a hop need to know about OTLP's transports, as pure functions on bytes:
//! compression with a cap, gRPC's framing and header encodings, and the Collector's durations.

mod compression;
mod duration;
mod exchange;
pub mod grpc;
mod nullable;
mod pairs;

pub use compression::{Compression, DecompressError};
pub use duration::GoDuration;
pub use exchange::{Exchange, split_host_port};
pub use nullable::{NULLABLE, null_is_none};
pub use pairs::named_values;
