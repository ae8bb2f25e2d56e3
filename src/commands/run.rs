//! `tapio`: run until told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, Sources},
    error::Result,
    service::{Service, runtime},
    telemetry::logs,
};

/// Loads, starts, waits for SIGTERM or SIGINT, stops in order.
pub(crate) fn run(sources: &Sources) -> Result<ExitCode> {
    let config = Config::new(sources.load()?)?;
    logs::init(&config.service.telemetry.logs);
    runtime()?.block_on(async {
        // Before anything starts, so that no signal finds the default action.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let service = Service::start(config).await?;
        let name = loop {
            tokio::select! {
                _ = terminate.recv() => break "terminated",
                _ = interrupt.recv() => break "interrupt",
                _ = hangup.recv() => tracing::warn!(
                    "Received SIGHUP: the configuration is read at start only. Keep running with the current one; restart to load another."
                ),
            }
        };
        tracing::info!(signal = name, "Received signal from OS");
        tokio::select! {
            () = service.stop() => Ok(ExitCode::SUCCESS),
            // A second signal means "now": what is still queued is given up.
            _ = terminate.recv() => Ok(ExitCode::FAILURE),
            _ = interrupt.recv() => Ok(ExitCode::FAILURE),
        }
    })
}
