//! Reading and checking all sections of a seed at once: what the installer does
//! before it touches a drive, a first start before it applies anything, and the
//! tools before they write a medium.

use std::{collections::BTreeMap, fmt};

use api::v1::{InstallSeed, KernelConfig, NetworkConfig, ProviderConfig, SecurityConfig, StorageSeed, UpdateConfig};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    File, Section,
    decode::{self, Decoded},
    file::split,
    rules,
    section::{Applications, Incus, TrustedClients},
};

/// What a seed says. A section that is missing, or that cannot be read at all, is `None`. One that
/// breaks a rule is there as it was written, and the report says so.
#[derive(Debug, Default)]
pub struct Contents {
    /// Where to install to. Its presence makes a medium install.
    pub install: Option<InstallSeed>,
    /// What to run.
    pub applications: Option<Applications>,
    /// The first settings of Incus.
    pub incus: Option<Incus>,
    /// Consoles.
    pub kernel: Option<KernelConfig>,
    /// The network.
    pub network: Option<NetworkConfig>,
    /// The first settings of Migration Manager.
    pub migration_manager: Option<TrustedClients>,
    /// The first settings of Operations Center.
    pub operations_center: Option<TrustedClients>,
    /// Where updates come from.
    pub provider: Option<ProviderConfig>,
    /// Certificate authorities to trust.
    pub security: Option<SecurityConfig>,
    /// The configuration of each optional service, by its name.
    pub services: Option<BTreeMap<String, Value>>,
    /// Pools to create.
    pub storage: Option<StorageSeed>,
    /// When updates are applied.
    pub update: Option<UpdateConfig>,
}

impl Contents {
    /// PEM certificates of the clients that may manage the machine, of every
    /// section that names any: fleet managers write all sections, most of them
    /// empty, so that the sections are no choice. What is no certificate is
    /// left out; the report tells of it.
    pub fn trusted_clients(&self) -> Vec<String> {
        let preseed = self.incus.iter().filter_map(|incus| incus.preseed.as_ref());
        let incus =
            preseed.flat_map(|preseed| &preseed.certificates).filter(|certificate| certificate.kind == "client");
        let managers = [&self.operations_center, &self.migration_manager].into_iter().flatten();
        let clients = incus
            .map(|client| rules::in_pem(&client.certificate))
            .chain(managers.flat_map(|manager| manager.trusted_client_certificates.iter().cloned()));
        clients.filter(|client| values::certificate_der(client).is_ok()).collect()
    }
}

/// Something in a seed that a person should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The key in it, with those above it, joined by dots.
    pub key: Option<String>,
    /// What is wrong. Never quotes a value that may be a secret.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(out, "{}: {key}: {}", self.file, self.reason),
            None => write!(out, "{}: {}", self.file, self.reason),
        }
    }
}

/// What came of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// The sections as they were written.
    pub contents: Contents,
    /// What must be mended before the seed can be used.
    pub errors: Vec<Finding>,
    /// What is passed over.
    pub warnings: Vec<Finding>,
}

impl Report {
    /// Whether a section must not be used as it is.
    #[must_use]
    pub fn has_errors(&self, section: Section) -> bool {
        self.errors.iter().any(|finding| Section::of_file(&finding.file) == Some(section))
    }
}

/// What the rules of one section say. A key with nothing in front of it is the
/// document itself.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: Vec<(String, String)>,
    pub(crate) warnings: Vec<(String, String)>,
}

impl Verdict {
    pub(crate) fn error(&mut self, key: impl Into<String>, reason: impl fmt::Display) {
        self.errors.push((key.into(), reason.to_string()));
    }

    pub(crate) fn warn(&mut self, key: impl Into<String>, reason: impl fmt::Display) {
        self.warnings.push((key.into(), reason.to_string()));
    }
}

/// Reads and checks every section. Of several files of one section the first
/// one counts.
#[must_use]
pub fn check(files: &[File]) -> Report {
    let mut check = Check { files, report: Report::default() };
    check.names();
    let contents = Contents {
        install: check.section(Section::Install, rules::install),
        applications: check.section(Section::Applications, rules::applications),
        incus: check.section(Section::Incus, rules::incus),
        kernel: check.section(Section::Kernel, rules::kernel),
        network: check.section(Section::Network, rules::network),
        migration_manager: check.section(Section::MigrationManager, rules::trusted_clients),
        operations_center: check.section(Section::OperationsCenter, rules::trusted_clients),
        provider: check.section(Section::Provider, rules::provider),
        security: check.section(Section::Security, rules::security),
        services: check.section(Section::Services, rules::services),
        storage: check.section(Section::Storage, rules::storage),
        update: check.section(Section::Update, rules::update),
    };
    let mut together = Verdict::default();
    rules::install_with_applications(&contents, &mut together);
    check.report.contents = contents;
    check.add(Section::Applications, together);
    check.report
}

struct Check<'a> {
    files: &'a [File],
    report: Report,
}

impl Check<'_> {
    /// Files that nobody will read are worth a word: most are misspelt.
    fn names(&mut self) {
        let mut seen: BTreeMap<Section, &str> = BTreeMap::new();
        for file in self.files {
            let reason = match Section::of_file(&file.name) {
                None => "is not read: no seed has a file of this name".to_owned(),
                Some(section) => match seen.get(&section) {
                    None => {
                        seen.insert(section, &file.name);
                        continue;
                    }
                    Some(first) => format!("is not read: `{first}` comes before it"),
                },
            };
            self.report.warnings.push(Finding { file: file.name.clone(), key: None, reason });
        }
    }

    /// Decodes a section and applies its rules.
    fn section<T: DeserializeOwned + Default>(
        &mut self,
        section: Section,
        rule: impl FnOnce(&mut T, &mut Verdict),
    ) -> Option<T> {
        let file = self.files.iter().find(|file| Section::of_file(&file.name) == Some(section))?;
        let (_, syntax) = split(&file.name)?;
        let mut verdict = Verdict::default();
        let value = match decode::decode::<T>(&file.content, syntax) {
            Ok(Decoded { mut value, unknown }) => {
                for key in unknown {
                    verdict.warn(key, "is not a key that is known here, and is passed over");
                }
                rule(&mut value, &mut verdict);
                Some(value)
            }
            // An empty file is a wish to install, nothing else.
            Err(decode::Error::Empty) if section == Section::Install => Some(T::default()),
            Err(decode::Error::Empty) => {
                verdict.error("", "the file is empty");
                None
            }
            Err(decode::Error::Content { key, reason }) => {
                verdict.error(key, reason);
                None
            }
        };
        self.add(section, verdict);
        value
    }

    fn add(&mut self, section: Section, verdict: Verdict) {
        let file = self.files.iter().find(|file| Section::of_file(&file.name) == Some(section));
        let file = file.map_or_else(|| section.name().to_owned(), |file| file.name.clone());
        let finding = |(key, reason): (String, String)| Finding {
            file: file.clone(),
            key: Some(key).filter(|key| !key.is_empty()),
            reason,
        };
        self.report.errors.extend(verdict.errors.into_iter().map(finding));
        self.report.warnings.extend(verdict.warnings.into_iter().map(finding));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<File> {
        list.iter().map(|(name, text)| File { name: (*name).into(), content: (*text).into() }).collect()
    }

    fn errors(list: &[(&str, &str)]) -> Vec<String> {
        check(&files(list)).errors.iter().map(ToString::to_string).collect()
    }

    fn warnings(list: &[(&str, &str)]) -> Vec<String> {
        let report = check(&files(list));
        assert_eq!(report.errors, []);
        report.warnings.iter().map(ToString::to_string).collect()
    }

    fn pem(name: &str) -> String {
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
    }

    fn json(text: &str) -> String {
        Value::from(text).to_string()
    }

    #[test]
    fn no_files_say_nothing() {
        let report = check(&[]);
        assert!(report.errors.is_empty() && report.warnings.is_empty() && report.contents.install.is_none());
    }

    #[test]
    fn empty_file_is_a_wish_to_install_and_an_error_everywhere_else() {
        for text in ["", " \n", "# nothing\n"] {
            let report = check(&files(&[("install.yaml", text)]));
            assert_eq!((report.contents.install, report.errors), (Some(InstallSeed::default()), vec![]), "{text:?}");
        }
        for text in ["{}", "null"] {
            assert!(check(&files(&[("install.json", text)])).contents.install.is_some(), "{text}");
        }
        for section in Section::ALL.into_iter().filter(|section| *section != Section::Install) {
            let name = format!("{}.yaml", section.name());
            assert_eq!(errors(&[(&name, "")]), [format!("{name}: the file is empty")]);
        }
    }

    #[test]
    fn first_file_of_a_section_counts_and_the_others_are_named() {
        let list = [
            ("install.yaml", "force_reboot: yes"),
            ("install.json", r#"{"force_install":true}"#),
            ("netwrok.yaml", ""),
        ];
        let report = check(&files(&list));
        let install = report.contents.install.unwrap();
        assert!(install.force_reboot && !install.force_install);
        assert_eq!(
            report.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "install.json: is not read: `install.yaml` comes before it",
                "netwrok.yaml: is not read: no seed has a file of this name"
            ]
        );
    }

    #[test]
    fn seeds_of_the_fleet_manager_with_zero_values_are_right() {
        let list = [
            ("applications.yaml", "version: \"1\"\napplications:\n- name: incus\n"),
            ("incus.yaml", "version: \"1\"\napply_defaults: false\npreseed: null\n"),
            (
                "install.yaml",
                "version: \"\"\nforce_install: false\nforce_install_confirmation: \"\"\nforce_reboot: false\nsecurity: null\ntarget: null\n",
            ),
            (
                "migration-manager.yaml",
                "version: \"\"\napply_defaults: false\ntrusted_client_certificates: []\npreseed: null\n",
            ),
            ("network.yaml", "version: \"\"\n"),
            (
                "operations-center.yaml",
                "version: \"\"\napply_defaults: false\ntrusted_client_certificates: []\npreseed: null\n",
            ),
            (
                "provider.yaml",
                "version: \"1\"\nname: operations-center\nconfig:\n  server_url: https://oc.example:8443\n  server_token: x\n",
            ),
            ("security.yaml", "version: \"1\"\ncustom_ca_certs: []\nencryption_recovery_keys: []\n"),
            ("update.yaml", "version: \"1\"\nauto_reboot: false\nchannel: stable\ncheck_frequency: never\n"),
        ];
        let report = check(&files(&list));
        assert_eq!((report.errors, report.warnings), (vec![], vec![]));
        assert_eq!(report.contents.install, Some(InstallSeed::default()));
        assert_eq!(report.contents.provider.unwrap().name, "operations-center");
    }

    #[test]
    fn null_target_differs_from_an_empty_one() {
        let target = |text: &str| check(&files(&[("install.json", text)])).contents.install.unwrap().target;
        assert_eq!(target(r#"{"target":null}"#), None);
        assert_eq!(target(r#"{"target":{}}"#), Some(api::v1::InstallTarget::default()));
    }

    /// Each file with the one mistake in it, and the key that the report must name.
    const MISTAKES: &[(&str, &str, &str)] = &[
        ("install.yaml", "target: {max_size: foobar}", "target.max_size: invalid size \"foobar\""),
        ("install.yaml", "target: {min_size: bizbaz}", "target.min_size: invalid size"),
        ("install.yaml", "target: {min_size: 2GiB, max_size: 1GiB}", "target.min_size: is larger than `max_size`"),
        ("install.yaml", "target: {sort_order: foobar}", "target.sort_order: unsupported sort order 'foobar'"),
        ("install.yaml", "security: {missing_tpm: true, missing_secure_boot: true}", "security: `missing_tpm` and"),
        ("install.yaml", "force_install: maybe", "force_install: invalid type"),
        ("install.json", "{", "EOF while parsing"),
        (
            "applications.json",
            r#"{"applications":[{"name":"incus"},{"name":"foo"}]}"#,
            "applications.1.name: unknown application 'foo'",
        ),
        (
            "applications.json",
            r#"{"applications":[{"name":"incus"},{"name":"operations-center"}]}"#,
            "applications: only one of incus, operations-center",
        ),
        (
            "incus.yaml",
            "preseed: {certificates: [{type: client, certificate: x}]}",
            "preseed.certificates.0.certificate: is not a PEM block",
        ),
        (
            "migration-manager.yaml",
            "trusted_client_certificates: [x]",
            "trusted_client_certificates.0: is not a PEM block",
        ),
        ("kernel.yaml", "console: [{device: ttyS0}]", "console.0.device: is not the path"),
        ("kernel.yaml", "console: [{device: /dev/../etc/passwd}]", "console.0.device: is not the path"),
        (
            "kernel.yaml",
            "console: [{device: /dev/ttyS0, baud_rate: 12345}]",
            "console.0.baud_rate: 12345 is not a speed",
        ),
        ("network.yaml", "interfaces: [{name: lan, hwaddr: eth0, addresses: [300.1.1.1/8]}]", "interface 0"),
        ("network.yaml", "interfaces: {}", "interfaces: invalid type"),
        ("provider.yaml", "name: ftp", "name: unknown provider 'ftp'"),
        ("provider.yaml", "name: images\nconfig: {server_url: example.org}", "config.server_url: is not a URL"),
        ("provider.yaml", "name: images\nconfig: {update_ca: x}", "config.update_ca: is not a PEM block"),
        (
            "security.yaml",
            "encryption_recovery_keys: [hunter2]",
            "encryption_recovery_keys: recovery keys cannot be set by seed",
        ),
        ("security.yaml", "custom_ca_certs: [x]", "custom_ca_certs.0: is not a PEM block"),
        ("services.yaml", "ovn: 5", "ovn: is not an object"),
        (
            "storage.yaml",
            "pools: [{name: 1st, type: zfs-raid0, devices: [/dev/a]}]",
            "pools.0.name: is not a name for a pool",
        ),
        ("storage.yaml", "pools: [{name: data, type: raid9, devices: [/dev/a]}]", "pools.0.type: 'raid9' is none of"),
        ("storage.yaml", "pools: [{name: data, type: zfs-raid0}]", "pools.0.devices: a pool needs"),
        ("update.yaml", "check_frequency: daily", "invalid update frequency"),
        ("update.yaml", "maintenance_windows: [{start_hour: 25}]", "maintenance window 0: start_hour 25"),
    ];

    #[test]
    fn every_mistake_is_told_with_file_key_and_reason_and_without_secrets() {
        for (name, text, expected) in MISTAKES {
            let found = errors(&[(name, text)]);
            assert!(found.len() == 1 && found[0].starts_with(&format!("{name}: {expected}")), "{text}: {found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let list: Vec<_> = [3, 7, 11, 14].map(|index: usize| (MISTAKES[index].0, MISTAKES[index].1)).to_vec();
        assert_eq!(errors(&list).len(), 4);
    }

    #[test]
    fn what_is_passed_over_is_told() {
        assert_eq!(
            warnings(&[("install.yaml", "force_reboots: true\ntarget: {size: 1}")]),
            [
                "install.yaml: force_reboots: is not a key that is known here, and is passed over",
                "install.yaml: target.size: is not a key that is known here, and is passed over"
            ]
        );
        assert_eq!(warnings(&[("install.yaml", "force_install_confirmation: abc")]).len(), 1);
        assert_eq!(warnings(&[("kernel.json", r#"{"blacklist_modules":["x"]}"#)]).len(), 1);
        let report = check(&files(&[("services.yaml", "version: 1\novn: {enabled: yes}\nceph: {}\nlvm: null")]));
        assert_eq!(report.warnings.len(), 1);
        assert_eq!(report.contents.services.unwrap().into_keys().collect::<Vec<_>>(), ["ovn"]);
    }

    #[test]
    fn installation_without_applications_is_refused_and_a_start_without_them_is_not() {
        let none = ("applications.json", r#"{"applications":[]}"#);
        assert_eq!(errors(&[none]), Vec::<String>::new());
        let expected = "applications.json: applications: at least one application must be defined";
        assert_eq!(errors(&[("install.yaml", ""), none]), [expected]);
        assert_eq!(errors(&[("install.yaml", "")]), Vec::<String>::new());
    }

    #[test]
    fn clients_of_every_section_are_found_and_bad_ones_left_out() {
        let (a, b, c, d) = (pem("a"), pem("b"), pem("c"), pem("d"));
        let bare: String = b.lines().filter(|line| !line.starts_with("---")).collect();
        let incus = format!(
            r#"{{"preseed":{{"certificates":[{{"type":"client","certificate":{}}},{{"type":"metrics","certificate":{}}},{{"type":"client","certificate":{}}},{{"type":"client","certificate":"x"}}]}}}}"#,
            json(&a),
            json(&d),
            json(&bare),
        );
        let center = format!(r#"{{"trusted_client_certificates":[{}]}}"#, json(&c));
        let report = check(&files(&[("operations-center.json", &center), ("incus.json", &incus)]));
        let ders = |clients: &[String]| -> Vec<_> {
            clients.iter().map(|client| values::certificate_der(client).unwrap()).collect()
        };
        assert_eq!(ders(&report.contents.trusted_clients()), ders(&[a, b, c]));
        assert!(report.has_errors(Section::Incus) && !report.has_errors(Section::OperationsCenter));
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(section in 0..12_usize, yaml: bool, text in "[ -~\n]{0,200}") {
            let extension = if yaml { "yaml" } else { "json" };
            let _ = check(&files(&[(&format!("{}.{extension}", Section::ALL[section].name()), &text)]));
        }

        #[test]
        fn no_bytes_panic(section in 0..12_usize, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let name = format!("{}.yaml", Section::ALL[section].name());
            let _ = check(&[File { name, content: bytes }]);
        }
    }
}
