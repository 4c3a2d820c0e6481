//! A TPM in software, for tests that need one without a machine around it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::process::{self, Lifetime, ProcessError};

/// A TPM simulator that ends when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    process: Child,
    device: String,
}

impl Simulator {
    /// Starts one with its state in `folder`; `None` where it is not installed.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub fn start(folder: &Path) -> Result<Option<Self>, ProcessError> {
        let log = folder.join("swtpm.log");
        let unusable = |source| ProcessError::Log { path: log.clone(), program: PROGRAM.to_owned(), source };
        if !is_installed() {
            return Ok(None);
        }
        loop {
            let port = free_port_pair().map_err(unusable)?;
            let arguments = [
                "socket".to_owned(),
                "--tpm2".to_owned(),
                "--flags=not-need-init,startup-clear".to_owned(),
                format!("--tpmstate=dir={}", folder.display()),
                format!("--server=type=tcp,port={port},disconnect"),
                format!("--ctrl=type=tcp,port={}", port + 1),
            ];
            let process = process::spawn(PROGRAM, &arguments.map(OsString::from), Lifetime::Tied, &log)?;
            let mut simulator = Self { process, device: format!("swtpm:host=127.0.0.1,port={port}") };
            // Otherwise somebody else took the port in between.
            if simulator.comes_up(port).map_err(unusable)? {
                return Ok(Some(simulator));
            }
        }
    }

    /// Its name, as TPM tools and libraries take it.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    fn comes_up(&mut self, port: u16) -> io::Result<bool> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if self.process.try_wait()?.is_some() {
                return Ok(false);
            }
            // The control channel may be opened any number of times; the command channel may not.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("nobody listens on port {port}")))
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PROGRAM: &str = "swtpm";

/// It listens within milliseconds, on a machine that has time for it.
const LIMIT: Duration = Duration::from_secs(20);

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| fs::metadata(folder.join(PROGRAM)).is_ok_and(|file| file.is_file()))
}

/// Those who talk to it expect the control channel one port above the command channel.
fn free_port_pair() -> io::Result<u16> {
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Ok(port);
        }
    }
}
