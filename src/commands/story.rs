//! `tapio story ID`: the whole story.

use std::process::ExitCode;

use crate::{
    config::Sources,
    doors::{
        client::Source,
        table::{Format, harmless, print, render},
    },
    error::{Error, Result},
};

/// Tell one story in full: cause, chain, impact, what to do
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The story's id, as `tapio stories` shows it
    id: String,
    /// Add the facts that it stands on
    #[arg(long)]
    evidence: bool,
    #[command(flatten)]
    source: Source,
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        let unknown = || {
            Error::new(format!(
                "no story `{}`: `tapio stories --all` lists them",
                harmless(&self.id, false)
            ))
        };
        // The id goes into a query.
        if !self.id.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(unknown());
        }
        let session = self.source.open()?;
        let story = session.query(&format!("SELECT text FROM stories WHERE id = '{}'", self.id))?;
        let text = story.rows.into_iter().flatten().flatten().next().ok_or_else(unknown)?;
        let mut text = harmless(text.trim_end(), true) + "\n";
        if self.evidence {
            let sql = format!(
                "SELECT to_char(time, '%H:%M:%S') AS clock, role, entity_kind AS kind, entity_namespace AS namespace, \
                 entity_name AS name, what, source, trace_id FROM evidence WHERE story_id = '{}' ORDER BY time, role, what",
                self.id
            );
            text += &format!("\nEvidence\n{}", render(&session.query(&sql)?, Format::Table));
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
