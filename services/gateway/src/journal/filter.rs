//! Which entries of the journal a client asks for.
//!
//! The values end up on a command line, so each is checked against what it may
//! be, and passed as the second half of `--option=value`: no value can become
//! an option of its own.

use std::fmt;

use crate::request::Query;

/// A checked selection of journal entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    unit: Option<String>,
    boot: String,
    entries: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

/// A parameter that is not what its name promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Defect {
    parameter: &'static str,
    expected: &'static str,
}

impl fmt::Display for Defect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` must be {}", self.parameter, self.expected)
    }
}

impl Filter {
    /// Reads `unit`, `boot`, `entries`, `since` and `until`.
    pub(crate) fn from_query(query: &Query) -> Result<Self, Defect> {
        let checked = |parameter, is_valid: fn(&str) -> bool, expected| match query.first(parameter) {
            Some(value) if is_valid(value) => Ok(Some(value.to_owned())),
            Some(_) => Err(Defect { parameter, expected }),
            None => Ok(None),
        };
        const TIME: &str = "a time as in systemd.time(7)";
        Ok(Self {
            unit: checked("unit", is_unit, "the name of a unit, or a glob")?,
            boot: checked("boot", is_boot, "a number, a boot id, or a boot id with an offset")?
                .unwrap_or_else(|| "0".to_owned()),
            entries: checked("entries", is_count, "a number or `all`")?,
            since: checked("since", is_time, TIME)?,
            until: checked("until", is_time, TIME)?,
        })
    }

    /// The arguments for journalctl(1).
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--boot={}", self.boot)];
        let optional = [("unit", &self.unit), ("lines", &self.entries), ("since", &self.since), ("until", &self.until)];
        for (option, value) in optional {
            arguments.extend(value.as_ref().map(|value| format!("--{option}={value}")));
        }
        arguments
    }

    /// Whether the number of entries is limited.
    pub(crate) fn counts(&self) -> bool {
        self.entries.is_some()
    }
}

/// Longest name of a unit, systemd.unit(5).
const UNIT_LIMIT: usize = 255;
/// Longer than any time that systemd.time(7) describes.
const TIME_LIMIT: usize = 64;

fn is_unit(value: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || br":_.\@-".contains(&byte) || b"*?[]!^".contains(&byte);
    value.len() <= UNIT_LIMIT && !value.starts_with('-') && value.bytes().all(legal)
}

fn is_boot(value: &str) -> bool {
    is_offset(value, false) || value.get(..32).is_some_and(is_boot_id) && is_offset(&value[32..], true)
}

fn is_boot_id(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A decimal number; behind a boot id it needs a sign or may be missing.
fn is_offset(value: &str, behind_id: bool) -> bool {
    let digits = value.strip_prefix(['+', '-']);
    match digits {
        None if behind_id => value.is_empty(),
        digits => is_number(digits.unwrap_or(value)),
    }
}

fn is_count(value: &str) -> bool {
    value == "all" || is_number(value)
}

/// A number that fits every counter of journalctl(1).
fn is_number(value: &str) -> bool {
    (1..=9).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_time(value: &str) -> bool {
    value.len() <= TIME_LIMIT && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Result<Vec<String>, String> {
        Filter::from_query(&Query::parse(query)).map(|filter| filter.arguments()).map_err(|defect| defect.to_string())
    }

    #[test]
    fn without_parameters_it_is_everything_of_this_boot() {
        assert_eq!(filter("target=m1&unit=&boot=").unwrap(), ["--boot=0"]);
    }

    #[test]
    fn good_values_are_passed_on_unchanged() {
        for (parameter, option, values) in [
            (
                "unit",
                "unit",
                &["incus-osd", "incus-osd.service", "systemd-*", "getty@tty1.service", "dev-a\\x2db.device"][..],
            ),
            (
                "boot",
                "boot",
                &["-1", "0", "3", "+2", "0123456789abcdef0123456789abcdef", "0123456789ABCDEF0123456789abcdef-2"],
            ),
            ("entries", "lines", &["0", "100", "all", "999999999"]),
            (
                "since",
                "since",
                &["-1h", "yesterday", "2026-11-22 10:00:00", "@1700000000", "2 days ago", "2026-11-22T10:00:00+01:00"],
            ),
            ("until", "until", &["now", "+5min"]),
        ] {
            for value in values {
                let query = form_urlencoded::Serializer::new(String::new()).append_pair(parameter, value).finish();
                let arguments = filter(&query).unwrap();
                assert!(arguments.contains(&format!("--{option}={value}")), "{arguments:?}");
            }
        }
    }

    #[test]
    fn hostile_values_are_refused() {
        let long = "a".repeat(300);
        for (parameter, values) in [
            (
                "unit",
                &["-u", "--file=/etc/shadow", "a b", "a\nb", "a/b", "../x", "ä", "a;b", "$(x)", "a\0", "%n", &long][..],
            ),
            (
                "boot",
                &[
                    "--file=x",
                    "-",
                    "--1",
                    "-1 --vacuum-size=1",
                    "all",
                    "1.5",
                    "0x1",
                    "0123456789abcdef0123456789abcde",
                    "0123456789abcdef0123456789abcdefg",
                    "0123456789abcdef0123456789abcdef5",
                    "0123456789abcdef0123456789abcdef+",
                    "0123456789abcdef0123456789abcdeé",
                    "éééééééééééééééé",
                    "99999999999",
                ],
            ),
            ("entries", &["-1", "--vacuum-files=1", "+5", "1k", "ALL", " 1", "99999999999999999999"]),
            ("since", &["a\nb", "now\0", "\u{1b}[2J", "gestern früh", &long]),
            ("until", &["\t", &long]),
        ] {
            for value in values {
                let query = form_urlencoded::Serializer::new(String::new()).append_pair(parameter, value).finish();
                let refused = filter(&query).unwrap_err();
                assert!(refused.starts_with(&format!("`{parameter}` must be ")), "{refused}");
            }
        }
    }
}
