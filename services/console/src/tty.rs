//! One terminal device: opened in raw mode, written to without ever blocking the
//! others, and given back as it was.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    termios::{ControlModes, OptionalActions, Termios},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use crate::{paint::Painter, readiness::watched};

/// Size of a terminal that does not say, which no serial line does.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Largest size that is drawn. More is a mistake of the terminal.
const LARGEST_SIZE: (u16, u16) = (512, 256);

/// How long a terminal may take no byte at all. A serial line of 300 bits per
/// second takes thirty in one second; one that is held takes none.
const STUCK: Duration = Duration::from_secs(15);

/// An open terminal.
#[derive(Debug)]
pub(crate) struct Tty {
    fd: AsyncFd<OwnedFd>,
    before: Termios,
}

/// Why a line does not have the rate that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the terminal refused {wanted} bits per second: {reason}")]
pub(crate) struct RateError {
    wanted: u32,
    reason: String,
}

impl Tty {
    /// Opens the terminal in raw mode. A rate that it does not take is no reason
    /// not to use it.
    pub(crate) fn open(path: &Path, baud_rate: Option<u32>) -> io::Result<(Self, Result<(), RateError>)> {
        // Without NOCTTY this process would belong to the terminal; without
        // NONBLOCK a serial line without a carrier would hold it up.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        // Also fails for what is no terminal, and for a serial port without hardware.
        let mut before = rustix::termios::tcgetattr(&fd)?;
        before.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        let rate = baud_rate.map_or(Ok(()), |rate| set_rate(&fd, &mut before, rate));
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok((Self { fd: watched(fd)?, before }, rate))
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u16, u16) {
        match rustix::termios::tcgetwinsize(self.fd.get_ref()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.min(LARGEST_SIZE.0), size.ws_row.min(LARGEST_SIZE.1))
            }
            _ => DEFAULT_SIZE,
        }
    }

    /// Reads what was typed. A terminal that was taken away is an error.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await?;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }

    /// Writes everything, however slowly the terminal takes it.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = self.fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?));
            let written = timeout(STUCK, write).await??;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // As far as it goes at once: nobody is left who could wait for more.
        let _ = rustix::io::write(self.fd.get_ref(), Painter::leave());
        let _ = rustix::termios::tcsetattr(self.fd.get_ref().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// Sets the rate and looks whether the terminal has it: some drivers take
/// another one without a word.
fn set_rate(fd: &OwnedFd, settings: &mut Termios, rate: u32) -> Result<(), RateError> {
    let refused = |reason: String| RateError { wanted: rate, reason };
    let mut wanted = settings.clone();
    wanted.set_speed(rate).map_err(|error| refused(error.to_string()))?;
    rustix::termios::tcsetattr(fd, OptionalActions::Now, &wanted).map_err(|error| refused(error.to_string()))?;
    let now = rustix::termios::tcgetattr(fd).map_err(|error| refused(error.to_string()))?;
    if now.output_speed() != rate {
        return Err(refused(format!("it runs with {}", now.output_speed())));
    }
    *settings = wanted;
    Ok(())
}
