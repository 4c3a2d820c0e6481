//! The parts of a new machine.

use std::fs;

use crate::identity::Identity;
use crate::image::Image;
use crate::seed::Seed;

use super::record::{BOOT_DISK, Medium, Spec};
use super::{Vm, VmError, file_error, firmware, path_text};

impl Vm {
    pub(super) fn make_parts(
        &self,
        spec: &Spec,
        image: &Image,
        seed: &Seed,
        administrator: &Identity,
    ) -> Result<(), VmError> {
        let boot_disk = path_text(&self.folder.disk(BOOT_DISK));
        let raw = path_text(if spec.medium == Some(Medium::CdRom) { &image.iso_image } else { &image.disk_image });
        match spec.medium {
            None => {
                self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &boot_disk])?;
                self.qemu_img(&["resize", "-q", &boot_disk, &spec.disk_size.to_string()])?;
                self.write_seed(seed, &format!("{BOOT_DISK}.qcow2"))?;
            }
            Some(_) => {
                self.qemu_img(&["create", "-q", "-f", "qcow2", &boot_disk, &spec.disk_size.to_string()])?;
                let medium = path_text(&self.folder.medium());
                self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &medium])?;
                self.write_seed(seed, "medium.qcow2")?;
            }
        }
        for (disk, size) in self.record.disks.iter().skip(1).zip(&spec.extra_disks) {
            let file = path_text(&self.folder.disk(&disk.serial));
            self.qemu_img(&["create", "-q", "-f", "qcow2", &file, &size.to_string()])?;
        }

        let template = firmware::variables(spec.keys, image);
        let variables = path_text(&self.folder.variables());
        self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &path_text(&template), &variables])?;
        if spec.tpm {
            self.make_tpm()?;
        }
        administrator
            .save(&self.folder.client_cert(), &self.folder.client_key())
            .map_err(|source| VmError::Identity { name: self.record.name.clone(), source })?;
        // Last, because a folder with a record is a machine.
        self.save_record()
    }

    pub(super) fn write_seed(&self, seed: &Seed, disk: &str) -> Result<(), VmError> {
        let path = self.folder.seed();
        let bytes = seed.to_tar().map_err(file_error(&path))?;
        if bytes.len() as u64 > media::SEED_SIZE {
            return Err(VmError::SeedTooLarge { size: bytes.len() as u64 });
        }
        fs::write(&path, &bytes).map_err(file_error(&path))?;
        // Names relative to the folder: this program splits its commands at spaces.
        let write = format!("write -q -s seed.tar {} {}", media::SEED_OFFSET, bytes.len());
        self.run("qemu-io", &["-f", "qcow2", "-c", &write, disk])
    }

    pub(super) fn make_tpm(&self) -> Result<(), VmError> {
        let state = self.folder.tpm();
        fs::create_dir_all(&state).map_err(file_error(&state))?;
        // One bank: the firmware measures into each active one, and the system binds to this one.
        let state = path_text(&state);
        let arguments = ["--tpm2", "--tpmstate", &state, "--pcr-banks", "sha256", "--overwrite"];
        self.run("swtpm_setup", &arguments)
    }

    pub(super) fn qemu_img(&self, arguments: &[&str]) -> Result<(), VmError> {
        self.run("qemu-img", arguments)
    }
}
