use std::{fs, fs::File};

use efi::{Variable, loader};
use seed::Section;

use crate::{
    Machine, Refusal,
    decision::{Firmware, Mode, mode, unfit},
    drives::{BootDrive, UserSeed, boot_drive, own_seed, settle, user_seed},
    handover::{self, Boot, Origin, Seed},
};

/// Finds out what this boot is for, and leaves the answer for everything after it.
///
/// # Errors
///
/// When the machine cannot run the system, or the drive that was booted does not show up.
pub async fn begin(machine: &Machine) -> Result<(), Refusal> {
    let firmware = firmware(machine)?;
    if let Some(reason) = unfit(firmware) {
        return Err(Refusal::new(reason));
    }
    let esp = loader::boot_partition(&machine.variables)
        .map_err(|cause| Refusal::because("The drive that was booted is not known", cause))?;
    let drive = boot_drive(machine, &esp).await?;
    let seed = seed(machine, &drive).await?;
    let boot = Boot { drive, seed, secure_boot: firmware.secure_boot == Some(true) };
    match mode(boot.drive.booted, boot.seed.asks_to_install()) {
        Mode::Run => handover::run(machine, &boot),
        Mode::Install => handover::install(machine, &boot).await,
    }
}

fn firmware(machine: &Machine) -> Result<Firmware, Refusal> {
    let unknown = |cause| Refusal::because("The state of Secure Boot is not known", cause);
    let secure_boot = machine.variables.read(Variable::SecureBoot).map_err(unknown)?;
    let tpm = fs::read_to_string(machine.roots.sys.join("class/tpm/tpm0/tpm_version_major"));
    Ok(Firmware {
        secure_boot: secure_boot.map(|value| value.data.first() == Some(&1)),
        audit_mode: machine.variables.is_on(Variable::AuditMode).map_err(unknown)?,
        tpm: tpm.ok().and_then(|version| version.trim().parse().ok()),
    })
}

/// The seed that counts at this boot.
async fn seed(machine: &Machine, drive: &BootDrive) -> Result<Seed, Refusal> {
    if !drive.booted.is_installed {
        settle(machine).await;
        match user_seed(machine, drive)? {
            Some(UserSeed::Files(files)) => return Ok(Seed { origin: Origin::User, files: Ok(files) }),
            Some(UserSeed::Archive(node)) => {
                let device = File::open(&node).map_err(|cause| {
                    Refusal::because(format!("The seed on {} cannot be read", node.display()), cause)
                })?;
                return Ok(Seed::read(Origin::User, &device));
            }
            None => {}
        }
    }
    // A drive without the partition has no seed; the installer explains what is wrong with the rest.
    let own = own_seed(machine, drive).await?;
    let mut seed = own.map_or_else(Seed::none, |device| Seed::read(Origin::Medium, &device));
    if drive.booted.is_installed
        && let Ok(files) = &mut seed.files
    {
        files.retain(|file| Section::of_file(&file.name) != Some(Section::Install));
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Seek as _, SeekFrom, Write as _},
        os::unix::fs::symlink,
        path::{Path, PathBuf},
        sync::Arc,
        time::Duration,
    };

    use efi::{Value, Variables};
    use runner::{Reply, ScriptedRunner};
    use sys::Roots;

    use super::*;

    const ESP: &str = "11111111-2222-4333-8444-555555555555";
    const OTHER: &str = "99999999-2222-4333-8444-555555555555";

    /// A machine in a folder, with drives that are files.
    struct Fake {
        dir: tempfile::TempDir,
        machine: Machine,
    }

    impl Fake {
        fn new(runner: ScriptedRunner) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path();
            let roots = Roots { sys: root.join("sys"), dev: root.join("dev") };
            for folder in ["sys/class/block", "sys/class/tpm/tpm0", "dev", "run/incus-os", "efivars"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            fs::write(root.join("sys/class/tpm/tpm0/tpm_version_major"), "2\n").unwrap();
            let variables = Variables::in_dir(root.join("efivars"));
            let put = |variable, data: Vec<u8>| variables.write(variable, &Value { attributes: 6, data }).unwrap();
            put(Variable::SecureBoot, vec![1]);
            let esp = ESP.to_uppercase().encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            put(Variable::LoaderDevicePartUuid, esp);
            let machine =
                Machine { roots, run: root.join("run"), variables, runner: Arc::new(runner), patience: Duration::ZERO };
            Self { dir, machine }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        /// A block device with this content, and its size as sysfs shall tell it.
        fn device(&self, name: &str, parent: Option<(&str, u32)>, content: &File, size: u64) {
            let folder = match parent {
                Some((drive, _)) => self.path(&format!("sys/devices/{drive}/{name}")),
                None => self.path(&format!("sys/devices/{name}")),
            };
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("size"), (size / 512).to_string()).unwrap();
            if let Some((_, number)) = parent {
                fs::write(folder.join("partition"), number.to_string()).unwrap();
            }
            symlink(&folder, self.path("sys/class/block").join(name)).unwrap();
            let mut node = File::create(self.path("dev").join(name)).unwrap();
            let mut content = content;
            content.seek(SeekFrom::Start(0)).unwrap();
            std::io::copy(&mut content, &mut node).unwrap();
        }

        fn handed_over(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.path("run/incus-os").join(name)).ok()
        }

        fn seed_names(&self) -> Vec<String> {
            let device = File::open(self.path("run/incus-os/seed.tar")).unwrap();
            seed::read(&device).unwrap().unwrap_or_default().into_iter().map(|file| file.name).collect()
        }
    }

    /// A partition table with an EFI system partition, a seed, and what `also` names.
    fn table(own: &str, also: &[(u32, &str, &str)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(32 << 20).unwrap();
        let mut writer = &file;
        let mut gpt = gptman::GPT::new_from(&mut writer, 512, [7; 16]).unwrap();
        let esp = (1, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "esp");
        let seed = (2, "0fc63daf-8483-4772-8e79-3d69d8477de4", "seed-data");
        for (number, kind, label) in [esp, seed].into_iter().chain(also.iter().copied()) {
            let start = 2048 * u64::from(number);
            gpt[number] = gptman::GPTPartitionEntry {
                partition_type_guid: guid(kind),
                unique_partition_guid: if number == 1 { guid(own) } else { [u8::try_from(number).unwrap(); 16] },
                starting_lba: start,
                ending_lba: start + 2047,
                attribute_bits: 0,
                partition_name: label.into(),
            };
        }
        gpt.write_into(&mut writer).unwrap();
        file
    }

    fn guid(text: &str) -> [u8; 16] {
        let digits = u128::from_str_radix(&text.replace('-', ""), 16).unwrap().to_be_bytes();
        let d = digits;
        [d[3], d[2], d[1], d[0], d[5], d[4], d[7], d[6], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]]
    }

    fn archive(names: &[&str]) -> File {
        let files: Vec<_> =
            names.iter().map(|name| seed::File { name: (*name).into(), content: b"{}".to_vec() }).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&seed::write(&files)).unwrap();
        file
    }

    const SWAP: (u32, &str, &str) = (3, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "swap");
    const LARGE: u64 = media::SMALLEST_DRIVE;

    fn reload() -> ScriptedRunner {
        ScriptedRunner::new().expect("systemctl daemon-reload", Reply::Stdout(Vec::new()))
    }

    fn medium(fake: &Fake, size: u64, names: &[&str]) {
        fake.device("sda", None, &table(ESP, &[]), size);
        fake.device("sda2", Some(("sda", 2)), &archive(names), 1 << 20);
    }

    #[tokio::test]
    async fn medium_with_the_wish_to_install_installs_into_memory() {
        let fake = Fake::new(reload());
        medium(&fake, LARGE, &["install.yaml", "incus.yaml"]);
        begin(&fake.machine).await.unwrap();
        assert!(fake.handed_over("install").is_some());
        assert!(fake.handed_over("boot.env").unwrap().contains("BOOT_DRIVE="));
        assert!(fake.handed_over("boot.env").unwrap().contains("SEED_ORIGIN=medium"));
        let zero = "0".repeat(64);
        let bound_to = format!("TPM2_PCRS=7+12:sha256={zero}+13:sha256={zero}\n");
        assert!(fake.handed_over("boot.env").unwrap().contains(&bound_to));
        assert_eq!(fake.seed_names(), ["install.yaml", "incus.yaml"]);
        let mount = fs::read_to_string(fake.path("run/systemd/system/sysroot.mount")).unwrap();
        assert!(mount.contains("Type=tmpfs"), "{mount}");
    }

    #[tokio::test]
    async fn large_medium_without_the_wish_runs() {
        let fake = Fake::new(ScriptedRunner::new());
        medium(&fake, LARGE, &["incus.yaml"]);
        begin(&fake.machine).await.unwrap();
        assert_eq!(fake.handed_over("install"), None);
        let mount = fs::read_to_string(fake.path("run/systemd/system/boot.mount")).unwrap();
        assert!(mount.contains(&format!("What=/dev/disk/by-partuuid/{ESP}\n")), "{mount}");
        assert_eq!(fake.seed_names(), ["incus.yaml"]);
    }

    #[tokio::test]
    async fn drive_that_cannot_be_run_from_goes_to_the_installer_for_an_explanation() {
        let fake = Fake::new(reload());
        medium(&fake, LARGE - 512, &["incus.yaml"]);
        begin(&fake.machine).await.unwrap();
        assert!(fake.handed_over("install").is_some());
    }

    #[tokio::test]
    async fn installed_drive_runs_whatever_its_seed_and_others_say() {
        let fake = Fake::new(ScriptedRunner::new());
        fake.device("vda", None, &table(ESP, &[SWAP]), LARGE);
        fake.device("vda2", Some(("vda", 2)), &archive(&["install.yaml", "update.yaml"]), 1 << 20);
        fake.device("sda", None, &table(OTHER, &[(3, "0fc63daf-8483-4772-8e79-3d69d8477de4", "SEED_DATA")]), 1 << 30);
        fake.device("sda3", Some(("sda", 3)), &archive(&["install.json"]), 1 << 20);
        fake.machine.variables.write(Variable::InstallComplete, &Value { attributes: 7, data: vec![0; 4] }).unwrap();
        begin(&fake.machine).await.unwrap();
        assert_eq!(fake.handed_over("install"), None);
        assert_eq!(fake.seed_names(), ["update.yaml"]);
        assert_eq!(fake.machine.variables.read(Variable::InstallComplete).unwrap(), None);
    }

    #[tokio::test]
    async fn seed_of_the_user_hides_that_of_the_medium() {
        let fake = Fake::new(reload());
        medium(&fake, LARGE, &["incus.yaml"]);
        fake.device("sdb", None, &table(OTHER, &[(3, "0fc63daf-8483-4772-8e79-3d69d8477de4", "SEED_DATA")]), 1 << 30);
        fake.device("sdb3", Some(("sdb", 3)), &archive(&["install.json", "network.json"]), 1 << 20);
        begin(&fake.machine).await.unwrap();
        assert!(fake.handed_over("boot.env").unwrap().contains("SEED_ORIGIN=user"));
        assert_eq!(fake.seed_names(), ["install.json", "network.json"]);
    }

    #[tokio::test]
    async fn damaged_seed_is_handed_over_for_those_who_can_explain_it() {
        let fake = Fake::new(reload());
        fake.device("sda", None, &table(ESP, &[]), LARGE);
        let mut bytes = seed::write(&[seed::File { name: "install.yaml".into(), content: b"{}".to_vec() }]);
        bytes[0] ^= 1;
        let mut damaged = tempfile::tempfile().unwrap();
        damaged.write_all(&bytes).unwrap();
        fake.device("sda2", Some(("sda", 2)), &damaged, 1 << 20);
        begin(&fake.machine).await.unwrap();
        assert!(fake.handed_over("install").is_some(), "nobody knows what the seed wants");
        let device = File::open(fake.path("run/incus-os/seed.tar")).unwrap();
        assert!(seed::read(&device).is_err());
    }

    /// The kernel lists drives and partitions before there is anything to open.
    #[tokio::test]
    async fn drive_and_seed_whose_nodes_come_late_are_waited_for() {
        for late in ["vda", "vda2"] {
            let mut fake = Fake::new(ScriptedRunner::new());
            fake.machine.patience = Duration::from_secs(60);
            fake.device("vda", None, &table(ESP, &[SWAP]), LARGE);
            fake.device("vda2", Some(("vda", 2)), &archive(&["incus.json"]), 1 << 20);
            let (node, hidden) = (fake.path("dev").join(late), fake.path(late));
            fs::rename(&node, &hidden).unwrap();
            // Polled second: when the first look has found nothing.
            let appear = async { fs::rename(&hidden, &node).unwrap() };
            let (outcome, ()) = tokio::join!(begin(&fake.machine), appear);
            outcome.unwrap();
            assert_eq!(fake.seed_names(), ["incus.json"], "{late}");
        }
    }

    #[tokio::test]
    async fn unfit_machine_and_missing_drive_are_refused() {
        let refused = |fake: &Fake, word: &'static str| {
            let machine = fake.machine.clone();
            async move {
                let refusal = begin(&machine).await.unwrap_err().to_string();
                assert!(refusal.contains(word), "{refusal}");
            }
        };
        let fake = Fake::new(ScriptedRunner::new());
        refused(&fake, "did not show up").await;
        fs::write(fake.path("sys/class/tpm/tpm0/tpm_version_major"), "1\n").unwrap();
        refused(&fake, "version 1.2").await;
        fake.machine.variables.remove(Variable::LoaderDevicePartUuid).unwrap();
        fs::write(fake.path("sys/class/tpm/tpm0/tpm_version_major"), "2\n").unwrap();
        refused(&fake, "not known").await;
        assert!(!Path::new(&fake.path("run/incus-os/install")).exists());
    }
}
