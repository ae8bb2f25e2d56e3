//! Names of attributes that Tapio reads and writes, and the values it can write.
//!
//! Sources: semantic-conventions 1.44 (`service.*`, `k8s.*`); `tapio.*` is our own namespace.

/// `service.name`
pub const SERVICE_NAME: &str = "service.name";
/// `service.namespace`
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// `k8s.namespace.name`
pub const K8S_NAMESPACE_NAME: &str = "k8s.namespace.name";
/// `k8s.pod.name`
pub const K8S_POD_NAME: &str = "k8s.pod.name";
/// `k8s.container.name`
pub const K8S_CONTAINER_NAME: &str = "k8s.container.name";
/// `k8s.node.name`
pub const K8S_NODE_NAME: &str = "k8s.node.name";
/// `k8s.deployment.name`
pub const K8S_DEPLOYMENT_NAME: &str = "k8s.deployment.name";
/// `k8s.statefulset.name`
pub const K8S_STATEFULSET_NAME: &str = "k8s.statefulset.name";
/// `k8s.daemonset.name`
pub const K8S_DAEMONSET_NAME: &str = "k8s.daemonset.name";

/// What the names of all attributes about a story begin with.
pub const STORY_PREFIX: &str = "tapio.story.";
/// Id of the story that a span or a log record belongs to.
pub const STORY_ID: &str = "tapio.story.id";
/// `cause`, `effect` or `symptom`.
pub const STORY_ROLE: &str = "tapio.story.role";
/// The story in one line.
pub const STORY_TITLE: &str = "tapio.story.title";
/// What broke first: `Deployment shop/cart`.
pub const STORY_ROOT_CAUSE: &str = "tapio.story.root_cause";
/// How sure the story is, 0 to 1 (double).
pub const STORY_CONFIDENCE: &str = "tapio.story.confidence";

/// A value of an attribute that is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `string_value`
    Text(&'a str),
    /// `int_value`
    Int(i64),
    /// `double_value`
    Double(f64),
    /// `bool_value`
    Bool(bool),
}
