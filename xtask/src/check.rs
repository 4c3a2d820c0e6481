//! `cargo xtask check`: everything that needs no running system.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    cmd::{Cmd, Log},
    paths::{Paths, sorted_entries},
    progress::Steps,
};

/// The exposure that each service may have at most, in tenths of what `systemd-analyze security`
/// prints.
const EXPOSURE: [(&str, u8); 7] = [
    ("incus-osd-gateway.service", 15),
    ("incus-osd-console.service", 10),
    ("incus-osd-network.service", 20),
    ("incus-osd.service", 40),
    ("incus-osd-update.service", 30),
    ("incus-osd-security.service", 40),
    ("incus-osd-storage.service", 45),
];

/// Runs every check and reports all that fail.
pub(crate) fn run(paths: &Paths, steps: &Steps) -> Result<()> {
    let results = [
        steps.step("format", Duration::from_secs(5), |log| cargo(paths, &["fmt", "--all", "--check"]).run_logged(log)),
        steps.step("clippy", Duration::from_mins(4), |log| {
            cargo(paths, &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"])
                .run_logged(log)
        }),
        steps.step("documentation", Duration::from_mins(2), |log| {
            cargo(paths, &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"])
                // Read by those who work on the code, so links to private items are welcome.
                .env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links")
                .run_logged(log)
        }),
        steps.step("units", Duration::from_secs(10), |log| units(paths, log)),
    ];
    let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    for error in &failed {
        eprintln!("{error:#}\n");
    }
    if !failed.is_empty() {
        bail!("{} of the checks failed", failed.len());
    }
    Ok(())
}

fn cargo(paths: &Paths, args: &[&str]) -> Cmd {
    Cmd::new("cargo").args(args).dir(&paths.checkout)
}

fn units(paths: &Paths, log: &Log) -> Result<()> {
    let root = paths.target().join("unit-check");
    stage(&paths.checkout, &root)?;
    verify(&paths.checkout, &root, log)?;
    score(&root, log)?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {root}"))
}

/// A root folder with the distribution's units, ours, and a stand-in for each program they start,
/// because `systemd-analyze` looks for those.
fn stage(checkout: &Utf8Path, root: &Utf8Path) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot remove {root}"))?;
    }
    let units = root.join("usr/lib/systemd/system");
    fs::create_dir_all(root.join("usr/lib/systemd")).with_context(|| format!("cannot create {units}"))?;
    Cmd::new("cp").args(["--archive", "/usr/lib/systemd/system", units.as_str()]).read()?;
    for ours in [checkout.join("image/mkosi.extra/usr/lib/systemd/system"), checkout.join("systemd-units/system")] {
        Cmd::new("cp").args(["--archive", "--remove-destination", &format!("{ours}/."), units.as_str()]).read()?;
    }
    for unit in own_units(checkout)? {
        let text = fs::read_to_string(&unit).with_context(|| format!("cannot read {unit}"))?;
        for program in programs(&text) {
            let file = root.join(program.trim_start_matches('/'));
            let dir = file.parent().unwrap_or(root);
            fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
            fs::write(&file, "").with_context(|| format!("cannot write {file}"))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("cannot set the mode of {file}"))?;
        }
    }
    Ok(())
}

/// The programs that a unit's `Exec…=` lines start.
fn programs(unit: &str) -> impl Iterator<Item = &str> {
    unit.lines()
        .filter(|line| line.starts_with("Exec"))
        .filter_map(|line| line.split_once('=')?.1.split_whitespace().next())
        .map(|program| program.trim_start_matches(['@', '-', ':', '+', '!', '|']))
        .filter(|program| program.starts_with('/'))
}

fn own_units(checkout: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let entries = sorted_entries(&checkout.join("systemd-units/system"))?;
    Ok(entries.into_iter().filter(|entry| entry.is_file()).collect())
}

fn verify(checkout: &Utf8Path, root: &Utf8Path, log: &Log) -> Result<()> {
    let names = own_units(checkout)?;
    let names = names.iter().filter_map(|unit| unit.file_name());
    Cmd::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=one", &format!("--root={root}")])
        .args(names)
        .run_logged(log)
}

fn score(root: &Utf8Path, log: &Log) -> Result<()> {
    let mut over = Vec::new();
    for (unit, limit) in EXPOSURE {
        let score = Cmd::new("systemd-analyze")
            .args(["security", "--offline=yes", &format!("--root={root}"), &format!("--threshold={limit}"), unit])
            .run_logged(log);
        if let Err(error) = score {
            over.push(format!("{unit} may have at most {}.{}: {error:#}", limit / 10, limit % 10));
        }
    }
    if !over.is_empty() {
        bail!("{}", over.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_a_unit_lose_their_prefixes() {
        let unit = "[Service]\nExecStartPre=-/usr/bin/a b\nExecStart=+!/usr/bin/c\nExecStart=\n# ExecStart=/no\n";
        assert_eq!(programs(unit).collect::<Vec<_>>(), ["/usr/bin/a", "/usr/bin/c"]);
    }
}
