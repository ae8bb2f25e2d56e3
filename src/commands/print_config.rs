//! `tapio print-config`: the configuration as it is after joining and expanding its sources.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::{
    config::{Config, Sources, show},
    doors::table::print,
    error::Result,
};

/// Print the configuration after its sources are joined and its variables expanded
#[derive(clap::Args)]
#[command(alias = "print-initial-config")]
pub(crate) struct Args {
    /// Whether secrets are shown
    #[arg(long, value_enum, default_value = "redacted")]
    mode: Mode,
    /// How it is written
    #[arg(long, value_enum, default_value = "yaml")]
    format: Format,
    /// Refuse a configuration that cannot work
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    validate: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Redacted,
    Unredacted,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Args {
    pub(crate) fn run(self, sources: &Sources) -> Result<ExitCode> {
        if self.validate {
            Config::new(sources.load()?)?;
        }
        let root = sources.load()?.root;
        let redacted = self.mode == Mode::Redacted;
        let text = match self.format {
            Format::Yaml => show::yaml(&root, redacted),
            Format::Json => show::json(&root, redacted) + "\n",
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
