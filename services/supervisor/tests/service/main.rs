//! The supervisor's promises, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bench;
mod console;
mod settings;
mod start_up;
