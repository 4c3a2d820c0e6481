//! The encrypted volumes of the system: whether they are open, and what opened
//! them.

use std::{fs, path::Path};

use api::v1::EncryptedVolume;

use crate::measurements::TpmStatus;

/// Mapper names of the volumes, in the order in which they are shown.
const VOLUMES: [&str; 2] = ["root", "swap"];

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

/// The state of every volume, in the words of the API.
pub(crate) fn states(block_devices: &Path, unlock: Unlock, tpm: TpmStatus) -> Vec<EncryptedVolume> {
    let open = open_mappings(block_devices);
    VOLUMES
        .iter()
        .map(|volume| {
            let state = if open.iter().any(|name| name == volume) { opened_by(unlock, tpm) } else { "locked" };
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

/// Names of the device-mapper devices that decrypt something.
fn open_mappings(block_devices: &Path) -> Vec<String> {
    let Ok(devices) = fs::read_dir(block_devices) else { return Vec::new() };
    devices
        .filter_map(|device| {
            let device = device.ok()?;
            if !device.file_name().to_str()?.starts_with("dm-") {
                return None;
            }
            let attribute = |name| fs::read_to_string(device.path().join("dm").join(name)).ok();
            let name = attribute("name")?;
            // Other kinds of mappings may carry the same names.
            let is_encrypted = VOLUMES.contains(&name.trim_end()) && attribute("uuid")?.starts_with("CRYPT-");
            is_encrypted.then(|| name.trim_end().to_owned())
        })
        .collect()
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
