//! The story: root cause, causal chain, impact, what to do; and the evidence it stands on.

use serde::Serialize;

use super::{row::table, time::Time};

table! { "symptoms" =>
    /// Something that is wrong, measured against its own past.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Symptom {
        /// `error_ratio`, `latency`, `memory_growth`, or the type of the event that it is.
        pub kind: String,
        /// Kind of what it is seen on.
        pub entity_kind: String,
        /// Namespace of what it is seen on.
        pub entity_namespace: String,
        /// Name of what it is seen on.
        pub entity_name: String,
        /// Since when.
        pub onset: Time,
        /// How far from that it may have begun, s; null where it was told, not measured.
        pub onset_within_s: Option<f64>,
        /// Last seen.
        pub last: Time,
        /// The measure now, in `unit`.
        pub value: f64,
        /// The measure before, in `unit`.
        pub baseline: f64,
        /// `1` for ratios, `ms`, `By`.
        pub unit: String,
        /// How many standard errors above what chance allows.
        pub score: f64,
        /// The machine's word or sentence, for mechanism matching and for the reader.
        pub detail: String,
    }
}

/// Where a story stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryState {
    /// It is going on.
    Open,
    /// What failed works again.
    Resolved,
    /// What fails is told by another story, which knows more.
    Merged,
}

impl StoryState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            StoryState::Open => "open",
            StoryState::Resolved => "resolved",
            StoryState::Merged => "merged",
        }
    }
}

/// The guilty object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RootCause {
    /// Kubernetes kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service where it shows first.
    pub service: String,
    /// The pattern that explains it; empty when no mechanism is known.
    pub pattern: String,
    /// When the cause happened.
    pub time: Time,
    /// What was changed, in words (`pool.json max_connections 8 -> 200`); null when nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// Code region where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#where: Option<String>,
}

/// A candidate, with how sure we are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hypothesis {
    /// Kubernetes kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service where it shows first.
    pub service: String,
    /// Pattern, or empty.
    pub pattern: String,
    /// 0 to 1.
    pub confidence: f64,
    /// Code region where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#where: Option<String>,
}

/// One step from the cause to what users see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChainLink {
    /// Kubernetes kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service it belongs to; empty for an object that is none's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// What happened there, in words.
    pub what: String,
    /// When.
    pub time: Time,
}

/// Who is touched.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Affected {
    /// Services that their callers would call broken.
    pub services: Vec<String>,
    /// Pods that failed, as `namespace/name`.
    pub pods: Vec<String>,
}

/// How a story runs, beyond its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryKind {
    /// The failure travelled through two services or more.
    Cascading,
    /// The same happened before, in the last seven days.
    Recurring,
    /// It happens at even intervals, or after the same job.
    Periodic,
}

impl StoryKind {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            StoryKind::Cascading => "cascading",
            StoryKind::Recurring => "recurring",
            StoryKind::Periodic => "periodic",
        }
    }
}

/// What an incident costs so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Impact {
    /// How much the business misses the service that it misses most; 1 where nothing says otherwise.
    pub weight: f64,
    /// The services that fail, first those that users meet.
    pub services: Vec<Harm>,
}

/// What a service owes its callers since it fails.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Harm {
    /// Namespace of the service.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Nothing inside calls it: users meet it.
    pub users: bool,
    /// Requests since then.
    pub requests: u64,
    /// Of them, how many failed.
    pub failed: u64,
    /// Of the others, how many took longer than they may, as the histogram has it; null where nothing says
    /// how long that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<u64>,
    /// Share of requests that failed before, 0 to 1; null for one that is slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual: Option<f64>,
    /// How much the business misses it.
    pub weight: f64,
    /// Against its objective; null where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// What an incident takes of an error budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// Percent of requests that must be answered well.
    pub availability: f64,
    /// Within so many ms; null when only errors count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<f64>,
    /// Days over which the objective holds.
    pub window_days: f64,
    /// How many times faster than may be the budget is used up.
    pub burn_rate: f64,
    /// Share of the whole window's budget that this incident has used up so far; above 1 it took more.
    pub spent: f64,
}

/// A root-cause story.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// Six hex digits; the same in every replay of the same input.
    pub id: String,
    /// Open, resolved or merged.
    pub state: StoryState,
    /// Id of the story that tells what it told of; null unless it is merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<String>,
    /// One sentence: effect, because cause.
    pub title: String,
    /// 0 to 1; below 0.7 it is a hypothesis.
    pub confidence: f64,
    /// Event time at which it first could be told.
    pub opened: Time,
    /// Event time at which what failed worked again, or was last told here.
    pub resolved: Option<Time>,
    /// Null when nothing inside the cluster explains it.
    pub root_cause: Option<RootCause>,
    /// `no_internal_cause` when there is no root cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Best first; the first is the root cause.
    pub hypotheses: Vec<Hypothesis>,
    /// Cause to symptom.
    pub chain: Vec<ChainLink>,
    /// Who is touched.
    pub affected: Affected,
    /// What it costs so far.
    pub impact: Impact,
    /// How it runs; empty for a single fault of one service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<StoryKind>,
    /// How it repeats, in words; null when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
    /// Ids of the latest earlier stories of the same cause, oldest first; ten at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// The story in plain words.
    pub narrative: String,
    /// What to do, safest first; commands can be pasted.
    pub recommendations: Vec<String>,
    /// Why this is believed, one reason a line.
    pub reasons: Vec<String>,
    /// What speaks against it, and what could not be seen.
    pub doubts: Vec<String>,
    /// What was looked at and is not the cause, with the reason.
    pub ruled_out: Vec<String>,
    /// What could not be looked at in full when this was told, and why; empty when all was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
}

table! { "evidence" =>
    /// A fact that a story stands on.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Evidence {
        /// The story.
        pub story_id: String,
        /// When it happened.
        pub time: Time,
        /// `cause`, `effect` or `symptom`.
        pub role: String,
        /// Kind of what it happened to.
        pub entity_kind: String,
        /// Namespace of what it happened to.
        pub entity_namespace: String,
        /// Name of what it happened to.
        pub entity_name: String,
        /// The fact in words, with its numbers.
        pub what: String,
        /// How often it has happened so far.
        pub times: i64,
        /// Where it was seen: a table (`changes`, `events`, `windows`, `levels`).
        pub source: String,
        /// How it belongs to the story: `temporal`, `causal`, `spatial`, `ownership`, `dependency`, `network`,
        /// `trace` or `semantic`.
        pub dimension: String,
        /// Hex id of one of the operator's own traces that shows it; null when there is none.
        pub trace_id: Option<String>,
        /// Hex id of the span in that trace.
        pub span_id: Option<String>,
    }
}

impl Evidence {
    /// What stays the same while its figures grow: tells one fact of a story from another.
    pub fn key(&self) -> (Time, String) {
        match self.role.as_str() {
            "symptom" => (Time::default(), self.entity_name.clone()),
            _ => (self.time, self.what.clone()),
        }
    }

    /// The fact in words, and how often it has happened when that is more than once.
    pub fn line(&self) -> String {
        if self.times > 1 {
            format!("{}, {} times so far", self.what, self.times)
        } else {
            self.what.clone()
        }
    }
}
