//! `tapio validate`: silent and 0 when the configuration is good.

use std::process::ExitCode;

use crate::{
    config::{Config, Sources},
    error::Result,
};

/// Check the configuration and tell everything that is wrong with it, without running it
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self, sources: &Sources) -> Result<ExitCode> {
        Config::new(sources.load()?)?;
        Ok(ExitCode::SUCCESS)
    }
}
