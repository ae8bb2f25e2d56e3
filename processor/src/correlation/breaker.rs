//! Circuit breakers: what fails is left out for a while, the rest goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_proto::model::Time;

/// How long it is left out after it failed; twice as long each time that it fails again.
const FIRST: Duration = Duration::from_secs(30);
/// It is tried again at least this often.
const LONGEST: Duration = Duration::from_secs(600);

/// What a breaker stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One of `queries/`.
    Query,
    /// A pattern, by its id.
    Pattern,
}

impl Part {
    /// As labels and texts name it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Query => "query",
            Part::Pattern => "pattern",
        }
    }
}

/// What failed and is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolated {
    /// Kind of part.
    pub part: Part,
    /// Its name.
    pub name: String,
    /// Why it failed, in one line.
    pub error: String,
}

#[derive(Debug)]
struct Breaker {
    /// How long it stays open, and until when.
    open: Duration,
    until: Time,
    error: String,
}

/// The parts that failed last time they were tried.
#[derive(Debug, Default)]
pub struct Breakers {
    failing: BTreeMap<(Part, String), Breaker>,
}

impl Breakers {
    /// May it be tried at `now`?
    pub fn lets(&self, part: Part, name: &str, now: Time) -> bool {
        self.failing.get(&(part, name.to_owned())).is_none_or(|breaker| breaker.until <= now)
    }

    /// It was tried and worked.
    pub fn works(&mut self, part: Part, name: &str) {
        if !self.failing.is_empty() {
            self.failing.remove(&(part, name.to_owned()));
        }
    }

    /// It was tried and failed.
    pub fn fails(&mut self, part: Part, name: &str, error: String, now: Time) {
        let breaker = self.failing.entry((part, name.to_owned()));
        let breaker = breaker
            .and_modify(|breaker| breaker.open = (breaker.open * 2).min(LONGEST))
            .or_insert(Breaker { open: FIRST, until: now, error: String::new() });
        (breaker.until, breaker.error) = (now + breaker.open, error);
    }

    /// Patterns that are not to be tried at `now`.
    pub fn patterns_out(&self, now: Time) -> BTreeSet<String> {
        let out = self.failing.iter().filter(|(_, breaker)| now < breaker.until);
        out.filter(|((part, _), _)| *part == Part::Pattern)
            .map(|((_, name), _)| name.clone())
            .collect()
    }

    /// All patterns that were tried at `now` work.
    pub fn patterns_work(&mut self, now: Time) {
        self.failing.retain(|(part, _), breaker| *part != Part::Pattern || now < breaker.until);
    }

    /// All that is left out.
    pub fn all(&self) -> Vec<Isolated> {
        let all = self.failing.iter().map(|((part, name), breaker)| Isolated {
            part: *part,
            name: name.clone(),
            error: breaker.error.clone(),
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_ever_more_seldom_and_forgiven_when_it_works() {
        let (mut breakers, second) = (Breakers::default(), |s: i64| Time(s * 1_000_000_000));
        let lets = |b: &Breakers, s| b.lets(Part::Query, "a", second(s));
        breakers.fails(Part::Query, "a", "it is broken".to_owned(), second(100));
        assert!(!lets(&breakers, 129) && lets(&breakers, 130));
        assert!(breakers.lets(Part::Query, "b", second(100)), "the rest goes on");
        assert!(breakers.lets(Part::Pattern, "a", second(100)));
        breakers.fails(Part::Query, "a", "still".to_owned(), second(130));
        assert!(!lets(&breakers, 189) && lets(&breakers, 190));
        for _ in 0..9 {
            breakers.fails(Part::Query, "a", "still".to_owned(), second(1000));
        }
        assert!(!lets(&breakers, 1599) && lets(&breakers, 1600));
        let [isolated] = &breakers.all()[..] else { unreachable!() };
        assert_eq!((&*isolated.name, &*isolated.error), ("a", "still"));
        breakers.works(Part::Query, "a");
        assert_eq!(breakers.all(), []);
        assert!(lets(&breakers, 1000));
    }
}
