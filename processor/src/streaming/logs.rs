//! Log records to templates: a line that a service has not said before is a fact, the thousandth of
//! its kind is a count.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tapio_proto::model::Time;

/// Templates kept of each service; those that were not said for longest make room.
const MOST_TEMPLATES: usize = 1_000;
/// Services whose templates are kept; over it those go that were silent for [`HABIT`].
const MOST_SERVICES: usize = 10_000;
/// What is forgotten sooner than this is no habit that was given up, but one of too many to keep.
const HABIT: Duration = Duration::from_secs(3600);
/// Time from one look for silent services to the next.
const PAUSE: Duration = Duration::from_secs(60);
/// What a service says in its first time is its habit, ns.
const LEARN: i64 = 20_000_000_000;
/// Characters of a line that tell one template from another.
const LENGTH: usize = 120;

/// Templates of log lines, by who said them.
#[derive(Default)]
pub struct Templates {
    services: HashMap<String, Habits>,
    swept: Time,
}

struct Habits {
    since: Time,
    last: Time,
    /// Templates, and when each was last said.
    known: BTreeMap<Box<str>, Time>,
}

impl Templates {
    /// Counts a line; true when `who` has been heard for a while and never said the like.
    pub fn is_new(&mut self, who: &str, line: &str, time: Time) -> bool {
        if !self.services.contains_key(who) {
            if self.services.len() >= MOST_SERVICES && self.swept + PAUSE <= time {
                self.swept = time;
                self.services.retain(|_, habits| habits.last + HABIT >= time);
            }
            if self.services.len() >= MOST_SERVICES {
                return false;
            }
            let habits = Habits { since: time, last: time, known: BTreeMap::new() };
            self.services.insert(who.to_owned(), habits);
        }
        let Some(habits) = self.services.get_mut(who) else { return false };
        habits.last = time.max(habits.last);
        let template = template(line);
        if let Some(last) = habits.known.get_mut(template.as_str()) {
            *last = time.max(*last);
            return false;
        }
        let mut crowded = false;
        if habits.known.len() >= MOST_TEMPLATES
            && let Some((oldest, last)) = habits.known.iter().min_by_key(|(_, last)| **last)
        {
            crowded = *last + HABIT > time;
            let oldest = oldest.clone();
            habits.known.remove(&oldest);
        }
        habits.known.insert(template.into(), time);
        !crowded && time.0.saturating_sub(habits.since.0) >= LEARN
    }
}

/// A line with what varies taken out: numbers, hexadecimal, quoted text.
pub fn template(line: &str) -> String {
    let mut out = String::with_capacity(LENGTH);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        if out.len() >= LENGTH {
            break;
        }
        match c {
            '"' => {
                out.push_str("\"*\"");
                let mut escaped = false;
                for c in rest.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            c if c.is_ascii_digit() => {
                if !out.ends_with('#') {
                    out.push('#');
                }
                while rest
                    .peek()
                    .is_some_and(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '-' | '_'))
                {
                    rest.next();
                }
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_addresses_and_quotes_do_not_tell_lines_apart() {
        let a = template("dial tcp 10.96.72.116:80: connect: refused for \"user 12\" after 20ms");
        let b = template("dial tcp 10.88.1.9:8080: connect: refused for \"x\\\"y\" after 7ms");
        assert_eq!(a, b);
    }

    #[test]
    fn a_line_is_new_once_and_only_after_the_service_has_been_heard() {
        let mut templates = Templates::default();
        let second = |s: i64| Time(s * 1_000_000_000);
        assert!(!templates.is_new("a", "listening on 80", second(0)));
        assert!(!templates.is_new("a", "listening on 81", second(30)));
        assert!(templates.is_new("a", "configuration reloaded", second(31)));
        assert!(!templates.is_new("a", "configuration reloaded", second(32)));
    }

    #[test]
    fn who_says_too_much_tells_nothing_and_is_heard_again_when_that_is_over() {
        let mut templates = Templates::default();
        let second = |s: i64| Time(s * 1_000_000_000);
        let letters = |n: usize| format!("x{}", "y".repeat(n % 60) + &"z".repeat(n / 60));
        for n in 0..3_000 {
            assert!(!templates.is_new("a", &letters(n), second(10)) || n > 3_000);
        }
        assert!(!templates.is_new("a", "panic: crowded", second(60)));
        assert!(templates.is_new("a", "configuration reloaded", second(4_000)));
    }
}
