//! The keys of the `k8s_attributes` processor: the Collector's, with its defaults and its words.

use serde::Deserialize;
use tapio_proto::transport::GoDuration;

use crate::attributes::compile;

/// `processors: k8s_attributes:`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct K8sAttributesConfig {
    pub(super) auth_type: String,
    #[serde(rename = "context")]
    _context: String,
    /// Only `k8s.pod.ip` is added.
    pub passthrough: bool,
    pub(super) extract: ExtractConfig,
    pub(super) filter: FilterConfig,
    pub(super) pod_association: Vec<AssociationConfig>,
    pub(super) exclude: ExcludeConfig,
    pub(super) wait_for_metadata: bool,
    #[serde(rename = "wait_for_metadata_timeout")]
    _wait_for_metadata_timeout: GoDuration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExtractConfig {
    pub(super) metadata: Vec<String>,
    pub(super) annotations: Vec<FieldConfig>,
    pub(super) labels: Vec<FieldConfig>,
    pub(super) otel_annotations: bool,
    pub(super) deployment_name_from_replicaset: bool,
}

/// A label or an annotation to extract.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FieldConfig {
    pub(super) tag_name: String,
    pub(super) key: String,
    pub(super) key_regex: String,
    pub(super) from: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilterConfig {
    pub(super) node: String,
    pub(super) node_from_env_var: String,
    pub(super) namespace: String,
    pub(super) fields: Vec<ConditionConfig>,
    pub(super) labels: Vec<ConditionConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConditionConfig {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) op: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AssociationConfig {
    pub(super) sources: Vec<SourceConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SourceConfig {
    pub(super) from: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExcludeConfig {
    pub(super) pods: Vec<PodConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PodConfig {
    pub(super) name: String,
}

/// Most sources of one association.
const SOURCES: usize = 4;

const METADATA: [&str; 30] = [
    "container.id",
    "container.image.name",
    "container.image.repo_digests",
    "container.image.tag",
    "k8s.cluster.uid",
    "k8s.container.name",
    "k8s.cronjob.name",
    "k8s.cronjob.uid",
    "k8s.daemonset.name",
    "k8s.daemonset.uid",
    "k8s.deployment.name",
    "k8s.deployment.uid",
    "k8s.job.name",
    "k8s.job.uid",
    "k8s.namespace.name",
    "k8s.node.name",
    "k8s.node.uid",
    "k8s.pod.hostname",
    "k8s.pod.ip",
    "k8s.pod.name",
    "k8s.pod.start_time",
    "k8s.pod.uid",
    "k8s.replicaset.name",
    "k8s.replicaset.uid",
    "k8s.statefulset.name",
    "k8s.statefulset.uid",
    "service.instance.id",
    "service.name",
    "service.namespace",
    "service.version",
];

const DEFAULT_METADATA: [&str; 8] = [
    "container.image.name",
    "container.image.tag",
    "k8s.deployment.name",
    "k8s.namespace.name",
    "k8s.node.name",
    "k8s.pod.name",
    "k8s.pod.start_time",
    "k8s.pod.uid",
];

const FROM: [&str; 8] =
    ["", "pod", "namespace", "node", "deployment", "statefulset", "daemonset", "job"];

impl Default for K8sAttributesConfig {
    fn default() -> Self {
        K8sAttributesConfig {
            auth_type: "serviceAccount".into(),
            _context: String::new(),
            passthrough: false,
            extract: ExtractConfig::default(),
            filter: FilterConfig::default(),
            pod_association: Vec::new(),
            exclude: ExcludeConfig::default(),
            wait_for_metadata: false,
            _wait_for_metadata_timeout: GoDuration::from_secs(10),
        }
    }
}

impl Default for ExtractConfig {
    fn default() -> Self {
        ExtractConfig {
            metadata: DEFAULT_METADATA.map(str::to_owned).to_vec(),
            annotations: Vec::new(),
            labels: Vec::new(),
            otel_annotations: false,
            deployment_name_from_replicaset: false,
        }
    }
}

impl K8sAttributesConfig {
    /// Refuses what cannot work, in the Collector's words.
    pub fn check(&self) -> Result<(), String> {
        if !["none", "serviceAccount", "kubeConfig", "tls"].contains(&self.auth_type.as_str()) {
            return Err(format!("invalid authType for kubernetes: {}", self.auth_type));
        }
        self.filter.check()?;
        if self.pod_association.iter().any(|association| association.sources.len() > SOURCES) {
            return Err(format!("too many association sources. limit is {SOURCES}"));
        }
        for field in self.extract.labels.iter().chain(&self.extract.annotations) {
            field.check()?;
        }
        for field in &self.extract.metadata {
            if !METADATA.contains(&field.as_str()) {
                return Err(format!("{field:?} is not a supported metadata field"));
            }
        }
        for pod in &self.exclude.pods {
            compile(&pod.name)?;
        }
        Ok(())
    }

    /// What is configured and cannot be served: for one line at the start. `None` when all can.
    pub fn unserved(&self) -> Option<String> {
        let mut what = Vec::new();
        for association in &self.pod_association {
            let names = || association.sources.iter().map(|source| source.name.as_str());
            let served = association.sources.iter().any(|source| source.from == "connection")
                || names().any(|name| super::find::FINDS.contains(&name));
            if !served {
                what.push(format!(
                    "'pod_association' by {} (no way to a pod)",
                    names().collect::<Vec<_>>().join(", ")
                ));
            }
        }
        if self.wait_for_metadata {
            what.push("'wait_for_metadata' (objects come with the telemetry)".to_owned());
        }
        (!what.is_empty()).then(|| what.join(", "))
    }
}

impl FieldConfig {
    fn check(&self) -> Result<(), String> {
        let FieldConfig { key, key_regex, from, .. } = self;
        if !key.is_empty() && !key_regex.is_empty() {
            return Err(format!(
                "Out of Key or KeyRegex only one option is expected to be configured at a time, currently Key:{key} and KeyRegex:{key_regex}"
            ));
        }
        if !FROM.contains(&from.as_str()) {
            return Err(format!(
                "{from} is not a valid choice for From. Must be one of: pod, namespace, deployment, statefulset, daemonset, job, node"
            ));
        }
        compile(&format!("^(?:{key_regex})$")).map(drop)
    }
}

impl FilterConfig {
    fn check(&self) -> Result<(), String> {
        let variable = &self.node_from_env_var;
        if !variable.is_empty() && std::env::var_os(variable).is_none() {
            return Err(format!(
                "filter: `node_from_env_var` is configured but envvar {variable:?} is not set"
            ));
        }
        let ops = [
            (&self.labels, &["", "equals", "not-equals", "exists", "does-not-exist"][..]),
            (&self.fields, &["", "equals", "not-equals"][..]),
        ];
        for (conditions, known) in ops {
            for ConditionConfig { key, value, op } in conditions {
                if !known.contains(&op.as_str()) {
                    return Err(format!(
                        "'{op}' is not a valid label filter operation for key={key}, value={value}"
                    ));
                }
            }
        }
        Ok(())
    }
}
