use std::str::FromStr;

/// A signed length of time in nanoseconds, written like `1h30m` or `1.5h`: the
/// grammar that existing clients validate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    nanoseconds: i64,
}

/// Why a text is not a duration. Clients compare these texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// It is not a sequence of numbers with units, or too long.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number stands without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// The unit is none of `ns us µs ms s m h`.
    #[error("time: unknown unit {unit:?} in duration {duration:?}")]
    UnknownUnit {
        /// What stands where a unit should.
        unit: String,
        /// The whole text.
        duration: String,
    },
}

impl Duration {
    /// The length in nanoseconds.
    pub fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }

    /// The length as a span of time, unless it is negative.
    pub fn unsigned(self) -> Option<std::time::Duration> {
        u64::try_from(self.nanoseconds).ok().map(std::time::Duration::from_nanos)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if unsigned == "0" {
            return Ok(Self { nanoseconds: 0 });
        }
        if unsigned.is_empty() {
            return Err(invalid());
        }
        let mut rest = unsigned;
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (number, after) = split_number(rest).ok_or_else(invalid)?;
            let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_length);
            if unit.is_empty() {
                return Err(DurationError::MissingUnit(text.to_owned()));
            }
            let scale = nanoseconds_per(unit)
                .ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), duration: text.to_owned() })?;
            total = number.times(scale).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
            rest = after;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(|nanoseconds| Self { nanoseconds }).map_err(|_| invalid())
    }
}

/// Decimal digits before and after the point.
struct Number<'a> {
    whole: &'a str,
    fraction: &'a str,
}

impl Number<'_> {
    /// This many units, in nanoseconds; a fraction of a nanosecond is dropped.
    fn times(&self, scale: i64) -> Option<i128> {
        let whole: i128 = if self.whole.is_empty() { 0 } else { self.whole.parse().ok()? };
        // Eighteen digits are finer than a nanosecond of an hour.
        let digits = &self.fraction[..self.fraction.len().min(18)];
        let mut part: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        part *= i128::from(scale);
        part /= 10_i128.pow(u32::try_from(digits.len()).expect("at most eighteen"));
        whole.checked_mul(i128::from(scale))?.checked_add(part)
    }
}

fn split_number(text: &str) -> Option<(Number<'_>, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((Number { whole, fraction }, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds_per(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        // The two spellings are U+00B5, micro sign, and U+03BC, Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn durations_are_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("6h", 6 * HOUR),
            ("1h30m", HOUR + HOUR / 2),
            ("1.5h", HOUR + HOUR / 2),
            ("+45s", 45_000_000_000),
            ("-1m", -60_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("1ms2ns", 1_000_002),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.1000000000000000000000000000001h", HOUR / 10),
        ] {
            assert_eq!(text.parse::<Duration>().map(Duration::nanoseconds), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_words_clients_know() {
        for (text, message) in [
            ("", r#"time: invalid duration """#),
            ("bizbaz", r#"time: invalid duration "bizbaz""#),
            ("10", r#"time: missing unit in duration "10""#),
            ("5x", r#"time: unknown unit "x" in duration "5x""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("-", r#"time: invalid duration "-""#),
            (".", r#"time: invalid duration ".""#),
            ("1h 30m", r#"time: unknown unit "h " in duration "1h 30m""#),
            ("--1h", r#"time: invalid duration "--1h""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            (
                "99999999999999999999999999999999999999999999h",
                r#"time: invalid duration "99999999999999999999999999999999999999999999h""#,
            ),
        ] {
            assert_eq!(text.parse::<Duration>().map_err(|error| error.to_string()), Err(message.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Duration>();
        }

        #[test]
        fn whole_units_are_exact(hours in 0_i64..1_000_000, seconds in 0_i64..60) {
            let text = format!("{hours}h{seconds}s");
            prop_assert_eq!(text.parse::<Duration>().unwrap().nanoseconds(), hours * HOUR + seconds * 1_000_000_000);
        }
    }
}
