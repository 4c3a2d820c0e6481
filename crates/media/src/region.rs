use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::MediaError;

/// A part of a file or block device, as a file of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region<'a> {
    file: &'a File,
    start: u64,
    size: u64,
    at: u64,
}

impl<'a> Region<'a> {
    pub(crate) fn new(file: &'a File, start: u64, size: u64) -> Self {
        Self { file, start, size, at: 0 }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), MediaError> {
        self.file.read_exact_at(bytes, self.start + at).map_err(MediaError::io("read", self.start + at))
    }

    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), MediaError> {
        self.file.write_all_at(bytes, self.start + at).map_err(MediaError::io("write", self.start + at))
    }

    /// Makes `length` bytes at `at` zero, without writing them where the system
    /// knows a shorter way.
    pub(crate) fn zero(&self, at: u64, length: u64) -> Result<(), MediaError> {
        let offset = self.start + at;
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if fallocate(self.file, flags, offset, length).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(zeros.len() as u64);
            let part = &zeros[..usize::try_from(step).expect("is at most the length of a buffer")];
            self.file.write_all_at(part, offset + done).map_err(MediaError::io("write", offset + done))?;
            done += step;
        }
        Ok(())
    }

    fn length(&self, wanted: usize) -> usize {
        let left = self.size.saturating_sub(self.at);
        wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

impl Read for Region<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.length(bytes.len());
        let read = self.file.read_at(&mut bytes[..length], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Region<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.length(bytes.len());
        let written = self.file.write_at(&bytes[..length], self.start + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Region<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "the position is outside of the region");
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= self.size).ok_or_else(outside)?;
        Ok(self.at)
    }
}
