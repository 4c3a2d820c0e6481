//! The list of drives.

use std::collections::{BTreeMap, BTreeSet};

use api::v1::Drive;

use crate::engine::{
    block::{BlockDevice, BlockDevices},
    smart::SmartReport,
};

/// Virtual media of management controllers, by the start of their names in
/// `/dev/disk/by-id`. They come and go, and nothing may ever be put on them.
const VIRTUAL_MEDIA: &[&str] =
    &["usb-Linux_Virtual_", "usb-Generic-_SD_MMC_CRW", "usb-Cisco_", "usb-AMI_Virtual_", "usb-iDRAC_Virtual_"];

/// What is known of drives besides the block devices themselves.
#[derive(Debug, Default)]
pub(crate) struct Knowledge<'a> {
    /// Kernel names of the drives that the running system was started from.
    pub(crate) boot: BTreeSet<&'a str>,
    /// Which pool uses a drive, by kernel name.
    pub(crate) member_of: BTreeMap<&'a str, &'a str>,
    /// The last part of the stable paths of drives that we have keys of.
    pub(crate) keys: BTreeSet<String>,
    /// Health, by [`smart_key`].
    pub(crate) smart: Option<&'a BTreeMap<String, SmartReport>>,
}

/// The drives of the machine, sorted by their stable paths.
pub(crate) fn drives(devices: &BlockDevices, known: &Knowledge<'_>) -> Vec<Drive> {
    let mut drives: Vec<_> =
        devices.iter().filter(|device| is_drive(device)).filter_map(|device| drive(devices, device, known)).collect();
    drives.sort_by(|a, b| a.id.cmp(&b.id));
    drives
}

/// Whether this is a piece of hardware that data can be put on.
pub(crate) fn is_drive(device: &BlockDevice) -> bool {
    const DISK: &str = "0";
    const RBC_DISK: &str = "14";
    // Everything virtual is built of something else, except an NVMe namespace
    // with several paths.
    let is_virtual = device.sysfs.contains("/virtual/") && !device.sysfs.contains("/virtual/nvme-subsystem/");
    let is_medium_of_controller = device.wanted_links.iter().any(|link| {
        link.strip_prefix("disk/by-id/").is_some_and(|id| VIRTUAL_MEDIA.iter().any(|media| id.starts_with(media)))
    });
    let is_boot_area = device.name.starts_with("mmcblk")
        && (device.name.contains("boot") || device.name.contains("rpmb") || device.name.contains("gp"));
    let other_scsi = device.name.starts_with("sd") && !["", DISK, RBC_DISK].contains(&device.scsi_type.as_str());
    device.disk.is_none()
        && device.size > 0
        && !device.hidden
        && !is_virtual
        && !is_medium_of_controller
        && !is_boot_area
        && !other_scsi
}

/// Identifies a drive to the cache of health reports: the name alone may be
/// given to another drive.
pub(crate) fn smart_key(device: &BlockDevice) -> String {
    format!("{} {}", device.name, device.sequence)
}

/// Whether smartctl can learn anything from the drive.
pub(crate) fn may_have_smart(device: &BlockDevice) -> bool {
    is_drive(device) && (device.name.starts_with("sd") || device.name.starts_with("nvme"))
}

fn drive(devices: &BlockDevices, device: &BlockDevice, known: &Knowledge<'_>) -> Option<Drive> {
    let id = device.stable_path()?;
    let name = device.name.as_str();
    let basename = id.rsplit('/').next().unwrap_or_default();
    let report = known.smart.and_then(|reports| reports.get(&smart_key(device)));
    // smartctl knows product families and looks through USB bridges.
    let say = |from_smart: fn(&SmartReport) -> &String, own: String| {
        report.map(from_smart).filter(|text| !text.is_empty()).cloned().unwrap_or(own)
    };
    let encrypted = known.keys.contains(basename);
    let (wwn, wwn_id) = world_wide_name(device);
    Some(Drive {
        model_family: say(|report| &report.model_family, own_model_family(device)),
        model_name: say(|report| &report.model_name, own_model_name(device)),
        serial_number: say(|report| &report.serial_number, own_serial_number(device)),
        bus: say(|report| &report.bus, own_bus(device).to_owned()),
        capacity_in_bytes: i64::try_from(device.size).unwrap_or(i64::MAX),
        boot: known.boot.contains(name),
        multipath: is_multipath(devices, device),
        removable: device.removable,
        remote: is_remote(device),
        wwn,
        wwn_id,
        smart: report.and_then(|report| report.health.clone()),
        member_pool: known.member_of.get(name).map(|&pool| pool.to_owned()).unwrap_or_default(),
        encrypted,
        encrypted_id: if encrypted { format!("/dev/mapper/luks-{basename}") } else { String::new() },
        id,
    })
}

fn own_bus(device: &BlockDevice) -> &'static str {
    let name = device.name.as_str();
    if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if name.starts_with("vd") {
        "virtio"
    } else if device.property("ID_BUS") == "ata" || device.vendor == "ATA" {
        "sata"
    } else if name.starts_with("sd") {
        "scsi"
    } else {
        ""
    }
}

/// The vendor of a SCSI drive; for an ATA drive the kernel has a filler there,
/// for a virtio drive a number.
fn own_model_family(device: &BlockDevice) -> String {
    if own_bus(device) == "scsi" { device.vendor.clone() } else { String::new() }
}

fn own_model_name(device: &BlockDevice) -> String {
    // The kernel cuts the model of an ATA drive after sixteen characters.
    let udev = unescape(device.property("ID_MODEL_ENC"));
    if own_bus(device) == "sata" && !udev.is_empty() { udev } else { device.model.clone() }
}

fn own_serial_number(device: &BlockDevice) -> String {
    if device.serial.is_empty() { device.property("ID_SERIAL_SHORT").to_owned() } else { device.serial.clone() }
}

/// The world wide name and the path made of it.
fn world_wide_name(device: &BlockDevice) -> (String, String) {
    let long = device.property("ID_WWN_WITH_EXTENSION");
    let wwn = if long.is_empty() { device.property("ID_WWN") } else { long };
    let link = if device.name.starts_with("nvme") {
        format!("disk/by-id/nvme-{wwn}")
    } else {
        format!("disk/by-id/wwn-{wwn}")
    };
    let usable = if device.name.starts_with("nvme") {
        !wwn.is_empty() && device.wanted_links.contains(&link)
    } else {
        // Behind a multipath map the name leads to the map, and is what the map is
        // addressed by: so it is not asked to lead here.
        wwn.starts_with("0x")
    };
    if usable { (wwn.to_owned(), format!("/dev/{link}")) } else { Default::default() }
}

fn is_multipath(devices: &BlockDevices, device: &BlockDevice) -> bool {
    device.nvme_paths > 1
        || device.property("DM_MULTIPATH_DEVICE_PATH") == "1"
        || device.holders.iter().filter_map(|holder| devices.get(holder)).any(BlockDevice::is_multipath_map)
}

fn is_remote(device: &BlockDevice) -> bool {
    if device.name.starts_with("nvme") {
        return device.nvme_transports.iter().any(|transport| ["tcp", "rdma", "fc"].contains(&transport.as_str()));
    }
    // A remote port is Fibre Channel, a session iSCSI.
    device.sysfs.split('/').any(|part| {
        part.starts_with("rport-")
            || part.strip_prefix("session").is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
    })
}

/// Undoes udev's encoding of unusual characters as `\x20`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        match rest.get(at + 2..at + 4).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, links: &[&str]) -> BlockDevice {
        let links: Vec<String> = links.iter().map(|&link| link.into()).collect();
        BlockDevice {
            name: name.into(),
            node: name.into(),
            sysfs: format!("/devices/pci0000:00/0000:00:05.0/block/{name}"),
            size: 1 << 30,
            links: links.clone(),
            wanted_links: links,
            ..BlockDevice::default()
        }
    }

    fn listed(device: BlockDevice) -> Option<Drive> {
        drives(&BlockDevices::from_iter([device]), &Knowledge::default()).pop()
    }

    #[test]
    fn drives_are_sorted_by_id() {
        let devices =
            BlockDevices::from_iter([disk("vda", &["disk/by-id/virtio-z"]), disk("vdb", &["disk/by-id/virtio-a"])]);
        let ids: Vec<_> = drives(&devices, &Knowledge::default()).into_iter().map(|drive| drive.id).collect();
        assert_eq!(ids, ["/dev/disk/by-id/virtio-a", "/dev/disk/by-id/virtio-z"]);
    }

    #[test]
    fn what_is_not_a_drive_is_left_out() {
        let link = &["disk/by-id/x"][..];
        assert!(listed(disk("sda", link)).is_some());
        assert!(listed(disk("sda", &[])).is_none(), "without a stable path");
        assert!(listed(BlockDevice { size: 0, ..disk("sda", link) }).is_none(), "an empty card reader");
        assert!(listed(BlockDevice { hidden: true, ..disk("nvme0c0n1", link) }).is_none());
        assert!(listed(BlockDevice { sysfs: "/devices/virtual/block/dm-0".into(), ..disk("dm-0", link) }).is_none());
        assert!(listed(BlockDevice { scsi_type: "5".into(), ..disk("sda", link) }).is_none(), "optical");
        assert!(listed(BlockDevice { disk: Some("sda".into()), ..disk("sda1", link) }).is_none());
        assert!(listed(disk("mmcblk0boot0", link)).is_none());
        assert!(listed(disk("sdb", &["disk/by-id/usb-AMI_Virtual_HDisk0-0:0", "disk/by-path/pci-1"])).is_none());
        let shared = "/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
        assert!(listed(BlockDevice { sysfs: shared.into(), ..disk("nvme0n1", link) }).is_some());
    }

    #[test]
    fn sata_names_come_from_udev_whole() {
        let mut device = disk("sda", &["disk/by-id/ata-WDC"]);
        device.vendor = "ATA".into();
        device.model = "WDC WD40EFRX-68N".into();
        device.properties.insert("ID_MODEL_ENC", r"WDC\x20WD40EFRX-68N32N0\x20\x20\x20".into());
        device.properties.insert("ID_SERIAL_SHORT", "WD-WCC7K0".into());
        device.properties.insert("ID_WWN", "0x50014ee2bf".into());
        let drive = listed(device).unwrap();
        assert_eq!((drive.bus.as_str(), drive.model_family.as_str()), ("sata", ""));
        assert_eq!(drive.model_name, "WDC WD40EFRX-68N32N0");
        assert_eq!(drive.serial_number, "WD-WCC7K0");
        assert_eq!(drive.wwn_id, "/dev/disk/by-id/wwn-0x50014ee2bf");
    }

    #[test]
    fn smartctl_is_believed_over_the_kernel() {
        let mut device = disk("sda", &["disk/by-id/scsi-1"]);
        device.vendor = "ATA".into();
        let report = SmartReport { model_family: "Family".into(), bus: "sata".into(), ..Default::default() };
        let smart = BTreeMap::from([(smart_key(&device), report)]);
        let known = Knowledge { smart: Some(&smart), ..Default::default() };
        let drive = drives(&BlockDevices::from_iter([device]), &known).pop().unwrap();
        assert_eq!(drive.model_family, "Family");
    }

    #[test]
    fn an_nvme_name_needs_its_link() {
        let mut device = disk("nvme0n1", &["disk/by-id/nvme-Disk_1"]);
        device.properties.insert("ID_WWN", "eui.0025".into());
        assert_eq!(listed(device.clone()).unwrap().wwn, "");
        device.wanted_links.push("disk/by-id/nvme-eui.0025".into());
        let drive = listed(device).unwrap();
        assert_eq!((drive.wwn.as_str(), drive.wwn_id.as_str()), ("eui.0025", "/dev/disk/by-id/nvme-eui.0025"));
        assert_eq!(drive.bus, "nvme");
    }

    #[test]
    fn remote_drives() {
        let at = |sysfs: &str| is_remote(&BlockDevice { sysfs: sysfs.into(), ..disk("sda", &[]) });
        assert!(at("/devices/pci0000:00/host2/rport-2:0-1/target2:0:1/2:0:1:0/block/sda"));
        assert!(at("/devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sda"));
        assert!(!at("/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"));
        assert!(!at("/devices/platform/sessions/block/sda"));
        let nvme = |transport: &str| {
            is_remote(&BlockDevice { nvme_transports: vec![transport.into()], ..disk("nvme0n1", &[]) })
        };
        assert!(nvme("tcp") && nvme("fc") && !nvme("pcie") && !nvme(""));
    }

    #[test]
    fn multipath_is_seen_from_the_map_from_udev_and_from_nvme() {
        let path = BlockDevice { holders: vec!["dm-0".into()], ..disk("sda", &["disk/by-path/p"]) };
        let map = BlockDevice { dm_uuid: "mpath-3500".into(), ..disk("dm-0", &[]) };
        let other = BlockDevice { dm_uuid: "CRYPT-LUKS2-x".into(), ..disk("dm-0", &[]) };
        assert!(is_multipath(&BlockDevices::from_iter([path.clone(), map]), &path));
        assert!(!is_multipath(&BlockDevices::from_iter([path.clone(), other]), &path));
        let nothing = BlockDevices::default();
        assert!(is_multipath(&nothing, &BlockDevice { nvme_paths: 2, ..disk("nvme0n1", &[]) }));
        assert!(!is_multipath(&nothing, &BlockDevice { nvme_paths: 1, ..disk("nvme0n1", &[]) }));
    }

    #[test]
    fn encrypted_drives_are_those_with_a_key() {
        let device = disk("sdb", &["disk/by-id/scsi-b"]);
        let known = Knowledge { keys: BTreeSet::from(["scsi-b".to_owned()]), ..Default::default() };
        let drive = drives(&BlockDevices::from_iter([device]), &known).pop().unwrap();
        assert!(drive.encrypted);
        assert_eq!(drive.encrypted_id, "/dev/mapper/luks-scsi-b");
    }

    #[test]
    fn unescaping_survives_broken_input() {
        assert_eq!(unescape(r"a\x20b"), "a b");
        assert_eq!(unescape(r"\x"), r"\x");
        assert_eq!(unescape(r"\xzz\x2"), r"\xzz\x2");
        assert_eq!(unescape("\\xé"), "\\xé");
    }
}
