//! The operator's log: the lines that people and other software read with
//! `journalctl -u incus-osd`. Their form is public contract.
//!
//! They go to the journal's own socket rather than to standard output: a line
//! carries the service it came from as a field of its own, and a message cannot
//! pretend to be two.

use std::{collections::BTreeMap, fmt::Write as _, fs, io, path::PathBuf, time::Duration};

use api::v1::operator_line::Level;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use service::Identity;
use tokio::net::UnixDatagram;

use crate::Machine;

/// Longest line. The rest of a longer one is cut off.
const LINE_LIMIT: usize = 16 << 10;

/// How long a busy journal is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where operator lines are written.
#[derive(Debug)]
pub(crate) struct OperatorLog {
    journal: PathBuf,
    localtime: PathBuf,
}

impl OperatorLog {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self { journal: machine.path("run/systemd/journal/socket"), localtime: machine.path("etc/localtime") }
    }

    /// Writes a line of the supervisor itself.
    pub(crate) async fn say(&self, level: Level, message: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.write(Identity::Supervisor.name(), level, message, &attributes).await;
    }

    /// Writes a line that came from `component`.
    pub(crate) async fn write(
        &self,
        component: &str,
        level: Level,
        message: &str,
        attributes: &BTreeMap<String, String>,
    ) {
        // The zone is read for each line: there are few lines, and the zone may change at any time.
        let zone = fs::read(&self.localtime).ok().and_then(|data| TimeZone::tzif("local", &data).ok());
        let now = Timestamp::now().to_zoned(zone.unwrap_or(TimeZone::UTC));
        let line = line(&now, level, message, attributes);
        let entry = entry(component, level, &line);
        if let Err(error) = self.send(entry.as_bytes()).await {
            tracing::warn!("an operator line was lost: {error}: {line}");
        }
    }

    async fn send(&self, entry: &[u8]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        tokio::time::timeout(PATIENCE, socket.send_to(entry, &self.journal)).await??;
        Ok(())
    }
}

/// `YYYY-MM-DD hh:mm:ss LEVEL message k=v k=v`.
fn line(now: &Zoned, level: Level, message: &str, attributes: &BTreeMap<String, String>) -> String {
    let mut line = format!("{} {} {}", now.strftime("%Y-%m-%d %H:%M:%S"), level.as_str_name(), one_line(message));
    for (key, value) in attributes {
        let _ = write!(line, " {}={}", one_line(key), one_line(value));
    }
    line.truncate(line.floor_char_boundary(LINE_LIMIT));
    line
}

/// Control characters would let one message look like several, or drive a terminal.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The journal's native form; none of the values can hold a line break.
fn entry(component: &str, level: Level, line: &str) -> String {
    let priority = match level {
        Level::Info => 6,
        Level::Warn => 4,
        Level::Error => 3,
    };
    let identifier = Identity::Supervisor.unit();
    format!("MESSAGE={line}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={identifier}\nINCUSOS_COMPONENT={component}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(zone: TimeZone) -> Zoned {
        Timestamp::from_second(1_762_272_060).unwrap().to_zoned(zone)
    }

    #[test]
    fn line_is_what_other_software_looks_for() {
        let attributes = BTreeMap::from([("version".into(), "202511041601".into())]);
        assert_eq!(
            line(&at(TimeZone::UTC), Level::Info, "System is ready", &attributes),
            "2025-11-04 16:01:00 INFO System is ready version=202511041601"
        );
        let offset = jiff::tz::offset(-5).to_time_zone();
        assert_eq!(line(&at(offset), Level::Warn, "a", &BTreeMap::new()), "2025-11-04 11:01:00 WARN a");
    }

    #[test]
    fn attributes_are_sorted_and_unquoted() {
        let attributes = [("version", "1"), ("mode", "dev"), ("machine-id", "x y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(
            line(&at(TimeZone::UTC), Level::Error, "m", &attributes),
            "2025-11-04 16:01:00 ERROR m machine-id=x y mode=dev version=1"
        );
    }

    #[test]
    fn message_cannot_forge_a_second_line_or_a_field() {
        let attributes = BTreeMap::from([("k\n".into(), "v\nPRIORITY=0".into())]);
        let line = line(&at(TimeZone::UTC), Level::Info, "a\r\n2025 INFO System is ready\x1b[2J", &attributes);
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert_eq!(entry("network", Level::Info, &line).lines().count(), 4);
    }

    #[test]
    fn long_message_is_cut_at_a_character() {
        let line = line(&at(TimeZone::UTC), Level::Info, &"ä".repeat(LINE_LIMIT), &BTreeMap::new());
        assert!(line.len() <= LINE_LIMIT && line.len() > LINE_LIMIT - 4);
    }
}
