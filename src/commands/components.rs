//! `tapio components`: what this build can do, in the YAML of the Collector's command.

use std::{fmt::Write as _, process::ExitCode};

use crate::{
    components::{CONNECTORS, Component, EXPORTERS, EXTENSIONS, PROCESSORS, RECEIVERS},
    config::Sources,
    doors::table::print,
    error::Result,
};

/// List the components of this build, with their stability, as YAML
#[derive(clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        print(&text()?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn text() -> Result<String> {
    let mut out = String::new();
        writeln!(out, "buildinfo:")?;
        writeln!(out, "    command: tapio")?;
        writeln!(out, "    description: {}", env!("CARGO_PKG_DESCRIPTION"))?;
        writeln!(out, "    version: {}", env!("CARGO_PKG_VERSION"))?;
        section(&mut out, "receivers", RECEIVERS)?;
        section(&mut out, "processors", PROCESSORS)?;
        section(&mut out, "exporters", EXPORTERS)?;
        connectors(&mut out)?;
        section(&mut out, "extensions", EXTENSIONS)?;
        writeln!(out, "providers:")?;
        for scheme in ["env", "file", "yaml"] {
            writeln!(out, "    - scheme: {scheme}")?;
            writeln!(out, "      module: tapio v{}", env!("CARGO_PKG_VERSION"))?;
        }
    Ok(out)
}

fn section<M>(out: &mut String, name: &str, components: &[Component<M>]) -> Result<()> {
    writeln!(out, "{name}:")?;
    let mut sorted: Vec<_> = components.iter().collect();
    sorted.sort_by_key(|component| component.name);
    for component in sorted {
        writeln!(out, "    - name: {}", component.name)?;
        writeln!(out, "      module: {} v{}", component.module, env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "      stability:")?;
        match component.signals {
            [] => writeln!(out, "        extension: {}", component.stability)?,
            signals => {
                let mut names: Vec<_> = signals.iter().map(|signal| signal.name()).collect();
                names.sort_unstable();
                for signal in names {
                    writeln!(out, "        {signal}: {}", component.stability)?;
                }
            }
        }
    }
    Ok(())
}

/// A connector's stability stands for each pair of signals, as in the Collector's list.
fn connectors(out: &mut String) -> Result<()> {
    writeln!(out, "connectors:")?;
    for component in CONNECTORS {
        writeln!(out, "    - name: {}", component.name)?;
        writeln!(out, "      module: {} v{}", component.module, env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "      stability:")?;
        for from in ["logs", "metrics", "traces"] {
            for to in ["logs", "metrics", "traces"] {
                let stability = if from == to { component.stability } else { "Undefined" };
                writeln!(out, "        {from}-to-{to}: {stability}")?;
            }
        }
    }
    Ok(())
}
