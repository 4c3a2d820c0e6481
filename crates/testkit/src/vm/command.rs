//! From a machine's record to the emulator's command line. Measured choices, one reason each.

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use super::folder::Folder;
use super::record::{Accelerator, BOOT_DISK, Disk, HOTPLUG_PORTS, Medium, Nic, Record};

/// Port of the management API inside the machine.
const GUEST_API_PORT: u16 = 9443;

/// Name of the port that the agent of the `test` flavour opens.
const AGENT_PORT: &str = "incus-os.test";

/// Name of the install medium, and of the device that it is in.
pub(crate) const MEDIUM: &str = "medium";
pub(crate) const MEDIUM_DEVICE: &str = "dev-medium";

/// What the machine does when the emulator runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Powers on.
    PowerOn,
    /// Waits to be told, before the first instruction.
    Halted,
    /// Goes on where another machine of the same make was frozen.
    Thaw(std::path::PathBuf),
}

/// The emulator's arguments.
pub(crate) fn arguments(record: &Record, folder: &Folder, firmware: &Path, begin: &Begin) -> Vec<OsString> {
    let mut list = Arguments::default();
    list.add("-name", &record.name);
    list.flag("-nodefaults");
    // SMM protects the variable store, without it Secure Boot proves nothing.
    list.add("-machine", "q35,smm=on,hpet=off,pflash0=firmware,pflash1=variables");
    list.add("-global", "driver=cfi.pflash01,property=secure,value=on");
    match record.accelerator {
        Accelerator::Emulation => {
            list.add("-accel", "tcg,thread=multi,tb-size=512");
            // Without five-level page walks and emulated vector copies a boot is 12 % faster.
            list.add("-cpu", "max,la57=off,avx=off,avx2=off");
        }
        Accelerator::Kvm => {
            list.add("-accel", "kvm");
            list.add("-cpu", "host");
        }
    }
    list.add("-smp", record.cpus);
    list.add("-m", record.memory_mib);
    // A display costs firmware and kernel seconds.
    list.add("-display", "none");
    list.add("-vga", "none");

    list.blockdev(&json!({
        "node-name": "firmware", "driver": "raw", "read-only": true,
        "file": { "driver": "file", "filename": firmware },
    }));
    list.blockdev(&block_node("variables", &folder.variables()));
    for disk in &record.disks {
        list.blockdev(&block_node(&disk.serial, &folder.disk(&disk.serial)));
    }
    // The ports come before the devices that sit in them.
    for port in 0..HOTPLUG_PORTS {
        // Fixed addresses: the same ones whatever else the machine has.
        let slot = 0x10 + port;
        list.add("-device", format!("pcie-root-port,id={},chassis={},addr={slot:#x}", port_name(port), port + 1));
    }
    for disk in &record.disks {
        let mut device = disk_device(disk);
        if disk.serial == BOOT_DISK && record.sector_size != 512 {
            device["logical_block_size"] = json!(record.sector_size);
            device["physical_block_size"] = json!(record.sector_size);
        }
        list.device(&device);
    }
    // In every machine, so that one that has lost its medium is of the same make as one that never had any.
    list.add("-device", "qemu-xhci,id=usb");
    if let Some(medium) = record.medium {
        list.blockdev(&block_node(MEDIUM, &folder.medium()));
        list.device(&medium_device(medium));
    }

    list.add("-netdev", format!("user,id=net0,hostfwd=tcp:127.0.0.1:{}-:{GUEST_API_PORT}", record.api_port));
    // No boot ROM: the firmware would look for something to boot from.
    list.add("-device", "virtio-net-pci,netdev=net0,romfile=");
    for nic in &record.nics {
        list.add("-netdev", format!("user,id={}", nic.id));
        list.device(&nic_device(nic));
    }
    list.add("-device", "virtio-rng-pci");

    if record.tpm {
        list.add("-chardev", socket("tpm", &folder.tpm_socket(), ""));
        list.add("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        list.add("-device", "tpm-crb,tpmdev=tpm0");
    }
    list.add(
        "-chardev",
        socket(
            "console",
            &folder.console_socket(),
            &format!(",server=on,wait=off,logappend=on,logfile={}", escape(&folder.console_log())),
        ),
    );
    list.add("-serial", "chardev:console");
    list.add("-device", "virtio-serial-pci");
    list.add("-chardev", socket("agent", &folder.agent_socket(), ",server=on,wait=off"));
    list.add("-device", format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
    for (id, path) in [("qmp", folder.qmp_socket()), ("control", folder.control_socket())] {
        list.add("-chardev", socket(id, &path, ",server=on,wait=off"));
        list.add("-mon", format!("chardev={id},mode=control"));
    }
    list.add("-pidfile", folder.pid().into_os_string());

    let extra = record.kernel_arguments.join(" ");
    if !extra.is_empty() {
        list.add("-smbios", format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={}", extra.replace(',', ",,")));
    }
    match begin {
        Begin::PowerOn => {}
        Begin::Halted => list.flag("-S"),
        Begin::Thaw(state) => {
            let mut uri = OsString::from("file:");
            uri.push(state);
            list.add("-incoming", uri);
        }
    }
    list.0
}

/// A disk file as the emulator opens it.
pub(crate) fn block_node(name: &str, file: &Path) -> Value {
    json!({
        "node-name": name, "driver": "qcow2", "discard": "unmap",
        // The host's cache outlives the emulator, and nothing here outlives the host: waiting for
        // its disks would only make tests slow.
        "cache": { "no-flush": true },
        "file": {
            "driver": "file", "filename": file, "discard": "unmap",
            "cache": { "no-flush": true },
        },
    })
}

/// The device for a disk.
pub(crate) fn disk_device(disk: &Disk) -> Value {
    let mut device = json!({
        "driver": "virtio-blk-pci", "id": format!("dev-{}", disk.serial),
        "drive": disk.serial, "serial": disk.serial,
    });
    if disk.serial == BOOT_DISK {
        device["bootindex"] = json!(1);
    }
    if let Some(port) = disk.port {
        device["bus"] = json!(port_name(port));
    }
    device
}

/// The device for the install medium. The firmware tries it after the boot disk.
fn medium_device(medium: Medium) -> Value {
    let device = match medium {
        Medium::Usb => json!({ "driver": "usb-storage", "bus": "usb.0", "removable": true, "serial": MEDIUM }),
        Medium::CdRom => json!({ "driver": "ide-cd", "bus": "ide.0", "serial": MEDIUM }),
        Medium::Sata => json!({ "driver": "ide-hd", "bus": "ide.0", "serial": MEDIUM }),
        Medium::Nvme => json!({ "driver": "nvme", "serial": MEDIUM }),
    };
    let mut device = device;
    device["id"] = json!(MEDIUM_DEVICE);
    device["drive"] = json!(MEDIUM);
    device["bootindex"] = json!(2);
    device
}

/// The device for a further network interface.
pub(crate) fn nic_device(nic: &Nic) -> Value {
    json!({
        "driver": "virtio-net-pci", "id": format!("dev-{}", nic.id), "netdev": nic.id,
        "mac": nic.mac, "romfile": "", "bus": port_name(nic.port),
    })
}

fn port_name(port: u8) -> String {
    format!("port{port}")
}

fn socket(id: &str, path: &Path, rest: &str) -> String {
    format!("socket,id={id},path={}{rest}", escape(path))
}

/// A comma ends a value on the emulator's command line, two of them are one.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl IntoArgument) {
        self.0.push(option.into());
        self.0.push(value.into_argument());
    }

    fn flag(&mut self, option: &str) {
        self.0.push(option.into());
    }

    fn blockdev(&mut self, node: &Value) {
        self.add("-blockdev", node.to_string());
    }

    fn device(&mut self, device: &Value) {
        self.add("-device", device.to_string());
    }
}

trait IntoArgument {
    fn into_argument(self) -> OsString;
}

impl IntoArgument for OsString {
    fn into_argument(self) -> OsString {
        self
    }
}

macro_rules! text_arguments {
    ($($kind:ty),*) => {
        $(impl IntoArgument for $kind {
            fn into_argument(self) -> OsString {
                self.to_string().into()
            }
        })*
    };
}

text_arguments!(&str, &String, String, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            name: "a".to_owned(),
            os_name: "IncusOS".to_owned(),
            os_version: "202601010000".to_owned(),
            api_port: 4321,
            memory_mib: 2048,
            cpus: 2,
            disks: vec![
                Disk { serial: BOOT_DISK.to_owned(), port: None },
                Disk { serial: "disk1".to_owned(), port: Some(1) },
            ],
            nics: Vec::new(),
            tpm: true,
            kernel_arguments: vec!["b".to_owned(), "a=1,2".to_owned()],
            sector_size: 512,
            medium: None,
            accelerator: Accelerator::Emulation,
        }
    }

    fn line(record: &Record, begin: &Begin) -> String {
        arguments(record, &Folder::at("/vms/x,y"), Path::new("/fw"), begin)
            .iter()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn commas_in_paths_and_values_do_not_split_them() {
        let line = line(&record(), &Begin::PowerOn);
        assert!(line.contains("path=/vms/x,,y/control.sock,server=on"), "{line}");
        assert!(line.contains("kernel-cmdline-extra=b a=1,,2"), "{line}");
        assert!(line.contains(r#""filename":"/vms/x,y/disk0.qcow2""#), "{line}");
    }

    #[test]
    fn attached_disk_stays_in_its_port_and_only_the_first_is_booted() {
        let record = record();
        let line = line(&record, &Begin::PowerOn);
        assert!(line.contains(r#""serial":"disk1","bus":"port1""#), "{line}");
        assert_eq!(line.matches("bootindex").count(), 1);
        assert_eq!(record.free_port(), Some(0));
    }

    #[test]
    fn thawed_machine_reads_the_frozen_state() {
        let line = line(&record(), &Begin::Thaw("/base/state.bin".into()));
        assert!(line.ends_with("-incoming file:/base/state.bin"), "{line}");
    }

    #[test]
    fn install_medium_is_tried_after_the_boot_disk() {
        for (medium, driver) in [(Medium::Usb, "usb-storage"), (Medium::CdRom, "ide-cd"), (Medium::Nvme, "nvme")] {
            let line = line(&Record { medium: Some(medium), sector_size: 4096, ..record() }, &Begin::PowerOn);
            assert!(line.contains(&format!(r#""driver":"{driver}""#)), "{line}");
            assert!(line.contains(r#""bootindex":2"#) && line.contains(r#""logical_block_size":4096"#), "{line}");
        }
    }

    #[test]
    fn machine_without_tpm_and_additions_gets_neither_argument() {
        let mut record = record();
        record.tpm = false;
        record.kernel_arguments.clear();
        let line = line(&record, &Begin::PowerOn);
        assert!(!line.contains("tpm") && !line.contains("smbios"), "{line}");
    }
}
