//! A workload with its pods, and all that is said of it.

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::Said;
use crate::kubernetes::value::{at, boolean, list, number, text};

/// A workload with its pods and all that is said of it.
pub(super) struct Sick<'a> {
    pub(super) workload: &'a Entity,
    pub(super) spec: &'a Value,
    pub(super) pods: Vec<(&'a Entity, &'a Value)>,
    /// Sentences, and the same in lower case.
    pub(super) words: Vec<String>,
    pub(super) said: String,
    pub(super) since: Time,
}

impl Sick<'_> {
    /// All that is said of it: its own conditions, those of its pods, events, errors it logged.
    pub(super) fn listen(&mut self, value: &Value, said: &Said) {
        let mut all: Vec<String> = said.get(self.workload).cloned().unwrap_or_default();
        for condition in list(value, &["status", "conditions"]) {
            if text(condition, &["type"]) == "ReplicaFailure" {
                all.push(text(condition, &["message"]).to_owned());
            }
        }
        for (pod, value) in &self.pods {
            all.extend(said.get(*pod).cloned().unwrap_or_default());
            for condition in list(value, &["status", "conditions"]) {
                if text(condition, &["reason"]) == "Unschedulable" {
                    all.push(text(condition, &["message"]).to_owned());
                }
            }
            for status in statuses(value) {
                for state in [
                    &["state", "waiting"][..],
                    &["state", "terminated"],
                    &["lastState", "terminated"],
                ] {
                    if let Some(state) = at(status, state) {
                        all.push(format!(
                            "{}: {}",
                            text(state, &["reason"]),
                            text(state, &["message"])
                        ));
                    }
                }
            }
        }
        self.said = all.join("; ").to_lowercase();
        self.words = all;
    }

    /// The first sentence with this part, which is in lower case, less the reason in front of its message.
    pub(super) fn around(&self, part: &str) -> String {
        let found = self.words.iter().find(|words| words.to_lowercase().contains(part));
        let words = found.map_or(&*self.said, |words| words);
        let is_reason = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let told = match words.split_once(": ") {
            Some((reason, "")) => reason,
            Some((reason, message)) if is_reason(reason) => message,
            _ => words,
        };
        told.chars().take(300).collect()
    }

    /// The last sentence with this part.
    pub(super) fn last(&self, part: &str) -> Option<&str> {
        let mut found = self.words.iter().rev();
        found.find(|words| words.to_lowercase().contains(part)).map(|words| &**words)
    }
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(move |part| list(pod, &["status", part]))
}

pub(super) fn restarts(pod: &Value) -> i64 {
    statuses(pod).filter_map(|status| number(status, &["restartCount"])).max().unwrap_or(0)
}

pub(super) fn waits(pod: &Value, reason: &str) -> bool {
    statuses(pod).any(|status| text(status, &["state", "waiting", "reason"]) == reason)
}

pub(super) fn is_ready(pod: &Value) -> bool {
    let ready = list(pod, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Ready");
    match ready {
        Some(ready) => text(ready, &["status"]) == "True",
        None => {
            let mut all = statuses(pod).peekable();
            all.peek().is_some() && all.all(|status| boolean(status, &["ready"]) == Some(true))
        }
    }
}
