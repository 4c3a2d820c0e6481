//! Why a machine did not do what was wanted.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::identity::IdentityError;
use crate::process::ProcessError;
use crate::wait::WaitError;

use super::agent::AgentError;
use super::qmp::QmpError;

/// A machine did not do what was wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The name cannot be a folder's and a socket path's part.
    #[error("`{name}` is no machine name: 1 to 40 letters, digits, `-` and `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// There is a machine of that name.
    #[error("machine `{name}` exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no machine `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It must be stopped for this.
    #[error("machine `{name}` is running")]
    Running {
        /// Its name.
        name: String,
    },
    /// It must be running for this.
    #[error("machine `{name}` is not running; its last console lines:\n{console}")]
    Stopped {
        /// Its name.
        name: String,
        /// What it said last.
        console: String,
    },
    /// The emulator ended while starting.
    #[error("the emulator of `{name}` did not start: {log}")]
    Start {
        /// The machine.
        name: String,
        /// The emulator's words.
        log: String,
    },
    /// The sockets in the folder would have names longer than the kernel takes.
    #[error("`{folder}` is too long a path for sockets in it")]
    PathTooLong {
        /// The folder.
        folder: PathBuf,
    },
    /// All hot-plug ports are taken.
    #[error("machine `{name}` has no free port for another device")]
    NoPort {
        /// The machine.
        name: String,
    },
    /// No such device, or one that it was made with.
    #[error("machine `{name}` has no attached device `{device}`")]
    NoDevice {
        /// The machine.
        name: String,
        /// The device.
        device: String,
    },
    /// The seed is larger than its partition.
    #[error("the seed has {size} bytes, its partition {}", media::SEED_SIZE)]
    SeedTooLarge {
        /// Size of the archive.
        size: u64,
    },
    /// A file could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record is not one.
    #[error("`{path}` is no machine record")]
    Record {
        /// The record's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A program that the harness needs.
    #[error("machine `{name}`: a program did not do its part")]
    Process {
        /// The machine.
        name: String,
        /// Why.
        #[source]
        source: ProcessError,
    },
    /// The emulator.
    #[error("machine `{name}`: trouble with the emulator")]
    Emulator {
        /// The machine.
        name: String,
        /// Why.
        #[source]
        source: QmpError,
    },
    /// A condition did not come true.
    #[error("machine `{name}` did not get there")]
    Wait {
        /// The machine.
        name: String,
        /// Which condition, and what was seen instead.
        #[source]
        source: WaitError,
    },
    /// The administrator's identity.
    #[error("machine `{name}`: trouble with the administrator's certificate")]
    Identity {
        /// The machine.
        name: String,
        /// Why.
        #[source]
        source: IdentityError,
    },
    /// The agent inside it.
    #[error("machine `{name}`: trouble with its agent")]
    Agent {
        /// The machine.
        name: String,
        /// Why.
        #[source]
        source: AgentError,
    },
    /// The management API.
    #[error("machine `{name}`: trouble with the management API")]
    Client {
        /// The machine.
        name: String,
        /// Why.
        #[source]
        source: ClientError,
    },
}
