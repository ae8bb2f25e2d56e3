//! What is told while the engine has to make do with less, and what says so.

use std::{sync::Arc, time::Duration};

use tapio_processor::{Engine, Patterns, story::text};

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
    let told = text::render(story, evidence, engine.clock());
    assert!(told.contains("incomplete: a pass over the whole window"), "{told}");
    let rows = store.table("stories").unwrap().snapshot();
    assert!(format!("{rows:?}").contains("incomplete"));
}
