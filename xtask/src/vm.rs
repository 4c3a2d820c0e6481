//! `cargo xtask vm`: machines to work with.
//!
//! A machine outlives the command that started it and is a folder in the cache; every command
//! here finds it there again. The work itself is in `testkit::vm`, which the tests use too.

use std::{
    fs::File,
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use testkit::{
    identity::Identity,
    image::Image,
    process::Lifetime,
    seed::Seed,
    vm::{
        Store, Vm,
        record::{Accelerator, Keys, Medium, Spec},
    },
};

use crate::progress::Steps;

/// What to do with virtual machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a machine from the image, or start one that is stopped, and wait until it is ready.
    Up(Up),
    /// Switch a machine off, through its API where that answers.
    Down {
        /// The machine.
        name: String,
        /// Throw its disks and everything else away, too.
        #[arg(long)]
        delete: bool,
    },
    /// All machines.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Follow the serial console; lines typed go to it.
    Console {
        /// The machine.
        name: String,
        /// Print what there is and end.
        #[arg(long)]
        no_follow: bool,
    },
    /// Take the power away at once.
    PowerCut {
        /// The machine.
        name: String,
    },
    /// Press the reset button.
    Reset {
        /// The machine.
        name: String,
    },
    /// Keep a running machine's whole state, memory and TPM included. It goes on running.
    Snapshot {
        /// The machine.
        name: String,
        /// What to call the state; an older one of this name is replaced.
        tag: String,
    },
    /// Go back to a kept state, also from a machine that is stopped.
    Restore {
        /// The machine.
        name: String,
        /// What the state was called.
        tag: String,
    },
    /// Attach a new, empty disk to a running machine and print its serial number.
    AttachDisk {
        /// The machine.
        name: String,
        /// Its size, such as `10GiB`.
        #[arg(value_parser = size)]
        size: u64,
    },
    /// Detach and delete a disk that was attached.
    DetachDisk {
        /// The machine.
        name: String,
        /// Its serial number.
        serial: String,
    },
    /// Attach a network interface, on a network of its own, to a running machine.
    AttachNic {
        /// The machine.
        name: String,
        /// A name for detaching it.
        id: String,
        /// Its hardware address.
        mac: String,
    },
    /// Detach a network interface that was attached.
    DetachNic {
        /// The machine.
        name: String,
        /// Its name.
        id: String,
    },
    /// Put the TPM back into a stopped machine.
    AttachTpm {
        /// The machine.
        name: String,
    },
    /// Take the TPM out of a stopped machine; its state is kept.
    DetachTpm {
        /// The machine.
        name: String,
    },
}

/// Arguments of `vm up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The machine.
    name: String,
    /// Print one JSON object with all there is to know for scripts.
    #[arg(long)]
    json: bool,
    /// Throw away a machine of this name first.
    #[arg(long)]
    fresh: bool,
    /// Do not wait until the system is ready; nothing can be said about its API then.
    #[arg(long, conflicts_with = "json")]
    no_wait: bool,
    /// Description of the image (what `image --json` prints) instead of building it.
    #[arg(long)]
    image: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// What a new machine is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// Memory, such as `2GiB`.
    #[arg(long, default_value = "2GiB", value_parser = size)]
    memory: u64,
    /// Processors.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Size of the boot disk, at least 50 GiB; only what is written takes space.
    #[arg(long, default_value = "64GiB", value_parser = size)]
    disk: u64,
    /// A further, empty disk of this size; may be repeated.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    extra_disk: Vec<u64>,
    /// Start with a firmware that has no keys, so that the boot loader enrols them.
    #[arg(long)]
    setup_mode: bool,
    /// No TPM.
    #[arg(long)]
    no_tpm: bool,
    /// Run the image from the boot disk, instead of installing it there from a USB stick.
    #[arg(long)]
    written: bool,
    /// Add this to the signed kernel command line, such as `console=ttyS0`; may be repeated. The TPM
    /// measures it, and does not release the keys of a disk that was encrypted without it.
    #[arg(long, value_name = "WORD")]
    kernel_argument: Vec<String>,
    /// Use hardware virtualisation, where it works.
    #[arg(long)]
    kvm: bool,
}

impl Shape {
    /// The same without an installation.
    pub(crate) fn written(self) -> Self {
        Self { written: true, ..self }
    }

    fn spec(&self) -> Spec {
        Spec {
            memory_mib: self.memory >> 20,
            cpus: self.cpus,
            disk_size: self.disk,
            extra_disks: self.extra_disk.clone(),
            keys: if self.setup_mode { Keys::SetupMode } else { Keys::Enrolled },
            tpm: !self.no_tpm,
            kernel_arguments: self.kernel_argument.clone(),
            sector_size: 512,
            medium: (!self.written).then_some(Medium::Usb),
            accelerator: if self.kvm { Accelerator::Kvm } else { Accelerator::Emulation },
        }
    }
}

/// Runs one command. `build` gives the current image, and is called only when one is needed.
pub(crate) fn run(command: Command, steps: &Steps, build: impl FnOnce() -> Result<Image>) -> Result<()> {
    let store = Store::of_user();
    match command {
        Command::Up(up) => {
            if up.fresh {
                discard(&store, &up.name)?;
            }
            let build = || match &up.image {
                Some(path) => Ok(Image::load(path)?),
                None => build(),
            };
            let wait = !up.no_wait;
            let vm = bring_up(&store, &up.name, &up.shape, wait, steps, build)?;
            if up.json {
                println!("{}", serde_json::to_string(&Access::of(&vm))?);
            } else if wait {
                print_access(&vm);
            }
            Ok(())
        }
        Command::Down { name, delete } => down(&store, &name, delete, steps),
        Command::List { json } => list(&store, json),
        Command::Console { name, no_follow } => console(&store.open(&name)?, !no_follow),
        Command::PowerCut { name } => Ok(store.open(&name)?.power_cut()?),
        Command::Reset { name } => Ok(store.open(&name)?.reset()?),
        Command::Snapshot { name, tag } => Ok(store.open(&name)?.snapshot(&tag)?),
        Command::Restore { name, tag } => Ok(store.open(&name)?.restore(&tag)?),
        Command::AttachDisk { name, size } => {
            println!("{}", store.open(&name)?.attach_disk(size)?);
            Ok(())
        }
        Command::DetachDisk { name, serial } => Ok(store.open(&name)?.detach_disk(&serial)?),
        Command::AttachNic { name, id, mac } => Ok(store.open(&name)?.attach_nic(&id, &mac)?),
        Command::DetachNic { name, id } => Ok(store.open(&name)?.detach_nic(&id)?),
        Command::AttachTpm { name } => Ok(store.open(&name)?.set_tpm(true)?),
        Command::DetachTpm { name } => Ok(store.open(&name)?.set_tpm(false)?),
    }
}

/// Makes the machine unless it is there, starts it unless it runs, and waits until it is ready.
pub(crate) fn bring_up(
    store: &Store,
    name: &str,
    shape: &Shape,
    wait: bool,
    steps: &Steps,
    build: impl FnOnce() -> Result<Image>,
) -> Result<Vm> {
    let (mut vm, new) = if store.exists(name) {
        (store.open(name)?, false)
    } else {
        let image = build()?;
        let create = |_: &_| create(store, name, shape, &image);
        (steps.step("Make the machine", Duration::from_secs(5), create)?, true)
    };
    if !vm.is_running() {
        vm.start(Lifetime::Detached)?;
    }
    if wait {
        // Without hardware virtualisation; the durations of this machine are remembered.
        let (step, guess) = match new {
            true if shape.written => ("First boot", 140),
            true => ("Installation and first boot", 240),
            false => ("Boot", 90),
        };
        let outcome = steps.step(step, Duration::from_secs(guess), |_| Ok(vm.wait_ready(READY_LIMIT, |_| ())?));
        outcome.with_context(|| format!("the whole console is in {}", vm.folder().console_log().display()))?;
    }
    Ok(vm)
}

/// Removes a machine, running or not; that there is none is fine.
pub(crate) fn discard(store: &Store, name: &str) -> Result<()> {
    if !store.exists(name) {
        return Ok(());
    }
    let mut vm = store.open(name)?;
    if vm.is_running() {
        vm.power_cut()?;
    }
    Ok(vm.delete()?)
}

/// Tells a person how to reach the machine. The commands work as they stand.
pub(crate) fn print_access(vm: &Vm) {
    let access = Access::of(vm);
    println!("{} {} is ready.", access.name, access.os_version);
    println!();
    println!("  API                 {}", access.api_url);
    println!("  client certificate  {}", access.client_cert.display());
    println!("  client key          {}", access.client_key.display());
    println!("  server certificate  {}", access.server_cert.display());
    println!("  console log         {}", access.console_log.display());
    println!();
    println!("Try:");
    for path in ["/1.0", "/1.0/system/network", "/1.0/system/security"] {
        println!("  {}", curl(&access, path));
    }
}

/// Far above every measured boot: a machine that is not ready by then never will be.
const READY_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What a script needs to reach a machine.
#[derive(Debug, Serialize)]
struct Access {
    name: String,
    os_version: String,
    api_url: String,
    client_cert: PathBuf,
    client_key: PathBuf,
    server_cert: PathBuf,
    console_log: PathBuf,
    qmp_socket: PathBuf,
    state_dir: PathBuf,
}

impl Access {
    fn of(vm: &Vm) -> Self {
        let folder = vm.folder();
        Self {
            name: vm.name().to_owned(),
            os_version: running_version(vm).unwrap_or_else(|| vm.record().os_version.clone()),
            api_url: vm.api_url(),
            client_cert: folder.client_cert(),
            client_key: folder.client_key(),
            server_cert: folder.server_cert(),
            console_log: folder.console_log(),
            qmp_socket: folder.qmp_socket(),
            state_dir: folder.path().to_owned(),
        }
    }
}

/// The version that the system itself names; an update may have changed what it was made with.
fn running_version(vm: &Vm) -> Option<String> {
    let client = vm.client().ok()?.with_patience(Duration::from_secs(20));
    let body = client.get("/1.0").ok()?.json().ok()?;
    body.pointer("/metadata/environment/os_version")?.as_str().map(str::to_owned)
}

fn create(store: &Store, name: &str, shape: &Shape, image: &Image) -> Result<Vm> {
    let administrator = Identity::generate("admin")?;
    // The status screen on the serial line, whatever the signed kernel command line says.
    let console = json!({ "version": "1", "console": [{ "device": "/dev/ttyS0", "baud_rate": 115_200 }] });
    let mut seed = Seed::administrator(&administrator.certificate).with("kernel.json", &console);
    if !shape.written {
        seed = seed.installing(&json!({ "version": "1", "force_reboot": true }));
    }
    Ok(store.create(name, &shape.spec(), image, &seed, &administrator)?)
}

fn down(store: &Store, name: &str, delete: bool, steps: &Steps) -> Result<()> {
    let mut vm = store.open(name)?;
    if vm.is_running() {
        let asked = ask_poweroff(&vm);
        let off = match asked {
            Ok(()) => steps
                .step("Power off", Duration::from_secs(20), |_| Ok(vm.wait_stopped(Duration::from_secs(180))?))
                .map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = off {
            eprintln!("{name}: cut from power, because it did not go by itself: {reason}");
            vm.power_cut()?;
        }
    }
    if delete {
        vm.delete()?;
    }
    Ok(())
}

fn ask_poweroff(vm: &Vm) -> std::result::Result<(), String> {
    let client = vm.client().map_err(|_| "its API was never reached".to_owned())?;
    let response = client
        .with_patience(Duration::from_secs(10))
        .post("/1.0/system/:poweroff", &json!({}))
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    if response.status == 200 { Ok(()) } else { Err(format!("status {}: {}", response.status, response.text())) }
}

fn list(store: &Store, as_json: bool) -> Result<()> {
    let mut machines = Vec::new();
    for name in store.names()? {
        let vm = store.open(&name)?;
        machines.push(json!({
            "name": name,
            "running": vm.is_running(),
            "os_version": vm.record().os_version,
            "api_url": vm.api_url(),
            "state_dir": vm.folder().path(),
        }));
    }
    if as_json {
        println!("{}", Value::from(machines));
        return Ok(());
    }
    for machine in machines {
        let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
        let state = if machine["running"] == true { "running" } else { "stopped" };
        println!("{:20} {state}  {}  {}", text("name"), text("os_version"), text("api_url"));
    }
    Ok(())
}

fn console(vm: &Vm, follow: bool) -> Result<()> {
    let path = vm.folder().console_log();
    let mut log = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = io::stdout().lock();
    io::copy(&mut log, &mut out)?;
    out.flush()?;
    if !follow || !vm.is_running() {
        return Ok(());
    }

    // The log has everything that is written, so the socket is only needed for what is typed.
    let socket = vm.folder().console_socket();
    let mut keyboard = UnixStream::connect(&socket).with_context(|| format!("cannot open {}", socket.display()))?;
    let mut screen = keyboard.try_clone().context("cannot share the console")?;
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if keyboard.write_all(format!("{line}\r").as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 4096];
    let mut shown = log.stream_position()?;
    loop {
        // What arrives here says that there is more in the log; its end says that the machine is off.
        let more = screen.read(&mut buffer).unwrap_or(0);
        log.seek(SeekFrom::Start(shown))?;
        shown += io::copy(&mut log, &mut out)?;
        out.flush()?;
        if more == 0 {
            return Ok(());
        }
    }
}

fn curl(access: &Access, path: &str) -> String {
    let quote = |path: &PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!(
        "curl --cacert {} --cert {} --key {} {}{path}",
        quote(&access.server_cert),
        quote(&access.client_cert),
        quote(&access.client_key),
        access.api_url,
    )
}

/// A size with an optional unit; all units are powers of two.
fn size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("`{text}` does not start with a number"))?;
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => bail!("`{unit}` is no unit: KiB, MiB, GiB or TiB"),
    };
    number.checked_mul(1 << shift).with_context(|| format!("`{text}` is too much"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        assert_eq!(size("512").expect("bytes"), 512);
        assert_eq!(size("2GiB").expect("gibibytes"), 2 << 30);
        assert_eq!(size("3M").expect("mebibytes"), 3 << 20);
        for wrong in ["", "GiB", "1GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn printed_command_survives_odd_folder_names() {
        let file = |name: &str| PathBuf::from("/it's here").join(name);
        let access = Access {
            name: "a".to_owned(),
            os_version: "202601010000".to_owned(),
            api_url: "https://127.0.0.1:1".to_owned(),
            client_cert: file("c"),
            client_key: file("k"),
            server_cert: file("s"),
            console_log: file("l"),
            qmp_socket: file("q"),
            state_dir: file(""),
        };
        assert_eq!(
            curl(&access, "/1.0"),
            r"curl --cacert '/it'\''s here/s' --cert '/it'\''s here/c' --key '/it'\''s here/k' https://127.0.0.1:1/1.0"
        );
    }
}
