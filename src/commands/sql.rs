//! `tapio sql`: a question to the store in SQL.

use std::process::ExitCode;

use crate::{
    config::Sources,
    doors::{
        client::Source,
        table::{Format, print, render},
    },
    error::Result,
};

/// Ask the store a question in SQL: tables spans, logs, metrics, events, changes, topology, stories and more (`show tables`)
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The query
    query: String,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    source: Source,
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        let answer = self.source.open()?.query(&self.query)?;
        print(&render(&answer, self.format))?;
        Ok(ExitCode::SUCCESS)
    }
}
