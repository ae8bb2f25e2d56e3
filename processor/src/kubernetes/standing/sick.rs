//! A workload with its pods, and all that is said of it.

use std::time::Duration;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Said, Saying};
use crate::kubernetes::{
    redact,
    value::{at, boolean, list, number, text},
};

/// A death so long ago is past, if the container is well since.
const LATELY: Duration = Duration::from_secs(3600);
/// A container that was started anew so often does not run, though it may be up just now.
const OFTEN: i64 = 3;

/// A pod may take so long until it is ready.
const YOUNG: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// What is said of a workload; its objects are not seen.
    Words,
    /// Its objects; are they all that there is to see?
    Objects { snapshot: bool },
}

/// A workload with its pods and all that is said of it.
pub(super) struct Sick<'a> {
    pub(super) workload: &'a Entity,
    pub(super) spec: &'a Value,
    pub(super) pods: Vec<(&'a Entity, &'a Value)>,
    /// Those that failed, and have others in their place.
    pub(super) gone: Vec<(&'a Entity, &'a Value)>,
    pub(super) watch: Watch,
    /// What is said, a fact each; then sentences, and the same in lower case.
    pub(super) heard: Vec<Saying>,
    pub(super) words: Vec<String>,
    pub(super) said: String,
    pub(super) since: Time,
    pub(super) now: Time,
}

impl<'a> Sick<'a> {
    pub(super) fn new(
        workload: &'a Entity,
        spec: &'a Value,
        pods: Vec<(&'a Entity, &'a Value)>,
        since: Time,
        now: Time,
    ) -> Self {
        let (watch, said) = (Watch::Words, String::new());
        let (heard, words) = (Vec::new(), Vec::new());
        let mut sick =
            Sick { workload, spec, pods, gone: Vec::new(), watch, heard, words, said, since, now };
        sick.leave_out_the_gone();
        sick
    }

    /// Pods that are asked to go, or that failed and are only kept to be looked at, have others in their place.
    fn leave_out_the_gone(&mut self) {
        if matches!(&*self.workload.kind, "Job" | "CronJob" | "Pod") {
            return;
        }
        let stays = |(_, pod): &&(&Entity, &Value)| {
            at(pod, &["metadata", "deletionTimestamp"]).is_none()
                && text(pod, &["status", "phase"]) != "Failed"
        };
        if self.pods.iter().any(|pod| stays(&pod)) {
            let all = std::mem::take(&mut self.pods);
            (self.pods, self.gone) = all.into_iter().partition(|pod| stays(&pod));
        }
    }

    /// How many pods it is to have.
    pub(super) fn wanted(&self, value: &Value) -> i64 {
        match &*self.workload.kind {
            "Pod" | "Job" | "CronJob" => 1,
            // Of one that is not seen nobody knows; it is said to need what it has not.
            _ if value.is_null() => 1,
            "DaemonSet" => number(value, &["status", "desiredNumberScheduled"]).unwrap_or(0),
            _ => number(value, &["spec", "replicas"]).unwrap_or(1),
        }
    }

    /// All that is said of it: its own conditions, those of its pods, events, errors it logged.
    ///
    /// Who writes logs may be known by the Service alone.
    pub(super) fn listen(&mut self, value: &Value, services: &[Entity], said: &Said) {
        let wanted = self.wanted(value);
        let mut all: Vec<Saying> = Vec::new();
        let mut add = |saying: Saying| {
            if !all.contains(&saying) {
                all.push(saying);
            }
        };
        let of_it = std::iter::once(self.workload).chain(self.pods.iter().map(|(pod, _)| *pod));
        for saying in of_it.chain(services).filter_map(|of| said.get(of)).flatten() {
            if !self.is_over(saying, wanted) {
                add(saying.clone());
            }
        }
        let claims = self.pods.iter().flat_map(|(_, pod)| list(pod, &["spec", "volumes"]));
        for claim in claims.map(|volume| text(volume, &["persistentVolumeClaim", "claimName"])) {
            let claim = Entity::new("PersistentVolumeClaim", &self.workload.namespace, claim);
            said.get(&claim).into_iter().flatten().cloned().for_each(&mut add);
        }
        for condition in list(value, &["status", "conditions"]) {
            if text(condition, &["type"]) == "ReplicaFailure" {
                add(self.saying(self.workload, "deployment.replica_failure", condition, value));
            }
        }
        for (pod, value) in &self.pods {
            for condition in list(value, &["status", "conditions"]) {
                if text(condition, &["reason"]) == "Unschedulable" {
                    add(self.saying(pod, "pod.unschedulable", condition, value));
                }
            }
            for status in statuses(value) {
                for (path, kind) in [
                    (&["state", "waiting"][..], "container.waiting"),
                    (&["state", "terminated"], "container.terminated"),
                    (&["lastState", "terminated"], "container.terminated"),
                ] {
                    let Some(state) = at(status, path) else { continue };
                    if path[0] == "lastState" && !ails(status, self.now) {
                        continue;
                    }
                    let mut saying = self.saying(pod, kind, state, value);
                    text(status, &["name"]).clone_into(&mut saying.container);
                    if inits(value, status) && !saying.reason.is_empty() {
                        saying.reason = format!("Init:{}", saying.reason);
                    }
                    // What a container leaves as its last words is what it logs last.
                    if kind == "container.terminated" && !saying.message.trim().is_empty() {
                        let kind = "log.error".to_owned();
                        add(Saying { kind, reason: String::new(), ..saying.clone() });
                    }
                    add(saying);
                }
            }
        }
        self.hear(all);
    }

    /// Takes what is said as all that is.
    pub(super) fn hear(&mut self, all: Vec<Saying>) {
        self.words = all
            .iter()
            .map(|saying| match saying.kind.as_str() {
                "deployment.replica_failure" | "pod.unschedulable"
                    if self.watch != Watch::Words =>
                {
                    saying.message.clone()
                }
                _ => saying.words(),
            })
            .collect();
        self.said = self.words.join("; ").to_lowercase();
        self.heard = all;
    }

    /// What a condition or the state of a container says.
    fn saying(&self, on: &Entity, kind: &str, state: &Value, of: &Value) -> Saying {
        let times = ["finishedAt", "lastTransitionTime"].map(|key| text(state, &[key]));
        let created = text(of, &["metadata", "creationTimestamp"]);
        let mut times = times.into_iter().chain([created]).filter_map(Time::parse_rfc3339);
        Saying {
            on: on.clone(),
            kind: kind.to_owned(),
            reason: text(state, &["reason"]).to_owned(),
            message: redact::text(text(state, &["message"])).replace("\\\"", "\""),
            container: String::new(),
            time: times.next().unwrap_or(self.now).min(self.now),
        }
    }

    /// Is what an Event says past, as the objects show? The Events of an hour lie beside each other.
    fn is_over(&self, saying: &Saying, wanted: i64) -> bool {
        if !matches!(saying.kind.as_str(), "k8s.event" | "probe.failed") {
            return false;
        }
        let complete = !self.pods.is_empty() && self.pods.len() as i64 >= wanted;
        match &*saying.on.kind {
            "Pod" => match self.pods.iter().find(|(pod, _)| **pod == saying.on) {
                Some((_, pod)) => {
                    is_ready(pod) && !flaps(pod, self.now) || came_further(pod, &saying.reason)
                }
                None => complete,
            },
            "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Deployment" => {
                complete && saying.reason == "FailedCreate"
            }
            _ => false,
        }
    }

    /// Since when pods of it are not ready, as far as they say.
    pub(super) fn onset(&self) -> Option<Time> {
        let conditions = self.pods.iter().flat_map(|(_, pod)| {
            list(pod, &["status", "conditions"]).iter().filter(|c| {
                matches!(text(c, &["type"]), "Ready" | "PodScheduled")
                    && text(c, &["status"]) != "True"
            })
        });
        let since =
            conditions.filter_map(|c| Time::parse_rfc3339(text(c, &["lastTransitionTime"])));
        let refused = self.heard.iter().filter(|s| s.kind == "deployment.replica_failure");
        since.chain(refused.map(|s| s.time)).min()
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

/// The states of a pod's containers.
pub(super) fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(move |part| list(pod, &["status", part]))
}

/// Is this the state of a container that must end before the others start?
fn inits(pod: &Value, status: &Value) -> bool {
    let name = text(status, &["name"]);
    let named = |path: &[&str]| list(pod, path).iter().any(|of| text(of, &["name"]) == name);
    named(&["status", "initContainerStatuses"])
        && !list(pod, &["spec", "initContainers"])
            .iter()
            .any(|of| text(of, &["name"]) == name && text(of, &["restartPolicy"]) == "Always")
}

/// Is a container not well, or did it die so lately that it may not be?
pub(super) fn ails(status: &Value, now: Time) -> bool {
    let died = at(status, &["lastState", "terminated"]);
    let runs = at(status, &["state", "running"]).is_some();
    let done = number(status, &["state", "terminated", "exitCode"]) == Some(0);
    let well = runs && boolean(status, &["ready"]) != Some(false) || done;
    let lately = |died: &Value| {
        let at = Time::parse_rfc3339(text(died, &["finishedAt"]));
        at.is_none_or(|at| at + LATELY > now)
    };
    !well || died.is_some_and(lately)
}

/// Was one of its containers started anew again and again, and lately?
pub(super) fn flaps(pod: &Value, now: Time) -> bool {
    statuses(pod)
        .any(|status| number(status, &["restartCount"]).unwrap_or(0) >= OFTEN && ails(status, now))
}

/// Was it made so lately that it need not be ready yet?
pub(super) fn is_young(pod: &Value, now: Time) -> bool {
    let made = Time::parse_rfc3339(text(pod, &["metadata", "creationTimestamp"]));
    made.is_some_and(|made| made + YOUNG > now) && restarts(pod) == 0
}

/// Does it wait for what does not come by itself?
pub(super) fn is_stuck(pod: &Value) -> bool {
    let waits = |status: &Value| {
        !matches!(
            text(status, &["state", "waiting", "reason"]),
            "" | "ContainerCreating" | "PodInitializing"
        )
    };
    let refused = list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| text(condition, &["reason"]) == "Unschedulable");
    statuses(pod).any(waits) || refused
}

/// Has a pod come further than what an Event of this reason says of it?
fn came_further(pod: &Value, reason: &str) -> bool {
    let started = || {
        statuses(pod).any(|status| {
            at(status, &["state", "running"]).is_some()
                || at(status, &["state", "terminated"]).is_some()
                || at(status, &["lastState", "terminated"]).is_some()
        })
    };
    match reason {
        "FailedScheduling" | "NotTriggerScaleUp" => !text(pod, &["spec", "nodeName"]).is_empty(),
        "FailedMount"
        | "FailedAttachVolume"
        | "FailedMapVolume"
        | "FailedCreatePodSandBox"
        | "NetworkNotReady" => started(),
        _ => false,
    }
}

/// How often one of its containers was started anew.
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
