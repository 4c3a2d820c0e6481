//! The TPM: its PCR values and properties, the firmware's event log, and what
//! the one says about the other.
//!
//! [`event_log`], [`replay()`] and [`Prediction`] are pure: they take the bytes of
//! a log, which may be hostile, and never panic on them. [`Tpm`] is the only part
//! that talks to a device. [`Policy`] computes, without a TPM, what a sealed key
//! is bound to. Only the SHA-256 bank is used.
//!
//! The crate does not know what a PCR protects, and never changes the TPM.

mod device;
pub mod event_log;
mod pcr;
mod policy;
mod prediction;
mod replay;

pub use device::{Identity, Tpm, TpmError};
pub use pcr::{Digest, Pcr};
pub use policy::{Policy, PolicySigner, SignerError};
pub use prediction::Prediction;
pub use replay::{ReplayError, replay};
