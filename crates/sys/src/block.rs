use std::{
    fs,
    path::{Path, PathBuf},
};

/// A sector of sysfs, whatever the drive's own is.
const SECTOR: u64 = 512;

/// Where the kernel and udev show devices.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// One block device: a drive, a partition of one, or something made of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// Kernel name: `sda1`, `dm-0`.
    pub name: String,
    /// Path of its node.
    pub node: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Bytes per logical sector; zero of a partition.
    pub sector_size: u64,
    /// It cannot be written.
    pub is_read_only: bool,
    /// Kernel name of the drive that it is a partition of, and its number there.
    pub partition: Option<(String, u32)>,
    /// Kernel names of its partitions by their numbers.
    pub partitions: Vec<(u32, String)>,
    /// Its names in `/dev/disk/by-id`, the shortest first.
    pub ids: Vec<String>,
    /// The subsystems of the device and of those above it, without repetition:
    /// `block:scsi:usb:pci`.
    pub subsystems: String,
    /// Kernel names of the devices that are made of this one.
    pub holders: Vec<String>,
}

/// The device with this kernel name.
pub fn block(roots: &Roots, name: &str) -> Option<Block> {
    let folder = fs::canonicalize(roots.sys.join("class/block").join(name)).ok()?;
    let number = |attribute: &str| text(&folder, attribute).parse::<u64>().unwrap_or_default();
    let own_number = u32::try_from(number("partition")).unwrap_or_default();
    let parent = folder.parent().and_then(file_name);
    let node = roots.dev.join(device_name(&folder).unwrap_or_else(|| name.to_owned()));
    let mut partitions: Vec<_> = names(&folder)
        .into_iter()
        .filter_map(|child| Some((text(&folder.join(&child), "partition").parse().ok()?, child)))
        .collect();
    partitions.sort();
    Some(Block {
        name: name.to_owned(),
        ids: ids(roots, &node),
        node,
        size: number("size").saturating_mul(SECTOR),
        sector_size: number("queue/logical_block_size"),
        is_read_only: number("ro") != 0,
        partition: parent.filter(|_| own_number != 0).map(|disk| (disk, own_number)),
        partitions,
        subsystems: subsystems(&folder),
        holders: names(&folder.join("holders")),
    })
}

/// Every block device, sorted by name. One that goes away meanwhile is left out.
pub fn blocks(roots: &Roots) -> Vec<Block> {
    names(&roots.sys.join("class/block")).iter().filter_map(|name| block(roots, name)).collect()
}

/// The node's name below `/dev`, which can have a folder in it.
fn device_name(folder: &Path) -> Option<String> {
    let uevent = fs::read_to_string(folder.join("uevent")).ok()?;
    uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=").map(str::to_owned))
}

fn ids(roots: &Roots, node: &Path) -> Vec<String> {
    let folder = roots.dev.join("disk/by-id");
    let Ok(node) = fs::canonicalize(node) else { return Vec::new() };
    let mut ids = names(&folder);
    ids.retain(|id| fs::canonicalize(folder.join(id)).is_ok_and(|target| target == node));
    ids.sort_by_key(|id| (id.len(), id.clone()));
    ids
}

fn subsystems(folder: &Path) -> String {
    let mut found: Vec<String> = Vec::new();
    let mut at = Some(folder);
    while let Some(device) = at {
        let subsystem = fs::read_link(device.join("subsystem")).ok().as_deref().and_then(file_name);
        found.extend(subsystem.filter(|subsystem| !found.contains(subsystem)));
        at = device.parent();
    }
    found.join(":")
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Names in a folder, sorted; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A sysfs attribute without surrounding space; empty if it cannot be read.
fn text(folder: &Path, attribute: &str) -> String {
    fs::read_to_string(folder.join(attribute)).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A USB stick with two partitions, as Linux 6.12 shows it.
    fn machine(root: &Path) -> Roots {
        let roots = Roots { sys: root.join("sys"), dev: root.join("dev") };
        let usb = roots.sys.join("devices/pci0000:00/0000:00:04.0/usb1/1-1/host0/target0:0:0/0:0:0:0");
        let sda = usb.join("block/sda");
        for (path, text) in [
            ("size", "204800\n"),
            ("ro", "0\n"),
            ("queue/logical_block_size", "512\n"),
            ("uevent", "MAJOR=8\nDEVNAME=sda\n"),
            ("holders/dm-0", ""),
            ("sda1/partition", "1\n"),
            ("sda1/size", "2048\n"),
            ("sda1/uevent", "DEVNAME=sda1\n"),
            ("sda2/partition", "2\n"),
        ] {
            put(sda.join(path), text);
        }
        let links = [
            (sda.join("subsystem"), "block"),
            (usb.join("subsystem"), "scsi"),
            (roots.sys.join("devices/pci0000:00/0000:00:04.0/usb1/1-1/subsystem"), "usb"),
            (roots.sys.join("devices/pci0000:00/0000:00:04.0/subsystem"), "pci"),
        ];
        for (link, name) in links {
            symlink(roots.sys.join("class").join(name), link).unwrap();
        }
        fs::create_dir_all(roots.sys.join("class/block")).unwrap();
        symlink(&sda, roots.sys.join("class/block/sda")).unwrap();
        symlink(sda.join("sda1"), roots.sys.join("class/block/sda1")).unwrap();
        put(roots.dev.join("sda"), "");
        fs::create_dir_all(roots.dev.join("disk/by-id")).unwrap();
        for id in ["usb-QEMU_HARDDISK_medium-0:0", "wwn-0x5"] {
            symlink("../../sda", roots.dev.join("disk/by-id").join(id)).unwrap();
        }
        roots
    }

    #[test]
    fn drive_and_partition_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let roots = machine(dir.path());
        let sda = block(&roots, "sda").unwrap();
        assert_eq!(
            sda,
            Block {
                name: "sda".into(),
                node: roots.dev.join("sda"),
                size: 100 << 20,
                sector_size: 512,
                is_read_only: false,
                partition: None,
                partitions: vec![(1, "sda1".into()), (2, "sda2".into())],
                ids: vec!["wwn-0x5".into(), "usb-QEMU_HARDDISK_medium-0:0".into()],
                subsystems: "block:scsi:usb:pci".into(),
                holders: vec!["dm-0".into()],
            }
        );
        assert_eq!(block(&roots, "sda1").unwrap().partition, Some(("sda".into(), 1)));
        assert_eq!(blocks(&roots).len(), 2);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let roots = Roots { sys: "/nonexistent".into(), dev: "/nonexistent".into() };
        assert_eq!((block(&roots, "sda"), blocks(&roots)), (None, vec![]));
    }
}
