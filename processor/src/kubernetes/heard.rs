//! States of pods that only Events tell of: where a pod's object is not seen, what is said of it again and again
//! says that it cannot run.
//!
//! Where an object was seen it is believed and Events are not; but of the volume or the network that a new pod
//! waits for its object says nothing.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tapio_proto::model::{Entity, Severity, Time};

use super::{
    cluster::Cluster,
    events::Report,
    fact::{Fact, Happened},
    value::text,
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

/// Is it a pod of which no container was started yet?
pub(super) fn is_pending(value: &Value) -> bool {
    text(value, &["status", "phase"]) == "Pending"
}

impl Cluster {
    /// Hears an Event about an object that is not seen, or that does not say it itself.
    pub(super) fn hear(&mut self, report: &Report, seen: Time, out: &mut Vec<Fact>) {
        if report.entity.name.is_empty() || report.time + OLD < seen {
            return;
        }
        let object = self.objects.get(&report.entity).map(|object| &object.value);
        let (known, pending) = (object.is_some(), object.is_some_and(|value| is_pending(value)));
        if !known {
            self.hear_end(report, seen, out);
        }
        let Some((kind, reason, stage)) = state(report) else { return };
        if known && !(pending && stage == Stage::Volume) {
            return;
        }
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

    /// The object itself is seen, and is believed from now on; unless it is a pod that is still pending.
    pub(super) fn unhear_of(
        &mut self,
        on: &Entity,
        pending: bool,
        seen: Time,
        out: &mut Vec<Fact>,
    ) {
        if self.heard.is_empty() {
            return;
        }
        let over = |(entity, _): &(Entity, &str), state: &mut State| {
            entity == on && !(pending && state.stage == Stage::Volume)
        };
        let over = self.heard.extract_if(.., over);
        if over.filter(|(_, state)| state.told).count() > 0 {
            self.tell_end(self.end_of_pod(on), on.clone(), seen, out);
        }
    }

    /// What ends the states that were heard of a pod: all that is known of it, or what its object does not say.
    fn end_of_pod(&self, pod: &Entity) -> &'static str {
        if self.objects.get(pod).is_some() { "pod.running" } else { "pod.deleted" }
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
                _ => self.end_of_pod(&on),
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
