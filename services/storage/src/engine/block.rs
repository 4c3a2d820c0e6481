//! Block devices and how they are built on each other.

use std::collections::{BTreeMap, BTreeSet};

/// What the kernel and udev know of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    /// Kernel name: `sda1`, `dm-0`.
    pub(crate) name: String,
    /// Path of its node below `/dev`.
    pub(crate) node: String,
    /// `major:minor`.
    pub(crate) number: String,
    /// Path of the device below `/sys`.
    pub(crate) sysfs: String,
    /// Size in bytes.
    pub(crate) size: u64,
    /// The disk that a partition is a part of.
    pub(crate) disk: Option<String>,
    /// Label of a partition.
    pub(crate) partition_label: String,
    /// Kernel names of the devices that this one is built of.
    pub(crate) slaves: Vec<String>,
    /// Kernel names of the devices that are built of this one.
    pub(crate) holders: Vec<String>,
    /// The medium can be removed.
    pub(crate) removable: bool,
    /// A path of a multipath NVMe namespace, not a drive of its own.
    pub(crate) hidden: bool,
    /// Number of paths to the namespace, of an NVMe drive.
    pub(crate) nvme_paths: usize,
    /// Transports of the controllers of an NVMe drive: `pcie`, `tcp`, `fc`.
    pub(crate) nvme_transports: Vec<String>,
    /// `uuid` of a device-mapper device.
    pub(crate) dm_uuid: String,
    /// Vendor, model and serial number, as the kernel has them.
    pub(crate) vendor: String,
    pub(crate) model: String,
    pub(crate) serial: String,
    /// SCSI peripheral type; `0` is a disk.
    pub(crate) scsi_type: String,
    /// Distinguishes a drive from the one that had the same name before.
    pub(crate) sequence: String,
    /// udev has looked at the device.
    pub(crate) initialized: bool,
    /// Properties of the udev database, of those in [`PROPERTIES`].
    pub(crate) properties: BTreeMap<&'static str, String>,
    /// Symbolic links below `/dev` that lead to this very device, sorted.
    pub(crate) links: Vec<String>,
    /// All links that udev wants for it, whether or not they lead here.
    pub(crate) wanted_links: Vec<String>,
}

/// The udev properties that are kept.
pub(crate) const PROPERTIES: &[&str] = &[
    "DM_MULTIPATH_DEVICE_PATH",
    "ID_BUS",
    "ID_FS_AMBIVALENT",
    "ID_FS_LABEL",
    "ID_FS_TYPE",
    "ID_FS_UUID",
    "ID_FS_UUID_SUB",
    "ID_MODEL",
    "ID_MODEL_ENC",
    "ID_PART_TABLE_TYPE",
    "ID_SERIAL_SHORT",
    "ID_WWN",
    "ID_WWN_WITH_EXTENSION",
];

impl BlockDevice {
    /// A property of the udev database; empty if it is not there.
    pub(crate) fn property(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }

    /// The path that stays the same over restarts: the first name in
    /// `/dev/disk/by-id`, else in `/dev/disk/by-path`.
    ///
    /// The names of a drive behind a multipath map lead to the map, so they are
    /// not among its links, and it is left with the name of its path.
    pub(crate) fn stable_path(&self) -> Option<String> {
        let stable = |link: &&String| {
            (link.starts_with("disk/by-id/") && !link.starts_with("disk/by-id/lvm-pv-uuid-"))
                || link.starts_with("disk/by-path/")
        };
        self.links.iter().find(stable).map(|link| format!("/dev/{link}"))
    }

    /// Whether this is a multipath map.
    pub(crate) fn is_multipath_map(&self) -> bool {
        self.dm_uuid.starts_with("mpath-")
    }
}

/// All block devices of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlockDevices(BTreeMap<String, BlockDevice>);

impl FromIterator<BlockDevice> for BlockDevices {
    fn from_iter<T: IntoIterator<Item = BlockDevice>>(devices: T) -> Self {
        Self(devices.into_iter().map(|device| (device.name.clone(), device)).collect())
    }
}

impl BlockDevices {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BlockDevice> {
        self.0.values()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&BlockDevice> {
        self.0.get(name)
    }

    /// The device behind a path below `/dev`.
    pub(crate) fn by_path(&self, path: &str) -> Option<&BlockDevice> {
        let path = path.strip_prefix("/dev/")?;
        self.iter().find(|device| device.node == path || device.links.iter().any(|link| link == path))
    }

    /// The device with this `major:minor`.
    pub(crate) fn by_number(&self, number: &str) -> Option<&BlockDevice> {
        self.iter().find(|device| device.number == number)
    }

    /// The drives that a device is on: itself, the disk of a partition, all
    /// that a mapped device is built of.
    pub(crate) fn drives_below(&self, name: &str) -> BTreeSet<&str> {
        let mut drives = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut todo = vec![name];
        while let Some(name) = todo.pop() {
            let Some((name, device)) = self.0.get_key_value(name).filter(|(name, _)| seen.insert(name.as_str())) else {
                continue;
            };
            match &device.disk {
                Some(disk) => todo.push(disk),
                None if device.slaves.is_empty() => {
                    drives.insert(name.as_str());
                }
                None => todo.extend(device.slaves.iter().map(String::as_str)),
            }
        }
        drives
    }

    /// The drives that the running system was started from: those below the
    /// file system with this `major:minor`.
    pub(crate) fn boot_drives(&self, system: &str) -> BTreeSet<&str> {
        self.by_number(system).map(|device| self.drives_below(&device.name)).unwrap_or_default()
    }
}

/// `major:minor` of the file system that the system's own programs are on, from
/// the text of `/proc/self/mountinfo`: `/usr`, else the root.
pub(crate) fn system_device(mountinfo: &str) -> Option<&str> {
    let device_of = |mount_point: &str| {
        mountinfo.lines().rev().find_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let number = fields.next()?;
            // A pseudo file system has major number zero.
            (fields.nth(1)? == mount_point && !number.starts_with("0:")).then_some(number)
        })
    };
    device_of("/usr").or_else(|| device_of("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> BlockDevice {
        BlockDevice { name: name.into(), node: name.into(), ..Default::default() }
    }

    fn partition(disk: &str, name: &str, number: &str) -> BlockDevice {
        BlockDevice { disk: Some(disk.into()), number: number.into(), ..device(name) }
    }

    fn mapped(name: &str, number: &str, slaves: &[&str]) -> BlockDevice {
        BlockDevice {
            number: number.into(),
            slaves: slaves.iter().map(|&slave| slave.into()).collect(),
            ..device(name)
        }
    }

    #[test]
    fn boot_drive_is_found_below_verity() {
        let devices = BlockDevices::from_iter([
            device("vda"),
            device("vdb"),
            partition("vda", "vda4", "254:4"),
            partition("vda", "vda5", "254:5"),
            mapped("dm-0", "252:0", &["vda4", "vda5"]),
        ]);
        assert_eq!(devices.boot_drives("252:0"), BTreeSet::from(["vda"]));
        assert_eq!(devices.boot_drives("254:5"), BTreeSet::from(["vda"]));
        assert_eq!(devices.boot_drives("1:1"), BTreeSet::new());
    }

    #[test]
    fn every_path_of_a_multipath_boot_drive_is_a_boot_drive() {
        let devices = BlockDevices::from_iter([
            device("sda"),
            device("sdb"),
            mapped("dm-0", "252:0", &["sda", "sdb"]),
            mapped("dm-5", "252:5", &["dm-0"]),
            mapped("dm-9", "252:9", &["dm-5"]),
        ]);
        assert_eq!(devices.boot_drives("252:9"), BTreeSet::from(["sda", "sdb"]));
    }

    #[test]
    fn a_loop_of_devices_ends() {
        let devices = BlockDevices::from_iter([mapped("dm-0", "1:0", &["dm-1"]), mapped("dm-1", "1:1", &["dm-0"])]);
        assert_eq!(devices.drives_below("dm-0"), BTreeSet::new());
        assert_eq!(devices.drives_below("gone"), BTreeSet::new());
    }

    #[test]
    fn stable_path_prefers_by_id_and_never_the_volume_group_name() {
        let mut drive = device("sda");
        assert_eq!(drive.stable_path(), None);
        drive.links = vec!["disk/by-path/pci-0000:00:1f.2-ata-1".into(), "disk/by-uuid/x".into()];
        assert_eq!(drive.stable_path().as_deref(), Some("/dev/disk/by-path/pci-0000:00:1f.2-ata-1"));
        drive.links = vec![
            "disk/by-id/lvm-pv-uuid-x".into(),
            "disk/by-id/scsi-1".into(),
            "disk/by-id/wwn-0x1".into(),
            "disk/by-path/pci-1".into(),
        ];
        assert_eq!(drive.stable_path().as_deref(), Some("/dev/disk/by-id/scsi-1"));
    }

    #[test]
    fn the_system_device_is_that_of_usr() {
        let mountinfo = "\
22 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
23 22 0:5 / /proc rw - proc proc rw
24 22 253:0 / /usr ro,relatime - erofs /dev/mapper/usr ro
25 22 254:1 / /usr/lib/x rw - ext4 /dev/vda1 rw
broken";
        assert_eq!(system_device(mountinfo), Some("253:0"));
        assert_eq!(
            system_device("22 1 253:1 / / rw - ext4 /dev/mapper/root rw\n23 22 0:9 / /usr rw - overlay o rw"),
            Some("253:1")
        );
        assert_eq!(system_device(""), None);
    }
}
