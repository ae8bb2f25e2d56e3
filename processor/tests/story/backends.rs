//! Databases that send nothing themselves: who is blamed when those that ask one do badly.

use serde_json::{Value, json};
use tapio_proto::{Request, Signal, check, json::to_proto, model::Story};

use crate::played::play;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// 2026-11-22T03:00:00Z
const START: u64 = 1_795_316_400 * SECOND;

/// What a call to the database meets.
#[derive(Clone, Copy)]
enum Meets {
    Health,
    Late,
    Error,
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Requests to these services, four a second, each of which asks `db` once: what is met from the 75th second on.
fn told(then: &[(&str, Meets)]) -> Vec<Story> {
    let mut seen = Vec::new();
    for n in 0..4 * 150_u64 {
        let at = START + n * SECOND / 4;
        let spans: Vec<Value> = then
            .iter()
            .enumerate()
            .map(|(place, (service, then))| {
                let meets = if n < 4 * 75 { Meets::Health } else { *then };
                let ms = if matches!(meets, Meets::Late) { 900 } else { 5 };
                let status = json!({"code": if matches!(meets, Meets::Error) { 2 } else { 0 },
                    "message": "canceling statement due to statement timeout"});
                let id = |part: u64| format!("{:016x}", (n * 10 + place as u64) * 2 + part + 1);
                let span = |part: u64, parent: &str, kind: u8, own: u64, peer: Value| {
                    json!({"traceId": format!("{:032x}", n * 10 + place as u64 + 1), "spanId": id(part),
                        "parentSpanId": parent, "name": if kind == 2 { "GET /" } else { "SELECT" },
                        "kind": kind, "status": status, "attributes": peer,
                        "startTimeUnixNano": (at + own * MS).to_string(),
                        "endTimeUnixNano": (at + (ms + 4 - own + n % 3) * MS).to_string()})
                };
                let called = json!([text("db.system.name", "postgresql"), text("server.address", "db")]);
                json!({"resource": {"attributes": [text("service.name", service)]}, "scopeSpans": [{"spans": [
                    span(0, "", 2, 0, json!([])), span(1, &id(0), 3, 2, called)]}]})
            })
            .collect();
        let value = json!({"resourceSpans": spans});
        let bytes = to_proto(Signal::Traces, value.to_string().as_bytes()).unwrap();
        let items = check(Signal::Traces, &bytes).unwrap();
        seen.push(Request::new(Signal::Traces, bytes, items));
    }
    let mut seen = seen.into_iter();
    play(|| seen.next()).stories.into_iter().map(|(story, _)| story).collect()
}

fn blamed(stories: &[Story]) -> (&str, &str, f64) {
    let [story] = stories else { panic!("{stories:#?}") };
    let root = story.root_cause.as_ref().unwrap_or_else(|| panic!("{story:#?}"));
    (&root.name, &root.pattern, story.confidence)
}

/// Guarantees: a database that sends nothing is blamed where all that ask it wait for it, or are failed by it; less
/// surely where only one asks it, and not at all where it is well for another.
#[test]
fn a_database_is_judged_by_all_that_ask_it() {
    let stories = told(&[("shop", Meets::Late), ("bank", Meets::Late)]);
    let (name, pattern, confidence) = blamed(&stories);
    assert_eq!((name, pattern), ("db", "backend_slow"), "{stories:#?}");
    assert!(confidence >= 0.7, "{stories:#?}");

    let stories = told(&[("shop", Meets::Error), ("bank", Meets::Error)]);
    let (name, pattern, confidence) = blamed(&stories);
    assert_eq!((name, pattern), ("db", "backend_fails"), "{stories:#?}");
    assert!(confidence >= 0.7, "{stories:#?}");

    let stories = told(&[("shop", Meets::Error)]);
    let (name, pattern, confidence) = blamed(&stories);
    assert_eq!((name, pattern), ("db", "backend_fails"), "{stories:#?}");
    assert!(confidence < 0.6, "{stories:#?}");

    let stories = told(&[("shop", Meets::Late), ("bank", Meets::Health)]);
    let (name, pattern, confidence) = blamed(&stories);
    assert_eq!((name, pattern), ("shop", "slow_backend"), "{stories:#?}");
    assert!(confidence < 0.7, "{stories:#?}");

    let stories = told(&[("shop", Meets::Error), ("bank", Meets::Health)]);
    let blames = |story: &Story| story.root_cause.as_ref().is_some_and(|root| root.name == "db");
    assert!(!stories.iter().any(blames), "{stories:#?}");
}
