use std::path::Path;

use api::v1::{ResourcesStorage, StorageDisk, StorageDiskPartition};

use crate::{
    device::{Devices, UdevRecord},
    tree,
};

/// The kernel counts sectors of 512 bytes, whatever the disk's own are.
const SECTOR: u64 = 512;

/// Disks and their partitions.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesStorage {
    let names = devices.tree.names("sys/class/block");
    let disks: Vec<_> = names.into_iter().filter_map(|name| disk(devices, name)).collect();
    let partitions: usize = disks.iter().map(|disk| disk.partitions.len()).sum();
    ResourcesStorage { total: (disks.len() + partitions) as u64, disks }
}

fn disk(devices: &Devices<'_>, id: String) -> Option<StorageDisk> {
    let class = devices.folder(Path::new("sys/class/block").join(&id))?;
    let folder = class.join("device").canonicalize().ok()?;
    // Network devices of Ceph, and the single paths below a multipath NVMe disk.
    if id.starts_with("rbd") || tree::number(&class.join("hidden")) == Some(1) {
        return None;
    }
    let device = tree::text(&class.join("dev"))?;
    let record = devices.udev(&format!("b{device}"));
    let identity = devices.identity(&folder);
    let text = |file: &str| tree::text(&class.join(file));
    let flag = |file: &str| tree::number(&class.join(file)) == Some(1);
    let is_rotating = flag("queue/rotational");
    Some(StorageDisk {
        model: model(&record).or_else(|| text("device/model")).unwrap_or_default(),
        r#type: kind(&id, &folder, &identity.usb_address),
        read_only: flag("ro"),
        size: tree::number(&class.join("size")).unwrap_or_default().saturating_mul(SECTOR),
        removable: flag("removable"),
        wwn: text("wwid").or_else(|| text("device/wwid")).or_else(|| record.first_of(&["ID_WWN"])).unwrap_or_default(),
        numa_node: identity.numa_node,
        device_path: record.links_in("disk/by-path").next().unwrap_or_default().to_owned(),
        block_size: tree::number(&class.join("queue/physical_block_size")).unwrap_or_default(),
        firmware_version: text("device/firmware_rev").or_else(|| text("device/rev")).unwrap_or_default(),
        rpm: if is_rotating {
            record.property("ID_ATA_ROTATION_RATE_RPM").parse().ok().filter(|rpm| *rpm > 0).unwrap_or(1)
        } else {
            0
        },
        serial: record
            .first_of(&["SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"])
            .or_else(|| text("serial"))
            .or_else(|| text("device/serial"))
            .unwrap_or_default(),
        // An LVM volume's own id says nothing about the disk.
        device_id: record
            .links_in("disk/by-id")
            .find(|link| !link.starts_with("lvm-pv-uuid-"))
            .unwrap_or_default()
            .to_owned(),
        partitions: partitions(&class),
        pci_address: identity.pci_address,
        usb_address: identity.usb_address,
        id,
        device,
    })
}

fn partitions(class: &Path) -> Vec<StorageDiskPartition> {
    let names = tree::names(class).into_iter();
    names
        .filter_map(|id| {
            let folder = class.join(&id);
            Some(StorageDiskPartition {
                partition: tree::number(&folder.join("partition"))?,
                device: tree::text(&folder.join("dev"))?,
                read_only: tree::number(&folder.join("ro")) == Some(1),
                size: tree::number(&folder.join("size")).unwrap_or_default().saturating_mul(SECTOR),
                id,
            })
        })
        .collect()
}

/// Kind of the disk, by what it is plugged into.
fn kind(id: &str, folder: &Path, usb_address: &str) -> String {
    if id.starts_with("sr") {
        return "cdrom".into();
    }
    if !usb_address.is_empty() {
        return "usb".into();
    }
    let is_ata = |component: &str| tree::numbered(component, "ata").is_some();
    if folder.iter().filter_map(|component| component.to_str()).any(is_ata) {
        return "sata".into();
    }
    tree::link_name(&folder.join("subsystem")).unwrap_or_default()
}

fn model(record: &UdevRecord) -> Option<String> {
    let encoded = record.first_of(&["ID_MODEL_ENC"]).map(|encoded| decode(&encoded)).filter(|model| !model.is_empty());
    encoded.or_else(|| record.first_of(&["ID_MODEL"]))
}

/// udev writes white space as `\x20`.
fn decode(encoded: &str) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        let escaped = rest.starts_with(b"\\x").then(|| Some(digit(2)? << 4 | digit(3)?)).flatten();
        match escaped.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_udev_are_undone() {
        assert_eq!(decode(r"QEMU\x20HARDDISK\x20\x20"), "QEMU HARDDISK");
        for (encoded, decoded) in
            [("", ""), (r"\x", r"\x"), (r"\x2", r"\x2"), (r"\xzz", r"\xzz"), (r"a\x+1", r"a\x+1"), (r"a\", r"a\")]
        {
            assert_eq!(decode(encoded), decoded);
        }
        assert_eq!(decode(r"\xff\x41"), "\u{fffd}A");
    }
}
