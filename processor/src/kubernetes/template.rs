//! A pod against what it was made from: what somebody wrote into it between.

use serde_json::Value;

use super::{
    objects::{Objects, controller, pod_template},
    value::{at, list, plain, text},
};

/// What a container runs with; all else may be filled in by the API server and by sidecars.
const TELLING: [&[&str]; 5] = [
    &["image"],
    &["command"],
    &["args"],
    &["resources", "limits", "cpu"],
    &["resources", "limits", "memory"],
];

/// Where a new pod differs from the template of the ReplicaSet or Job that made it, in words: these
/// templates never change, so it was an admission webhook or a LimitRange.
pub(super) fn rewritten(objects: &Objects, pod: &Value) -> Option<String> {
    let owner = controller(pod).filter(|owner| matches!(&*owner.kind, "ReplicaSet" | "Job"))?;
    let (_, wanted) = pod_template(&owner.kind, &objects.alive(&owner)?.value)?;
    let shown = |value: Option<&Value>| value.map_or("none".to_owned(), plain);
    let mut differ = Vec::new();
    for container in list(pod, &["spec", "containers"]) {
        let name = text(container, &["name"]);
        let mut of_template = list(wanted, &["containers"]).iter();
        let Some(was) = of_template.find(|c| text(c, &["name"]) == name) else { continue };
        for path in TELLING {
            let (was, now) = (at(was, path), at(container, path));
            if shown(was) != shown(now) {
                let path = path.join(".");
                differ.push(format!(
                    "{name} {path}: {} in its template, {}",
                    shown(was),
                    shown(now)
                ));
            }
        }
    }
    (!differ.is_empty()).then(|| differ.join("; "))
}

/// The node of a pod that the node's own network and volumes depend on, as its author says: on the
/// host's network, and never to be evicted.
pub(super) fn node_of_agent(pod: &Value) -> Option<&str> {
    let critical = text(pod, &["spec", "priorityClassName"]) == "system-node-critical"
        && super::value::boolean(pod, &["spec", "hostNetwork"]) == Some(true)
        && controller(pod).is_some_and(|owner| &*owner.kind == "DaemonSet");
    Some(text(pod, &["spec", "nodeName"])).filter(|node| critical && !node.is_empty())
}
