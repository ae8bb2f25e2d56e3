//! What neither dies nor gets on: pods that are evicted for what they write themselves, containers that wait for what
//! does not exist, runs that never end.

use std::time::Duration;

use serde_json::Value;
use tapio_proto::model::{Entity, Time};

use super::{Finding, created, sick::Sick};
use crate::{
    correlation::weights::weights,
    kubernetes::{
        cluster::Cluster,
        objects::controller,
        value::{at, list, text},
    },
};

/// Evicted so long ago they are only left to be looked at.
const LATELY: Duration = Duration::from_secs(6 * 3600);
/// What waits so long does not wait for what is just starting.
const LONG: Duration = Duration::from_secs(300);
/// Words by which the kubelet says that a pod itself wrote too much.
const OWN_DISK: [&str; 3] =
    ["exceeds the limit", "exceeds the total limit", "local ephemeral storage usage exceeds"];
/// Programs that ask for another host.
const ASKS: [&str; 8] =
    ["nslookup", "getent hosts", "nc -z", "wait-for", "pg_isready", "curl", "wget", "dig "];

const HOUR: u64 = 3600;

impl Cluster {
    /// Its pods are evicted again and again, for what they write to disk themselves.
    pub(super) fn evicted(&self, sick: &Sick<'_>) -> Option<Finding> {
        let all = sick.gone.iter().chain(&sick.pods);
        let mut evicted: Vec<(Time, &Entity, &str)> = all
            .filter(|(_, pod)| text(pod, &["status", "reason"]) == "Evicted")
            .map(|(on, pod)| {
                (ended(pod).unwrap_or(sick.now), *on, text(pod, &["status", "message"]))
            })
            .filter(|(time, _, why)| {
                *time + LATELY > sick.now && OWN_DISK.iter().any(|words| why.contains(words))
            })
            .collect();
        evicted.sort();
        let ((since, ..), (time, on, why)) = (evicted.first()?, evicted.last()?);
        if evicted.len() < 2 {
            return None;
        }
        let what = format!(
            "{} of its pods were evicted, the last one {}: {}",
            evicted.len(),
            on.name,
            why.trim()
        );
        let mut found =
            self.found(sick, sick.workload.clone(), "ephemeral_storage_exceeded", what.clone());
        found.title = format!("{} is evicted again and again: {why}", sick.workload.path());
        found.mechanism =
            "logs, scratch files or an emptyDir volume of the pod grow over what it may use, and the kubelet ends it".to_owned();
        found.confidence = weights().standing.probe;
        found.since = *since;
        found.shown.push(super::Shown { time: *time, on: (*on).clone(), what });
        Some(found)
    }

    /// An init container that has run long, and whose command asks for a Service that does not exist.
    pub(super) fn waits_for(&self, sick: &Sick<'_>) -> Option<Finding> {
        let namespace = &*sick.workload.namespace;
        self.objects.of("Service", namespace).next()?;
        let waits = sick.pods.iter().find_map(|(_, pod)| {
            let mut all = list(pod, &["status", "initContainerStatuses"]).iter();
            let status = all.find(|status| {
                let since = text(status, &["state", "running", "startedAt"]);
                Time::parse_rfc3339(since).is_some_and(|since| since + LONG <= sick.now)
            })?;
            Some(text(status, &["name"]))
        })?;
        let container =
            list(sick.spec, &["initContainers"]).iter().find(|of| text(of, &["name"]) == waits)?;
        let words = ["command", "args"].into_iter().flat_map(|part| list(container, &[part]));
        let words: Vec<&str> = words.filter_map(Value::as_str).collect();
        let words = words.join(" ");
        if !ASKS.iter().any(|asks| words.contains(asks)) {
            return None;
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let gone = words.split(|c: char| !is_name(c)).find_map(|word| {
            let host = word.strip_suffix(".svc.cluster.local").or(word.strip_suffix(".svc"))?;
            let (name, space) = host.split_once('.')?;
            let service = Entity::new("Service", space, name);
            (self.has_namespace(space) && !self.exists(&service)).then_some(service)
        })?;
        let what = format!(
            "init container {waits} waits for Service {}/{}, which does not exist: {}",
            gone.namespace,
            gone.name,
            words.chars().take(160).collect::<String>()
        );
        let mut found = self.found(sick, gone.clone(), "init_container_fails", what);
        found.mechanism =
            "the other containers of a pod start when its init containers have ended".to_owned();
        found.advice = vec![
            format!(
                "see which Services there are, a name may be misspelt: kubectl -n {} get services",
                gone.namespace
            ),
            format!("bring Service {}/{} up, with what is behind it", gone.namespace, gone.name),
            format!(
                "or correct for what it waits: kubectl -n {namespace} edit {} {}",
                sick.workload.kind.to_lowercase(),
                sick.workload.name
            ),
        ];
        found.confidence = weights().standing.plain;
        Some(found)
    }

    /// A CronJob that lets no run begin beside another, and whose last run does not end.
    pub(super) fn endless(&self, sick: &Sick<'_>, value: &Value) -> Option<Finding> {
        if text(value, &["spec", "concurrencyPolicy"]) != "Forbid" {
            return None;
        }
        let between = interval(text(value, &["spec", "schedule"]))?;
        let jobs = self.objects.of("Job", &sick.workload.namespace);
        let (job, begun) = jobs
            .filter(|(_, object)| controller(&object.value).as_ref() == Some(sick.workload))
            .find_map(|(job, object)| {
                let ended = ["Complete", "Failed"].iter().any(|kind| {
                    list(&object.value, &["status", "conditions"])
                        .iter()
                        .any(|of| text(of, &["type"]) == *kind && text(of, &["status"]) == "True")
                });
                let begun = Time::parse_rfc3339(text(&object.value, &["status", "startTime"]))
                    .or_else(|| created(&object.value))?;
                (!ended && begun + between + between <= sick.now).then_some((job, begun))
            })?;
        let (space, name) = (&sick.workload.namespace, &sick.workload.name);
        let hours = sick.now.0.saturating_sub(begun.0) / 1_000_000_000 / HOUR as i64;
        let what = format!(
            "CronJob {name} is not run: its job {} has not ended for {hours} hours, and concurrencyPolicy Forbid lets no other begin",
            job.name
        );
        let mut found =
            self.found(sick, sick.workload.clone(), "F12_cron_job_missed", what.clone());
        found.title = what;
        found.mechanism =
            "of a CronJob with concurrencyPolicy Forbid no run begins while another is not done"
                .to_owned();
        found.advice = vec![
            format!("see at what it hangs: kubectl -n {space} logs job/{} --tail=50", job.name),
            format!(
                "end it, so that the next one begins: kubectl -n {space} delete job {}",
                job.name
            ),
            format!(
                r#"give its runs an end: kubectl -n {space} patch cronjob {name} -p '{{"spec":{{"jobTemplate":{{"spec":{{"activeDeadlineSeconds":...}}}}}}}}'"#
            ),
        ];
        (found.since, found.confidence) = (begun, weights().standing.probe);
        Some(found)
    }
}

/// When a pod that failed was told to end.
fn ended(pod: &Value) -> Option<Time> {
    let all = list(pod, &["status", "conditions"]).iter();
    let times = all.filter_map(|of| Time::parse_rfc3339(text(of, &["lastTransitionTime"])));
    times.max().or_else(|| {
        at(pod, &["status", "startTime"]).and_then(Value::as_str).and_then(Time::parse_rfc3339)
    })
}

/// The longest time between two runs of a schedule.
fn interval(schedule: &str) -> Option<Duration> {
    let day = 24 * HOUR;
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let every = |field: &str| field.strip_prefix("*/").and_then(|n| n.parse::<u64>().ok());
    let seconds = match fields.as_slice() {
        ["@hourly"] => HOUR,
        ["@daily" | "@midnight"] => day,
        ["@weekly"] => 7 * day,
        ["@monthly"] => 31 * day,
        [_, "*", "*", "*", "*"] => HOUR,
        [_, hour, "*", "*", "*"] => every(hour).map_or(day, |n| n.clamp(1, 24) * HOUR),
        [_, _, "*", "*", _] => 7 * day,
        [_, _, _, "*", _] => 31 * day,
        [_, _, _, _, _] => 366 * day,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}
