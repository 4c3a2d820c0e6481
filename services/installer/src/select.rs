//! Which drive to install to.

use std::fmt;

use api::v1::InstallTarget;
use sys::Block;
use values::ByteSize;

/// Prefixes of the names of drives that a management controller shows, and never keeps.
const VIRTUAL_MEDIA: [&str; 5] =
    ["usb-Linux_Virtual_", "usb-Generic-_SD_MMC_CRW", "usb-Cisco_", "usb-AMI_Virtual_", "usb-iDRAC_Virtual_"];

/// A drive that the system could be installed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its device.
    pub(crate) block: Block,
}

impl Candidate {
    /// Its preferred name in `/dev/disk/by-id`.
    pub(crate) fn id(&self) -> &str {
        self.block.ids.first().map_or("", String::as_str)
    }

    /// The same with its folder, as messages name a drive.
    pub(crate) fn path(&self) -> String {
        format!("/dev/disk/by-id/{}", self.id())
    }
}

/// A drive that is passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PassedOver {
    pub(crate) name: String,
    pub(crate) reason: &'static str,
}

/// The drives that the system could be installed to, sorted by name, and the others that a person
/// may wonder about. `source` is the drive that was booted.
pub(crate) fn candidates(blocks: &[Block], source: &str) -> (Vec<Candidate>, Vec<PassedOver>) {
    let mut found = Vec::new();
    let mut passed_over = Vec::new();
    for block in blocks.iter().filter(|block| block.partition.is_none() && block.name != source) {
        // What is made of drives is not one itself; floppies and CD-ROMs keep nothing.
        let is_drive = block.subsystems.contains(':');
        if !is_drive
            || ["loop", "sr", "fd", "ram", "zram", "nbd", "dm-"].iter().any(|kind| block.name.starts_with(kind))
        {
            continue;
        }
        let reason = if block.size == 0 {
            Some("there is no medium in it")
        } else if block.ids.is_empty() {
            Some("it has no name in /dev/disk/by-id: give it a serial number")
        } else if block.ids.iter().any(|id| VIRTUAL_MEDIA.iter().any(|prefix| id.starts_with(prefix))) {
            Some("it is a virtual medium of the management controller")
        } else if block.is_read_only {
            Some("it is read-only")
        } else {
            None
        };
        match reason {
            Some(reason) => passed_over.push(PassedOver { name: block.name.clone(), reason }),
            None => found.push(Candidate { block: block.clone() }),
        }
    }
    (found, passed_over)
}

/// Why no drive was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoTarget {
    NoDrive,
    NotExactlyOne,
    NoMatch,
    SeveralMatch,
    Selector { key: &'static str, reason: String },
}

impl fmt::Display for NoTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDrive => out.write_str("no potential install devices found"),
            Self::NotExactlyOne => {
                out.write_str("the seed names no target, and there is not exactly one device to install to")
            }
            Self::NoMatch => out.write_str("no device matches the target of the seed"),
            Self::SeveralMatch => {
                out.write_str("more than one device matches the target of the seed, and it has no `sort_order`")
            }
            Self::Selector { key, reason } => write!(out, "install seed: target.{key}: {reason}"),
        }
    }
}

/// The drive that the seed asks for.
pub(crate) fn select<'a>(
    candidates: &'a [Candidate],
    target: Option<&InstallTarget>,
) -> Result<&'a Candidate, NoTarget> {
    if candidates.is_empty() {
        return Err(NoTarget::NoDrive);
    }
    let Some(target) = target else {
        return if let [only] = candidates { Ok(only) } else { Err(NoTarget::NotExactlyOne) };
    };
    let size = |key, text: &str| match text {
        "" => Ok(None),
        text => text
            .parse::<ByteSize>()
            .map(|size| Some(size.bytes()))
            .map_err(|error| NoTarget::Selector { key, reason: error.to_string() }),
    };
    let (max, min) = (size("max_size", &target.max_size)?, size("min_size", &target.min_size)?);
    let bus = target.bus.to_lowercase();
    let mut matching: Vec<_> = candidates
        .iter()
        .filter(|candidate| {
            let block = &candidate.block;
            let has_id = candidate.id().contains(&target.id) || block.ids.contains(&target.id);
            block.subsystems.contains(&bus)
                && has_id
                && max.is_none_or(|max| block.size <= max)
                && min.is_none_or(|min| block.size >= min)
        })
        .collect();
    match matching.as_slice() {
        [] => return Err(NoTarget::NoMatch),
        [only] => return Ok(only),
        _ => {}
    }
    matching.sort_by_key(|candidate| candidate.block.size);
    match target.sort_order.to_lowercase().as_str() {
        "" => Err(NoTarget::SeveralMatch),
        "smallest" => Ok(matching[0]),
        "largest" => {
            // The first of equally large ones, as with the smallest.
            let size = matching[matching.len() - 1].block.size;
            Ok(matching.into_iter().find(|candidate| candidate.block.size == size).expect("one has that size"))
        }
        _ => Err(NoTarget::Selector {
            key: "sort_order",
            reason: format!("unsupported sort order '{}'", target.sort_order),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, size: u64, subsystems: &str, id: &str) -> Block {
        Block {
            name: name.into(),
            size,
            subsystems: subsystems.into(),
            ids: vec![id.into(), format!("wwn-{name}")],
            ..Block::default()
        }
    }

    /// The drives of the specification's table.
    fn drives(count: usize) -> Vec<Candidate> {
        let list = [
            block("sda", 50, "block:scsi:virtio:pci", "scsi-0QEMU_QEMU_HARDDISK_incus_root"),
            block("sdb", 51, "block:scsi:virtio:pci", "scsi-0QEMU_QEMU_HARDDISK_incus_disk1"),
            block("sdc", 52, "block:scsi:usb:pci", "usb-QEMU_QEMU_HARDDISK_incus_disk2"),
            block("sdd", 53, "block:scsi:usb:pci", "usb-QEMU_QEMU_HARDDISK_incus_disk3"),
            block("nvme0n1", 60, "block:nvme:pci", "nvme-QEMU_NVMe_Ctrl_incus_disk4"),
            block("nvme1n1", 61, "block:nvme:pci", "nvme-QEMU_NVMe_Ctrl_incus_disk5"),
        ];
        list.into_iter().take(count).map(|block| Candidate { block }).collect()
    }

    fn selected(count: usize, target: &Option<InstallTarget>) -> Result<String, String> {
        let drives = drives(count);
        select(&drives, target.as_ref()).map(|found| found.block.name.clone()).map_err(|error| error.to_string())
    }

    fn target(change: impl FnOnce(&mut InstallTarget)) -> Option<InstallTarget> {
        let mut target = InstallTarget::default();
        change(&mut target);
        Some(target)
    }

    fn fails(outcome: Result<String, String>, with: &str) {
        let error = outcome.unwrap_err();
        assert!(error.contains(with), "{error}");
    }

    #[test]
    fn without_a_target_there_must_be_one_drive() {
        fails(selected(0, &None), "no potential install devices found");
        assert_eq!(selected(1, &None), Ok("sda".into()));
        fails(selected(2, &None), "not exactly one device");
    }

    #[test]
    fn selectors_of_the_specification_s_table() {
        fails(selected(6, &target(|_| ())), "more than one device matches");
        fails(selected(6, &target(|t| t.id = "foobar".into())), "no device matches");
        fails(selected(6, &target(|t| t.sort_order = "foobar".into())), "unsupported sort order 'foobar'");
        fails(selected(6, &target(|t| t.max_size = "foobar".into())), "target.max_size");
        fails(selected(6, &target(|t| t.min_size = "bizbaz".into())), "target.min_size");
        let found = |change: &dyn Fn(&mut InstallTarget)| selected(6, &target(change)).unwrap();
        assert_eq!(found(&|t| (t.bus, t.sort_order) = ("usb".into(), "Smallest".into())), "sdc");
        assert_eq!(found(&|t| (t.bus, t.sort_order) = ("NVME".into(), "LARGEST".into())), "nvme1n1");
        let disks = |t: &mut InstallTarget, order: &str| (t.id, t.sort_order) = ("incus_disk".into(), order.into());
        assert_eq!(found(&|t| disks(t, "smallest")), "sdb");
        assert_eq!(
            found(&|t| {
                disks(t, "smallest");
                t.min_size = "55".into();
            }),
            "nvme0n1"
        );
        assert_eq!(
            found(&|t| {
                disks(t, "largest");
                (t.min_size, t.max_size) = ("55".into(), "70".into());
            }),
            "nvme1n1"
        );
        assert_eq!(
            found(&|t| {
                disks(t, "largest");
                (t.min_size, t.max_size) = ("51".into(), "59".into());
            }),
            "sdd"
        );
    }

    #[test]
    fn any_name_of_a_drive_selects_it_but_only_the_preferred_one_in_part() {
        assert_eq!(selected(6, &target(|t| t.id = "wwn-sdc".into())), Ok("sdc".into()));
        fails(selected(6, &target(|t| t.id = "wwn-sd".into())), "no device matches");
        // A selector that fits one drive needs no order, not even a sensible one.
        assert_eq!(
            selected(6, &target(|t| (t.id, t.sort_order) = ("disk2".into(), "foobar".into()))),
            Ok("sdc".into())
        );
    }

    #[test]
    fn what_cannot_keep_a_system_is_no_candidate_and_oddities_are_named() {
        let with = |name: &str, change: &dyn Fn(&mut Block)| {
            let mut block = block(name, 50, "block:scsi:pci", &format!("scsi-{name}"));
            change(&mut block);
            block
        };
        let blocks = [
            with("sda", &|_| ()),
            with("sdb", &|_| ()),
            with("sdb1", &|block| block.partition = Some(("sdb".into(), 1))),
            with("sdc", &|block| block.size = 0),
            with("sdd", &|block| block.ids.clear()),
            with("sde", &|block| block.ids = vec!["usb-AMI_Virtual_HDisk0".into()]),
            with("sdf", &|block| block.is_read_only = true),
            with("sr0", &|_| ()),
            with("loop0", &|block| block.subsystems = "block".into()),
            with("dm-0", &|block| block.subsystems = "block".into()),
        ];
        let (found, passed_over) = candidates(&blocks, "sda");
        assert_eq!(found.iter().map(|drive| drive.block.name.as_str()).collect::<Vec<_>>(), ["sdb"]);
        let odd: Vec<_> = passed_over.iter().map(|drive| drive.name.as_str()).collect();
        assert_eq!(odd, ["sdc", "sdd", "sde", "sdf"]);
    }
}
