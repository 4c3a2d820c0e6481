//! The ZFS kernel modules.
//!
//! Built from Debian's module source against Debian's headers of the image's kernel, once per
//! pair of versions, and kept unsigned in the cache folder. Signing takes no time and happens for
//! each image, so that a new module key needs no new build.

use std::{fs, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    archive::Lists,
    cmd::{Cmd, Log},
    paths::{Paths, sorted_entries},
    pki::Pki,
    progress::Steps,
};

/// The two modules; everything else is linked into `zfs`.
const MODULES: [&str; 2] = ["spl.ko", "zfs.ko"];

/// Where Debian unpacks the parts of a kernel build, and where they refer to each other.
const SOURCES: &str = "usr/src";

/// The kernel of the image.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What `uname -r` prints.
    pub(crate) release: String,
    /// The package that brings it.
    pub(crate) package: String,
    /// Version of that package.
    pub(crate) version: String,
}

impl Kernel {
    /// The kernel that the archive's metapackage stands for.
    pub(crate) fn of_archive(lists: &Lists) -> Result<Self> {
        let package = lists.dependency("linux-image-amd64", "linux-image-")?;
        let release = package.strip_prefix("linux-image-").unwrap_or_default().to_owned();
        let version = lists.version(&package)?;
        Ok(Self { release, package, version })
    }
}

/// Unsigned modules for one kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    dir: Utf8PathBuf,
}

impl Modules {
    /// Builds the modules unless they are cached.
    pub(crate) fn ensure(paths: &Paths, lists: &Lists, kernel: &Kernel, zfs: &str, steps: &Steps) -> Result<Self> {
        let name = format!("zfs-{zfs}-linux-{}-{}", kernel.release, kernel.version).replace([':', '~', '+'], "_");
        let modules = Self { dir: paths.cache.join("modules").join(name) };
        if !modules.dir.exists() {
            steps.step("ZFS modules", Duration::from_mins(12), |log| modules.build(lists, kernel, zfs, log))?;
        }
        Ok(modules)
    }

    fn build(&self, lists: &Lists, kernel: &Kernel, zfs: &str, log: &Log) -> Result<()> {
        let work = self.dir.with_extension("build");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("cannot remove {work}"))?;
        }
        let flavour = format!("linux-headers-{}", kernel.release);
        let packages = [
            format!("{flavour}={}", kernel.version),
            format!("{}={}", lists.dependency(&flavour, "linux-headers-")?, kernel.version),
            format!("{}={}", lists.dependency(&flavour, "linux-kbuild-")?, kernel.version),
            format!("zfs-dkms={zfs}"),
        ];
        lists.unpack(&packages, &work, log)?;

        let common = packages[1].split('=').next().unwrap_or_default();
        let source = find(&work.join(SOURCES), "zfs-")?;
        let kbuild = find(&work.join("usr/lib"), "linux-kbuild-")?;
        // The headers refer to each other by absolute path: show them where they would be installed.
        let script = format!(
            "cd /{SOURCES}/{} && ./configure --with-config=kernel --with-linux=/{SOURCES}/{common} \
             --with-linux-obj=/{SOURCES}/{flavour} && make -j\"$(nproc)\"",
            source.file_name().unwrap_or_default(),
        );
        let kbuild_at = format!("/usr/lib/{}", kbuild.file_name().unwrap_or_default());
        Cmd::new("bwrap")
            .args(["--dev-bind", "/", "/", "--cap-add", "ALL"])
            .args(["--bind", work.join(SOURCES).as_str(), &format!("/{SOURCES}")])
            .args(["--ro-bind", kbuild.as_str(), &kbuild_at])
            .args(["bash", "-ec", &script])
            .run_logged(log)?;

        let done = self.dir.with_extension("new");
        fs::create_dir_all(&done).with_context(|| format!("cannot create {done}"))?;
        for module in MODULES {
            let built = source.join("module").join(module);
            ensure!(built.is_file(), "the ZFS build made no {built}");
            Cmd::new("strip")
                .args(["--strip-debug", "-o", done.join(module).as_str(), built.as_str()])
                .run_logged(log)?;
        }
        let signer = kbuild.join("scripts/sign-file");
        fs::copy(&signer, done.join("sign-file")).with_context(|| format!("cannot copy {signer}"))?;
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {work}"))?;
        fs::rename(&done, &self.dir).with_context(|| format!("cannot rename {done}"))
    }

    /// Puts signed copies where the kernel of the image looks for them.
    pub(crate) fn stage(&self, kernel: &Kernel, pki: &Pki, usr: &Utf8Path, log: &Log) -> Result<()> {
        let dir = usr.join(format!("lib/modules/{}/updates/dkms", kernel.release));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir}"))?;
        for module in MODULES {
            let target = dir.join(module);
            Cmd::new(self.dir.join("sign-file"))
                .args(["sha256", pki.key("module").as_str(), pki.certificate("module").as_str()])
                .args([self.dir.join(module).as_str(), target.as_str()])
                .run_logged(log)?;
            Cmd::new("xz").args(["--force", "--check=crc32", "--lzma2=dict=1MiB", target.as_str()]).run_logged(log)?;
        }
        Ok(())
    }
}

fn find(dir: &Utf8Path, prefix: &str) -> Result<Utf8PathBuf> {
    sorted_entries(dir)?
        .into_iter()
        .find(|entry| entry.file_name().is_some_and(|name| name.starts_with(prefix)))
        .ok_or_else(|| anyhow!("{dir} has no {prefix}…"))
}
