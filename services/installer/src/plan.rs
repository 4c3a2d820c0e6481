//! Whether and where to install: a function of the facts.

use std::{fmt, path::PathBuf};

use media::SMALLEST_DRIVE;
use seed::{Finding, Section};

use crate::{
    facts::{Contents, Facts},
    select::{Candidate, NoTarget, select},
};

/// What will be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where partitions are read from, and what a person removes afterwards.
    pub(crate) source: PathBuf,
    pub(crate) medium: PathBuf,
    /// How messages name the medium.
    pub(crate) source_path: String,
    pub(crate) target: Candidate,
    /// What the target holds is overwritten.
    pub(crate) overwrites: bool,
    /// Restart at once, instead of waiting for the medium's removal.
    pub(crate) restarts: bool,
    /// What makes the result less secure than it is designed to be.
    pub(crate) weakness: Option<&'static str>,
    /// What a person should know, and nothing is held up by.
    pub(crate) warnings: Vec<String>,
}

impl Plan {
    /// The sentence that begins an installation.
    pub(crate) fn summary(&self, os: &str) -> String {
        format!("Installing {os} source={} target={}", self.source_path, self.target.path())
    }
}

/// Why nothing is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    SecureBootUnknown(String),
    NeitherSecureBootNorTpm,
    SeedUnreadable(String),
    Seed(Vec<Finding>),
    TpmThere,
    SecureBootThere,
    NoTpm(String),
    SoftwareTpmMissing,
    SecureBootOff,
    Source(String),
    ReadOnlyWithoutSeed { source: String },
    SourceTooSmall { source: String, size: u64 },
    AlreadyInstalled,
    NoTarget { why: NoTarget, detected: Vec<String>, passed_over: Vec<String> },
    TargetTooSmall { target: String, size: u64 },
    TargetUnreadable { target: String, why: String },
    Occupied { target: String, signatures: Vec<String> },
    SameVersion { target: String },
    ConfirmationMissing { target: String, code: String },
    ConfirmationWrong { given: String, code: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |size: u64| {
            let hundredths = u128::from(size) * 100 / (1 << 30);
            format!("{}.{:02}GiB", hundredths / 100, hundredths % 100)
        };
        match self {
            Self::SecureBootUnknown(why) => write!(out, "the state of Secure Boot cannot be read: {why}"),
            Self::NeitherSecureBootNorTpm => {
                out.write_str("cannot run with Secure Boot disabled and no working TPM: enable at least one of them in the firmware setup")
            }
            Self::SeedUnreadable(why) => write!(out, "unable to get install seed: {why}"),
            Self::Seed(findings) => {
                let list: Vec<_> = findings.iter().map(ToString::to_string).collect();
                write!(out, "the seed must be corrected before anything is installed: {}", list.join("; "))
            }
            Self::TpmThere => out.write_str(
                "a physical TPM was found, but the install seed wants a software TPM: remove `security.missing_tpm` from it",
            ),
            Self::SecureBootThere => out.write_str(
                "Secure Boot is enabled, but the install seed expects it disabled: remove `security.missing_secure_boot` from it",
            ),
            Self::NoTpm(why) => write!(
                out,
                "no working TPM ({why}), and the install seed does not allow a software TPM: enable the TPM in the firmware setup"
            ),
            Self::SoftwareTpmMissing => out.write_str(
                "the install seed allows a software TPM, which this version does not have yet: a TPM 2.0 is needed",
            ),
            Self::SecureBootOff => out.write_str(
                "Secure Boot is disabled, and the install seed does not allow this: enable it in the firmware setup, \
                 or set `security.missing_secure_boot`",
            ),
            Self::Source(why) => write!(out, "the install medium cannot be used: {why}"),
            Self::ReadOnlyWithoutSeed { source } => {
                write!(out, "unable to begin install from read-only device '{source}' without seed configuration")
            }
            Self::SourceTooSmall { source, size } => {
                write!(out, "source device '{source}' too small ({}), must be at least 50GiB", gib(*size))
            }
            Self::AlreadyInstalled => out.write_str(
                "install media detected, but the system is already installed: remove the USB stick or CD-ROM and reboot, \
                 or set `force_install` in the install seed",
            ),
            Self::NoTarget { why, detected, passed_over } => {
                write!(out, "{why}")?;
                if !detected.is_empty() {
                    write!(out, "; detected devices: {}", detected.join(", "))?;
                }
                if !passed_over.is_empty() {
                    write!(out, "; not usable: {}", passed_over.join(", "))?;
                }
                Ok(())
            }
            Self::TargetTooSmall { target, size } => {
                write!(out, "target device '{target}' is too small ({}), must be at least 50GiB", gib(*size))
            }
            Self::TargetUnreadable { target, why } => write!(out, "target device '{target}' cannot be read: {why}"),
            Self::Occupied { target, signatures } if signatures.iter().any(|kind| is_table(kind)) => write!(
                out,
                "a partition table already exists on '{target}': set `force_install` in the install seed to overwrite it"
            ),
            Self::Occupied { target, signatures } => write!(
                out,
                "'{target}' is in use: it holds {}; set `force_install` in the install seed to overwrite it",
                signatures.join(", ")
            ),
            Self::SameVersion { target } => write!(
                out,
                "this version is already installed on '{target}', and `force_install` is not set in the install seed"
            ),
            Self::ConfirmationMissing { target, code } => write!(
                out,
                "this version is already installed on '{target}': to overwrite it and everything that it keeps, set \
                 `force_install_confirmation: \"{code}\"` in the install seed and reboot"
            ),
            Self::ConfirmationWrong { given, code } => {
                write!(out, "`force_install_confirmation` in the install seed is '{given}', and has to be '{code}'")
            }
        }
    }
}

fn is_table(kind: &str) -> bool {
    matches!(kind, "gpt" | "dos" | "PMBR" | "mac" | "bsd" | "sun")
}

/// Decides. The conditions are those of the specification, in its order: the first
/// one that does not hold is told.
pub(crate) fn plan(facts: &Facts) -> Result<Plan, Refusal> {
    let secure_boot = facts.secure_boot.clone().map_err(Refusal::SecureBootUnknown)?;
    if !secure_boot && facts.tpm.is_err() {
        return Err(Refusal::NeitherSecureBootNorTpm);
    }
    let report = facts.seed.as_ref().map_err(|why| Refusal::SeedUnreadable(why.clone()))?;
    if !report.errors.is_empty() {
        return Err(Refusal::Seed(report.errors.clone()));
    }
    let source = facts.source.as_ref().map_err(|why| Refusal::Source(why.clone()))?;
    let Some(install) = &report.contents.install else {
        // Without the wish to install this is only told where running is not possible either.
        return Err(if source.is_read_only {
            Refusal::ReadOnlyWithoutSeed { source: source.path.clone() }
        } else {
            Refusal::SourceTooSmall { source: source.path.clone(), size: source.size }
        });
    };
    let consent = install.security.unwrap_or_default();
    let weakness = match (secure_boot, &facts.tpm) {
        (_, Ok(())) if consent.missing_tpm => return Err(Refusal::TpmThere),
        (true, _) if consent.missing_secure_boot => return Err(Refusal::SecureBootThere),
        (true, Err(_)) if consent.missing_tpm => return Err(Refusal::SoftwareTpmMissing),
        (true, Err(why)) => return Err(Refusal::NoTpm(why.clone())),
        (false, _) if !consent.missing_secure_boot => return Err(Refusal::SecureBootOff),
        (false, _) => Some("disabling Secure Boot"),
        (true, Ok(())) => None,
    };
    if facts.is_installed && !install.force_install {
        return Err(Refusal::AlreadyInstalled);
    }
    let target = select(&facts.candidates, install.target.as_ref()).map_err(|why| Refusal::NoTarget {
        why,
        detected: facts.candidates.iter().map(|candidate| candidate.id().to_owned()).collect(),
        passed_over: facts.passed_over.iter().map(|drive| format!("{} ({})", drive.name, drive.reason)).collect(),
    })?;
    if target.block.size < SMALLEST_DRIVE {
        return Err(Refusal::TargetTooSmall { target: target.path(), size: target.block.size });
    }
    let none = Err("it was not looked at".to_owned());
    let contents = facts.contents.get(&target.block.name).unwrap_or(&none);
    let contents =
        contents.as_ref().map_err(|why| Refusal::TargetUnreadable { target: target.path(), why: why.clone() })?;
    may_overwrite(contents, source.usr, target, install)?;
    Ok(Plan {
        source: source.node.clone(),
        medium: source.medium.clone(),
        source_path: source.path.clone(),
        overwrites: !contents.signatures.is_empty(),
        target: target.clone(),
        restarts: install.force_reboot,
        weakness,
        warnings: report.warnings.iter().map(ToString::to_string).collect(),
    })
}

/// Whether what is on the target may go.
fn may_overwrite(
    contents: &Contents,
    usr: media::Guid,
    target: &Candidate,
    install: &api::v1::InstallSeed,
) -> Result<(), Refusal> {
    let same = contents.system.as_ref().filter(|system| system.usr.contains(&usr));
    if contents.signatures.is_empty() {
        return Ok(());
    }
    if !install.force_install {
        return Err(match same {
            Some(_) => Refusal::SameVersion { target: target.path() },
            None => Refusal::Occupied { target: target.path(), signatures: contents.signatures.clone() },
        });
    }
    // Whoever leaves such a medium in a machine would install it again at every start.
    if let Some(system) = same {
        let code = system.code.clone();
        let given = install.force_install_confirmation.clone();
        if given.is_empty() {
            return Err(Refusal::ConfirmationMissing { target: target.path(), code });
        }
        if given != code {
            return Err(Refusal::ConfirmationWrong { given, code });
        }
    }
    Ok(())
}

/// Whether a file of the medium's seed goes to the target.
pub(crate) fn stays_in_seed(name: &str) -> bool {
    Section::of_file(name) != Some(Section::Install)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use media::Guid;
    use sys::Block;

    use super::*;
    use crate::facts::{Source, System};

    const USR: Guid = Guid([5; 16]);

    fn files(list: &[(&str, &str)]) -> Vec<seed::File> {
        let file = |(name, text): &(&str, &str)| seed::File { name: (*name).into(), content: text.as_bytes().to_vec() };
        list.iter().map(file).collect()
    }

    fn with_seed(list: &[(&str, &str)]) -> Facts {
        let block = Block {
            name: "vda".into(),
            size: SMALLEST_DRIVE,
            ids: vec!["virtio-disk0".into()],
            subsystems: "block:virtio:pci".into(),
            ..Block::default()
        };
        Facts {
            secure_boot: Ok(true),
            tpm: Ok(()),
            seed: Ok(seed::check(&files(list))),
            source: Ok(Source {
                node: "/dev/sda".into(),
                medium: "/dev/sda".into(),
                path: "/dev/disk/by-id/usb-stick".into(),
                size: 4 << 30,
                is_read_only: false,
                usr: USR,
            }),
            contents: HashMap::from([("vda".to_owned(), Ok(Contents::default()))]),
            candidates: vec![Candidate { block }],
            passed_over: Vec::new(),
            is_installed: false,
        }
    }

    fn facts() -> Facts {
        with_seed(&[("install.yaml", "")])
    }

    fn refusal(facts: &Facts) -> String {
        plan(facts).expect_err("nothing may be installed").to_string()
    }

    fn refused(change: impl FnOnce(&mut Facts), list: &[(&str, &str)], text: &str) {
        let mut facts = with_seed(list);
        change(&mut facts);
        let refusal = refusal(&facts);
        assert!(refusal.contains(text), "{refusal}");
    }

    const EMPTY: &[(&str, &str)] = &[("install.yaml", "")];

    #[test]
    fn empty_seed_installs_to_the_only_drive() {
        let plan = plan(&facts()).unwrap();
        assert_eq!(plan.target.path(), "/dev/disk/by-id/virtio-disk0");
        assert_eq!(
            plan.summary("IncusOS"),
            "Installing IncusOS source=/dev/disk/by-id/usb-stick target=/dev/disk/by-id/virtio-disk0"
        );
        assert!(!plan.overwrites && !plan.restarts && plan.weakness.is_none() && plan.warnings.is_empty());
    }

    #[test]
    fn every_condition_of_the_firmware_is_told() {
        refused(|f| f.secure_boot = Err("x".into()), EMPTY, "state of Secure Boot cannot be read");
        let none = || Err("there is none".to_owned());
        refused(|f| (f.secure_boot, f.tpm) = (Ok(false), none()), EMPTY, "Secure Boot disabled and no working TPM");
        refused(|f| f.tpm = none(), EMPTY, "no working TPM (there is none)");
        refused(|f| f.secure_boot = Ok(false), EMPTY, "Secure Boot is disabled, and the install seed does not allow");
        let no_tpm: &[_] = &[("install.yaml", "security: {missing_tpm: true}")];
        refused(|_| (), no_tpm, "a physical TPM was found");
        refused(|f| f.tpm = none(), no_tpm, "does not have yet");
        let no_secure_boot: &[_] = &[("install.yaml", "security: {missing_secure_boot: true}")];
        refused(|_| (), no_secure_boot, "Secure Boot is enabled, but the install seed expects it disabled");
        let mut facts = with_seed(no_secure_boot);
        facts.secure_boot = Ok(false);
        assert_eq!(plan(&facts).unwrap().weakness, Some("disabling Secure Boot"));
    }

    #[test]
    fn every_mistake_in_any_seed_is_told_before_anything_else_is_looked_at() {
        let seeds: &[_] = &[
            ("install.yaml", "target: {sort_order: foobar}"),
            ("network.yaml", "interfaces: {}"),
            ("security.yaml", "encryption_recovery_keys: [hunter2]"),
        ];
        refused(|f| f.candidates.clear(), seeds, "install.yaml: target.sort_order: unsupported sort order 'foobar'");
        refused(|_| (), seeds, "network.yaml: interfaces:");
        refused(|_| (), seeds, "security.yaml: encryption_recovery_keys: recovery keys cannot be set by seed");
        refused(|f| f.seed = Err("damaged at byte 0".into()), EMPTY, "unable to get install seed: damaged at byte 0");
        let both: &[_] = &[("install.yaml", "security: {missing_tpm: true, missing_secure_boot: true}")];
        refused(|_| (), both, "install.yaml: security:");
        refused(|_| (), &[("install.yaml", ""), ("applications.yaml", "applications: []")], "at least one application");
        let unknown = with_seed(&[("install.yaml", "colour: red")]);
        let warnings = plan(&unknown).unwrap().warnings;
        assert!(warnings[0].contains("install.yaml: colour:"), "{warnings:?}");
    }

    #[test]
    fn medium_that_can_neither_install_nor_run_says_why() {
        let no_seed: &[(&str, &str)] = &[("network.yaml", "{}")];
        refused(
            |_| (),
            no_seed,
            "source device '/dev/disk/by-id/usb-stick' too small (4.00GiB), must be at least 50GiB",
        );
        let read_only = |f: &mut Facts| f.source.as_mut().unwrap().is_read_only = true;
        refused(read_only, no_seed, "read-only device '/dev/disk/by-id/usb-stick' without seed configuration");
        refused(|f| f.source = Err("/dev/sda is gone".into()), EMPTY, "cannot be used: /dev/sda is gone");
    }

    #[test]
    fn targets_that_do_not_fit_are_named_with_what_was_found() {
        refused(|f| f.candidates.clear(), EMPTY, "no potential install devices found");
        let two = |f: &mut Facts| {
            let mut second = f.candidates[0].clone();
            second.block.ids = vec!["virtio-disk1".into()];
            f.candidates.push(second);
            f.passed_over.push(crate::select::PassedOver { name: "sdb".into(), reason: "there is no medium in it" });
        };
        refused(two, EMPTY, "detected devices: virtio-disk0, virtio-disk1; not usable: sdb (there is no medium in it)");
        let small = |f: &mut Facts| f.candidates[0].block.size = SMALLEST_DRIVE - (1 << 30);
        refused(
            small,
            EMPTY,
            "target device '/dev/disk/by-id/virtio-disk0' is too small (49.00GiB), must be at least 50GiB",
        );
        let broken = |f: &mut Facts| drop(f.contents.insert("vda".into(), Err("input/output error".into())));
        refused(broken, EMPTY, "cannot be read: input/output error");
    }

    fn holding(signatures: &[&str], system: Option<System>) -> impl Fn(&mut Facts) {
        let signatures: Vec<_> = signatures.iter().map(|kind| (*kind).to_owned()).collect();
        move |facts| {
            let contents = Contents { signatures: signatures.clone(), system: system.clone() };
            facts.contents.insert("vda".into(), Ok(contents));
        }
    }

    const FORCE: &[(&str, &str)] = &[("install.yaml", "force_install: true")];

    #[test]
    fn anything_recognisable_on_the_target_needs_force() {
        refused(holding(&["PMBR", "gpt"], None), EMPTY, "a partition table already exists on");
        for kind in ["ext4", "crypto_LUKS", "LVM2_member", "zfs_member", "linux_raid_member"] {
            refused(holding(&[kind], None), EMPTY, &format!("it holds {kind}"));
            let mut forced = with_seed(FORCE);
            holding(&[kind], None)(&mut forced);
            assert!(plan(&forced).unwrap().overwrites);
        }
    }

    #[test]
    fn same_version_needs_the_code_of_the_drive() {
        let system = |usr| Some(System { code: "0a1b2c".into(), usr: vec![Guid([1; 16]), usr] });
        let same = holding(&["gpt"], system(USR));
        refused(&same, EMPTY, "this version is already installed on");
        refused(&same, FORCE, "force_install_confirmation: \"0a1b2c\"");
        let wrong: &[_] = &[("install.yaml", "force_install: true\nforce_install_confirmation: '111111'")];
        refused(&same, wrong, "is '111111', and has to be '0a1b2c'");
        let right: &[_] = &[("install.yaml", "force_install: true\nforce_install_confirmation: 0a1b2c")];
        let mut facts = with_seed(right);
        same(&mut facts);
        assert!(plan(&facts).unwrap().overwrites);
        // Another version of ours is a drive like any other.
        let mut facts = with_seed(FORCE);
        holding(&["gpt"], system(Guid([9; 16])))(&mut facts);
        assert!(plan(&facts).unwrap().overwrites);
    }

    #[test]
    fn machine_that_was_installed_is_not_installed_again() {
        refused(|f| f.is_installed = true, EMPTY, "already installed: remove the USB stick");
        let mut forced = with_seed(FORCE);
        forced.is_installed = true;
        plan(&forced).unwrap();
    }
}
