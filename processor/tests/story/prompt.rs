//! How soon after its evidence a story is told.

use std::{sync::Arc, time::Duration};

use tapio_processor::{Engine, Patterns};
use tapio_proto::{Request, model::Time};

use crate::played::recording;

/// An engine that took these in, and when it first told a story: at the last of them, or in the silence
/// after it, up to `until`.
fn told(requests: &[Request], until: Time) -> (Time, Option<Time>) {
    let store = Engine::store(256 << 20).unwrap();
    let mut engine = Engine::new(store, Arc::new(Patterns::builtin().unwrap())).unwrap();
    for request in requests {
        if !engine.ingest(request).is_empty() {
            return (engine.clock(), Some(engine.clock()));
        }
    }
    let heard = engine.clock();
    while engine.clock() < until {
        let next = (engine.clock() + Duration::from_millis(250)).min(until);
        if !engine.advance(next).is_empty() {
            return (heard, Some(engine.clock()));
        }
    }
    (heard, None)
}

/// Guarantees: from the last request that a story cannot be told without until it is told pass two seconds
/// at most.
#[test]
fn it_is_told_within_two_seconds_of_its_evidence() {
    for name in ["pool-oom", "database-gone", "node-closed"] {
        let mut recording = recording(name);
        let all: Vec<Request> =
            std::iter::from_fn(|| recording.next_request().map(|(_, request)| request)).collect();
        let (_, Some(at)) = told(&all, Time::default()) else { panic!("{name}: nothing told") };
        // So many are too few, so many are enough.
        let (mut few, mut enough) = (0, all.len());
        while enough - few > 1 {
            let half = (few + enough) / 2;
            match told(&all[..half], at).1 {
                Some(_) => enough = half,
                None => few = half,
            }
        }
        let (evidence, _) = told(&all[..enough], at);
        let took = at.seconds_since(evidence);
        println!("{name}: told {took:.1} s after request {enough} of {}", all.len());
        assert!(took <= 2.0, "{name}: told {took} s after request {enough} of {}", all.len());
    }
}
