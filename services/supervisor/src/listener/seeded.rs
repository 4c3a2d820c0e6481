//! What is taken from the seed: the clients to trust, and sections for other
//! services.

use std::{error::Error as _, fs::File};

use api::v1::SecurityConfig;

use seed::SeedError;

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

/// The section of the security service; `None` when there is none, or a wrong one.
pub(crate) fn security(device: &File) -> Option<SecurityConfig> {
    let report = seed::check(&seed::read(device).ok()??);
    report.contents.security.clone().filter(|_| !report.has_errors(seed::Section::Security))
}

/// An error and its causes in one line.
pub(crate) fn reason(error: &SeedError) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
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
    fn section_of_the_security_service_is_taken_unless_it_is_wrong() {
        let ca = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        let right = serde_json::json!({ "version": "1", "custom_ca_certs": [ca] }).to_string();
        let found = security(&device(&[("security.json", &right), ("network.yaml", "interfaces: 5")]));
        assert_eq!(found.unwrap().custom_ca_certs, [ca]);
        for wrong in [r#"{"custom_ca_certs":["x"]}"#, r#"{"encryption_recovery_keys":["correct-horse-battery"]}"#] {
            assert_eq!(security(&device(&[("security.json", wrong)])), None, "{wrong}");
        }
        assert_eq!(security(&device(&[("network.yaml", "")])), None);
        assert_eq!(security(&tempfile::tempfile().unwrap()), None);
    }

    #[test]
    fn disk_without_a_seed_is_no_error() {
        assert_eq!(clients(&tempfile::tempfile().unwrap()).unwrap(), None);
    }

    #[test]
    fn damaged_archive_is_an_error() {
        let damaged = device(&[("incus.yaml", "apply_defaults: true")]);
        std::os::unix::fs::FileExt::write_all_at(&damaged, b"x", 0).unwrap();
        assert!(reason(&clients(&damaged).unwrap_err()).contains("damaged at byte 0"));
    }
}
