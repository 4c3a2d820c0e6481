//! Machines frozen while they ran, as moulds for any number of equal ones.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;

use super::command::Begin;
use super::folder::Folder;
use super::record::Record;
use super::{MOMENT, Store, Vm, VmError, file_error, free_port, load_record, path_text};
use crate::process::Lifetime;
use crate::wait::wait_for;

/// A machine that was stopped in the middle of its work. Its files are never written again: each
/// machine thawed from it has layers of its own above them, about 3 MB at first.
#[derive(Clone, Debug)]
pub struct Frozen {
    folder: Folder,
    record: Record,
}

impl Frozen {
    pub(super) fn new(folder: Folder, record: Record) -> Self {
        Self { folder, record }
    }

    /// The frozen machine in a folder, if there is a complete one.
    ///
    /// # Errors
    ///
    /// When its record is broken.
    pub fn open(path: &Path) -> Result<Option<Self>, VmError> {
        let folder = Folder::at(path);
        if !folder.frozen_state().is_file() || !folder.record().is_file() {
            return Ok(None);
        }
        let record = load_record(&folder)?;
        Ok(Some(Self { folder, record }))
    }

    /// What it and all thawed from it are made of.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Makes a machine that goes on where this one stopped.
    ///
    /// Its API answers on a port of its own. Its clock goes on from the time of freezing; its TPM
    /// has the state of then, although it is another one.
    ///
    /// # Errors
    ///
    /// When the name is taken or the emulator refuses the state.
    pub fn thaw(&self, store: &Store, name: &str, lifetime: Lifetime) -> Result<Vm, VmError> {
        let folder = store.new_folder(name)?;
        let record = Record { name: name.to_owned(), api_port: free_port(&folder)?, ..self.record.clone() };
        let mut vm = Vm::new(folder, record);
        for disk in &self.record.disks {
            vm.layer(&self.folder.disk(&disk.serial), &vm.folder.disk(&disk.serial))?;
        }
        vm.layer(&self.folder.variables(), &vm.folder.variables())?;
        let files = [
            (self.folder.client_cert(), vm.folder.client_cert()),
            (self.folder.client_key(), vm.folder.client_key()),
            (self.folder.server_cert(), vm.folder.server_cert()),
        ];
        for (from, to) in files {
            match fs::copy(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error(&from)(error));
                }
                _ => {}
            }
        }
        vm.save_record()?;
        vm.begin(lifetime, &Begin::Thaw(self.folder.frozen_state()))?;
        vm.wait_thawed()?;
        vm.execute("cont", json!({}))?;
        Ok(vm)
    }
}

impl Vm {
    /// A disk that shows `base` and keeps what is written to itself.
    fn layer(&self, base: &Path, layer: &Path) -> Result<(), VmError> {
        let (base, layer) = (path_text(base), path_text(layer));
        self.qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &layer])
    }

    fn wait_thawed(&mut self) -> Result<(), VmError> {
        let outcome = wait_for("the frozen state to be read", MOMENT, || {
            if let Some(error) = self.ended_child() {
                return Ok(Err(error));
            }
            match self.execute("query-status", json!({})) {
                Ok(answer) if answer["status"] == "inmigrate" => Err("it is being read".to_owned()),
                Ok(_) => Ok(Ok(())),
                Err(error) => Ok(Err(self.ended_child().unwrap_or(error))),
            }
        });
        outcome.map_err(self.wait_error())?
    }
}
