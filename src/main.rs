//! The program: configuration, the pipeline graph, extensions, the command line.

use std::process::ExitCode;

use clap::Parser;

mod commands;
mod components;
mod config;
mod doors;
mod ending;
mod error;
mod extensions;
mod gate;
mod graph;
mod service;
mod telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A connection is a descriptor, and most systems start programs with 1,024 of them and allow
    // many more; Go's programs take those as well. What cannot be had bounds the connections.
    let _ = rlimit::increase_nofile_limit(1 << 20);
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return commands::misused(&error),
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
