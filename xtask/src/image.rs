//! Building the disk image.
//!
//! `image/` describes it to mkosi; this module adds what differs from build to build and keeps
//! results in the cache folder, under a key of everything that goes in. The version is not part
//! of the key: nothing changed means the same image.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, ValueEnum};
use testkit::image::Image;

use crate::{
    archive::{Archive, Lists},
    cmd::Cmd,
    paths::{Key, Paths, sorted_entries},
    pki::Pki,
    progress::Steps,
    zfs::{Kernel, Modules},
};

/// Name of the system, first part of its file and partition names.
const OS_NAME: &str = "IncusOS";
/// The program that holds every service, and the names it goes by.
const PROGRAM: &str = "incus-os";
const SERVICES: [&str; 8] = [
    "incus-osd",
    "incus-osd-gateway",
    "incus-osd-installer",
    "incus-osd-network",
    "incus-osd-storage",
    "incus-osd-security",
    "incus-osd-update",
    "incus-osd-console",
];
/// Our program in the initrd, and its package.
const INITRD_PROGRAM: &str = "incus-os-initrd";
const INITRD_PACKAGE: &str = "initrd";
/// Sectors of a CD-ROM.
const ISO_SECTOR: u64 = 2048;
/// What a test image tells on its serial console: kernel, units and journal. Part of the signed
/// command line, because the disk encryption is bound to it.
const TEST_COMMAND_LINE: &str = "console=ttyS0 loglevel=5 systemd.journald.forward_to_console=1";
/// The harness's program in images of the test flavour; package and binary share the name.
const AGENT: &str = "test-agent";
/// How many images to keep.
const KEPT: usize = 4;
/// A kernel image larger than this is a mistake: the firmware reads all of it at each boot.
const UKI_LIMIT: u64 = 60_000_000;

/// Options of `cargo xtask image`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// Version of the image, twelve digits; the time of the build unless given
    #[arg(long, value_name = "YYYYMMDDhhmm", value_parser = parse_version)]
    pub(crate) version: Option<String>,
    /// What the image is for
    #[arg(long, value_enum, default_value_t)]
    pub(crate) flavour: Flavour,
    /// Leave our services out: the plain system that figures are compared with
    #[arg(long)]
    pub(crate) bare: bool,
}

/// What an image is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    /// The system as it is released
    #[default]
    Product,
    /// With an agent that runs whatever the test harness asks for
    Test,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Test => "test",
        }
    }
}

/// Name of the description beside the image.
pub(crate) const DESCRIPTION: &str = "image.json";

/// Builds the image unless the same one is cached. Returns it with the path of its description.
pub(crate) fn build(
    paths: &Paths,
    archive: &Archive,
    steps: &Steps,
    options: &Options,
) -> Result<(Image, Utf8PathBuf)> {
    let pki = Pki::ensure(paths, steps)?;
    let program = match options.bare {
        true => None,
        false => Some(build_program(paths, steps, "services", "multicall", PROGRAM)?),
    };
    let initrd_program = build_program(paths, steps, "initrd program", INITRD_PACKAGE, INITRD_PROGRAM)?;
    let agent = match options.flavour {
        Flavour::Product => None,
        Flavour::Test => Some(build_program(paths, steps, "test agent", AGENT, AGENT)?),
    };
    let images = paths.cache.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {images}"))?;
    let lock = File::create(images.join("lock")).context("cannot create the lock file of the images")?;
    lock.lock().context("cannot wait for another build of an image")?;

    let lists = steps.quiet("package lists", |log| Lists::open(&paths.cache, archive, log))?;
    let inputs = Inputs {
        paths,
        archive,
        steps,
        pki: &pki,
        program: program.as_deref(),
        initrd_program: &initrd_program,
        agent: agent.as_deref(),
        archive_key: lists.key()?,
        options,
    };
    let mut name = inputs.key()?;
    if let Some(version) = &options.version {
        name = format!("{name}-{version}");
    }
    let dir = images.join(&name);
    let description = dir.join(DESCRIPTION);
    if !description.exists() {
        inputs.build(&lists, &dir)?;
        forget_old(&images, &name)?;
    }
    let text = fs::read(&description).with_context(|| format!("cannot read {description}"))?;
    let info = serde_json::from_slice(&text).with_context(|| format!("{description} is damaged; delete {dir}"))?;
    Ok((info, description))
}

/// One of our programs, built against the libraries of the image.
fn build_program(paths: &Paths, steps: &Steps, step: &str, package: &str, program: &str) -> Result<Utf8PathBuf> {
    steps.step(step, Duration::from_mins(6), |log| {
        Cmd::new("cargo")
            .args(["build", "--release", "--locked", "--package", package, "--bin", program])
            .dir(&paths.checkout)
            .run_logged(log)
    })?;
    Ok(paths.target().join("release").join(program))
}

/// Everything that goes into an image.
struct Inputs<'a> {
    paths: &'a Paths,
    archive: &'a Archive,
    steps: &'a Steps,
    pki: &'a Pki,
    program: Option<&'a Utf8Path>,
    initrd_program: &'a Utf8Path,
    agent: Option<&'a Utf8Path>,
    archive_key: String,
    options: &'a Options,
}

impl Inputs<'_> {
    fn key(&self) -> Result<String> {
        let mut key = Key::default()
            .add("archive", &self.archive_key)
            .add("keys", self.pki.fingerprint()?)
            // How the pieces are put together.
            .add("staging", include_str!("image.rs"))
            .add("flavour", self.options.flavour.name())
            .add("bare", if self.options.bare { "yes" } else { "no" });
        if let Some(program) = self.program {
            key = key.add_path(program)?.add_path(&self.paths.checkout.join("systemd-units"))?;
        }
        for entry in sorted_entries(&self.definition())?.iter().filter(|entry| **entry != self.pki.dir()) {
            key = key.add_path(entry)?;
        }
        if let Some(agent) = self.agent {
            key = key.add_path(agent)?;
        }
        Ok(key.add_path(self.initrd_program)?.finish())
    }

    fn definition(&self) -> Utf8PathBuf {
        self.paths.checkout.join("image")
    }

    fn build(&self, lists: &Lists, dir: &Utf8Path) -> Result<()> {
        let version = match &self.options.version {
            Some(version) => version.clone(),
            None => jiff::Timestamp::now().strftime("%Y%m%d%H%M").to_string(),
        };
        let kernel = Kernel::of_archive(lists)?;
        let zfs = lists.version("zfs-dkms")?;
        ensure!(
            zfs == lists.version("zfsutils-linux")?,
            "the archive's zfs-dkms and zfsutils-linux have different versions"
        );
        let modules = Modules::ensure(self.paths, lists, &kernel, &zfs, self.steps)?;

        let work = self.paths.cache.join("work");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("cannot remove {work}"))?;
        }
        let sandbox = work.join("sandbox");
        self.archive.write_apt_config(&sandbox)?;
        let initrd = self.initrd(&sandbox, &work)?;
        let output = work.join("output");
        self.steps.step("disk image", Duration::from_mins(4), |log| {
            let extra = work.join("extra");
            self.stage(&extra, &version)?;
            modules.stage(&kernel, self.pki, &extra.join("usr"), log)?;
            self.mkosi(&self.definition(), &sandbox, &work, &output)?
                .args(["--image-version", &version])
                .args(["--extra-tree", extra.as_str()])
                .args(["--initrd", initrd.as_str()])
                .args(["--package", &format!("{}={}", kernel.package, kernel.version)])
                .args(["--secure-boot-key", self.pki.key("db").as_str()])
                .args(["--secure-boot-certificate", self.pki.certificate("db").as_str()])
                .args(["--sign-expected-pcr-key", self.pki.key("pcr").as_str()])
                .args(["--sign-expected-pcr-certificate", self.pki.certificate("pcr").as_str()])
                .args(["--verity-key", self.pki.key("verity").as_str()])
                .args(["--verity-certificate", self.pki.certificate("verity").as_str()])
                .args(self.flavour_arguments())
                .arg("build")
                .run_logged(log)
        })?;
        self.finish(&output, dir, &version)?;
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {work}"))
    }

    fn flavour_arguments(&self) -> Vec<&str> {
        match self.options.flavour {
            Flavour::Product => Vec::new(),
            Flavour::Test => vec!["--kernel-command-line", TEST_COMMAND_LINE],
        }
    }

    /// The initrd without kernel modules; it depends on the archive, its own folder and our program.
    fn initrd(&self, sandbox: &Utf8Path, work: &Utf8Path) -> Result<Utf8PathBuf> {
        let definition = self.definition().join("initrd");
        let key = Key::default().add("archive", &self.archive_key).add_path(&definition)?;
        let key = key.add_path(self.initrd_program)?.finish();
        let dir = self.paths.cache.join("initrds").join(key);
        if !dir.exists() {
            let output = work.join("initrd");
            self.steps.step("initrd", Duration::from_mins(2), |log| {
                let extra = work.join("initrd-extra");
                let programs = extra.join("usr/lib").join(PROGRAM);
                fs::create_dir_all(&programs).with_context(|| format!("cannot create {programs}"))?;
                fs::copy(self.initrd_program, programs.join(INITRD_PROGRAM))
                    .with_context(|| format!("cannot copy {}", self.initrd_program))?;
                self.mkosi(&definition, sandbox, work, &output)?
                    .args(["--extra-tree", extra.as_str()])
                    .arg("build")
                    .run_logged(log)
            })?;
            fs::create_dir_all(dir.with_file_name("")).with_context(|| format!("cannot create the parent of {dir}"))?;
            fs::rename(&output, &dir).with_context(|| format!("cannot rename {output}"))?;
        }
        only_file(&dir, |name| name.ends_with(".cpio.zst"))
    }

    /// A call of mkosi with what all its images share.
    fn mkosi(&self, definition: &Utf8Path, sandbox: &Utf8Path, work: &Utf8Path, output: &Utf8Path) -> Result<Cmd> {
        // Trees installed from an older archive would bring its packages back.
        let cache = self.paths.cache.join("mkosi");
        let trees = cache.join(&self.archive_key);
        if let Ok(entries) = sorted_entries(&cache) {
            for entry in entries.iter().filter(|entry| **entry != trees && entry.file_name() != Some("packages")) {
                fs::remove_dir_all(entry).with_context(|| format!("cannot remove {entry}"))?;
            }
        }
        let packages = cache.join("packages");
        let workspace = work.join("workspace");
        for dir in [&trees, &packages, &workspace, &output.to_owned()] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
        }
        Ok(Cmd::new("mkosi")
            .args(["--directory", definition.as_str()])
            .args(["--force", "--sandbox-tree", sandbox.as_str()])
            .args(["--output-directory", output.as_str()])
            .args(["--workspace-directory", workspace.as_str()])
            .args(["--cache-directory", trees.as_str()])
            .args(["--package-cache-directory", packages.as_str()]))
    }

    /// Collects what the image takes from this workspace.
    fn stage(&self, root: &Utf8Path, version: &str) -> Result<()> {
        let lib = root.join("usr/lib");
        fs::create_dir_all(&lib).with_context(|| format!("cannot create {lib}"))?;
        if let Some(program) = self.program {
            self.stage_services(program, &root.join("usr"))?;
        }
        if let Some(agent) = self.agent {
            copy_tree(&self.definition().join("flavours").join(self.options.flavour.name()), root)?;
            let programs = lib.join(PROGRAM);
            fs::create_dir_all(&programs).with_context(|| format!("cannot create {programs}"))?;
            fs::copy(agent, programs.join(AGENT)).with_context(|| format!("cannot copy {agent}"))?;
        }
        self.pki.stage_enrolment(&root.join("efi"))?;
        self.pki.stage_certificates(&root.join("usr"))?;
        fs::write(lib.join("os-release"), os_release(version)).context("cannot write os-release")
    }

    fn stage_services(&self, program: &Utf8Path, usr: &Utf8Path) -> Result<()> {
        let programs = usr.join("lib").join(PROGRAM);
        fs::create_dir_all(&programs).with_context(|| format!("cannot create {programs}"))?;
        fs::copy(program, programs.join(PROGRAM)).with_context(|| format!("cannot copy {program}"))?;
        for service in SERVICES {
            symlink(PROGRAM, programs.join(service)).with_context(|| format!("cannot link {service}"))?;
        }
        for (from, to) in units(&self.paths.checkout.join("systemd-units"))? {
            copy_tree(&from, &usr.join(to))?;
        }
        Ok(())
    }

    /// Checks the result and gives it its final place.
    fn finish(&self, output: &Utf8Path, dir: &Utf8Path, version: &str) -> Result<()> {
        let stem = format!("{OS_NAME}_{version}");
        let part = |kind: &str| {
            let prefix = format!("{stem}.usr-x86-64{kind}.");
            only_file(output, |name| name.starts_with(&prefix) && name.ends_with(".raw"))
        };
        let found = [
            only_file(output, |name| name == format!("{stem}.raw"))?,
            only_file(output, |name| name == format!("{stem}.efi"))?,
            part("")?,
            part("-verity")?,
            part("-verity-sig")?,
        ];
        let size = fs::metadata(&found[1]).with_context(|| format!("cannot look at {}", found[1]))?.len();
        ensure!(size <= UKI_LIMIT, "the kernel image has {size} bytes, more than {UKI_LIMIT}");
        let iso = output.join(format!("{stem}.iso"));
        self.steps.step("CD-ROM image", Duration::from_secs(20), |_| for_cd_rom(&found[0], &iso))?;
        let in_place = |file: &Utf8Path| dir.join(file.file_name().unwrap_or_default()).into_std_path_buf();
        let [disk_image, uki, usr, usr_verity, usr_verity_sig] = found.map(|file| in_place(&file));
        let iso_image = in_place(&iso);
        let info = Image {
            os_name: OS_NAME.to_owned(),
            os_version: version.to_owned(),
            disk_image,
            iso_image,
            uki,
            usr,
            usr_verity,
            usr_verity_sig,
            pki_dir: self.pki.dir().as_std_path().to_owned(),
        };
        fs::write(output.join(DESCRIPTION), serde_json::to_vec_pretty(&info)?).context("cannot describe the image")?;
        fs::rename(output, dir).with_context(|| format!("cannot rename {output}"))
    }
}

/// Makes the image for CD-ROMs, which have larger sectors.
fn for_cd_rom(disk_image: &Utf8Path, iso: &Utf8Path) -> Result<()> {
    let source = File::open(disk_image).with_context(|| format!("cannot open {disk_image}"))?;
    let size = source.metadata().with_context(|| format!("cannot look at {disk_image}"))?.len();
    let target = File::options().read(true).write(true).create_new(true).open(iso);
    let target = target.with_context(|| format!("cannot create {iso}"))?;
    // The second partition table is larger by a few sectors, and what lies between partitions too.
    target.set_len((size + (8 << 20)).next_multiple_of(ISO_SECTOR)).with_context(|| format!("cannot grow {iso}"))?;
    let copy = media::Copy {
        source: &source,
        target: &target,
        becomes: media::Target::Medium,
        sector_size: ISO_SECTOR,
        seed: None,
    };
    media::copy(&copy, &mut |_| ()).with_context(|| format!("cannot make {iso}"))?;
    Ok(())
}

/// Where the folders of `systemd-units/` belong below `/usr`: `lib/systemd`, except for those
/// that other programs read. `image/README.md` shows the same table.
fn units(dir: &Utf8Path) -> Result<Vec<(Utf8PathBuf, Utf8PathBuf)>> {
    let place = |name: &str| match name {
        "sysusers.d" | "tmpfiles.d" | "sysctl.d" | "modules-load.d" | "udev" => format!("lib/{name}"),
        "dbus-1" | "polkit-1" => format!("share/{name}"),
        _ => format!("lib/systemd/{name}"),
    };
    let entries = sorted_entries(dir)?.into_iter().filter(|entry| entry.is_dir());
    Ok(entries.map(|entry| (entry.clone(), place(entry.file_name().unwrap_or_default()).into())).collect())
}

fn os_release(version: &str) -> String {
    format!(
        "PRETTY_NAME=\"{OS_NAME} {version}\"\nNAME=\"{OS_NAME}\"\nVERSION=\"{version}\"\nID={OS_NAME}\nID_LIKE=debian\n\
         IMAGE_ID=\"{OS_NAME}\"\nIMAGE_VERSION=\"{version}\"\n"
    )
}

fn parse_version(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("a version has twelve digits: year, month, day, hour, minute".to_owned())
    }
}

fn only_file(dir: &Utf8Path, wanted: impl Fn(&str) -> bool) -> Result<Utf8PathBuf> {
    let mut found = sorted_entries(dir)?.into_iter().filter(|entry| entry.file_name().is_some_and(&wanted));
    let first = found.next().ok_or_else(|| anyhow!("the build left an expected file out of {dir}"))?;
    if let Some(second) = found.next() {
        bail!("the build made both {first} and {second}");
    }
    Ok(first)
}

/// Copies a folder with its links; existing folders are merged.
fn copy_tree(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {to}"))?;
    for entry in sorted_entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        let kind = fs::symlink_metadata(&entry).with_context(|| format!("cannot look at {entry}"))?.file_type();
        if kind.is_dir() {
            copy_tree(&entry, &target)?;
        } else if kind.is_symlink() {
            let points_to = fs::read_link(&entry).with_context(|| format!("cannot read {entry}"))?;
            symlink(points_to, &target).with_context(|| format!("cannot link {target}"))?;
        } else {
            fs::copy(&entry, &target).with_context(|| format!("cannot copy {entry}"))?;
        }
    }
    Ok(())
}

/// Removes all but the newest images; each takes half a gigabyte.
fn forget_old(images: &Utf8Path, current: &str) -> Result<()> {
    let mut all: Vec<_> = sorted_entries(images)?
        .into_iter()
        .filter(|entry| entry.is_dir() && entry.file_name() != Some(current))
        .filter_map(|entry| Some((fs::metadata(&entry).ok()?.modified().ok()?, entry)))
        .collect();
    all.sort();
    let excess = all.len().saturating_sub(KEPT - 1);
    for (_, entry) in all.into_iter().take(excess) {
        fs::remove_dir_all(&entry).with_context(|| format!("cannot remove {entry}"))?;
    }
    Ok(())
}

/// Prints what a person wants to know about an image.
pub(crate) fn describe(info: &Image) -> Result<()> {
    println!("{} {}", info.os_name, info.os_version);
    for (what, file) in [("disk image", &info.disk_image), ("kernel image", &info.uki), ("/usr", &info.usr)] {
        let bytes = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
        println!("  {what}: {} ({} MB)", file.display(), bytes / 1_000_000);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_twelve_digits() {
        assert!(parse_version("202611220930").is_ok());
        for bad in ["", "2026", "20261122093a", "2026112209300"] {
            assert!(parse_version(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn old_images_go_and_the_current_one_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let images = Utf8Path::from_path(dir.path()).expect("UTF-8");
        for name in ["a", "b", "c", "d", "e", "f"] {
            fs::create_dir(images.join(name)).expect("create");
        }
        forget_old(images, "a").expect("works");
        assert_eq!(sorted_entries(images).expect("lists").len(), KEPT);
        assert!(images.join("a").exists());
    }

    #[test]
    fn folders_of_units_go_where_their_readers_look() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = Utf8Path::from_path(dir.path()).expect("UTF-8");
        for name in ["system", "tmpfiles.d", "dbus-1", "network"] {
            fs::create_dir(root.join(name)).expect("create");
        }
        let places: Vec<_> = units(root).expect("lists").into_iter().map(|(_, to)| to.into_string()).collect();
        assert_eq!(places, ["share/dbus-1", "lib/systemd/network", "lib/systemd/system", "lib/tmpfiles.d"]);
    }
}
