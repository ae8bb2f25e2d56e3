//! What Tapio tells about itself: log lines, metrics, traces, health.

mod catalogue;
mod health;
pub(crate) mod logs;
pub(crate) mod own;
mod page;
mod process;
mod prometheus;
mod push;
mod registry;
mod resource;
mod sampling;
pub(crate) mod spans;

pub(crate) use self::{
    health::{Health, Running, State},
    page::{Page, Reply, serve},
    registry::{Counter, Histogram, Kind, Registry},
    spans::Tracer,
};
