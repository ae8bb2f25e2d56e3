//! Time and scale: what is late, ahead, seldom or long is told as what is not.

use serde_json::json;
use tapio_processor::Engine;
use tapio_proto::{
    Request,
    model::{Story, Time},
};

use crate::{
    blamed::Shop,
    hostile::{SECOND, START, engine, second, spans},
};

/// The second after the start.
fn second_of(time: Time) -> i64 {
    (time.0 - START as i64) / SECOND as i64
}

/// The stories that an engine tells of these requests, each at its second, and whether it still goes on.
fn stories(mut sent: Vec<(u64, Request)>) -> Vec<Story> {
    let mut engine: Engine = engine();
    sent.sort_by_key(|(at, _)| *at);
    for (_, request) in sent {
        engine.ingest(&request);
    }
    engine.finish();
    assert_eq!(engine.failures, (0, None));
    engine.stories().all().into_iter().map(|(story, _)| story.clone()).collect()
}

/// Ten requests to a service in each second of a range, which arrive so many seconds late.
fn sent(
    service: &str,
    of: std::ops::Range<u64>,
    bad: std::ops::Range<u64>,
    late: u64,
) -> Vec<(u64, Request)> {
    let one = |at: u64| {
        (at + late, spans(service, second(at..at + 1), if bad.contains(&at) { 2 } else { 0 }))
    };
    of.map(one).collect()
}

/// Guarantees: one sender whose clock is ahead, by seconds or by most of an hour, whoever speaks first,
/// neither hides what fails nor is hidden itself; it is told at its time and it ends.
#[test]
fn a_clock_that_is_ahead_blinds_nobody() {
    for (skew, first) in [(20, false), (60, true), (3_000, false)] {
        let mut all = sent("shop", 0..300, 150..220, 0);
        for at in 0..300 {
            let end = [START + (at + skew) * SECOND].into_iter();
            let request = (at, spans("ahead", end, 0));
            if first { all.insert(0, request) } else { all.push(request) }
        }
        let told = stories(all);
        let [story] = &told[..] else { panic!("{skew}: {told:?}") };
        assert_eq!(story.affected.services, ["shop"]);
        assert!((150..200).contains(&second_of(story.opened)), "{skew}: {story:?}");
        let end = story.resolved.map(second_of);
        assert!(end.is_some_and(|end| (210..230).contains(&end)), "{skew}: {end:?}");
    }
    // Its own failure is told, too.
    let mut all = sent("shop", 0..300, 0..0, 0);
    for at in 0..300 {
        let ends = (0..10).map(|tenth| START + (at + 60) * SECOND + tenth * SECOND / 10);
        all.push((at, spans("ahead", ends, if at >= 150 { 2 } else { 0 })));
    }
    let told = stories(all);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].affected.services, ["ahead"]);
}

/// Guarantees: spans that come half a minute late are judged when they come, and none of what failed is
/// taken for health.
#[test]
fn spans_that_come_late_are_judged_as_they_come() {
    let mut all = sent("shop", 0..240, 120..240, 30);
    for service in ["a", "b"] {
        all.extend(sent(service, 0..270, 0..0, 0));
    }
    let told = stories(all);
    let [story] = &told[..] else { panic!("{told:?}") };
    assert!((150..185).contains(&second_of(story.opened)), "{story:?}");
    assert!(story.narrative.contains("was 0 %"), "{}", story.narrative);
    assert!(story.resolved.is_none(), "it goes on");
}

/// Guarantees: windows of another day, one or several, are no windows: what fails after them is told when
/// it fails, and is over when it is.
#[test]
fn one_window_from_the_future_changes_nothing() {
    for future in [5, 10, 15] {
        let mut all = sent("shop", 0..300, 120..200, 0);
        let ends = second(7_200..7_200 + future);
        all.push((60, spans("shop", ends, 2)));
        let told = stories(all);
        let [story] = &told[..] else { panic!("{future}: {told:?}") };
        assert!((130..160).contains(&second_of(story.opened)), "{future}: {story:?}");
        assert!(story.resolved.is_some_and(|end| second_of(end) < 215), "{future}: {story:?}");
    }
}

/// Guarantees: a few more failures than usual are told of when they go on, and since when they are there;
/// the usual few are not.
#[test]
fn a_small_share_that_fails_is_told_of_in_the_end() {
    for bad in [false, true] {
        let mut all = Vec::new();
        for at in 0..600_u64 {
            // Two in a thousand as ever; four in a hundred from then on.
            let fails = at % 50 == 7 || (bad && at >= 300 && at % 5 < 2);
            let ends = |n: std::ops::Range<u64>| {
                n.map(move |tenth| START + at * SECOND + tenth * SECOND / 10)
            };
            all.push((at, spans("shop", ends(0..9), 0)));
            all.push((at, spans("shop", ends(9..10), if fails { 2 } else { 0 })));
        }
        let told = stories(all);
        assert_eq!(told.len(), usize::from(bad), "{told:?}");
        for story in told {
            assert!((300..420).contains(&second_of(story.opened)), "{story:?}");
            let since = second_of(story.chain[0].time);
            assert!((290..330).contains(&since), "it began {since} s after the start");
        }
    }
}

/// Guarantees: of a service that is asked seldom it is said how well its beginning is known; of one that is asked
/// often that needs no word.
#[test]
fn a_beginning_that_is_vague_is_said_to_be() {
    for (every, vague) in [(20, true), (1, false)] {
        let asked = (0..1_100_u64).step_by(every);
        let all = asked.map(|at| {
            let ends = std::iter::once(START + at * SECOND);
            (at, spans("shop", ends, if at >= 900 { 2 } else { 0 }))
        });
        let told = stories(all.collect());
        let [story] = &told[..] else { panic!("{told:?}") };
        let said = story
            .doubts
            .iter()
            .any(|doubt| doubt.starts_with("since when shop does badly is known to "));
        assert_eq!(said, vague, "{:?}", story.doubts);
    }
}

/// Guarantees: a pod whose image does not exist is a story for as long as nobody puts it right, and no
/// longer.
#[test]
fn a_state_that_nobody_puts_right_stays_open() {
    let ready =
        json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T05:25:00Z"});
    for repaired in [false, true] {
        let mut shop = Shop::found(&["front", "a"]);
        shop.rollout(60, "a", "x:2");
        let waiting = json!({"metadata": {"labels": {"app": "a"}, "ownerReferences": [
                {"kind": "ReplicaSet", "name": "a-5f4ddbf799", "controller": true}]},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False",
                    "lastTransitionTime": "2026-11-22T03:01:05Z"}], "containerStatuses": [{"name": "a", "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown: not found"}}}]}});
        shop.object(65, "MODIFIED", "Pod", "a-5f4ddbf799-ddmxg", &waiting);
        for second in (1..160).chain((160..8_700).step_by(130)).chain(8_700..8_760) {
            shop.beat(second);
        }
        if repaired {
            let mut well = waiting.clone();
            well["status"] = json!({"phase": "Running", "conditions": [ready]});
            shop.object(8_700, "MODIFIED", "Pod", "a-5f4ddbf799-ddmxg", &well);
        }
        let told = shop.stories();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].resolved.is_some(), repaired, "{:?}", told[0]);
    }
}
