//! Thin readings of the kernel's view of the machine, without any policy. What
//! cannot be read is absent; what that means is the caller's business. All paths
//! lie below roots that the caller gives, so that tests bring their own.

mod block;

pub use block::{Block, Roots, block, blocks};
