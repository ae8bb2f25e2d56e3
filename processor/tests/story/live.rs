//! The live engine: a tee of what passes, and the story on what passes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tapio_processor::{Analysis, AnalysisConfig, Patterns};
use tapio_proto::{
    Accepted, Consumer, Next, Pending, Request, Signal,
    model::Story,
    view::{Record, RequestView},
    wire::{Fields, Value, put_len_field},
};

use crate::{
    assert_root,
    played::{recording, resources},
};

/// Where marked telemetry comes out.
#[derive(Default)]
struct Capture(Mutex<Vec<Request>>);

impl Consumer for Capture {
    fn consume(&self, request: Request) -> Pending<'_> {
        self.0.lock().unwrap().push(request);
        Box::pin(async { Ok(Accepted::default()) })
    }
}

/// Guarantees: the live engine tells what the replay tells, and while the story is open the spans of the
/// services that it touches come out with it and otherwise byte for byte as they went in; all others
/// come out untouched.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_is_told_the_same_and_carries_the_story() {
    let analysis = Analysis::start(
        AnalysisConfig::default(),
        Arc::new(Patterns::builtin().unwrap()),
        Arc::default(),
    )
    .unwrap();
    let out = Arc::new(Capture::default());
    let mut told = analysis.watch();
    let pipelines: Vec<(Signal, Next)> = [Signal::Traces, Signal::Metrics, Signal::Logs]
        .map(|signal| (signal, analysis.processor(signal, out.clone())))
        .into();
    let pipeline = |signal: Signal| &pipelines.iter().find(|(of, _)| *of == signal).unwrap().1;
    let mut recording = recording("pool-oom");
    let (mut sent, mut last) = (0, Vec::new());
    while let Some((_, request)) = recording.next_request() {
        pipeline(request.signal).consume(request.clone()).await.unwrap();
        sent += 1;
        if request.signal == Signal::Traces {
            last.push(request);
        }
    }
    let opened = tokio::time::timeout(Duration::from_secs(120), told.recv()).await;
    assert_root(opened.expect("no story in time").unwrap().story().0);
    // Until the engine has taken everything in, the story still gains services.
    while analysis.stats().analysed.load(Ordering::Relaxed) < sent {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(analysis.stats().dropped_items.load(Ordering::Relaxed), 0);
    let mut newest: Option<Story> = None;
    while let Ok(telling) = told.try_recv() {
        newest = Some(telling.story().0.clone());
    }
    let story = newest.expect("the story grows after it opened");
    assert_root(&story);

    let mut seen = BTreeSet::new();
    for request in last.iter().rev().take(20).flat_map(resources) {
        out.0.lock().unwrap().clear();
        pipeline(Signal::Traces).consume(request.clone()).await.unwrap();
        let came = out.0.lock().unwrap().pop().expect("what goes in comes out");
        let service = service(&request);
        seen.insert(service.clone());
        if story.affected.services.contains(&service) {
            let role = match service.as_str() {
                "inventory" => "cause",
                "frontend" => "symptom",
                _ => "effect",
            };
            assert_marked(&came, &story, role);
            assert_eq!(without_story(&came), request.bytes, "{service}");
        } else {
            assert_eq!(came.bytes, request.bytes, "{service} is not touched");
        }
        assert_eq!(came.items, request.items);
    }
    for service in ["frontend", "catalog", "checkout", "inventory", "cart", "payment"] {
        assert!(seen.contains(service), "no span of {service} among {seen:?}");
    }
}

fn service(request: &Request) -> String {
    let view = RequestView::new(request.signal, &request.bytes);
    let group = view.resources().next().unwrap().unwrap();
    group.resource().attribute("service.name").unwrap().as_str().unwrap().to_owned()
}

/// Every span carries the story, once.
fn assert_marked(request: &Request, story: &Story, role: &str) {
    let view = RequestView::new(request.signal, &request.bytes);
    let mut spans = 0;
    for scope in view.resources().flat_map(|group| group.unwrap().scopes()) {
        for record in scope.unwrap().records() {
            let Record::Span(span) = record.unwrap() else { panic!("not a span") };
            let own = span.attributes().map(Result::unwrap);
            let mut marks: Vec<(&str, String)> = own
                .filter(|attribute| attribute.key.starts_with("tapio.story."))
                .map(|a| (a.key, a.value.as_str().unwrap_or_default().to_owned()))
                .collect();
            assert_eq!(marks.pop().unwrap().0, "tapio.story.confidence");
            assert_eq!(
                marks,
                [
                    ("tapio.story.id", story.id.clone()),
                    ("tapio.story.role", role.to_owned()),
                    ("tapio.story.title", story.title.clone()),
                    ("tapio.story.root_cause", "ConfigMap shop/inventory-pool".to_owned()),
                ]
            );
            spans += 1;
        }
    }
    assert_eq!(spans, request.items);
}

/// The request without the attributes that Tapio adds, lengths put right: read and written here
/// independently of the splice.
fn without_story(request: &Request) -> Vec<u8> {
    strip(&request.bytes, &[1, 2, 2])
}

/// Copies a message; `path` leads to the spans, below whose end the marks are left out.
fn strip(message: &[u8], path: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in Fields::new(message).map(Result::unwrap) {
        match (field.value, path) {
            (Value::Len(inner), [number, deeper @ ..]) if field.number == *number => {
                put_len_field(&mut out, *number, &strip(inner, deeper));
            }
            (Value::Len(attribute), []) if field.number == 9 && is_mark(attribute) => {}
            _ => out.extend_from_slice(&message[field.start..field.end]),
        }
    }
    out
}

fn is_mark(attribute: &[u8]) -> bool {
    let key = Fields::new(attribute).map(Result::unwrap).find(|field| field.number == 1);
    matches!(key.map(|field| field.value), Some(Value::Len(key)) if key.starts_with(b"tapio.story."))
}
