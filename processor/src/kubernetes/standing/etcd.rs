//! The store of the cluster: who cannot write or waits too long says so, and it is etcd.

use tapio_proto::model::{Entity, Time};

use super::{Finding, Known, Said, Saying, Shown, beneath::follows, words};
use crate::{
    correlation::weights::weights,
    kubernetes::{cluster::Cluster, value::text},
};

/// Patterns that speak of it.
const PATTERNS: [&str; 2] = ["etcd_full", "etcd_slow"];
/// So many speak of its slowness before it is believed; any program may time out once.
const SEVERAL: usize = 2;

impl Cluster {
    /// Whoever speaks of it, as the patterns know the words, means etcd itself.
    pub(super) fn etcd(&self, said: &Said, known: &[Known], now: Time, out: &mut Vec<Finding>) {
        let mut members = self.objects.of_kind("Pod").filter(|pod| self.stores(pod)).peekable();
        let Some(first) = members.peek().copied() else { return };
        for pattern in known.iter().filter(|known| PATTERNS.contains(&known.id())) {
            let logged = |saying: &&Saying| saying.kind == "log.error" && pattern.is_said(saying);
            let speakers: Vec<(&Entity, &Saying)> = said
                .iter()
                .filter(|(on, _)| &*on.kind == "Pod")
                .filter_map(|(on, all)| Some((on, all.iter().find(logged)?)))
                .collect();
            let own = speakers.iter().find(|(on, _)| self.stores(on));
            let enough = own.is_some() || pattern.id() == PATTERNS[0] || speakers.len() >= SEVERAL;
            let Some((on, saying)) = own.or_else(|| speakers.first()).filter(|_| enough) else {
                continue;
            };
            let member = if self.stores(on) { (*on).clone() } else { first.clone() };
            let line = words::telling(&saying.message);
            let what = match *on == &member {
                true => format!("etcd says: {line}"),
                false => format!("{} says: {line}", on.path()),
            };
            let state = if pattern.id() == PATTERNS[0] { "is full" } else { "is too slow" };
            let shown = speakers.iter().take(4).map(|(on, saying)| Shown {
                time: saying.time,
                on: (*on).clone(),
                what: words::telling(&saying.message),
            });
            let found = Finding {
                title: format!("etcd {state}: {what}"),
                object: member.clone(),
                workload: member.clone(),
                service: "etcd".to_owned(),
                pattern: pattern.id().to_owned(),
                mechanism: "the API server keeps all objects in etcd; who writes there waits for it, and gives up leases that it cannot renew in time".to_owned(),
                what,
                shown: shown.collect(),
                confidence: weights().standing.plain,
                since: speakers.iter().map(|(_, saying)| saying.time).min().unwrap_or(now),
                ..Finding::default()
            };
            for other in out.iter_mut().filter(|other| other.pattern == found.pattern) {
                let what = format!("{} waits for etcd: {}", other.workload.path(), other.what);
                follows(other, &found, what);
            }
            out.push(found);
        }
    }

    /// Is this a pod of etcd?
    fn stores(&self, pod: &Entity) -> bool {
        let label = |key: &str| {
            self.object(pod).is_some_and(|of| text(of, &["metadata", "labels", key]) == "etcd")
        };
        &*pod.namespace == "kube-system"
            && (pod.name.starts_with("etcd-") || label("component") || label("k8s-app"))
    }
}
