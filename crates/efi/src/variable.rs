use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::Guid;

const GLOBAL: Guid = Guid::new(0x8be4df61, 0x93ca, 0x11d2, 0xaa0d, 0x00e098032b8c);
const IMAGE_SECURITY: Guid = Guid::new(0xd719b2cb, 0x3d3a, 0x4596, 0xa3bc, 0xdad00e67656f);
const LOADER: Guid = Guid::new(0x4a67b082, 0x0a4c, 0x41cf, 0xb6c7, 0x440b29bb8c4f);
const INCUS_OS: Guid = Guid::new(0x12f075e0, 0x2d07, 0x493d, 0x811a, 0x00920a72c04c);

/// Most that is read of one variable. Firmware limits them to far less.
const SIZE_LIMIT: u64 = 1 << 20;

/// The variables that this system knows. Other names cannot be asked for, so
/// text from outside never becomes a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variable {
    /// Whether Secure Boot is enforced.
    SecureBoot,
    /// Whether the firmware accepts a platform key from anyone.
    SetupMode,
    /// Whether the keys are frozen.
    DeployedMode,
    /// Whether unsigned images run and are only noted.
    AuditMode,
    /// The platform key.
    Pk,
    /// The keys that may change `db` and `dbx`.
    Kek,
    /// What may boot.
    Db,
    /// What must not boot.
    Dbx,
    /// Entry that the boot loader started.
    LoaderEntrySelected,
    /// Entries that the boot loader found.
    LoaderEntries,
    /// GUID of the EFI system partition that the boot loader came from.
    LoaderDevicePartUuid,
    /// How the root volume was unlocked at this boot; written in the initrd.
    TpmState,
    /// Set from the end of an installation to the first boot of its result.
    InstallComplete,
}

impl Variable {
    /// Every known variable.
    pub const ALL: [Self; 13] = [
        Self::SecureBoot,
        Self::SetupMode,
        Self::DeployedMode,
        Self::AuditMode,
        Self::Pk,
        Self::Kek,
        Self::Db,
        Self::Dbx,
        Self::LoaderEntrySelected,
        Self::LoaderEntries,
        Self::LoaderDevicePartUuid,
        Self::TpmState,
        Self::InstallComplete,
    ];

    /// Its name in the firmware.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SecureBoot => "SecureBoot",
            Self::SetupMode => "SetupMode",
            Self::DeployedMode => "DeployedMode",
            Self::AuditMode => "AuditMode",
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
            Self::Dbx => "dbx",
            Self::LoaderEntrySelected => "LoaderEntrySelected",
            Self::LoaderEntries => "LoaderEntries",
            Self::LoaderDevicePartUuid => "LoaderDevicePartUUID",
            Self::TpmState => "IncusOSTPMState",
            Self::InstallComplete => "IncusOSInstallComplete",
        }
    }

    /// Its vendor in the firmware.
    pub const fn vendor(self) -> Guid {
        match self {
            Self::SecureBoot | Self::SetupMode | Self::DeployedMode | Self::AuditMode | Self::Pk | Self::Kek => GLOBAL,
            Self::Db | Self::Dbx => IMAGE_SECURITY,
            Self::LoaderEntrySelected | Self::LoaderEntries | Self::LoaderDevicePartUuid => LOADER,
            Self::TpmState | Self::InstallComplete => INCUS_OS,
        }
    }

    /// The known variable of this name and vendor.
    pub fn find(name: &str, vendor: Guid) -> Option<Self> {
        Self::ALL.into_iter().find(|variable| variable.name() == name && variable.vendor() == vendor)
    }
}

/// Content of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Where it is visible and whether it survives a reset: the flags of `SetVariable()`.
    pub attributes: u32,
    /// What it holds.
    pub data: Vec<u8>,
}

/// Changes whenever a variable is written through the kernel. Much cheaper to
/// get than the content: that is a call into the firmware, and the kernel lets
/// a user make a hundred of them per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Option<(u64, u64, i64, i64)>);

/// Why a variable could not be read. Being absent is no reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VariableError {
    /// The kernel did not hand it out.
    #[error("cannot read EFI variable {name}")]
    Read {
        /// The variable.
        name: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is larger than any firmware allows.
    #[error("EFI variable {name} is larger than {SIZE_LIMIT} bytes")]
    TooLarge {
        /// The variable.
        name: &'static str,
    },
    /// The kernel or the firmware did not take it.
    #[error("cannot change EFI variable {name}")]
    Change {
        /// The variable.
        name: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is shorter than its own header.
    #[error("EFI variable {name} is cut off")]
    CutOff {
        /// The variable.
        name: &'static str,
    },
}

/// The variables of this machine's firmware.
#[derive(Debug, Clone)]
pub struct Variables {
    root: PathBuf,
}

impl Variables {
    /// The variables in this folder, `/sys/firmware/efi/efivars` on a machine.
    pub fn in_dir(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Content of a variable; `None` when there is none, or no EFI at all.
    pub fn read(&self, variable: Variable) -> Result<Option<Value>, VariableError> {
        let name = variable.name();
        let failed = |source| VariableError::Read { name, source };
        let file = match File::open(self.path(variable)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut bytes = Vec::new();
        file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(VariableError::TooLarge { name });
        }
        // A variable whose creation failed half way reads as an empty file.
        if bytes.is_empty() {
            return Ok(None);
        }
        let (attributes, data) = bytes.split_first_chunk::<4>().ok_or(VariableError::CutOff { name })?;
        Ok(Some(Value { attributes: u32::from_le_bytes(*attributes), data: data.to_vec() }))
    }

    /// Creates or replaces a variable.
    ///
    /// # Errors
    ///
    /// When the firmware does not take it.
    pub fn write(&self, variable: Variable, value: &Value) -> Result<(), VariableError> {
        let failed = |source| VariableError::Change { name: variable.name(), source };
        self.unlock(variable);
        // The kernel takes attributes and data in one write, or not at all.
        let bytes = [&value.attributes.to_le_bytes()[..], &value.data].concat();
        let mut file = File::create(self.path(variable)).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)
    }

    /// Removes a variable; that there is none is fine.
    ///
    /// # Errors
    ///
    /// When the firmware keeps it.
    pub fn remove(&self, variable: Variable) -> Result<(), VariableError> {
        self.unlock(variable);
        match fs::remove_file(self.path(variable)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(VariableError::Change { name: variable.name(), source })
            }
            _ => Ok(()),
        }
    }

    /// Variables are immutable files, so that nobody removes one by accident.
    /// What fails here fails again, and better explained, when the file is changed.
    fn unlock(&self, variable: Variable) {
        if let Ok(file) = File::open(self.path(variable))
            && let Ok(flags) = ioctl_getflags(&file)
        {
            let _ = ioctl_setflags(&file, flags - IFlags::IMMUTABLE);
        }
    }

    /// Whether a one-byte switch such as `SecureBoot` is on.
    pub fn is_on(&self, switch: Variable) -> Result<bool, VariableError> {
        Ok(self.read(switch)?.is_some_and(|value| value.data.first() == Some(&1)))
    }

    /// What tells one content of a variable from the next.
    pub fn stamp(&self, variable: Variable) -> Stamp {
        Stamp(
            fs::metadata(self.path(variable))
                .ok()
                .map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec())),
        )
    }

    fn path(&self, variable: Variable) -> PathBuf {
        self.root.join(format!("{}-{}", variable.name(), variable.vendor()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_no_part_of_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        fs::write(path, [6, 0, 0, 0, 1]).unwrap();
        let variables = Variables::in_dir(dir.path());
        assert_eq!(variables.read(Variable::SecureBoot).unwrap(), Some(Value { attributes: 6, data: vec![1] }));
        assert!(variables.is_on(Variable::SecureBoot).unwrap());
    }

    #[test]
    fn a_missing_or_unborn_variable_is_absent_and_off() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f"), []).unwrap();
        let variables = Variables::in_dir(dir.path());
        assert_eq!(variables.read(Variable::Pk).unwrap(), None);
        assert_eq!(variables.read(Variable::Dbx).unwrap(), None);
        assert!(!variables.is_on(Variable::AuditMode).unwrap());
        assert_eq!(Variables::in_dir("/nonexistent").read(Variable::Pk).unwrap(), None);
    }

    #[test]
    fn a_cut_off_and_an_oversized_variable_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"), [7, 0, 0]).unwrap();
        fs::write(dir.path().join("dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f"), vec![0; (1 << 20) + 5]).unwrap();
        let variables = Variables::in_dir(dir.path());
        assert!(matches!(variables.read(Variable::Db), Err(VariableError::CutOff { name: "db" })));
        assert!(matches!(variables.read(Variable::Dbx), Err(VariableError::TooLarge { name: "dbx" })));
    }

    #[test]
    fn variables_are_written_with_their_attributes_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::in_dir(dir.path());
        let value = Value { attributes: 7, data: vec![0; 4] };
        for _ in 0..2 {
            variables.write(Variable::InstallComplete, &value).unwrap();
            assert_eq!(variables.read(Variable::InstallComplete).unwrap(), Some(value.clone()));
        }
        for _ in 0..2 {
            variables.remove(Variable::InstallComplete).unwrap();
            assert_eq!(variables.read(Variable::InstallComplete).unwrap(), None);
        }
        let nowhere = Variables::in_dir("/nonexistent");
        assert!(matches!(nowhere.write(Variable::TpmState, &value), Err(VariableError::Change { .. })));
    }

    #[test]
    fn a_stamp_changes_with_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::in_dir(dir.path());
        let absent = variables.stamp(Variable::Db);
        let path = variables.path(Variable::Db);
        fs::write(&path, [7, 0, 0, 0]).unwrap();
        let empty = variables.stamp(Variable::Db);
        fs::write(&path, [7, 0, 0, 0, 1]).unwrap();
        assert_ne!(absent, empty);
        assert_ne!(empty, variables.stamp(Variable::Db));
        assert_eq!(variables.stamp(Variable::Db), variables.stamp(Variable::Db));
    }

    #[test]
    fn variables_are_found_by_name_and_vendor() {
        for variable in Variable::ALL {
            assert_eq!(Variable::find(variable.name(), variable.vendor()), Some(variable));
        }
        assert_eq!(Variable::find("db", GLOBAL), None);
    }
}
