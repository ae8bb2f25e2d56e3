//! Durations as a Collector configuration writes them: Go's `time.ParseDuration`.

use std::{fmt, ops::Deref, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration that reads and prints like Go's: `200ms`, `1m30s`, `1.5h`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

/// Why a text is no duration; the words are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "time: {what} in duration {text:?} (expected a number and a unit, such as 200ms, 5s or 1m30s)"
)]
pub struct DurationError {
    what: &'static str,
    text: String,
}

impl GoDuration {
    /// Whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        GoDuration(Duration::from_millis(millis))
    }

    /// Whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        GoDuration(Duration::from_secs(secs))
    }
}

impl Deref for GoDuration {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<GoDuration> for Duration {
    fn from(value: GoDuration) -> Duration {
        value.0
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let (hours, minutes) = (secs / 3600, secs / 60 % 60);
        if secs == 0 && !self.0.is_zero() {
            return write!(f, "{:?}", self.0);
        }
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", (secs % 60) as f64 + f64::from(self.0.subsec_nanos()) / 1e9)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let fail = |what| DurationError { what, text: text.to_owned() };
        let mut rest = text.trim();
        if rest.starts_with('-') {
            return Err(fail("negative value"));
        }
        rest = rest.strip_prefix('+').unwrap_or(rest);
        if rest == "0" {
            return Ok(GoDuration::default());
        }
        if rest.is_empty() {
            return Err(fail("no number"));
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..digits].parse().map_err(|_| fail("invalid number"))?;
            rest = &rest[digits..];
            let unit_len =
                rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let unit = match &rest[..unit_len] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(fail("missing unit")),
                _ => return Err(fail("unknown unit")),
            };
            rest = &rest[unit_len..];
            let part =
                Duration::try_from_secs_f64(number * unit).map_err(|_| fail("value too large"))?;
            total = total.checked_add(part).ok_or_else(|| fail("value too large"))?;
        }
        Ok(GoDuration(total))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 200ms, 5s or 1m30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            // A bare number is nanoseconds, as the Collector's decoder has it.
            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanos)))
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                u64::try_from(nanos)
                    .map_err(|_| E::custom("time: negative duration"))
                    .and_then(|n| self.visit_u64(n))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in [
            ("200ms", 200),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("0s", 0),
            ("1h0m0.5s", 3_600_500),
            ("+5s", 5000),
        ] {
            assert_eq!(
                text.parse::<GoDuration>().unwrap(),
                GoDuration::from_millis(millis),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, what) in [
            ("5", "missing unit"),
            ("5 s", "unknown unit"),
            ("5x", "unknown unit"),
            ("", "no number"),
            ("-1s", "negative"),
            ("s", "invalid number"),
            ("1e9h", "unknown unit"),
            ("99999999999999999999h", "too large"),
        ] {
            let error = text.parse::<GoDuration>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn prints_like_go() {
        for (millis, text) in
            [(200, "200ms"), (5000, "5s"), (90_000, "1m30s"), (3_600_500, "1h0m0.5s"), (0, "0s")]
        {
            assert_eq!(GoDuration::from_millis(millis).to_string(), text);
        }
    }

    #[test]
    fn bare_numbers_are_nanoseconds() {
        assert_eq!(
            serde_json::from_str::<GoDuration>("1000000").unwrap(),
            GoDuration::from_millis(1)
        );
        assert_eq!(serde_json::from_str::<GoDuration>("\"1s\"").unwrap(), GoDuration::from_secs(1));
        assert!(serde_json::from_str::<GoDuration>("-1").is_err());
    }
}
