//! Getting results out.
//!
//! Level 3 of the house: knows how to deliver a request and how to keep it until it is delivered,
//! not what a story means.

mod debug;
mod fanout;
mod file;
mod net;
mod otlp;
mod send;
mod storage;

pub use debug::{DEBUG_TARGET, Debug, DebugConfig, Verbosity};
pub use fanout::Fanout;
pub use file::{File, FileCompression, FileConfig, Format, Rotation};
pub use net::{ClientAuth, ClientAuthConfig, ClientTls, ConfigError, Opaque};
pub use otlp::{JsonOrProto, OtlpGrpcConfig, OtlpHttpConfig, otlp_grpc, otlp_http};
pub use send::{Exporter, Leftover, Observer, QueueConfig, RetryConfig, SendConfig, Sizer};
pub use storage::{
    CompactionConfig, FileStorageConfig, Holding, SET_ASIDE, Storage, ask_replay, collectors_files,
    drop_dead_letters, holdings, set_aside, unclaimed,
};
