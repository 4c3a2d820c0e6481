use std::io;

/// A medium or drive could not be read, or not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The device failed.
    #[error("cannot {action} at byte {offset}")]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Where.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no GUID partition table.
    #[error("there is no partition table")]
    NoTable,
    /// The table is damaged.
    #[error("the partition table cannot be used: {0}")]
    Table(String),
    /// The partitions are not those of a medium of ours.
    #[error("it is no install medium: {0}")]
    NoMedium(String),
    /// The target is too small for the partitions.
    #[error("the target has {size} bytes, and {needed} are needed")]
    TooSmall {
        /// What it has.
        size: u64,
        /// What is needed.
        needed: u64,
    },
    /// The seed is larger than its partition.
    #[error("the seed has {size} bytes, its partition {capacity}")]
    SeedTooLarge {
        /// What it has.
        size: u64,
        /// What fits.
        capacity: u64,
    },
    /// The file system of the EFI system partition.
    #[error("cannot {action} the EFI system partition")]
    Esp {
        /// What was tried.
        action: &'static str,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The file system of a user's medium.
    #[error("the file system cannot be used: {0}")]
    Volume(String),
    /// What was written is not what is read.
    #[error("partition {label} is not on the target as it was written: byte {offset} differs")]
    Verify {
        /// Its label.
        label: String,
        /// First byte that differs, from the partition's start.
        offset: u64,
    },
}

impl MediaError {
    pub(crate) fn io(action: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, offset, source }
    }
}
