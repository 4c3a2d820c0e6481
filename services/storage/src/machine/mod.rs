//! The machine: the only part of the service that reads or changes it.

mod blocks;
mod keys;
mod label;
mod udev;
mod witness;
mod zfs;

use std::{fs, path::PathBuf, sync::Arc};

use api::v1::RootPartition;
use runner::Runner;

use crate::engine::block::{BlockDevice, BlockDevices};

pub(crate) use keys::KeyError;
pub(crate) use udev::UdevWatch;
pub(crate) use witness::Witness;
pub(crate) use zfs::ReadError;

/// Where the machine's own folders are.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/run/udev/data`
    pub udev: PathBuf,
    /// `/var/lib/incus-os`
    pub keys: PathBuf,
}

impl Roots {
    /// The real machine.
    pub fn system() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            udev: "/run/udev/data".into(),
            keys: KEY_FOLDER.into(),
        }
    }
}

/// Where pools find their keys, as it is written into them.
const KEY_FOLDER: &str = "/var/lib/incus-os";

/// The machine, as far as this service has to do with it.
#[derive(Clone)]
pub(crate) struct Machine {
    roots: Arc<Roots>,
    runner: Arc<dyn Runner>,
}

impl Machine {
    pub(crate) fn new(roots: Roots, runner: Arc<dyn Runner>) -> Self {
        Self { roots: Arc::new(roots), runner }
    }

    /// All block devices, from sysfs and the udev database.
    pub(crate) fn block_devices(&self) -> BlockDevices {
        blocks::read(&self.roots)
    }

    /// `major:minor` of the file system with the system's own programs.
    pub(crate) fn system_device(&self) -> Option<String> {
        let mountinfo = fs::read_to_string(self.roots.proc.join("self/mountinfo")).ok()?;
        crate::engine::block::system_device(&mountinfo).map(str::to_owned)
    }

    /// Whether the ZFS kernel module can be talked to. Its device node proves
    /// nothing: that is there from the start, to load the module when it is opened.
    pub(crate) fn has_zfs(&self) -> bool {
        fs::read_to_string(self.roots.sys.join("module/zfs/initstate")).is_ok_and(|state| state.trim() == "live")
    }

    /// Tells when udev has changed what it knows.
    pub(crate) fn watch_udev(&self) -> std::io::Result<UdevWatch> {
        UdevWatch::new(&self.roots.udev)
    }

    /// What the kernel shows of pools without being asked for details.
    pub(crate) fn witness(&self) -> Witness {
        Witness::read(&self.roots.proc)
    }

    /// Space on the root file system.
    pub(crate) fn root_partition(&self) -> RootPartition {
        let Ok(space) = rustix::fs::statvfs("/") else { return RootPartition::default() };
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(space.f_frsize)).unwrap_or(i64::MAX);
        RootPartition { size_in_bytes: bytes(space.f_blocks), available_in_bytes: bytes(space.f_bavail) }
    }

    fn node(&self, device: &BlockDevice) -> PathBuf {
        self.roots.dev.join(&device.node)
    }
}
