//! What the system tests share: one booted machine per image, copies of it for each test.
//!
//! A first boot takes minutes without hardware virtualisation, so it happens once per image: the
//! machine is frozen when it is ready ([`ready_machine`]), and each test that needs a running
//! system gets its own copy in seconds. Tests that must boot take a [`new_machine`].
//!
//! All of them skip, with a printed reason, when [`testkit::image::VARIABLE`] names no image.

pub mod disk;
mod slot;

use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::identity::Identity;
use testkit::image::{self, Image};
use testkit::process::Lifetime;
use testkit::seed::Seed;
use testkit::vm::folder;
use testkit::vm::frozen::Frozen;
use testkit::vm::record::{Medium, Spec};
use testkit::vm::{Store, Vm};
use testkit::wait::wait_for;

use slot::Slot;

/// Limit for a boot with everything that may run beside it.
pub const BOOT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Limit for what a running system does at once.
pub const MOMENT: Duration = Duration::from_secs(60);

/// The image under test. Says that the test is skipped when there is none.
#[must_use]
pub fn image() -> Option<Image> {
    let Some(path) = std::env::var_os(image::VARIABLE) else {
        println!("skipped: {} names no image; `cargo xtask test` builds one and sets it", image::VARIABLE);
        return None;
    };
    Some(Image::load(Path::new(&path)).expect("the variable names the description of an image"))
}

/// A machine of a test's own.
///
/// It is deleted after a test that passed. After one that failed it stays, stopped, for a day.
#[derive(Debug)]
pub struct Machine {
    vm: Option<Vm>,
    _slot: Slot,
}

impl Deref for Machine {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        self.vm.as_ref().expect("is taken in drop only")
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Vm {
        self.vm.as_mut().expect("is taken in drop only")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(mut vm) = self.vm.take() else { return };
        if std::thread::panicking() {
            println!("the console of the machine that failed: {}", vm.folder().console_log().display());
            println!("its last lines:\n{}", vm.console().tail(40));
        }
        let stopped = if vm.is_running() { vm.power_cut() } else { Ok(()) };
        if !std::thread::panicking() {
            stopped.and_then(|()| vm.delete()).expect("a test machine can be stopped and deleted");
        }
    }
}

/// A copy of a machine that is ready, running; made in seconds.
#[must_use]
pub fn ready_machine(label: &str) -> Option<Machine> {
    let image = image()?;
    let slot = Slot::take();
    let vm = frozen(&image)
        .and_then(|frozen| Ok(frozen.thaw(&store(), &unique(label), Lifetime::Tied)?))
        .unwrap_or_else(|error| panic!("no machine for `{label}`: {error:?}"));
    Some(Machine { vm: Some(vm), _slot: slot })
}

/// A machine that was never on.
#[must_use]
pub fn new_machine(label: &str, spec: &Spec) -> Option<Machine> {
    let image = image()?;
    Some(machine_of(label, spec, &image))
}

/// A machine that was never on, with an image of the test's choice.
#[must_use]
pub fn machine_of(label: &str, spec: &Spec, image: &Image) -> Machine {
    machine_with_seed(label, spec, image, |seed| seed)
}

/// The same with another seed than that of an administrator.
#[must_use]
pub fn machine_with_seed(label: &str, spec: &Spec, image: &Image, change: impl FnOnce(Seed) -> Seed) -> Machine {
    let slot = Slot::take();
    let vm = create(&store(), &unique(label), spec, image, change)
        .unwrap_or_else(|error| panic!("no machine for `{label}`: {error:?}"));
    Machine { vm: Some(vm), _slot: slot }
}

/// The section `install` of a seed that asks nobody anything.
#[must_use]
pub fn installed_at_once() -> Value {
    json!({ "version": "1", "force_reboot": true })
}

/// The console log of the first boot, which all copies have in common.
#[must_use]
pub fn first_boot_console() -> Option<String> {
    let image = image()?;
    let slot = Slot::take();
    let text = frozen(&image)
        .and_then(|_| Ok(testkit::vm::console::Console::whole(&frozen_folder(&image)?.console_log()).text()?))
        .unwrap_or_else(|error| panic!("no first boot: {error:?}"));
    drop(slot);
    Some(text)
}

/// How long the first boot of this image took, from the restart after its installation to ready.
#[must_use]
pub fn first_boot_duration() -> Option<Duration> {
    let image = image()?;
    let folder = frozen_folder(&image).ok()?;
    let seconds = fs::read_to_string(folder.path().join(DURATION)).ok()?;
    Some(Duration::from_secs_f64(seconds.trim().parse().ok()?))
}

/// Waits until the TPM has opened the encrypted volumes. Root is open before anything runs, swap
/// follows when there is a key for it, and nothing waits for that.
///
/// # Panics
///
/// When they are not, or the API does not tell.
pub fn wait_opened_by_tpm(vm: &Vm) {
    let opened = wait_for("root and swap to be opened by the TPM", MOMENT, || {
        let client = vm.client().map_err(explain)?;
        let response = client.get("/1.0/system/security").map_err(explain)?;
        let body = response.json().map_err(explain)?;
        let volumes = body["metadata"]["state"]["encrypted_volumes"].as_array().cloned().unwrap_or_default();
        let is_open = |name: &str| volumes.contains(&json!({ "volume": name, "state": "unlocked (TPM)" }));
        if volumes.len() == 2 && is_open("root") && is_open("swap") { Ok(()) } else { Err(body.to_string()) }
    });
    opened.unwrap_or_else(|error| panic!("{}", explain(error)));
}

/// An error with all its causes, as a test wants to see it.
pub fn explain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// File with the seconds of the first boot, in the frozen machine's folder.
const DURATION: &str = "first-boot-seconds";

/// Machines that tests left after failing are removed after this time.
const KEPT: Duration = Duration::from_secs(24 * 3600);

fn cache() -> PathBuf {
    folder::cache().join("tests")
}

fn store() -> Store {
    Store::at(cache().join("vms"))
}

/// The machine of this image that is frozen right after its first boot.
fn frozen(image: &Image) -> Result<Frozen> {
    let moulds = cache().join("frozen");
    fs::create_dir_all(&moulds).with_context(|| format!("cannot create {}", moulds.display()))?;
    // Every test process comes here, one of them boots.
    let lock = File::create(moulds.join("lock")).context("cannot create the lock of the frozen machines")?;
    lock.lock().context("cannot wait for the first boot of another test")?;

    let folder = frozen_folder(image)?;
    if let Some(frozen) = Frozen::open(folder.path())? {
        return Ok(frozen);
    }
    discard_old(&moulds)?;
    discard_failed()?;
    // Left by a first boot that did not end well.
    if folder.path().exists() {
        fs::remove_dir_all(folder.path()).context("cannot remove an unfinished first boot")?;
    }
    let name = key(image)?;
    println!("first boot of {} {} (once per image)", image.os_name, image.os_version);
    let spec = Spec { medium: Some(Medium::Usb), ..Spec::default() };
    let mut vm = create(&Store::at(&moulds), &name, &spec, image, |seed| seed.installing(&installed_at_once()))?;
    vm.start(Lifetime::Tied)?;
    vm.console().wait_for("was installed to", BOOT_LIMIT)?;
    // While the machine restarts: with the stick in it, it would start from its disk all the same.
    let installed = std::time::Instant::now();
    vm.remove_medium()?;
    vm.wait_ready(BOOT_LIMIT, |_| ())?;
    let took = installed.elapsed();
    fs::write(folder.path().join(DURATION), took.as_secs_f64().to_string())?;
    println!("ready after {} s", took.as_secs());
    Ok(vm.freeze()?)
}

fn frozen_folder(image: &Image) -> Result<folder::Folder> {
    Ok(folder::Folder::at(cache().join("frozen").join(key(image)?)))
}

/// Two images of the same key boot alike. The kernel image names the root hash of `/usr`, and the
/// disk image's time tells builds apart that differ in the boot loader only.
fn key(image: &Image) -> Result<String> {
    let uki = fs::read(&image.uki).with_context(|| format!("cannot read {}", image.uki.display()))?;
    let built = fs::metadata(&image.disk_image)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("cannot read {}", image.disk_image.display()))?
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the image is older than all files")?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    hash.update(&uki);
    hash.update(&built.as_nanos().to_le_bytes());
    // A machine of another make does not take this one's state.
    hash.update(format!("{:?}", Spec::default()).as_bytes());
    hash.update(MAKE.as_bytes());
    Ok(hash.finish().as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Changes when the emulated hardware of `testkit` does.
const MAKE: &str = "4";

fn create(store: &Store, name: &str, spec: &Spec, image: &Image, change: impl FnOnce(Seed) -> Seed) -> Result<Vm> {
    let administrator = Identity::generate("admin")?;
    let seed = change(Seed::administrator(&administrator.certificate));
    Ok(store.create(name, spec, image, &seed, &administrator)?)
}

/// Keeps the frozen machine that was used last; each takes about 2 GB.
fn discard_old(moulds: &Path) -> Result<()> {
    let mut folders: Vec<(SystemTime, PathBuf)> = fs::read_dir(moulds)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            metadata.is_dir().then(|| Some((metadata.modified().ok()?, entry.path())))?
        })
        .collect();
    folders.sort();
    folders.pop();
    for (_, folder) in folders {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn discard_failed() -> Result<()> {
    let store = store();
    for name in store.names()? {
        let Ok(vm) = store.open(&name) else {
            // Of another version of the harness.
            let folder = cache().join("vms").join(&name);
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            continue;
        };
        let age = fs::metadata(vm.folder().console_log()).and_then(|metadata| metadata.modified());
        let old = age.ok().and_then(|time| time.elapsed().ok()).is_none_or(|age| age > KEPT);
        if old && !vm.is_running() {
            vm.delete()?;
        }
    }
    Ok(())
}

fn unique(label: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{label}-{}-{number}", process::id())
}
