//! What the supervisor reads of the machine. Paths of the machine appear here
//! and nowhere else; all of them lie below a root, so that tests bring their own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::fd::OwnedFd,
    path::PathBuf,
};

use service::Context;

/// Firmware facts that only root may read. The service manager opens the files
/// and hands them over under these names (`OpenFile=` in the unit).
const FIRMWARE_FACTS: [&str; 4] = ["product_uuid", "product_serial", "board_serial", "chassis_serial"];

/// The machine as the supervisor sees it.
#[derive(Debug)]
pub struct Machine {
    /// `/`, or a folder that stands for it.
    pub root: PathBuf,
    /// Folder that lives as long as the boot, and longer than the service.
    pub runtime_dir: PathBuf,
    /// The seed partition, opened for reading.
    pub seed: Option<File>,
    /// Content of the files of `/sys/class/dmi/id` that only root may read.
    pub firmware_facts: BTreeMap<String, String>,
}

impl Machine {
    /// This machine, with what the service manager handed over.
    pub fn system(context: &mut Context) -> Self {
        let seed = context.take_socket("seed").map(File::from);
        let firmware_facts = FIRMWARE_FACTS
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), short_text(context.take_socket(name)?)?)))
            .collect();
        let runtime_dir =
            std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| PathBuf::from("/run/incus-osd"), PathBuf::from);
        Self { root: PathBuf::from("/"), runtime_dir, seed, firmware_facts }
    }

    /// A path below the root: `inside` is written without a leading slash.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// A small file's text without surrounding white space; `None` when it is
    /// missing, unreadable or empty.
    pub(crate) fn text(&self, inside: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(inside)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// `NAME` of os-release.
    pub(crate) fn os_name(&self) -> String {
        self.os_release("NAME").unwrap_or_else(|| "IncusOS".into())
    }

    /// The running release.
    pub(crate) fn os_version(&self) -> String {
        self.os_release("IMAGE_VERSION").unwrap_or_default()
    }

    /// Whether the image was signed for production. `/usr` is verified against
    /// the keys that the firmware trusts, so the image's own word is as good as
    /// those keys.
    pub(crate) fn mode(&self) -> &'static str {
        match self.os_release("VARIANT_ID").as_deref() {
            Some("production") => "production",
            _ => "dev",
        }
    }

    /// 32 hexadecimal digits, or empty.
    pub(crate) fn machine_id(&self) -> String {
        self.text("etc/machine-id")
            .filter(|id| id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()))
            .unwrap_or_default()
    }

    /// The firmware's name for this machine, in the usual form of a UUID.
    pub(crate) fn product_uuid(&self) -> Option<String> {
        self.firmware_facts.get("product_uuid").filter(|uuid| uuid.len() == 36).cloned()
    }

    /// Whole seconds since boot.
    pub(crate) fn uptime(&self) -> i64 {
        self.text("proc/uptime").and_then(|text| text.split(['.', ' ']).next()?.parse().ok()).unwrap_or_default()
    }

    /// Whether this boot's start-up has finished already.
    pub(crate) fn was_started(&self) -> bool {
        self.started_marker().exists()
    }

    /// Remembers for the rest of this boot that start-up has finished.
    pub(crate) fn mark_started(&self) -> std::io::Result<()> {
        fs::write(self.started_marker(), [])
    }

    fn started_marker(&self) -> PathBuf {
        self.runtime_dir.join("started")
    }

    fn os_release(&self, key: &str) -> Option<String> {
        os_release_value(&fs::read_to_string(self.path("usr/lib/os-release")).ok()?, key)
    }
}

/// The value of `key` in the text of os-release(5).
fn os_release_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let value = match value.as_bytes() {
        [quote @ (b'"' | b'\''), .., last] if quote == last => &value[1..value.len() - 1],
        _ => value,
    };
    let mut plain = String::new();
    let mut escaped = false;
    for c in value.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(c);
            escaped = false;
        }
    }
    (!plain.is_empty()).then_some(plain)
}

fn short_text(file: OwnedFd) -> Option<String> {
    let mut text = String::new();
    File::from(file).take(4096).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        let text = "NAME=\"Incus\\\"OS\"\n# IMAGE_VERSION=1\nIMAGE_VERSION=202511041601\nVERSION='a b'\nEMPTY=\nX=\"\nNAMES=no\n";
        assert_eq!(os_release_value(text, "NAME").as_deref(), Some("Incus\"OS"));
        assert_eq!(os_release_value(text, "IMAGE_VERSION").as_deref(), Some("202511041601"));
        assert_eq!(os_release_value(text, "VERSION").as_deref(), Some("a b"));
        assert_eq!(os_release_value(text, "EMPTY"), None);
        assert_eq!(os_release_value(text, "X").as_deref(), Some("\""));
        assert_eq!(os_release_value(text, "MISSING"), None);
    }

    #[test]
    fn malformed_identity_is_no_identity() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let machine = Machine {
            root: dir.path().into(),
            runtime_dir: dir.path().into(),
            seed: None,
            firmware_facts: BTreeMap::from([("product_uuid".into(), "short".into())]),
        };
        for id in ["", "uninitialized\n", "0123456789abcdef0123456789abcdeg\n"] {
            fs::write(dir.path().join("etc/machine-id"), id).unwrap();
            assert_eq!(machine.machine_id(), "");
        }
        fs::write(dir.path().join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(machine.machine_id(), "0123456789abcdef0123456789abcdef");
        assert_eq!(machine.product_uuid(), None);
        assert_eq!(machine.uptime(), 0);
        assert_eq!((machine.os_name().as_str(), machine.os_version().as_str(), machine.mode()), ("IncusOS", "", "dev"));
    }
}
