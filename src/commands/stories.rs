//! `tapio stories`: one line for each story.

use std::process::ExitCode;

use crate::{
    config::Sources,
    doors::{
        client::{Answer, Session, Source},
        table::{array, harmless, print},
    },
    error::Result,
};

/// Stories listed when not all are asked for.
const NEWEST: usize = 20;
/// Below this, a story is only told when all are asked for.
const CONFIDENCE: f64 = 0.4;

/// List the stories, newest first: those of confidence 0.4 or more, 20 at most
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Every story there is
    #[arg(long)]
    all: bool,
    /// How the stories are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line for each
    Text,
    /// A JSON array of whole stories
    Json,
}

impl Args {
    pub(crate) fn run(self, _: &Sources) -> Result<ExitCode> {
        print(&list(&self.source.open()?, self.all, self.format)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list(session: &Session, all: bool, format: Format) -> Result<String> {
    let columns = match format {
        Format::Text => {
            "id, state, round(confidence, 2), to_char(opened, '%Y-%m-%d %H:%M:%S'), to_char(resolved, '%H:%M:%S'), title"
        }
        Format::Json => "json",
    };
    let some = if all { String::new() } else { format!("WHERE confidence >= {CONFIDENCE}") };
    let limit = if all { String::new() } else { format!("LIMIT {NEWEST}") };
    let sql = format!("SELECT {columns} FROM stories {some} ORDER BY opened DESC, id {limit}");
    let answer = session.query(&sql)?;
    Ok(match format {
        Format::Text => lines(&answer),
        Format::Json => array(answer.rows.into_iter().flatten().flatten()),
    })
}

fn lines(answer: &Answer) -> String {
    let mut text = String::new();
    for row in &answer.rows {
        let cell = |index: usize| {
            row.get(index)
                .and_then(Option::as_deref)
                .map_or_else(String::new, |v| harmless(v, false))
        };
        let until = if cell(4).is_empty() { String::new() } else { format!("-{}", cell(4)) };
        let since = format!("{}{until}", cell(3));
        text.push_str(&format!(
            "{}  {:8}  {:4}  {since:28}  {}\n",
            cell(0),
            cell(1),
            cell(2),
            cell(5)
        ));
    }
    if text.is_empty() { "No stories.\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_has_no_stories() {
        let session = Session::over(tapio_processor::Engine::store(1 << 20).unwrap()).unwrap();
        for all in [false, true] {
            assert_eq!(list(&session, all, Format::Text).unwrap(), "No stories.\n");
            assert_eq!(list(&session, all, Format::Json).unwrap(), "[]\n");
        }
    }

    #[test]
    fn a_story_is_one_line() {
        let row = |cells: [Option<&str>; 6]| cells.map(|cell| cell.map(str::to_owned)).to_vec();
        let open = row([
            Some("4f2a91"),
            Some("open"),
            Some("0.92"),
            Some("2026-11-22 03:11:16"),
            None,
            Some("Orders fail\nbecause"),
        ]);
        let resolved = row([
            Some("0b77c1"),
            Some("resolved"),
            Some("0.8"),
            Some("2026-11-22 02:00:00"),
            Some("02:10:00"),
            Some("Cart is slow"),
        ]);
        let text = lines(&Answer { columns: Vec::new(), rows: vec![open, resolved] });
        assert_eq!(
            text,
            "4f2a91  open      0.92  2026-11-22 03:11:16           Orders fail\\nbecause\n\
             0b77c1  resolved  0.8   2026-11-22 02:00:00-02:10:00  Cart is slow\n"
        );
        assert_eq!(lines(&Answer::default()), "No stories.\n");
    }
}
