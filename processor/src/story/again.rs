//! Whether it happened before: recurring, and periodic where it comes at regular times or after the same job.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tapio_proto::model::{Entity, Story, StoryKind, Time};

use super::{
    assemble::View,
    words::{lasting, ordinal},
};
use crate::correlation::weights::weights;

/// Longer ago is another story.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);
/// Incidents that are remembered.
const MOST: usize = 1_000;
/// Earlier ones that are named.
const MOST_NAMED: usize = 10;
/// How far from the middle of all an interval may lie.
const EVEN: f64 = 0.1;
/// Onsets from which on their distances tell.
const REGULAR: usize = 4;
/// Onsets from which on a job that ran before each of them tells.
const FOLLOWED: usize = 3;
/// A job does its harm within this time, and within this share of the time to its next run.
const AFTER_JOB: Duration = Duration::from_secs(600);
const SOON: f64 = 1.0 / 6.0;

/// An incident that is over.
struct Past {
    id: String,
    root: (Entity, String),
    since: Time,
    /// CronJobs that ran shortly before it.
    jobs: BTreeSet<Entity>,
}

/// One of them as a line of a file.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    opened_unix_nano: i64,
    kind: String,
    namespace: String,
    name: String,
    /// What told it; its title where nothing inside was guilty.
    pattern: String,
    /// Namespace and name of CronJobs.
    jobs: Vec<(String, String)>,
}

/// Incidents that are over, oldest first.
#[derive(Default)]
pub(super) struct History {
    past: VecDeque<Past>,
    /// Something was remembered since it was written last.
    unsaved: bool,
}

/// How it repeats.
pub(super) struct Again {
    /// The kinds that it is of.
    pub kinds: Vec<StoryKind>,
    /// In words: `third time in 2 h 10 m, every 1 h`.
    pub words: String,
    /// Ids of the latest earlier ones, oldest first.
    pub earlier: Vec<String>,
}

impl History {
    /// Remembers a story that is over; what was never sure enough to be worth one is none.
    pub(super) fn remember(&mut self, story: &Story, jobs: BTreeSet<Entity>) {
        if story.confidence < weights().judgement.worth {
            return;
        }
        let (id, root) = (story.id.clone(), root(story));
        self.push(Past { id, root, since: story.opened, jobs });
        self.unsaved = true;
    }

    fn push(&mut self, past: Past) {
        if self.past.len() >= MOST {
            self.past.pop_front();
        }
        self.past.push_back(past);
    }

    /// Takes in what [`History::unsaved`] gave before a restart; how many lines it could not read.
    pub(super) fn recall(&mut self, text: &str) -> usize {
        let mut unread = 0;
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                unread += 1;
                continue;
            };
            let root = (Entity::new(&line.kind, &line.namespace, &line.name), line.pattern);
            let jobs = line.jobs.iter().map(|(ns, name)| Entity::new("CronJob", ns, name));
            let (id, since, jobs) = (line.id, Time(line.opened_unix_nano), jobs.collect());
            self.push(Past { id, root, since, jobs });
        }
        unread
    }

    /// All of it as JSON lines, if something was remembered since it was asked for last.
    pub(super) fn unsaved(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.unsaved) {
            return None;
        }
        let mut text = String::new();
        for Past { id, root: (root, pattern), since, jobs } in &self.past {
            let line = Line {
                id: id.clone(),
                opened_unix_nano: since.0,
                kind: root.kind.to_string(),
                namespace: root.namespace.to_string(),
                name: root.name.to_string(),
                pattern: pattern.clone(),
                jobs: jobs.iter().map(|j| (j.namespace.to_string(), j.name.to_string())).collect(),
            };
            text += &serde_json::to_string(&line).unwrap_or_default();
            text.push('\n');
        }
        Some(text)
    }

    /// The earlier ones of the same root, and what they have in common with this one, before which these
    /// CronJobs ran.
    pub(super) fn again(&self, story: &Story, jobs: &BTreeSet<Entity>) -> Option<Again> {
        let (root, now) = (root(story), story.opened);
        let recent =
            |past: &&Past| past.root == root && past.since < now && past.since + REMEMBERED >= now;
        let mut earlier: Vec<&Past> = self.past.iter().filter(recent).collect();
        earlier.sort_by_key(|past| past.since);
        let first = earlier.first()?.since;
        let onsets: Vec<Time> = earlier.iter().map(|past| past.since).chain([now]).collect();
        let mut kinds = vec![StoryKind::Recurring];
        let mut words =
            format!("{} time in {}", ordinal(onsets.len()), lasting(now.seconds_since(first)));
        let mut common = jobs.clone();
        earlier.iter().for_each(|past| common.retain(|job| past.jobs.contains(job)));
        let every = period(&onsets);
        if let Some(every) = every {
            words += &format!(", every {}", lasting(every));
        }
        let common = common.first().filter(|_| onsets.len() >= FOLLOWED);
        if let Some(job) = common {
            words += &format!(", each after CronJob {} ran", job.path());
        }
        if every.is_some() || common.is_some() {
            kinds.push(StoryKind::Periodic);
        }
        let earlier = earlier.iter().rev().take(MOST_NAMED).rev();
        let earlier = earlier.map(|past| past.id.clone()).collect();
        Some(Again { kinds, words, earlier })
    }
}

/// Seconds from one onset to the next, where they are even.
fn period(onsets: &[Time]) -> Option<f64> {
    let mut gaps: Vec<f64> = onsets.windows(2).map(|pair| pair[1].seconds_since(pair[0])).collect();
    gaps.sort_by(f64::total_cmp);
    let middle = *gaps.get(gaps.len() / 2)?;
    let even = |gap: &f64| (gap - middle).abs() <= EVEN * middle;
    (onsets.len() >= REGULAR && gaps.iter().all(even)).then_some(middle)
}

/// What makes two stories the same trouble: the guilty object and the pattern, or who fails where nothing
/// inside is guilty.
fn root(story: &Story) -> (Entity, String) {
    match &story.root_cause {
        Some(root) => (Entity::new(&root.kind, &root.namespace, &root.name), root.pattern.clone()),
        None => (Entity::new("", "", ""), story.title.clone()),
    }
}

/// CronJobs that ran shortly before `now`, for how often they run: what runs all the time ran before everything.
pub(super) fn jobs_before(now: Time, view: &View<'_>) -> BTreeSet<Entity> {
    let mut jobs = view.cluster.scheduled_since(now - AFTER_JOB);
    jobs.retain(|_, (ran, schedule)| {
        interval(schedule).is_some_and(|every| now.seconds_since(*ran) <= SOON * every)
    });
    jobs.into_keys().collect()
}

/// Seconds from one run to the next, an hour where it is more; `None` for a schedule that is not understood.
fn interval(schedule: &str) -> Option<f64> {
    const HOUR: f64 = 3600.0;
    let minute = schedule.split_whitespace().next()?;
    if minute.starts_with('@') {
        return Some(HOUR);
    }
    let of = |minutes: f64| Some(minutes * 60.0);
    match minute.split_once('/') {
        Some((_, step)) => of(step.parse().ok()?),
        None if minute == "*" => of(1.0),
        None => Some(HOUR / minute.split(',').count() as f64),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(minutes: &[i64]) -> Vec<Time> {
        minutes.iter().map(|m| Time(m * 60_000_000_000)).collect()
    }

    /// Guarantees: how often a CronJob runs is read from its schedule, so that one that runs every few minutes
    /// is suspected only of what comes at once after it.
    #[test]
    fn schedules_are_read() {
        let minutes = |schedule| interval(schedule).map(|seconds| seconds / 60.0);
        for (schedule, every) in [
            ("*/5 * * * *", 5.0),
            ("* * * * *", 1.0),
            ("0,30 * * * *", 30.0),
            ("17 2 * * *", 60.0),
            ("@daily", 60.0),
        ] {
            assert_eq!(minutes(schedule), Some(every), "{schedule}");
        }
        assert_eq!((minutes(""), minutes("*/x * * * *")), (None, None));
    }

    #[test]
    fn what_is_remembered_survives_being_written() {
        let mut history = History::default();
        for minute in [0, 60] {
            history.push(Past {
                id: format!("{minute:06}"),
                root: (Entity::new("ConfigMap", "shop", "pool"), "pool_shrunk".to_owned()),
                since: Time(minute * 60_000_000_000),
                jobs: [Entity::new("CronJob", "shop", "nightly")].into(),
            });
        }
        assert_eq!(history.unsaved(), None, "nothing is new");
        history.unsaved = true;
        let text = history.unsaved().unwrap();
        assert_eq!(history.unsaved(), None, "it was told already");
        let mut after = History::default();
        assert_eq!(after.recall(&format!("{text}{{\"id\": \"cut o")), 1, "one line is cut off");
        assert!(!after.unsaved, "what came from the file is in it");
        after.unsaved = true;
        assert_eq!(after.unsaved().unwrap(), text);
    }

    #[test]
    fn only_many_even_onsets_are_a_period() {
        assert_eq!(period(&at(&[0, 60, 119, 180])), Some(3600.0));
        assert_eq!(period(&at(&[0, 60, 120])), None, "three may be chance");
        assert_eq!(period(&at(&[0, 60, 100, 180])), None);
    }
}
