//! What tests and developer commands share: virtual machines, a REST client that can also
//! misbehave, client identities, seeds, a TPM, and waiting for conditions.
//!
//! Dev-only: nothing that ships depends on this crate. It blocks and uses threads on purpose, so
//! that a test reads from top to bottom and `xtask` stays quick to build.
//!
//! Invariants:
//! - Nothing here waits for a time. Every wait names its condition, has a limit, and reports the
//!   last observed state when the limit passes.
//! - A machine that belongs to a test ends with the test, however the test ends.
//! - Programs are started in [`process`] only.

pub mod client;
pub mod identity;
pub mod image;
pub mod process;
pub mod seed;
pub mod tpm;
pub mod vm;
pub mod wait;
