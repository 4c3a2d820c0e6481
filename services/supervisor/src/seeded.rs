//! What is taken from the seed: the clients to trust, and sections for other
//! services.

use std::fs::File;

use api::v1::{KernelConfig, NetworkConfig, ProviderConfig, SecurityConfig, UpdateConfig};

use seed::{Section, SeedError};

/// What a seed brings for the listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seeded {
    /// PEM certificates.
    pub(crate) clients: Vec<String>,
    /// What is wrong with the seed as a whole, one sentence each.
    pub(crate) errors: Vec<String>,
    /// What is passed over in it.
    pub(crate) warnings: Vec<String>,
}

/// Reads the seed on `device`; `None` when there is none on it.
pub(crate) fn clients(device: &File) -> Result<Option<Seeded>, SeedError> {
    let Some(files) = seed::read(device)? else {
        return Ok(None);
    };
    let report = seed::check(&files);
    let told = |findings: &[seed::Finding]| findings.iter().map(ToString::to_string).collect();
    Ok(Some(Seeded {
        clients: report.contents.trusted_clients(),
        errors: told(&report.errors),
        warnings: told(&report.warnings),
    }))
}

/// The sections that are taken over once, by the service that owns each. One that
/// is missing or wrong is `None`: the service has a default for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sections {
    pub(crate) kernel: Option<KernelConfig>,
    pub(crate) network: Option<NetworkConfig>,
    pub(crate) provider: Option<ProviderConfig>,
    pub(crate) security: Option<SecurityConfig>,
    pub(crate) update: Option<UpdateConfig>,
}

impl Sections {
    /// What is wrong with the seed is told by the listener, which reads it as well.
    pub(crate) fn read(device: &File) -> Self {
        let Ok(Some(files)) = seed::read(device) else { return Self::default() };
        let report = seed::check(&files);
        let is_right = |section| !report.has_errors(section);
        let contents = &report.contents;
        Self {
            kernel: contents.kernel.clone().filter(|_| is_right(Section::Kernel)),
            network: contents.network.clone().filter(|_| is_right(Section::Network)),
            provider: contents.provider.clone().filter(|_| is_right(Section::Provider)),
            security: contents.security.clone().filter(|_| is_right(Section::Security)),
            update: contents.update.clone().filter(|_| is_right(Section::Update)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn device(files: &[(&str, &str)]) -> File {
        let files: Vec<_> =
            files.iter().map(|(name, text)| seed::File { name: (*name).into(), content: (*text).into() }).collect();
        let mut device = tempfile::tempfile().unwrap();
        device.write_all(&seed::write(&files)).unwrap();
        device
    }

    #[test]
    fn clients_come_with_what_is_wrong_elsewhere() {
        let client = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        let center = serde_json::json!({ "trusted_client_certificates": [client] }).to_string();
        let found = clients(&device(&[
            ("operations-center.json", &center),
            ("network.yaml", "interfaces: 5"),
            ("update.yaml", "chanel: stable"),
        ]));
        let found = found.unwrap().unwrap();
        assert_eq!(found.clients, [client]);
        assert!(found.errors.len() == 1 && found.errors[0].starts_with("network.yaml: interfaces: "), "{found:?}");
        assert!(found.warnings.len() == 1 && found.warnings[0].starts_with("update.yaml: chanel: "), "{found:?}");
    }

    #[test]
    fn sections_are_taken_unless_they_are_wrong() {
        let ca = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        let right = serde_json::json!({ "version": "1", "custom_ca_certs": [ca] }).to_string();
        let found = Sections::read(&device(&[
            ("security.json", &right),
            ("network.yaml", "interfaces: 5"),
            ("kernel.yaml", "console: [{device: /dev/ttyS0, baud_rate: 115200}]"),
            ("update.yaml", "check_frequency: never"),
            ("provider.yaml", "name: images"),
        ]));
        assert_eq!(found.security.unwrap().custom_ca_certs, [ca]);
        assert_eq!(found.network, None);
        assert_eq!(found.kernel.unwrap().console[0].device, "/dev/ttyS0");
        assert_eq!(found.update.unwrap().check_frequency, "never");
        assert_eq!(found.provider.unwrap().name, "images");
        for wrong in [r#"{"custom_ca_certs":["x"]}"#, r#"{"encryption_recovery_keys":["correct-horse-battery"]}"#] {
            assert_eq!(Sections::read(&device(&[("security.json", wrong)])), Sections::default(), "{wrong}");
        }
        assert_eq!(Sections::read(&device(&[("network.yaml", "")])), Sections::default());
        assert_eq!(Sections::read(&tempfile::tempfile().unwrap()), Sections::default());
    }

    #[test]
    fn disk_without_a_seed_is_no_error() {
        assert_eq!(clients(&tempfile::tempfile().unwrap()).unwrap(), None);
    }

    #[test]
    fn damaged_archive_is_an_error() {
        let damaged = device(&[("incus.yaml", "apply_defaults: true")]);
        std::os::unix::fs::FileExt::write_all_at(&damaged, b"x", 0).unwrap();
        assert!(causes::chain(&clients(&damaged).unwrap_err()).contains("damaged at byte 0"));
    }
}
