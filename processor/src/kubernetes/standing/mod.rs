//! What was already wrong when the cluster was first seen: nobody's change was there to see, so the objects
//! as they stand, and what was said of them, must tell which of them is wrong.

mod address;
mod network;
mod nodes;
mod sick;
mod workload;

use std::collections::BTreeMap;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use self::sick::Sick;
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
    /// Which failure it is.
    pub pattern: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// 0 to 1.
    pub confidence: f64,
    /// Since when, as far as the objects say.
    pub since: Time,
}

/// What was said of objects: Kubernetes Events, and errors of their logs.
pub type Said = BTreeMap<Entity, Vec<String>>;

impl Cluster {
    /// All that is wrong as it stands, the surest first.
    pub fn standing(&self, said: &Said, now: Time) -> Vec<Finding> {
        let mut pods: BTreeMap<Entity, Vec<(&Entity, &Value)>> = BTreeMap::new();
        for pod in self.objects.of_kind("Pod") {
            let Some(value) = self.object(pod) else { continue };
            if text(value, &["status", "phase"]) != "Succeeded" {
                let top = owners::top(&self.objects, pod);
                pods.entry(top).or_default().push((pod, value));
            }
        }
        let mut out = Vec::new();
        for (workload, object) in self.objects.all_workloads() {
            let Some((_, spec)) = pod_template(&workload.kind, &object.value) else { continue };
            let mut sick = Sick {
                workload,
                spec,
                pods: pods.get(workload).cloned().unwrap_or_default(),
                words: Vec::new(),
                said: String::new(),
                since: created(&object.value).unwrap_or(now).min(now),
            };
            sick.listen(&object.value, said);
            self.workload(&sick, &object.value, &mut out);
        }
        self.control_plane(&pods, said, now, &mut out);
        self.nodes(&pods, said, now, &mut out);
        self.routes(now, &mut out);
        self.filters(said, now, &mut out);
        out.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.object.cmp(&b.object)));
        out.truncate(MOST);
        out
    }

    /// Why a workload does not run whose objects are not seen, by what is said of it since then.
    pub fn unseen(&self, workload: &Entity, since: Time, said: &Said) -> Option<Finding> {
        let mut sick = Sick {
            workload,
            spec: &Value::Null,
            pods: Vec::new(),
            words: Vec::new(),
            said: String::new(),
            since,
        };
        sick.listen(&Value::Null, said);
        let mut out = Vec::new();
        self.workload(&sick, &Value::Null, &mut out);
        out.into_iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence))
    }

    fn found(
        &self,
        sick: &Sick<'_>,
        object: Entity,
        pattern: &'static str,
        what: String,
    ) -> Finding {
        Finding {
            service: self.service_name(sick.workload),
            workload: sick.workload.clone(),
            advice: format!(
                "look at it: kubectl{} describe {} {}",
                if object.namespace.is_empty() {
                    String::new()
                } else {
                    format!(" -n {}", object.namespace)
                },
                object.kind.to_lowercase(),
                object.name
            ),
            object,
            pattern,
            what,
            confidence: weights().standing.plain,
            since: sick.since,
        }
    }

    fn service_name(&self, workload: &Entity) -> String {
        let services = self.services_of(workload);
        let same = services.iter().find(|s| s.name == workload.name);
        same.or(services.first()).map_or(&workload.name, |s| &s.name).to_string()
    }
}

fn created(value: &Value) -> Option<Time> {
    Time::parse_rfc3339(text(value, &["metadata", "creationTimestamp"]))
}

/// A quantity of a volume or claim.
pub(super) fn storage(value: &Value, path: &[&str]) -> Option<f64> {
    at(value, path).and_then(quantity)
}
