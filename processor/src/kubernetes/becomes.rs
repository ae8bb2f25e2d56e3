//! Whether a changed value became less or more: numbers, times, quantities, percentages, switches.

use std::cmp::Ordering;

/// The new value is less than the old one.
pub(super) const LESS: &str = "less";
/// It is more.
pub(super) const MORE: &str = "more";
/// Both are written differently and mean the same.
const SAME: &str = "same";
/// They cannot be compared.
const UNKNOWN: &str = "";

/// What a field at this path became: [`LESS`], [`MORE`], `same`, or nothing where that cannot be told.
pub(super) fn direction(path: &str, old: Option<&str>, new: Option<&str>) -> &'static str {
    let of = |side: Option<&str>| side.map_or_else(Vec::new, |text| readings(text, path));
    let (was, is) = (of(old), of(new));
    // Of a resource of which nothing is said it is known what Kubernetes makes of it.
    let limits = path.contains(".resources.limits.") || path.starts_with("spec.hard.");
    let requests = path.contains(".resources.requests.");
    match (old.is_some(), new.is_some()) {
        (false, true) if limits && !is.is_empty() => return LESS,
        (true, false) if limits && !was.is_empty() => return MORE,
        (false, true) if requests && !is.is_empty() => return MORE,
        _ => {}
    }
    let alike = was.iter().find_map(|(measure, was)| {
        is.iter().find(|(other, _)| other == measure).map(|(_, is)| (*measure, *was, *is))
    });
    let Some((measure, was, is)) = alike else { return UNKNOWN };
    // What is 0 or less often stands for "without bound", or for "never": from there all is possible.
    let unbound = old.is_some() && measure != Measure::Switch && was <= 0.0;
    match was.partial_cmp(&is) {
        _ if unbound || is < 0.0 => UNKNOWN,
        Some(Ordering::Less) => MORE,
        Some(Ordering::Greater) => LESS,
        Some(Ordering::Equal) => SAME,
        None => UNKNOWN,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// A number without a unit, or a quantity of a resource of Kubernetes.
    Plain,
    /// Seconds.
    Time,
    /// Bytes, or a number in thousands.
    Size,
    /// Hundredths.
    Percent,
    /// On or off.
    Switch,
}

/// What a text may stand for, the likeliest first: `5m` are minutes, `512m` beside `1g` is memory.
fn readings(text: &str, path: &str) -> Vec<(Measure, f64)> {
    let text = text.trim().trim_matches(['"', '\'']);
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "enabled" => return vec![(Measure::Switch, 1.0)],
        "false" | "off" | "no" | "disabled" => return vec![(Measure::Switch, 0.0)],
        _ => {}
    }
    if let Some(iso) = text.strip_prefix("PT") {
        return time(&iso.to_ascii_lowercase()).map(|s| (Measure::Time, s)).into_iter().collect();
    }
    let Some((number, unit)) = split(text) else { return Vec::new() };
    let of_kubernetes = path.contains(".resources.") || path.starts_with("spec.hard.");
    match unit {
        "" => vec![(Measure::Plain, number)],
        "%" => vec![(Measure::Percent, number)],
        "m" if of_kubernetes => vec![(Measure::Plain, number / 1000.0)],
        unit => {
            let size = if of_kubernetes { Measure::Plain } else { Measure::Size };
            let time = time(text).filter(|_| !of_kubernetes).map(|s| (Measure::Time, s));
            let size = factor(unit).map(|factor| (size, number * factor));
            time.into_iter().chain(size).collect()
        }
    }
}

/// The number at the start of a text, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let digit = |c: char| c.is_ascii_digit() || c == '.' || c == '_';
    let signed = text.strip_prefix('-').unwrap_or(text);
    let end = signed.find(|c: char| !digit(c)).unwrap_or(signed.len());
    let number: f64 = signed[..end].replace('_', "").parse().ok()?;
    Some((if signed.len() < text.len() { -number } else { number }, signed[end..].trim_start()))
}

/// Seconds of `250ms`, `2 s`, `1m30s`, `5 minutes`.
fn time(text: &str) -> Option<f64> {
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let (number, after) = split(rest)?;
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        seconds += number
            * match &after[..end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" | "msec" | "millis" | "milliseconds" => 1e-3,
                "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
                "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
                "h" | "hour" | "hours" => 3600.0,
                "d" | "day" | "days" => 86_400.0,
                _ => return None,
            };
        rest = after[end..].trim_start();
    }
    Some(seconds)
}

/// What a suffix of a size stands for.
fn factor(unit: &str) -> Option<f64> {
    Some(match unit.strip_suffix(['B', 'b']).unwrap_or(unit) {
        "k" | "K" => 1e3,
        "m" | "M" => 1e6,
        "g" | "G" => 1e9,
        "t" | "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "" => 1.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guarantees: less and more are told of whatever people write for amounts, also in different units.
    #[test]
    fn amounts_are_compared_in_the_units_that_people_write() {
        for (path, old, new, becomes) in [
            ("data.timeout", "2s", "5s", MORE),
            ("data.timeout", "2s", "250ms", LESS),
            ("data.timeout", "30s", "5m", MORE),
            ("data.timeout", "1m30s", "PT90S", SAME),
            ("data.timeout", "5 seconds", "1 minute", MORE),
            ("env[POOL_SIZE].value", "20", "25", MORE),
            ("env[POOL_SIZE].value", "1_000", "25", LESS),
            ("data.retries", "5", "0", LESS),
            ("data.share", "50%", "20%", LESS),
            ("data.cache.enabled", "true", "false", LESS),
            ("data.heap", "512m", "1g", MORE),
            ("c.resources.limits.memory", "768Mi", "1Gi", MORE),
            ("c.resources.limits.cpu", "500m", "1", MORE),
            ("spec.hard.pods", "10", "1", LESS),
        ] {
            assert_eq!(direction(path, Some(old), Some(new)), becomes, "{path}: {old} to {new}");
        }
    }

    /// Guarantees: where it cannot be told nothing is said: other units, words, what is hidden, what was
    /// without bound. Of the resources of a container it is known what is meant where nothing is said.
    #[test]
    fn what_cannot_be_compared_is_neither() {
        for (old, new) in [
            (Some("2s"), Some("2000")),
            (Some("fast"), Some("slow")),
            (Some("(redacted)"), Some("(redacted)")),
            (Some("0"), Some("5s")),
            (Some("10"), Some("-1")),
            (Some("web:1"), Some("web:2")),
            (Some("1.2.3"), Some("1.2.4")),
            (None, Some("5")),
            (Some("5"), None),
        ] {
            assert_eq!(direction("data.x", old, new), UNKNOWN, "{old:?} to {new:?}");
        }
        let limit = "spec.template.spec.containers[a].resources.limits.cpu";
        let request = "spec.template.spec.containers[a].resources.requests.cpu";
        assert_eq!(direction(limit, Some("1"), None), MORE);
        assert_eq!(direction(limit, None, Some("500m")), LESS);
        assert_eq!(direction(request, None, Some("1")), MORE);
        assert_eq!(direction(request, Some("1"), None), UNKNOWN);
    }
}
