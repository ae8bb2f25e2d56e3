//! Receiver and exporter back to back, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batch;
mod connection;
mod matrix;
mod queue;
mod support;
