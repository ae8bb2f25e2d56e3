//! Log records to templates: a line that a service has not said before is a fact, the thousandth of
//! its kind is a count.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tapio_proto::{
    model::{Severity, Time},
    view::{AnyValue, Attributes, LogView},
};

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

/// Where structured logs keep their message, in a body in JSON or a map.
const MESSAGE: [&str; 4] = ["message", "msg", "log", "event"];
/// Where they keep what went wrong beside it: `exception.*` and `error.message` by the semantic
/// conventions, the others by the habit of loggers. The first that is there.
const WRONG: [&str; 6] =
    ["exception.message", "error.message", "error", "err", "exception", "exception.type"];

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
    /// Counts a line; true when `who` has been heard for a while and never said the like. It counts as heard from
    /// its first line on, or since `since`: who was silent and begins with an error has no such habit.
    pub fn is_new(&mut self, who: &str, template: &str, since: Option<Time>, time: Time) -> bool {
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
        if let Some(last) = habits.known.get_mut(template) {
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
        let since = since.unwrap_or(habits.since);
        !crowded && time.0.saturating_sub(since.0) >= LEARN
    }
}

/// A line with what varies taken out: numbers, hexadecimal, quoted text. Of a line in JSON its message.
/// Where in the code it was said (`Class#123`, `file.go:45`) tells lines apart and stays.
pub fn template(line: &str) -> String {
    let line = message(line);
    let mut out = String::with_capacity(LENGTH);
    let mut rest = line.char_indices().peekable();
    let mut before = ' ';
    while let Some((at, c)) = rest.next() {
        if out.len() >= LENGTH {
            break;
        }
        match c {
            '"' => {
                out.push_str("\"*\"");
                let mut escaped = false;
                for (_, c) in rest.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            c if c.is_ascii_digit() => {
                let place = (before == '#' || before == ':')
                    && !out.ends_with("#:")
                    && !out.ends_with("##");
                let digits = line.get(at..).map_or(0, |rest| {
                    rest.bytes()
                        .take_while(|b| b.is_ascii_hexdigit() || b".:-_".contains(b))
                        .count()
                });
                let plain = line
                    .get(at..at + digits)
                    .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
                if place && plain && digits <= 5 {
                    out.push_str(line.get(at..at + digits).unwrap_or_default());
                } else if !out.ends_with('#') || before == '#' {
                    out.push('#');
                }
                (1..digits).for_each(|_| _ = rest.next());
            }
            _ if !before.is_ascii_alphanumeric()
                && hexadecimal(line.get(at..).unwrap_or_default()) > 0 =>
            {
                out.push('#');
                let length = hexadecimal(line.get(at..).unwrap_or_default());
                (1..length).for_each(|_| _ = rest.next());
            }
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// Length of the hexadecimal id with which the text begins; 0 when it is a word.
fn hexadecimal(text: &str) -> usize {
    let length = text.bytes().take_while(|b| b.is_ascii_hexdigit() || *b == b'-').count();
    let id = &text[..length];
    let ends = text[length..].bytes().next().is_none_or(|b| !b.is_ascii_alphanumeric());
    let is = length >= 8 && ends && id.bytes().any(|b| b.is_ascii_digit());
    if is { length } else { 0 }
}

/// What a record says, when it says anything in words: the message of its body (a text, JSON or a map), and of a
/// warning or an error what went wrong, which structured logs keep beside a message that never
/// varies.
pub fn said<'a>(log: &LogView<'a>) -> Option<(Cow<'a, str>, Severity)> {
    let of_map = |map: Attributes<'a>, keys: &[&str]| -> Option<&'a str> {
        keys.iter().find_map(|key| {
            let mut named = map.flatten().filter(|field| field.key == *key);
            named.find_map(|field| field.value.as_str()).filter(|text| !text.is_empty())
        })
    };
    let (whole, line) = match log.body {
        Some(AnyValue::String(whole)) => (whole, message(whole)),
        Some(AnyValue::KvList(map)) => {
            let line = of_map(map, &MESSAGE)?;
            (line, line)
        }
        _ => return None,
    };
    let severity = severity(log, whole);
    if severity == Severity::Info {
        return Some((line.into(), severity));
    }
    let beside = match log.body {
        Some(AnyValue::KvList(map)) => of_map(map, &WRONG),
        _ => of_json(whole, &WRONG),
    };
    let wrong = beside.or_else(|| of_map(log.attributes(), &WRONG));
    let line = match wrong.filter(|wrong| !line.contains(wrong)) {
        Some(wrong) => format!("{line}: {wrong}").into(),
        None => line.into(),
    };
    Some((line, severity))
}

/// Severity of a record; of a line without one, as a shell reader would take it.
fn severity(log: &LogView<'_>, body: &str) -> Severity {
    match log.severity_number {
        17.. => Severity::Error,
        13..=16 => Severity::Warning,
        1..=12 => Severity::Info,
        _ => {
            let start: String = body.chars().take(200).collect::<String>().to_ascii_lowercase();
            let bad = [
                "fatal",
                "panic",
                "error",
                "exception",
                "traceback",
                "segfault",
                "[emerg]",
                "[crit]",
            ];
            if bad.iter().any(|word| start.contains(word)) {
                Severity::Error
            } else {
                Severity::Info
            }
        }
    }
}

/// The message of a line in JSON; another line as it is.
fn message(line: &str) -> &str {
    of_json(line, &MESSAGE).unwrap_or(line)
}

/// The text of the first of these keys that a line in JSON has, escaped as it came.
fn of_json<'a>(line: &'a str, keys: &[&str]) -> Option<&'a str> {
    if !line.starts_with('{') {
        return None;
    }
    keys.iter().find_map(|key| {
        let mut rest = line;
        loop {
            let at = rest.find(key)?;
            let quoted = rest[..at].ends_with('"');
            rest = &rest[at + key.len()..];
            let value = rest.strip_prefix('"').map(str::trim_start);
            let value = value.and_then(|rest| rest.strip_prefix(':')).map(str::trim_start);
            let Some(text) = value.filter(|_| quoted).and_then(|value| value.strip_prefix('"'))
            else {
                continue;
            };
            let mut escaped = false;
            let end = text.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            return Some(end.map_or(text, |end| &text[..end])).filter(|text| !text.is_empty());
        }
    })
}

/// What kind of error a line tells of: the exceptions that it names, where it names any; else its
/// template.
pub fn signature(line: &str, template: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || "._$".contains(c))) {
        let name = word.rsplit(['.', '$']).next().unwrap_or(word);
        let named = (name.ends_with("Exception") || name.ends_with("Error")) && name.len() > 9;
        if named && !names.contains(&name) && names.len() < 4 {
            names.push(name);
        }
    }
    if names.is_empty() { template.to_owned() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use tapio_proto::{
        Signal,
        view::{Record, RequestView},
    };

    use super::*;

    #[test]
    fn numbers_addresses_and_quotes_do_not_tell_lines_apart() {
        let a = template("dial tcp 10.96.72.116:80: connect: refused for \"user 12\" after 20ms");
        let b = template("dial tcp 10.88.1.9:8080: connect: refused for \"x\\\"y\" after 7ms");
        assert_eq!(a, b);
    }

    #[test]
    fn ids_do_not_tell_lines_apart_and_places_in_the_code_do() {
        let said = |place: u32, id: &str| {
            template(&format!(
                "17:35:21.390 INFO t.s.TravelServiceImpl#{place} TraceID: {id} [getTickets] done"
            ))
        };
        assert_eq!(said(366, "546186691b155f7e"), said(366, "ad2c1917973901ac"));
        assert_ne!(said(366, "546186691b155f7e"), said(372, "546186691b155f7e"));
        assert_eq!(template("a dead feedbeef decade"), "a dead feedbeef decade");
        let json =
            r#"{"id":"c52c","message":"paid \"12\" for 3f2a8c00-1a8b-4598","severity":"info"}"#;
        assert_eq!(template(json), template("paid \\\"99\\\" for 4f2a8c00-1a8b-4598"));
    }

    #[test]
    fn what_went_wrong_is_said_with_a_message_that_never_varies() {
        let said = |record: &str| {
            let json =
                format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#);
            let bytes = tapio_proto::json::to_proto(Signal::Logs, json.as_bytes()).unwrap();
            let resource = RequestView::new(Signal::Logs, &bytes).resources().flatten().next();
            let scope = resource.unwrap().scopes().flatten().next().unwrap();
            match scope.records().flatten().next().unwrap() {
                Record::Log(log) => {
                    said(&log).map(|(line, severity)| (line.into_owned(), severity))
                }
                _ => unreachable!(),
            }
        };
        let beside = |severity: u8| {
            said(&format!(
                r#"{{"severityNumber":{severity},"body":{{"stringValue":"request failed"}},"attributes":[{{"key":"error","value":{{"stringValue":"pool is empty"}}}}]}}"#
            ))
        };
        let failed = Some(("request failed: pool is empty".to_owned(), Severity::Error));
        assert_eq!(beside(17), failed);
        assert_eq!(beside(9), Some(("request failed".to_owned(), Severity::Info)));
        let json = r#"{"body":{"stringValue":"{\"level\":\"error\",\"error\": \"pool is empty\",\"msg\":\"request failed\"}"}}"#;
        assert_eq!(said(json), failed);
        let map = r#"{"severityNumber":17,"body":{"kvlistValue":{"values":[{"key":"msg","value":{"stringValue":"request failed"}},{"key":"err","value":{"stringValue":"pool is empty"}}]}}}"#;
        assert_eq!(said(map), failed);
        let whole = r#"{"severityNumber":17,"body":{"stringValue":"cannot: pool is empty"},"attributes":[{"key":"error","value":{"stringValue":"pool is empty"}}]}"#;
        assert_eq!(said(whole).unwrap().0, "cannot: pool is empty");
    }

    #[test]
    fn an_error_is_known_by_the_exceptions_that_it_names() {
        let line = "Servlet.service() threw exception [nested is java.lang.IllegalStateException: No instances] with root cause";
        assert_eq!(signature(line, &template(line)), "IllegalStateException");
        assert_eq!(signature("cannot open 12", "cannot open #"), "cannot open #");
    }

    #[test]
    fn a_line_is_new_once_and_only_after_the_service_has_been_heard() {
        let mut templates = Templates::default();
        let second = |s: i64| Time(s * 1_000_000_000);
        let mut is_new = |who, line, at| templates.is_new(who, &template(line), None, second(at));
        assert!(!is_new("a", "listening on 80", 0));
        assert!(!is_new("a", "listening on 81", 30));
        assert!(is_new("a", "configuration reloaded", 31));
        assert!(!is_new("a", "configuration reloaded", 32));
        assert!(!is_new("b", "listening on 80", 33));
        assert!(templates.is_new("c", "cannot listen", Some(second(0)), second(34)));
    }

    #[test]
    fn who_says_too_much_tells_nothing_and_is_heard_again_when_that_is_over() {
        let mut templates = Templates::default();
        let second = |s: i64| Time(s * 1_000_000_000);
        let letters = |n: usize| format!("x{}", "y".repeat(n % 60) + &"z".repeat(n / 60));
        for n in 0..3_000 {
            assert!(!templates.is_new("a", &letters(n), None, second(10)) || n > 3_000);
        }
        assert!(!templates.is_new("a", "panic: crowded", None, second(60)));
        assert!(templates.is_new("a", "configuration reloaded", None, second(4_000)));
    }
}
