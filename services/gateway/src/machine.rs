//! The few facts that the gateway reads from the machine by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::trust::Clock;

/// Files below one root, so that tests bring their own.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    /// The real one.
    fn default() -> Self {
        Self::at("/")
    }
}

impl Machine {
    /// A machine whose files are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// One value of os-release(5), empty when it is not there.
    pub(crate) fn os_release(&self, key: &str) -> String {
        let text = self.read("usr/lib/os-release").unwrap_or_default();
        os_release_value(&text, key).unwrap_or_default()
    }

    /// The machine id, empty when there is none yet.
    pub(crate) fn machine_id(&self) -> String {
        self.read("etc/machine-id")
            .map(|text| text.trim_end().to_owned())
            .filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .unwrap_or_default()
    }

    /// Text of `/proc/modules`, empty on a kernel without modules.
    pub(crate) fn modules(&self) -> String {
        self.read("proc/modules").unwrap_or_default()
    }

    /// Text of `/proc/meminfo`.
    pub(crate) fn memory(&self) -> String {
        self.read("proc/meminfo").unwrap_or_default()
    }

    /// Text of `/proc/loadavg`.
    pub(crate) fn load(&self) -> String {
        self.read("proc/loadavg").unwrap_or_default()
    }

    /// Time since boot, suspend included: what `/proc/uptime` says.
    pub(crate) fn uptime_seconds(&self) -> i64 {
        rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec
    }

    /// The wall clock and whether it can be believed.
    pub(crate) fn clock(&self) -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            now: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
            // systemd-timesyncd touches it at the first answer of a time server.
            synchronised: self.root.join("run/systemd/timesync/synchronized").exists(),
        }
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }
}

/// Finds `key` in the text of os-release(5) and takes its quotes off.
fn os_release_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?.trim();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        return Some(value.to_owned());
    };
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut plain = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quote == '"' => plain.extend(characters.next()),
            c => plain.push(c),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "NAME=\"Incus\\\"OS\\\"\"\nIMAGE_VERSION=202611221530\nID='x y'\nBROKEN=\"\nNAMELESS=1\n";
        assert_eq!(os_release_value(text, "NAME").as_deref(), Some("Incus\"OS\""));
        assert_eq!(os_release_value(text, "IMAGE_VERSION").as_deref(), Some("202611221530"));
        assert_eq!(os_release_value(text, "ID").as_deref(), Some("x y"));
        assert_eq!(os_release_value(text, "BROKEN"), None);
        assert_eq!(os_release_value(text, "VERSION"), None);
    }

    #[test]
    fn a_machine_id_that_is_none_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let machine = Machine::at(dir.path());
        assert_eq!(machine.machine_id(), "");
        for (content, id) in [
            ("0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdef"),
            ("uninitialized\n", ""),
            ("", ""),
        ] {
            fs::write(dir.path().join("etc/machine-id"), content).unwrap();
            assert_eq!(machine.machine_id(), id);
        }
    }
}
