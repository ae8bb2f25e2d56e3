//! From a pod to what people wrote: by owner references, else by how controllers name things.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{objects::Objects, value::text};

/// Owners of owners; Pod, Job, CronJob is the deepest that Kubernetes makes, operators add some.
const MAX_DEPTH: usize = 6;
/// The letters of generated names: apimachinery `util/rand` SafeEncodeString.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The workload at the top of the owners of an object; the object itself when nothing owns it.
pub(super) fn top(objects: &Objects, entity: &Entity) -> Entity {
    let mut top = entity.clone();
    let object = objects.get(entity);
    let mut owner = match object {
        Some(object) => object.controller.clone(),
        None => from_name(objects, entity),
    };
    let value = object.map(|object| &*object.value);
    for _ in 0..MAX_DEPTH {
        let Some(next) = owner.take() else { break };
        owner = match objects.get(&next) {
            Some(object) => object.controller.clone(),
            None => from_template_hash(&next, value).or_else(|| from_name(objects, &next)),
        };
        top = next;
    }
    top
}

/// The Deployment of a ReplicaSet that was never seen: its name less the hash that its pods carry.
fn from_template_hash(replica_set: &Entity, pod: Option<&Value>) -> Option<Entity> {
    let hash = text(pod?, &["metadata", "labels", "pod-template-hash"]);
    let name = replica_set.name.strip_suffix(hash)?.strip_suffix('-')?;
    (&*replica_set.kind == "ReplicaSet" && !hash.is_empty())
        .then(|| Entity::new("Deployment", &replica_set.namespace, name))
}

/// The owner of an object that was never seen, as its name tells.
fn from_name(objects: &Objects, entity: &Entity) -> Option<Entity> {
    let (name, tail) = entity.name.rsplit_once('-')?;
    let safe = |part: &str| !part.is_empty() && part.bytes().all(|byte| SAFE.contains(&byte));
    let of = |kind: &str, name: &str| Entity::new(kind, &entity.namespace, name);
    let known =
        |kind: &str, name: &str| Some(of(kind, name)).filter(|owner| objects.get(owner).is_some());
    match &*entity.kind {
        "ReplicaSet" => known("Deployment", name)
            .or_else(|| (safe(tail) && tail.len() >= 6).then(|| of("Deployment", name))),
        "Job" => known("CronJob", name),
        "Pod" if safe(tail) && tail.len() == 5 => known("ReplicaSet", name)
            .or_else(|| known("DaemonSet", name))
            .or_else(|| known("Job", name))
            .or_else(|| {
                let (deployment, hash) = name.rsplit_once('-')?;
                let hashed = safe(hash) && (6..=10).contains(&hash.len());
                known("Deployment", deployment)
                    .or_else(|| hashed.then(|| of("Deployment", deployment)))
            }),
        "Pod" if tail.bytes().all(|byte| byte.is_ascii_digit()) => known("StatefulSet", name),
        _ => None,
    }
}
