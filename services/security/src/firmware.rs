//! What the firmware's variables say: Secure Boot, its keys, and how the root
//! volume was opened. Reading a variable is a call into the firmware, so it is
//! repeated only after one of them changed.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use api::v1::{BuiltinCertificates, SecureBootCertificate};
use efi::{Certificate, Stamp, Value, Variable, Variables, certificates_in_pem, signature_list};
use tpm::Digest;

use crate::{
    machine::{Machine, read_at_most},
    measurements::{Measurements, Replayed},
    volumes::Unlock,
};

/// The variables that hold certificates, in the order of the API.
const KEYS: [Variable; 4] = [Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx];

/// The variables whose change asks for another look.
const WATCHED: [Variable; 6] =
    [Variable::SecureBoot, Variable::Pk, Variable::Kek, Variable::Db, Variable::Dbx, Variable::TpmState];

/// Largest file of built-in certificates.
const PEM_LIMIT: usize = 64 << 10;

/// What the variables say.
#[derive(Debug)]
pub(crate) struct Firmware {
    pub(crate) secure_boot: bool,
    pub(crate) certificates: Vec<SecureBootCertificate>,
    /// How the initrd opened the root volume; `None` when it did not say.
    pub(crate) unlock: Option<Unlock>,
    /// PCR 7 with the current variables; `None` without event log.
    pub(crate) predicted: Option<Digest>,
}

/// The last look at the firmware.
#[derive(Debug, Default)]
pub(crate) struct FirmwareCache {
    last: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Look {
    stamps: Vec<Stamp>,
    log_was_known: bool,
    firmware: Arc<Firmware>,
}

impl FirmwareCache {
    /// What the variables say now.
    pub(crate) fn get(&self, machine: &Machine, measurements: &Measurements) -> Arc<Firmware> {
        let variables = machine.variables();
        let stamps: Vec<_> = WATCHED.iter().map(|variable| variables.stamp(*variable)).collect();
        let log_is_known = measurements.log.is_some();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(look) if look.stamps == stamps && look.log_was_known == log_is_known => Arc::clone(&look.firmware),
            _ => {
                let firmware = Arc::new(read(machine, &variables, measurements.log.as_deref()));
                *last = Some(Look { stamps, log_was_known: log_is_known, firmware: Arc::clone(&firmware) });
                firmware
            }
        }
    }
}

fn read(machine: &Machine, variables: &Variables, log: Option<&Replayed>) -> Firmware {
    let secure_boot = value(variables, Variable::SecureBoot).is_some_and(|value| value.data.first() == Some(&1));
    let certificates = if secure_boot { enrolled(variables) } else { shown_builtin(machine) };
    let unlock = value(variables, Variable::TpmState).map(|value| Unlock::from_variable(&value.data));
    let predicted = log.map(|log| log.prediction.value(|variable| current(variables, variable)));
    Firmware { secure_boot, certificates, unlock, predicted }
}

/// A variable's content; one that cannot be read counts as absent, loudly.
fn value(variables: &Variables, variable: Variable) -> Option<Value> {
    variables.read(variable).inspect_err(warn).ok().flatten()
}

/// Content for the prediction: empty when absent, `None` when unreadable.
fn current(variables: &Variables, variable: Variable) -> Option<Vec<u8>> {
    let read = variables.read(variable).inspect_err(warn).ok()?;
    Some(read.map(|value| value.data).unwrap_or_default())
}

fn warn(error: &efi::VariableError) {
    tracing::warn!("{}", causes::chain(error));
}

fn enrolled(variables: &Variables) -> Vec<SecureBootCertificate> {
    let mut certificates = Vec::new();
    for variable in KEYS {
        let Some(value) = value(variables, variable) else { continue };
        match signature_list::parse(&value.data) {
            Ok(signatures) => certificates.extend(
                signatures
                    .iter()
                    .filter(|signature| signature.kind == signature_list::Kind::X509)
                    .filter_map(|signature| shown(variable, signature.data)),
            ),
            Err(error) => tracing::warn!("EFI variable {}: {error}", variable.name()),
        }
    }
    certificates
}

fn shown_builtin(machine: &Machine) -> Vec<SecureBootCertificate> {
    let mut certificates = Vec::new();
    for variable in KEYS {
        for pem in pem_files(&machine.builtin_certificates().join(variable.name())) {
            match certificates_in_pem(pem.as_bytes()) {
                Ok(ders) => certificates.extend(ders.iter().filter_map(|der| shown(variable, der))),
                Err(error) => tracing::warn!("built-in certificates for {}: {error}", variable.name()),
            }
        }
    }
    certificates
}

fn shown(variable: Variable, der: &[u8]) -> Option<SecureBootCertificate> {
    let Certificate { fingerprint, subject, issuer } = Certificate::from_der(der)
        .inspect_err(|error| tracing::warn!("a certificate for {} is skipped: {error}", variable.name()))
        .ok()?;
    Some(SecureBootCertificate { r#type: variable.name().to_owned(), fingerprint, subject, issuer })
}

/// The certificates built into the image, as PEM.
pub(crate) fn builtin(machine: &Machine) -> BuiltinCertificates {
    let of = |variable: Variable| pem_files(&machine.builtin_certificates().join(variable.name()));
    BuiltinCertificates {
        pk: of(Variable::Pk).into_iter().next().unwrap_or_default(),
        kek: of(Variable::Kek),
        db: of(Variable::Db),
        dbx: of(Variable::Dbx),
    }
}

/// The PEM files of a folder, by name; a missing folder has none.
fn pem_files(folder: &Path) -> Vec<String> {
    let mut paths: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("cannot list `{}`: {error}", folder.display());
            return Vec::new();
        }
    };
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "pem"));
    paths.sort();
    paths
        .iter()
        .filter_map(|path| {
            read_at_most(path, PEM_LIMIT)
                .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
                .inspect_err(|error| tracing::warn!("cannot read `{}`: {error}", path.display()))
                .ok()
        })
        .collect()
}
