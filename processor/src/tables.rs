//! The `stories` table.

use tapio_proto::model::{Harm, Story, Time, table};

table! { "stories" =>
    /// A story as a row; `text` is what `tapio story` prints, `json` what `tapio replay` prints.
    #[derive(Clone, Debug)]
    pub struct StoryRow {
        /// Six hex digits.
        pub id: String,
        /// `open`, `resolved` or `merged`.
        pub state: String,
        /// One sentence.
        pub title: String,
        /// 0 to 1.
        pub confidence: f64,
        /// When it first could be told.
        pub opened: Time,
        /// When what failed worked again.
        pub resolved: Option<Time>,
        /// Kind of the guilty object; null when there is none.
        pub root_kind: Option<String>,
        /// Its namespace.
        pub root_namespace: Option<String>,
        /// Its name.
        pub root_name: Option<String>,
        /// The service where it shows first.
        pub root_service: Option<String>,
        /// The pattern.
        pub pattern: Option<String>,
        /// What was changed.
        pub change: Option<String>,
        /// When the cause happened.
        pub root_time: Option<Time>,
        /// Services that are touched.
        pub services: Vec<String>,
        /// `cascading`, `recurring`, `periodic`; empty for a single fault.
        pub kinds: Vec<String>,
        /// How much the business misses what it touches; 1 where nothing says otherwise.
        pub weight: f64,
        /// Requests that failed of those that users made since; null where none were seen.
        pub failed: Option<i64>,
        /// Requests that users made since; null where none were seen.
        pub requests: Option<i64>,
        /// The largest share of an error budget that it has used up so far; null without objectives.
        pub budget_spent: Option<f64>,
        /// The story in plain words.
        pub narrative: String,
        /// The story as an SRE reads it.
        pub text: String,
        /// The story as JSON.
        pub json: String,
    }
}

impl StoryRow {
    /// A row from a story and its rendered text.
    pub fn new(story: &Story, text: String) -> Self {
        let root = story.root_cause.as_ref();
        let users = |of: fn(&Harm) -> u64| {
            let met = story.impact.services.iter().filter(|harm| harm.users && harm.requests > 0);
            met.map(|harm| i64::try_from(of(harm)).unwrap_or(i64::MAX)).reduce(i64::saturating_add)
        };
        let spent =
            story.impact.services.iter().filter_map(|harm| Some(harm.budget.as_ref()?.spent));
        StoryRow {
            id: story.id.clone(),
            state: story.state.name().to_owned(),
            title: story.title.clone(),
            confidence: story.confidence,
            opened: story.opened,
            resolved: story.resolved,
            root_kind: root.map(|r| r.kind.clone()),
            root_namespace: root.map(|r| r.namespace.clone()),
            root_name: root.map(|r| r.name.clone()),
            root_service: root.map(|r| r.service.clone()),
            pattern: root.map(|r| r.pattern.clone()),
            change: root.and_then(|r| r.change.clone()),
            root_time: root.map(|r| r.time),
            services: story.affected.services.clone(),
            kinds: story.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            weight: story.impact.weight,
            failed: users(|harm| harm.failed),
            requests: users(|harm| harm.requests),
            budget_spent: spent.max_by(f64::total_cmp),
            narrative: story.narrative.clone(),
            text,
            json: serde_json::to_string(story).unwrap_or_default(),
        }
    }
}
