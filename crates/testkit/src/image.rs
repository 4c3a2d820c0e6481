//! The description of a built image that `cargo xtask image --json` prints.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Environment variable with the path of such a description; tests that need a machine skip
/// without it.
pub const VARIABLE: &str = "INCUS_OS_IMAGE";

/// The description of an image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not there or not readable.
    #[error("cannot read image description `{path}`")]
    Read {
        /// The description's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or a key is missing.
    #[error("`{path}` does not describe an image")]
    Parse {
        /// The description's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// One built image and its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `ID` of the system, first part of its file and partition names.
    pub os_name: String,
    /// Version, twelve digits.
    pub os_version: String,
    /// The raw disk image.
    pub disk_image: PathBuf,
    /// The same for CD-ROMs: 2048-byte sectors.
    pub iso_image: PathBuf,
    /// The signed unified kernel image.
    pub uki: PathBuf,
    /// The `/usr` file system.
    pub usr: PathBuf,
    /// Its verity hash tree.
    pub usr_verity: PathBuf,
    /// The signature of the tree's root hash.
    pub usr_verity_sig: PathBuf,
    /// Folder with the keys and certificates it was signed with.
    pub pki_dir: PathBuf,
}

impl Image {
    /// Reads a description.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not one.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let text = fs::read_to_string(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|source| ImageError::Parse { path: path.to_owned(), source })
    }
}
