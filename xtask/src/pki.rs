//! The test keys of a checkout.
//!
//! Made once, never committed. Each purpose has its own key, as in a release: whoever can sign a
//! kernel module cannot sign an image. Debian's kernel trusts the firmware's `db` for modules and
//! dm-verity signatures, so the certificates of those keys are enrolled there beside the one
//! that signs the boot loader and the kernel image.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    cmd::{Cmd, Log},
    paths::{Key, Paths},
    progress::Steps,
};

/// Owner of our entries in the firmware's signature lists.
const OWNER: &str = "433f8160-9ab6-4407-8e38-12d70e1d54e5";

/// The keys, by file stem, with the subject of their certificates. The prefix `TestOS - Secure
/// Boot ` is how a running system knows that it was built for development.
const KEYS: [(&str, &str); 6] = [
    ("PK", "TestOS - Secure Boot PK R1"),
    ("KEK", "TestOS - Secure Boot KEK R1"),
    ("db", "TestOS - Secure Boot DB R1"),
    ("pcr", "TestOS - PCR Policy R1"),
    ("verity", "TestOS - Verity R1"),
    ("module", "TestOS - Kernel Modules R1"),
];

/// A variable of the firmware: its name, the certificates in it, and the key that authorises it.
const VARIABLES: [(&str, &[&str], &str); 3] =
    [("PK", &["PK"], "PK"), ("KEK", &["KEK"], "PK"), ("db", &["db", "verity", "module"], "KEK")];

/// Variables for OVMF in which the keys are enrolled already: a machine that starts with them is
/// in user mode at once, without the boot loader's enrolment and its reset.
pub(crate) const ENROLLED_VARIABLES: &str = "OVMF_VARS.enrolled.fd";
const EMPTY_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The folder of keys.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    dir: Utf8PathBuf,
}

impl Pki {
    /// Opens the checkout's keys, making them when there are none.
    pub(crate) fn ensure(paths: &Paths, steps: &Steps) -> Result<Self> {
        let pki = Self { dir: paths.pki() };
        if !pki.dir.exists() {
            steps.step("test keys", Duration::from_secs(5), |log| pki.make(log))?;
        }
        Ok(pki)
    }

    /// Where the keys are.
    pub(crate) fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// The private key of a purpose.
    pub(crate) fn key(&self, stem: &str) -> Utf8PathBuf {
        self.dir.join(format!("{stem}.key"))
    }

    /// The certificate of a purpose.
    pub(crate) fn certificate(&self, stem: &str) -> Utf8PathBuf {
        self.dir.join(format!("{stem}.crt"))
    }

    /// Changes when any key does.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        KEYS.iter().try_fold(Key::default(), |key, (stem, _)| key.add_path(&self.certificate(stem))).map(Key::finish)
    }

    /// Copies what the boot loader and the firmware's setup menu enrol to the tree of an ESP.
    pub(crate) fn stage_enrolment(&self, esp: &Utf8Path) -> Result<()> {
        let (auto, manual) = (esp.join("loader/keys/auto"), esp.join("keys"));
        for dir in [&auto, &manual] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
        }
        for (variable, certificates, _) in VARIABLES {
            copy(&self.dir.join(format!("{variable}.auth")), &auto.join(format!("{variable}.auth")))?;
            for stem in certificates {
                copy(&self.dir.join(format!("{stem}.der")), &manual.join(format!("{stem}.der")))?;
            }
        }
        Ok(())
    }

    /// Copies the certificates that the security service reports as built into the image.
    pub(crate) fn stage_certificates(&self, usr: &Utf8Path) -> Result<()> {
        for (variable, certificates, _) in VARIABLES {
            let dir = usr.join("share/incus-os/secureboot").join(variable);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir}"))?;
            for stem in certificates {
                copy(&self.certificate(stem), &dir.join(format!("{stem}.pem")))?;
            }
        }
        Ok(())
    }

    /// Makes everything in a folder beside the final one, so that an interrupted run leaves
    /// nothing that looks complete.
    fn make(&self, log: &Log) -> Result<()> {
        let unfinished = Self { dir: self.dir.with_extension("new") };
        if unfinished.dir.exists() {
            fs::remove_dir_all(&unfinished.dir).with_context(|| format!("cannot remove {}", unfinished.dir))?;
        }
        fs::create_dir_all(&unfinished.dir).with_context(|| format!("cannot create {}", unfinished.dir))?;
        private(&unfinished.dir, 0o700)?;
        for (stem, subject) in KEYS {
            unfinished.make_key(stem, subject, log)?;
        }
        for (variable, certificates, authority) in VARIABLES {
            unfinished.make_variable(variable, certificates, authority, log)?;
        }
        unfinished.make_firmware_variables(log)?;
        fs::rename(&unfinished.dir, &self.dir).with_context(|| format!("cannot rename {}", unfinished.dir))
    }

    fn make_key(&self, stem: &str, subject: &str, log: &Log) -> Result<()> {
        let (key, certificate) = (self.key(stem), self.certificate(stem));
        Cmd::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-sha256", "-days", "3650"])
            .args(["-subj", &format!("/CN={subject}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"])
            .args(["-keyout", key.as_str(), "-out", certificate.as_str()])
            .run_logged(log)?;
        private(&key, 0o600)?;
        let der = self.dir.join(format!("{stem}.der"));
        Cmd::new("openssl")
            .args(["x509", "-in", certificate.as_str(), "-outform", "DER", "-out", der.as_str()])
            .run_logged(log)
    }

    /// Writes `<variable>.esl`, the plain list, and `<variable>.auth`, the update signed by
    /// `authority`.
    fn make_variable(&self, variable: &str, certificates: &[&str], authority: &str, log: &Log) -> Result<()> {
        let (list, update) = (self.dir.join(format!("{variable}.esl")), self.dir.join(format!("{variable}.auth")));
        let mut content = Vec::new();
        for stem in certificates {
            let part = self.dir.join(format!("{stem}.part"));
            Cmd::new("cert-to-efi-sig-list")
                .args(["-g", OWNER, self.certificate(stem).as_str(), part.as_str()])
                .run_logged(log)?;
            content.extend(fs::read(&part).with_context(|| format!("cannot read {part}"))?);
            fs::remove_file(&part).with_context(|| format!("cannot remove {part}"))?;
        }
        fs::write(&list, content).with_context(|| format!("cannot write {list}"))?;
        Cmd::new("sign-efi-sig-list")
            .args(["-g", OWNER, "-k", self.key(authority).as_str(), "-c", self.certificate(authority).as_str()])
            .args([variable, list.as_str(), update.as_str()])
            .run_logged(log)
    }

    fn make_firmware_variables(&self, log: &Log) -> Result<()> {
        let mut call = Cmd::new("virt-fw-vars").args([
            "--input",
            EMPTY_VARIABLES,
            "--output",
            self.dir.join(ENROLLED_VARIABLES).as_str(),
            "--secure-boot",
        ]);
        for (variable, certificates, _) in VARIABLES {
            let option =
                if variable == "PK" { "--set-pk".to_owned() } else { format!("--add-{}", variable.to_lowercase()) };
            for stem in certificates {
                call = call.args([option.as_str(), OWNER, self.certificate(stem).as_str()]);
            }
        }
        call.run_logged(log)
    }
}

fn copy(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {from} to {to}"))?;
    Ok(())
}

fn private(path: &Utf8Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {path}"))
}
