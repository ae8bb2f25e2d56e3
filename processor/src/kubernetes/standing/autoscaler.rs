//! Autoscalers that do not see what they scale by.

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, look_at};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{list, number, text},
    },
};

impl Cluster {
    /// Autoscalers that are blind, or at their end: while all is well nobody notices.
    pub(super) fn autoscalers(&self, now: Time, out: &mut Vec<Finding>) {
        for scaler in self.objects.of_kind("HorizontalPodAutoscaler") {
            let Some(value) = self.object(scaler) else { continue };
            let conditions = list(value, &["status", "conditions"]);
            let blind = conditions.iter().find(|c| {
                text(c, &["type"]) == "ScalingActive"
                    && text(c, &["status"]) == "False"
                    && text(c, &["reason"]) != "ScalingDisabled"
            });
            let limited = conditions.iter().find(|c| {
                text(c, &["type"]) == "ScalingLimited" && text(c, &["reason"]) == "TooManyReplicas"
            });
            let Some(told) = blind.or(limited.filter(|_| is_short(value))) else { continue };
            let of = |key: &str| text(value, &["spec", "scaleTargetRef", key]);
            let workload = Entity::new(of("kind"), &scaler.namespace, of("name"));
            let since = Time::parse_rfc3339(text(told, &["lastTransitionTime"]));
            let most = number(value, &["spec", "maxReplicas"]).unwrap_or(0);
            let (what, title, mechanism) = match blind {
                Some(blind) => (
                    format!(
                        "autoscaler {} does not scale it: {}",
                        scaler.name,
                        text(blind, &["message"])
                    ),
                    "would not grow with its load",
                    "the autoscaler gets no metrics, so it does not scale",
                ),
                None => (
                    format!(
                        "autoscaler {} is at its most, {most} replicas, and that is not enough",
                        scaler.name
                    ),
                    "cannot grow any further",
                    "its pods use more than the autoscaler aims at, and it may make no more of them",
                ),
            };
            let mut advice = if blind.is_some() { Vec::new() } else { vec![look_at(scaler)] };
            if blind.is_none() {
                advice.push(format!(
                    r#"let it have more: kubectl -n {} patch hpa {} -p '{{"spec":{{"maxReplicas":...}}}}'"#,
                    scaler.namespace, scaler.name
                ));
            }
            let w = &weights().standing;
            out.push(Finding {
                service: self.service_name(&workload),
                title: format!("{} {title}: {what}", workload.path()),
                workload,
                object: scaler.clone(),
                pattern: if blind.is_some() { "autoscaler_blind" } else { "autoscaler_at_max" }
                    .to_owned(),
                what,
                mechanism: mechanism.to_owned(),
                advice,
                confidence: if blind.is_some() { w.blind } else { w.zero },
                since: since.unwrap_or(now).min(now),
                ..Finding::default()
            });
        }
    }
}

/// Does an autoscaler see much more of a resource used than it aims at?
fn is_short(scaler: &Value) -> bool {
    let used = |name: &str| {
        let mut all = list(scaler, &["status", "currentMetrics"]).iter();
        let of = all.find(|of| text(of, &["resource", "name"]) == name)?;
        number(of, &["resource", "current", "averageUtilization"])
    };
    list(scaler, &["spec", "metrics"]).iter().any(|metric| {
        let aim = number(metric, &["resource", "target", "averageUtilization"]);
        let used = used(text(metric, &["resource", "name"]));
        aim.zip(used).is_some_and(|(aim, used)| used * 10 > aim * 12)
    })
}
