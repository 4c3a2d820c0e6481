//! Which releases are on the machine.

use std::{fs, path::Path};

/// The booted release and the other bootable one. Both are fixed for the life
/// of a boot, so they are read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) running: String,
    pub(crate) alternate: Option<String>,
}

impl Versions {
    /// From os-release and the boot loader's list of entries, below `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let running = running(root).unwrap_or_else(|| {
            tracing::error!("`/usr/lib/os-release` names no IMAGE_VERSION: the running release is unknown");
            String::new()
        });
        let loader = efi::loader::releases(&efi::Variables::in_dir(root.join("sys/firmware/efi/efivars")));
        let alternate = match loader {
            Ok(releases) => releases.others.into_iter().map(|other| other.version).find(|version| *version != running),
            Err(error) => {
                tracing::warn!("the other release is unknown: {error}");
                None
            }
        };
        Self { running, alternate }
    }
}

/// `IMAGE_VERSION` of os-release(5).
fn running(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("usr/lib/os-release")).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?;
    Some(version.trim_matches('"').to_owned())
}
