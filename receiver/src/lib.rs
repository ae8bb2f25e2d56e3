//! Getting signals in.
//!
//! Level 1 of the house: knows sockets and the shapes of what arrives, not how it is correlated.

mod auth;
mod net;
pub mod otlp;
mod timers;

pub use auth::{Attributes, Authenticator, Verified};
pub use net::{ServerTls, TlsError, check_endpoint, tls_parameters};
pub use otlp::{
    Auth, Consumers, Handle, Limit, Observer, OtlpConfig, OtlpReceiver, StartError, Transport,
    Transports, Verdict,
};
pub use timers::{Timer, Timers};
