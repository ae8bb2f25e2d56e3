//! Who is blamed: small clusters in which an object that everybody would suspect is innocent.

use serde_json::{Value, json};
use tapio_processor::{AnalysisConfig, story::Importance};
use tapio_proto::{
    Request, Signal, check,
    json::to_proto,
    model::{Story, Time},
};

use crate::played::play_with;

const SECOND: u64 = 1_000_000_000;
/// 2026-11-22T03:00:00Z
const START: u64 = 1_795_316_400 * SECOND;

/// A cluster of small services, and what is seen of it.
#[derive(Default)]
pub(crate) struct Shop {
    seen: Vec<(u64, Request)>,
    version: u32,
}

/// What one request to `front` meets.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Meets {
    Health,
    /// The service that is asked does not answer.
    Nobody,
    /// It answers with an error of its own.
    Error,
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn clock(second: u64) -> String {
    format!("2026-11-22T{:02}:{:02}:{:02}Z", 3 + second / 3600, second / 60 % 60, second % 60)
}

/// As the Collector writes an object into a log record's body.
fn body(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let values: Vec<Value> =
                fields.iter().map(|(k, v)| json!({"key": k, "value": body(v)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Array(values) => {
            json!({"arrayValue": {"values": values.iter().map(body).collect::<Vec<_>>()}})
        }
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(value) => json!({"intValue": value.to_string()}),
        Value::String(value) => json!({"stringValue": value}),
        Value::Null => json!({}),
    }
}

/// Where the users' requests come from.
const USERS: &str = "10.0.0.77";

impl Shop {
    fn add(&mut self, time: u64, signal: Signal, value: &Value) {
        let bytes = to_proto(signal, value.to_string().as_bytes()).unwrap();
        let items = check(signal, &bytes).unwrap();
        self.seen.push((time, Request::new(signal, bytes, items)));
    }

    /// An object at this second, written then by a person.
    pub(crate) fn object(&mut self, second: u64, verb: &str, kind: &str, name: &str, rest: &Value) {
        self.version += 1;
        let mut object = json!({"kind": kind, "metadata": {"name": name, "namespace": "shop",
            "uid": format!("{kind}-{name}"), "resourceVersion": self.version.to_string(),
            "creationTimestamp": "2026-11-01T00:00:00Z", "managedFields": [
                {"manager": "kubectl-edit", "time": clock(second), "fieldsV1": {"f:spec": {}, "f:data": {}}}]}});
        for (key, value) in rest.as_object().unwrap() {
            match value {
                Value::Object(fields) if key == "metadata" => {
                    fields.iter().for_each(|(key, value)| object["metadata"][key] = value.clone())
                }
                _ => object[key] = value.clone(),
            }
        }
        let time = START + second * SECOND;
        let record = json!({"observedTimeUnixNano": time.to_string(),
            "body": body(&json!({"type": verb, "object": object})),
            "attributes": [text("k8s.resource.name", &format!("{}s", kind.to_lowercase()))]});
        self.add(
            time,
            Signal::Logs,
            &json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}),
        );
    }

    fn deployment(&mut self, second: u64, name: &str, env: &str, labels: &Value) {
        self.deploy(second, name, "x:1", env, labels);
    }

    /// Another image for a Deployment.
    pub(crate) fn rollout(&mut self, second: u64, name: &str, image: &str) {
        self.deploy(second, name, image, "1", &json!({}));
    }

    fn deploy(&mut self, second: u64, name: &str, image: &str, env: &str, labels: &Value) {
        let verb = if second == 0 { "ADDED" } else { "MODIFIED" };
        let spec = json!({"metadata": {"labels": labels}, "spec": {"replicas": 1, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {
                "volumes": [{"name": "mounted", "configMap": {"name": "mounted"}}],
                "containers": [{"name": name, "image": image, "env": [{"name": "A", "value": env}],
                    "envFrom": [{"configMapRef": {"name": "variables"}}],
                    "volumeMounts": [{"name": "mounted", "mountPath": "/etc/mounted"}],
                    "resources": {"limits": {"memory": "100Mi"}}}]}}}});
        self.object(second, verb, "Deployment", name, &spec);
    }

    fn config(&mut self, second: u64, name: &str, value: &str, labels: &Value) {
        let verb = if second == 0 { "ADDED" } else { "MODIFIED" };
        let rest = json!({"metadata": {"labels": labels}, "data": {"size": value}});
        self.object(second, verb, "ConfigMap", name, &rest);
    }

    /// The pod of a Deployment, which died so often, the last time two seconds before, of this.
    fn pod(&mut self, second: u64, of: &str, deaths: u64, reason: &str) {
        let verb = if second == 0 { "ADDED" } else { "MODIFIED" };
        let mut status = json!({"name": of, "restartCount": deaths,
            "state": {"running": {"startedAt": clock(second)}}});
        if deaths > 0 {
            status["lastState"] = json!({"terminated": {"exitCode": 137, "reason": reason,
                "finishedAt": clock(second - 2), "containerID": format!("c{deaths}")}});
        }
        let rest = json!({"metadata": {"labels": {"app": of}, "ownerReferences": [
                {"kind": "ReplicaSet", "name": format!("{of}-5f4ddbf799"), "controller": true}]},
            "spec": {"containers": [{"name": of}]},
            "status": {"phase": "Running", "containerStatuses": [status]}});
        self.object(second, verb, "Pod", &format!("{of}-5f4ddbf799-ddmxg"), &rest);
    }

    /// These Deployments with their Services, pods and ConfigMaps, as they were found.
    pub(crate) fn found(names: &[&str]) -> Self {
        let mut shop = Shop::default();
        shop.config(0, "mounted", "1", &json!({}));
        shop.config(0, "variables", "1", &json!({}));
        for name in names {
            shop.deployment(0, name, "1", &json!({}));
            shop.object(0, "ADDED", "Service", name, &json!({"spec": {"selector": {"app": name}}}));
            shop.pod(0, name, 0, "");
        }
        shop
    }

    /// Ten requests in this second that users make of `front`, which asks `callee`.
    pub(crate) fn requests(&mut self, second: u64, callee: &str, meets: Meets) {
        for tenth in 0..10 {
            let end = START + second * SECOND + tenth * SECOND / 10;
            let span = |service: &str, kind: u8, peer: &str, failed: bool, late: u64| {
                let span = json!({"name": format!("GET /{callee}"), "kind": kind,
                    "attributes": [text("server.address", peer), text("client.address", USERS)],
                    "status": {"code": if failed { 2 } else { 0 }},
                    "startTimeUnixNano": (end - 2_000_000 - late).to_string(),
                    "endTimeUnixNano": (end + late).to_string()});
                let resource = json!({"attributes": [text("service.name", service),
                    text("k8s.namespace.name", "shop"), text("k8s.deployment.name", service)]});
                json!({"resource": resource, "scopeSpans": [{"spans": [span]}]})
            };
            let failed = meets != Meets::Health;
            let mut spans =
                vec![span("front", 2, "", failed, 1000), span("front", 3, callee, failed, 0)];
            if meets != Meets::Nobody && !callee.contains('.') {
                spans.push(span(callee, 2, "", meets == Meets::Error, 0));
            }
            self.add(end, Signal::Traces, &json!({"resourceSpans": spans}));
        }
    }

    /// A line that a service logs in this second, and what it keeps beside it as `error`.
    pub(crate) fn says(&mut self, second: u64, service: &str, line: &str, error: &str) {
        let time = START + second * SECOND;
        let record = json!({"timeUnixNano": time.to_string(), "severityNumber": 17,
            "body": {"stringValue": line}, "attributes": [text("error", error)]});
        let resource = json!({"attributes": [text("service.name", service),
            text("k8s.namespace.name", "shop"), text("k8s.deployment.name", service)]});
        let logs = json!([{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]);
        self.add(time, Signal::Logs, &json!({"resourceLogs": logs}));
    }

    /// A Deployment without spans of its own, from whose pod the users' requests come.
    pub(crate) fn users(&mut self, name: &str) {
        self.deployment(0, name, "1", &json!({}));
        let rest = json!({"metadata": {"ownerReferences": [
                {"kind": "ReplicaSet", "name": format!("{name}-5f4ddbf799"), "controller": true}]},
            "status": {"phase": "Running", "podIP": USERS}});
        self.object(0, "ADDED", "Pod", &format!("{name}-5f4ddbf799-zzzzz"), &rest);
    }

    /// A request to `front` in this second, which is well.
    pub(crate) fn beat(&mut self, second: u64) {
        let end = START + second * SECOND;
        let span = json!({"name": "GET /", "kind": 2, "startTimeUnixNano": (end - 1_000_000).to_string(),
            "endTimeUnixNano": end.to_string()});
        let resource = json!({"attributes": [text("service.name", "front"),
            text("k8s.namespace.name", "shop"), text("k8s.deployment.name", "front")]});
        let spans = json!([{"resource": resource, "scopeSpans": [{"spans": [span]}]}]);
        self.add(end, Signal::Traces, &json!({"resourceSpans": spans}));
    }

    /// The memory of the pod of a Deployment at this second, MiB.
    fn memory(&mut self, second: u64, of: &str, mib: u64) {
        let time = START + second * SECOND;
        let resource = json!({"attributes": [text("k8s.namespace.name", "shop"),
            text("k8s.pod.name", &format!("{of}-5f4ddbf799-ddmxg")), text("k8s.container.name", of)]});
        let point = json!({"timeUnixNano": time.to_string(), "asInt": (mib << 20).to_string()});
        let metric =
            json!({"name": "container.memory.working_set", "gauge": {"dataPoints": [point]}});
        self.add(
            time,
            Signal::Metrics,
            &json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}),
        );
    }

    /// A CronJob at this second, at which it ran.
    pub(crate) fn ran(&mut self, second: u64, name: &str, schedule: &str) {
        let rest = json!({"spec": {"schedule": schedule, "jobTemplate": {}},
            "status": {"lastScheduleTime": clock(second)}});
        self.object(second, "MODIFIED", "CronJob", name, &rest);
    }

    /// The stories that are told of it, by the time they opened.
    pub(crate) fn stories(self) -> Vec<Story> {
        self.stories_with(Importance::default())
    }

    /// The same where services promise this, and are worth that.
    pub(crate) fn stories_with(mut self, importance: Importance) -> Vec<Story> {
        let config = AnalysisConfig { importance, ..AnalysisConfig::default() };
        self.seen.sort_by_key(|(time, _)| *time);
        let mut seen = self.seen.into_iter();
        play_with(&config, || seen.next().map(|(_, request)| request))
            .stories
            .into_iter()
            .map(|(s, _)| s)
            .collect()
    }
}

fn root(story: &Story) -> String {
    let root = story.root_cause.as_ref();
    root.map_or_else(String::new, |root| format!("{} {}", root.kind, root.name))
}

fn second_of(time: Time) -> u64 {
    (u64::try_from(time.0).unwrap() - START) / SECOND
}

/// Guarantees: what was broken, was put right and is well is not blamed when something else breaks,
/// neither in a caller nor in the same service.
#[test]
fn a_failure_that_healed_is_not_blamed_for_a_new_one() {
    for callers_own in [true, false] {
        let mut shop = Shop::found(&["front", "a"]);
        shop.deployment(60, "a", "broken", &json!({}));
        for death in 1..5 {
            shop.pod(63 + 8 * death, "a", death, "OOMKilled");
        }
        shop.deployment(100, "a", "1", &json!({}));
        for second in 1..240 {
            let meets = match second {
                64..102 => Meets::Nobody,
                190.. if !callers_own => Meets::Error,
                _ => Meets::Health,
            };
            if callers_own && second >= 190 {
                // A handler of its own fails in the caller; `a` is not even asked.
                shop.requests(second, "elsewhere.example", Meets::Nobody);
            } else {
                shop.requests(second, "a", meets);
            }
        }
        let stories = shop.stories();
        assert_eq!(root(&stories[0]), "Deployment a", "{stories:?}");
        let late: Vec<&Story> = stories.iter().filter(|s| second_of(s.opened) >= 190).collect();
        assert!(!late.is_empty(), "nothing is told of what fails at last");
        for story in late {
            assert!(root(story).is_empty() || story.confidence < 0.7, "{story:?}");
        }
    }
}

/// Guarantees: a ConfigMap that containers read only when they start cannot break one that did not
/// start since, and its death does not make it guilty; one that is mounted can, but that it was edited
/// before the first death is not enough to be sure.
#[test]
fn an_ordinary_edit_before_a_death_convicts_nobody() {
    for name in ["variables", "mounted"] {
        let mut shop = Shop::found(&["front", "a"]);
        shop.config(60, name, "2", &json!({}));
        for death in 1..6 {
            shop.pod(80 + 12 * death, "a", death, "OOMKilled");
        }
        for second in 1..160 {
            let meets = if second >= 90 { Meets::Nobody } else { Meets::Health };
            shop.requests(second, "a", meets);
        }
        let stories = shop.stories();
        assert!(!stories.is_empty());
        for story in &stories {
            let named = story.hypotheses.iter().any(|h| h.name == name);
            assert!(!named || (name == "mounted" && story.confidence < 0.7), "{story:?}");
        }
    }
}

/// Guarantees: memory that begins to grow with an edit is the edit's doing; memory that grew before
/// is not, and began when it began.
#[test]
fn memory_that_grew_before_an_edit_is_not_its_effect() {
    for (edited, guilty) in [(100, true), (140, false)] {
        let mut shop = Shop::found(&["front", "a"]);
        shop.config(edited, "mounted", "2", &json!({}));
        for second in (5..200).step_by(5) {
            let grown: u64 = match second {
                0..103 => 0,
                103..150 => (second - 100) * 3 / 2,
                _ => (second - 150) % 12 * 6,
            };
            shop.memory(second, "a", 25 + grown - grown.min(second % 3));
        }
        for death in 1..5 {
            shop.pod(140 + 12 * death, "a", death, "OOMKilled");
        }
        for second in 1..200 {
            let meets = if second >= 150 { Meets::Nobody } else { Meets::Health };
            shop.requests(second, "a", meets);
        }
        let stories = shop.stories();
        let story = stories.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        let cause = story.root_cause.as_ref().unwrap();
        if guilty {
            assert_eq!(root(story), "ConfigMap mounted", "{story:?}");
            assert!(story.confidence >= 0.7, "{story:?}");
        } else {
            assert_eq!((&*cause.name, &*cause.pattern), ("a", "memory_leak"), "{story:?}");
            assert!((100..=110).contains(&second_of(cause.time)), "{story:?}");
        }
    }
}

/// Guarantees: a label that somebody wrote, and an edit long before, do not hide the host outside that
/// does not answer.
#[test]
fn an_edit_that_tells_the_program_nothing_is_not_blamed() {
    let mut shop = Shop::found(&["front"]);
    shop.deployment(50, "front", "1", &json!({"team": "payments"}));
    for second in 1..140 {
        let meets = if second >= 80 { Meets::Nobody } else { Meets::Health };
        shop.requests(second, "api.bank.com", meets);
    }
    let stories = shop.stories();
    let [story] = &stories[..] else { panic!("{stories:?}") };
    assert!(story.title.contains("api.bank.com") && root(story).is_empty(), "{story:?}");
    assert_eq!(story.hypotheses, []);
}

/// Guarantees: two Deployments that break one after the other by their own changes are two stories,
/// though the same users meet both; what nobody could suspect is not held against them.
#[test]
fn two_incidents_below_one_caller_are_two_stories() {
    let mut shop = Shop::found(&["front", "a", "b"]);
    let broken = [("a", 60), ("b", 180)];
    for (name, at) in broken {
        shop.config(at - 20, "mounted", "1", &json!({"seen": name}));
        shop.deployment(at, name, "broken", &json!({}));
        for death in 1..16 {
            shop.pod(at + 8 * death, name, death, "Error");
        }
    }
    for second in 1..290 {
        for (name, at) in broken {
            let meets = if second >= at + 8 { Meets::Nobody } else { Meets::Health };
            shop.requests(second, name, meets);
        }
    }
    let stories = shop.stories();
    let roots: Vec<String> = stories.iter().map(root).collect();
    assert_eq!(roots, ["Deployment a", "Deployment b"], "{stories:?}");
    assert!(stories[0].affected.services.contains(&"front".to_owned()));
    for story in &stories {
        let alone = story.reasons.iter().any(|r| r.starts_with("nothing else that"));
        assert!(alone, "{:?}", story.reasons);
    }
}

/// Guarantees: some seconds of errors, as any rollout has them, are no story.
#[test]
fn a_blip_is_no_story() {
    let mut shop = Shop::found(&["front", "a"]);
    for second in 1..160 {
        let meets = if (80..88).contains(&second) { Meets::Error } else { Meets::Health };
        shop.requests(second, "a", meets);
    }
    let stories = shop.stories();
    assert!(stories.is_empty(), "{stories:?}");
}
