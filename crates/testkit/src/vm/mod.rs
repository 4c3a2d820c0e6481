//! Virtual machines: made, started, watched, broken and thrown away.
//!
//! A machine is a folder ([`folder::Folder`]) with a record of what it is made of, its disks, its
//! firmware variables and its TPM state. Nothing about it lives in this process only, so another
//! command can go on with it.
//!
//! Three ways to come to a running system: [`Store::create`] and [`Vm::start`] boot one for real;
//! [`Vm::snapshot`] and [`Vm::restore`] take one machine back in time; [`Vm::freeze`] and
//! [`Frozen::thaw`](frozen::Frozen::thaw) make any number of equal machines in seconds.

pub mod agent;
mod command;
pub mod console;
mod devices;
mod error;
pub mod firmware;
pub mod folder;
pub mod frozen;
pub mod keyboard;
mod make;
pub mod qmp;
pub mod record;
mod start;

pub use error::VmError;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::client::{self, Client, ServerTrust};
use crate::identity::Identity;
use crate::image::Image;
use crate::process::{self, Lifetime};
use crate::seed::Seed;
use crate::wait::{WaitError, wait_for};

use agent::Agent;
use command::Begin;
use console::Console;
use folder::Folder;
use frozen::Frozen;
use keyboard::Keyboard;
use qmp::Qmp;
use record::{BOOT_DISK, Disk, Record, Spec};

/// Limit for things that take the host a moment, on a busy one.
const MOMENT: Duration = Duration::from_secs(60);

/// Limit for copying disks.
const COPY_LIMIT: Duration = Duration::from_secs(600);

/// What a kernel says whose first task, before it becomes the service manager, waits for something
/// that does not come. Seen in one of some hundred emulated boots: an interrupt was lost.
const KERNEL_HANGS: &str = "task swapper/0:1 blocked";

/// The folder that holds machines.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The user's own machines.
    #[must_use]
    pub fn of_user() -> Self {
        Self::at(folder::cache().join("vms"))
    }

    /// Machines below `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Names of all machines, sorted.
    ///
    /// # Errors
    ///
    /// When the store is there and cannot be read.
    pub fn names(&self) -> Result<Vec<String>, VmError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(VmError::File { path: self.root.clone(), source }),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.exists(name))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Whether there is a machine of that name.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        Folder::at(self.root.join(name)).record().is_file()
    }

    /// The machine of that name, running or not.
    ///
    /// # Errors
    ///
    /// When there is none, or its record is broken.
    pub fn open(&self, name: &str) -> Result<Vm, VmError> {
        check_name(name)?;
        if !self.exists(name) {
            return Err(VmError::Unknown { name: name.to_owned() });
        }
        let folder = Folder::at(self.root.join(name));
        let record = load_record(&folder)?;
        Ok(Vm::new(folder, record))
    }

    /// Makes a machine with the image on its boot disk and the seed in it. It is not started.
    ///
    /// `administrator` is kept beside it for reaching its API; letting it in is the seed's matter.
    ///
    /// # Errors
    ///
    /// When the name is taken or a part cannot be made; nothing stays behind then.
    pub fn create(
        &self,
        name: &str,
        spec: &Spec,
        image: &Image,
        seed: &Seed,
        administrator: &Identity,
    ) -> Result<Vm, VmError> {
        let folder = self.new_folder(name)?;
        let record = Record {
            name: name.to_owned(),
            os_name: image.os_name.clone(),
            os_version: image.os_version.clone(),
            api_port: free_port(&folder)?,
            memory_mib: spec.memory_mib,
            cpus: spec.cpus,
            disks: std::iter::once(BOOT_DISK.to_owned())
                .chain((1..=spec.extra_disks.len()).map(|number| format!("disk{number}")))
                .map(|serial| Disk { serial, port: None })
                .collect(),
            nics: Vec::new(),
            tpm: spec.tpm,
            kernel_arguments: spec.kernel_arguments.clone(),
            sector_size: spec.sector_size,
            medium: spec.medium,
            accelerator: spec.accelerator,
        };
        let vm = Vm::new(folder, record);
        match vm.make_parts(spec, image, seed, administrator) {
            Ok(()) => Ok(vm),
            Err(error) => {
                // What could not be made is the news, what could not be removed is not.
                drop(fs::remove_dir_all(vm.folder.path()));
                Err(error)
            }
        }
    }

    /// An empty folder for a new machine.
    fn new_folder(&self, name: &str) -> Result<Folder, VmError> {
        check_name(name)?;
        if self.exists(name) {
            return Err(VmError::Exists { name: name.to_owned() });
        }
        let folder = Folder::at(self.root.join(name));
        // The kernel's limit is 108 with the closing zero.
        if folder.console_socket().as_os_str().len() > 107 {
            return Err(VmError::PathTooLong { folder: folder.path().to_owned() });
        }
        // Without a record it is what an interrupted attempt left.
        if folder.path().exists() {
            fs::remove_dir_all(folder.path()).map_err(file_error(folder.path()))?;
        }
        fs::create_dir_all(folder.path()).map_err(file_error(folder.path()))?;
        Ok(folder)
    }
}

/// One machine.
///
/// A machine that was started with [`Lifetime::Tied`] is cut from power when this is dropped.
#[derive(Debug)]
pub struct Vm {
    folder: Folder,
    record: Record,
    control: Option<Qmp>,
    children: Vec<Child>,
    lifetime: Lifetime,
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Tied && !self.children.is_empty() {
            // Nobody is left to be told, and the children die with this process anyway.
            drop(self.power_cut());
        }
    }
}

impl Vm {
    fn new(folder: Folder, record: Record) -> Self {
        let (control, children) = (None, Vec::new());
        Self { folder, record, control, children, lifetime: Lifetime::Detached }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// What it is made of.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Where its management API answers.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.record.api_port).into()
    }

    /// The same as a URL.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", self.api_address())
    }

    /// Its console from its first boot on.
    #[must_use]
    pub fn console(&self) -> Console {
        Console::whole(&self.folder.console_log())
    }

    /// Its console from now on.
    #[must_use]
    pub fn console_from_now(&self) -> Console {
        Console::from_now(&self.folder.console_log())
    }

    /// Whether its emulator runs.
    ///
    /// Found without its control socket, which answers one at a time and lets others wait.
    #[must_use]
    pub fn is_running(&self) -> bool {
        owner(&self.folder.pid(), &self.folder.control_socket()).is_some()
    }

    /// Powers it on.
    ///
    /// # Errors
    ///
    /// When it runs already or the emulator cannot start.
    pub fn start(&mut self, lifetime: Lifetime) -> Result<(), VmError> {
        self.begin(lifetime, &Begin::PowerOn)
    }

    /// Takes the power away at this instant.
    ///
    /// What the machine has written to a disk is on that disk, as with a drive that has its cache
    /// off; the machine itself learns nothing.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn power_cut(&mut self) -> Result<(), VmError> {
        let quit = self.execute("quit", json!({}));
        if quit.is_err()
            && let Some(pid) = owner(&self.folder.pid(), &self.folder.control_socket())
        {
            // An emulator that does not listen any more. It can be gone by now, which is as good.
            let _ = kill_process(pid, Signal::KILL);
        } else {
            quit?;
        }
        self.wait_stopped(MOMENT)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn reset(&mut self) -> Result<(), VmError> {
        self.execute("system_reset", json!({})).map(drop)
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    ///
    /// When it does not within the limit.
    pub fn wait_stopped(&mut self, limit: Duration) -> Result<(), VmError> {
        self.control = None;
        let mut children = std::mem::take(&mut self.children);
        let files = [
            (self.folder.pid(), self.folder.control_socket()),
            (self.folder.path().join(TPM_PID), self.folder.tpm_socket()),
        ];
        let gone = wait_for("the emulator to end", limit, || {
            // Own children are zombies until somebody asks for them.
            children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            match files.iter().filter_map(|(pid, socket)| owner(pid, socket)).next() {
                None => Ok(()),
                Some(pid) => Err(format!("process {} runs", pid.as_raw_nonzero())),
            }
        });
        self.children = children;
        gone.map_err(self.wait_error())
    }

    /// Waits until the management API says that the system is ready, and keeps the certificate
    /// that its server shows on first contact. `report` is told what is seen meanwhile. A machine
    /// whose kernel hangs before it has started any program is reset, once.
    ///
    /// # Errors
    ///
    /// When the machine stops, or is not ready within the limit; the error shows its last words.
    pub fn wait_ready(&mut self, limit: Duration, mut report: impl FnMut(&str)) -> Result<Duration, VmError> {
        let start = Instant::now();
        let console = self.console_from_now();
        let mut may_reset = true;
        let outcome = wait_for("the system to be ready", limit, || {
            if !self.is_running() {
                return Ok(Err(self.stopped()));
            }
            if may_reset && console.text().is_ok_and(|text| text.contains(KERNEL_HANGS)) {
                may_reset = false;
                report("the kernel hangs: reset");
                if let Err(error) = self.reset() {
                    return Ok(Err(error));
                }
            }
            self.look_ready().map(Ok).map_err(|seen| {
                report(&seen);
                format!("{seen}; last console lines:\n{}", self.console().tail(15))
            })
        });
        outcome.map_err(self.wait_error())??;
        Ok(start.elapsed())
    }

    /// A client that the machine lets in as its administrator.
    ///
    /// # Errors
    ///
    /// Before the first [`Vm::wait_ready`] there is no server certificate yet.
    pub fn client(&self) -> Result<Client, VmError> {
        let identity = self.administrator()?;
        self.client_as(Some(&identity))
    }

    /// A client with another certificate, or with none.
    ///
    /// # Errors
    ///
    /// As [`Vm::client`].
    pub fn client_as(&self, identity: Option<&Identity>) -> Result<Client, VmError> {
        let path = self.folder.server_cert();
        let pinned = fs::read_to_string(&path).map_err(file_error(&path))?;
        Client::https(self.api_address(), identity, &ServerTrust::Pinned(pinned))
            .map_err(|source| VmError::Client { name: self.record.name.clone(), source })
    }

    /// The identity that the machine was made with.
    ///
    /// # Errors
    ///
    /// When its files cannot be read.
    pub fn administrator(&self) -> Result<Identity, VmError> {
        Identity::load(&self.folder.client_cert(), &self.folder.client_key())
            .map_err(|source| VmError::Identity { name: self.record.name.clone(), source })
    }

    /// The way into a machine with an image of the `test` flavour; `limit` is for each command.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn agent(&self, limit: Duration) -> Result<Agent, VmError> {
        Agent::connect(&self.folder.agent_socket(), limit)
            .map_err(|source| VmError::Agent { name: self.record.name.clone(), source })
    }

    /// Something to type with at the machine's console.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn keyboard(&self) -> Result<Keyboard, VmError> {
        let socket = self.folder.console_socket();
        Keyboard::connect(&socket).map_err(file_error(&socket))
    }

    /// Keeps the machine's whole state (memory, disks, firmware variables, TPM) under `tag`; an
    /// older state of that tag is replaced. The machine goes on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn snapshot(&mut self, tag: &str) -> Result<(), VmError> {
        let devices = self.block_nodes();
        let job = json!({ "job-id": "delete", "tag": tag, "devices": devices });
        self.run_job("snapshot-delete", "delete", job)?;
        let job = json!({
            "job-id": "save", "tag": tag, "vmstate": BOOT_DISK, "devices": devices,
        });
        self.run_job("snapshot-save", "save", job)
    }

    /// Takes a machine, running or not, back to a state that [`Vm::snapshot`] kept; it runs then.
    ///
    /// # Errors
    ///
    /// When there is no such state, or disks were attached or detached since.
    pub fn restore(&mut self, tag: &str) -> Result<(), VmError> {
        if self.is_running() {
            self.execute("stop", json!({}))?;
        } else {
            self.begin(Lifetime::Detached, &Begin::Halted)?;
        }
        let job = json!({
            "job-id": "load", "tag": tag, "vmstate": BOOT_DISK, "devices": self.block_nodes(),
        });
        let loaded = self.run_job("snapshot-load", "load", job);
        // A machine whose state could not be loaded is as it was before.
        self.execute("cont", json!({}))?;
        loaded
    }

    /// Stops the machine for good and makes it the mould for others. See [`Frozen`].
    ///
    /// # Errors
    ///
    /// When it does not run or its state cannot be written.
    pub fn freeze(mut self) -> Result<Frozen, VmError> {
        self.execute("stop", json!({}))?;
        let mut uri = OsString::from("file:");
        uri.push(self.folder.frozen_state());
        self.execute("migrate", json!({ "uri": uri.to_string_lossy() }))?;
        let outcome = wait_for("the state to be written", COPY_LIMIT, || {
            let answer = self.execute("query-migrate", json!({}));
            match answer {
                Ok(answer) if answer["status"] == "completed" => Ok(Ok(())),
                Ok(answer) if answer["status"] == "failed" => {
                    Ok(Err(VmError::Start { name: self.record.name.clone(), log: answer["error-desc"].to_string() }))
                }
                Ok(answer) => Err(answer["status"].to_string()),
                Err(error) => Ok(Err(error)),
            }
        });
        outcome.map_err(self.wait_error())??;
        self.power_cut()?;
        Ok(Frozen::new(self.folder.clone(), self.record.clone()))
    }

    /// Runs any command of the emulator's control protocol.
    ///
    /// # Errors
    ///
    /// When the machine does not run or the emulator refuses.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, VmError> {
        let name = self.record.name.clone();
        self.control()?.execute(command, arguments).map_err(|source| VmError::Emulator { name, source })
    }

    /// Deletes a stopped machine with everything it has.
    ///
    /// # Errors
    ///
    /// When it runs.
    pub fn delete(self) -> Result<(), VmError> {
        self.must_be_off()?;
        fs::remove_dir_all(self.folder.path()).map_err(file_error(self.folder.path()))
    }

    /// What stands between the machine and being ready, if anything.
    fn look_ready(&self) -> Result<(), String> {
        // Short: a connection is taken by the emulator before the system listens, and then says
        // nothing.
        let patience = Duration::from_secs(5);
        if !self.folder.server_cert().is_file() {
            let certificate =
                client::server_certificate(self.api_address(), patience).map_err(|error| causes::chain(&error))?;
            fs::write(self.folder.server_cert(), certificate).map_err(|error| error.to_string())?;
        }
        let client = self.client().map_err(|error| causes::chain(&error))?.with_patience(patience);
        let response = client.get("/1.0").map_err(|error| causes::chain(&error))?;
        if response.status != 200 {
            return Err(format!("GET /1.0: status {}: {}", response.status, response.text()));
        }
        let body = response.json().map_err(|error| causes::chain(&error))?;
        match body.pointer("/metadata/environment/system_is_ready") {
            Some(Value::Bool(true)) => Ok(()),
            other => Err(format!("the API answers; system_is_ready: {other:?}")),
        }
    }

    fn control(&mut self) -> Result<&mut Qmp, VmError> {
        if self.control.is_none() {
            if !self.is_running() {
                return Err(self.stopped());
            }
            let control = Qmp::connect(&self.folder.control_socket(), MOMENT)
                .map_err(|source| VmError::Emulator { name: self.record.name.clone(), source })?;
            self.control = Some(control);
        }
        Ok(self.control.as_mut().expect("was just put there"))
    }

    fn run_job(&mut self, command: &str, job: &str, arguments: Value) -> Result<(), VmError> {
        let name = self.record.name.clone();
        self.control()?
            .run_job(command, job, arguments, COPY_LIMIT)
            .map_err(|source| VmError::Emulator { name, source })
    }

    fn block_nodes(&self) -> Vec<String> {
        let disks = self.record.disks.iter().map(|disk| disk.serial.clone());
        disks.chain(["variables".to_owned()]).collect()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), VmError> {
        process::run(program, arguments, self.folder.path(), COPY_LIMIT)
            .map(drop)
            .map_err(|source| VmError::Process { name: self.record.name.clone(), source })
    }

    fn save_record(&self) -> Result<(), VmError> {
        let path = self.folder.record();
        let text = serde_json::to_string_pretty(&self.record)
            .map_err(|source| VmError::Record { path: path.clone(), source })?;
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).map_err(file_error(&fresh))?;
        fs::rename(&fresh, &path).map_err(file_error(&path))
    }

    fn must_be_off(&self) -> Result<(), VmError> {
        if self.is_running() { Err(VmError::Running { name: self.record.name.clone() }) } else { Ok(()) }
    }

    fn stopped(&self) -> VmError {
        VmError::Stopped { name: self.record.name.clone(), console: self.console().tail(15) }
    }

    fn wait_error(&self) -> impl FnOnce(WaitError) -> VmError + use<> {
        let name = self.record.name.clone();
        move |source| VmError::Wait { name, source }
    }
}

/// File with the process id of the TPM emulator.
const TPM_PID: &str = "tpm.pid";

fn check_name(name: &str) -> Result<(), VmError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=40).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err(VmError::Name { name: name.to_owned() })
    }
}

fn load_record(folder: &Folder) -> Result<Record, VmError> {
    let path = folder.record();
    let text = fs::read_to_string(&path).map_err(file_error(&path))?;
    serde_json::from_str(&text).map_err(|source| VmError::Record { path, source })
}

/// A port that is free now. Somebody may take it before the emulator does; the emulator then says
/// so, and the next start takes another one.
fn free_port(folder: &Folder) -> Result<u16, VmError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(file_error(folder.path()))
}

/// The process of a pid file, if it runs and is the one that serves `socket`. Process ids are
/// reused, and the files of a killed process stay.
fn owner(pid_file: &Path, socket: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&line).contains(&path_text(socket)).then(|| Pid::from_raw(pid))?
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::File { path, source }
}
