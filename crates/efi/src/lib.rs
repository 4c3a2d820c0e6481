//! What the firmware and the boot loader say through EFI variables.
//!
//! Parsers are pure functions over bytes that anyone with the machine's disk or
//! firmware in hand may have written: they bound what they read and never panic.
//! [`Variables`] is the only part that touches the machine, below a root folder
//! that the caller chooses.
//!
//! The crate does not know what a certificate or a version is good for, and it
//! never writes a variable.

mod certificate;
mod guid;
pub mod loader;
pub mod signature_list;
mod uki;
mod variable;

pub use certificate::{Certificate, CertificateError, certificates_in_pem};
pub use guid::Guid;
pub use uki::{Tries, UkiName, UkiNameError};
pub use variable::{Stamp, Value, Variable, VariableError, Variables};
