//! What failures happen to: an object of the cluster or a service, and how objects hang together.

use std::{fmt, sync::Arc};

use super::{row::table, time::Time};

/// A named thing: a Kubernetes object (`Deployment`, `Pod`, `ConfigMap`, `Node`, ...), a `Container`
/// of a workload, or a `Service`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entity {
    /// Kubernetes kind, in its own spelling.
    pub kind: Arc<str>,
    /// Empty for cluster-wide objects and for services that no cluster is known of.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Entity {
    /// A named thing.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Entity { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    /// `shop/inventory`, or the name alone where there is no namespace.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for Entity {
    /// `ConfigMap shop/inventory-pool`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path())
    }
}

/// How one thing bears on another. An edge points the way failure travels: from what carries to
/// what is carried, so `calls` goes from the callee to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relation {
    /// Deployment to ReplicaSet to Pod: the owner to what it owns.
    Owns,
    /// Node to the Pods on it.
    RunsOn,
    /// Pod or workload to the Service that selects it.
    Selects,
    /// ConfigMap to the workload that mounts it and so sees it change.
    UsesConfig,
    /// ConfigMap to the workload that reads it when a container starts, and not again.
    UsesConfigAtStart,
    /// Secret to the workload that mounts it and so sees it change.
    UsesSecret,
    /// Secret or ServiceAccount to the workload that reads it when a pod starts, and not again.
    UsesSecretAtStart,
    /// PersistentVolumeClaim to the workload that mounts it.
    Mounts,
    /// HorizontalPodAutoscaler to what it scales.
    Scales,
    /// ResourceQuota or LimitRange to the workloads of its namespace.
    Limits,
    /// Webhook configuration to the workloads about whose pods it is asked, and the Service behind it to it.
    Admits,
    /// RoleBinding or ClusterRoleBinding to the workload that runs as one of its subjects, and the role to it.
    Grants,
    /// NetworkPolicy to the workload whose pods it selects.
    Filters,
    /// Workload of a higher priority to the one whose pods it took the place of.
    Displaces,
    /// Workload to those on a node whose processors it takes.
    Crowds,
    /// The Service that resolves names to the workload whose pods ask it.
    Resolves,
    /// Service to Ingress or route.
    Routes,
    /// Callee service to caller service, seen in traces.
    Calls,
}

impl Relation {
    /// The word in the `topology` table.
    pub fn name(self) -> &'static str {
        match self {
            Relation::Owns => "owns",
            Relation::RunsOn => "runs_on",
            Relation::Selects => "selects",
            Relation::UsesConfig => "uses_config",
            Relation::UsesConfigAtStart => "uses_config_at_start",
            Relation::UsesSecret => "uses_secret",
            Relation::UsesSecretAtStart => "uses_secret_at_start",
            Relation::Mounts => "mounts",
            Relation::Scales => "scales",
            Relation::Limits => "limits",
            Relation::Admits => "admits",
            Relation::Grants => "grants",
            Relation::Displaces => "displaces",
            Relation::Crowds => "crowds",
            Relation::Filters => "filters",
            Relation::Resolves => "resolves",
            Relation::Routes => "routes",
            Relation::Calls => "calls",
        }
    }
}

table! { "topology" =>
    /// An edge and the time it was true.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Edge {
        /// See [`Relation`].
        pub relation: String,
        /// Kind of the carrying end.
        pub from_kind: String,
        /// Namespace of the carrying end.
        pub from_namespace: String,
        /// Name of the carrying end.
        pub from_name: String,
        /// Kind of the carried end.
        pub to_kind: String,
        /// Namespace of the carried end.
        pub to_namespace: String,
        /// Name of the carried end.
        pub to_name: String,
        /// First seen.
        pub valid_from: Time,
        /// Null while it is true.
        pub valid_to: Option<Time>,
    }
}
