//! What runs beside the pipelines.

mod health_check;
mod health_check_v2;
mod sql;
mod zpages;

pub(crate) use self::health_check::{HealthCheck, start as health_check};
pub(crate) use self::health_check_v2::{HealthCheckV2, start as health_check_v2};
pub(crate) use self::sql::{Sql, start as sql};
pub(crate) use self::zpages::{Zpages, start as zpages};
