use std::path::Path;

/// A program that the system may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// `journalctl(1)`: the journal of the machine.
    Journalctl,
    /// `ps(1)`: the process list.
    Ps,
    /// `smartctl(8)`: health of a drive.
    Smartctl,
    /// `zfs(8)`: datasets.
    Zfs,
    /// `zpool(8)`: pools.
    Zpool,
}

impl Tool {
    /// Every program, for the check of the image's content.
    pub const ALL: [Self; 5] = [Self::Journalctl, Self::Ps, Self::Smartctl, Self::Zfs, Self::Zpool];

    /// Where it is on the image.
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Journalctl => "/usr/bin/journalctl",
            Self::Ps => "/usr/bin/ps",
            Self::Smartctl => "/usr/sbin/smartctl",
            Self::Zfs => "/usr/sbin/zfs",
            Self::Zpool => "/usr/sbin/zpool",
        })
    }

    /// Its name without the folder.
    pub fn name(self) -> &'static str {
        self.path().file_name().and_then(|name| name.to_str()).expect("every path above ends in a plain name")
    }
}
