//! Autoscalers that do not see what they scale by.

use tapio_proto::model::{Entity, Time};

use super::{Finding, look_at};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        value::{list, text},
    },
};

impl Cluster {
    /// Autoscalers that are blind: while all is well nobody notices.
    pub(super) fn autoscalers(&self, now: Time, out: &mut Vec<Finding>) {
        for scaler in self.objects.of_kind("HorizontalPodAutoscaler") {
            let Some(value) = self.object(scaler) else { continue };
            let blind = list(value, &["status", "conditions"]).iter().find(|c| {
                text(c, &["type"]) == "ScalingActive"
                    && text(c, &["status"]) == "False"
                    && text(c, &["reason"]) != "ScalingDisabled"
            });
            let Some(blind) = blind else { continue };
            let of = |key: &str| text(value, &["spec", "scaleTargetRef", key]);
            let workload = Entity::new(of("kind"), &scaler.namespace, of("name"));
            let since = Time::parse_rfc3339(text(blind, &["lastTransitionTime"]));
            let what = format!(
                "autoscaler {} does not scale it: {}",
                scaler.name,
                text(blind, &["message"])
            );
            out.push(Finding {
                service: self.service_name(&workload),
                title: format!("{} would not grow with its load: {what}", workload.path()),
                workload,
                object: scaler.clone(),
                pattern: "autoscaler_blind".to_owned(),
                what,
                mechanism: "the autoscaler gets no metrics, so it does not scale".to_owned(),
                advice: vec![look_at(scaler)],
                confidence: weights().standing.blind,
                since: since.unwrap_or(now).min(now),
                ..Finding::default()
            });
        }
    }
}
