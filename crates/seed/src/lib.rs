//! The seed: files that configure a machine at its first boot, kept as a plain
//! tar archive at the start of the partition `seed-data`.
//!
//! The crate owns finding a section in the archive, and the leniency with
//! which sections were always read (JSON in any letter case, YAML 1.1 booleans,
//! unknown keys refused). It does not know what a section means: a service
//! decodes its own into its own message, see [`Seed::section`].
//!
//! Everything in a seed is untrusted input: whoever can write to the disk wrote
//! it. Nothing is extracted to disk, sizes are limited before memory is taken,
//! and names are only ever compared.

mod archive;
mod decode;
mod section;

pub use archive::{Seed, SeedError};
pub use section::{Application, Applications, Incus, Preseed, PreseedCertificate, TrustedClients};
