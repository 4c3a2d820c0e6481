use std::path::Path;

/// A program that the system may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// `bootctl(1)`: the boot loader on the EFI system partition.
    Bootctl,
    /// `cryptsetup(8)`: key slots of encrypted volumes.
    Cryptsetup,
    /// `journalctl(1)`: the journal of the machine.
    Journalctl,
    /// `losetup(8)`: partitions of a CD-ROM.
    Losetup,
    /// `ps(1)`: the process list.
    Ps,
    /// `smartctl(8)`: health of a drive.
    Smartctl,
    /// `systemctl(1)`: units, in the initrd.
    Systemctl,
    /// `systemd-cryptsetup(8)`: unlocking volumes.
    SystemdCryptsetup,
    /// `wipefs(8)`: what is on a drive.
    Wipefs,
    /// `systemd-cryptenroll(1)`: keys of encrypted volumes in the TPM.
    SystemdCryptenroll,
    /// `zfs(8)`: datasets.
    Zfs,
    /// `zpool(8)`: pools.
    Zpool,
}

impl Tool {
    /// Every program, for the check of the image's content.
    pub const ALL: [Self; 12] = [
        Self::Bootctl,
        Self::Cryptsetup,
        Self::Journalctl,
        Self::Losetup,
        Self::Ps,
        Self::Smartctl,
        Self::Systemctl,
        Self::SystemdCryptenroll,
        Self::SystemdCryptsetup,
        Self::Wipefs,
        Self::Zfs,
        Self::Zpool,
    ];

    /// Where it is on the image.
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Bootctl => "/usr/bin/bootctl",
            Self::Cryptsetup => "/usr/sbin/cryptsetup",
            Self::Journalctl => "/usr/bin/journalctl",
            Self::Losetup => "/usr/sbin/losetup",
            Self::Ps => "/usr/bin/ps",
            Self::Smartctl => "/usr/sbin/smartctl",
            Self::Systemctl => "/usr/bin/systemctl",
            Self::SystemdCryptsetup => "/usr/bin/systemd-cryptsetup",
            Self::Wipefs => "/usr/sbin/wipefs",
            Self::SystemdCryptenroll => "/usr/bin/systemd-cryptenroll",
            Self::Zfs => "/usr/sbin/zfs",
            Self::Zpool => "/usr/sbin/zpool",
        })
    }

    /// Its name without the folder.
    pub fn name(self) -> &'static str {
        self.path().file_name().and_then(|name| name.to_str()).expect("every path above ends in a plain name")
    }
}
