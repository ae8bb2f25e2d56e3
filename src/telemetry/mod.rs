//! What Tapio tells about itself: log lines, metrics, health.

mod health;
pub(crate) mod logs;
pub(crate) mod metrics_page;
mod page;
mod process;
mod registry;

pub(crate) use self::{
    health::Health,
    page::{Page, Reply, serve},
    registry::{Counter, Kind, Registry},
};
