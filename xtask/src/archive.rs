//! The package archive: which mirror this machine uses, and what it offers.
//!
//! No mirror is written in this tree. It is read from the machine's own apt configuration, so a
//! build works wherever `apt` works, and can be replaced by `--mirror`.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::{
    cmd::{Cmd, Log},
    paths::{Key, sorted_entries},
};

/// The Debian release that everything is built from.
pub(crate) const SUITE: &str = "trixie";
/// Environment variable with the address of the archive, like `--mirror`.
pub(crate) const MIRROR_ENV: &str = "INCUS_OS_MIRROR";
/// Environment variable with the address of the security archive.
const SECURITY_ENV: &str = "INCUS_OS_SECURITY_MIRROR";
/// Where Debian keeps its archive keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const COMPONENTS: &str = "main contrib non-free-firmware";
/// Package lists older than this are fetched again.
const FRESH: Duration = Duration::from_hours(24);

/// Addresses of the archive and the machine's transport settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Archive {
    main: String,
    security: Option<String>,
    /// Settings under `Acquire` that decide whether the mirror can be used at all.
    options: Vec<String>,
}

impl Archive {
    /// Reads the machine's apt configuration; `mirror` or the environment replaces it.
    pub(crate) fn of_this_machine(mirror: Option<&str>) -> Result<Self> {
        let sources = configured_sources(Utf8Path::new("/etc/apt"))?;
        let mirror = mirror.map(str::to_owned).or_else(|| std::env::var(MIRROR_ENV).ok());
        let security = std::env::var(SECURITY_ENV).ok();
        let options = Cmd::new("apt-config").args(["dump", "Acquire"]).read().unwrap_or_default();
        Ok(Self { options: transport_options(&options), ..Self::choose(&sources, mirror, security)? })
    }

    fn choose(sources: &[Source], mirror: Option<String>, security: Option<String>) -> Result<Self> {
        let find = |wanted: fn(&str) -> bool| {
            sources
                .iter()
                .find(|source| source.suites.iter().any(|suite| wanted(suite)))
                .map(|source| source.uri.clone())
        };
        let beside = |main: &str| {
            main.trim_end_matches('/').ends_with("/debian").then(|| format!("{}-security", main.trim_end_matches('/')))
        };
        let (main, security) = match mirror {
            Some(main) => (Some(main.clone()), security.or_else(|| beside(&main))),
            None => (find(is_release), security.or_else(|| find(is_security))),
        };
        let main = main.ok_or_else(|| {
            anyhow!("apt on this machine has no Debian archive; name one with --mirror URL or {MIRROR_ENV}=URL")
        })?;
        Ok(Self { main, security, options: Vec::new() })
    }

    /// One-line sources for [`SUITE`] and its companions.
    pub(crate) fn sources(&self) -> String {
        self.places()
            .flat_map(|(uri, suites)| {
                let line = |suite| format!("deb [signed-by={KEYRING}] {uri} {suite} {COMPONENTS}\n");
                suites.split(' ').map(line).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The same as [`Self::sources`], in the format of `*.sources`.
    fn deb822_sources(&self) -> String {
        self.places()
            .map(|(uri, suites)| {
                format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {COMPONENTS}\nSigned-By: {KEYRING}\n\n")
            })
            .collect()
    }

    /// Addresses with the suites they serve.
    fn places(&self) -> impl Iterator<Item = (&str, String)> {
        let main = (self.main.as_str(), format!("{SUITE} {SUITE}-updates {SUITE}-backports"));
        let security = self.security.as_deref().map(|uri| (uri, format!("{SUITE}-security")));
        std::iter::once(main).chain(security)
    }

    /// The machine's transport settings as an apt configuration file.
    pub(crate) fn options(&self) -> String {
        self.options.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Writes an apt configuration folder (`etc/apt`) below `root`.
    pub(crate) fn write_apt_config(&self, root: &Utf8Path) -> Result<()> {
        let apt = root.join("etc/apt");
        for dir in ["sources.list.d", "apt.conf.d", "preferences.d"] {
            fs::create_dir_all(apt.join(dir)).with_context(|| format!("cannot create {apt}/{dir}"))?;
        }
        for (name, text) in [
            // This name keeps mkosi from writing its own, with an archive that not every mirror has.
            ("sources.list.d/mkosi.sources", self.deb822_sources()),
            ("apt.conf.d/90-machine", self.options()),
            ("preferences.d/zfs.pref", ZFS_PIN.to_owned()),
        ] {
            fs::write(apt.join(name), text).with_context(|| format!("cannot write {apt}/{name}"))?;
        }
        Ok(())
    }
}

/// ZFS comes from backports: the release's own version is one series behind.
const ZFS_PIN: &str = "Package: src:zfs-linux\nPin: release n=trixie-backports\nPin-Priority: 900\n";

/// The package lists of [`SUITE`], kept in the cache folder.
#[derive(Debug)]
pub(crate) struct Lists {
    root: Utf8PathBuf,
}

impl Lists {
    /// Opens the lists, fetching them when there are none, or none of today.
    pub(crate) fn open(cache: &Utf8Path, archive: &Archive, log: &Log) -> Result<Self> {
        let lists = Self { root: cache.join("apt") };
        archive.write_apt_config(&lists.root)?;
        for dir in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(lists.root.join(dir)).with_context(|| format!("cannot create {}/{dir}", lists.root))?;
        }
        fs::write(lists.root.join("state/status"), "").context("cannot write an empty package status")?;
        let stamp = lists.root.join("fetched-from");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        let same_place = fs::read_to_string(&stamp).is_ok_and(|from| from == archive.sources());
        if !same_place || age.is_none_or(|age| age > FRESH) {
            // Without this, apt takes lists that it could not fetch for a warning.
            lists.apt("apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]).run_logged(log)?;
            fs::write(&stamp, archive.sources()).with_context(|| format!("cannot write {stamp}"))?;
        }
        Ok(lists)
    }

    fn apt(&self, program: &str) -> Cmd {
        let root = &self.root;
        Cmd::new(program)
            .args(["-o", &format!("Dir::Etc={root}/etc/apt")])
            .args(["-o", &format!("Dir::State={root}/state")])
            .args(["-o", &format!("Dir::State::status={root}/state/status")])
            .args(["-o", &format!("Dir::Cache={root}/cache")])
            // The lists belong to whoever runs this; apt would otherwise want its own user to
            // be able to write here.
            .args(["-o", "APT::Sandbox::User=root"])
    }

    /// The fields of the version of `package` that would be installed.
    fn show(&self, package: &str) -> Result<String> {
        let text = self.apt("apt-cache").args(["show", "--no-all-versions", package]).read()?;
        // `show` lists the highest version first only without pins; ask for the candidate.
        let policy = self.apt("apt-cache").args(["policy", package]).read()?;
        let candidate = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .filter(|version| *version != "(none)")
            .ok_or_else(|| anyhow!("the archive has no package {package}"))?;
        if field(&text, "Version") == Some(candidate) {
            return Ok(text);
        }
        self.apt("apt-cache").args(["show", &format!("{package}={candidate}")]).read()
    }

    /// The version of `package` that would be installed.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let text = self.show(package)?;
        Ok(field(&text, "Version").ok_or_else(|| anyhow!("{package} has no version"))?.to_owned())
    }

    /// The first dependency of `package` that starts with `prefix`: what a metapackage stands for.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = self.show(package)?;
        field(&text, "Depends")
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|item| item.split_whitespace().next())
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{package} depends on no {prefix}…"))
    }

    /// Downloads packages and unpacks them below `root`, without installing anything.
    pub(crate) fn unpack(&self, packages: &[String], root: &Utf8Path, log: &Log) -> Result<()> {
        let dir = root.join("debs");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir}"))?;
        self.apt("apt-get").arg("download").args(packages).dir(&dir).run_logged(log)?;
        for deb in sorted_entries(&dir)? {
            Cmd::new("dpkg-deb").args(["--extract", deb.as_str(), root.as_str()]).run_logged(log)?;
        }
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {dir}"))
    }

    /// What the archive offers right now; changes whenever any package does.
    pub(crate) fn key(&self) -> Result<String> {
        let mut key = Key::default();
        for entry in sorted_entries(&self.root.join("state/lists"))? {
            // Release files carry the hashes of all package lists. The mirror's address, which is
            // part of the file names, is no property of the content.
            if entry.as_str().ends_with("Release") {
                key = key.add("release", fs::read(&entry).with_context(|| format!("cannot read {entry}"))?);
            }
        }
        Ok(key.finish())
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
}

/// Every binary package source of an apt configuration folder, in the order apt reads them.
fn configured_sources(apt: &Utf8Path) -> Result<Vec<Source>> {
    let mut files = vec![apt.join("sources.list")];
    let parts = apt.join("sources.list.d");
    if parts.is_dir() {
        files.extend(sorted_entries(&parts)?);
    }
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let text = || fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
        match file.extension() {
            Some("list") => sources.extend(one_line_sources(&text()?)),
            Some("sources") => sources.extend(deb822_sources(&text()?)),
            _ => {}
        }
    }
    Ok(sources)
}

/// The format of `sources.list`: `deb [option=value …] URI suite component …`.
fn one_line_sources(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let rest = line.strip_prefix("deb")?;
            let rest = rest.starts_with([' ', '\t']).then(|| rest.trim_start())?;
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace();
            Some(Source { uri: words.next()?.to_owned(), suites: vec![words.next()?.to_owned()] })
        })
        .filter(usable)
        .collect()
}

/// The format of `*.sources`: paragraphs of fields, with continuation lines.
fn deb822_sources(text: &str) -> Vec<Source> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut paragraphs: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in lines {
        let Some(paragraph) = paragraphs.last_mut() else { continue };
        if line.trim().is_empty() {
            paragraphs.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = paragraph.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            paragraph.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    paragraphs
        .iter()
        .flat_map(|paragraph| {
            let words = |name: &str| {
                paragraph
                    .iter()
                    .find(|(field, _)| field == name)
                    .map(|(_, value)| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                    .unwrap_or_default()
            };
            let enabled = words("enabled").first().is_none_or(|value| value != "no" && value != "false");
            let binary = words("types").iter().any(|kind| kind == "deb");
            let uris = if enabled && binary { words("uris") } else { Vec::new() };
            uris.into_iter().map(move |uri| Source { uri, suites: words("suites") }).collect::<Vec<_>>()
        })
        .filter(usable)
        .collect()
}

/// A build in a fresh root can use network mirrors, not a CD in this machine's drive.
fn usable(source: &Source) -> bool {
    ["http://", "https://", "mirror://"].iter().any(|scheme| source.uri.starts_with(scheme))
}

/// Names of Debian releases, so that third-party repositories are not mistaken for the archive.
const RELEASES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

fn is_release(suite: &str) -> bool {
    RELEASES.contains(&suite)
}

fn is_security(suite: &str) -> bool {
    suite.strip_suffix("-security").is_some_and(is_release)
}

/// The lines of `apt-config dump Acquire` that say how to reach and to judge this mirror.
fn transport_options(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| {
            let name = line.to_ascii_lowercase();
            [
                "acquire::check-valid-until",
                "acquire::check-date",
                "acquire::http::",
                "acquire::https::",
                "acquire::retries",
            ]
            .iter()
            .any(|wanted| name.starts_with(wanted))
        })
        // Programs that find a proxy exist on this machine only.
        .filter(|line| !line.to_ascii_lowercase().contains("proxy-auto-detect"))
        .map(str::to_owned)
        .collect()
}

/// Refuses a machine whose archive keys cannot verify [`SUITE`].
pub(crate) fn check_keyring() -> Result<()> {
    if !Utf8Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing; install the package debian-archive-keyring");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment
URIs: http://one.example/debian
Suites: bookworm
 bookworm-updates
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm

Types: deb
URIs: http://two.example/sec
Suites: bookworm-security
";

    #[test]
    fn deb822_continuations_comments_and_disabled_entries() {
        let sources = deb822_sources(DEB822);
        let seen: Vec<_> = sources.iter().map(|source| (source.uri.as_str(), source.suites.len())).collect();
        assert_eq!(seen, [("http://one.example/debian", 2), ("http://two.example/sec", 1)]);
    }

    #[test]
    fn one_line_options_comments_and_other_schemes() {
        let text = "deb [arch=amd64 signed-by=/x] https://a.example/debian trixie main # here\n\
                    deb-src http://b.example/debian trixie main\ndeb cdrom:[disc]/ trixie main\n# deb http://c.example trixie main\n";
        assert_eq!(
            one_line_sources(text),
            [Source { uri: "https://a.example/debian".into(), suites: vec!["trixie".into()] }]
        );
    }

    #[test]
    fn third_party_repositories_are_not_the_archive() {
        let text = "deb https://vendor.example/apt tool-bookworm main\ndeb http://d.example/debian stable main\n";
        let archive = Archive::choose(&one_line_sources(text), None, None).expect("has an archive");
        assert_eq!((archive.main.as_str(), archive.security), ("http://d.example/debian", None));
    }

    #[test]
    fn mirror_option_brings_its_own_security_archive() {
        let archive = Archive::choose(&deb822_sources(DEB822), Some("http://m.example/debian/".into()), None)
            .expect("mirror given");
        assert_eq!(archive.security.as_deref(), Some("http://m.example/debian-security"));
    }

    #[test]
    fn machine_without_a_debian_archive_is_told_what_to_do() {
        let error = Archive::choose(&[], None, None).expect_err("nothing to choose");
        assert!(error.to_string().contains("--mirror"));
    }

    #[test]
    fn only_transport_options_are_taken_over() {
        let dump = "Acquire::Check-Date \"false\";\nAcquire::http::Proxy \"http://p.example\";\n\
                    Acquire::http::Proxy-Auto-Detect \"/usr/bin/x\";\nAcquire::GzipIndexes \"true\";\n";
        assert_eq!(transport_options(dump).len(), 2);
    }
}
