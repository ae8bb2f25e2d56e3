//! `tapio featuregate`: the Collector's switches, and what Tapio does about each.

use std::process::ExitCode;

use crate::{
    config::{GATES, Sources},
    doors::table::print,
    error::{Error, Result},
};

/// List the Collector's feature gates, and whether Tapio does what each is about
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this one
    id: Option<String>,
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        let wanted = |id: &str| self.id.as_deref().is_none_or(|wanted| wanted == id);
        let gates: Vec<_> = GATES.iter().filter(|gate| wanted(gate.id)).collect();
        if let (Some(id), true) = (&self.id, gates.is_empty()) {
            return Err(Error::new(format!(
                "feature \"{id}\" not found; `tapio featuregate` lists those that Tapio knows"
            )));
        }
        let mut text = format!("{:<51}{:<9}{:<8}Description\n", "ID", "Enabled", "Stage");
        for gate in gates {
            let enabled = gate.does.map_or("-".to_owned(), |does| does.to_string());
            text += &format!("{:<51}{enabled:<9}{:<8}{}\n", gate.id, gate.stage, gate.description);
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
