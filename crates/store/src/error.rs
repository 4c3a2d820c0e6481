use std::{io, path::PathBuf};

/// Why a state document could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or the file cannot be read.
    #[error("cannot read state document `{path}`")]
    Read {
        /// The document.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The new document could not be made durable; the old one is in force.
    #[error("cannot write state document `{path}`")]
    Write {
        /// The document.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state has no JSON form.
    #[error("cannot encode state document `{path}`")]
    Encode {
        /// The document.
        path: PathBuf,
        /// What the encoder said.
        #[source]
        source: serde_json::Error,
    },
    /// A newer release wrote the document, which this one must not overwrite.
    #[error(
        "state document `{path}` was written by newer schema {found}, this release knows {known}: boot the newer release to change it"
    )]
    TooNew {
        /// The document.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest that this release knows.
        known: u32,
    },
}
