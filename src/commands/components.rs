//! `tapio components`: what this build can do, in the YAML of the Collector's command.

use std::process::ExitCode;

use crate::{
    components::{Component, EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS},
    config::Sources,
    error::Result,
};

/// List the components of this build, with their stability, as YAML
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        println!("buildinfo:");
        println!("    command: tapio");
        println!("    description: {}", env!("CARGO_PKG_DESCRIPTION"));
        println!("    version: {}", env!("CARGO_PKG_VERSION"));
        section("receivers", RECEIVERS);
        section("processors", PROCESSORS);
        section("exporters", EXPORTERS);
        println!("connectors: []");
        section("extensions", EXTENSIONS);
        println!("providers:");
        for scheme in ["env", "file", "yaml"] {
            println!("    - scheme: {scheme}");
            println!("      module: tapio v{}", env!("CARGO_PKG_VERSION"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn section<M>(name: &str, components: &[Component<M>]) {
    println!("{name}:");
    let mut sorted: Vec<_> = components.iter().collect();
    sorted.sort_by_key(|component| component.name);
    for component in sorted {
        println!("    - name: {}", component.name);
        println!("      module: {} v{}", component.module, env!("CARGO_PKG_VERSION"));
        println!("      stability:");
        match component.signals {
            [] => println!("        extension: {}", component.stability),
            signals => {
                let mut names: Vec<_> = signals.iter().map(|signal| signal.name()).collect();
                names.sort_unstable();
                names.iter().for_each(|signal| println!("        {signal}: {}", component.stability));
            }
        }
    }
}
