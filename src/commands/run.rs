//! `tapio`: run until told to stop; read the configuration again when told so.

use std::{pin::pin, process::ExitCode, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Config, Sources},
    error::{Error, Result},
    service::{Reload, Service, runtime},
    telemetry::logs,
};

/// Loads, starts, waits for SIGTERM or SIGINT, stops in order.
pub(crate) fn run(sources: &Sources) -> Result<ExitCode> {
    let config = Config::new(sources.load()?)?;
    logs::init(&config.service.telemetry.logs).map_err(Error::new)?;
    runtime()?.block_on(async {
        // Before anything starts, so that no signal finds the default action.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut service = Service::start(config).await?;
        let name = loop {
            tokio::select! {
                _ = terminate.recv() => break "terminated",
                _ = interrupt.recv() => break "interrupt",
                _ = hangup.recv() => {}
            }
            let host = Arc::clone(service.host());
            let mut reloading = pin!(reload(&mut service, sources));
            let name = tokio::select! {
                biased;
                outcome = reloading.as_mut() => {
                    outcome?;
                    continue;
                }
                _ = terminate.recv() => "terminated",
                _ = interrupt.recv() => "interrupt",
            };
            // It goes on to where it can be stopped in order, and waits for nobody on the way.
            host.ending.begin();
            reloading.await?;
            break name;
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

/// The new configuration is checked whole before anything is touched; a bad one changes nothing. An
/// error ends the program: neither the new one nor the old one can run.
async fn reload(service: &mut Service, sources: &Sources) -> Result<()> {
    tracing::info!(signal = "hangup", "Received signal from OS");
    let kept = |error: Error| {
        tracing::error!(error = %error, "The new configuration cannot be used. The one of before goes on running.");
    };
    let config = match load(sources) {
        Ok(config) => config,
        Err(error) => {
            service.reload_failed();
            kept(error);
            return Ok(());
        }
    };
    let lines = config.service.telemetry.logs.clone();
    match service.reload(config).await {
        // Lines change their shape only when the rest has: till then they belong to the old one.
        Ok(()) => {
            if let Err(error) = logs::init(&lines) {
                tracing::error!(error, "Log lines stay as they were.");
            }
            Ok(())
        }
        Err(Reload::Back(error)) => {
            service.reload_failed();
            kept(error);
            Ok(())
        }
        Err(Reload::Lost(error)) => {
            // Exporters of before still have what they were given.
            service.stop().await;
            Err(error)
        }
    }
}

fn load(sources: &Sources) -> Result<Config> {
    Ok(Config::new(sources.load()?)?)
}
