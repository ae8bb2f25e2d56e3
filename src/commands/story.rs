//! `tapio story ID`: the whole story.

use std::process::ExitCode;

use crate::{
    config::Sources,
    doors::{
        client::{Session, Source},
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
        print(&tell(&self.source.open()?, &self.id, self.evidence)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(session: &Session, id: &str, evidence: bool) -> Result<String> {
    let unknown = || {
        Error::new(format!("no story `{}`: `tapio stories --all` lists them", harmless(id, false)))
    };
    // The id goes into a query.
    if !id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(unknown());
    }
    let story = session.query(&format!("SELECT text FROM stories WHERE id = '{id}'"))?;
    let text = story.rows.into_iter().flatten().flatten().next().ok_or_else(unknown)?;
    let mut text = harmless(text.trim_end(), true) + "\n";
    if evidence {
        let sql = format!(
            "SELECT to_char(time, '%H:%M:%S') AS clock, role, entity_kind AS kind, entity_namespace AS namespace, \
             entity_name AS name, what, times, dimension, source, trace_id FROM evidence WHERE story_id = '{id}' ORDER BY time, role, what"
        );
        text += &format!("\nEvidence\n{}", render(&session.query(&sql)?, Format::Table));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use tapio_processor::{Engine, StoryRow};
    use tapio_proto::model::{Evidence, Row, Time};

    use super::*;

    #[test]
    fn a_story_is_told_with_its_evidence() {
        let store = Engine::store(1 << 20).unwrap();
        let story = StoryRow {
            id: "4f2a91".to_owned(),
            state: "open".to_owned(),
            title: String::new(),
            confidence: 0.9,
            opened: Time(0),
            resolved: None,
            root_kind: None,
            root_namespace: None,
            root_name: None,
            root_service: None,
            pattern: None,
            change: None,
            root_time: None,
            services: vec!["cart".to_owned()],
            kinds: Vec::new(),
            weight: 1.0,
            failed: None,
            requests: None,
            budget_spent: None,
            narrative: String::new(),
            text: "Cart fails.\nRestart\u{1b}[2J it.\n".to_owned(),
            json: "{}".to_owned(),
        };
        let fact = |second: i64, story: &str, what: &str| Evidence {
            story_id: story.to_owned(),
            time: Time(second * 1_000_000_000),
            role: "cause".to_owned(),
            entity_kind: "ConfigMap".to_owned(),
            entity_namespace: "shop".to_owned(),
            entity_name: "pool".to_owned(),
            what: what.to_owned(),
            times: 1,
            source: "changes".to_owned(),
            dimension: "causal".to_owned(),
            trace_id: None,
            span_id: None,
        };
        let facts =
            [fact(61, "4f2a91", "second"), fact(1, "4f2a91", "first"), fact(0, "other1", "other")];
        store.table("stories").unwrap().replace(vec![StoryRow::batch(&[story]).unwrap()]).unwrap();
        store.table("evidence").unwrap().replace(vec![Evidence::batch(&facts).unwrap()]).unwrap();
        let session = Session::over(store).unwrap();

        assert_eq!(
            tell(&session, "4f2a91", false).unwrap(),
            "Cart fails.\nRestart\\u{1b}[2J it.\n"
        );
        let text = tell(&session, "4f2a91", true).unwrap();
        let facts: Vec<&str> = text.lines().filter(|line| line.starts_with("00:")).collect();
        assert!(
            facts[0].starts_with("00:00:01  cause  ConfigMap  shop") && facts[0].contains("first"),
            "{text}"
        );
        assert!(facts.len() == 2 && facts[1].contains("second"), "{text}");
        for id in ["nope", "4f2a91' OR '1'='1"] {
            let error = tell(&session, id, false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("no story `{id}`")), "{error}");
        }
    }
}
