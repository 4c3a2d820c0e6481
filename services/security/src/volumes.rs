//! The encrypted volumes of the system: where they are, whether they are open,
//! and what opened them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::v1::EncryptedVolume;

use crate::{luks::Volume, machine::Machine, measurements::TpmStatus};

const ROOT: &str = "root";
const SWAP: &str = "swap";

/// Mapper names of the volumes, in the order in which they are shown.
const VOLUMES: [&str; 2] = [ROOT, SWAP];

/// What opened the root volume at this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlock {
    /// The TPM released its key.
    Tpm,
    /// Somebody typed a recovery key.
    Passphrase,
    /// There is no trace of either.
    Unknown,
}

impl Unlock {
    /// Reads what the initrd left in its EFI variable: four bytes, the last one zero for the TPM.
    pub(crate) fn from_variable(data: &[u8]) -> Self {
        if matches!(data, [_, _, _, 0]) { Self::Tpm } else { Self::Passphrase }
    }

    /// Reads what the journal has of the unit that opened the volume. The unit
    /// always tries the TPM first, and says so when it has to do without.
    pub(crate) fn from_log(log: &str) -> Self {
        if log.contains("falling back to traditional unlocking") {
            return Self::Passphrase;
        }
        let has_opened = log.lines().any(|line| {
            line.starts_with("Finished ")
                || line.contains("Automatically discovered security TPM2 token unlocks volume")
        });
        if has_opened { Self::Tpm } else { Self::Unknown }
    }
}

/// The partitions of the volumes.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    pub(crate) found: Vec<Volume>,
    /// Volumes that should be there and are not.
    pub(crate) missing: Vec<&'static str>,
}

/// Finds the partitions: the one below the mapping `root`, and the one labelled
/// `swap` on the same disk. A system that runs from memory has neither.
///
/// A link in `/dev/disk` alone does not do: it names whatever disk with such a label
/// appeared last, and other disks carry the same labels.
pub(crate) fn partitions(machine: &Machine) -> Partitions {
    let mut partitions = Partitions::default();
    let Some(root) = encrypted_mapping(&machine.block_devices(), ROOT) else { return partitions };
    let root = only_slave(&root);
    let swap = root.as_deref().and_then(|root| swap_beside(machine, root));
    for (name, partition) in [(ROOT, root), (SWAP, swap)] {
        match partition.and_then(|partition| machine.device_of(&partition)) {
            Some(device) => partitions.found.push(Volume { name, device }),
            None => partitions.missing.push(name),
        }
    }
    partitions
}

/// The swap partition on the disk of another partition. Both in sysfs.
///
/// By udev's link if it leads to this disk, else by the kernel's own word, which is
/// missing for partitions of the first boot and of multipath disks.
fn swap_beside(machine: &Machine, partition: &Path) -> Option<PathBuf> {
    let disk = disk_of(partition)?;
    let linked = machine.partition_by_label(SWAP).filter(|swap| disk_of(swap).as_ref() == Some(&disk));
    let label = format!("PARTNAME={SWAP}");
    linked.or_else(|| {
        fs::read_dir(disk).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|part| {
            fs::read_to_string(part.join("uevent")).is_ok_and(|facts| facts.lines().any(|fact| fact == label))
        })
    })
}

/// The disk of a partition. On a multipath disk both are mappings.
fn disk_of(partition: &Path) -> Option<PathBuf> {
    if is_mapping(partition) { only_slave(partition) } else { partition.parent().map(Path::to_owned) }
}

fn is_mapping(device: &Path) -> bool {
    device.join("dm").is_dir()
}

/// The device that a mapping lies on, when it is one.
fn only_slave(mapping: &Path) -> Option<PathBuf> {
    let mut slaves = fs::read_dir(mapping.join("slaves")).ok()?.filter_map(Result::ok);
    match (slaves.next(), slaves.next()) {
        (Some(slave), None) => fs::canonicalize(slave.path()).ok(),
        _ => None,
    }
}

/// The mapping of this name that decrypts something.
fn encrypted_mapping(block_devices: &Path, name: &str) -> Option<PathBuf> {
    let mut devices = fs::read_dir(block_devices).ok()?.filter_map(|device| Some(device.ok()?.path()));
    devices.find(|device| decrypts(device).as_deref() == Some(name))
}

/// Name of a mapping that decrypts something. Other kinds of mappings may carry
/// the same names.
fn decrypts(device: &Path) -> Option<String> {
    let attribute = |name| fs::read_to_string(device.join("dm").join(name)).ok();
    let name = attribute("name")?;
    attribute("uuid")?.starts_with("CRYPT-LUKS").then(|| name.trim_end().to_owned())
}

/// The state of every volume, in the words of the API.
pub(crate) fn states(block_devices: &Path, unlock: Unlock, tpm: TpmStatus) -> Vec<EncryptedVolume> {
    VOLUMES
        .iter()
        .map(|volume| {
            let is_open = encrypted_mapping(block_devices, volume).is_some();
            let state = if is_open { opened_by(unlock, tpm) } else { "locked" };
            EncryptedVolume { volume: (*volume).to_owned(), state: state.to_owned() }
        })
        .collect()
}

fn opened_by(unlock: Unlock, tpm: TpmStatus) -> &'static str {
    match (unlock, tpm) {
        (Unlock::Tpm, _) => "unlocked (TPM)",
        (Unlock::Passphrase | Unlock::Unknown, TpmStatus::Mismatch) => "unlocked (TPM; PCR update pending)",
        (Unlock::Passphrase | Unlock::Unknown, _) => "unlocked (recovery passphrase)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(dir: &Path, device: &str, name: &str, uuid: &str) {
        let attributes = dir.join(device).join("dm");
        fs::create_dir_all(&attributes).unwrap();
        fs::write(attributes.join("name"), format!("{name}\n")).unwrap();
        fs::write(attributes.join("uuid"), format!("{uuid}\n")).unwrap();
    }

    fn shown(dir: &Path, unlock: Unlock, tpm: TpmStatus) -> Vec<(String, String)> {
        states(dir, unlock, tpm).into_iter().map(|volume| (volume.volume, volume.state)).collect()
    }

    #[test]
    fn a_volume_without_mapping_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        mapping(dir.path(), "dm-0", "usr", "CRYPT-VERITY-1-usr");
        mapping(dir.path(), "dm-1", "root", "CRYPT-LUKS2-4f-root");
        // A volume of somebody else under our name, and one that vanishes while being looked at.
        mapping(dir.path(), "dm-2", "swap", "LVM-abc");
        fs::create_dir_all(dir.path().join("dm-3")).unwrap();
        let states = shown(dir.path(), Unlock::Tpm, TpmStatus::Good);
        assert_eq!(states, [("root".into(), "unlocked (TPM)".into()), ("swap".into(), "locked".into())]);
    }

    /// A machine of files: mapping `root` on the second partition of a disk.
    fn machine_with_disk(dir: &Path, swap_label: &str) -> Machine {
        let put = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/devices/vda/vda1/uevent", &format!("DEVNAME=vda1\nPARTN=1\nPARTNAME={swap_label}\n"));
        put("sys/devices/vda/vda2/uevent", "DEVNAME=vda2\nPARTN=2\nPARTNAME=root-x86-64\n");
        put("sys/devices/vda/uevent", "DEVNAME=vda\n");
        put("dev/vda1", "");
        put("dev/vda2", "");
        mapping(&dir.join("sys/block"), "dm-1", ROOT, "CRYPT-LUKS2-4f-root");
        let slaves = dir.join("sys/block/dm-1/slaves");
        fs::create_dir_all(&slaves).unwrap();
        std::os::unix::fs::symlink("../../../devices/vda/vda2", slaves.join("vda2")).unwrap();
        Machine::new(dir, crate::DeviceTpm { path: dir.join("no-tpm") }, runner::ScriptedRunner::new())
    }

    fn devices(partitions: &Partitions) -> Vec<(&str, PathBuf)> {
        partitions.found.iter().map(|volume| (volume.name, volume.device.clone())).collect()
    }

    #[test]
    fn the_partitions_are_found_on_one_disk() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine_with_disk(dir.path(), "swap");
        let partitions = partitions(&machine);
        assert_eq!(
            devices(&partitions),
            [("root", dir.path().join("dev/vda2")), ("swap", dir.path().join("dev/vda1"))]
        );
        assert_eq!(partitions.missing, Vec::<&str>::new());
    }

    /// What udev knows of a partition that it found to be labelled `swap`.
    fn link_as_swap(dir: &Path, partition: &str) {
        for (link, target) in [
            (dir.join("dev/disk/by-partlabel/swap"), format!("../../{partition}")),
            (dir.join("sys/class/block").join(partition), format!("../../devices/{}/{partition}", &partition[..3])),
        ] {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, link).unwrap();
        }
    }

    #[test]
    fn a_partition_that_the_kernel_has_no_label_of_is_found_by_udev_s_link() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine_with_disk(dir.path(), "");
        assert_eq!(partitions(&machine).missing, ["swap"]);
        link_as_swap(dir.path(), "vda1");
        let found = partitions(&machine);
        assert_eq!(devices(&found), [("root", dir.path().join("dev/vda2")), ("swap", dir.path().join("dev/vda1"))]);
    }

    #[test]
    fn a_swap_partition_of_another_disk_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine_with_disk(dir.path(), "scratch");
        let other = dir.path().join("sys/devices/vdb/vdb1");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("uevent"), "DEVNAME=vdb1\nPARTNAME=swap\n").unwrap();
        fs::write(dir.path().join("dev/vdb1"), "").unwrap();
        link_as_swap(dir.path(), "vdb1");
        let partitions = partitions(&machine);
        assert_eq!(devices(&partitions), [("root", dir.path().join("dev/vda2"))]);
        assert_eq!(partitions.missing, ["swap"]);
    }

    #[test]
    fn the_partitions_of_a_multipath_disk_are_mappings_on_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let block = dir.path().join("sys/block");
        let slave = |device: &str, of: &str| {
            let slaves = block.join(device).join("slaves");
            fs::create_dir_all(&slaves).unwrap();
            std::os::unix::fs::symlink(format!("../../{of}"), slaves.join(of)).unwrap();
        };
        for (device, name) in
            [("dm-0", "mpatha"), ("dm-1", "mpatha-part9"), ("dm-2", "mpatha-part10"), ("dm-4", "mpathb")]
        {
            mapping(&block, device, name, "mpath-x");
            fs::write(block.join(device).join("uevent"), format!("DEVNAME={device}\n")).unwrap();
        }
        mapping(&block, "dm-3", ROOT, "CRYPT-LUKS2-4f-root");
        for (device, of) in [("dm-1", "dm-0"), ("dm-2", "dm-0"), ("dm-3", "dm-2")] {
            slave(device, of);
        }
        for device in ["dm-1", "dm-2"] {
            let path = dir.path().join("dev").join(device);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir_all(dir.path().join("sys/class")).unwrap();
        std::os::unix::fs::symlink("../block", dir.path().join("sys/class/block")).unwrap();
        let links = dir.path().join("dev/disk/by-partlabel");
        fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink("../../dm-1", links.join("swap")).unwrap();
        let tpm = crate::DeviceTpm { path: "/nonexistent".into() };
        let machine = Machine::new(dir.path(), tpm, runner::ScriptedRunner::new());
        let found = partitions(&machine);
        assert_eq!(devices(&found), [("root", dir.path().join("dev/dm-2")), ("swap", dir.path().join("dev/dm-1"))]);

        // The same label on another disk.
        fs::remove_dir_all(block.join("dm-1/slaves")).unwrap();
        slave("dm-1", "dm-4");
        assert_eq!(partitions(&machine).missing, ["swap"]);
    }

    #[test]
    fn a_system_without_encrypted_root_has_no_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let tpm = crate::DeviceTpm { path: "/nonexistent".into() };
        let partitions = partitions(&Machine::new(dir.path(), tpm, runner::ScriptedRunner::new()));
        assert!(partitions.found.is_empty() && partitions.missing.is_empty());
    }

    #[test]
    fn without_block_devices_everything_is_locked() {
        let states = shown(Path::new("/nonexistent"), Unlock::Tpm, TpmStatus::Good);
        assert!(states.iter().all(|(_, state)| state == "locked"), "{states:?}");
    }

    #[test]
    fn what_opened_a_volume_is_told_in_the_words_of_the_api() {
        let table = [
            (Unlock::Tpm, TpmStatus::Good, "unlocked (TPM)"),
            (Unlock::Tpm, TpmStatus::Mismatch, "unlocked (TPM)"),
            (Unlock::Passphrase, TpmStatus::Good, "unlocked (recovery passphrase)"),
            (Unlock::Passphrase, TpmStatus::Mismatch, "unlocked (TPM; PCR update pending)"),
            (Unlock::Unknown, TpmStatus::Unavailable, "unlocked (recovery passphrase)"),
        ];
        for (unlock, tpm, words) in table {
            assert_eq!(opened_by(unlock, tpm), words, "{unlock:?}, {tpm:?}");
        }
    }

    #[test]
    fn the_variable_of_the_initrd_is_good_only_as_four_bytes_ending_in_zero() {
        assert_eq!(Unlock::from_variable(&[0, 0, 0, 0]), Unlock::Tpm);
        for other in [&[0, 0, 0, 1][..], &[0, 0, 0], &[0; 5], &[]] {
            assert_eq!(Unlock::from_variable(other), Unlock::Passphrase, "{other:?}");
        }
    }

    #[test]
    fn the_journal_tells_what_opened_the_volume() {
        let by_tpm = "Starting systemd-cryptsetup@root.service - Cryptography Setup for root...\n\
                      Automatically discovered security TPM2 token unlocks volume.\n\
                      Set cipher aes, mode xts-plain64, key size 512 bits for device /dev/disk/by-uuid/1.\n\
                      Finished systemd-cryptsetup@root.service - Cryptography Setup for root.\n";
        let by_hand = "Starting systemd-cryptsetup@root.service - Cryptography Setup for root...\n\
                       No TPM2 metadata matching the current system state found in LUKS2 header, falling back to traditional unlocking.\n\
                       Finished systemd-cryptsetup@root.service - Cryptography Setup for root.\n";
        let by_plugin = "Starting systemd-cryptsetup@root.service - Cryptography Setup for root...\n\
                         Finished systemd-cryptsetup@root.service - Cryptography Setup for root.\n";
        let table = [
            (by_tpm, Unlock::Tpm),
            (by_plugin, Unlock::Tpm),
            (by_hand, Unlock::Passphrase),
            ("Starting systemd-cryptsetup@root.service...\n", Unlock::Unknown),
            ("", Unlock::Unknown),
        ];
        for (log, unlock) in table {
            assert_eq!(Unlock::from_log(log), unlock, "{log}");
        }
    }
}
