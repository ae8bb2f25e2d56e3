//! What a pod's objects say, as attributes; names and rules are the Collector's.

use std::collections::HashSet;

use regex::Regex;
use serde_json::Value;
use tapio_proto::edit::AttributeList;

use super::config::{ExtractConfig, FieldConfig};
use crate::{
    attributes::compile,
    kubernetes::{
        Snapshot,
        directory::{container_id, containers},
        value::{at, list, number, text},
    },
};

/// Attributes on their way to a resource.
pub(super) type Found = Vec<(String, String)>;

/// What to extract.
pub(super) struct Extract {
    metadata: HashSet<String>,
    fields: Vec<Rule>,
    deployment_name_from_replicaset: bool,
}

/// Labels or annotations of one kind of object.
struct Rule {
    from: &'static str,
    part: &'static str,
    tag_name: String,
    key: String,
    key_regex: Option<Regex>,
}

/// Kinds of objects that have labels, by the words of the configuration.
const KINDS: [(&str, &str); 6] = [
    ("namespace", "Namespace"),
    ("node", "Node"),
    ("deployment", "Deployment"),
    ("statefulset", "StatefulSet"),
    ("daemonset", "DaemonSet"),
    ("job", "Job"),
];

impl Extract {
    pub(super) fn new(config: &ExtractConfig) -> Result<Self, String> {
        let labels = config.labels.iter().map(|field| Rule::new("labels", field));
        let annotations = config.annotations.iter().map(|field| Rule::new("annotations", field));
        let mut fields = labels.chain(annotations).collect::<Result<Vec<_>, _>>()?;
        if config.otel_annotations {
            fields.push(Rule::new(
                "annotations",
                &FieldConfig {
                    tag_name: "$1".into(),
                    key_regex: r"resource\.opentelemetry\.io/(.+)".into(),
                    ..FieldConfig::default()
                },
            )?);
        }
        Ok(Extract {
            metadata: config.metadata.iter().cloned().collect(),
            fields,
            deployment_name_from_replicaset: config.deployment_name_from_replicaset,
        })
    }

    /// What a pod and its owners say.
    pub(super) fn pod(&self, pod: &Value, snapshot: &Snapshot, found: &mut Found) {
        let namespace = text(pod, &["metadata", "namespace"]);
        let mut service = text(pod, &["metadata", "name"]).to_owned();
        for (key, path) in [
            ("k8s.pod.name", &["metadata", "name"][..]),
            ("k8s.pod.uid", &["metadata", "uid"]),
            ("k8s.pod.hostname", &["spec", "hostname"]),
            ("k8s.pod.ip", &["status", "podIP"]),
            ("k8s.pod.start_time", &["metadata", "creationTimestamp"]),
            ("k8s.namespace.name", &["metadata", "namespace"]),
            ("service.namespace", &["metadata", "namespace"]),
            ("k8s.node.name", &["spec", "nodeName"]),
        ] {
            self.tell(key, text(pod, path), found);
        }
        for owner in list(pod, &["metadata", "ownerReferences"]) {
            let (name, uid) = (text(owner, &["name"]), text(owner, &["uid"]));
            let above = |kind: &str, of: &str| {
                let owners =
                    list(snapshot.object(kind, namespace, name)?, &["metadata", "ownerReferences"]);
                let owner = owners.iter().find(|owner| text(owner, &["kind"]) == of)?;
                Some((text(owner, &["name"]).to_owned(), text(owner, &["uid"]).to_owned()))
            };
            let kind = match text(owner, &["kind"]) {
                "ReplicaSet" => "replicaset",
                "DaemonSet" => "daemonset",
                "StatefulSet" => "statefulset",
                "Job" => "job",
                _ => continue,
            };
            self.tell(&format!("k8s.{kind}.name"), name, found);
            self.tell(&format!("k8s.{kind}.uid"), uid, found);
            name.clone_into(&mut service);
            let (top, above) = match kind {
                "replicaset" => {
                    let known = above("ReplicaSet", "Deployment");
                    let by_name = self.deployment_of(name, pod);
                    ("deployment", known.or_else(|| Some((by_name?, String::new()))))
                }
                "job" => {
                    let known = above("Job", "CronJob");
                    let by_name = || Some((scheduled(name)?.to_owned(), String::new()));
                    ("cronjob", known.or_else(by_name))
                }
                _ => continue,
            };
            if let Some((name, uid)) = above {
                self.tell(&format!("k8s.{top}.name"), &name, found);
                self.tell(&format!("k8s.{top}.uid"), &uid, found);
                service = name;
            }
        }
        let label = |key: &str| text(pod, &["metadata", "labels", key]);
        for key in ["app.kubernetes.io/name", "app.kubernetes.io/instance"] {
            if !label(key).is_empty() {
                label(key).clone_into(&mut service);
            }
        }
        self.tell("service.name", &service, found);
        self.tell("service.version", label("app.kubernetes.io/version"), found);
        let system = snapshot.object("Namespace", "", "kube-system");
        let cluster = system.map_or("", |namespace| text(namespace, &["metadata", "uid"]));
        self.tell("k8s.cluster.uid", cluster, found);
        self.labels("pod", pod, found);
    }

    /// Is the address of a pod asked for?
    pub(super) fn wants_address(&self) -> bool {
        self.metadata.contains("k8s.pod.ip")
    }

    /// What the objects around a resource say, found by names that the pod or the resource has.
    pub(super) fn around(
        &self,
        pod: Option<&Value>,
        attributes: &AttributeList<'_>,
        snapshot: &Snapshot,
        found: &mut Found,
    ) {
        let name = |key: &str, of_pod: &[&str], found: &Found| {
            let of_pod = pod.map_or("", |pod| text(pod, of_pod));
            let told = found.iter().find(|(told, _)| told == key).map(|(_, value)| value.as_str());
            let own = || told.or_else(|| attributes.text(key)).unwrap_or_default();
            if of_pod.is_empty() { own().to_owned() } else { of_pod.to_owned() }
        };
        let namespace = name("k8s.namespace.name", &["metadata", "namespace"], found);
        let node = name("k8s.node.name", &["spec", "nodeName"], found);
        self.tell("service.namespace", &namespace, found);
        if let (None, Some(set)) = (pod, attributes.text("k8s.replicaset.name")) {
            let deployment = self.deployment_of(set, &Value::Null).unwrap_or_default();
            self.tell("k8s.deployment.name", &deployment, found);
        }
        if let Some(node) = snapshot.object("Node", "", &node) {
            self.tell("k8s.node.uid", text(node, &["metadata", "uid"]), found);
        }
        for (from, kind) in KINDS {
            if !self.fields.iter().any(|rule| rule.from == from) {
                continue;
            }
            let object = match from {
                "namespace" => snapshot.object(kind, "", &namespace),
                "node" => snapshot.object(kind, "", &node),
                _ => {
                    let owner = pod
                        .and_then(|pod| owner(pod, kind, snapshot))
                        .unwrap_or_else(|| name(&format!("k8s.{from}.name"), &[], found));
                    snapshot.object(kind, &namespace, &owner)
                }
            };
            if let Some(object) = object {
                self.labels(from, object, found);
            }
        }
    }

    /// What a pod says of the container that a resource is, if that can be told. The last one is the
    /// digest of the image, which is a list.
    pub(super) fn container(
        &self,
        pod: &Value,
        attributes: &AttributeList<'_>,
        found: &mut Found,
    ) -> Option<String> {
        let wanted = ["container.", "k8s.container.", "service.version", "service.instance.id"];
        if !self.metadata.iter().any(|key| wanted.iter().any(|wanted| key.starts_with(wanted))) {
            return None;
        }
        let specs = || {
            ["containers", "initContainers"].into_iter().flat_map(|key| list(pod, &["spec", key]))
        };
        let given = |key| attributes.text(key).filter(|value: &&str| !value.is_empty());
        let name = match (given("k8s.container.name"), given("container.id")) {
            (Some(name), _) => name,
            (None, Some(id)) => {
                text(containers(pod).find(|status| container_id(status) == id)?, &["name"])
            }
            (None, None) => {
                let mut statuses = containers(pod).map(|status| text(status, &["name"]));
                match (statuses.next(), statuses.next()) {
                    (Some(only), None) => only,
                    _ => {
                        let mut specs = specs().map(|spec| text(spec, &["name"]));
                        specs.next().filter(|_| specs.next().is_none())?
                    }
                }
            }
        };
        let spec = specs().find(|spec| text(spec, &["name"]) == name);
        let status = containers(pod).find(|status| text(status, &["name"]) == name);
        spec.or(status)?;
        self.tell("k8s.container.name", name, found);
        if let Some(image) = spec.map(|spec| Image::of(text(spec, &["image"]))) {
            self.tell("container.image.name", image.name, found);
            if !image.name.is_empty() {
                self.tell("container.image.tag", image.tag.unwrap_or("latest"), found);
                self.tell("service.version", &image.version(), found);
            }
        }
        let instance =
            [text(pod, &["metadata", "namespace"]), text(pod, &["metadata", "name"]), name];
        self.tell("service.instance.id", &instance.join("."), found);
        let status = status?;
        let run = attributes.value("k8s.container.restart_count");
        if run.is_some_and(|run| run.as_int() != number(status, &["restartCount"])) {
            return None;
        }
        self.tell("container.id", container_id(status), found);
        let digests = self.metadata.contains("container.image.repo_digests");
        digests.then(|| canonical(text(status, &["imageID"]))).flatten()
    }

    fn tell(&self, key: &str, value: &str, found: &mut Found) {
        if !value.is_empty()
            && self.metadata.contains(key)
            && !found.iter().any(|(told, _)| told == key)
        {
            found.push((key.to_owned(), value.to_owned()));
        }
    }

    fn labels(&self, from: &str, object: &Value, found: &mut Found) {
        for rule in self.fields.iter().filter(|rule| rule.from == from) {
            rule.extract(object, found);
        }
    }

    /// The Deployment of a ReplicaSet that was never seen: its name without the hash that its pods carry.
    fn deployment_of(&self, set: &str, pod: &Value) -> Option<String> {
        let (name, hash) = set.rsplit_once('-')?;
        let carried = text(pod, &["metadata", "labels", "pod-template-hash"]);
        let generated = self.deployment_name_from_replicaset
            && hash.len() == 10
            && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (hash == carried || generated).then(|| name.to_owned())
    }
}

/// The name of the pod's owner of a kind, directly or through its ReplicaSet.
fn owner(pod: &Value, kind: &str, snapshot: &Snapshot) -> Option<String> {
    let of = |object: &Value, kind: &str| {
        let owners = list(object, &["metadata", "ownerReferences"]);
        let owner = owners.iter().find(|owner| text(owner, &["kind"]) == kind)?;
        Some(text(owner, &["name"]).to_owned())
    };
    of(pod, kind).or_else(|| {
        let set = of(pod, "ReplicaSet")?;
        let namespace = text(pod, &["metadata", "namespace"]);
        of(snapshot.object("ReplicaSet", namespace, &set)?, kind)
    })
}

/// The CronJob that a Job's name tells.
fn scheduled(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    (!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

impl Rule {
    fn new(part: &'static str, field: &FieldConfig) -> Result<Self, String> {
        let kinds = KINDS.iter().map(|(from, _)| *from);
        let key_regex = match field.key_regex.as_str() {
            "" => None,
            pattern => Some(compile(&format!("^(?:{pattern})$"))?),
        };
        Ok(Rule {
            from: kinds.chain(["pod"]).find(|from| *from == field.from).unwrap_or("pod"),
            part,
            tag_name: field.tag_name.clone(),
            key: field.key.clone(),
            key_regex,
        })
    }

    fn extract(&self, object: &Value, found: &mut Found) {
        let Some(fields) = at(object, &["metadata", self.part]).and_then(Value::as_object) else {
            return;
        };
        let mut put = |name: String, value: &str| {
            found.retain(|(told, _)| *told != name);
            found.push((name, value.to_owned()));
        };
        match &self.key_regex {
            None => {
                if let Some(value) = fields.get(&self.key).and_then(Value::as_str) {
                    let name = Some(&self.tag_name).filter(|name| !name.is_empty()).cloned();
                    put(name.unwrap_or_else(|| self.name_of(&self.key)), value);
                }
            }
            Some(pattern) => {
                for (key, value) in fields {
                    let value = value.as_str().unwrap_or_default();
                    let Some(groups) = pattern.captures(key).filter(|_| !value.is_empty()) else {
                        continue;
                    };
                    if groups.len() > 1 && !self.tag_name.is_empty() {
                        let mut name = String::new();
                        groups.expand(&self.tag_name, &mut name);
                        put(name, value);
                    } else {
                        put(self.name_of(key), value);
                    }
                }
            }
        }
    }

    /// `k8s.pod.labels.app`, `k8s.deployment.label.app`: of both generations, as the Collector has them.
    fn name_of(&self, key: &str) -> String {
        let part = match self.from {
            "pod" | "namespace" | "node" => self.part,
            _ => self.part.trim_end_matches('s'),
        };
        format!("k8s.{}.{part}.{key}", self.from)
    }
}

/// `registry:5000/shop/cart:1.2@sha256:...` in its parts.
struct Image<'a> {
    name: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Image<'a> {
    fn of(image: &'a str) -> Self {
        let (image, digest) = match image.split_once('@') {
            Some((image, digest)) => (image, Some(digest)),
            None => (image, None),
        };
        // A colon before the last slash is a port's.
        match image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => Image { name, tag: Some(tag), digest },
            None => Image { name: image, tag: None, digest },
        }
    }

    /// The version of what runs in it, as far as the image tells.
    fn version(&self) -> String {
        match (self.tag, self.digest) {
            (Some(tag), Some(digest)) => format!("{tag}@{digest}"),
            (one, other) => one.or(other).unwrap_or_default().to_owned(),
        }
    }
}

/// The image by its digest, with its registry; `None` if the id has no digest.
fn canonical(id: &str) -> Option<String> {
    let (name, digest) = id.split_once('@')?;
    let hex = digest.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) || name.contains("://")
    {
        return None;
    }
    Some(match name.split_once('/') {
        None => format!("docker.io/library/{name}@{digest}"),
        Some((first, _)) if !first.contains(['.', ':']) && first != "localhost" => {
            format!("docker.io/{name}@{digest}")
        }
        Some(_) => format!("{name}@{digest}"),
    })
}
