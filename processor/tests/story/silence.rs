//! An entry that users asked steadily and ask no more: told where what leads to it was changed, and only there.

use serde_json::{Value, json};
use tapio_proto::{Request, Signal, model::Story};

use crate::{
    hostile::{SECOND, START, request, spans},
    played::play,
    standing::{text, value},
};

/// The second from which on nobody asks.
const LEFT: u64 = 320;

/// An object of namespace `shop` as the Collector's `k8sobjects` receiver tells it at this second.
fn object(at: u64, verb: &str, plural: &str, mut object: Value) -> Request {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object["metadata"]["namespace"] = json!("shop");
    object["metadata"]["uid"] = json!(format!("{plural}-{name}"));
    object["metadata"]["creationTimestamp"] = json!("2026-11-20T03:00:00Z");
    let record = json!({"observedTimeUnixNano": (START + at * SECOND).to_string(),
        "body": value(&json!({"type": verb, "object": object})),
        "attributes": [text("k8s.resource.name", plural), text("event.domain", "k8s"), text("event.name", &name)]});
    request(
        Signal::Logs,
        &json!({"resourceLogs": [{"resource": {"attributes": [text("k8s.namespace.name", "shop")]},
            "scopeLogs": [{"scope": {"name": "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/k8sobjectsreceiver"},
                "logRecords": [record]}]}]}),
    )
}

fn ingress(at: u64, verb: &str, service: &str) -> Request {
    let path =
        json!({"path": "/", "backend": {"service": {"name": service, "port": {"number": 80}}}});
    object(
        at,
        verb,
        "ingresses",
        json!({"kind": "Ingress", "metadata": {"name": "entry"},
        "spec": {"rules": [{"http": {"paths": [path]}}]}}),
    )
}

/// `web` and `mail` are asked five times a second; `web` no more from the 320th second on, at which the Ingress is
/// `changed`.
fn told(changed: Option<Request>, mail_goes_on: bool) -> Vec<Story> {
    let mut changed = changed;
    let mut seen = Vec::new();
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    seen.push(object(
        0,
        "ADDED",
        "deployments",
        json!({"kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "template": template, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}}),
    ));
    seen.push(object(
        0,
        "ADDED",
        "services",
        json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    ));
    seen.push(ingress(0, "ADDED", "web"));
    for second in 1..440 {
        let ends = || (0..5).map(|n| START + second * SECOND + n * SECOND / 5);
        if second == LEFT {
            seen.extend(changed.take());
        }
        if second < LEFT {
            seen.push(spans("web", ends(), 0));
        }
        if second < LEFT || mail_goes_on {
            seen.push(spans("mail", ends(), 0));
        }
        // What goes on, whoever asks.
        let told = json!({"timeUnixNano": (START + second * SECOND).to_string(), "severityNumber": 9,
            "body": {"stringValue": "tick"}});
        seen.push(request(
            Signal::Logs,
            &json!({"resourceLogs": [{"resource": {"attributes": [
            text("service.name", "clock")]}, "scopeLogs": [{"logRecords": [told]}]}]}),
        ));
    }
    let mut seen = seen.into_iter();
    play(|| seen.next()).stories.into_iter().map(|(story, _)| story).collect()
}

/// Guarantees: that requests no longer come is told with the change that keeps them away, also where with the entry
/// everything falls silent.
#[test]
fn what_keeps_users_away_is_told() {
    let elsewhere = ingress(LEFT, "MODIFIED", "old-web");
    let gone = ingress(LEFT, "DELETED", "web");
    for (change, mail_goes_on) in [(elsewhere, true), (gone, false)] {
        let stories = told(Some(change), mail_goes_on);
        let [story] = &stories[..] else { panic!("{stories:#?}") };
        let root = story.root_cause.as_ref().unwrap_or_else(|| panic!("{story:#?}"));
        assert_eq!(
            (root.kind.as_str(), root.name.as_str(), root.pattern.as_str()),
            ("Ingress", "entry", "requests_stopped"),
            "{story:#?}"
        );
        assert!(story.confidence >= 0.6, "{story:#?}");
        assert_eq!(story.affected.services, ["web"], "{story:#?}");
        let said = story.chain.iter().find(|link| link.what.contains("is asked no more"));
        assert!(said.is_some(), "{story:#?}");
    }
}

/// Guarantees: users who only go away are no story, nor is a recording that has a hole.
#[test]
fn users_who_go_away_are_no_story() {
    for mail_goes_on in [true, false] {
        let stories = told(None, mail_goes_on);
        assert!(stories.is_empty(), "{stories:#?}");
    }
}
