//! States of pods that only Events tell of: where a pod's object is not seen, what is said of it again and again
//! says that it cannot run.
//!
//! Where an object was seen it is believed and Events are not.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::{Entity, Severity, Time};

use super::{
    cluster::Cluster,
    events::Report,
    fact::{Fact, Happened},
};

/// What is said once is part of any start; what is said again after this long is a state. A node or a volume may
/// well come within a minute.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_LATER: Duration = Duration::from_secs(60);
/// What was not said again for so long is over: the kubelet and the scheduler repeat themselves every five
/// minutes at least.
const SILENT: Duration = Duration::from_secs(900);
/// What was said so long before it came to be known was said to somebody else.
const OLD: Duration = Duration::from_secs(300);
/// States remembered.
const MOST: usize = 10_000;

/// States by object and kind.
pub(super) type Heard = BTreeMap<(Entity, &'static str), State>;

/// A state that is heard of.
#[derive(Clone, Debug)]
pub(super) struct State {
    first: Time,
    last: Time,
    told: bool,
    /// What it waits for, of which it may hear that it came.
    stage: Stage,
}

/// What a pod waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Node,
    Volume,
    Image,
    /// It starts, and ends again.
    Life,
    /// Nothing ends it but silence.
    Never,
}

/// The state that an Event tells of, its reason as the object would have it, and what would end it.
fn state(report: &Report) -> Option<(&'static str, &'static str, Stage)> {
    let says = |part: &str| report.message.contains(part);
    let waiting = |reason, stage| Some(("container.waiting", reason, stage));
    match (&*report.entity.kind, &*report.reason) {
        ("Pod", "Failed") if says("ErrImageNeverPull") => {
            waiting("ErrImageNeverPull", Stage::Image)
        }
        ("Pod", "InspectFailed") => waiting("InvalidImageName", Stage::Image),
        ("Pod", "Failed") if says("InvalidImageName") => waiting("InvalidImageName", Stage::Image),
        ("Pod", "Failed") if says("pull image") || says("ErrImagePull") => {
            waiting("ErrImagePull", Stage::Image)
        }
        ("Pod", "Failed") if says("ImagePullBackOff") => waiting("ImagePullBackOff", Stage::Image),
        ("Pod", "BackOff") if says("pulling image") => waiting("ImagePullBackOff", Stage::Image),
        ("Pod", "BackOff") => waiting("CrashLoopBackOff", Stage::Life),
        ("Pod", "Failed") => waiting("CreateContainerError", Stage::Life),
        ("Pod", "FailedMount" | "FailedAttachVolume" | "FailedMapVolume") => {
            waiting("ContainerCreating", Stage::Volume)
        }
        ("Pod", "FailedCreatePodSandBox" | "NetworkNotReady") => {
            waiting("ContainerCreating", Stage::Volume)
        }
        ("Pod", "FailedScheduling") => Some(("pod.unschedulable", "Unschedulable", Stage::Node)),
        ("Pod", "Evicted") => Some(("pod.evicted", "Evicted", Stage::Never)),
        ("ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job", "FailedCreate") => {
            Some(("deployment.replica_failure", "FailedCreate", Stage::Never))
        }
        _ => None,
    }
}

/// How far a pod has come by what a Normal Event says of it: the stages before are behind it.
fn passed(report: &Report) -> &'static [Stage] {
    match &*report.reason {
        _ if report.warning => &[],
        "Scheduled" => &[Stage::Node],
        "Pulling" => &[Stage::Node, Stage::Volume],
        "Pulled" | "Created" | "Started" => &[Stage::Node, Stage::Volume, Stage::Image],
        _ => &[],
    }
}

impl Cluster {
    /// Hears an Event about an object that is not seen.
    pub(super) fn hear(&mut self, report: &Report, seen: Time, out: &mut Vec<Fact>) {
        let known = self.objects.get(&report.entity).is_some();
        if known || report.entity.name.is_empty() || report.time + OLD < seen {
            return;
        }
        self.hear_end(report, seen, out);
        let Some((kind, reason, stage)) = state(report) else { return };
        let key = (report.entity.clone(), kind);
        if !self.heard.contains_key(&key) && self.heard.len() >= MOST {
            return;
        }
        let fresh = || State { first: report.time, last: report.time, told: false, stage };
        let state = self.heard.entry(key).or_insert_with(fresh);
        state.last = state.last.max(report.time);
        state.stage = stage;
        let again = match stage {
            Stage::Node | Stage::Volume => AGAIN_LATER,
            _ => AGAIN,
        };
        if state.first + again > state.last {
            return;
        }
        let time = if state.told { report.time } else { state.first };
        state.told = true;
        let mut fact = self.event(Happened {
            source: "k8s.events",
            time,
            reason,
            message: &report.message,
            container: &report.container,
            node: &report.node,
            count: report.count,
            ..Happened::new(kind, Severity::Error, &report.entity, seen)
        });
        // Who numbers pods is a StatefulSet, where nobody says another.
        if let Fact::Event(event) = &mut fact
            && matches!(&*event.workload_kind, "" | "Pod")
            && let Some((name, number)) = report.entity.name.rsplit_once('-')
            && &*report.entity.kind == "Pod"
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            (event.workload_kind, event.workload_name) = ("StatefulSet".into(), name.to_owned());
        }
        out.push(fact);
    }

    /// The object itself is seen, and is believed from now on.
    pub(super) fn unhear_of(&mut self, on: &Entity, seen: Time, out: &mut Vec<Fact>) {
        if self.heard.is_empty() {
            return;
        }
        let of_it = self.heard.extract_if(.., |(entity, _), _| entity == on);
        if of_it.filter(|(_, state)| state.told).count() > 0 {
            self.tell_end("pod.deleted", on.clone(), seen, out);
        }
    }

    /// What was heard is over: the pod came further, or goes.
    fn hear_end(&mut self, report: &Report, seen: Time, out: &mut Vec<Fact>) {
        let on = &report.entity;
        let made = !report.warning && report.reason == "SuccessfulCreate";
        let goes =
            !report.warning && report.reason == "Killing" && !report.message.contains("probe");
        let stages = passed(report);
        if self.heard.is_empty() || !(made || goes || !stages.is_empty()) {
            return;
        }
        let over = |(entity, kind): &(Entity, &str), state: &State| {
            entity == on
                && (goes
                    || stages.contains(&state.stage)
                    || made && *kind == "deployment.replica_failure")
        };
        let mut told = false;
        self.heard.retain(|key, state| {
            let over = over(key, state);
            told |= over && state.told;
            !over
        });
        if told {
            let what = match (made, goes) {
                (true, _) => "deployment.replicas_created",
                (_, true) => "pod.deleted",
                _ => "pod.ready",
            };
            self.tell_end(what, on.clone(), report.time.max(seen), out);
        }
    }

    /// What was heard of and is not any more is over.
    pub(super) fn unhear(&mut self, now: Time, out: &mut Vec<Fact>) {
        if self.heard.is_empty() {
            return;
        }
        let silent = self.heard.extract_if(.., |_, state| state.last + SILENT < now);
        let silent: Vec<_> = silent.filter(|(_, state)| state.told).collect();
        for ((on, kind), _) in silent {
            let what = match kind {
                "deployment.replica_failure" => "deployment.replicas_created",
                _ => "pod.deleted",
            };
            self.tell_end(what, on, now, out);
        }
    }

    fn tell_end(&mut self, what: &str, on: Entity, time: Time, out: &mut Vec<Fact>) {
        let happened = Happened::new(what, Severity::Info, &on, time);
        let fact = self.event(Happened { source: "k8s.events", ..happened });
        out.push(fact);
    }
}
