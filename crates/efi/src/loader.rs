//! What systemd-boot says about the releases on the EFI system partition. Its
//! variables are readable without any privilege, unlike the partition itself.

use crate::{UkiName, Variable, VariableError, Variables};

/// Most entries that are believed.
const ENTRY_LIMIT: usize = 256;

/// The releases that the boot loader knows of, as of this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Releases {
    /// The one that was started.
    pub running: UkiName,
    /// The other ones of the same product, in the order of the boot menu.
    pub others: Vec<UkiName>,
}

/// Why the running release is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// A variable could not be read.
    #[error("cannot ask the boot loader")]
    Variable(#[from] VariableError),
    /// The machine was not started by systemd-boot.
    #[error("the boot loader did not say which entry it started")]
    NoEntry,
    /// Nor from which partition it came.
    #[error("the boot loader did not say which partition it came from")]
    NoPartition,
    /// The entry that was started is no release of ours.
    #[error("the boot loader started something else than a release")]
    NotARelease(#[from] crate::UkiNameError),
}

/// Reads which release runs, and which others were there when it was started.
pub fn releases(variables: &Variables) -> Result<Releases, LoaderError> {
    let selected = variables.read(Variable::LoaderEntrySelected)?.ok_or(LoaderError::NoEntry)?;
    let running: UkiName = strings(&selected.data).next().ok_or(LoaderError::NoEntry)?.parse()?;
    let entries = variables.read(Variable::LoaderEntries)?.map(|value| value.data).unwrap_or_default();
    let mut others: Vec<UkiName> = Vec::new();
    // The menu also lists the firmware set-up and whatever else lies on the partition.
    for other in strings(&entries).take(ENTRY_LIMIT).filter_map(|entry| entry.parse::<UkiName>().ok()) {
        let is_ours = other.id.eq_ignore_ascii_case(&running.id);
        let is_known = other.is_same_release(&running) || others.iter().any(|known| known.is_same_release(&other));
        if is_ours && !is_known {
            others.push(other);
        }
    }
    Ok(Releases { running, others })
}

/// GUID of the EFI system partition that this boot came from, in lower case, as
/// in `/dev/disk/by-partuuid`.
///
/// # Errors
///
/// When the boot loader did not leave it, or it cannot be read.
pub fn boot_partition(variables: &Variables) -> Result<String, LoaderError> {
    let value = variables.read(Variable::LoaderDevicePartUuid)?.ok_or(LoaderError::NoPartition)?;
    let text = strings(&value.data).next().unwrap_or_default().to_ascii_lowercase();
    let is_guid = text.len() == 36 && text.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
    if is_guid { Ok(text) } else { Err(LoaderError::NoPartition) }
}

/// The NUL-terminated UTF-16 strings in `bytes`; what is no valid text is skipped.
fn strings(bytes: &[u8]) -> impl Iterator<Item = String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let texts: Vec<_> = units.split(|unit| *unit == 0).filter_map(|text| String::from_utf16(text).ok()).collect();
    texts.into_iter().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn utf16(strings: &[&str]) -> Vec<u8> {
        strings.iter().flat_map(|text| text.encode_utf16().chain([0])).flat_map(u16::to_le_bytes).collect()
    }

    fn put(dir: &Path, variable: Variable, data: &[u8]) {
        let path = dir.join(format!("{}-{}", variable.name(), variable.vendor()));
        fs::write(path, [&[6, 0, 0, 0], data].concat()).unwrap();
    }

    fn versions(releases: &Releases) -> (&str, Vec<&str>) {
        (&releases.running.version, releases.others.iter().map(|other| other.version.as_str()).collect())
    }

    #[test]
    fn the_running_and_the_other_release_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::in_dir(dir.path());
        put(dir.path(), Variable::LoaderEntrySelected, &utf16(&["IncusOS_202511041601.efi"]));
        assert_eq!(versions(&releases(&variables).unwrap()), ("202511041601", vec![]));

        let menu = [
            "incusos_202511051200+2-1.efi",
            "IncusOS_202511041601.efi",
            "auto-reboot-to-firmware-setup",
            "Other_1.efi",
        ];
        put(dir.path(), Variable::LoaderEntries, &utf16(&menu));
        assert_eq!(versions(&releases(&variables).unwrap()), ("202511041601", vec!["202511051200"]));
    }

    #[test]
    fn a_counted_name_is_the_running_release_under_its_plain_name_too() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), Variable::LoaderEntrySelected, &utf16(&["IncusOS_2+3.efi"]));
        put(dir.path(), Variable::LoaderEntries, &utf16(&["IncusOS_2.efi", "IncusOS_1.efi", "IncusOS_1+0-3.efi"]));
        assert_eq!(versions(&releases(&Variables::in_dir(dir.path())).unwrap()), ("2", vec!["1"]));
    }

    #[test]
    fn the_loader_s_change_of_case_and_loss_of_the_counter_do_not_matter() {
        // As systemd-boot 257 put it for `TestOS_202511041601.efi` and `TestOS_202510010000+2-1.efi`.
        let dir = tempfile::tempdir().unwrap();
        let menu = ["testos_202511041601.efi", "TestOS_202510010000.efi", "auto-reboot-to-firmware-setup"];
        put(dir.path(), Variable::LoaderEntrySelected, &utf16(&menu[..1]));
        put(dir.path(), Variable::LoaderEntries, &utf16(&menu));
        let releases = releases(&Variables::in_dir(dir.path())).unwrap();
        assert_eq!(versions(&releases), ("202511041601", vec!["202510010000"]));
    }

    #[test]
    fn without_a_usable_entry_the_running_release_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::in_dir(dir.path());
        assert!(matches!(releases(&variables), Err(LoaderError::NoEntry)));
        put(dir.path(), Variable::LoaderEntrySelected, &[0, 0]);
        assert!(matches!(releases(&variables), Err(LoaderError::NoEntry)));
        put(dir.path(), Variable::LoaderEntrySelected, &utf16(&["arch.conf"]));
        assert!(matches!(releases(&variables), Err(LoaderError::NotARelease(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_skipped(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = strings(&bytes).count();
        }
    }
}
