//! What keeps containers from starting: images, volumes, ConfigMaps and Secrets that are not there.

use tapio_proto::model::Entity;

use super::{
    Finding,
    sick::{Sick, waits},
};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        links,
        value::{list, text},
    },
};

impl Cluster {
    /// A volume that cannot be mounted.
    pub(super) fn unmounted(&self, sick: &Sick<'_>) -> Option<Finding> {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let fails =
            ["failedmount", "mountvolume", "failedattachvolume", "unable to attach or mount"];
        if !says(&fails) {
            return None;
        }
        let denied = says(&["permission denied", "access denied", "operation not permitted"]);
        let pattern = if denied { "volume_mount_permission_denied" } else { "volume_mount_fails" };
        Some(self.found(sick, sick.workload.clone(), pattern, sick.around("mount")))
    }

    /// An image that cannot be pulled, and why.
    pub(super) fn image(&self, sick: &Sick<'_>) -> Option<Finding> {
        let says = |all: &[&str]| all.iter().any(|part| sick.said.contains(part));
        let fails = [
            "errimagepull",
            "imagepullbackoff",
            "failed to pull image",
            "invalidimagename",
            "errimageneverpull",
        ];
        if !says(&fails) {
            return None;
        }
        let wanted = list(sick.spec, &["imagePullSecrets"]);
        let namespace = &*sick.workload.namespace;
        let gone = wanted.iter().map(|s| Entity::new("Secret", namespace, text(s, &["name"])));
        let gone = gone.filter(|_| self.objects.of("Secret", namespace).next().is_some());
        let mut gone = gone.filter(|secret| !self.exists(secret));
        let (pattern, part) = if says(&["no such host", "server misbehaving", "name resolution"]) {
            ("image_registry_dns_failure", "lookup")
        } else if gone.next().is_some()
            || says(&[
                "unable to retrieve some image pull secrets",
                "unauthorized",
                "authentication required",
                "no basic auth",
                "403 forbidden",
                "401",
            ])
        {
            ("missing_image_pull_secret", "pull")
        } else if says(&["connection refused", "i/o timeout", "context deadline exceeded"]) {
            ("registry_unreachable", "pull")
        } else if says(&["toomanyrequests", "429"]) {
            ("registry_rate_limit", "pull")
        } else if says(&["exec format error", "no matching manifest", "no match for platform"]) {
            ("image_architecture", "manifest")
        } else if says(&[
            "x509",
            "certificate signed by unknown",
            "server gave http response to https",
        ]) {
            ("registry_not_trusted", "pull")
        } else {
            ("incorrect_image_reference", "image")
        };
        // The kubelet says why only where it tells of the pull itself.
        let tells = ["failed to pull image", "back-off pulling image"];
        let part = tells.into_iter().find(|tells| says(&[tells])).unwrap_or(part);
        let mut found = self.found(sick, sick.workload.clone(), pattern, sick.around(part));
        found.confidence = weights().standing.image;
        if says(&["errimageneverpull"]) {
            let (space, kind) = (namespace, sick.workload.kind.to_lowercase());
            found.advice = vec![
                format!(
                    "let the kubelet pull it: set imagePullPolicy to IfNotPresent: kubectl -n {space} edit {kind} {}",
                    sick.workload.name
                ),
                "or bring the image onto each node that may take the pod".to_owned(),
            ];
        }
        Some(found)
    }

    /// A ConfigMap or Secret that is referred to and is not there.
    pub(super) fn missing(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        for (kind, mark, pattern) in [
            ("Secret", "secret \"", "missing_secret_binding"),
            ("ConfigMap", "configmap \"", "missing_config_object"),
            // As the API server says it to a program that asks for one.
            ("Secret", "secrets \"", "missing_secret_binding"),
            ("ConfigMap", "configmaps \"", "missing_config_object"),
        ] {
            let mut rest = &*sick.said;
            while let Some(at) = rest.find(mark) {
                rest = &rest[at + mark.len()..];
                let Some((name, tail)) = rest.split_once('"') else { break };
                if tail.trim_start().starts_with("not found") {
                    let object =
                        Entity::new(kind, namespace, name.rsplit('/').next().unwrap_or(name));
                    let what = format!(
                        "{kind} {} does not exist, and {} needs it",
                        object.name,
                        sick.workload.path()
                    );
                    let mut found = self.found(sick, object, pattern, what);
                    found.confidence = weights().standing.missing;
                    return Some(found);
                }
            }
        }
        if sick.said.contains("couldn't find key") {
            let what = sick.around("couldn't find key");
            let mut object = sick.workload.clone();
            for kind in ["Secret", "ConfigMap"] {
                let of = what.split(&format!(" in {kind} ")).nth(1).unwrap_or_default();
                let path = of.split_whitespace().next().unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                if !name.is_empty() {
                    object = Entity::new(kind, namespace, name);
                }
            }
            return Some(self.found(sick, object, "missing_config_key", what));
        }
        // What no event says the references do.
        let stuck = sick.pods.iter().any(|(_, pod)| {
            waits(pod, "ContainerCreating") || waits(pod, "CreateContainerConfigError")
        });
        let object = self.objects.get(sick.workload)?;
        let gone = links::references(&sick.workload.kind, &object.value, namespace)
            .into_iter()
            .map(|(_, to)| to)
            .find(|to| {
                matches!(&*to.kind, "Secret" | "ConfigMap")
                    && self.objects.of(&to.kind, namespace).next().is_some()
                    && !self.exists(to)
            })?;
        stuck.then(|| {
            let pattern = if &*gone.kind == "Secret" {
                "missing_secret_binding"
            } else {
                "missing_config_object"
            };
            let what = format!(
                "{} {} does not exist, and {} needs it",
                gone.kind,
                gone.name,
                sick.workload.path()
            );
            self.found(sick, gone, pattern, what)
        })
    }
}
