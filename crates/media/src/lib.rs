//! The layout of install media and of installed drives: which partitions they
//! have and where, and making one from the other.
//!
//! The installer copies a medium to a drive, the build turns a disk image into
//! an image for CD-ROM, and the tools check what they are given: all of it is
//! here, in one process and on plain files, block devices included. Nothing is
//! mounted, and no other program is started.
//!
//! Invariants:
//!
//! * The partition table of a copy is written last, so a copy that was cut short
//!   never looks like a finished one.
//! * Partitions of `/usr` keep their GUIDs, because the root hash in the kernel
//!   image names them. The EFI system partition of a copy gets one of its own,
//!   because the loader names the drive that was booted by it.

mod copy;
mod error;
mod esp;
mod region;
mod table;
mod volume;

pub use copy::{Copy, Progress, Step, Target, copy};
pub use error::MediaError;
pub use table::{Arch, Guid, Kind, Partition, Table};
pub use volume::Volume;

/// Where the EFI system partition starts, in bytes.
pub const ESP_OFFSET: u64 = 1 << 20;

/// Its size in bytes.
pub const ESP_SIZE: u64 = 2 << 30;

/// Where the seed partition starts on every medium and every installed drive, in bytes. Tools of
/// others write there without looking: it is public contract.
pub const SEED_OFFSET: u64 = ESP_OFFSET + ESP_SIZE;

/// Size of the seed partition in bytes.
pub const SEED_SIZE: u64 = 100 << 20;

/// Smallest drive that the system runs on, in bytes.
pub const SMALLEST_DRIVE: u64 = 50 << 30;

/// Label of the EFI system partition.
pub const ESP_LABEL: &str = "esp";

/// Label of the seed partition.
pub const SEED_LABEL: &str = "seed-data";

/// Label of a partition or file system on which a person brings a seed.
pub const USER_SEED_LABEL: &str = "SEED_DATA";

/// Label of the partitions that wait for an update.
pub const EMPTY_LABEL: &str = "_empty";
