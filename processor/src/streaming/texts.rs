//! What callers were told of late, so that what a story quotes is of its own time.

use std::{collections::BTreeMap, time::Duration};

use tapio_proto::model::Time;

use super::template;

/// Kinds of text remembered of each caller and callee.
const MOST_TEXTS: usize = 16;
/// A text that comes again after so long is counted anew.
const BOUT: Duration = Duration::from_secs(60);
/// Bytes kept of a text.
const LONGEST: usize = 1_000;

/// One kind of text: lines that differ in numbers only are one.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) count: u64,
    pub(super) last: Time,
    pub(super) example: Box<str>,
}

/// The error texts that one caller saw of one callee.
#[derive(Debug, Default)]
pub(super) struct Texts {
    kinds: BTreeMap<String, Text>,
}

impl Texts {
    /// Counts a text; the kind that was heard longest ago makes room.
    pub(super) fn add(&mut self, text: &str, time: Time) {
        let kind = template(text);
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= MOST_TEXTS {
            let oldest = self.kinds.iter().min_by_key(|(_, text)| text.last);
            if let Some(oldest) = oldest.map(|(kind, _)| kind.clone()) {
                self.kinds.remove(&oldest);
            }
        }
        let example = || Box::from(super::cut(text, LONGEST));
        let known = self.kinds.entry(kind).or_insert_with(|| Text {
            count: 0,
            last: time,
            example: example(),
        });
        if known.last + BOUT < time {
            (known.count, known.example) = (0, example());
        }
        known.count += 1;
        known.last = known.last.max(time);
    }

    /// Kinds of text heard since then.
    pub(super) fn since(&self, since: Time) -> impl Iterator<Item = (&str, &Text)> {
        self.kinds.iter().filter(move |(_, t)| t.last >= since).map(|(kind, t)| (&**kind, t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_a_port_leave_room_and_old_ones_do_not_outvote() {
        let mut texts = Texts::default();
        let second = |s: i64| Time(s * 1_000_000_000);
        for n in 0..10_000 {
            texts.add(&format!("read tcp 10.88.2.1:{n}->10.96.1.1:80: reset"), second(1));
        }
        for n in 0..20 {
            texts.add(&format!("other {}", "x".repeat(n)), second(2));
        }
        texts.add("lookup a: no such host", second(600));
        texts.add("other ", second(601));
        let late: Vec<_> = texts.since(second(590)).map(|(kind, t)| (kind, t.count)).collect();
        assert_eq!(late, [("lookup a: no such host", 1), ("other ", 1)]);
    }
}
