//! What was already wrong when the cluster was first seen: nobody's change was there to see, so the objects
//! as they stand, and what was said of them, must tell which of them is wrong.

mod address;
mod apis;
mod autoscaler;
mod beneath;
mod certificates;
mod death;
mod disk;
mod etcd;
mod jobs;
mod known;
mod leaving;
mod network;
mod nodes;
mod placed;
mod refused;
mod remedies;
mod sick;
mod starts;
mod stuck;
mod ways;
mod words;
mod workload;

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

pub use self::known::Known;
use self::sick::{Sick, Watch};
pub(crate) use self::words::telling;
use super::{
    cluster::Cluster,
    objects::pod_template,
    owners,
    value::{at, quantity, text},
};
use crate::correlation::weights::weights;

/// Findings told at most.
const MOST: usize = 50;

/// An object that is wrong as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The object.
    pub object: Entity,
    /// Where it shows.
    pub workload: Entity,
    /// The service of that.
    pub service: String,
    /// Which failure it is: a pattern, or what has none with its entry of the failure catalogue.
    pub pattern: String,
    /// It is told in the words of its pattern: its title, its mechanism and what to do.
    pub known: bool,
    /// Its title, where it has one of its own.
    pub title: String,
    /// What is wrong, in words.
    pub what: String,
    /// Why that does what it does, where more is known than what is wrong.
    pub mechanism: String,
    /// What to do.
    pub advice: Vec<String>,
    /// 0 to 1.
    pub confidence: f64,
    /// Since when, as far as the objects say.
    pub since: Time,
    /// What shows it.
    pub shown: Vec<Shown>,
    /// Sentences about others that the workload does not reach.
    complaints: Vec<String>,
    /// It is only an effect of what is wrong with another workload.
    pub effect: bool,
}

/// A fact that was read in objects as they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// When.
    pub time: Time,
    /// Of what.
    pub on: Entity,
    /// In words.
    pub what: String,
}

/// Something said of an object: a Kubernetes Event, a line of its log, a state of its container.
#[derive(Clone, Debug, PartialEq)]
pub struct Saying {
    /// Of what.
    pub on: Entity,
    /// Type of the fact, as patterns know it.
    pub kind: String,
    /// The machine's word.
    pub reason: String,
    /// The machine's sentence.
    pub message: String,
    /// Which container says it, or is spoken of.
    pub container: String,
    /// When it was said last.
    pub time: Time,
}

impl Saying {
    /// The word and the sentence.
    pub fn words(&self) -> String {
        format!("{}: {}", self.reason, self.message).replace("; ", ", ")
    }
}

/// What was said of objects: Kubernetes Events, and errors of their logs.
pub type Said = BTreeMap<Entity, Vec<Saying>>;

impl Cluster {
    /// All that is wrong as it stands, the surest first.
    pub fn standing(&self, said: &Said, known: &[Known], now: Time) -> Vec<Finding> {
        let mut pods: BTreeMap<Entity, Vec<(&Entity, &Value)>> = BTreeMap::new();
        for pod in self.objects.of_kind("Pod") {
            let Some(value) = self.object(pod) else { continue };
            if text(value, &["status", "phase"]) != "Succeeded" {
                let top = owners::top(&self.objects, pod);
                pods.entry(top).or_default().push((pod, value));
            }
        }
        let mut out = Vec::new();
        let mut all = Vec::new();
        for (workload, object) in self.objects.all_workloads() {
            let Some((_, spec)) = pod_template(&workload.kind, &object.value) else { continue };
            let of_it = pods.get(workload).cloned().unwrap_or_default();
            let since = created(&object.value).unwrap_or(now).min(now);
            let mut sick = Sick::new(workload, spec, of_it, since, now);
            sick.watch = Watch::Objects { snapshot: self.is_snapshot() };
            sick.listen(&object.value, &self.services_of(workload), said);
            self.workload(&mut sick, &object.value, known, &mut out);
            all.push(sick);
        }
        self.control_plane(&pods, said, now, &mut out);
        self.nodes(&pods, said, now, &mut out);
        self.exhausted(&pods, said, now, &mut out);
        self.etcd(said, known, now, &mut out);
        self.full_nodes(&all, &mut out);
        self.drains(&pods, said, now, &mut out);
        self.kept(&pods, now, &mut out);
        self.routes(said, now, &mut out);
        self.filters(&all, now, &mut out);
        self.autoscalers(now, &mut out);
        self.certificates(said, now, &mut out);
        self.beneath(&mut out);
        self.apis(&mut out);
        self.devices(&mut out);
        self.proxies(&pods, &mut out);
        self.needs(&mut out);
        for found in &mut out {
            self.advise(found, known);
        }
        out.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.object.cmp(&b.object)));
        out.truncate(MOST);
        out
    }

    /// Why a workload does not run whose objects are not seen, by what is said of it since then.
    pub fn unseen(
        &self,
        workload: &Entity,
        since: Time,
        said: &Said,
        known: &[Known],
    ) -> Option<Finding> {
        let mut sick = Sick::new(workload, &Value::Null, Vec::new(), since, since);
        sick.listen(&Value::Null, &[], said);
        let mut out = Vec::new();
        self.workload(&mut sick, &Value::Null, known, &mut out);
        let mut found = out.into_iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence))?;
        self.advise(&mut found, known);
        Some(found)
    }

    fn found(&self, sick: &Sick<'_>, object: Entity, pattern: &str, what: String) -> Finding {
        Finding {
            service: self.service_name(sick.workload),
            workload: sick.workload.clone(),
            object,
            pattern: pattern.to_owned(),
            what,
            confidence: weights().standing.plain,
            since: sick.since,
            ..Finding::default()
        }
    }

    fn service_name(&self, workload: &Entity) -> String {
        let services = self.services_of(workload);
        let same = services.iter().find(|s| s.name == workload.name);
        same.or(services.first()).map_or(&workload.name, |s| &s.name).to_string()
    }
}

impl Finding {
    /// Is nothing known but how a container ended?
    fn is_death(&self) -> bool {
        matches!(
            self.pattern.as_str(),
            "bad_config_crash_loop" | "bad_command" | "native_crash" | "killed"
        )
    }
}

impl Default for Finding {
    fn default() -> Self {
        let none = || Entity::new("", "", "");
        Finding {
            object: none(),
            workload: none(),
            service: String::new(),
            pattern: String::new(),
            known: false,
            title: String::new(),
            what: String::new(),
            mechanism: String::new(),
            advice: Vec::new(),
            confidence: 0.0,
            since: Time(0),
            shown: Vec::new(),
            complaints: Vec::new(),
            effect: false,
        }
    }
}

/// The command that shows an object.
fn look_at(object: &Entity) -> String {
    let namespace = if object.namespace.is_empty() {
        String::new()
    } else {
        format!(" -n {}", object.namespace)
    };
    let kind = object.kind.to_lowercase();
    format!("look at it: kubectl{namespace} describe {kind} {}", object.name)
}

fn created(value: &Value) -> Option<Time> {
    Time::parse_rfc3339(text(value, &["metadata", "creationTimestamp"]))
}

/// A quantity of a volume or claim.
pub(super) fn storage(value: &Value, path: &[&str]) -> Option<f64> {
    at(value, path).and_then(quantity)
}
