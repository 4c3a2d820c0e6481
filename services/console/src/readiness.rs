//! Waiting until a file can be read or written.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Lets the runtime watch this file.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "the runtime cannot see by itself that a file stays open")]
    // SAFETY: an `OwnedFd` is open until it is dropped and always has the same number. It moves into the result, which
    // lends it out by shared reference only.
    let watched = unsafe { AsyncFd::register(fd) };
    watched.map_err(Into::into)
}
