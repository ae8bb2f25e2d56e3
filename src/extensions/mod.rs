//! What runs beside the pipelines.

mod health_check;
mod sql;

pub(crate) use self::health_check::{HealthCheck, start as health_check};
pub(crate) use self::sql::{Sql, start as sql};
