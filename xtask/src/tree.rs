//! The tools tree: a Debian root with every tool that builds, boots and tests the image.
//!
//! It is made once per package list in the cache folder. Commands that need tools call
//! [`enter`], which starts this same program again inside the tree; from there on every tool is
//! a plain command, and every build machine uses the same versions of them. Checkout, caches and
//! Rust keep their paths. This module is the only one that knows how the tree is entered.

use std::{
    ffi::OsString,
    fs::{self, File},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    archive::{Archive, SUITE},
    cmd::Cmd,
    host,
    paths::{Key, Paths, current_dir},
    progress::Steps,
};

/// Set inside the tree; holds the archive as JSON, because the tree has no apt configuration of
/// the machine to read it from.
const MARKER: &str = "INCUS_OS_TREE";

/// Files of the machine that replace the tree's: how names are looked up, and whom the machine
/// trusts (its network may have a certificate authority of its own).
const MACHINE_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];

/// What the tree holds. Grouped by who needs it.
const PACKAGES: &[&str] = &[
    // image: mkosi and what it calls
    "mkosi",
    "systemd",
    "udev",
    "systemd-container",
    "systemd-repart",
    "systemd-ukify",
    "systemd-boot",
    "systemd-boot-efi",
    "systemd-boot-tools",
    "systemd-cryptsetup",
    "apt-utils",
    "debian-archive-keyring",
    "bubblewrap",
    "erofs-utils",
    "dosfstools",
    "mtools",
    "e2fsprogs",
    "cryptsetup-bin",
    "zstd",
    "xz-utils",
    "cpio",
    "kmod",
    "python3-pefile",
    "python3-cryptography",
    // keys and firmware variables
    "openssl",
    "efitools",
    "sbsigntool",
    "python3-virt-firmware",
    // kernel modules and our own crates
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "pkg-config",
    "binutils",
    "bc",
    "perl",
    "libelf-dev",
    "pahole",
    "libssl-dev",
    "libtss2-dev",
    "git",
    "ca-certificates",
    // virtual machines and their peers
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    "curl",
    "gdisk",
    "fdisk",
    "iproute2",
    "nftables",
    "jq",
    "systemd-journal-remote",
    "procps",
    "socat",
    "tpm2-tools",
    "dbus",
    "polkitd",
    // the web page of the image customizer
    "chromium",
    "chromium-driver",
    "fonts-dejavu-core",
];

/// Makes sure that this process runs inside the tree. Returns only there.
pub(crate) fn enter(paths: &Paths, mirror: Option<&str>) -> Result<Archive> {
    if let Ok(archive) = std::env::var(MARKER) {
        return serde_json::from_str(&archive).with_context(|| format!("{MARKER} is damaged"));
    }
    let steps = Steps::new(&paths.cache);
    host::ensure(&steps)?;
    let archive = Archive::of_this_machine(mirror)?;
    let tree = ensure(paths, &archive, &steps)?;
    let program = Utf8PathBuf::from_path_buf(std::env::current_exe().context("cannot find this program's file")?)
        .map_err(|path| anyhow!("{} is not UTF-8", path.display()))?;
    Err(inside(&tree, paths, &archive, &program)?.args(std::env::args_os().skip(1)).exec())
}

/// Makes the tree unless it is there; returns its path.
fn ensure(paths: &Paths, archive: &Archive, steps: &Steps) -> Result<Utf8PathBuf> {
    let trees = paths.cache.join("trees");
    fs::create_dir_all(&trees).with_context(|| format!("cannot create {trees}"))?;
    let tree = trees.join(Key::default().add("suite", SUITE).add("packages", PACKAGES.join(" ")).finish());
    if tree.exists() {
        return Ok(tree);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("making the tools tree needs root; run the same command with sudo");
    }
    let lock = File::create(trees.join("lock")).context("cannot create the lock file of the tools trees")?;
    lock.lock().context("cannot wait for another build of the tools tree")?;
    if tree.exists() {
        return Ok(tree);
    }
    let unfinished = tree.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {unfinished}"))?;
    }
    steps.step("tools tree", Duration::from_mins(3), |log| {
        let sources = paths.cache.join("tree.list");
        fs::write(&sources, archive.sources()).with_context(|| format!("cannot write {sources}"))?;
        let options = archive.options();
        Cmd::new("mmdebstrap")
            .args(["--mode=root", "--variant=apt"])
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .args(options.lines().map(|line| format!("--aptopt={line}")))
            .args(["doc", "man", "info", "locale"].map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
            .arg(format!("--include={}", PACKAGES.join(",")))
            .args([SUITE, unfinished.as_str(), sources.as_str()])
            .env("LC_ALL", "C.UTF-8")
            .run_logged(log)
    })?;
    // mmdebstrap leaves copies of the machine's; what gets mounted over must be plain files.
    for file in ["etc/resolv.conf", "etc/hosts"] {
        let file = unfinished.join(file);
        let _ = fs::remove_file(&file);
        File::create(&file).with_context(|| format!("cannot create {file}"))?;
    }
    fs::rename(&unfinished, &tree).with_context(|| format!("cannot rename {unfinished}"))?;
    Ok(tree)
}

/// A call of `program` inside the tree.
fn inside(tree: &Utf8Path, paths: &Paths, archive: &Archive, program: &Utf8Path) -> Result<Cmd> {
    let rust = Rust::find()?;
    let cwd = current_dir()?;
    let mut cmd = Cmd::new("bwrap")
        // mkosi mounts, loop devices and network namespaces need root's powers, on the inside too.
        .args(["--cap-add", "ALL"])
        // A pivoted root is a mount point, which mkosi's own sandbox depends on.
        .args(["--bind", tree.as_str(), "/"])
        .args(["--dev-bind", "/dev", "/dev", "--proc", "/proc", "--bind", "/sys", "/sys", "--tmpfs", "/run"])
        .args(["--bind", "/tmp", "/tmp", "--bind", "/var/tmp", "/var/tmp"])
        .args(MACHINE_FILES.iter().flat_map(|file| ["--ro-bind-try", file, file]));
    let mut shared = vec![&paths.cache, &paths.checkout, &rust.cargo_home, &rust.sysroot];
    shared.extend(&rust.rustup_home);
    for dir in shared {
        cmd = cmd.args(["--bind", dir.as_str(), dir.as_str()]);
    }
    // Programs of this checkout may live in a target folder elsewhere.
    if let Some(dir) = program.parent().filter(|dir| !dir.starts_with(&paths.checkout)) {
        cmd = cmd.args(["--ro-bind", dir.as_str(), dir.as_str()]);
    }
    Ok(cmd.args(["--chdir", cwd.as_str(), program.as_str()]).only_env(environment(paths, archive, &rust)?))
}

/// The environment inside: what decides how Rust builds and how messages look, nothing else.
fn environment(paths: &Paths, archive: &Archive, rust: &Rust) -> Result<Vec<(OsString, OsString)>> {
    const KEPT: [&str; 10] = [
        "HOME",
        "TERM",
        "XDG_CACHE_HOME",
        "NO_COLOR",
        "CI",
        "RUST_LOG",
        "RUST_BACKTRACE",
        "RUSTUP_TOOLCHAIN",
        "SSL_CERT_FILE",
        "COLUMNS",
    ];
    const KEPT_PREFIXES: [&str; 7] =
        ["INCUS_OS_", "CARGO_BUILD_", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    let kept = |name: &str| {
        KEPT.contains(&name)
            || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || name.to_ascii_lowercase().ends_with("_proxy")
    };
    let mut vars: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(kept)).collect();
    let path = format!(
        "{}/bin:{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        rust.cargo_home, rust.sysroot
    );
    for (name, value) in [
        ("PATH", path),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("CARGO_HOME", rust.cargo_home.to_string()),
        ("CARGO_TARGET_DIR", paths.target().to_string()),
        (MARKER, serde_json::to_string(archive)?),
    ] {
        vars.push((name.into(), value.into()));
    }
    if let Some(home) = &rust.rustup_home {
        vars.push(("RUSTUP_HOME".into(), home.as_str().into()));
    }
    Ok(vars)
}

/// The machine's Rust, which the tree borrows.
#[derive(Debug)]
struct Rust {
    cargo_home: Utf8PathBuf,
    rustup_home: Option<Utf8PathBuf>,
    sysroot: Utf8PathBuf,
}

impl Rust {
    fn find() -> Result<Self> {
        let home = |var: &str, default: &str| -> Result<Utf8PathBuf> {
            match std::env::var(var) {
                Ok(dir) => Ok(dir.into()),
                Err(_) => Ok(Utf8PathBuf::from(std::env::var("HOME").context("HOME is not set")?).join(default)),
            }
        };
        let cargo_home = home("CARGO_HOME", ".cargo")?;
        fs::create_dir_all(&cargo_home).with_context(|| format!("cannot create {cargo_home}"))?;
        let rustup_home = home("RUSTUP_HOME", ".rustup")?;
        let sysroot = Utf8PathBuf::from(Cmd::new("rustc").args(["--print", "sysroot"]).read()?.trim_end());
        if sysroot == "/usr" {
            bail!("the distribution's Rust cannot be used inside the tools tree; install Rust with rustup");
        }
        Ok(Self { cargo_home, rustup_home: rustup_home.is_dir().then_some(rustup_home), sysroot })
    }
}
