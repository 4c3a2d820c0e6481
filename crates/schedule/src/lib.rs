//! When updates are looked for and applied: the update configuration, and what
//! makes one right. Pure values: the update service and the validator of seeds
//! ask the same question here.

use api::v1::{MaintenanceWindow, UpdateConfig};

/// Why a configuration is refused. `maintenance window` numbers are zero-based
/// positions in the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The channel is empty.
    #[error("update channel must be given, for example `stable`")]
    NoChannel,
    /// The channel could not be part of a request.
    #[error("update channel {0:?} may only hold letters, digits, `-`, `_` and `.`, at most 64 of them")]
    Channel(String),
    /// The frequency is no duration.
    #[error("invalid update frequency: {0}")]
    Frequency(#[from] values::DurationError),
    /// The frequency is less than nothing.
    #[error("update frequency must be a positive value")]
    NegativeFrequency,
    /// One end has a day and the other none.
    #[error("maintenance window {0}: a day of the week must be given for both its start and its end, or for neither")]
    OneDay(usize),
    /// A day of no week.
    #[error("maintenance window {window}: {value:?} is not a day of the week from `Sunday` to `Saturday`")]
    Day {
        /// Position of the window.
        window: usize,
        /// What stands for the day.
        value: String,
    },
    /// A time of no day.
    #[error("maintenance window {window}: {key} {value} is not between 0 and {limit}")]
    Time {
        /// Position of the window.
        window: usize,
        /// Which of its four numbers.
        key: &'static str,
        /// What it is.
        value: i64,
        /// What it may be at most.
        limit: i64,
    },
    /// The interval of one day is empty.
    #[error("maintenance window {0}: the end is before the start")]
    EndBeforeStart(usize),
}

/// Days as they are written, in their order in the week.
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// What a machine follows that was never told otherwise.
pub fn default_config() -> UpdateConfig {
    UpdateConfig { channel: "stable".into(), check_frequency: "6h".into(), ..UpdateConfig::default() }
}

/// Checks everything that a client may have got wrong.
pub fn validate(config: &UpdateConfig) -> Result<(), ConfigError> {
    validate_channel(&config.channel)?;
    validate_frequency(&config.check_frequency)?;
    config.maintenance_windows.iter().enumerate().try_for_each(|(index, window)| validate_window(index, window))
}

fn validate_channel(channel: &str) -> Result<(), ConfigError> {
    if channel.is_empty() {
        return Err(ConfigError::NoChannel);
    }
    // The name becomes part of a request to the update server.
    let plain = channel.len() <= 64 && channel.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if plain { Ok(()) } else { Err(ConfigError::Channel(channel.to_owned())) }
}

fn validate_frequency(frequency: &str) -> Result<(), ConfigError> {
    if frequency == "never" {
        return Ok(());
    }
    frequency.parse::<values::Duration>()?.unsigned().map(drop).ok_or(ConfigError::NegativeFrequency)
}

fn validate_window(index: usize, window: &MaintenanceWindow) -> Result<(), ConfigError> {
    let times = [
        ("start_hour", window.start_hour, 23),
        ("start_minute", window.start_minute, 59),
        ("end_hour", window.end_hour, 23),
        ("end_minute", window.end_minute, 59),
    ];
    for (key, value, limit) in times {
        if !(0..=limit).contains(&value) {
            return Err(ConfigError::Time { window: index, key, value, limit });
        }
    }
    let (start, end) = (day(index, &window.start_day_of_week)?, day(index, &window.end_day_of_week)?);
    if start.is_some() != end.is_some() {
        return Err(ConfigError::OneDay(index));
    }
    let start_of_day = (window.start_hour, window.start_minute);
    let end_of_day = (window.end_hour, window.end_minute);
    if start.is_some() && start == end && end_of_day < start_of_day {
        return Err(ConfigError::EndBeforeStart(index));
    }
    Ok(())
}

fn day(window: usize, name: &str) -> Result<Option<usize>, ConfigError> {
    if name.is_empty() {
        return Ok(None);
    }
    let position = DAYS.iter().position(|day| *day == name);
    position.map(Some).ok_or_else(|| ConfigError::Day { window, value: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: (&str, i64, i64), end: (&str, i64, i64)) -> MaintenanceWindow {
        MaintenanceWindow {
            start_day_of_week: start.0.into(),
            start_hour: start.1,
            start_minute: start.2,
            end_day_of_week: end.0.into(),
            end_hour: end.1,
            end_minute: end.2,
        }
    }

    #[test]
    fn the_default_is_valid() {
        assert_eq!(validate(&default_config()), Ok(()));
    }

    #[test]
    fn frequencies() {
        for good in ["never", "6h", "1h30m", "1.5h", "0", "0s"] {
            assert_eq!(validate_frequency(good), Ok(()), "{good}");
        }
        assert_eq!(validate_frequency("-1h"), Err(ConfigError::NegativeFrequency));
        for bad in ["", "6", "daily", "Never", "never ", "6 h"] {
            assert!(matches!(validate_frequency(bad), Err(ConfigError::Frequency(_))), "{bad}");
        }
    }

    #[test]
    fn channels() {
        for good in ["stable", "testing", "daily-2026.1"] {
            assert_eq!(validate_channel(good), Ok(()), "{good}");
        }
        assert_eq!(validate_channel(""), Err(ConfigError::NoChannel));
        for bad in ["../x", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(matches!(validate_channel(bad), Err(ConfigError::Channel(_))), "{bad}");
        }
    }

    #[test]
    fn windows() {
        for good in [
            window(("", 10, 0), ("", 11, 15)),
            window(("", 23, 30), ("", 2, 0)),
            window(("Thursday", 12, 0), ("Thursday", 12, 15)),
            window(("Saturday", 0, 0), ("Sunday", 23, 59)),
        ] {
            assert_eq!(validate_window(0, &good), Ok(()), "{good:?}");
        }
        for (bad, error) in [
            (window(("Monday", 1, 0), ("", 2, 0)), ConfigError::OneDay(3)),
            (window(("", 1, 0), ("Monday", 2, 0)), ConfigError::OneDay(3)),
            (window(("Monday", 2, 0), ("Monday", 1, 59)), ConfigError::EndBeforeStart(3)),
            (window(("monday", 1, 0), ("Monday", 2, 0)), ConfigError::Day { window: 3, value: "monday".into() }),
            (window(("", 24, 0), ("", 2, 0)), ConfigError::Time { window: 3, key: "start_hour", value: 24, limit: 23 }),
            (window(("", 1, 0), ("", 2, -1)), ConfigError::Time { window: 3, key: "end_minute", value: -1, limit: 59 }),
        ] {
            assert_eq!(validate_window(3, &bad), Err(error), "{bad:?}");
        }
    }
}
