//! The `otlp` receiver over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks;
mod bounds;
mod grpc;
mod http;
mod keys;
mod support;
