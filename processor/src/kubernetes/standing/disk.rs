//! Whose disk is full: of a claim, of a volume of the pod, of the pod itself, or of the node.

use serde_json::Value;
use tapio_proto::model::Entity;

use super::{Finding, beneath, known, sick::Sick};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{at, boolean, list, plain, text},
    },
};

impl Cluster {
    /// Names the claim or the volume that has no room, by the path that is spoken of; where none is, the only
    /// claim that is mounted.
    pub(super) fn full(&self, sick: &Sick<'_>, found: &mut Finding) {
        let namespace = &*sick.workload.namespace;
        let specs = sick.pods.iter().filter_map(|(_, pod)| at(pod, &["spec"])).chain([sick.spec]);
        let specs: Vec<&Value> = specs.collect();
        let claim =
            |volume: &Value| text(volume, &["persistentVolumeClaim", "claimName"]).to_owned();
        let spoken = specs.iter().find_map(|spec| known::spoken_volume(spec, &found.what));
        let path = || {
            found.what.split(['"', '\'', ' ', '`']).find(|word| {
                word.len() > 1
                    && word.starts_with('/')
                    && word[1..].contains(|c: char| c.is_alphanumeric())
            })
        };
        let volume = match spoken {
            Some(volume) => Some(volume),
            None if path().is_some() => None,
            None => {
                let claims = specs.first().map(|spec| list(spec, &["volumes"])).unwrap_or_default();
                let mut claims = claims.iter().filter(|volume| !claim(volume).is_empty());
                let only = claims.next().filter(|_| claims.next().is_none());
                if only.is_some() {
                    found.confidence = found.confidence.min(weights().standing.probe);
                }
                only
            }
        };
        let Some(volume) = volume else {
            if let Some(path) = path() {
                let path = path.trim_end_matches([':', ',', ';']);
                found.mechanism =
                    format!("{path}, which is in no volume but on the disk of its node");
                let word = format!(
                    "see what fills it: kubectl -n {namespace} exec {}/{} -- df -h {path}; what is not to be lost belongs in a volume",
                    sick.workload.kind.to_lowercase(),
                    sick.workload.name
                );
                found.advice = vec![word];
            }
            return;
        };
        let name = claim(volume);
        if name.is_empty() {
            let of = text(volume, &["name"]);
            let Some(empty) = at(volume, &["emptyDir"]) else { return };
            let limit = at(empty, &["sizeLimit"]).map(plain);
            let limit = limit.map_or(String::new(), |limit| format!(" of at most {limit}"));
            let memory = if text(empty, &["medium"]) == "Memory" { ", in memory" } else { "" };
            found.mechanism = format!("its volume {of}, an emptyDir{limit}{memory}");
            found.advice = vec![format!(
                "raise its sizeLimit, or have it clean up: kubectl -n {namespace} edit {} {}",
                sick.workload.kind.to_lowercase(),
                sick.workload.name
            )];
            return;
        }
        let object = Entity::new("PersistentVolumeClaim", namespace, &name);
        let value = self.object(&object);
        let size = value.and_then(|of| at(of, &["status", "capacity", "storage"])).map(plain);
        let has = size.map_or(String::new(), |size| format!(" of {size}"));
        let class = value.map_or("", |of| text(of, &["spec", "storageClassName"]));
        let class = Entity::new("StorageClass", "", class);
        let grows =
            self.object(&class).map(|of| boolean(of, &["allowVolumeExpansion"]) == Some(true));
        found.mechanism = format!("claim {name}{has}");
        found.advice = vec![match grows {
            Some(false) => format!(
                "its class {} does not let it grow: free space, or move its data to a larger claim",
                class.name
            ),
            _ => format!(
                r#"give it more room: kubectl -n {namespace} patch pvc {name} -p '{{"spec":{{"resources":{{"requests":{{"storage":"..."}}}}}}}}'"#
            ),
        }];
        found.object = object;
    }

    /// Lays a disk that is full, and no volume's, to the node of the pod that has too little disk itself.
    pub(super) fn full_nodes(&self, all: &[Sick<'_>], out: &mut [Finding]) {
        let nodes: Vec<Finding> =
            out.iter().filter(|f| f.pattern == "node_disk_pressure").cloned().collect();
        let full = out.iter_mut().filter(|f| f.pattern == "disk_full" && f.object == f.workload);
        for found in full {
            let Some(sick) = all.iter().find(|sick| *sick.workload == found.workload) else {
                continue;
            };
            let on = |node: &&Finding| {
                let name = |pod: &Value| text(pod, &["spec", "nodeName"]) == &*node.object.name;
                sick.pods.iter().any(|(_, pod)| name(pod))
            };
            if let Some(node) = nodes.iter().find(on) {
                let what =
                    format!("{} has no room to write: {}", found.workload.path(), found.what);
                beneath::follows(found, node, what);
            }
        }
    }
}
