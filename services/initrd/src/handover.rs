//! What is left below `/run` for the units of this boot.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, symlink},
};

use efi::Variable;
use runner::{Call, Tool};
use seed::Section;
use tpm::Pcr;

use crate::{Machine, Refusal, drives::BootDrive};

/// How much of a seed that cannot be read is handed over as it is, so that whoever reads it can
/// say what is wrong.
const DAMAGED: usize = 1 << 20;

/// Whose seed it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It lies on the drive that was booted.
    Medium,
    /// On a medium of the user's.
    User,
}

/// The seed that counts at this boot.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) origin: Origin,
    /// Its files, or the start of an archive that cannot be read.
    pub(crate) files: Result<Vec<seed::File>, Vec<u8>>,
}

impl Seed {
    pub(crate) fn none() -> Self {
        Self { origin: Origin::Medium, files: Ok(Vec::new()) }
    }

    pub(crate) fn read(origin: Origin, device: &File) -> Self {
        let files = match seed::read(device) {
            Ok(files) => Ok(files.unwrap_or_default()),
            Err(_) => {
                let mut start = vec![0; DAMAGED];
                let read = device.read_at(&mut start, 0).unwrap_or_default();
                start.truncate(read);
                Err(start)
            }
        };
        Self { origin, files }
    }

    /// Nobody knows what a seed wants that cannot be read: the installer says so.
    pub(crate) fn asks_to_install(&self) -> bool {
        self.files
            .as_ref()
            .map_or(true, |files| files.iter().any(|file| Section::of_file(&file.name) == Some(Section::Install)))
    }
}

/// What is known of this boot.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) drive: BootDrive,
    pub(crate) seed: Seed,
    pub(crate) secure_boot: bool,
}

/// For a boot that runs the system.
pub(crate) fn run(machine: &Machine, boot: &Boot) -> Result<(), Refusal> {
    leave(machine, boot).map_err(cannot_write)?;
    // From now on this machine counts as installed by its drive, not by this note. The firmware
    // may refuse; the note then only keeps a medium from installing without `force_install`.
    if let Err(error) = machine.variables.remove(Variable::InstallComplete) {
        machine.tell(&Refusal::because("The note of the finished installation stays", error));
    }
    Ok(())
}

/// For a boot that installs: the root file system is in memory, and the installer
/// is all that is started on it.
pub(crate) async fn install(machine: &Machine, boot: &Boot) -> Result<(), Refusal> {
    let units = machine.run.join("systemd/system");
    let root = "[Unit]\nDescription=Root file system in memory\nDefaultDependencies=no\n\
                Before=initrd-root-fs.target\n\
                [Mount]\nWhat=tmpfs\nWhere=/sysroot\nType=tmpfs\nOptions=mode=0755,size=50%,nodev,nosuid,noexec\n";
    // Of the same name as the generated one, which waits for a root volume, and before it.
    let device = "[Unit]\n";
    let written = machine
        .put_unit("sysroot.mount", root)
        .and_then(|()| machine.put_unit("initrd-root-device.target.d/50-root-device.conf", device))
        .and_then(|()| leave(machine, boot))
        .and_then(|()| replace_link("/usr/lib/systemd/system/incus-os-install.target", &units.join("default.target")))
        .and_then(|()| machine.put_secret(&machine.ours("install"), b""));
    written.map_err(cannot_write)?;
    let failed = |cause| Refusal::because("The service manager did not take the units of an installation", cause);
    let reload = Call::new(Tool::Systemctl, ["daemon-reload"]);
    machine.runner.run(&reload).await.map_err(failed)?.success().map_err(failed)?;
    Ok(())
}

/// What both kinds of boot need to know.
fn leave(machine: &Machine, boot: &Boot) -> io::Result<()> {
    let Boot { drive, seed, secure_boot } = boot;
    let esp = &drive.esp;
    let device = format!("dev-disk-by\\x2dpartuuid-{}", esp.replace('-', "\\x2d"));
    let mount = format!(
        "# Written at each boot, because only the boot loader knows which of several EFI system\n\
         # partitions is the one of this system.\n\
         [Unit]\nDescription=EFI System Partition\n\
         Requires=systemd-fsck@{device}.service\n\
         After=systemd-fsck@{device}.service blockdev@{device}.target\n\
         [Mount]\nWhat=/dev/disk/by-partuuid/{esp}\nWhere=/boot\nType=vfat\n\
         Options=umask=0077,rw,nodev,nosuid,noexec,nosymfollow\n"
    );
    machine.put_unit("boot.mount", &mount)?;
    let origin = match seed.origin {
        Origin::Medium => "medium",
        Origin::User => "user",
    };
    let environment = format!(
        "BOOT_DRIVE={}\nBOOT_MEDIUM={}\nSEED_ORIGIN={origin}\nTPM2_PCRS={}\n",
        drive.node.display(),
        drive.medium.display(),
        bound_to(*secure_boot)
    );
    machine.put_secret(&machine.ours("boot.env"), environment.as_bytes())?;
    let archive = match &seed.files {
        Ok(files) => seed::write(files),
        Err(start) => start.clone(),
    };
    machine.put_secret(&machine.ours("seed.tar"), &archive)
}

/// What volumes are bound to from the moment they are made, as `--tpm2-pcrs=` takes it: values of
/// this boot, and zero for what nobody may have extended. PCR 11 comes with the key that signs it.
/// Not PCR 15: the security service needs the TPM once more, to add the recovery key; then it binds
/// them to that as well.
fn bound_to(secure_boot: bool) -> String {
    let of_machine = Pcr::of_machine(secure_boot).iter().map(|pcr| pcr.index().to_string());
    let untouched = Pcr::UNTOUCHED.iter().filter(|pcr| **pcr != Pcr::VOLUME);
    let untouched = untouched.map(|pcr| format!("{}:sha256={}", pcr.index(), "0".repeat(64)));
    of_machine.chain(untouched).collect::<Vec<_>>().join("+")
}

fn replace_link(target: &str, link: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, link)
}

fn cannot_write(cause: io::Error) -> Refusal {
    Refusal::because("The settings of this boot cannot be written to /run", cause)
}
