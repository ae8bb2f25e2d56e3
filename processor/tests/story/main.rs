//! A real incident through the engine: the story it tells, that it tells it again however the requests
//! are cut, what leaves of it, and what of it passing telemetry carries. And a real minute of health.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod backends;
mod blamed;
mod hostile;
mod identity;
mod impact;
mod live;
mod measured;
mod metrics;
mod passed_on;
mod played;
mod prompt;
mod real;
mod recovery;
mod released;
mod sent;
mod silence;
mod standing;
mod times;

use tapio_processor::{AnalysisConfig, Telling, story::text};
use tapio_proto::{
    Request, Signal,
    model::{Evidence, Story, StoryState},
};

use played::{INCIDENT, Played, play, play_with, recording, resources, whole};

/// The recorded incident as everybody who tells it must tell it.
pub(crate) fn assert_root(story: &Story) {
    let root = story.root_cause.as_ref().unwrap();
    assert_eq!(
        (root.kind.as_str(), root.namespace.as_str(), root.name.as_str()),
        ("ConfigMap", "shop", "inventory-pool")
    );
    assert_eq!(
        (root.service.as_str(), root.pattern.as_str()),
        ("inventory", "config_change_memory_growth")
    );
    assert!(story.confidence >= 0.7, "{}", story.confidence);
}

fn only(stories: &[(Story, Vec<Evidence>)]) -> (&Story, &[Evidence]) {
    let [(story, evidence)] = stories else {
        panic!("{:?}", stories.iter().map(|(s, _)| &s.title).collect::<Vec<_>>())
    };
    (story, evidence)
}

/// Guarantees: one story, with the guilty object, the mechanism, the chain in the order in which the
/// failure travelled, who is touched, and a command that undoes it.
#[test]
fn the_configmap_change_that_ends_in_oom_kills_is_told() {
    let (story, evidence) = only(&INCIDENT.stories);
    assert_root(story);
    let root = story.root_cause.as_ref().unwrap();
    assert!(root.change.as_ref().unwrap().contains("max_connections 8 -> 200"));
    let delay = story.opened.seconds_since(root.time);
    assert!(delay > 0.0 && delay < 60.0, "told {delay} s after the change");
    let chain: Vec<&str> = story.chain.iter().map(|link| link.name.as_str()).collect();
    let first = |name: &str| {
        chain.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name} in {chain:?}"))
    };
    assert_eq!((first("inventory-pool"), first("inventory")), (0, 1), "{chain:?}");
    assert!(first("inventory") < first("catalog") && first("inventory") < first("checkout"));
    assert_eq!(first("frontend"), chain.len() - 1, "what users meet comes last: {chain:?}");
    assert_eq!(story.affected.services, ["inventory", "catalog", "checkout", "frontend"]);
    assert!(story.recommendations[0].contains("kubectl -n shop patch configmap inventory-pool"));
    assert!(evidence.iter().any(|e| e.what.contains("OOMKilled") && e.times == 4));
    assert!(evidence.iter().all(|e| e.story_id == story.id));
    let dimension = |what: &str| {
        let fact = evidence.iter().find(|e| e.what.contains(what));
        fact.map(|fact| (fact.role.as_str(), fact.dimension.as_str()))
    };
    assert_eq!(dimension("ConfigMap shop/inventory-pool"), Some(("cause", "causal")));
    assert_eq!(dimension("OOMKilled"), Some(("effect", "ownership")));
    let failing = |name: &str| {
        let fact = evidence.iter().find(|e| e.role == "symptom" && e.entity_name == name);
        fact.map(|fact| fact.dimension.as_str())
    };
    assert_eq!((failing("inventory"), failing("frontend")), (Some("temporal"), Some("dependency")));
    let text = text::render(story, evidence, story.opened, 0.7);
    let perhaps =
        |threshold| text::render(story, evidence, story.opened, threshold).contains("Perhaps: ");
    assert_eq!((perhaps(0.7), perhaps(0.99)), (false, true), "at {}", story.confidence);
    assert!(text.lines().count() <= 30, "{text}");
    let command = |line: &&str| line.contains("kubectl");
    assert!(
        text.lines().filter(|line| !command(line)).all(|line| line.chars().count() <= 110),
        "{text}"
    );
}

/// Guarantees: while it goes on it is told in order, under one id, and never below the confidence of a story.
#[test]
fn it_opens_once_and_keeps_its_name() {
    let names: Vec<&str> = INCIDENT.tellings.iter().map(Telling::name).collect();
    assert_eq!(names[0], "opened");
    assert!(names[1..].iter().all(|name| *name == "updated"), "{names:?}");
    let (story, _) = only(&INCIDENT.stories);
    assert_eq!(
        story.state,
        StoryState::Open,
        "the recording ends 28 s after the change was undone"
    );
    for telling in &INCIDENT.tellings {
        assert_eq!(telling.story().0.id, story.id);
        assert_root(telling.story().0);
    }
}

/// Guarantees: the same input is the same output, to the byte.
#[test]
fn the_same_recording_is_told_in_the_same_words() {
    let told = |tellings: &[Telling]| -> Vec<String> {
        let words = tellings.iter().map(|telling| {
            let (story, evidence) = telling.story();
            let text = text::render(story, evidence, story.opened, 0.7);
            format!("{} {} {text}", telling.name(), serde_json::to_string(story).unwrap())
        });
        words.collect()
    };
    assert_eq!(told(&whole("pool-oom").tellings), told(&INCIDENT.tellings));
}

/// Guarantees: nor do queries that run at once tell anything else than one after the other.
#[test]
fn many_workers_tell_the_same_words() {
    let mut recording = recording("pool-oom");
    let config = AnalysisConfig { workers: 4, ..AnalysisConfig::default() };
    let played = play_with(&config, || recording.next_request().map(|(_, request)| request));
    let told = |played: &Played| -> Vec<String> {
        let stories = played.tellings.iter().map(|telling| telling.story().0);
        stories.map(|story| serde_json::to_string(story).unwrap()).collect()
    };
    assert_eq!(told(&played), told(&INCIDENT));
}

/// Guarantees: where nothing is wrong nothing is told that anybody would be woken for, at no time.
#[test]
fn health_is_no_story() {
    let played = whole("healthy");
    assert_eq!(played.rows("spans"), 3_654);
    assert!(played.rows("logs") > 100 && played.rows("metrics") > 1_000);
    for telling in &played.tellings {
        let (story, _) = telling.story();
        assert!(story.confidence < 0.4, "{} ({})", story.title, story.confidence);
    }
}

/// Guarantees: the store holds what passed, and each trace that a story names is one of the operator's
/// own that can be looked up.
#[test]
fn the_tables_hold_what_passed() {
    let played = &*INCIDENT;
    assert_eq!(played.rows("spans"), 13_056);
    assert!(played.rows("logs") > 1_000 && played.rows("metrics") > 10_000);
    assert!(played.rows("events") > 10 && played.rows("topology") > 10);
    let calls = played.calls();
    for (callee, caller) in [("inventory", "catalog"), ("checkout", "frontend")] {
        assert!(calls.contains(&(callee.to_owned(), caller.to_owned())), "{calls:?}");
    }
    assert_eq!(played.rows("changes"), 2, "the change, and its way back");
    let (_, evidence) = only(&played.stories);
    assert_eq!((played.rows("stories"), played.rows("evidence")), (1, evidence.len()));
    let spans = played.spans();
    let named: Vec<_> =
        evidence.iter().filter_map(|e| e.trace_id.clone().zip(e.span_id.clone())).collect();
    assert!(!named.is_empty(), "no span of the operator's own to show");
    for span in named {
        assert!(spans.contains(&span), "{span:?} never passed");
    }
}

/// Guarantees: how a sender cuts its requests does not change the story: each resource by itself, the
/// last one first.
#[test]
fn requests_cut_to_pieces_tell_the_same_root() {
    let mut recording = recording("pool-oom");
    let mut waiting: Vec<Request> = Vec::new();
    let played = play(|| {
        if waiting.is_empty() {
            let (_, request) = recording.next_request()?;
            waiting = resources(&request);
            waiting.reverse();
        }
        waiting.pop()
    });
    assert_eq!(played.rows("spans"), INCIDENT.rows("spans"));
    assert_root(only(&played.stories).0);
}

/// Guarantees: nor does a batch processor in front, which joins requests and holds them back a little.
#[test]
fn requests_joined_to_batches_tell_the_same_root() {
    let mut recording = recording("pool-oom");
    let mut held: Vec<Request> = Vec::new();
    let played = play(|| {
        while let Some((_, request)) = recording.next_request() {
            let of = request.signal;
            held.push(request);
            if held.iter().filter(|r| r.signal == of).count() == 3 {
                return joined(&mut held, of);
            }
        }
        Signal::ALL.into_iter().find_map(|signal| joined(&mut held, signal))
    });
    assert_eq!(played.rows("spans"), INCIDENT.rows("spans"));
    assert_root(only(&played.stories).0);
}

/// The held requests of a signal as one: concatenation is the merged request.
fn joined(held: &mut Vec<Request>, signal: Signal) -> Option<Request> {
    let (of, rest): (Vec<Request>, Vec<Request>) =
        std::mem::take(held).into_iter().partition(|r| r.signal == signal);
    *held = rest;
    let bytes: Vec<u8> = of.iter().flat_map(|request| request.bytes.to_vec()).collect();
    let items = of.iter().map(|request| request.items).sum();
    (!of.is_empty()).then(|| Request::new(signal, bytes.into(), items))
}
