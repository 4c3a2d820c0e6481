//! Files for networkd, udev, the resolver and timesyncd.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use netplan::File;

/// What was done to a set of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    /// Nothing: all were as wanted.
    Unchanged,
    /// Some were written or removed.
    Changed,
}

/// A file could not be made as wanted.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{path}`")]
pub(crate) struct FileError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes the folder hold exactly these files. Each one is replaced as a whole,
/// and the ones that are right are not touched. Files that systemd's own
/// generator made from the kernel's command line stay.
///
/// The folder hands its group, networkd's, to the files: the ones with keys are
/// readable for it and for nobody else.
pub(crate) fn sync(folder: &Path, files: &BTreeMap<String, File>) -> Result<Synced, FileError> {
    let mut synced = Synced::Unchanged;
    let failed = |source| FileError { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let is_ours = name.to_str().is_none_or(|name| !files.contains_key(name) && is_network_file(name));
        if is_ours {
            let path = folder.join(&name);
            fs::remove_file(&path).map_err(|source| FileError { path, source })?;
            synced = Synced::Changed;
        }
    }
    for (name, file) in files {
        let mode = if file.is_secret() { 0o640 } else { 0o644 };
        if write_file(&folder.join(name), file.text(), mode)? == Synced::Changed {
            synced = Synced::Changed;
        }
    }
    Ok(synced)
}

/// Makes a file have this content.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> Result<Synced, FileError> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(Synced::Unchanged);
    }
    let failed = |source| FileError { path: path.to_owned(), source };
    // networkd and udev take only names with their own endings.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let _ = fs::remove_file(&beside);
    fs::write(&beside, "").map_err(failed)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).map_err(failed)?;
    fs::write(&beside, text).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    Ok(Synced::Changed)
}

/// Files of systemd-network-generator(8) have the prefixes 70 to 91.
fn is_network_file(name: &str) -> bool {
    let from_generator = name.get(..2).and_then(|order| order.parse().ok()).is_some_and(|order: u8| order >= 70);
    !from_generator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.network");
        assert_eq!(write_file(&path, "x", 0o640).unwrap(), Synced::Changed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(write_file(&path, "x", 0o640).unwrap(), Synced::Unchanged);
        assert_eq!(write_file(&path, "y", 0o640).unwrap(), Synced::Changed);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn stale_files_go_and_foreign_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10-old.netdev", "70-eth0.network", "left.network.new"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(sync(dir.path(), &BTreeMap::new()).unwrap(), Synced::Changed);
        assert_eq!(sync(dir.path(), &BTreeMap::new()).unwrap(), Synced::Unchanged);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["70-eth0.network"]);
    }

    #[test]
    fn missing_folder_is_named() {
        let error = sync(Path::new("/nonexistent/network"), &BTreeMap::new()).unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/nonexistent/network`");
    }
}
