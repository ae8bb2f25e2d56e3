//! Log records to templates: a line that a service has not said before is a fact, the thousandth of
//! its kind is a count.

use std::collections::{BTreeMap, HashMap};

use tapio_proto::model::Time;

/// Templates kept of each service; over it new lines are not facts any more.
const MOST_TEMPLATES: usize = 1_000;
/// Services whose templates are kept.
const MOST_SERVICES: usize = 10_000;
/// What a service says in its first time is its habit, ns.
const LEARN: i64 = 20_000_000_000;
/// Characters of a line that tell one template from another.
const LENGTH: usize = 120;

/// Templates of log lines, by who said them.
#[derive(Default)]
pub struct Templates {
    services: HashMap<String, Habits>,
}

struct Habits {
    since: Time,
    known: BTreeMap<Box<str>, u64>,
}

impl Templates {
    /// Counts a line; true when `who` has been heard for a while and never said the like.
    pub fn is_new(&mut self, who: &str, line: &str, time: Time) -> bool {
        if !self.services.contains_key(who) {
            if self.services.len() >= MOST_SERVICES {
                return false;
            }
            self.services.insert(who.to_owned(), Habits { since: time, known: BTreeMap::new() });
        }
        let Some(habits) = self.services.get_mut(who) else { return false };
        let template = template(line);
        if let Some(count) = habits.known.get_mut(template.as_str()) {
            *count += 1;
            return false;
        }
        if habits.known.len() >= MOST_TEMPLATES {
            return false;
        }
        habits.known.insert(template.into(), 1);
        time.0.saturating_sub(habits.since.0) >= LEARN
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
}
