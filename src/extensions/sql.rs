//! The `sql` extension: the analysis' tables through the PostgreSQL protocol, to read.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::{
    components::{Context, Stop},
    doors::postgres,
};

/// Its only key.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sql {
    /// Address and port, on loopback: the door asks for no password yet.
    endpoint: String,
}

impl Default for Sql {
    fn default() -> Self {
        Sql { endpoint: postgres::DEFAULT_ADDRESS.into() }
    }
}

impl Sql {
    pub(crate) fn check(&self) -> Result<(), String> {
        self.address().map(drop)
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let address = self.endpoint.replace("localhost:", "127.0.0.1:");
        address.parse().map_err(|_| {
            format!(
                "endpoint {:?}: expected an address and a port, such as {}",
                self.endpoint,
                postgres::DEFAULT_ADDRESS
            )
        })
    }
}

pub(crate) async fn start(config: Sql, context: Context) -> Result<Stop, String> {
    let analysis = context
        .host
        .analysis()
        .ok_or("there is nothing to ask: no pipeline has a \"tapio\" processor")?;
    let door = postgres::start(analysis.store().clone(), config.address()?)
        .map_err(|error| error.to_string())?;
    tracing::info!(extension = %context.id, endpoint = %door.address(), "Starting SQL door");
    Ok(Box::new(move || Box::pin(async move { drop(door) })))
}
