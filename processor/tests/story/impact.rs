//! What an incident costs and how it repeats.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tapio_processor::{
    Analysis, AnalysisConfig, Engine, Patterns, Telling,
    story::{Importance, Objective, Weight, text},
};
use tapio_proto::model::{Story, StoryKind};

use crate::{
    blamed::{Meets, Shop},
    hostile::{engine, second, spans},
    played::INCIDENT,
};

/// Ten requests a second to `shop`, which all fail in some of the seconds.
fn played(importance: Importance, seconds: u64, bad: impl Fn(u64) -> bool) -> Engine {
    let config = AnalysisConfig { importance, ..AnalysisConfig::default() };
    let mut engine = engine().configured(&config);
    for at in 0..seconds {
        engine.ingest(&spans("shop", second(at..at + 1), if bad(at) { 2 } else { 0 }));
    }
    engine.finish();
    assert_eq!(engine.failures, (0, None));
    engine
}

fn objective(service: &str) -> Objective {
    Objective { service: service.to_owned(), availability: 99.0, within: None, window_days: 30.0 }
}

/// Guarantees: of a service with an objective the story says how much of its error budget is gone, as JSON
/// and in words; without one it counts what failed. An incident longer than windows are kept is counted whole.
#[test]
fn the_error_budget_that_is_gone_is_told() {
    for (seconds, bad) in [(300, 120..180), (2_300, 100..2_200)] {
        let importance =
            Importance { objectives: vec![objective("shop")], ..Importance::default() };
        let engine = played(importance, seconds, |at| bad.contains(&at));
        let all = engine.stories().all();
        let [(story, evidence)] = &all[..] else { panic!("{all:?}") };
        let [harm] = &story.impact.services[..] else { panic!("{story:?}") };
        let lasted = bad.end - bad.start;
        assert_eq!((harm.failed, harm.users), (lasted * 10, true), "{harm:?}");
        // Until it is seen to be well.
        assert!((harm.failed..harm.failed + 160).contains(&harm.requests), "{harm:?}");
        let budget = harm.budget.as_ref().unwrap();
        // All of its requests fail, one in a hundred may.
        assert!((80.0..=100.0).contains(&budget.burn_rate), "{budget:?}");
        let spent = 100.0 * lasted as f64 / (30.0 * 86_400.0);
        assert!((budget.spent / spent - 1.0).abs() < 0.2, "{budget:?}, expected {spent}");
        let told = text::render(story, evidence, story.opened, 0.7);
        let line = "Impact  /shop promises 99 % in 30 days: ";
        assert!(told.contains(line) && told.lines().count() <= 30, "{told}");
        assert!(story.narrative.contains("of its error budget is gone"), "{}", story.narrative);
    }
    let engine = played(Importance::default(), 300, |at| (120..180).contains(&at));
    let all = engine.stories().all();
    let harm = &all[0].0.impact.services[0];
    assert_eq!((harm.failed, harm.budget.is_none(), harm.weight), (600, true, 1.0));
}

/// Guarantees: answers that take longer than promised count as none.
#[test]
fn slow_answers_use_the_budget_up() {
    let within = Some(std::time::Duration::from_micros(500));
    let importance = Importance {
        objectives: vec![Objective { within, ..objective("*/shop") }],
        ..Importance::default()
    };
    // Every answer takes 1 ms; half of the requests fail.
    let engine = played(importance, 300, |at| at >= 120 && at % 2 == 0);
    let all = engine.stories().all();
    let harm = &all[0].0.impact.services[0];
    assert_eq!(harm.slow, Some(harm.requests - harm.failed), "{harm:?}");
    let budget = harm.budget.as_ref().unwrap();
    assert!((budget.burn_rate - 100.0).abs() < 1.0, "{budget:?}");
}

/// What fails for an incident of `a` in a small shop, of which these annotations and labels are known.
fn annotated(annotations: &serde_json::Value, labels: &serde_json::Value) -> Story {
    let mut shop = Shop::found(&["front", "a"]);
    let metadata = json!({"metadata": {"annotations": annotations, "labels": labels},
        "spec": {"selector": {"app": "front"}}});
    shop.object(1, "MODIFIED", "Service", "front", &metadata);
    shop.rollout(60, "a", "x:2");
    for second in 2..160 {
        shop.requests(second, "a", if second >= 64 { Meets::Error } else { Meets::Health });
    }
    let weights = vec![Weight {
        namespace: Some("shop".to_owned()),
        labels: BTreeMap::from([("tier".to_owned(), "critical".to_owned())]),
        weight: 3.0,
    }];
    let stories = shop.stories_with(Importance { weights, ..Importance::default() });
    let heaviest = stories.into_iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
    heaviest.unwrap()
}

/// Guarantees: a Service says by annotations what it promises and is worth; labels weigh it otherwise; what
/// cannot be read is said, and harms nothing.
#[test]
fn a_service_says_itself_what_it_promises_and_is_worth() {
    let told = annotated(
        &json!({"tapio/availability": "99.5", "tapio/window-days": "7", "tapio/weight": "5"}),
        &json!({"tier": "critical"}),
    );
    let front = told.impact.services.iter().find(|harm| harm.service == "front").unwrap();
    let budget = front.budget.as_ref().unwrap();
    assert_eq!((budget.availability, budget.window_days, front.weight), (99.5, 7.0, 5.0));
    assert_eq!(told.impact.weight, 5.0, "the most that any of them weighs");
    let told = annotated(&json!({}), &json!({"tier": "critical"}));
    assert_eq!(told.impact.weight, 3.0);
    let told = annotated(&json!({"tapio/availability": "high"}), &json!({}));
    assert_eq!(told.impact.weight, 1.0);
    let doubt = "annotation tapio/availability of shop/front is no number: \"high\"";
    assert!(told.doubts.iter().any(|d| d == doubt), "{:?}", told.doubts);
}

/// Guarantees: what happened before is said, with the earlier stories; at even intervals it is periodic.
#[test]
fn what_happens_again_is_told_as_such() {
    let engine = played(Importance::default(), 2_600, |at| at >= 300 && at % 600 >= 540);
    let all = engine.stories().all();
    let stories: Vec<&Story> = all.iter().map(|(story, _)| *story).collect();
    assert_eq!(stories.len(), 4, "{stories:?}");
    let kinds: Vec<&[StoryKind]> = stories.iter().map(|story| &*story.kinds).collect();
    let (again, evenly) = ([StoryKind::Recurring], [StoryKind::Recurring, StoryKind::Periodic]);
    assert_eq!(kinds, [&[][..], &again, &again, &evenly]);
    assert_eq!(stories[0].again, None);
    assert_eq!(stories[2].earlier, [stories[0].id.clone(), stories[1].id.clone()]);
    let told = text::render(stories[3], all[3].1, stories[3].opened, 0.7);
    assert!(told.contains("Again   fourth time in 30 m 0 s, every 10 m 0 s; before: "), "{told}");
    assert!(told.lines().next().unwrap().ends_with("   recurring, periodic"), "{told}");
}

/// Guarantees: what happened before a restart is remembered where a file is kept; a file that does not read
/// stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_happened_before_a_restart_is_remembered() {
    let path = std::env::temp_dir().join(format!("tapio-history-{}.jsonl", std::process::id()));
    std::fs::write(&path, "cut o").unwrap();
    let first = live(&path, 0).await;
    assert_eq!((first.kinds.len(), first.again), (0, None));
    let remembered = std::fs::read_to_string(&path).unwrap();
    assert!(remembered.contains(&first.id) && remembered.lines().count() == 1, "{remembered}");
    let second = live(&path, 3_600).await;
    assert_eq!(second.kinds, [StoryKind::Recurring]);
    assert_eq!(second.earlier, [first.id]);
    std::fs::remove_file(path).unwrap();
}

/// The story of an outage that begins two minutes after `from`, told by an analysis that remembers in a file.
async fn live(history: &std::path::Path, from: u64) -> Story {
    let config = AnalysisConfig { history: Some(history.to_owned()), ..AnalysisConfig::default() };
    let patterns = Arc::new(Patterns::builtin().unwrap());
    let analysis = Analysis::start(config, patterns, Arc::default()).unwrap();
    let mut told = analysis.watch();
    let before = std::fs::read_to_string(history).unwrap();
    for at in from..from + 400 {
        let bad = (from + 120..from + 180).contains(&at);
        analysis.tee(&spans("shop", second(at..at + 1), if bad { 2 } else { 0 }));
    }
    let over = async {
        loop {
            if let Telling::Resolved(story, _) = &*told.recv().await.unwrap() {
                break story.clone();
            }
        }
    };
    let story = tokio::time::timeout(Duration::from_secs(60), over).await.expect("it is over");
    for _ in 0..600 {
        if std::fs::read_to_string(history).unwrap() != before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    *story
}

/// Guarantees: what fails each time after the same CronJob ran is said to, from the third time on; one that
/// runs every five minutes is innocent.
#[test]
fn what_comes_after_the_same_job_is_told_as_such() {
    let mut shop = Shop::found(&["front", "a"]);
    let bad =
        |second: u64| [400..460, 1_300..1_360, 1_900..1_960].iter().any(|r| r.contains(&second));
    for second in 2..2_100 {
        if bad(second + 20) && !bad(second + 19) {
            shop.ran(second, "nightly", "0 2 * * *");
        }
        if second % 300 == 0 {
            shop.ran(second, "often", "*/5 * * * *");
        }
        shop.requests(second, "a", if bad(second) { Meets::Error } else { Meets::Health });
    }
    let stories = shop.stories();
    let again: Vec<Option<&str>> = stories.iter().map(|story| story.again.as_deref()).collect();
    let [None, Some(second), Some(third)] = &again[..] else { panic!("{again:?}") };
    assert!(second.starts_with("second time in ") && !second.contains("CronJob"), "{second}");
    assert!(third.ends_with(", each after CronJob shop/nightly ran"), "{third}");
    assert!(stories[2].kinds.contains(&StoryKind::Periodic));
}

/// Guarantees: a failure that travelled through several services is called a cascade, a single one is not.
#[test]
fn a_failure_that_travels_is_a_cascade() {
    assert_eq!(INCIDENT.stories[0].0.kinds, [StoryKind::Cascading]);
    let engine = played(Importance::default(), 300, |at| at >= 120);
    assert_eq!(engine.stories().all()[0].0.kinds, []);
}
