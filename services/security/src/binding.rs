//! What the volumes are to be bound to: the conditions under which the TPM
//! releases their keys.
//!
//! PCR 7 (keys and state of Secure Boot) has one value. PCR 15 must be untouched,
//! which it is only in the initrd before the root volume is open: no later program
//! gets a key, nor a system on another root volume. PCR 12 and 13 must be untouched:
//! nobody added to the signed command line, passed credentials or extended the
//! initrd. PCR 4 (the programs that were started) counts where Secure Boot does not.
//! The good values of PCR 11 are signed, so that an update needs no new binding.

use std::collections::BTreeMap;

use tpm::{Digest, Pcr, Policy, PolicySigner};

use crate::{
    machine::{Machine, TpmReading, read_at_most},
    measurements::{Measurements, TpmKind},
    volumes::Unlock,
};

/// Largest file with the key that signs PCR 11.
const SIGNER_LIMIT: usize = 16 << 10;

/// What is known of this boot, as far as bindings depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) measurements: Measurements,
    pub(crate) secure_boot: bool,
    /// PCR 7 at the next boot.
    pub(crate) predicted: Option<Digest>,
    pub(crate) unlock: Unlock,
}

/// Why the volumes are not bound to the TPM as it is. Completes "… were not bound to the TPM:".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unbindable {
    #[error("there is no TPM, or it does not answer")]
    NoTpm,
    #[error("foreign command line or credentials were added to this boot")]
    ForeignInput,
    #[error("the firmware's event log does not give the value of {pcr}")]
    LogDisagrees { pcr: Pcr },
    #[error("the kernel image left no key that signs its measurements in `{path}`: {reason}")]
    NoSigner { path: String, reason: String },
}

/// Which values a binding asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Those of the next boot, as far as the event log explains those of this one.
    Predicted,
    /// Those of this boot, explained or not: an administrator wants it so.
    Current,
}

impl Boot {
    /// The conditions to bind to.
    pub(crate) fn policy(&self, machine: &Machine, values: Values) -> Result<Policy, Unbindable> {
        let reading = self.measurements.reading.as_deref().ok_or(Unbindable::NoTpm)?;
        if self.has_foreign_input() {
            // The next boot would have to be as strange as this one.
            return Err(Unbindable::ForeignInput);
        }
        let mut literals = BTreeMap::from(Pcr::UNTOUCHED.map(|pcr| (pcr, Digest::ZERO)));
        literals.insert(Pcr::SECURE_BOOT, self.secure_boot_value(reading, values)?);
        if !self.secure_boot {
            literals.insert(Pcr::LOADER, self.loader_value(reading, values)?);
        }
        Ok(Policy::new(literals, signer(machine)?))
    }

    /// The registers that a good binding fixes.
    pub(crate) fn required(&self) -> Vec<u8> {
        Pcr::of_machine(self.secure_boot).iter().chain(&Pcr::UNTOUCHED).map(|pcr| pcr.index()).collect()
    }

    /// Whether somebody added something to what was signed.
    pub(crate) fn has_foreign_input(&self) -> bool {
        self.measurements.reading.as_ref().is_some_and(|reading| {
            [Pcr::COMMAND_LINE, Pcr::EXTENSIONS].iter().any(|pcr| reading.registers.get(pcr) != Some(&Digest::ZERO))
        })
    }

    /// Whether this boot shows that a binding works: the TPM released a key, and
    /// every register had the value that the binding asks for. PCR 15 was zero, as
    /// it always is until the root volume is open.
    pub(crate) fn proves(&self, policy: &Policy) -> bool {
        let Some(reading) = &self.measurements.reading else { return false };
        let holds = |(pcr, value): (&Pcr, &Digest)| *pcr == Pcr::VOLUME || reading.registers.get(pcr) == Some(value);
        self.unlock == Unlock::Tpm && policy.literals().iter().all(holds)
    }

    fn secure_boot_value(&self, reading: &TpmReading, values: Values) -> Result<Digest, Unbindable> {
        let current = register(reading, Pcr::SECURE_BOOT)?;
        if values == Values::Current || self.measurements.kind == TpmKind::Software {
            // A software TPM has no log: the initrd computes its value from the variables at each boot.
            return Ok(current);
        }
        // A log that does not explain this boot says nothing of the next one.
        let explained = self.measurements.log.as_ref().is_some_and(|log| log.secure_boot == current);
        self.predicted.filter(|_| explained).ok_or(Unbindable::LogDisagrees { pcr: Pcr::SECURE_BOOT })
    }

    fn loader_value(&self, reading: &TpmReading, values: Values) -> Result<Digest, Unbindable> {
        let current = register(reading, Pcr::LOADER)?;
        let explained = self.measurements.log.as_ref().is_some_and(|log| log.loader == current);
        if values == Values::Predicted && !explained {
            return Err(Unbindable::LogDisagrees { pcr: Pcr::LOADER });
        }
        Ok(current)
    }
}

fn register(reading: &TpmReading, pcr: Pcr) -> Result<Digest, Unbindable> {
    reading.registers.get(&pcr).copied().ok_or(Unbindable::NoTpm)
}

fn signer(machine: &Machine) -> Result<PolicySigner, Unbindable> {
    let path = machine.policy_signer();
    let missing = |reason: String| Unbindable::NoSigner { path: path.display().to_string(), reason };
    let pem = read_at_most(&path, SIGNER_LIMIT).map_err(|error| missing(error.to_string()))?;
    PolicySigner::from_pem(&pem).map_err(|error| missing(error.to_string()))
}
