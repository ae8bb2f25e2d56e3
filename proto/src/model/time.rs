//! Instants in nanoseconds, as OTLP has them.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// Nanoseconds since the Unix epoch (OTLP's `*_unix_nano`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// From OTLP's unsigned field; what does not fit is the end of time.
    pub fn from_unix_nano(nanos: u64) -> Self {
        Time(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Parses RFC 3339 with `Z` or an offset, to the nanosecond; what Kubernetes writes.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        if bytes.len() < 20
            || bytes[4] != b'-'
            || bytes[7] != b'-'
            || !matches!(bytes[10], b'T' | b't' | b' ')
        {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1..=12).contains(&month)
            || !(1..=31).contains(&day)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        let mut rest = text.get(19..)?;
        let mut nanos = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            for (i, digit) in fraction.bytes().take(digits.min(9)).enumerate() {
                nanos += i64::from(digit - b'0') * 10_i64.pow(8 - i as u32);
            }
            rest = fraction.get(digits..)?;
        }
        let offset = match rest {
            "Z" | "z" => 0,
            _ => {
                let sign = match rest.as_bytes().first()? {
                    b'+' => 1,
                    b'-' => -1,
                    _ => return None,
                };
                let hours: i64 = rest.get(1..3)?.parse().ok()?;
                let minutes: i64 = rest.get(4..6)?.parse().ok()?;
                sign * (hours * 60 + minutes) * 60
            }
        };
        let seconds =
            ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second - offset;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Time)
    }

    /// `03:11:16`, in UTC.
    pub fn clock(self) -> String {
        let second = self.0.div_euclid(1_000_000_000).rem_euclid(86_400);
        format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }

    /// Seconds from `earlier` to this instant; negative when it lies before.
    pub fn seconds_since(self, earlier: Time) -> f64 {
        (self.0 as f64 - earlier.0 as f64) / 1e9
    }

    /// The start of the bucket of `width` nanoseconds in which this instant lies.
    pub fn bucket(self, width: i64) -> Time {
        Time(self.0.div_euclid(width) * width)
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC with nanoseconds as far as there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        write!(f, "{year:04}-{month:02}-{day:02}T{}", self.clock())?;
        match self.0.rem_euclid(1_000_000_000) {
            0 => f.write_str("Z"),
            nanos if nanos % 1_000_000 == 0 => write!(f, ".{:03}Z", nanos / 1_000_000),
            nanos => write!(f, ".{nanos:09}Z"),
        }
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, rhs: Duration) -> Time {
        Time(self.0.saturating_sub(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rfc3339_round_trips_through_display() {
        for text in
            ["2026-11-22T03:11:39Z", "1969-12-31T23:59:59.500Z", "2024-02-29T00:00:00.000000001Z"]
        {
            assert_eq!(Time::parse_rfc3339(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Time::parse_rfc3339("2026-11-22T05:11:39+02:00"),
            Time::parse_rfc3339("2026-11-22T03:11:39Z")
        );
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026-11-22",
            "2026-13-22T03:11:39Z",
            "2026-11-22T03:11:39",
            "2026-11-22T03:11:39.é",
            "２026-11-22T03:11:39Z",
        ] {
            assert_eq!(Time::parse_rfc3339(text), None, "{text}");
        }
    }
}
