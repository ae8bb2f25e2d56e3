//! A real incident through the engine: the story it tells, and that it tells it again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tapio_processor::{
    Analysis, AnalysisConfig, Engine, Patterns, Telling, replay::Recording, store::Store,
    story::text,
};
use tapio_proto::{
    Accepted, Consumer, Pending, Request, Signal, check,
    model::{Evidence, Story},
    view::{Record, RequestView},
};

fn recording() -> Recording {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/recordings/pool-oom"));
    Recording::open(&[path]).unwrap()
}

struct Played {
    store: Arc<Store>,
    tellings: Vec<Telling>,
    stories: Vec<(Story, Vec<Evidence>)>,
}

fn play(mut requests: impl FnMut() -> Option<Request>) -> Played {
    let store = Engine::store(256 << 20).unwrap();
    let mut engine = Engine::new(store.clone(), Arc::new(Patterns::builtin().unwrap())).unwrap();
    let mut tellings = Vec::new();
    while let Some(request) = requests() {
        tellings.extend(engine.ingest(&request));
    }
    tellings.extend(engine.finish());
    assert_eq!(engine.failures, (0, None));
    let stories =
        engine.stories().all().into_iter().map(|(s, e)| (s.clone(), e.to_vec())).collect();
    Played { store, tellings, stories }
}

fn whole() -> Played {
    let mut recording = recording();
    play(|| recording.next_request().map(|(_, request)| request))
}

/// Guarantees: one story, with the guilty object, the mechanism, the chain in the order in which the
/// failure travelled, who is touched, and a command that undoes it.
#[test]
fn the_configmap_change_that_ends_in_oom_kills_is_told() {
    let played = whole();
    let [(story, evidence)] = played.stories.as_slice() else {
        panic!("{} stories", played.stories.len())
    };
    assert!(story.confidence >= 0.7, "{}", story.confidence);
    let root = story.root_cause.as_ref().unwrap();
    assert_eq!(
        (root.kind.as_str(), root.namespace.as_str(), root.name.as_str()),
        ("ConfigMap", "shop", "inventory-pool")
    );
    assert_eq!(
        (root.service.as_str(), root.pattern.as_str()),
        ("inventory", "config_change_memory_growth")
    );
    assert!(root.change.as_ref().unwrap().contains("max_connections 8 -> 200"));
    assert!(story.opened.seconds_since(root.time) < 60.0);
    let at = |name: &str| {
        story.chain.iter().position(|link| link.name == name).unwrap_or_else(|| panic!("no {name}"))
    };
    assert!(at("inventory-pool") < at("inventory") && at("inventory") < at("catalog"));
    assert!(at("checkout") < at("frontend") && at("catalog") < at("frontend"));
    assert_eq!(story.affected.services, ["inventory", "catalog", "checkout", "frontend"]);
    assert!(story.recommendations[0].contains("kubectl -n shop patch configmap inventory-pool"));
    assert!(evidence.iter().any(|e| e.what.contains("OOMKilled") && e.times == 4));
    assert!(evidence.iter().any(|e| e.trace_id.is_some()), "no span of the operator's own to show");
    let text = text::render(story, evidence, story.opened);
    assert!(text.lines().count() <= 30, "{text}");
    let command = |line: &&str| line.contains("kubectl");
    assert!(
        text.lines().filter(|line| !command(line)).all(|line| line.chars().count() <= 110),
        "{text}"
    );
}

/// Guarantees: the same input is the same output, to the byte.
#[test]
fn the_same_recording_is_told_in_the_same_words() {
    let told = |played: Played| -> Vec<String> {
        played
            .stories
            .iter()
            .map(|(s, e)| serde_json::to_string(s).unwrap() + &text::render(s, e, s.opened))
            .collect()
    };
    assert_eq!(told(whole()), told(whole()));
}

/// Guarantees: the store holds what passed, and the changes without any Secret's data.
#[test]
fn the_tables_hold_what_passed() {
    let played = whole();
    let rows = |table: &str| played.store.table(table).unwrap().stats().rows;
    assert_eq!(rows("spans"), 13_056);
    assert!(
        rows("logs") > 1_000
            && rows("metrics") > 10_000
            && rows("events") > 10
            && rows("topology") > 10
    );
    assert_eq!(rows("changes"), 2, "the change, and its way back");
    assert_eq!(rows("stories"), 1);
}

/// Guarantees: the story leaves as OTLP that any receiver takes: a root span, evidence beneath it linked
/// to the operator's own spans, and log records that carry the event's name.
#[test]
fn the_story_leaves_as_a_trace_and_log_records() {
    let played = whole();
    let mut sent = tapio_processor::story::otlp::Sent::default();
    let (mut roots, mut children, mut links, mut events) = (0, 0, 0, Vec::new());
    for request in played.tellings.iter().flat_map(|telling| sent.requests(telling)) {
        assert_eq!(check(request.signal, &request.bytes).unwrap(), request.items);
        assert!(matches!(request.signal, Signal::Traces | Signal::Logs));
        for group in
            RequestView::new(request.signal, &request.bytes).resources().map(Result::unwrap)
        {
            let service =
                group.resource().attribute("service.name").and_then(|value| value.as_str());
            assert_eq!(service, Some("tapio"));
            for record in group
                .scopes()
                .flat_map(|scope| scope.unwrap().records().map(Result::unwrap).collect::<Vec<_>>())
            {
                let attributes = match record {
                    Record::Span(span) => {
                        roots += usize::from(span.parent_span_id.is_empty());
                        children += usize::from(!span.parent_span_id.is_empty());
                        links += span.links().count();
                        span.attributes()
                    }
                    Record::Log(log) => {
                        events.push(log.event_name.to_owned());
                        log.attributes()
                    }
                    Record::Metric(_) => panic!("a story is no metric"),
                };
                for attribute in attributes.map(Result::unwrap) {
                    assert!(
                        attribute.value.as_str().is_none_or(|text| text.len() < 2048),
                        "{}",
                        attribute.key
                    );
                }
            }
        }
    }
    assert_eq!(roots, 1);
    assert!(children >= 8 && links >= 1, "{children} evidence spans, {links} links");
    assert_eq!(events[0], "tapio.story.opened");
}

/// Guarantees: how a sender cuts its requests does not change the story.
#[test]
fn requests_cut_in_two_tell_the_same_root() {
    let mut recording = recording();
    let mut waiting: Vec<Request> = Vec::new();
    let played = play(|| {
        if waiting.is_empty() {
            let (_, request) = recording.next_request()?;
            waiting = resources(&request);
        }
        waiting.pop()
    });
    let (story, _) = &played.stories[0];
    let root = story.root_cause.as_ref().unwrap();
    assert_eq!(
        (root.name.as_str(), root.pattern.as_str()),
        ("inventory-pool", "config_change_memory_growth")
    );
}

/// Each resource of a request as a request of its own, the last one first.
fn resources(request: &Request) -> Vec<Request> {
    let fields = tapio_proto::wire::Fields::new(&request.bytes).map(Result::unwrap);
    let mut all: Vec<Request> = fields
        .map(|field| {
            let bytes = request.bytes.slice(field.start..field.end);
            Request { signal: request.signal, items: check(request.signal, &bytes).unwrap(), bytes }
        })
        .collect();
    all.reverse();
    all
}

/// Where marked telemetry comes out.
#[derive(Default)]
struct Capture(Mutex<Vec<Request>>);

impl Consumer for Capture {
    fn consume(&self, request: Request) -> Pending<'_> {
        self.0.lock().unwrap().push(request);
        Box::pin(async { Ok(Accepted::default()) })
    }
}

/// Guarantees: the live engine tells what the replay tells, and while the story is open the spans of what
/// it is about come out with it, all else as it went in.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_is_told_the_same_and_carries_the_story() {
    let analysis =
        Analysis::start(AnalysisConfig::default(), Arc::new(Patterns::builtin().unwrap())).unwrap();
    let capture = Arc::new(Capture::default());
    let mut told = analysis.watch();
    let pipelines = [Signal::Traces, Signal::Metrics, Signal::Logs]
        .map(|signal| (signal, analysis.processor(signal, capture.clone())));
    let pipeline = |signal: Signal| &pipelines.iter().find(|(of, _)| *of == signal).unwrap().1;
    let mut recording = recording();
    let mut spans = Vec::new();
    while let Some((_, request)) = recording.next_request() {
        pipeline(request.signal).consume(request.clone()).await.unwrap();
        spans.extend(resources(&request).into_iter().filter(|r| r.signal == Signal::Traces));
    }
    let opened = tokio::time::timeout(Duration::from_secs(120), told.recv())
        .await
        .expect("no story in time")
        .unwrap();
    let (story, _) = opened.story();
    let root = story.root_cause.as_ref().unwrap();
    assert_eq!(
        (root.name.as_str(), root.pattern.as_str()),
        ("inventory-pool", "config_change_memory_growth")
    );
    // Until the engine has taken everything in, the story still gains services.
    while analysis.stats().waiting_bytes.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut marked, mut untouched) = (0, 0);
    for request in spans.into_iter().rev().take(60) {
        capture.0.lock().unwrap().clear();
        pipeline(Signal::Traces).consume(request.clone()).await.unwrap();
        let out =
            capture.0.lock().unwrap().iter().find(|r| r.items == request.items).unwrap().clone();
        let group = |request: &Request| {
            RequestView::new(Signal::Traces, &request.bytes).resources().count()
        };
        assert_eq!(
            (group(&out), check(Signal::Traces, &out.bytes).unwrap()),
            (group(&request), request.items)
        );
        if out.bytes == request.bytes {
            untouched += 1;
            continue;
        }
        marked += 1;
        let attributes = |request: &Request| -> Vec<Vec<String>> {
            let view = RequestView::new(Signal::Traces, &request.bytes);
            let scopes = view
                .resources()
                .flat_map(|group| group.unwrap().scopes().map(Result::unwrap).collect::<Vec<_>>());
            let records =
                scopes.flat_map(|scope| scope.records().map(Result::unwrap).collect::<Vec<_>>());
            let keys = |record| match record {
                Record::Span(span) => {
                    span.attributes().map(|a| a.unwrap().key.to_owned()).collect()
                }
                _ => panic!("not a span"),
            };
            records.map(keys).collect()
        };
        for (before, after) in attributes(&request).iter().zip(attributes(&out)) {
            let (own, added) = after.split_at(before.len());
            assert_eq!(own, before);
            let expected = ["id", "role", "title", "root_cause", "confidence"]
                .map(|name| format!("tapio.story.{name}"));
            assert_eq!(added, expected);
        }
    }
    assert!(marked > 0 && untouched > 0, "{marked} marked, {untouched} untouched");
}
