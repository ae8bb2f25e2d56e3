//! The command line. A command is one file here, with a struct `Args` (clap) and `run(self, &Sources)`,
//! and one line in the list below.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    config::Sources,
    doors::table::print,
    error::{Error, Result},
};

mod run;

/// The OTLP hop that tells you why: without a command it runs, on its own default configuration or the one of --config
#[derive(Parser)]
#[command(name = "tapio", disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    sources: Sources,
    /// Print the version
    #[arg(short = 'v', long, short_alias = 'V')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

macro_rules! commands {
    ($($variant:ident => $module:ident,)*) => {
        $(pub(crate) mod $module;)*

        #[derive(Subcommand)]
        enum Command {
            $($variant($module::Args),)*
        }

        impl Command {
            fn run(self, sources: &Sources) -> Result<ExitCode> {
                match self {
                    $(Command::$variant(args) => args.run(sources),)*
                }
            }
        }
    };
}

commands! {
    Demo => demo,
    Validate => validate,
    Components => components,
    Featuregate => featuregate,
    Completion => completion,
    PrintConfig => print_config,
    Pattern => pattern,
    Queue => queue,
    Replay => replay,
    Sql => sql,
    Stories => stories,
    Story => story,
}

impl Cli {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.version {
            print(concat!("tapio version ", env!("CARGO_PKG_VERSION"), "\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        match self.command {
            Some(
                Command::Replay(_) | Command::Sql(_) | Command::Stories(_) | Command::Story(_),
            ) if !self.sources.is_empty() => {
                Err(Error::new("this command reads no configuration: leave --config and --set out"))
            }
            Some(command) => command.run(&self.sources),
            None => run::run(&self.sources),
        }
    }
}

/// Answers `--help`; tells a wrong command line in one line, as the other errors are told.
pub(crate) fn misused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // What cannot be printed to a closed terminal is not missed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let words = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = words.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    eprintln!("Error: {}\nRun 'tapio --help' for usage.", line.trim_start_matches("error: "));
    ExitCode::FAILURE
}
