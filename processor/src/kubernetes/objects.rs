//! The latest state of each object, bounded in number and bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use tapio_proto::model::{Entity, Relation, Time};

use super::{
    latch::Latch,
    pod::Containers,
    value::{at, list, text},
};

/// An edge of the topology: how, from what carries, to what is carried.
pub(super) type Link = (Relation, Entity, Entity);

/// How much of the cluster is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most objects; a cluster of 5,000 pods has about 20,000 that matter.
    pub objects: usize,
    /// Most bytes of object state, as estimated from the values.
    pub bytes: usize,
}

impl Default for Limits {
    /// 20,000 objects, 128 MiB.
    fn default() -> Self {
        Limits { objects: 20_000, bytes: 128 << 20 }
    }
}

/// What is known of one object.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// The object as last seen, without what is large and tells nothing.
    pub(super) value: Arc<Value>,
    /// The controller that owns it, as its value says.
    pub(super) controller: Option<Entity>,
    /// When it was last seen.
    pub(super) seen: Time,
    /// When it was deleted; it is kept as long as there is room.
    pub(super) deleted: Option<Time>,
    /// The edges that hold because of it.
    pub(super) links: BTreeSet<Link>,
    /// States that were told.
    pub(super) latches: BTreeMap<String, Latch>,
    /// What was told of a Pod's containers.
    pub(super) containers: Containers,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Objects {
    map: BTreeMap<Entity, (Object, Place)>,
    /// Deleted ones first, then the one seen longest ago.
    order: BTreeSet<(bool, u64, Entity)>,
    /// The workloads that are there, by namespace.
    workloads: BTreeSet<(Arc<str>, Entity)>,
    limits: Limits,
    bytes: usize,
    turn: u64,
    pub(super) dropped: u64,
}

/// Where an object stands in the order, and what it weighs.
#[derive(Clone, Copy, Debug)]
struct Place {
    alive: bool,
    turn: u64,
    bytes: usize,
}

impl Objects {
    pub(super) fn new(limits: Limits) -> Self {
        Objects {
            map: BTreeMap::new(),
            order: BTreeSet::new(),
            workloads: BTreeSet::new(),
            limits,
            bytes: 0,
            turn: 0,
            dropped: 0,
        }
    }

    pub(super) fn get(&self, entity: &Entity) -> Option<&Object> {
        self.map.get(entity).map(|(object, _)| object)
    }

    pub(super) fn get_mut(&mut self, entity: &Entity) -> Option<&mut Object> {
        self.map.get_mut(entity).map(|(object, _)| object)
    }

    /// An object that is there and was not deleted.
    pub(super) fn alive(&self, entity: &Entity) -> Option<&Object> {
        self.get(entity).filter(|object| object.deleted.is_none())
    }

    /// Takes an object out, to be put back.
    pub(super) fn take(&mut self, entity: &Entity) -> Option<Object> {
        let (object, place) = self.map.remove(entity)?;
        self.bytes = self.bytes.saturating_sub(place.bytes);
        self.order.remove(&(place.alive, place.turn, entity.clone()));
        self.workloads.remove(&(entity.namespace.clone(), entity.clone()));
        Some(object)
    }

    /// Puts an object in as the latest, and forgets others where there is no room.
    pub(super) fn put(&mut self, entity: Entity, mut object: Object) {
        self.take(&entity);
        object.controller = controller(&object.value);
        self.turn += 1;
        let place = Place {
            alive: object.deleted.is_none(),
            turn: self.turn,
            bytes: weight(&object.value),
        };
        self.bytes += place.bytes;
        self.order.insert((place.alive, place.turn, entity.clone()));
        if place.alive && is_workload(&entity.kind, &object.value) {
            self.workloads.insert((entity.namespace.clone(), entity.clone()));
        }
        self.map.insert(entity, (object, place));
        while self.map.len() > self.limits.objects.max(1)
            || (self.bytes > self.limits.bytes && self.map.len() > 1)
        {
            let Some((_, _, oldest)) = self.order.first().cloned() else { return };
            self.take(&oldest);
            self.dropped += 1;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Another number after anything has changed.
    pub(super) fn version(&self) -> u64 {
        self.turn
    }

    /// The objects of a kind in all namespaces, also those that were deleted.
    pub(super) fn ever_of<'a>(
        &'a self,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a Entity, &'a Object)> {
        self.map
            .range(Entity::new(kind, "", "")..)
            .take_while(move |(entity, _)| *entity.kind == *kind)
            .map(|(entity, (object, _))| (entity, object))
    }

    /// The objects of a kind in a namespace that were not deleted, by name.
    pub(super) fn of<'a>(
        &'a self,
        kind: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Entity, &'a Object)> {
        self.map
            .range(Entity::new(kind, namespace, "")..)
            .take_while(move |(entity, _)| *entity.kind == *kind && *entity.namespace == *namespace)
            .map(|(entity, (object, _))| (entity, object))
            .filter(|(_, object)| object.deleted.is_none())
    }

    /// The objects of a kind in all namespaces that were not deleted, by namespace and name.
    pub(super) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Entity> {
        self.map
            .range(Entity::new(kind, "", "")..)
            .take_while(move |(entity, _)| *entity.kind == *kind)
            .filter(|(_, (object, _))| object.deleted.is_none())
            .map(|(entity, _)| entity)
    }

    /// The workloads that were not deleted, by namespace, kind and name.
    pub(super) fn all_workloads(&self) -> impl Iterator<Item = (&Entity, &Object)> {
        self.workloads.iter().filter_map(|(_, entity)| Some((entity, self.get(entity)?)))
    }

    /// The namespaces in which anything runs.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        let mut next = self.workloads.first().map(|(namespace, _)| namespace);
        std::iter::from_fn(move || {
            let namespace = next?;
            // The first of a later namespace: no kind sorts behind this one.
            let last = (namespace.clone(), Entity::new("\u{10ffff}", "", ""));
            next = self.workloads.range(last..).next().map(|(namespace, _)| namespace);
            Some(namespace)
        })
    }

    /// The workloads of a namespace that were not deleted, by kind and name.
    pub(super) fn workloads<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Entity, &'a Object)> {
        self.workloads
            .range((Arc::from(namespace), Entity::new("", "", ""))..)
            .take_while(move |(of, _)| **of == *namespace)
            .filter_map(|(_, entity)| Some((entity, self.get(entity)?)))
    }
}

/// The controller that owns an object.
pub(super) fn controller(value: &Value) -> Option<Entity> {
    let owner = list(value, &["metadata", "ownerReferences"])
        .iter()
        .find(|owner| super::value::boolean(owner, &["controller"]) == Some(true))?;
    Some(Entity::new(
        text(owner, &["kind"]),
        text(value, &["metadata", "namespace"]),
        text(owner, &["name"]),
    ))
}

/// The labels and the spec of the pods that an object makes (or is), if it makes any.
pub(super) fn pod_template<'a>(
    kind: &str,
    value: &'a Value,
) -> Option<(Option<&'a Value>, &'a Value)> {
    let template = match kind {
        "Pod" => value,
        "CronJob" => at(value, &["spec", "jobTemplate", "spec", "template"])?,
        _ => at(value, &["spec", "template"])?,
    };
    let spec = at(template, &["spec"])?;
    at(spec, &["containers"])?;
    Some((at(template, &["metadata", "labels"]), spec))
}

/// Is this the object that people write to run something: a pod template that no controller made?
pub(super) fn is_workload(kind: &str, value: &Value) -> bool {
    pod_template(kind, value).is_some() && controller(value).is_none()
}

/// About what a value takes in memory, in bytes.
fn weight(value: &Value) -> usize {
    const NODE: usize = 32;
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| NODE + key.len() + weight(value)).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(objects: &mut Objects, name: &str, deleted: Option<Time>) {
        let value = Arc::new(json!({"x": "y".repeat(100)}));
        let object = Object { value, deleted, ..Object::default() };
        objects.put(Entity::new("ConfigMap", "shop", name), object);
    }

    #[test]
    fn deleted_objects_go_first_then_the_oldest() {
        let mut objects = Objects::new(Limits { objects: 3, bytes: 1 << 20 });
        put(&mut objects, "a", None);
        put(&mut objects, "b", None);
        put(&mut objects, "c", Some(Time(1)));
        put(&mut objects, "d", None);
        let names = |objects: &Objects| {
            objects
                .of("ConfigMap", "shop")
                .map(|(entity, _)| entity.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&objects), ["a", "b", "d"]);
        put(&mut objects, "e", None);
        assert_eq!(
            (names(&objects), objects.dropped),
            (vec!["b".into(), "d".into(), "e".into()], 2)
        );
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut objects = Objects::new(Limits { objects: 100, bytes: 1000 });
        for name in 0..100 {
            put(&mut objects, &name.to_string(), None);
        }
        assert!(
            objects.bytes <= 1000 && objects.len() < 8,
            "{} bytes in {} objects",
            objects.bytes,
            objects.len()
        );
        assert_eq!(objects.dropped as usize, 100 - objects.len());
    }
}
