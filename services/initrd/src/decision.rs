//! Decisions from what was found, and nothing else.

use media::SMALLEST_DRIVE;

/// What the firmware says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Firmware {
    /// Whether Secure Boot is on; `None` without UEFI.
    pub(crate) secure_boot: Option<bool>,
    /// Keys are ignored and only noted.
    pub(crate) audit_mode: bool,
    /// Major version of the TPM, if there is one.
    pub(crate) tpm: Option<u32>,
}

/// Why a machine cannot run the system, whatever is installed on it.
pub(crate) fn unfit(firmware: Firmware) -> Option<&'static str> {
    match firmware {
        Firmware { secure_boot: None, .. } => {
            Some("This system needs UEFI firmware: start it in UEFI mode, not in legacy BIOS mode.")
        }
        Firmware { secure_boot: Some(true), audit_mode: true, .. } => Some(
            "The firmware is in audit mode, in which Secure Boot protects nothing: leave it in the firmware setup.",
        ),
        Firmware { tpm: Some(version), .. } if version != 2 => {
            Some("The TPM of this machine is of version 1.2, which is not supported: enable TPM 2.0, or turn it off.")
        }
        Firmware { secure_boot: Some(false), tpm: None, .. } => {
            Some("This machine has Secure Boot disabled and no TPM: at least one of them is needed.")
        }
        _ => None,
    }
}

/// The medium or drive that was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Booted {
    /// The system has run from it before.
    pub(crate) is_installed: bool,
    /// It can be written.
    pub(crate) is_writable: bool,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// What this boot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Running the system from the drive that was booted.
    Run,
    /// Installing from it; or, where neither is possible, saying so.
    Install,
}

/// `asks_to_install`: the seed has a section `install`, readable or not.
pub(crate) fn mode(booted: Booted, asks_to_install: bool) -> Mode {
    if booted.is_installed {
        // A drive with a system on it never turns against itself, whatever a seed says.
        return Mode::Run;
    }
    let can_run = booted.is_writable && booted.size >= SMALLEST_DRIVE;
    if asks_to_install || !can_run { Mode::Install } else { Mode::Run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_cannot_be_safe_are_refused() {
        let fit = Firmware { secure_boot: Some(true), audit_mode: false, tpm: Some(2) };
        let word = |firmware| unfit(firmware).map(|sentence| sentence.split([':', ',']).next().unwrap().to_owned());
        let refused = |firmware, start: &str| {
            let sentence = word(firmware).unwrap_or_else(|| panic!("{firmware:?} is fit"));
            assert!(sentence.contains(start), "{firmware:?}: {sentence}");
        };
        assert_eq!(word(fit), None);
        assert_eq!(word(Firmware { tpm: None, ..fit }), None);
        assert_eq!(word(Firmware { secure_boot: Some(false), ..fit }), None);
        // With Secure Boot off the firmware's mode says nothing.
        assert_eq!(word(Firmware { secure_boot: Some(false), audit_mode: true, ..fit }), None);
        refused(Firmware { secure_boot: None, ..fit }, "UEFI");
        refused(Firmware { audit_mode: true, ..fit }, "audit mode");
        refused(Firmware { tpm: Some(1), ..fit }, "version 1.2");
        refused(Firmware { secure_boot: Some(false), tpm: None, ..fit }, "Secure Boot disabled and no TPM");
    }

    #[test]
    fn only_what_was_never_run_from_can_install() {
        let large = Booted { is_installed: false, is_writable: true, size: SMALLEST_DRIVE };
        assert_eq!(mode(large, false), Mode::Run);
        assert_eq!(mode(large, true), Mode::Install);
        for unable in [Booted { is_writable: false, ..large }, Booted { size: SMALLEST_DRIVE - 1, ..large }] {
            assert_eq!(mode(unable, false), Mode::Install);
            assert_eq!(mode(Booted { is_installed: true, ..unable }, true), Mode::Run);
        }
        assert_eq!(mode(Booted { is_installed: true, ..large }, true), Mode::Run);
    }
}
