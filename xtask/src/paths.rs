//! Where things are: the checkout and the user's cache folder.

use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

/// The two places every command works with.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Root of the checkout.
    pub(crate) checkout: Utf8PathBuf,
    /// Everything that is safe to delete and costs time to make again.
    pub(crate) cache: Utf8PathBuf,
}

impl Paths {
    /// Finds the checkout above the working directory, and the cache folder.
    pub(crate) fn find() -> Result<Self> {
        let cwd = current_dir()?;
        let checkout = cwd
            .ancestors()
            .find(|dir| dir.join("xtask/Cargo.toml").is_file() && dir.join("image").is_dir())
            .ok_or_else(|| anyhow!("{cwd} is not inside a checkout"))?
            .to_owned();
        let cache = match std::env::var("XDG_CACHE_HOME") {
            Ok(dir) if dir.starts_with('/') => Utf8PathBuf::from(dir),
            _ => match std::env::var("HOME") {
                Ok(home) if home.starts_with('/') => Utf8PathBuf::from(home).join(".cache"),
                _ => bail!("neither XDG_CACHE_HOME nor HOME names an absolute path"),
            },
        }
        .join("incus-os");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {cache}"))?;
        Ok(Self { checkout, cache })
    }

    /// Cargo's target folder for builds inside the tools tree. Apart from the host's own, because
    /// the two link against different C libraries; one per checkout, because binaries of the same
    /// name would overwrite each other.
    pub(crate) fn target(&self) -> Utf8PathBuf {
        self.cache.join("target").join(&hex(&Sha256::digest(self.checkout.as_str()))[..8])
    }

    /// The checkout's test keys.
    pub(crate) fn pki(&self) -> Utf8PathBuf {
        self.checkout.join("image/pki")
    }
}

/// The working directory.
pub(crate) fn current_dir() -> Result<Utf8PathBuf> {
    let dir = std::env::current_dir().context("cannot find the working directory")?;
    Utf8PathBuf::from_path_buf(dir).map_err(|dir| anyhow!("{} is not UTF-8", dir.display()))
}

/// Lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A hash over named things; two equal keys mean that one result serves for both.
#[derive(Debug, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds a named value.
    pub(crate) fn add(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a file, or a folder with everything in it: names, modes and contents. A missing path
    /// counts as empty.
    pub(crate) fn add_path(mut self, path: &Utf8Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;

        let Ok(meta) = fs::symlink_metadata(path) else {
            return Ok(self);
        };
        let name = path.file_name().unwrap_or_default();
        if meta.is_dir() {
            self = self.add("dir", name);
            for entry in sorted_entries(path)? {
                self = self.add_path(&entry)?;
            }
            return Ok(self.add("end", name));
        }
        let content = if meta.is_symlink() {
            fs::read_link(path).with_context(|| format!("cannot read {path}"))?.into_os_string().into_encoded_bytes()
        } else {
            fs::read(path).with_context(|| format!("cannot read {path}"))?
        };
        Ok(self.add(name, [b'0' + u8::from(meta.permissions().mode() & 0o111 != 0)]).add("content", content))
    }

    /// The key as text, short enough for a folder name.
    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize()[..12])
    }
}

/// The entries of a folder in a stable order.
pub(crate) fn sorted_entries(dir: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut entries = dir
        .read_dir_utf8()
        .with_context(|| format!("cannot list {dir}"))?
        .map(|entry| entry.map(|entry| entry.path().to_owned()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("cannot list {dir}"))?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_changes_with_content_mode_and_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
        let key = || Key::default().add_path(root).expect("readable").finish();
        fs::write(root.join("a"), "1").expect("write");
        let first = key();
        assert_eq!(first, key());
        fs::write(root.join("a"), "2").expect("write");
        let second = key();
        assert_ne!(first, second);
        fs::rename(root.join("a"), root.join("b")).expect("rename");
        assert_ne!(second, key());
    }

    #[test]
    fn key_separates_name_from_value() {
        assert_ne!(Key::default().add("a", "bc").finish(), Key::default().add("ab", "c").finish());
    }
}
