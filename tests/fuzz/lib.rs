//! What the targets share.

use std::{
    fs::File,
    io::{self, Write as _},
};

use rustix::fs::{MemfdFlags, memfd_create};

/// A medium that holds these bytes.
///
/// # Errors
///
/// When there is no memory for it.
pub fn medium(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("medium", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
