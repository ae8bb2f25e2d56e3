//! Getting signals in.
//!
//! Level 1 of the house: knows sockets and the shapes of what arrives, not how it is correlated.

mod net;
pub mod otlp;

pub use net::{ServerTls, TlsError};
pub use otlp::{
    Consumers, Handle, Observer, OtlpConfig, OtlpReceiver, StartError, Transport, Verdict,
};
