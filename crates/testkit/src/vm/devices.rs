//! What a machine has and loses: disks and network interfaces while it runs, the TPM and what
//! firmware hands over while it is off.

use std::fs;

use serde_json::json;

use super::record::{Disk, Medium, Nic};
use super::{MOMENT, Vm, VmError, command, file_error, path_text};

impl Vm {
    /// Attaches a new, empty disk while the machine runs, and gives its serial number.
    ///
    /// # Errors
    ///
    /// When it does not run or has no free port.
    pub fn attach_disk(&mut self, size: u64) -> Result<String, VmError> {
        let port = self.free_port()?;
        let number = (1_u32..)
            .find(|number| {
                let serial = format!("disk{number}");
                self.record.disks.iter().all(|disk| disk.serial != serial)
            })
            .unwrap_or_default();
        let disk = Disk { serial: format!("disk{number}"), port: Some(port) };
        let file = self.folder.disk(&disk.serial);
        self.qemu_img(&["create", "-q", "-f", "qcow2", &path_text(&file), &size.to_string()])?;
        self.execute("blockdev-add", command::block_node(&disk.serial, &file))?;
        self.execute("device_add", command::disk_device(&disk))?;
        let serial = disk.serial.clone();
        self.record.disks.push(disk);
        self.save_record()?;
        Ok(serial)
    }

    /// Takes an attached disk away and deletes it; the machine must let go of it first.
    ///
    /// # Errors
    ///
    /// When there is none of that serial number, or the machine holds on to it.
    pub fn detach_disk(&mut self, serial: &str) -> Result<(), VmError> {
        let known = |disk: &Disk| disk.serial == serial && disk.port.is_some();
        if !self.record.disks.iter().any(known) {
            return Err(self.no_device(serial));
        }
        self.unplug(&format!("dev-{serial}"))?;
        self.execute("blockdev-del", json!({ "node-name": serial }))?;
        self.record.disks.retain(|disk| !known(disk));
        self.save_record()?;
        let file = self.folder.disk(serial);
        fs::remove_file(&file).map_err(file_error(&file))
    }

    /// Takes the install medium out, whether it runs or not: pulls the stick, or opens the tray.
    ///
    /// # Errors
    ///
    /// When there is none, or it runs and the medium is a drive that cannot be pulled.
    pub fn remove_medium(&mut self) -> Result<(), VmError> {
        let Some(medium) = self.record.medium else { return Err(self.no_device(command::MEDIUM)) };
        if self.is_running() {
            match medium {
                Medium::Usb => self.unplug(command::MEDIUM_DEVICE)?,
                Medium::CdRom => {
                    let tray = json!({ "id": command::MEDIUM_DEVICE, "force": true });
                    self.execute("blockdev-open-tray", tray)?;
                    self.execute("blockdev-remove-medium", json!({ "id": command::MEDIUM_DEVICE }))?;
                    // The tray stays, and a machine that is started again has it without a medium.
                    return Ok(());
                }
                Medium::Sata | Medium::Nvme => return Err(self.no_device(command::MEDIUM_DEVICE)),
            }
            self.execute("blockdev-del", json!({ "node-name": command::MEDIUM }))?;
        }
        self.record.medium = None;
        self.save_record()
    }

    /// Attaches a network interface, on a network of its own, while the machine runs.
    ///
    /// # Errors
    ///
    /// When it does not run, has no free port, or has an interface of that name.
    pub fn attach_nic(&mut self, id: &str, mac: &str) -> Result<(), VmError> {
        let port = self.free_port()?;
        let nic = Nic { id: id.to_owned(), mac: mac.to_owned(), port };
        self.execute("netdev_add", json!({ "type": "user", "id": id }))?;
        self.execute("device_add", command::nic_device(&nic))?;
        self.record.nics.push(nic);
        self.save_record()
    }

    /// Takes an attached network interface away.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn detach_nic(&mut self, id: &str) -> Result<(), VmError> {
        if !self.record.nics.iter().any(|nic| nic.id == id) {
            return Err(self.no_device(id));
        }
        self.unplug(&format!("dev-{id}"))?;
        self.execute("netdev_del", json!({ "id": id }))?;
        self.record.nics.retain(|nic| nic.id != id);
        self.save_record()
    }

    /// Takes the TPM out of a stopped machine, or puts it back in with the state it had.
    ///
    /// # Errors
    ///
    /// When it runs: no machine loses its TPM while it is on.
    pub fn set_tpm(&mut self, present: bool) -> Result<(), VmError> {
        self.must_be_off()?;
        self.record.tpm = present;
        self.save_record()
    }

    /// Has these words added to the kernel's command line from the next start on, by firmware
    /// tables: what anyone can do who has the machine in hand.
    ///
    /// # Errors
    ///
    /// When it runs.
    pub fn set_kernel_arguments(&mut self, words: &[&str]) -> Result<(), VmError> {
        self.must_be_off()?;
        self.record.kernel_arguments = words.iter().map(|&word| word.to_owned()).collect();
        self.save_record()
    }

    /// Gives a stopped machine a TPM that has never seen it, as a new mainboard does.
    ///
    /// # Errors
    ///
    /// When it runs.
    pub fn replace_tpm(&mut self) -> Result<(), VmError> {
        self.must_be_off()?;
        let state = self.folder.tpm();
        fs::remove_dir_all(&state).map_err(file_error(&state))?;
        self.make_tpm()
    }

    fn unplug(&mut self, device: &str) -> Result<(), VmError> {
        self.execute("device_del", json!({ "id": device }))?;
        let name = self.record.name.clone();
        self.control()?
            .wait_event(&format!("`{device}` to be let go"), MOMENT, |event| {
                event.name == "DEVICE_DELETED" && event.data["device"] == device
            })
            .map(drop)
            .map_err(|source| VmError::Emulator { name, source })
    }

    fn no_device(&self, device: &str) -> VmError {
        VmError::NoDevice { name: self.record.name.clone(), device: device.to_owned() }
    }

    fn free_port(&self) -> Result<u8, VmError> {
        self.record.free_port().ok_or_else(|| VmError::NoPort { name: self.record.name.clone() })
    }
}
