//! What runs beside the pipelines.

mod auth;
mod basicauth;
mod bearertokenauth;
mod file_storage;
mod headers_setter;
mod health_check;
mod health_check_v2;
mod sql;
mod watched;
mod zpages;

use self::auth::Authenticates;
pub(crate) use self::auth::Authenticators;
pub(crate) use self::basicauth::{BasicAuth, start as basicauth};
pub(crate) use self::bearertokenauth::{BearerTokenAuth, start as bearertokenauth};
pub(crate) use self::file_storage::{
    COLLECTORS_REMEDY, Storages, check as check_file_storage, start as file_storage,
};
pub(crate) use self::headers_setter::{HeadersSetter, start as headers_setter};
pub(crate) use self::health_check::{HealthCheck, start as health_check};
pub(crate) use self::health_check_v2::{HealthCheckV2, start as health_check_v2};
pub(crate) use self::sql::{Sql, start as sql};
pub(crate) use self::zpages::{Zpages, start as zpages};
use crate::components::{Context, Stop};

/// Compares secrets in a time that does not tell how much of them is right.
fn same(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    left.ct_eq(right).into()
}

/// An authenticator that components find by its name until it is stopped.
fn running(authenticates: Authenticates, context: Context) -> Stop {
    context.host.authenticators.add(&context.id, authenticates);
    Box::new(move || {
        context.host.authenticators.remove(&context.id);
        Box::pin(async {})
    })
}
