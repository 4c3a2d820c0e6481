//! What happens before there is a root file system: checking that the machine
//! can run the system at all, finding out what this boot is for, handing over its
//! seed, and unlocking the root volume.
//!
//! The answer to "what is this boot for" is given once, by [`begin()`], from what
//! the boot loader and the drives say, and everything after it only looks at the
//! files that it leaves below `/run/incus-os`:
//!
//! | File | Says |
//! |---|---|
//! | `boot.env` | the drive that was booted, for `systemd-repart` |
//! | `seed.tar` | the seed that counts at this boot, whichever medium it came from |
//! | `install` | this boot installs: the root file system is in memory |
//!
//! Invariants:
//!
//! * Every error stops the boot: the units that unlock and mount depend on these
//!   programs. A boot that stops restarts, and boot counting does the rest.
//! * A machine that is installed never installs again by itself, and takes no
//!   seed from a medium.
//! * File systems of media are parsed here, not mounted.

mod begin;
mod decision;
mod drives;
mod error;
mod handover;
mod machine;
mod unlock;

pub use begin::begin;
pub use error::Refusal;
pub use machine::Machine;
pub use unlock::unlock;
