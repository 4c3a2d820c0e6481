//! The processes of a running machine.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use crate::process::{self, Lifetime};
use crate::wait::wait_for;

use super::command::{self, Begin};
use super::{MOMENT, TPM_PID, Vm, VmError, file_error, firmware, free_port};

impl Vm {
    pub(super) fn begin(&mut self, lifetime: Lifetime, begin: &Begin) -> Result<(), VmError> {
        self.must_be_off()?;
        if TcpListener::bind(self.api_address()).is_err() {
            self.record.api_port = free_port(&self.folder)?;
            self.save_record()?;
        }
        self.lifetime = lifetime;
        self.control = None;
        self.children.clear();
        let sockets = [
            self.folder.control_socket(),
            self.folder.qmp_socket(),
            self.folder.console_socket(),
            self.folder.agent_socket(),
            self.folder.tpm_socket(),
        ];
        for socket in sockets {
            match fs::remove_file(&socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error(&socket)(error));
                }
                _ => {}
            }
        }
        // Of this start only: what is in it at a failure is the reason.
        let log = self.folder.emulator_log();
        fs::write(&log, "").map_err(file_error(&log))?;

        if self.record.tpm {
            self.start_tpm(lifetime)?;
        }
        let firmware = Path::new(firmware::CODE);
        let arguments = command::arguments(&self.record, &self.folder, firmware, begin);
        self.spawn("qemu-system-x86_64", &arguments)?;
        self.wait_socket("the emulator's control socket", &self.folder.control_socket())?;
        self.control().map(drop)
    }

    fn start_tpm(&mut self, lifetime: Lifetime) -> Result<(), VmError> {
        let state = self.folder.tpm();
        fs::create_dir_all(&state).map_err(file_error(&state))?;
        let socket = self.folder.tpm_socket();
        let pid = self.folder.path().join(TPM_PID);
        debug_assert_eq!(lifetime, self.lifetime);
        let arguments = [
            "socket".to_owned(),
            "--tpm2".to_owned(),
            "--tpmstate".to_owned(),
            format!("dir={}", state.display()),
            "--ctrl".to_owned(),
            format!("type=unixio,path={}", socket.display()),
            "--pid".to_owned(),
            format!("file={}", pid.display()),
            // Ends when the emulator hangs up.
            "--terminate".to_owned(),
        ];
        self.spawn("swtpm", &arguments.map(OsString::from))?;
        // Its first connection is the emulator's: look for the socket, do not connect to it.
        let outcome = wait_for("the TPM emulator's socket", MOMENT, || {
            if let Some(error) = self.ended_child() {
                return Ok(Err(error));
            }
            if socket.exists() { Ok(Ok(())) } else { Err("it is not there yet".to_owned()) }
        });
        outcome.map_err(self.wait_error())?
    }

    fn spawn(&mut self, program: &str, arguments: &[OsString]) -> Result<(), VmError> {
        let log = self.folder.emulator_log();
        let child = process::spawn(program, arguments, self.lifetime, &log)
            .map_err(|source| VmError::Process { name: self.record.name.clone(), source })?;
        self.children.push(child);
        Ok(())
    }

    fn wait_socket(&mut self, what: &str, socket: &Path) -> Result<(), VmError> {
        let outcome = wait_for(what, MOMENT, || {
            if UnixStream::connect(socket).is_ok() {
                return Ok(Ok(()));
            }
            match self.ended_child() {
                Some(error) => Ok(Err(error)),
                None => Err("nobody listens".to_owned()),
            }
        });
        outcome.map_err(self.wait_error())?
    }

    /// The error for a child that should run and does not.
    pub(super) fn ended_child(&mut self) -> Option<VmError> {
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        if !self.children.iter_mut().any(ended) {
            return None;
        }
        let log = fs::read_to_string(self.folder.emulator_log()).unwrap_or_default();
        Some(VmError::Start { name: self.record.name.clone(), log: log.trim().to_owned() })
    }
}
