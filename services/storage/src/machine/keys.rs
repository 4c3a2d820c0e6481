//! Key files: `zpool.<pool>.key` and `luks.<drive>.key`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    rand::{GetRandomFlags, getrandom},
};

use crate::{
    engine::bring_up::PoolKey,
    machine::{KEY_FOLDER, Machine},
};

/// A key is so many random bytes.
const KEY_SIZE: usize = 32;

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the key of storage pool `{pool}` to `{}`", path.display())]
pub(crate) struct KeyError {
    pool: String,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Machine {
    /// The pools that a key file exists of.
    pub(crate) fn pool_keys(&self) -> BTreeMap<String, PoolKey> {
        let size = |name: &str| fs::metadata(self.roots.keys.join(format!("zpool.{name}.key"))).map(|file| file.len());
        self.key_files("zpool.")
            .into_iter()
            .map(|pool| {
                let key = if size(&pool).is_ok_and(|size| size == KEY_SIZE as u64) {
                    PoolKey::Usable
                } else {
                    PoolKey::Damaged
                };
                (pool, key)
            })
            .collect()
    }

    /// The last part of the stable paths of the drives that a key file exists of.
    pub(crate) fn drive_keys(&self) -> BTreeSet<String> {
        self.key_files("luks.").into_iter().collect()
    }

    fn key_files(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.roots.keys).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| Some(name.strip_prefix(prefix)?.strip_suffix(".key")?.to_owned()))
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// Makes a new random key of a pool. When this returns, the key has reached
    /// the disk: nothing may be encrypted with a key that a power cut can take
    /// away. An existing key is never replaced.
    pub(crate) fn create_pool_key(&self, pool: &str) -> Result<(), KeyError> {
        let path = self.roots.keys.join(format!("zpool.{pool}.key"));
        self.write_key(pool, &path).map_err(|source| KeyError { pool: pool.to_owned(), path, source })
    }

    fn write_key(&self, pool: &str, path: &PathBuf) -> io::Result<()> {
        let mut key = [0; KEY_SIZE];
        getrandom(&mut key, GetRandomFlags::empty())?;
        // Not named like a key, so that half a file is never taken for one.
        let draft = self.roots.keys.join(format!(".zpool.{pool}.key.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&key)?;
        file.sync_all()?;
        renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE)?;
        File::open(&self.roots.keys)?.sync_all()
    }
}

/// Where a pool finds its key, as a ZFS property.
pub(super) fn key_location(pool: &str) -> String {
    format!("file://{KEY_FOLDER}/zpool.{pool}.key")
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    use runner::ScriptedRunner;

    use super::*;
    use crate::machine::Roots;

    fn machine(keys: &std::path::Path) -> Machine {
        Machine::new(Roots { keys: keys.to_owned(), ..Roots::system() }, Arc::new(ScriptedRunner::new()))
    }

    #[test]
    fn a_new_key_is_private_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path());
        machine.create_pool_key("local").unwrap();
        let file = folder.path().join("zpool.local.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let key = fs::read(&file).unwrap();
        assert_eq!(key.len(), 32);
        assert_ne!(key, [0; 32]);
        assert_eq!(machine.pool_keys(), BTreeMap::from([("local".to_owned(), PoolKey::Usable)]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn an_existing_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("zpool.local.key");
        fs::write(&file, [7; 32]).unwrap();
        assert!(machine(folder.path()).create_pool_key("local").is_err());
        assert_eq!(fs::read(&file).unwrap(), [7; 32]);
    }

    #[test]
    fn what_a_power_cut_leaves_is_not_taken_for_a_key() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".zpool.local.key.new"), [1; 5]).unwrap();
        let machine = machine(folder.path());
        assert_eq!(machine.pool_keys(), BTreeMap::new());
        machine.create_pool_key("local").unwrap();
        assert_eq!(machine.pool_keys().len(), 1);
    }

    #[test]
    fn files_of_another_size_or_name_are_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("zpool.a.key", 32), ("zpool.b.key", 31), ("zpool..key", 32), ("zpool.c.key.bak", 32)] {
            fs::write(folder.path().join(name), vec![1; size]).unwrap();
        }
        fs::write(folder.path().join("luks.scsi-1.key"), [1; 32]).unwrap();
        let machine = machine(folder.path());
        let expected = [("a".to_owned(), PoolKey::Usable), ("b".to_owned(), PoolKey::Damaged)];
        assert_eq!(machine.pool_keys(), BTreeMap::from(expected));
        assert_eq!(machine.drive_keys(), BTreeSet::from(["scsi-1".to_owned()]));
    }
}
