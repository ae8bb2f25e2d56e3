//! What runs beside the pipelines.

mod health_check;

pub(crate) use self::health_check::{HealthCheck, start as health_check};
