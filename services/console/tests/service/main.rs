//! The console's promises, on real terminals and over real sockets.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bench;
mod menu;
mod screen;
mod terminals;
