//! Block devices, from sysfs and the udev database.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    engine::block::{BlockDevice, BlockDevices, PROPERTIES},
    machine::Roots,
};

/// A sector of sysfs, whatever the drive's own is.
const SECTOR: u64 = 512;

pub(super) fn read(roots: &Roots) -> BlockDevices {
    let names = entries(&roots.sys.join("class/block"));
    // A device that goes away meanwhile is left out.
    names.iter().filter(|name| !is_uninteresting(name)).filter_map(|name| device(roots, name)).collect()
}

/// Devices without a drive behind them. There may be hundreds, and reading
/// them would cost more than all drives together.
fn is_uninteresting(name: &str) -> bool {
    ["loop", "ram", "zram", "zd", "nbd", "rbd", "drbd", "fd", "sr"]
        .iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
}

fn device(roots: &Roots, name: &str) -> Option<BlockDevice> {
    let folder = fs::canonicalize(roots.sys.join("class/block").join(name)).ok()?;
    let sys = fs::canonicalize(&roots.sys).ok()?;
    let uevent = fs::read_to_string(folder.join("uevent")).ok()?;
    let field = |key: &str| value(&uevent, key).unwrap_or_default().to_owned();
    let number = attribute(&folder, "dev");
    let is_partition = folder.join("partition").exists();

    let mut device = BlockDevice {
        name: name.to_owned(),
        node: value(&uevent, "DEVNAME").unwrap_or(name).to_owned(),
        sysfs: format!("/{}", folder.strip_prefix(&sys).ok()?.display()),
        size: attribute(&folder, "size").parse::<u64>().unwrap_or(0).saturating_mul(SECTOR),
        partition_label: field("PARTNAME"),
        sequence: field("DISKSEQ"),
        slaves: entries(&folder.join("slaves")),
        holders: entries(&folder.join("holders")),
        dm_uuid: attribute(&folder, "dm/uuid"),
        ..BlockDevice::default()
    };
    if is_partition {
        device.disk = folder.parent().and_then(Path::file_name).map(|disk| disk.to_string_lossy().into_owned());
    } else {
        device.removable = attribute(&folder, "removable") == "1";
        device.hidden = attribute(&folder, "hidden") == "1";
        device.vendor = attribute(&folder, "device/vendor");
        device.model = attribute(&folder, "device/model");
        device.serial = [attribute(&folder, "device/serial"), attribute(&folder, "serial")].concat();
        device.scsi_type = attribute(&folder, "device/type");
        if name.starts_with("nvme") {
            read_nvme(&folder, name, &mut device);
        }
    }
    if let Ok(record) = fs::read_to_string(roots.udev.join(format!("b{number}"))) {
        read_udev(&record, &mut device);
    }
    device.links = device.wanted_links.iter().filter(|link| leads_to(roots, link, &device.node)).cloned().collect();
    device.number = number;
    Some(device)
}

/// Paths to an NVMe namespace. `device` is its controller or, when the kernel
/// does the multipathing, its subsystem with links to all controllers.
fn read_nvme(folder: &Path, name: &str, device: &mut BlockDevice) {
    let above = folder.join("device");
    let own = attribute(&above, "transport");
    if !own.is_empty() {
        device.nvme_transports.push(own);
        device.nvme_paths = 1;
        return;
    }
    let Some((_, namespace)) = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n')) else { return };
    for entry in entries(&above) {
        let is_controller = entry.strip_prefix("nvme").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()));
        if is_controller {
            let controller = above.join(&entry);
            device.nvme_transports.push(attribute(&controller, "transport"));
            let is_path = |path: &String| is_namespace_path(path, namespace);
            device.nvme_paths += entries(&controller).iter().filter(|path| is_path(path)).count();
        }
    }
}

/// Whether `nvme0c1n2` is a path to namespace `2`.
fn is_namespace_path(path: &str, namespace: &str) -> bool {
    path.strip_prefix("nvme")
        .and_then(|rest| rest.split_once('c'))
        .and_then(|(_, rest)| rest.split_once('n'))
        .is_some_and(|(_, found)| found == namespace)
}

/// Takes over a record of the udev database: one `type:value` per line.
fn read_udev(record: &str, device: &mut BlockDevice) {
    for line in record.lines() {
        match line.split_once(':') {
            Some(("S", link)) => device.wanted_links.push(link.to_owned()),
            Some(("I", _)) => device.initialized = true,
            Some(("E", property)) => {
                let Some((name, value)) = property.split_once('=') else { continue };
                if let Some(known) = PROPERTIES.iter().find(|known| **known == name) {
                    device.properties.insert(known, value.to_owned());
                }
            }
            _ => {}
        }
    }
    device.wanted_links.sort();
}

/// Whether this link below `/dev` leads to this node. Of several devices that
/// want the same link only one has it.
fn leads_to(roots: &Roots, link: &str, node: &str) -> bool {
    let node: PathBuf = roots.dev.join(node);
    fs::canonicalize(roots.dev.join(link))
        .is_ok_and(|target| target == node || fs::canonicalize(node).is_ok_and(|node| node == target))
}

/// Names in a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A sysfs attribute without surrounding space; empty if it cannot be read.
fn attribute(folder: &Path, name: &str) -> String {
    // Serial numbers and models are padded, and need not be UTF-8.
    fs::read(folder.join(name)).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned(),
    )
}

fn value<'a>(uevent: &'a str, key: &str) -> Option<&'a str> {
    uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}
