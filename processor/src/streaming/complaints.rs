//! What services complain of in their logs: lines of an error over time, and whom they name, for those of whose
//! requests nothing else tells.
//!
//! A service that logs errors all day is well; one that logs many more than it ever did is not.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tapio_proto::model::{Entity, Time};

use super::texts::Texts;

/// Lines are counted over this.
const SLOT: Duration = Duration::from_secs(10);
/// The past that they are held against, and the least of it.
const PAST: Duration = Duration::from_secs(1800);
const LEAST: Duration = Duration::from_secs(60);
/// Times that are summed up, in slots, and in how many of these errors must be.
const SPANS: [(usize, usize); 3] = [(3, 3), (6, 3), (30, 6)];
/// Standard errors above chance, as of requests.
const Z: f64 = 4.0;
/// So many times as many as ever before.
const EVER: f64 = 1.5;
/// Fewer of a service's lines say little of it.
const SHARE: f64 = 0.02;
/// Services kept, and whom they name.
const MOST: usize = 10_000;
/// Whom nobody named for so long is not asked.
const NAMED: Duration = Duration::from_secs(900);
/// Hosts looked at in one line, and bytes of it.
const MOST_HOSTS: usize = 8;
const LONGEST: usize = 1_000;

/// Whose lines tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    /// Its own.
    Own,
    /// Those of others, who name it in an error.
    Others,
}

impl Voice {
    /// The kind of the symptom.
    pub fn kind(self) -> &'static str {
        match self {
            Voice::Own => "log_errors",
            Voice::Others => "call_errors",
        }
    }
}

/// A service of which more errors are logged than ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Complaint {
    /// The service.
    pub service: Entity,
    /// Whose lines tell of it.
    pub voice: Voice,
    /// Since when, and when the newest error was logged.
    pub onset: Time,
    /// When the newest was.
    pub last: Time,
    /// Over how long it shows.
    pub span: Duration,
    /// Share of its lines that are errors, now and before; of others' lines nothing is known but their number.
    pub share: (f64, f64),
    /// Errors a minute, now and before.
    pub rate: (f64, f64),
    /// Standard errors above chance.
    pub score: f64,
    /// What is said most often.
    pub says: String,
}

impl Complaint {
    /// How far from its onset it may have begun, s: until the next error a service that fails logs none.
    pub fn within(&self) -> f64 {
        60.0 / (self.rate.0 - self.rate.1).max(f64::MIN_POSITIVE)
    }
}

/// The lines of one slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: Time,
    lines: u32,
    errors: u32,
    /// When the first of the errors was logged.
    first: Time,
    calm: bool,
}

/// Lines of one service over time.
#[derive(Debug, Default)]
struct Lines {
    slots: VecDeque<Slot>,
    texts: Texts,
    /// When the newest error was logged.
    last: Option<Time>,
    /// What was usual before it became sick: errors a slot, the most of each span, share of its lines.
    usual: Option<Usual>,
}

#[derive(Clone, Copy, Debug)]
struct Usual {
    rate: f64,
    most: [f64; SPANS.len()],
    share: f64,
}

/// All services.
#[derive(Default)]
pub struct Complaints {
    of: BTreeMap<(Entity, Voice), Lines>,
    calls: BTreeMap<(Entity, Entity), Time>,
}

impl Complaints {
    /// Takes lines in that tell of a service; `error` is what they say where they are errors.
    pub fn add(
        &mut self,
        service: &Entity,
        voice: Voice,
        (time, lines): (Time, u32),
        error: Option<&str>,
    ) {
        let key = (service.clone(), voice);
        if !self.of.contains_key(&key) && self.of.len() >= MOST {
            return;
        }
        let of = self.of.entry(key).or_default();
        let start = time.bucket(SLOT.as_nanos() as i64);
        let at = of.slots.iter().rposition(|slot| slot.start <= start);
        let known = at.and_then(|at| of.slots.get_mut(at)).filter(|slot| slot.start == start);
        let slot = match known {
            Some(slot) => slot,
            None => {
                let at = at.map_or(0, |at| at + 1);
                let fresh = Slot { start, lines: 0, errors: 0, first: time, calm: true };
                of.slots.insert(at, fresh);
                &mut of.slots[at]
            }
        };
        slot.lines = slot.lines.saturating_add(lines);
        if let Some(text) = error {
            slot.first = if slot.errors == 0 { time } else { slot.first.min(time) };
            slot.errors = slot.errors.saturating_add(lines);
            of.texts.add(text, time);
            of.last = of.last.max(Some(time));
        }
        while of.slots.front().is_some_and(|slot| slot.start + PAST < start) {
            of.slots.pop_front();
        }
    }

    /// One complains of another.
    pub fn calls(&mut self, caller: &Entity, callee: &Entity, time: Time) {
        let edge = (caller.clone(), callee.clone());
        if self.calls.len() >= MOST && !self.calls.contains_key(&edge) {
            self.calls.retain(|_, last| *last + NAMED >= time);
        }
        if self.calls.len() < MOST {
            self.calls.insert(edge, time);
        }
    }

    /// Who complains of whom now.
    pub fn edges(&self, now: Time) -> impl Iterator<Item = &(Entity, Entity)> {
        self.calls.iter().filter(move |(_, last)| **last + NAMED >= now).map(|(edge, _)| edge)
    }

    /// Those that are worse than ever, of all that have been listened to since `began`; those of whose requests
    /// more is known are left out.
    pub fn judge(
        &mut self,
        (now, began): (Time, Time),
        is_known: impl Fn(&Entity) -> bool,
    ) -> Vec<Complaint> {
        let mut told = Vec::new();
        for ((service, voice), lines) in &mut self.of {
            let longest = SLOT * SPANS[SPANS.len() - 1].0 as u32;
            if lines.last.is_none_or(|last| last + longest < now) {
                lines.usual = None;
                continue;
            }
            let judged = lines.judge(now, began, *voice);
            if judged.is_none() {
                lines.usual = None;
            }
            if let Some(complaint) = judged.filter(|_| !is_known(service)) {
                told.push(Complaint { service: service.clone(), ..complaint });
            }
        }
        told
    }
}

impl Lines {
    fn usual(&self, from: Time, began: Time) -> Option<Usual> {
        let past = self.slots.iter().filter(|slot| slot.start < from);
        let (calm, sick): (Vec<&Slot>, Vec<&Slot>) = past.partition(|slot| slot.calm);
        let since = began.max(from - PAST);
        let known = from.seconds_since(since) - sick.len() as f64 * SLOT.as_secs_f64();
        if known < LEAST.as_secs_f64() {
            return None;
        }
        let errors: f64 = calm.iter().map(|slot| f64::from(slot.errors)).sum();
        let lines: f64 = calm.iter().map(|slot| f64::from(slot.lines)).sum();
        let most = SPANS.map(|(slots, _)| {
            let width = SLOT.as_nanos() as i64 * slots as i64;
            let mut sums: BTreeMap<i64, f64> = BTreeMap::new();
            for slot in &calm {
                *sums.entry((from.0 - 1 - slot.start.0) / width).or_default() +=
                    f64::from(slot.errors);
            }
            sums.into_values().fold(0.0, f64::max)
        });
        Some(Usual {
            rate: errors / (known / SLOT.as_secs_f64()),
            most,
            share: errors / lines.max(1.0),
        })
    }

    fn judge(&mut self, now: Time, began: Time, voice: Voice) -> Option<Complaint> {
        let newest = now.bucket(SLOT.as_nanos() as i64);
        for (at, (slots, least)) in SPANS.into_iter().enumerate() {
            let from = newest - SLOT * (slots as u32 - 1);
            let Some(usual) = self.usual.or_else(|| self.usual(from, began)) else { continue };
            let sum: Vec<&Slot> = self.slots.iter().filter(|slot| slot.start >= from).collect();
            let errors: f64 = sum.iter().map(|slot| f64::from(slot.errors)).sum();
            let lines: f64 = sum.iter().map(|slot| f64::from(slot.lines)).sum();
            let expected = usual.rate * slots as f64;
            let score = (errors - 1.0 - expected) / (expected + 1.0).sqrt();
            let often = sum.iter().filter(|slot| slot.errors > 0).count() >= least;
            let share = errors / lines.max(1.0);
            let enough = voice == Voice::Others || share >= SHARE;
            if score <= Z || !often || errors <= EVER * usual.most[at] || !enough {
                continue;
            }
            // It began where the errors beyond the usual began to gather.
            let (mut gathered, mut least, mut onset) = (0.0, 0.0, None);
            for slot in &sum {
                if gathered <= least {
                    (least, onset) = (gathered, None);
                }
                if slot.errors > 0 {
                    onset = onset.or(Some(slot.first));
                }
                gathered += f64::from(slot.errors) - usual.rate;
            }
            let onset = onset?;
            self.usual = Some(usual);
            let sick = onset.bucket(SLOT.as_nanos() as i64);
            self.slots.iter_mut().filter(|slot| slot.start >= sick).for_each(|s| s.calm = false);
            let minutes = slots as f64 * SLOT.as_secs_f64() / 60.0;
            let says = self.texts.since(onset).max_by_key(|(_, text)| text.count);
            return Some(Complaint {
                service: Entity::new("", "", ""),
                voice,
                onset,
                last: self.last?,
                span: SLOT * slots as u32,
                share: (share, usual.share),
                rate: (errors / minutes, usual.rate * 60.0 / SLOT.as_secs_f64()),
                score,
                says: says.map(|(_, text)| text.example.to_string()).unwrap_or_default(),
            });
        }
        None
    }
}

/// Hosts that a line names: in addresses (`http://cart/x`, `cart:80`, `[cart/10.0.0.9]`, `lookup cart`). What is
/// none of those known here is nobody's, so a word too many does no harm.
pub fn hosts(line: &str) -> Vec<&str> {
    let mut hosts = Vec::new();
    named(super::cut(line, LONGEST), &mut hosts);
    hosts
}

fn named<'a>(line: &'a str, hosts: &mut Vec<&'a str>) {
    let mut add = |host: &'a str| {
        let named = host.len() > 1
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && host.bytes().any(|b| b.is_ascii_alphabetic() || b == b'.');
        if named && hosts.len() < MOST_HOSTS && !hosts.contains(&host) {
            hosts.push(host);
        }
    };
    let apart = |c: char| c.is_whitespace() || "\"'`,;()[]<>{}|=".contains(c);
    let mut before = "";
    // Where more is to be read nobody was asked.
    let is_hint = |before: &str| {
        let before = before.trim_end_matches([':', '.']).to_ascii_lowercase();
        ["see", "visit", "read", "docs", "documentation", "guide", "help", "info"]
            .contains(&&*before)
    };
    for word in line.split(apart).filter(|word| !word.is_empty()) {
        if let Some((_, address)) = word.split_once("://").filter(|_| !is_hint(before)) {
            let address = address.split(['/', '?', '#']).next().unwrap_or_default();
            let address = address.rsplit('@').next().unwrap_or_default();
            add(address.split(':').next().unwrap_or_default());
        } else if let Some((host, port)) = word.trim_end_matches([':', '.']).rsplit_once(':') {
            let is_port = (2..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
            // Who was asked for a name is not whom it was asked for.
            if is_port && before != "on" {
                host.split('/').for_each(&mut add);
            }
        } else if matches!(before, "lookup" | "host" | "hostname") {
            add(word.trim_end_matches([':', '.']));
        } else if let Some((name, address)) = word.split_once('/')
            && address.parse::<std::net::IpAddr>().is_ok()
        {
            add(name);
            add(address);
        }
        before = word;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn second(s: i64) -> Time {
        Time(s * 1_000_000_000)
    }

    fn service() -> Entity {
        Entity::new("Service", "shop", "cart")
    }

    /// What is told at the end of these seconds, when each second has one line and so many errors.
    fn told(seconds: i64, errors: impl Fn(i64) -> u32) -> Vec<Complaint> {
        let mut complaints = Complaints::default();
        let mut told = Vec::new();
        for s in 1_000..1_000 + seconds {
            complaints.add(&service(), Voice::Own, (second(s), 1), None);
            for _ in 0..errors(s - 1_000) {
                complaints.add(&service(), Voice::Own, (second(s), 1), Some("out of memory"));
            }
            told = complaints.judge((second(s), second(1_000)), |_| false);
        }
        told
    }

    /// Guarantees: errors of a service that logs none are told with their beginning and their words, as long
    /// as they come and however long that is.
    #[test]
    fn a_service_that_begins_to_log_errors_is_told() {
        for seconds in [260, 600, 3_000] {
            let all = told(seconds, |s| u32::from(s >= 200 && s % 2 == 0));
            let [complaint] = &all[..] else { panic!("{all:?}") };
            assert_eq!(complaint.says, "out of memory");
            assert!(complaint.onset >= second(1_200) && complaint.share.0 > 0.3, "{complaint:?}");
            assert_eq!(complaint.rate.1, 0.0);
        }
    }

    /// Guarantees: who logs errors all day, in bursts or seldom, is well; so is one who has just been heard,
    /// and one who logged a handful.
    #[test]
    fn errors_that_are_usual_are_not() {
        assert_eq!(told(900, |s| u32::from(s % 3 == 0)), []);
        assert_eq!(told(1_275, |s| if s % 300 < 15 { 3 } else { 0 }), []);
        assert_eq!(told(50, |_| 1), []);
        assert_eq!(told(400, |s| u32::from(s > 390 && s % 2 == 0)), []);
        assert_eq!(told(400, |s| if s == 380 { 50 } else { 0 }), []);
    }

    /// Guarantees: of one of whose requests more is known nothing is told.
    #[test]
    fn where_requests_are_seen_lines_are_not_asked() {
        let mut complaints = Complaints::default();
        for s in 0..400 {
            let error = (s > 200).then_some("boom");
            complaints.add(&service(), Voice::Own, (second(s), 1), error);
        }
        assert_eq!(complaints.judge((second(400), second(0)), |s| *s == service()), []);
        assert_eq!(complaints.judge((second(400), second(0)), |_| false).len(), 1);
    }

    /// Guarantees: hosts are found in the addresses that clients of many languages write.
    #[test]
    fn lines_name_whom_they_could_not_reach() {
        for (line, expected) in [
            ("I/O error on POST request for \"http://ledger/entries\": refused", &["ledger"][..]),
            ("Connect to http://ledger:80 [ledger/10.96.0.24] failed", &["ledger", "10.96.0.24"]),
            ("dial tcp 10.96.0.24:5432: connect: connection refused", &["10.96.0.24"]),
            ("lookup cart.shop on 10.96.0.10:53: no such host", &["cart.shop"]),
            ("HTTPConnectionPool(host='features.ml', port=443)", &["features.ml"]),
            ("connection to server at db (10.0.0.9), port 5432 failed", &[]),
            ("status code 500 url=http://accounts/accounts/17", &["accounts"]),
            ("at Foo.java:17 took 12:30:11", &["Foo.java"]),
        ] {
            assert_eq!(hosts(line), expected, "{line}");
        }
    }
}
