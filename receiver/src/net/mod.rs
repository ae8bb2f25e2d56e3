//! Sockets: listening, TLS, and serving HTTP connections within bounds.

mod listen;
mod serve;
mod stall;
mod tls;

pub use listen::check_endpoint;
pub(crate) use listen::{BindError, Network, bind};
pub(crate) use serve::{Handler, Limits, Reply, Server, serve};
pub(crate) use tls::Tls;
pub use tls::{ServerTls, TlsError, tls_parameters};
