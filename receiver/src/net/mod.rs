//! Sockets: listening, TLS, and serving HTTP connections within bounds.

mod listen;
mod serve;
mod tls;

pub(crate) use listen::{BindError, bind};
pub(crate) use serve::{Limits, Reply, Server, serve};
pub use tls::{ServerTls, TlsError};
