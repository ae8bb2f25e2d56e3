//! The same incident under other names: whatever services call themselves and each other, it is one story.

use serde_json::{Value, json};
use tapio_proto::{
    Request, Signal, check,
    model::Story,
    wire::{Fields, Value as Wire, put_len_field},
};

use crate::{
    assert_root,
    hostile::{START, engine, request},
    played::{play, recording},
};

/// Copies a message with the attributes of the messages at `path` edited: another value, or none.
fn edited(message: &[u8], path: &[u32], edit: &dyn Fn(&str, &str) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in Fields::new(message).map(Result::unwrap) {
        let whole = &message[field.start..field.end];
        match (field.value, path) {
            (Wire::Len(pair), [number]) if field.number == *number => {
                let part = |message: &[u8], number| {
                    let mut fields = Fields::new(message).map(Result::unwrap);
                    fields.find_map(|f| match f.value {
                        Wire::Len(text) if f.number == number => Some(text.to_vec()),
                        _ => None,
                    })
                };
                let key = String::from_utf8(part(pair, 1).unwrap()).unwrap();
                let Some(text) = part(pair, 2).and_then(|value| part(&value, 1)) else {
                    out.extend_from_slice(whole);
                    continue;
                };
                let Some(text) = edit(&key, &String::from_utf8(text).unwrap()) else { continue };
                let (mut value, mut pair) = (Vec::new(), Vec::new());
                put_len_field(&mut value, 1, text.as_bytes());
                put_len_field(&mut pair, 1, key.as_bytes());
                put_len_field(&mut pair, 2, &value);
                put_len_field(&mut out, *number, &pair);
            }
            (Wire::Len(inner), [number, deeper @ ..]) if field.number == *number => {
                put_len_field(&mut out, *number, &edited(inner, deeper, edit));
            }
            _ => out.extend_from_slice(whole),
        }
    }
    out
}

const RESOURCE: &[u32] = &[1, 1, 1];
const SPAN: &[u32] = &[1, 2, 2, 9];

/// The one story of the recorded incident, with its spans edited.
fn told(path: &[u32], edit: &dyn Fn(&str, &str) -> Option<String>) -> Story {
    let mut recording = recording("pool-oom");
    let played = play(|| {
        let (_, request) = recording.next_request()?;
        if request.signal != Signal::Traces {
            return Some(request);
        }
        let bytes = edited(&request.bytes, path, edit);
        let items = check(Signal::Traces, &bytes).unwrap();
        Some(Request { bytes: bytes.into(), items, ..request })
    });
    let titles: Vec<_> = played.stories.iter().map(|(s, _)| s.title.clone()).collect();
    assert_eq!(titles.len(), 1, "{titles:?}");
    played.stories[0].0.clone()
}

const INSIDE: [&str; 7] =
    ["cart", "catalog", "checkout", "frontend", "inventory", "inventory-db", "payment"];

#[test]
fn services_that_are_called_otherwise_than_their_objects_are_the_same() {
    let story = told(RESOURCE, &|key, value| {
        let other = key == "service.name" && INSIDE.contains(&value);
        Some(if other { format!("x-{value}-service") } else { value.to_owned() })
    });
    let root = story.root_cause.as_ref().unwrap();
    let found = (root.name.as_str(), root.service.as_str(), root.pattern.as_str());
    assert_eq!(found, ("inventory-pool", "x-inventory-service", "config_change_memory_growth"));
    assert!(story.confidence >= 0.7, "{}", story.confidence);
    let affected =
        ["x-inventory-service", "x-catalog-service", "x-checkout-service", "x-frontend-service"];
    assert_eq!(story.affected.services, affected);
}

#[test]
fn addresses_in_full_are_the_same_services() {
    let story = told(SPAN, &|key, value| {
        let inside = key == "server.address" && INSIDE.contains(&value);
        Some(if inside { format!("{value}.shop.svc.cluster.local") } else { value.to_owned() })
    });
    assert_root(&story);
    assert_eq!(story.affected.services, ["inventory", "catalog", "checkout", "frontend"]);
}

#[test]
fn spans_that_name_no_object_are_tied_to_the_one_that_is_called_so() {
    let story = told(RESOURCE, &|key, value| {
        let tells = key.starts_with("k8s.") || key == "service.namespace" || key == "host.name";
        (!tells).then(|| value.to_owned())
    });
    assert_root(&story);
    assert_eq!(story.affected.services, ["inventory", "catalog", "checkout", "frontend"]);
}

const SECOND: u64 = 1_000_000_000;

/// Ten calls within this second of `front` in namespace `one` to `back` in namespace `two`.
fn calls(at: u64, address: &str, failed: bool, pairs: bool) -> Request {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let id = |call: u64, part: u64| format!("{:016x}", at * 1000 + call * 10 + part + 1);
    let span = |call: u64, part: u64, parent: u64, kind: u8| {
        let start = START + at * SECOND + call * SECOND / 10;
        let attributes = if kind == 3 { vec![text("server.address", address)] } else { vec![] };
        let parent = if parent == part { String::new() } else { id(call, parent) };
        json!({"traceId": format!("{:032x}", at * 1000 + call + 1), "spanId": id(call, part),
            "parentSpanId": parent, "name": "GET /", "kind": kind, "attributes": attributes,
            "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000_000).to_string(),
            "status": {"code": if failed { 2 } else { 0 }}})
    };
    let resource = |service: &str, namespace: &str, spans: Vec<Value>| {
        json!({"resource": {"attributes": [text("service.name", service), text("k8s.namespace.name", namespace)]},
            "scopeSpans": [{"spans": spans}]})
    };
    let front = (0..10).flat_map(|call| [span(call, 1, 1, 2), span(call, 2, 1, 3)]).collect();
    let mut spans = vec![resource("front", "one", front)];
    if pairs {
        spans.push(resource("back", "two", (0..10).map(|call| span(call, 3, 2, 2)).collect()));
    }
    request(Signal::Traces, &json!({ "resourceSpans": spans }))
}

/// Guarantees: a callee in another namespace is one service, by its name in full or by an address at which
/// it was seen to answer, without any object of the cluster and after it fell silent.
#[test]
fn a_call_into_another_namespace_is_to_the_service_there() {
    for address in ["back.two.svc.cluster.local", "back.two", "10.1.2.3"] {
        let mut engine = engine();
        for at in 0..60 {
            engine.ingest(&calls(at, address, false, true));
        }
        for at in 60..120 {
            engine.ingest(&calls(at, address, true, at < 90));
        }
        engine.finish();
        assert_eq!(engine.failures, (0, None));
        let stories = engine.stories().all();
        let titles: Vec<_> = stories.iter().map(|(s, _)| &s.title).collect();
        assert_eq!(titles.len(), 1, "{address}: {titles:?}");
        let story = stories[0].0;
        assert!(!story.title.contains(address), "{}", story.title);
        let affected: std::collections::BTreeSet<_> =
            story.affected.services.iter().map(String::as_str).collect();
        assert_eq!(affected, ["back", "front"].into(), "{address}");
        let back = story.chain.iter().find(|link| link.service == "back").unwrap();
        assert_eq!(back.namespace, "two");
    }
}

/// Guarantees: who fails beside a host that nothing here knows is not put down to it with confidence while
/// no object of the cluster is seen.
#[test]
fn a_host_is_not_blamed_for_sure_where_nothing_else_could_be_seen() {
    let mut engine = engine();
    for at in 0..120 {
        engine.ingest(&calls(at, "api.bank.example", at >= 60, false));
    }
    engine.finish();
    let stories = engine.stories().all();
    assert_eq!(stories.len(), 1);
    assert!(stories[0].0.confidence < 0.7, "{} {}", stories[0].0.confidence, stories[0].0.title);
    assert!(stories[0].0.title.contains("api.bank.example"), "{}", stories[0].0.title);
}
