//! Jobs: of those that a CronJob made the newest says how it is.

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, Saying, created, sick::Sick, words};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        objects::controller,
        value::{list, number, text},
    },
};

impl Cluster {
    /// A CronJob that its controller does not run any more, since too many of its runs were missed.
    pub(super) fn missed(&self, sick: &Sick<'_>, value: &Value) -> Option<Finding> {
        let ran = Time::parse_rfc3339(text(value, &["status", "lastScheduleTime"]));
        let saying = sick.heard.iter().rev().find(|saying| {
            matches!(saying.reason.as_str(), "TooManyMissedTimes" | "FailedNeedsStart")
                && ran.is_none_or(|ran| saying.time > ran)
        })?;
        let (space, name) = (&sick.workload.namespace, &sick.workload.name);
        let what = format!("CronJob {name} is not run: {}", words::telling(&saying.message));
        let mut found = self.found(sick, sick.workload.clone(), "F12_cron_job_missed", what);
        found.title = found.what.clone();
        found.mechanism =
            "of a CronJob that missed more than a hundred runs since its last none is started any more".to_owned();
        found.advice.push(format!(
            r#"give it a time after which a missed run no longer counts: kubectl -n {space} patch cronjob {name} -p '{{"spec":{{"startingDeadlineSeconds":300}}}}'"#
        ));
        (found.since, found.confidence) = (ran.unwrap_or(saying.time), weights().standing.probe);
        Some(found)
    }

    /// Keeps of a Job or CronJob what belongs to its newest run; is that one not well?
    pub(super) fn run(&self, sick: &mut Sick<'_>) -> bool {
        let jobs = self.objects.of("Job", &sick.workload.namespace);
        let jobs = jobs.filter(|(job, object)| {
            *job == sick.workload || object.controller.as_ref() == Some(sick.workload)
        });
        let Some((job, object)) = jobs.max_by_key(|(_, object)| created(&object.value)) else {
            // It is not seen: its pods must tell.
            return true;
        };
        let conditions = list(&object.value, &["status", "conditions"]);
        let is = |kind: &str| {
            let mut all = conditions.iter();
            all.find(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
        };
        if is("Complete").is_some() || is("SuccessCriteriaMet").is_some() {
            return false;
        }
        sick.pods.retain(|(_, pod)| controller(pod).as_ref() == Some(job));
        let mine = |saying: &Saying| {
            saying.on == *job
                || saying.on == *sick.workload
                || sick.pods.iter().any(|(pod, _)| **pod == saying.on)
                || saying.kind.starts_with("log.") && &*saying.on.kind != "Pod"
        };
        let mut heard: Vec<Saying> = sick.heard.iter().filter(|s| mine(s)).cloned().collect();
        let failed = is("Failed");
        if let Some(failed) = failed {
            heard.push(gave_up(job, failed, sick.now));
        }
        sick.hear(heard);
        failed.is_some()
            || number(&object.value, &["status", "failed"]).unwrap_or(0) > 0
            || !sick.pods.is_empty()
    }
}

/// The Event that told of it may be gone.
fn gave_up(job: &Entity, failed: &Value, now: Time) -> Saying {
    Saying {
        on: job.clone(),
        kind: "k8s.event".to_owned(),
        reason: text(failed, &["reason"]).to_owned(),
        message: text(failed, &["message"]).to_owned(),
        container: String::new(),
        time: Time::parse_rfc3339(text(failed, &["lastTransitionTime"])).unwrap_or(now).min(now),
    }
}
