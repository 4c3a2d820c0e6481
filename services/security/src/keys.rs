//! Key files in `/var/lib/incus-os`, which the storage service writes and the
//! API shows so that an administrator can keep them elsewhere.

use std::{collections::BTreeMap, fs, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::machine::read_at_most;

/// Size of the key of a pool or drive.
const KEY_SIZE: usize = 32;

/// Largest public key that is shown.
const PUBLIC_KEY_LIMIT: usize = 8 << 10;

/// Recovery keys in base64.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveryKeys {
    /// By name in `/dev/disk/by-id`.
    pub(crate) drives: BTreeMap<String, String>,
    /// By pool.
    pub(crate) pools: BTreeMap<String, String>,
}

/// Every key in the folder. A file of another size is no key and is left out.
pub(crate) fn recovery_keys(folder: &Path) -> RecoveryKeys {
    let mut keys = RecoveryKeys::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot list `{}`: {error}", folder.display());
            }
            return keys;
        }
    };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let Some(stem) = file_name.to_str().and_then(|name| name.strip_suffix(".key")) else { continue };
        let (keys, owner) = if let Some(drive) = stem.strip_prefix("luks.") {
            (&mut keys.drives, drive)
        } else if let Some(pool) = stem.strip_prefix("zpool.") {
            (&mut keys.pools, pool)
        } else {
            continue;
        };
        match read_at_most(&entry.path(), KEY_SIZE) {
            Ok(key) if key.len() == KEY_SIZE => {
                keys.insert(owner.to_owned(), STANDARD.encode(key));
            }
            Ok(_) => tracing::warn!("`{}` is shorter than a key", entry.path().display()),
            Err(error) => tracing::warn!("cannot read `{}`: {error}", entry.path().display()),
        }
    }
    keys
}

/// PEM of the key that proves this machine's identity; empty without one.
pub(crate) fn identity_key(folder: &Path) -> String {
    let path = folder.join("tpm-auth.pem");
    match read_at_most(&path, PUBLIC_KEY_LIMIT).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other)) {
        Ok(pem) => pem,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read `{}`: {error}", path.display());
            }
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_right_name_and_size_are_keys() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in [
            ("zpool.local.key", 32),
            ("zpool.my.pool.key", 32),
            ("luks.ata-DISK_1.key", 32),
            ("zpool.short.key", 31),
            ("zpool.long.key", 33),
            ("recovery.root.key", 32),
            ("zpool.local.key.bak", 32),
            ("state.txt", 32),
        ] {
            fs::write(dir.path().join(name), vec![0; size]).unwrap();
        }
        fs::create_dir(dir.path().join("luks.folder.key")).unwrap();
        let keys = recovery_keys(dir.path());
        let text = format!("{}=", "A".repeat(43));
        let map = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
        assert_eq!(keys, RecoveryKeys { drives: map(&["ata-DISK_1"]), pools: map(&["local", "my.pool"]) });
    }

    #[test]
    fn a_missing_folder_has_no_keys() {
        assert_eq!(recovery_keys(Path::new("/nonexistent")), RecoveryKeys::default());
        assert_eq!(identity_key(Path::new("/nonexistent")), "");
    }
}
