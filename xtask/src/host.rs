//! What the build machine itself must have: the two programs that make and enter the tools tree.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    cmd::{Cmd, which},
    progress::Steps,
};

/// Host programs, each with the package that brings it.
const NEEDS: [(&str, &str); 2] = [("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap")];

/// Installs what is missing, or says what to type.
pub(crate) fn ensure(steps: &Steps) -> Result<()> {
    let mut missing: Vec<_> =
        NEEDS.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect();
    if crate::archive::check_keyring().is_err() {
        missing.push("debian-archive-keyring");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if which("apt-get").is_none() {
        bail!("this machine lacks {packages}, and has no apt to install them with");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("this machine lacks {packages}; type: sudo apt-get install -y {packages}");
    }
    steps.step("host packages", Duration::from_secs(30), |log| {
        let install = || {
            Cmd::new("apt-get")
                .args(["install", "--yes", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .run_logged(log)
        };
        // Lists may be absent or too old on a fresh machine; try with what is there first.
        install().or_else(|_| {
            Cmd::new("apt-get").arg("update").run_logged(log)?;
            install()
        })
    })
}
