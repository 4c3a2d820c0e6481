//! `POST /internal/tui/:write-message`: programs of this machine speak to its operator.

use api::v1::{ConsoleMessage, OperatorLine, operator_line::Level};

use crate::{answer::Answer, body, dispatch::Call, failure::Failure};

pub(crate) async fn write_message(mut call: Call) -> Result<Answer, Failure> {
    let ConsoleMessage { level, message } = body::message(call.body.take())?;
    if message.is_empty() {
        return Err(Failure::bad_request("the message is empty"));
    }
    let severity = severity(&level).ok_or_else(|| Failure::bad_request(format!("unknown level {level:?}")))?;
    let Some(level) = operator_level(severity) else {
        return Ok(Answer::Empty);
    };
    let mut supervisor = call.gateway.owners.supervisor.clone();
    let line = OperatorLine { level: level.into(), message, ..OperatorLine::default() };
    call.owner(supervisor.write_operator_line(line)).await?;
    Ok(Answer::Empty)
}

/// Reads a level such as `warn` or `INFO+2` as a number; empty is `INFO`.
fn severity(level: &str) -> Option<i64> {
    let (name, offset) = match level.find(['+', '-']) {
        Some(sign) => (&level[..sign], level[sign..].parse().ok()?),
        None => (level, 0_i64),
    };
    let base: i64 = match name.to_ascii_uppercase().as_str() {
        "DEBUG" => -4,
        "INFO" => 0,
        "" if offset == 0 && level.is_empty() => 0,
        "WARN" => 4,
        "ERROR" => 8,
        _ => return None,
    };
    base.checked_add(offset)
}

/// `None` for what is below an operator's interest.
fn operator_level(severity: i64) -> Option<Level> {
    match severity {
        ..0 => None,
        0..4 => Some(Level::Info),
        4..8 => Some(Level::Warn),
        8.. => Some(Level::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_names_with_an_offset() {
        let table = [
            ("", Some(0)),
            ("DEBUG", Some(-4)),
            ("info", Some(0)),
            ("Warn", Some(4)),
            ("ERROR", Some(8)),
            ("INFO+2", Some(2)),
            ("error-9", Some(-1)),
            ("INFO+", None),
            ("+2", None),
            ("TRACE", None),
            ("0", None),
            ("INFO 2", None),
            ("INFO+2x", None),
            ("INFO+99999999999999999999", None),
            ("ERROR+9223372036854775807", None),
        ];
        for (level, expected) in table {
            assert_eq!(severity(level), expected, "{level}");
        }
    }

    #[test]
    fn severities_become_the_levels_of_the_operator_log() {
        let levels = [-1, 0, 3, 4, 7, 8, 100].map(operator_level);
        use Level::{Error, Info, Warn};
        let expected = [None, Some(Info), Some(Info), Some(Warn), Some(Warn), Some(Error), Some(Error)];
        assert_eq!(levels, expected);
    }
}
