//! State documents: one JSON file per service, with a single writer.
//!
//! * A document is replaced as a whole: written beside, synced, renamed, folder
//!   synced. A power cut leaves the old or the new one, never a torn one.
//! * The previous document stays as `state.json.1`, and is used when the
//!   current one fails its checksum.
//! * When both fail, the service starts with defaults and says so
//!   ([`Health::Damaged`]); the bad file is kept under another name.
//! * A document of a newer schema (an older release was booted) is read for
//!   what is known of it, and is never overwritten ([`Health::TooNew`]).
//! * Keys that this release does not know survive a rewrite.
//!
//! It knows nothing of what the documents say.

mod document;
mod error;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::document::{Document, ReadError};
pub use crate::error::StoreError;

const CURRENT: &str = "state.json";
const PREVIOUS: &str = "state.json.1";

/// Largest document that is read.
const SIZE_LIMIT: u64 = 16 << 20;

/// What was found when the document was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The document was read, or there was none yet.
    Good,
    /// The current document was unreadable; the previous one is in use.
    Recovered {
        /// Where the unreadable one is kept.
        kept: PathBuf,
    },
    /// No document was readable: defaults are in use.
    Damaged {
        /// Where the unreadable one is kept.
        kept: PathBuf,
    },
    /// The document was written by a newer release, and is read-only.
    TooNew {
        /// Schema version of the document.
        found: u32,
        /// Schema version of this release.
        known: u32,
    },
}

/// One service's state document, held in memory and on disk.
#[derive(Debug)]
pub struct Store<T> {
    dir: PathBuf,
    schema_version: u32,
    value: T,
    /// Keys of the document that `T` does not know.
    unknown: Map<String, Value>,
    health: Health,
}

impl<T> Store<T>
where
    T: Serialize + DeserializeOwned + Default,
{
    /// Opens the document in `dir`, which must exist. Unreadable content is no
    /// error, see [`Store::health`]; an unreadable folder is.
    pub fn open(dir: impl Into<PathBuf>, schema_version: u32) -> Result<Self, StoreError> {
        let dir = dir.into();
        let current = dir.join(CURRENT);
        let opened = |document: Option<Document<T>>, health| {
            let (value, unknown) = document.map(|read| (read.value, read.unknown)).unwrap_or_default();
            Self { dir: dir.clone(), schema_version, value, unknown, health }
        };
        match read(&current) {
            Ok(None) => match read(&dir.join(PREVIOUS)) {
                // A power cut between the two renames of a first save leaves only the previous one.
                Ok(document) => Ok(opened(document, Health::Good)),
                Err(_) => Ok(opened(None, Health::Good)),
            },
            Ok(Some(document)) if document.schema_version > schema_version => {
                let found = document.schema_version;
                tracing::error!(
                    "`{}` was written by newer schema {found}, this release knows {schema_version}: it is read-only",
                    current.display()
                );
                Ok(opened(Some(document), Health::TooNew { found, known: schema_version }))
            }
            Ok(document) => Ok(opened(document, Health::Good)),
            Err(ReadError::Io(source)) => Err(StoreError::Read { path: current, source }),
            Err(ReadError::Content(reason)) => {
                let kept = keep(&current).map_err(|source| StoreError::Read { path: current.clone(), source })?;
                let previous = read(&dir.join(PREVIOUS)).ok().flatten();
                tracing::error!(
                    "`{}` is unreadable ({reason}) and was kept as `{}`; {} used instead",
                    current.display(),
                    kept.display(),
                    if previous.is_some() { "the previous document is" } else { "defaults are" }
                );
                let health = if previous.is_some() { Health::Recovered { kept } } else { Health::Damaged { kept } };
                Ok(opened(previous, health))
            }
        }
    }

    /// The state, as last saved.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What was found when the document was opened.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Replaces the document on disk, then in memory. An error leaves both as
    /// they were.
    pub fn replace(&mut self, value: T) -> Result<(), StoreError> {
        if let Health::TooNew { found, known } = self.health {
            return Err(StoreError::TooNew { path: self.dir.join(CURRENT), found, known });
        }
        let bytes = document::encode(&value, &self.unknown, self.schema_version)
            .map_err(|source| StoreError::Encode { path: self.dir.join(CURRENT), source })?;
        write(&self.dir, &bytes).map_err(|source| StoreError::Write { path: self.dir.join(CURRENT), source })?;
        self.value = value;
        self.health = Health::Good;
        Ok(())
    }
}

fn read<T: Serialize + DeserializeOwned>(path: &Path) -> Result<Option<Document<T>>, ReadError> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Io(error)),
    };
    if size > SIZE_LIMIT {
        return Err(ReadError::Content(format!("{size} bytes are more than the limit of {SIZE_LIMIT}")));
    }
    document::decode(&fs::read(path).map_err(ReadError::Io)?).map(Some)
}

/// Moves an unreadable document out of the way, under a name that is free.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().as_second();
    let kept = (0..)
        .map(|n| path.with_extension(format!("json.bad-{}", stamp + n)))
        .find(|candidate| !candidate.exists())
        .expect("the numbers do not run out");
    fs::rename(path, &kept)?;
    Ok(kept)
}

fn write(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        tempfile::Builder::new().prefix(".state-").permissions(fs::Permissions::from_mode(0o600)).tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    let current = dir.join(CURRENT);
    if current.exists() {
        fs::rename(&current, dir.join(PREVIOUS))?;
    }
    file.persist(&current).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}
