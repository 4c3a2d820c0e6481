//! The seed: files that configure a machine before and at its first start, kept
//! as a plain tar archive at the start of the partition `seed-data`, or as files
//! on a medium of the user's.
//!
//! The crate owns the form of a seed: reading and writing the archive, the
//! leniency with which files were always read (JSON in any letter case, YAML 1.1
//! booleans, unknown keys passed over and reported), and [`check()`], which says
//! of all sections at once what is wrong with them. It does not know machines,
//! and applies nothing.
//!
//! Everything in a seed is untrusted input: whoever can write to the disk wrote
//! it. Nothing is extracted to disk, sizes are limited before memory is taken,
//! names are only ever compared, and no message quotes a value that may be a
//! secret.

mod archive;
mod check;
mod decode;
mod file;
mod rules;
mod section;

pub use archive::{SeedError, read, write};
pub use check::{Contents, Finding, Report, check};
pub use file::{File, Section};
pub use section::{Application, Applications, Incus, Preseed, PreseedCertificate, TrustedClients};
