//! The update feed: what its documents say, who signed them, and what to take
//! of them.
//!
//! A feed is a tree of static files. `index.sjson` lists every release, and
//! `<release>/update.sjson` one; both are JSON in an S/MIME envelope. The crate
//! reads and writes these bytes. It knows no network, no disk and no clock.
//!
//! Invariants:
//!
//! * A message is limited in size, then its signature is verified, and only then
//!   its content is parsed.
//! * The path of trust is built from the signer upwards: signer, the expected
//!   intermediate, the pinned root. Certificates that a message brings along are
//!   looked at to find the signer, and are never a reason to trust anything.
//! * Nothing depends on the wall clock: a machine whose clock was lost must
//!   still be able to update. Validity is held against the time at which the
//!   signer says to have signed; whoever has a clock compares
//!   [`Signed::not_after`] with it and warns.
//! * File names of a document are checked before they become part of a path or
//!   an address.

mod choice;
mod document;
mod envelope;
mod error;
mod message;
mod sign;
mod trust;

pub use choice::{Choice, MissingFile, choose};
pub use document::{Arch, File, Index, Kind, Update, Version};
pub use error::{FeedError, VerifyError};
pub use sign::{SignError, Signer};
pub use trust::{Signed, Trust};

/// Largest index or update document, envelope included. Real ones have some hundred KiB.
pub const MESSAGE_LIMIT: usize = 16 << 20;
