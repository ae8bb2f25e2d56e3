//! Who answers for a Service, over all its EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;
use tapio_proto::model::{Entity, Severity};

use super::{
    latch::Turn,
    objects::Objects,
    value::{boolean, list, text},
};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service of a slice.
pub(super) fn service_of(namespace: &str, slice: &Value) -> Option<Entity> {
    let name = text(slice, &["metadata", "labels", SERVICE_NAME]);
    (!name.is_empty()).then(|| Entity::new("Service", namespace, name))
}

/// Endpoints of a Service, by pod: a pod in an IPv4 and an IPv6 slice counts once.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) ready: usize,
    pub(super) not_ready: usize,
}

/// Counts the endpoints of a Service over the slices that are there.
pub(super) fn count(objects: &Objects, service: &Entity) -> Count {
    let (mut ready, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (_, slice) in objects.of("EndpointSlice", &service.namespace) {
        if text(&slice.value, &["metadata", "labels", SERVICE_NAME]) != &*service.name {
            continue;
        }
        for endpoint in list(&slice.value, &["endpoints"]) {
            let pod = text(endpoint, &["targetRef", "name"]);
            let first =
                list(endpoint, &["addresses"]).first().and_then(Value::as_str).unwrap_or("");
            let who = if pod.is_empty() { first } else { pod };
            // "A nil value should be interpreted as true": discovery.k8s.io/v1 EndpointConditions. A pod
            // that is being stopped is none that could become ready.
            match boolean(endpoint, &["conditions", "ready"]) {
                Some(false) if boolean(endpoint, &["conditions", "terminating"]) == Some(true) => {
                    false
                }
                Some(false) => others.insert(who),
                Some(true) | None => ready.insert(who),
            };
        }
    }
    Count { not_ready: others.difference(&ready).count(), ready: ready.len() }
}

impl Count {
    /// What a turn of a Service's last endpoint is called.
    pub(super) fn fact(turn: Turn) -> Option<(&'static str, Severity)> {
        match turn {
            Turn::Broke => Some(("endpoints.empty", Severity::Error)),
            Turn::Recovered => Some(("endpoints.ready", Severity::Info)),
            Turn::None | Turn::Born => None,
        }
    }

    /// Whether pods exist and are not ready, or there are none at all.
    pub(super) fn sentence(&self) -> String {
        match (self.ready, self.not_ready) {
            (0, 0) => "no pod is behind the service".to_owned(),
            (0, 1) => "1 pod is behind the service and is not ready".to_owned(),
            (0, others) => format!("{others} pods are behind the service and none is ready"),
            (1, _) => "1 pod is ready".to_owned(),
            (ready, _) => format!("{ready} pods are ready"),
        }
    }
}
