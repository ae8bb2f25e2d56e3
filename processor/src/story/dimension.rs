//! The eight dimensions along which facts are tied to a story: each row of `evidence` names the one that
//! brought it there.

use tapio_proto::model::{Entity, Event};

use crate::correlation::hypotheses::Hypothesis;

/// How a fact belongs to a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// It fails against its own past, and when: onsets in order. `queries/symptoms_*.sql`
    Temporal,
    /// A known mechanism leads from it to what fails. `queries/hypotheses.sql`, `patterns/`
    Causal,
    /// It is on the same node. `correlation/suspects.rs` (`runs_on`)
    Spatial,
    /// It belongs to the workload: its pods and containers. `kubernetes/cluster.rs`
    Ownership,
    /// It fails with what it calls. `correlation/suspects.rs` (`calls`)
    Dependency,
    /// It is on the way between two: Services, routes, policies, names. `correlation/suspects.rs`
    Network,
    /// It was measured in requests put together by trace. `requests/`, `correlation/arises.rs`
    Trace,
    /// It is what somebody wrote: log lines by their template. `streaming/logs.rs`
    Semantic,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Dimension; 8] = [
        Dimension::Temporal,
        Dimension::Causal,
        Dimension::Spatial,
        Dimension::Ownership,
        Dimension::Dependency,
        Dimension::Network,
        Dimension::Trace,
        Dimension::Semantic,
    ];

    /// The word in the `evidence` table.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Temporal => "temporal",
            Dimension::Causal => "causal",
            Dimension::Spatial => "spatial",
            Dimension::Ownership => "ownership",
            Dimension::Dependency => "dependency",
            Dimension::Network => "network",
            Dimension::Trace => "trace",
            Dimension::Semantic => "semantic",
        }
    }

    /// Of a cause: the way it reaches the workload. What no mechanism explains is only near in time.
    pub(super) fn of_cause(cause: &Hypothesis) -> Self {
        match cause.relation.as_str() {
            _ if cause.pattern.is_empty() => Dimension::Temporal,
            "runs_on" => Dimension::Spatial,
            "owns" => Dimension::Ownership,
            "calls" => Dimension::Dependency,
            "selects" | "routes" | "filters" | "resolves" => Dimension::Network,
            _ => Dimension::Causal,
        }
    }

    /// Of a fact on a workload.
    pub(super) fn of_event(event: &Event, workload: &Entity) -> Self {
        let kind = event.entity_kind.as_str();
        match event.r#type.as_str() {
            "log.new" | "log.error" => Dimension::Semantic,
            "endpoints.empty" => Dimension::Network,
            _ if kind == "Node" => Dimension::Spatial,
            _ if matches!(kind, "Service" | "Ingress" | "NetworkPolicy") => Dimension::Network,
            _ if event.entity() == *workload => Dimension::Causal,
            _ => Dimension::Ownership,
        }
    }

    /// Of a failing service: that in front of the cause fails against its own past, others with what they
    /// call.
    pub(super) fn of_failure(service: &Entity, front: &Entity) -> Self {
        if service == front { Dimension::Temporal } else { Dimension::Dependency }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_dimension_is_in_the_list_of_the_architecture() {
        let text = include_str!("../../../ARCHITECTURE.md");
        for dimension in Dimension::ALL {
            let row = format!("| `{}` |", dimension.name());
            assert!(text.contains(&row), "{row}");
        }
    }
}
