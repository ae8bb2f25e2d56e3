//! Facts in plain words, with their numbers.

use std::collections::BTreeMap;

use tapio_proto::model::{Change, Entity, Event};

use super::assemble::Failure;
use crate::{correlation::symptoms::SILENCE, kubernetes::telling};

/// `45 %`, `0.4 %`, `0 %`.
pub(super) fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        p if p == 0.0 || p >= 1.0 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

/// `1,285`
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `2 m 31 s`, `45 s`, `3 h 5 m`, `5 d 2 h`.
pub(super) fn lasting(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=59 => format!("{s} s"),
        60..=3599 => format!("{} m {} s", s / 60, s % 60),
        3600..=172_799 => format!("{} h {} m", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// `second`, `third`, `12th`.
pub(super) fn ordinal(n: usize) -> String {
    const FIRST: [&str; 10] = [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
        "tenth",
    ];
    let known = n.checked_sub(1).and_then(|at| FIRST.get(at));
    known.map_or_else(
        || {
            let end = match (n % 10, n % 100) {
                (_, 11..=13) => "th",
                (1, _) => "st",
                (2, _) => "nd",
                (3, _) => "rd",
                _ => "th",
            };
            format!("{n}{end}")
        },
        |word| (*word).to_owned(),
    )
}

/// `cart, catalog and 5 more`: at most `most` of them by name.
pub(super) fn some(names: &[&str], most: usize) -> String {
    let shown = if names.len() > most { most.saturating_sub(1) } else { names.len() };
    let list = names[..shown].join(", ");
    match names.len() - shown {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

/// At most `most` characters of a text, in one line.
pub(super) fn short(text: &str, most: usize) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.chars().count() > most {
        line = line.chars().take(most.saturating_sub(3)).collect::<String>() + "...";
    }
    line
}

/// What was changed: `pool.json max_connections 8 -> 200`.
pub(super) fn change(rows: &[&Change]) -> String {
    let one = |row: &Change| {
        let path = field(&row.path);
        match (&row.old, &row.new) {
            _ if path.is_empty() => row.verb.clone(),
            (Some(old), Some(new)) => format!("{path} {} -> {}", short(old, 60), short(new, 60)),
            (None, Some(new)) => format!("{path} added: {}", short(new, 60)),
            (Some(old), None) => format!("{path} removed, was {}", short(old, 60)),
            (None, None) => format!("{path} changed"),
        }
    };
    let mut words: Vec<String> = rows.iter().take(3).map(|row| one(row)).collect();
    if rows.len() > 3 {
        words.push(format!("and {} more fields", rows.len() - 3));
    }
    words.join("; ")
}

/// A field as a person says it: the part of the path that tells it.
fn field(path: &str) -> String {
    let path = path
        .strip_prefix("spec.template.spec.")
        .or_else(|| path.strip_prefix("spec."))
        .unwrap_or(path);
    path.strip_prefix("data.").unwrap_or(path).to_owned()
}

/// Why a container waits; for how long it does of one that is started anew, whose name was told.
fn waits(message: &str) -> &str {
    let end = " restarting failed container";
    message
        .split_once(end)
        .filter(|(pause, _)| pause.starts_with("back-off "))
        .map_or(message, |(pause, _)| pause)
}

/// Facts of one sort on one workload, as one line.
pub(super) struct Line<'a> {
    /// The first of them.
    pub first: &'a Event,
    /// How many there were.
    pub times: usize,
    /// Pods that are not ready.
    pods: Vec<&'a str>,
}

/// Facts by sort, in order of the first of each: deaths by reason, waiting by reason, lines by text.
pub(super) fn lines<'a>(events: &[&'a Event]) -> Vec<Line<'a>> {
    let mut sorts: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
    let mut lines: Vec<Line<'a>> = Vec::new();
    for event in events {
        let sort = match event.r#type.as_str() {
            "log.new" | "log.error" | "log.said" => {
                (event.r#type.as_str(), event.message.as_str(), "", "")
            }
            "probe.failed" => (
                "probe.failed",
                event.message.split(' ').next().unwrap_or(""),
                event.container.as_str(),
                "",
            ),
            kind => {
                (kind, event.reason.as_str(), event.container.as_str(), event.entity_kind.as_str())
            }
        };
        match sorts.get(&sort) {
            // Of several pods it is told how many, not how often.
            Some(at) if event.r#type == "pod.not_ready" => {
                let line = &mut lines[*at];
                if line.pods.contains(&event.entity_name.as_str()) {
                    line.times += 1;
                } else {
                    line.pods.push(&event.entity_name);
                }
            }
            Some(at) => lines[*at].times += 1,
            None => {
                sorts.insert(sort, lines.len());
                let pods = vec![event.entity_name.as_str()];
                lines.push(Line { first: event, times: 1, pods });
            }
        }
    }
    lines
}

impl Line<'_> {
    /// In words: `container inventory OOMKilled (exit 137)`.
    pub(super) fn words(&self) -> String {
        let e = self.first;
        let container = if e.container.is_empty() {
            "container".to_owned()
        } else {
            format!("container {}", e.container)
        };
        match e.r#type.as_str() {
            "container.terminated" => {
                let exit = e.value.map(|code| format!(" (exit {code:.0})")).unwrap_or_default();
                let reason = if e.reason == "Error" { "dies" } else { &e.reason };
                let said = if e.message.is_empty() {
                    String::new()
                } else {
                    format!(": {}", short(&telling(&e.message), 80))
                };
                format!("{container} {reason}{exit}{said}")
            }
            "container.waiting" if e.message.is_empty() => {
                format!("{container} cannot run: {}", e.reason)
            }
            "container.waiting" => {
                format!("{container} cannot run: {}: {}", e.reason, short(waits(&e.message), 110))
            }
            "endpoints.empty" => format!("Service {} has no ready endpoint", e.entity_name),
            "probe.failed" | SILENCE => short(&e.message, 110),
            "pod.unschedulable" => {
                format!("pod {} cannot be scheduled: {}", e.entity_name, short(&e.message, 90))
            }
            "pod.not_ready" if self.pods.len() > 1 => {
                format!("{} pods are not ready: {}", self.pods.len(), some(&self.pods, 3))
            }
            "pod.not_ready" => format!("pod {} is not ready", e.entity_name),
            "node.not_ready" => {
                format!("node {} is not ready: {}", e.entity_name, short(&e.message, 80))
            }
            "log.new" => format!(
                "{} logs for the first time: \"{}\"",
                e.workload_name,
                short(&e.message, 80)
            ),
            "log.error" | "log.said" => {
                format!("{} logs: \"{}\"", e.workload_name, short(&e.message, 90))
            }
            _ => {
                let said = if e.message.is_empty() {
                    String::new()
                } else {
                    format!(": {}", short(&e.message, 90))
                };
                format!(
                    "{} {}{said}",
                    e.entity_name,
                    if e.reason.is_empty() { &e.r#type } else { &e.reason }
                )
            }
        }
    }

    /// In words, and how often when that is more than once.
    pub(super) fn counted(&self) -> String {
        if self.times > 1 {
            format!("{}, {} times so far", self.words(), self.times)
        } else {
            self.words()
        }
    }
}

/// Fills `{name}` from the map, once: what is filled in is not read again. Unknown names stay.
pub(crate) fn fill(template: &str, values: &BTreeMap<&str, String>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let after = &rest[open + 1..];
        match after.find('}').map(|close| (&after[..close], &after[close + 1..])) {
            Some((name, behind)) if values.contains_key(name) => {
                out.push_str(&values[name]);
                rest = behind;
            }
            _ => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Milliseconds that a histogram knows, which are the edges of its buckets: `1.5 s`, `160 ms`, `4 ms`.
fn took(ms: f64) -> String {
    match ms {
        10_000.0.. => format!("{:.0} s", ms / 1000.0),
        1_000.0.. => format!("{:.1} s", ms / 1000.0),
        100.0.. => format!("{:.0} ms", (ms / 10.0).round() * 10.0),
        _ => format!("{ms:.0} ms"),
    }
}

/// `checkout: 12 % of requests fail (123 of 1,025), was 0 %; GET /cart`
pub(super) fn failure_words(service: &Entity, failure: &Failure, inner: bool) -> String {
    if failure.kind == "alert" {
        return format!("an alert names {}: {}", service.name, short(&failure.detail, 90));
    }
    let who = if inner { service.name.to_string() } else { format!("users of {}", service.name) };
    let own = failure.count.own();
    if failure.kind == "latency" {
        let takes = match own.requests {
            0 => format!("calls to {} take", service.name),
            _ => format!("{who} wait:"),
        };
        let (now, was) = (took(failure.worst), took(failure.baseline));
        return format!("{takes} {now} in the median, was {was}");
    }
    if failure.kind == "log_errors" {
        return format!(
            "{} of the lines that {} logs are errors, was {}: {}",
            percent(failure.worst),
            service.name,
            percent(failure.baseline),
            short(&failure.detail, 90)
        );
    }
    let (total, failed) = (own.requests, own.failed);
    if failed == 0 {
        let seen = if failure.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", short(&failure.detail, 70))
        };
        return format!("calls to {} fail{seen}", service.name);
    }
    let most = failure.count.operations().filter(|(_, tally)| tally.failed * 10 >= failed);
    let operations: Vec<&str> = most.map(|(name, _)| &**name).take(3).collect();
    format!(
        "{who}: {} of requests fail ({} of {}), was {}; {}",
        percent(failed as f64 / total.max(1) as f64),
        count(failed),
        count(total),
        percent(failure.baseline),
        operations.join(", ")
    )
}

/// Title, mechanism and impact in sentences.
pub(super) fn narrative(title: &str, mechanism: Option<&str>, impact: &[String]) -> String {
    let mut text = format!("{title}.");
    if let Some(mechanism) = mechanism {
        let mut first = mechanism.chars();
        if let Some(c) = first.next() {
            text.push(' ');
            text.extend(c.to_uppercase());
            text.push_str(first.as_str());
            text.push('.');
        }
    }
    for line in impact {
        text.push_str(&format!(" Impact: {line}."));
    }
    text
}

/// The first four names, and how many more.
pub(crate) fn names<'a>(entities: impl Iterator<Item = &'a Entity>) -> String {
    let all: Vec<&str> = entities.map(|e| &*e.name).collect();
    match all.len() {
        0..=4 => all.join(", "),
        n => format!("{} and {} more", all[..4].join(", "), n - 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_text_is_never_a_template() {
        let values =
            BTreeMap::from([("new", "{undo}".to_owned()), ("undo", "rm -rf /".to_owned())]);
        assert_eq!(fill("image {new} {odd", &values), "image {undo} {odd");
    }

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(count(1285), "1,285");
        assert_eq!(percent(0.4451), "45 %");
        assert_eq!(lasting(151.2), "2 m 31 s");
        assert_eq!(lasting(86_400.0), "24 h 0 m");
        assert_eq!(lasting(500_000.0), "5 d 18 h");
        assert_eq!([3, 11, 22, 113].map(ordinal), ["third", "11th", "22nd", "113th"]);
    }
}
