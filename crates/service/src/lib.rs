//! What every daemon of the system shares: its name on the machine, the
//! sockets handed over by the service manager, the check of who is calling,
//! the journal, readiness, the watchdog and a graceful stop.
//!
//! A service is one async function over a [`Context`]; [`main`] runs it. The
//! crate decides nothing about what a service does.

mod client;
mod context;
mod identity;
mod peer;
mod process;

pub use client::{Peers, call_error};
pub use context::{Context, Error};
pub use identity::Identity;
pub use peer::{Peer, peer};
pub use process::main;
