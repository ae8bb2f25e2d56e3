//! How containers ended, where they say nothing that is known: by the signal, the code and their last words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Finding, Shown,
    sick::{Sick, ails, restarts, statuses},
    words,
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        redact,
        value::{at, list, number, plain, text},
    },
};

/// Events that are told beside what is found, of a reason each.
const MOST_EVENTS: usize = 4;

/// The end of a container of a workload.
struct End<'a> {
    container: &'a str,
    code: i64,
    reason: &'a str,
    message: String,
}

impl Cluster {
    /// A container that is killed for memory, with its limit.
    pub(super) fn out_of_memory(&self, sick: &Sick<'_>) -> Option<Finding> {
        let killed = ends(sick).find(|end| end.reason == "OOMKilled");
        let container = killed.as_ref().map_or("", |end| end.container);
        let mut containers =
            ["containers", "initContainers"].into_iter().flat_map(|part| list(sick.spec, &[part]));
        let limit = containers
            .find(|of| text(of, &["name"]) == container)
            .and_then(|of| at(of, &["resources", "limits", "memory"]))
            .map(plain);
        let what = match (&killed, limit) {
            (None, _) if self.bare_of_memory(sick).is_some() => self.bare_of_memory(sick)?,
            (None, _) if !sick.said.contains("oomkilled") => return None,
            (None, _) => "it is killed for memory".to_owned(),
            (Some(_), Some(limit)) => format!(
                "container {container} is killed for memory at its limit of {limit}{}",
                again(sick)
            ),
            (Some(_), None) => {
                format!("container {container} is killed for memory{}", again(sick))
            }
        };
        let own = sick.workload.clone();
        let mut found = self.found(sick, own, "oom_killed", what);
        found.mechanism =
            "the kernel kills a container that needs more memory than its limit allows".to_owned();
        found.advice = vec![
            format!(
                "give it more if that is what it needs: kubectl -n {} set resources {} {}{} --limits=memory=...",
                sick.workload.namespace,
                sick.workload.kind.to_lowercase(),
                sick.workload.name,
                if container.is_empty() { String::new() } else { format!(" -c {container}") }
            ),
            "or bound what it keeps: heap, caches, pools, requests at once".to_owned(),
        ];
        Some(found)
    }

    /// A container for which its limit is too small even to begin, as the runtime says.
    fn bare_of_memory(&self, sick: &Sick<'_>) -> Option<String> {
        if !sick.said.contains("init was oom-killed") {
            return None;
        }
        let limit = |of: &Value| at(of, &["resources", "limits", "memory"]).map(plain);
        let limited = list(sick.spec, &["containers"]).iter().find_map(|of| {
            Some(format!("container {} with its limit of {}", text(of, &["name"]), limit(of)?))
        });
        let of = limited.unwrap_or_else(|| "a container".to_owned());
        Some(format!("{of} has too little memory even to begin{}", again(sick)))
    }

    /// A container that ends again and again, for a reason that nobody knows.
    pub(super) fn death(&self, sick: &Sick<'_>) -> Option<Finding> {
        let w = &weights().standing;
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let end = ends(sick).next();
        let backs_off = says(&[
            "crashloopbackoff",
            "runcontainererror",
            "createcontainererror",
            "back-off restarting",
        ]);
        if !backs_off && end.as_ref().is_none_or(|end| end.code == 0) {
            return None;
        }
        let own = sick.workload.clone();
        let lost =
            says(&["executable file not found", "no such file or directory", "exec format error"]);
        let Some(end) = end else {
            let pattern = if lost { "bad_command" } else { "bad_config_crash_loop" };
            let mut found = self.found(sick, own, pattern, sick.around("back-off"));
            found.confidence = if lost { w.bad_command } else { w.crashes };
            return Some(found);
        };
        let (pattern, means, confidence) = match end.code {
            _ if lost => ("bad_command", "its command is not in its image", w.bad_command),
            0 => ("bad_command", "it ends by itself, as if all were done", w.signal),
            126 => ("bad_command", "its command may not be executed", w.bad_command),
            127 => ("bad_command", "its command is not found", w.bad_command),
            134 => ("native_crash", "SIGABRT: it gave itself up", w.signal),
            135 => ("native_crash", "SIGBUS: memory that it cannot reach", w.signal),
            136 => ("native_crash", "SIGFPE: it calculates what cannot be", w.signal),
            139 => ("native_crash", "SIGSEGV: it crashes in native code", w.signal),
            137 => ("killed", "SIGKILL: it is killed, and not for its limit", w.crashes),
            143 => ("killed", "SIGTERM: somebody stops it", w.crashes),
            _ => ("bad_config_crash_loop", "", w.crashes),
        };
        let container = end.container;
        let (code, again) = (end.code, again(sick));
        let means = if means.is_empty() { String::new() } else { format!(" ({means})") };
        let mut what = format!("container {container} ends with exit {code}{means}{again}");
        let mut confidence = confidence;
        let last = words::telling(&end.message);
        if !last.is_empty() {
            what = format!("{what}: {last}");
            confidence = confidence.max(w.last_words);
        }
        // It never ran, so that it said nothing itself.
        let unbegun = matches!(end.reason, "StartError" | "ContainerCannotRun");
        let mounts = unbegun && end.message.contains("error mounting");
        let pattern = if mounts && !lost { "volume_mount_fails" } else { pattern };
        if unbegun {
            what = format!("container {container} cannot be started{again}: {last}");
        }
        let mut found = self.found(sick, own, pattern, what);
        found.confidence = confidence;
        if unbegun {
            return Some(found);
        }
        found.advice.push(format!(
            "read what it said: kubectl -n {} logs {}/{} --previous --tail=50",
            sick.workload.namespace,
            sick.workload.kind.to_lowercase(),
            sick.workload.name
        ));
        Some(found)
    }
}

/// `, started anew 14 times`
fn again(sick: &Sick<'_>) -> String {
    match sick.pods.iter().map(|(_, pod)| restarts(pod)).max().unwrap_or(0) {
        0 | 1 => String::new(),
        times => format!(", started anew {times} times"),
    }
}

/// The ends of its containers that are not well, each one's last, with what it said.
fn ends<'a>(sick: &Sick<'a>) -> impl Iterator<Item = End<'a>> {
    let logged = sick.heard.iter().rev().find(|saying| saying.kind.starts_with("log."));
    let logged = logged.map(|saying| saying.message.clone()).unwrap_or_default();
    let now = sick.now;
    let pods: Vec<&'a Value> = sick.pods.iter().map(|(_, pod)| *pod).collect();
    pods.into_iter().flat_map(statuses).filter(move |status| ails(status, now)).filter_map(
        move |status| {
            let end = at(status, &["state", "terminated"])
                .or_else(|| at(status, &["lastState", "terminated"]))?;
            let message = redact::text(text(end, &["message"]));
            Some(End {
                container: text(status, &["name"]),
                code: number(end, &["exitCode"]).unwrap_or(0),
                reason: text(end, &["reason"]),
                message: if message.trim().is_empty() { logged.clone() } else { message },
            })
        },
    )
}

/// The last death of a workload's containers, and what Events say of it: that is told beside what is found.
pub(super) fn shown(sick: &Sick<'_>, found: &Finding) -> Vec<Shown> {
    let mut all = Vec::new();
    let died = sick.heard.iter().filter(|saying| saying.kind == "container.terminated");
    if let Some(last) = died.max_by_key(|saying| saying.time)
        && let Some(end) = ends(sick).next()
    {
        let said = if found.known && !found.what.is_empty() {
            found.what.clone()
        } else {
            words::telling(&end.message)
        };
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let how = if end.reason == "OOMKilled" { "is OOMKilled, " } else { "ends with " };
        let what =
            format!("container {} {how}exit {}{}{said}", end.container, end.code, again(sick));
        all.push(Shown { time: last.time, on: last.on.clone(), what });
    }
    let mut reasons = BTreeSet::new();
    let events = sick.heard.iter().filter(|saying| {
        matches!(saying.kind.as_str(), "k8s.event" | "probe.failed") && saying.reason != "BackOff"
    });
    let events = events.filter(|saying| reasons.insert(saying.reason.clone())).take(MOST_EVENTS);
    all.extend(events.map(|saying| Shown {
        time: saying.time,
        on: saying.on.clone(),
        what: format!("{} {}: {}", saying.on.name, saying.reason, words::telling(&saying.message)),
    }));
    all
}
