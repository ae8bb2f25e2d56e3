//! How the versions of a service do beside each other, by the requests that each serves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use crate::kubernetes::Release;

/// Services and versions of each whose requests are counted, and minutes of them.
const MOST_SERVICES: usize = 20_000;
const MOST_VERSIONS: usize = 4;
const MINUTES: usize = 60;
/// Requests of a version that must be seen to compare it.
const LEAST: u64 = 20;
/// Requests of each in a piece of time that says anything, how many such pieces have to say the same, and how many
/// minutes ago the last of them may be.
const IN_A_PIECE: u64 = 5;
const PIECES: usize = 3;
const LATELY: i64 = 3;
/// A version is slower where it takes this much longer than the others, and so many ms.
const LONGER: f64 = 0.5;
const VISIBLE: f64 = 30.0;
/// Standard errors that it must be apart from them.
const Z: f64 = 4.0;
const MINUTE: Duration = Duration::from_secs(60);

/// Requests that a version served in one minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Minute {
    minute: i64,
    /// How many.
    pub count: u64,
    /// How many failed.
    pub errors: u64,
    /// How long all of them took together, ms.
    pub ms: f64,
    /// The squares of it, together.
    pub squares: f64,
}

/// How one version does beside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Unknown,
    Worse,
    Cleared,
}

/// A version that is slower than those that serve beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Slower {
    /// Whose version.
    pub service: Entity,
    /// Since when.
    pub since: Time,
    /// Mean of a request that the others serve, and of one that it serves, ms.
    pub ms: (f64, f64),
    /// In words.
    pub text: String,
}

/// Minutes of each version of a service, by its namespace and name.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeMap<(String, String), BTreeMap<String, VecDeque<Minute>>>);

impl Minute {
    /// No request yet, in the minute of this time.
    pub fn of(time: Time) -> Self {
        Minute { minute: minute(time), ..Minute::default() }
    }

    fn plus(self, other: &Minute) -> Self {
        Minute {
            minute: self.minute,
            count: self.count + other.count,
            errors: self.errors + other.errors,
            ms: self.ms + other.ms,
            squares: self.squares + other.squares,
        }
    }

    fn mean(&self) -> f64 {
        self.ms / self.count.max(1) as f64
    }

    fn share(&self) -> f64 {
        self.errors as f64 / self.count.max(1) as f64
    }

    /// Of the mean.
    fn variance(&self) -> f64 {
        let n = self.count.max(1) as f64;
        (self.squares / n - self.mean().powi(2)).max(0.0) / n
    }

    fn is_slower(&self, other: &Minute) -> bool {
        let apart = self.mean() - other.mean();
        apart > LONGER * other.mean() && apart > VISIBLE
    }
}

fn minute(time: Time) -> i64 {
    time.0.div_euclid(MINUTE.as_nanos() as i64)
}

/// The minutes of all versions but one.
fn others<'a>(
    versions: &'a BTreeMap<String, VecDeque<Minute>>,
    version: &'a str,
) -> impl Iterator<Item = &'a Minute> {
    versions.iter().filter(move |(other, _)| *other != version).flat_map(|(_, minutes)| minutes)
}

fn sum<'a>(minutes: impl Iterator<Item = &'a Minute>) -> Minute {
    minutes.fold(Minute::default(), Minute::plus)
}

impl Versions {
    /// Counts requests that a version of a service served.
    pub(super) fn served(&mut self, (namespace, service, version): (&str, &str, &str), of: Minute) {
        let key = (namespace.to_owned(), service.to_owned());
        if self.0.len() >= MOST_SERVICES && !self.0.contains_key(&key) {
            return;
        }
        let versions = self.0.entry(key).or_default();
        if versions.len() >= MOST_VERSIONS && !versions.contains_key(version) {
            let newest = |minutes: &VecDeque<Minute>| minutes.back().map(|m| m.minute);
            let oldest = versions.iter().min_by_key(|(_, minutes)| newest(minutes));
            if let Some(oldest) = oldest.map(|(version, _)| version.clone()) {
                versions.remove(&oldest);
            }
        }
        let minutes = versions.entry(version.to_owned()).or_default();
        match minutes.iter_mut().rev().find(|m| m.minute == of.minute) {
            Some(known) => *known = known.plus(&of),
            None => {
                minutes.push_back(of);
                if minutes.len() > MINUTES {
                    minutes.pop_front();
                }
            }
        }
    }

    /// Those of a service; not all who tell of it say its namespace.
    fn of(&self, namespace: &str, service: &str) -> Option<&BTreeMap<String, VecDeque<Minute>>> {
        let named = |space: &str| self.0.get(&(space.to_owned(), service.to_owned()));
        let any = || self.0.iter().find(|((_, name), _)| name == service).map(|(_, all)| all);
        let known = named(namespace).or_else(|| named(""));
        known.or_else(|| namespace.is_empty().then(any).flatten())
    }

    /// Did the version of a release serve requests before then?
    pub(super) fn had_served(&self, release: &Release, before: Time) -> bool {
        let versions = self.of(&release.namespace, &release.service);
        let minutes = versions.and_then(|versions| versions.get(&release.version));
        let minutes = minutes.into_iter().flatten().filter(|m| m.minute < minute(before));
        sum(minutes).count >= LEAST
    }

    /// Does the new version do worse than the others beside it, from then on?
    pub(super) fn verdict(&self, service: &Entity, version: &str, from: Time) -> Verdict {
        let versions = self.of(&service.namespace, &service.name);
        let Some(versions) = versions.filter(|_| !version.is_empty()) else {
            return Verdict::Unknown;
        };
        let Some(new) = versions.get(version) else { return Verdict::Unknown };
        let beside: BTreeSet<i64> = others(versions, version).map(|m| m.minute).collect();
        let both = |m: &&Minute| m.minute >= minute(from) && beside.contains(&m.minute);
        let minutes: BTreeSet<i64> = new.iter().filter(both).map(|m| m.minute).collect();
        let during = |m: &&Minute| minutes.contains(&m.minute);
        let new = sum(new.iter().filter(during));
        let old = sum(others(versions, version).filter(during));
        if new.count < LEAST || old.count < LEAST {
            return Verdict::Unknown;
        }
        let all = new.plus(&old).share();
        let chance = (all * (1.0 - all) * (1.0 / new.count as f64 + 1.0 / old.count as f64)).sqrt();
        let (apart, slower) = (new.share() - old.share(), new.mean() - old.mean());
        if apart > 3.0 * chance.max(0.003) || new.is_slower(&old) {
            Verdict::Worse
        } else if apart <= chance && slower <= 0.2 * old.mean() + 10.0 {
            Verdict::Cleared
        } else {
            Verdict::Unknown
        }
    }

    /// Is the version of a release slower than those beside it, again and again and by now? Its first minute says
    /// nothing: what a program does first is slow.
    pub(super) fn slower(&self, service: Entity, release: &Release, now: Time) -> Option<Slower> {
        let versions = self.of(&release.namespace, &release.service)?;
        let new = versions.get(&release.version)?;
        let first = new.front()?.minute;
        let beside = |at: i64| sum(others(versions, &release.version).filter(|m| m.minute == at));
        let mut pieces: Vec<(Minute, Minute)> = Vec::new();
        let full = |(new, old): &(Minute, Minute)| new.count.min(old.count) >= IN_A_PIECE;
        for new in new.iter().filter(|m| m.minute > first && m.minute < minute(now)) {
            match pieces.last_mut().filter(|piece| !full(piece)) {
                Some((sum, old)) => {
                    (*sum, *old) = (new.plus(sum), beside(new.minute).plus(old));
                }
                None => pieces.push((*new, beside(new.minute))),
            }
        }
        pieces.retain(full);
        let lately = pieces.last().is_some_and(|(m, _)| m.minute + LATELY >= minute(now));
        let say = |(new, old): &(Minute, Minute)| new.is_slower(old);
        if !lately || pieces.len() < PIECES || !pieces.iter().rev().take(PIECES).all(say) {
            return None;
        }
        let (new, old) = (sum(pieces.iter().map(|p| &p.0)), sum(pieces.iter().map(|p| &p.1)));
        let apart = new.mean() - old.mean();
        let sure = apart >= Z * (new.variance() + old.variance()).sqrt();
        if !sure || !new.is_slower(&old) {
            return None;
        }
        let (version, ms) = (&release.version, (old.mean(), new.mean()));
        Some(Slower {
            since: release.time.max(Time(first * MINUTE.as_nanos() as i64)),
            text: format!(
                "version {version} takes {:.0} ms on average, those beside it {:.0} ms",
                ms.1, ms.0
            ),
            service,
            ms,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Ten minutes of the old version, the new one beside it from the fifth on; each a request every `every` s.
    fn canary(every: (i64, i64), ms: impl Fn(i64, bool) -> f64) -> Option<Slower> {
        let mut versions = Versions::default();
        for (new, every, from) in [(false, every.0, 0), (true, every.1, 300)] {
            for second in (from..600).step_by(every as usize) {
                let took = ms(second, new);
                let of = Minute {
                    count: 1,
                    ms: took,
                    squares: took * took,
                    ..Minute::of(Time(second * SECOND))
                };
                versions.served(("shop", "pay", if new { "2" } else { "1" }), of);
            }
        }
        let release = Release {
            namespace: "shop".into(),
            service: "pay".into(),
            version: "2".into(),
            time: Time(290 * SECOND),
            ..Release::default()
        };
        let pay = Entity::new("Service", "shop", "pay");
        versions.slower(pay, &release, Time(600 * SECOND))
    }

    /// Guarantees: a version that is slow is told beside one that is not, and nothing is told of one that is slow
    /// at first, is asked too little, or is slow as all are.
    #[test]
    fn a_version_is_held_against_those_beside_it() {
        let slow = canary((1, 5), |_, new| if new { 300.0 } else { 80.0 }).unwrap();
        assert_eq!(
            (slow.since, slow.ms.0.round(), slow.ms.1.round()),
            (Time(300 * SECOND), 80.0, 300.0)
        );
        let at_first = canary((1, 5), |at, new| if new && at < 360 { 900.0 } else { 80.0 });
        assert_eq!(at_first, None);
        assert_eq!(canary((1, 60), |_, new| if new { 300.0 } else { 80.0 }), None);
        assert_eq!(canary((1, 5), |at, _| if at < 300 { 80.0 } else { 300.0 }), None);
        // One request in thirty is very slow, of whichever version.
        assert_eq!(canary((1, 5), |at, _| if at % 30 == 0 { 3000.0 } else { 80.0 }), None);
    }
}
