//! The pods and what owns them, for those who pass by on other threads: a snapshot that is replaced
//! whole when the cluster has changed, and made only if somebody asked for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{
    cluster::Cluster,
    objects::Object,
    value::{at, boolean, list, text},
};

/// Between two snapshots, at least.
const INTERVAL: Duration = Duration::from_millis(200);
/// And at least so many times what the last one took: making them costs one percent of a core.
const SHARE: u32 = 100;
/// What a pod sent before it was deleted may come this much later.
const GRACE: Duration = Duration::from_secs(120);
/// What can own a pod, and where it runs.
const OTHERS: [&str; 8] =
    ["CronJob", "DaemonSet", "Deployment", "Job", "Namespace", "Node", "ReplicaSet", "StatefulSet"];

/// Where the newest snapshot is.
#[derive(Default)]
pub struct Directory {
    wanted: AtomicBool,
    fed: AtomicBool,
    newest: RwLock<Arc<Snapshot>>,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    version: u64,
    not_before: Option<Instant>,
}

/// The pods of a cluster and the objects around them at one moment.
#[derive(Default)]
pub struct Snapshot {
    pods: Vec<Known>,
    by_uid: HashMap<Box<str>, usize>,
    by_address: HashMap<Box<str>, usize>,
    by_container: HashMap<Box<str>, usize>,
    by_name: HashMap<Arc<str>, Vec<usize>>,
    others: HashMap<Entity, Arc<Value>>,
}

struct Known {
    entity: Entity,
    value: Arc<Value>,
    /// Which of two pods with the same address has it: one that is there, else the one that started last.
    rank: (bool, Option<Time>),
}

impl Directory {
    /// Somebody will ask.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Somebody tells what there is.
    pub(crate) fn promise(&self) {
        self.fed.store(true, Ordering::Relaxed);
    }

    /// Does somebody ask where nobody tells anything?
    pub fn is_idle(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.fed.load(Ordering::Relaxed)
    }

    /// The newest snapshot; an empty one before the first.
    pub fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a snapshot if one is wanted, would differ, and the last one is not too young.
    pub(crate) fn refresh(&self, cluster: &Cluster, clock: Time) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.version == cluster.objects.version() {
            return;
        }
        let start = Instant::now();
        if pace.not_before.is_some_and(|time| start < time) {
            return;
        }
        let snapshot = Arc::new(Snapshot::of(cluster, clock));
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        pace.version = cluster.objects.version();
        pace.not_before = Some(start + INTERVAL.max(start.elapsed() * SHARE));
    }
}

impl Snapshot {
    /// What the cluster has at event time `clock`.
    pub(crate) fn of(cluster: &Cluster, clock: Time) -> Self {
        let mut snapshot = Snapshot::default();
        let recent = |object: &&Object| object.deleted.is_none_or(|time| time + GRACE >= clock);
        for (entity, object) in cluster.objects.ever_of("Pod").filter(|(_, object)| recent(object))
        {
            snapshot.add(entity, object);
        }
        for kind in OTHERS {
            let objects = cluster.objects.ever_of(kind).filter(|(_, object)| recent(object));
            snapshot.others.extend(
                objects.map(|(entity, object)| (entity.clone(), Arc::clone(&object.value))),
            );
        }
        snapshot
    }

    fn add(&mut self, entity: &Entity, object: &Object) {
        let value = Arc::clone(&object.value);
        let started = Time::parse_rfc3339(text(&value, &["status", "startTime"]));
        let rank = (object.deleted.is_none(), started);
        let at_end = self.pods.len();
        let uid = text(&value, &["metadata", "uid"]);
        if !uid.is_empty() {
            self.by_uid.insert(uid.into(), at_end);
        }
        for id in containers(&value).map(container_id).filter(|id| !id.is_empty()) {
            self.by_container.insert(id.into(), at_end);
        }
        // All pods in the network of their node have its address.
        if boolean(&value, &["spec", "hostNetwork"]) != Some(true) {
            let addresses = list(&value, &["status", "podIPs"]).iter().map(|ip| text(ip, &["ip"]));
            for address in addresses.chain([text(&value, &["status", "podIP"])]) {
                let has_it = self.by_address.get(address).and_then(|i| self.pods.get(*i));
                if !address.is_empty() && has_it.is_none_or(|other| other.rank <= rank) {
                    self.by_address.insert(address.into(), at_end);
                }
            }
        }
        self.by_name.entry(Arc::clone(&entity.name)).or_default().push(at_end);
        self.pods.push(Known { entity: entity.clone(), value, rank });
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Is nothing known?
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<&Value> {
        self.pod(self.by_uid.get(uid))
    }

    pub(crate) fn by_address(&self, address: &str) -> Option<&Value> {
        self.pod(self.by_address.get(address))
    }

    pub(crate) fn by_container(&self, id: &str) -> Option<&Value> {
        self.pod(self.by_container.get(id))
    }

    /// The pod with this name, in this namespace if one is given, else the one that started last.
    pub(crate) fn by_name(&self, namespace: Option<&str>, name: &str) -> Option<&Value> {
        let pods = self.by_name.get(name)?.iter().filter_map(|i| self.pods.get(*i));
        pods.filter(|pod| namespace.is_none_or(|namespace| *pod.entity.namespace == *namespace))
            .max_by_key(|pod| pod.rank)
            .map(|pod| &*pod.value)
    }

    /// An owner of pods, a namespace or a node.
    pub(crate) fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.others.get(&Entity::new(kind, namespace, name)).map(|value| &**value)
    }

    fn pod(&self, index: Option<&usize>) -> Option<&Value> {
        self.pods.get(*index?).map(|pod| &*pod.value)
    }
}

/// The statuses of a pod's containers.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|key| list(pod, &["status", key]))
}

/// The id of a container without its runtime's prefix.
pub(crate) fn container_id(status: &Value) -> &str {
    let id = at(status, &["containerID"]).and_then(Value::as_str).unwrap_or_default();
    id.split_once("://").map_or(id, |(_, id)| id)
}
