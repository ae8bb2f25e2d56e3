//! What is told while the engine has to make do with less, and what says so.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tapio_processor::{
    Analysis, AnalysisConfig, Engine, Patterns, Pressure, Resolution, story::text,
};
use tapio_proto::Request;

use crate::{assert_root, played::recording};

/// Guarantees: passes that take longer than they may are cut, made again on a smaller window and finished
/// there; the story is told all the same, and says that it is incomplete and why.
#[test]
fn a_pass_over_its_budget_is_finished_on_a_smaller_window_and_the_story_says_so() {
    let store = Engine::store(256 << 20).unwrap();
    let mut engine = Engine::new(store.clone(), Arc::new(Patterns::builtin().unwrap()))
        .unwrap()
        .with_pass_budget(Duration::from_millis(1));
    let mut recording = recording("pool-oom");
    while let Some((_, request)) = recording.next_request() {
        engine.ingest(&request);
    }
    engine.finish();
    assert_eq!(engine.failures, (0, None));
    let (cuts, lookback) = engine.cuts();
    assert!(cuts >= 2 && lookback == Duration::from_secs(450), "{cuts} cuts, {lookback:?}");
    let stories = engine.stories().all();
    let [(story, evidence)] = stories[..] else { panic!("{} stories", stories.len()) };
    assert_root(story);
    let [lack] = &story.incomplete[..] else { panic!("{:?}", story.incomplete) };
    assert!(lack.contains("longer than 1ms") && lack.contains("the last 7 min"), "{lack}");
    let told = text::render(story, evidence, engine.clock(), 0.7);
    assert!(told.contains("incomplete: a pass over the whole window"), "{told}");
    let rows = store.table("stories").unwrap().snapshot();
    assert!(format!("{rows:?}").contains("incomplete"));
}

/// Guarantees: a pattern of the user's that makes the judgement fail is found and left out; all others go
/// on, the story is told with the right root and says what is missing.
#[test]
fn a_pattern_that_fails_is_left_out_and_the_story_is_told_without_it() {
    let mut patterns = Patterns::builtin().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("patterns");
    let good = std::fs::read_to_string(folder.join("config_change_memory_growth.yaml")).unwrap();
    // More nanoseconds than a number has room for: well formed, and fails when it is judged.
    let lines = good.lines().map(|line| match line.split(':').next() {
        Some("id") => "id: mine",
        Some("within") => "within: 9999999999h",
        Some("tests") => "tests: []",
        _ => line,
    });
    let upto = lines.scan(false, |over, line| {
        let goes_on = !*over;
        *over = line == "tests: []";
        goes_on.then_some(line)
    });
    patterns.add("mine.yaml", &upto.collect::<Vec<_>>().join("\n")).unwrap();
    let mut engine = Engine::new(Engine::store(256 << 20).unwrap(), Arc::new(patterns)).unwrap();
    let mut recording = recording("pool-oom");
    while let Some((_, request)) = recording.next_request() {
        engine.ingest(&request);
    }
    engine.finish();
    assert_eq!(engine.failures, (0, None), "no pass is lost");
    let [isolated] = &engine.isolated()[..] else { panic!("{:?}", engine.isolated()) };
    assert_eq!((isolated.part.name(), isolated.name.as_str()), ("pattern", "mine"));
    let stories = engine.stories().all();
    let [(story, _)] = stories[..] else { panic!("{} stories", stories.len()) };
    assert_root(story);
    assert_eq!(story.incomplete, ["the pattern mine fails and is left out"]);
}

/// Guarantees: while memory is short spans are sampled, then no rows are kept, and the story is told all
/// the same and says so; when it is free again all is looked at as before.
#[tokio::test(flavor = "multi_thread")]
async fn under_memory_pressure_less_is_looked_at_and_then_all_again() {
    let pressure = Arc::new(Pressure::default());
    (0..2).for_each(|_| pressure.set(true));
    assert_eq!(pressure.resolution(), Resolution::Rollups);
    let patterns = Arc::new(Patterns::builtin().unwrap());
    let analysis = Analysis::start(AnalysisConfig::default(), patterns, pressure.clone()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut watch = analysis.watch();
    let kept = told.clone();
    tokio::spawn(async move {
        while let Ok(telling) = watch.recv().await {
            kept.lock().unwrap().push(telling.story().0.clone());
        }
    });
    let all: Vec<Request> = {
        let mut recording = recording("pool-oom");
        std::iter::from_fn(|| recording.next_request().map(|(_, request)| request)).collect()
    };
    let stats = analysis.stats();
    let idle = async || {
        while stats.waiting_bytes.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    for request in &all {
        analysis.tee(request);
    }
    tokio::time::timeout(Duration::from_secs(400), idle()).await.unwrap();
    let rows = |table: &str| analysis.store().table(table).unwrap().stats().rows;
    assert!(stats.sampled_items.load(Ordering::Relaxed) > 0);
    assert_eq!((rows("spans"), rows("logs"), rows("metrics")), (0, 0, 0));
    assert!(rows("windows") > 0 && rows("changes") > 0);
    let story = told.lock().unwrap().last().cloned().expect("a story is told all the same");
    assert!(story.incomplete[0].starts_with("memory is short"), "{:?}", story.incomplete);

    (0..10).for_each(|_| pressure.set(false));
    assert_eq!(analysis.resolution(), Resolution::Full);
    let sampled = stats.sampled_items.load(Ordering::Relaxed);
    for request in all.iter().rev().take(40).rev() {
        analysis.tee(request);
    }
    // The next pass takes them over; in silence it comes by itself.
    for _ in 0..600 {
        if rows("spans") + rows("logs") + rows("metrics") > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rows("spans") + rows("logs") + rows("metrics") > 0, "rows are kept again");
    assert_eq!(stats.sampled_items.load(Ordering::Relaxed), sampled, "and nothing is sampled");
}
