//! Where a machine's files lie.

use std::env;
use std::path::{Path, PathBuf};

/// The state folder of one machine, and the names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

macro_rules! names {
    ($($(#[$doc:meta])* $method:ident => $name:literal,)*) => {
        impl Folder {
            $($(#[$doc])* #[must_use] pub fn $method(&self) -> PathBuf { self.0.join($name) })*
        }
    };
}

names! {
    /// What the machine is made of: written when it is created, attached to, or detached from.
    record => "vm.json",
    /// Everything that the machine wrote to its serial console, over all its boots.
    console_log => "console.log",
    /// The serial console itself.
    console_socket => "console.sock",
    /// The agent's port, of use with an image of the `test` flavour only.
    agent_socket => "agent.sock",
    /// Control socket for whoever wants one.
    qmp_socket => "qmp.sock",
    /// Control socket of the harness. Apart from the other, because a control socket serves one
    /// connection at a time.
    control_socket => "control.sock",
    /// What the emulator and the TPM emulator had to say.
    emulator_log => "emulator.log",
    /// Process id of the emulator.
    pid => "qemu.pid",
    /// The firmware's variables.
    variables => "variables.qcow2",
    /// State of the TPM.
    tpm => "tpm",
    /// Control socket of the TPM.
    tpm_socket => "tpm.sock",
    /// The install medium.
    medium => "medium.qcow2",
    /// The seed that the machine was created with.
    seed => "seed.tar",
    /// Certificate of the administrator that the seed let in.
    client_cert => "client.crt",
    /// The administrator's key.
    client_key => "client.key",
    /// The server's certificate as it was on first contact.
    server_cert => "server.crt",
    /// Memory and device state of a frozen machine.
    frozen_state => "state.bin",
}

impl Folder {
    /// The folder at `path`, which need not exist.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of the disk with this serial number.
    #[must_use]
    pub fn disk(&self, serial: &str) -> PathBuf {
        self.0.join(format!("{serial}.qcow2"))
    }
}

/// The user's cache folder for everything that this project may lose.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("incus-os")
}
