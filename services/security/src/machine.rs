//! What the service needs from the machine. Absolute paths are stated here only.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use efi::Variables;
use runner::{Call, Output, RunError, Runner, SystemRunner, Tool};
use tpm::{Digest, Identity, Pcr, Tpm, TpmError};

/// The machine: its file systems, its TPM, its programs.
pub struct Machine {
    root: PathBuf,
    tpm: Arc<dyn TpmSource>,
    /// The same TPM, in the words of `systemd-cryptenroll(1)`.
    tpm_device: String,
    runner: Arc<dyn Runner>,
}

/// What is read of a TPM.
#[derive(Debug, Clone)]
pub struct TpmReading {
    /// Who made it.
    pub identity: Identity,
    /// The registers of [`TpmReading::PCRS`].
    pub registers: BTreeMap<Pcr, Digest>,
}

impl TpmReading {
    /// The registers that say something about this system.
    pub const PCRS: [Pcr; 6] =
        [Pcr::LOADER, Pcr::SECURE_BOOT, Pcr::KERNEL, Pcr::COMMAND_LINE, Pcr::EXTENSIONS, Pcr::VOLUME];
}

/// Reads the TPM; may take seconds.
pub trait TpmSource: Send + Sync {
    /// Reads it once.
    fn read(&self) -> Result<TpmReading, TpmError>;
}

/// A TPM behind a device.
#[derive(Debug, Clone)]
pub struct DeviceTpm {
    /// The device.
    pub path: PathBuf,
}

impl TpmSource for DeviceTpm {
    fn read(&self) -> Result<TpmReading, TpmError> {
        let mut tpm = Tpm::device(&self.path)?;
        Ok(TpmReading { identity: tpm.identity()?, registers: tpm.pcrs(&TpmReading::PCRS)? })
    }
}

impl Machine {
    /// The machine that this process runs on.
    pub fn this() -> Self {
        Self::new("/", DeviceTpm { path: "/dev/tpmrm0".into() }, SystemRunner)
    }

    /// A machine whose file systems are found below `root`.
    pub fn new(root: impl Into<PathBuf>, tpm: impl TpmSource + 'static, runner: impl Runner + 'static) -> Self {
        Self { root: root.into(), tpm: Arc::new(tpm), tpm_device: "auto".to_owned(), runner: Arc::new(runner) }
    }

    /// The machine with its TPM elsewhere than where systemd finds one by itself.
    #[must_use]
    pub fn with_tpm_device(self, tpm_device: impl Into<String>) -> Self {
        Self { tpm_device: tpm_device.into(), ..self }
    }

    pub(crate) fn tpm(&self) -> Arc<dyn TpmSource> {
        Arc::clone(&self.tpm)
    }

    pub(crate) fn variables(&self) -> Variables {
        Variables::in_dir(self.root.join("sys/firmware/efi/efivars"))
    }

    /// Whether the kernel found a TPM 2.0.
    pub(crate) fn has_tpm(&self) -> bool {
        let version = fs::read_to_string(self.root.join("sys/class/tpm/tpm0/tpm_version_major"));
        version.is_ok_and(|version| version.trim() == "2")
    }

    /// Whether the TPM is a program: it has no hardware below it and the firmware
    /// measured nothing into it. What lies on the EFI system partition does not
    /// decide, as anyone with the disk in hand can write there.
    pub(crate) fn tpm_is_software(&self) -> bool {
        let device = fs::canonicalize(self.root.join("sys/class/tpm/tpm0"));
        let is_virtual = device.is_ok_and(|path| path.components().any(|part| part.as_os_str() == "virtual"));
        is_virtual && !self.event_log().exists()
    }

    /// The event log of the firmware; it does not change after the boot.
    pub(crate) fn read_event_log(&self) -> io::Result<Vec<u8>> {
        read_at_most(&self.event_log(), tpm::event_log::SIZE_LIMIT)
    }

    fn event_log(&self) -> PathBuf {
        self.root.join("sys/kernel/security/tpm0/binary_bios_measurements")
    }

    /// Block devices as the kernel lists them.
    pub(crate) fn block_devices(&self) -> PathBuf {
        self.root.join("sys/block")
    }

    /// Folder of keys, which other services write.
    pub(crate) fn keys(&self) -> PathBuf {
        self.root.join("var/lib/incus-os")
    }

    /// Folder of the Secure Boot certificates in the image: one folder per variable.
    pub(crate) fn builtin_certificates(&self) -> PathBuf {
        self.root.join("usr/share/incus-os/secureboot")
    }

    /// The TPM for programs that bind keys to it.
    pub(crate) fn tpm_device(&self) -> &str {
        &self.tpm_device
    }

    /// The key that signs the good values of PCR 11, as the stub of the running
    /// kernel image left it.
    pub(crate) fn policy_signer(&self) -> PathBuf {
        self.root.join("run/systemd/tpm2-pcr-public-key.pem")
    }

    /// File with this service's own recovery key of a volume.
    pub(crate) fn recovery_key(&self, volume: &str) -> PathBuf {
        self.keys().join(format!("recovery.{volume}.key"))
    }

    /// Name of this boot.
    pub(crate) fn boot_id(&self) -> io::Result<String> {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        Ok(String::from_utf8_lossy(&read_at_most(&path, 64)?).trim().to_owned())
    }

    /// The device file of a block device in sysfs.
    pub(crate) fn device_of(&self, block_device: &Path) -> Option<PathBuf> {
        let facts = fs::read_to_string(block_device.join("uevent")).ok()?;
        let name = facts.lines().find_map(|fact| fact.strip_prefix("DEVNAME="))?;
        Some(self.root.join("dev").join(name)).filter(|path| path.exists())
    }

    /// The block device, in sysfs, that udev found with this partition label.
    pub(crate) fn partition_by_label(&self, label: &str) -> Option<PathBuf> {
        let device = fs::canonicalize(self.root.join("dev/disk/by-partlabel").join(label)).ok()?;
        fs::canonicalize(self.root.join("sys/class/block").join(device.file_name()?)).ok()
    }

    /// Where programs look for certificate authorities.
    pub(crate) fn trust_store(&self) -> PathBuf {
        self.root.join("etc/ssl/certs")
    }

    /// The certificate authorities of the image, as it is called from the root.
    pub(crate) fn image_trust_store(&self) -> (&'static Path, PathBuf) {
        (Path::new("/usr/share/certs"), self.root.join("usr/share/certs/ca-certificates.crt"))
    }

    /// The file whose presence says that the system was in a weaker state.
    pub(crate) fn fuse(&self) -> PathBuf {
        self.root.join("etc/incusos-trusted-fuse-blown")
    }

    /// Runs a program.
    pub(crate) async fn run(&self, call: &Call) -> Result<Output, RunError> {
        self.runner.run(call).await
    }

    /// What the journal has of the unit that opened the root volume at this boot.
    pub(crate) async fn unlock_log(&self) -> Result<String, RunError> {
        let unit = "--unit=systemd-cryptsetup@root.service";
        let call = Call::new(Tool::Journalctl, ["--quiet", "--no-pager", "--boot=0", "--output=cat", unit]);
        let printed = self.run(&call).await?.success()?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Machine").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Reads a file, and refuses one that is larger than `limit` bytes.
pub(crate) fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    use io::Read as _;

    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}
