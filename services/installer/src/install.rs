//! Doing it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use efi::{Value, Variable};
use media::{Copy, MediaError, Progress, Step, Table, Target};
use modal::Percent;
use runner::{Call, RunError, Tool};
use rustix::{
    fs::{FallocateFlags, fallocate, sync},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    system::{RebootCommand, reboot},
};
use seed::{Section, SeedError};

use crate::{
    machine::Machine,
    plan::{Plan, stays_in_seed},
    screen::{Message, Screen},
};

/// Non-volatile, and visible before and after the firmware hands over.
const ATTRIBUTES: u32 = 0x7;

/// How much is discarded at once: the drive does not answer meanwhile.
const DISCARD: u64 = 1 << 30;

/// How long the kernel may take to show the new partitions.
const PARTITION_LIMIT: Duration = Duration::from_secs(60);

/// How the machine is left once it is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Restart,
    WaitForRemoval,
}

/// Why an installation was not finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot read the seed of the medium")]
    Seed(#[from] SeedError),
    #[error("cannot copy the system")]
    Copy(#[from] MediaError),
    #[error("the new partitions did not show up on {0}")]
    Partitions(PathBuf),
    #[error("cannot mount the new EFI system partition {0}")]
    Mount(PathBuf, #[source] io::Error),
    #[error("cannot install the boot loader")]
    Loader(#[from] RunError),
    #[error("the copying ended unexpectedly")]
    Thread,
}

/// Installs. Everything that can go wrong before the first byte is written has been ruled out.
pub(crate) async fn install(machine: &Machine, plan: &Plan, screen: &Screen) -> Result<Leave, InstallError> {
    screen.log(&Message::info(plan.summary(&machine.os)));
    let seed = target_seed(machine, plan)?;
    let (told, mut tell) = tokio::sync::watch::channel(Message::info(""));
    let copying = {
        let plan = plan.clone();
        tokio::task::spawn_blocking(move || copy(&plan, &seed, &told))
    };
    while tell.changed().await.is_ok() {
        let message = tell.borrow_and_update().clone();
        screen.show(&message);
    }
    copying.await.map_err(|_| InstallError::Thread)??;
    // From here on the drive starts by itself: the loader is also where firmware looks on any drive.
    if let Err(error) = boot_loader(machine, plan).await {
        screen.log(&Message::warning(format!(
            "The firmware got no boot entry for the drive ({}): choose the drive in the firmware setup if it does not start.",
            causes::chain(&error)
        )));
    }
    // The installation is as good without the note; only the medium does not know of it then.
    let note = Value { attributes: ATTRIBUTES, data: vec![0; 4] };
    if let Err(error) = machine.variables.write(Variable::InstallComplete, &note) {
        screen.log(&Message::warning(format!(
            "The firmware does not keep a note of the installation ({error}): remove the medium before the next start."
        )));
    }
    sync();
    Ok(if plan.restarts { Leave::Restart } else { Leave::WaitForRemoval })
}

/// The seed of the installed system: that of the medium with the user's files in
/// front of it, without the wish to install.
fn target_seed(machine: &Machine, plan: &Plan) -> Result<Vec<u8>, InstallError> {
    let open = |path: &Path| File::open(path).map_err(|error| InstallError::Open(path.to_owned(), error));
    let handed_over = seed::read(&open(&machine.handover.join("seed.tar"))?)?.unwrap_or_default();
    let mut files = handed_over;
    if machine.handed_over("SEED_ORIGIN").as_deref() == Some("user") {
        let name = plan.source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let block = sys::block(&machine.roots, name);
        let partition = block.and_then(|block| block.partitions.into_iter().find(|(number, _)| *number == 2));
        if let Some(partition) = partition.and_then(|(_, name)| sys::block(&machine.roots, &name)) {
            let own = seed::read(&open(&partition.node)?)?.unwrap_or_default();
            files = merged(files, own);
        }
    }
    files.retain(|file| stays_in_seed(&file.name));
    Ok(seed::write(&files))
}

/// `first` hides every file of `second` that holds the same section.
fn merged(first: Vec<seed::File>, second: Vec<seed::File>) -> Vec<seed::File> {
    let section = |file: &seed::File| Section::of_file(&file.name);
    let hidden = |file: &seed::File| {
        first.iter().any(|other| other.name == file.name || section(other).is_some() && section(other) == section(file))
    };
    let rest: Vec<_> = second.into_iter().filter(|file| !hidden(file)).collect();
    [first, rest].concat()
}

/// Copies the medium to the target, telling how far it is.
fn copy(plan: &Plan, seed: &[u8], told: &tokio::sync::watch::Sender<Message>) -> Result<Table, InstallError> {
    let open = |path: &Path, options: &fs::OpenOptions| {
        options.open(path).map_err(|error| InstallError::Open(path.to_owned(), error))
    };
    let source = open(&plan.source, File::options().read(true))?;
    let target = open(&plan.target.block.node, File::options().read(true).write(true))?;
    if plan.overwrites {
        told.send_replace(Message::info(format!("Discarding everything on {}", plan.target.path())));
        discard(&target, plan.target.block.size);
    }
    let mut last = (0, Step::Copying, u64::MAX);
    let mut report = |progress: Progress<'_>| {
        let tenths = (progress.done * 10).checked_div(progress.size).unwrap_or(10);
        let now = (progress.partition, progress.step, tenths);
        if now != last {
            last = now;
            let message = Message::info(sentence(&progress, tenths));
            told.send_replace(message.with_progress(Percent::of(progress.done, progress.size)));
        }
    };
    let job = Copy {
        source: &source,
        target: &target,
        becomes: Target::Drive,
        sector_size: plan.target.block.sector_size,
        seed: Some(seed),
    };
    Ok(media::copy(&job, &mut report)?)
}

fn sentence(progress: &Progress<'_>, tenths: u64) -> String {
    let verb = match progress.step {
        Step::Copying => "Copying",
        Step::Verifying => "Verifying",
    };
    let (number, last, label) = (progress.partition, progress.last, progress.label);
    let mib = progress.size.div_ceil(1 << 20);
    format!("{verb} partition {number} of {last}, {label} ({mib} MiB): {}%", tenths * 10)
}

/// Tells the drive that nothing on it is needed. One that does not know how keeps
/// its old content until it is overwritten, which is all that overwriting promises.
fn discard(target: &File, size: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut at = 0;
    while at < size && fallocate(target, flags, at, DISCARD.min(size - at)).is_ok() {
        at += DISCARD;
    }
}

/// Puts the boot loader's entry into the firmware's list. The files are there already, as copies of
/// the medium's.
async fn boot_loader(machine: &Machine, plan: &Plan) -> Result<(), InstallError> {
    let esp = partition(machine, plan).await?;
    let folder = machine.handover.join("esp");
    let failed = |error: io::Error| InstallError::Mount(esp.clone(), error);
    fs::create_dir_all(&folder).map_err(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSYMFOLLOW;
    mount(&esp, &folder, "vfat", flags, Some(c"umask=0077")).map_err(|error| failed(error.into()))?;
    let path = folder.to_string_lossy();
    let call = Call::new(Tool::Bootctl, ["--graceful", "--esp-path", &path, "install"]).deadline(PARTITION_LIMIT);
    let installed = machine.runner.run(&call).await.and_then(runner::Output::success);
    unmount(&folder, UnmountFlags::empty()).map_err(|error| failed(error.into()))?;
    installed?;
    Ok(())
}

/// Waits for the new EFI system partition: the kernel reads the table again once the drive is closed.
async fn partition(machine: &Machine, plan: &Plan) -> Result<PathBuf, InstallError> {
    let deadline = Instant::now() + PARTITION_LIMIT;
    loop {
        let drive = sys::block(&machine.roots, &plan.target.block.name);
        let first = drive.and_then(|drive| drive.partitions.into_iter().find(|(number, _)| *number == 1));
        let block = first.and_then(|(_, name)| sys::block(&machine.roots, &name));
        // The kernel shows a partition before udev has made its node.
        if let Some(block) = block.filter(|block| block.size == media::ESP_SIZE && block.node.exists()) {
            return Ok(block.node);
        }
        if Instant::now() >= deadline {
            return Err(InstallError::Partitions(plan.target.block.node.clone()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Restarts the machine at once: there is nothing to stop that has anything to lose.
pub(crate) async fn restart(machine: &Machine, screen: &Screen) {
    sync();
    // Long enough to read the last line.
    tokio::time::sleep(Duration::from_secs(5)).await;
    if let Err(error) = reboot(RebootCommand::Restart) {
        screen.show(&Message::error(format!("{} cannot restart the machine ({error}): do it yourself.", machine.os)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[(&str, &str)]) -> Vec<seed::File> {
        let file = |(name, text): &(&str, &str)| seed::File { name: (*name).into(), content: text.as_bytes().to_vec() };
        names.iter().map(file).collect()
    }

    #[test]
    fn user_s_files_take_the_place_of_the_medium_s() {
        let own = files(&[("incus.yaml", "own"), ("network.yaml", "own"), ("notes.txt", "own")]);
        let user = files(&[("install.json", "user"), ("network.json", "user")]);
        let merged = merged(user, own);
        let found: Vec<_> = merged.iter().map(|file| (file.name.as_str(), file.content.as_slice())).collect();
        assert_eq!(
            found,
            [("install.json", &b"user"[..]), ("network.json", b"user"), ("incus.yaml", b"own"), ("notes.txt", b"own")]
        );
        assert!(!stays_in_seed("install.yml") && stays_in_seed("incus.yaml") && stays_in_seed("notes.txt"));
    }

    #[test]
    fn progress_is_a_sentence() {
        let progress =
            Progress { step: Step::Copying, partition: 5, last: 5, label: "IncusOS_1", done: 5 << 20, size: 10 << 20 };
        assert_eq!(sentence(&progress, 5), "Copying partition 5 of 5, IncusOS_1 (10 MiB): 50%");
    }
}
