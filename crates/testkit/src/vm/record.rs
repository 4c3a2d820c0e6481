//! What a machine is made of.

use serde::{Deserialize, Serialize};

/// Serial number of the disk that the machine boots from.
pub const BOOT_DISK: &str = "disk0";

/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// What a machine shall be made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Memory in mebibytes.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// Size of the boot disk in bytes. The system refuses less than 50 GiB; only what is written
    /// takes space.
    pub disk_size: u64,
    /// Sizes of further disks, empty ones, with the serial numbers `disk1`, `disk2` and so on.
    pub extra_disks: Vec<u64>,
    /// Whether the firmware knows our keys already.
    pub keys: Keys,
    /// Whether there is a TPM.
    pub tpm: bool,
    /// Added to the signed kernel command line as it is. Changes PCR 12.
    pub kernel_arguments: Vec<String>,
    /// Bytes per logical sector of the boot disk.
    pub sector_size: u32,
    /// How the image comes to the machine; `None` when it is on the boot disk already.
    pub medium: Option<Medium>,
    /// How its instructions are carried out.
    pub accelerator: Accelerator,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            memory_mib: 2048,
            cpus: 2,
            disk_size: 64 * GIB,
            extra_disks: Vec::new(),
            keys: Keys::Enrolled,
            tpm: true,
            kernel_arguments: Vec::new(),
            sector_size: 512,
            medium: None,
            accelerator: Accelerator::Emulation,
        }
    }
}

/// State of the firmware's Secure Boot keys at first power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keys {
    /// Ours are in, Secure Boot is on.
    Enrolled,
    /// None: the boot loader enrols those on the medium and restarts the machine.
    SetupMode,
}

/// What an install medium is to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// A USB stick.
    Usb,
    /// A CD-ROM.
    CdRom,
    /// A SATA drive.
    Sata,
    /// An NVMe drive.
    Nvme,
}

/// How instructions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// In software, everywhere.
    Emulation,
    /// By the processor, where that works; a `/dev/kvm` alone proves nothing.
    Kvm,
}

/// One disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Serial number, seen in the machine as `/dev/disk/by-id/virtio-<serial>`.
    pub serial: String,
    /// Hot-plug port when it was attached to a running machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u8>,
}

/// One network interface beside the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name for detaching it.
    pub id: String,
    /// Hardware address.
    pub mac: String,
    /// Hot-plug port that it sits in.
    pub port: u8,
}

/// A machine as it stands in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name, also of its folder.
    pub name: String,
    /// System on the boot disk when it was created.
    pub os_name: String,
    /// Its version then.
    pub os_version: String,
    /// Port on this host's loopback that leads to the management API.
    pub api_port: u16,
    /// Memory in mebibytes.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// All disks, the boot disk first.
    pub disks: Vec<Disk>,
    /// Network interfaces beside the first.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Whether there is a TPM.
    pub tpm: bool,
    /// Added to the signed kernel command line as it is.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Bytes per logical sector of the boot disk.
    pub sector_size: u32,
    /// The install medium that is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// How its instructions are carried out.
    pub accelerator: Accelerator,
}

impl Record {
    /// The lowest hot-plug port that nothing sits in.
    pub(crate) fn free_port(&self) -> Option<u8> {
        (0..HOTPLUG_PORTS).find(|port| {
            self.disks.iter().all(|disk| disk.port != Some(*port)) && self.nics.iter().all(|nic| nic.port != *port)
        })
    }
}

/// Devices that can be attached to a running machine, all kinds together.
pub(crate) const HOTPLUG_PORTS: u8 = 4;
