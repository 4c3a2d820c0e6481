//! The clients that the seed wants to be trusted.
//!
//! Fleet managers write every section, most of them empty, so the sections are
//! not a choice: the clients of all of them count.

use std::{error::Error as _, fs::File};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use seed::{Incus, Seed, SeedError, TrustedClients};

use super::config::client_der;

/// The clients of a seed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seeded {
    /// PEM certificates.
    pub(crate) clients: Vec<String>,
    /// Why others are none.
    pub(crate) refused: Vec<String>,
}

/// Reads the seed on `device`; `None` when there is none on it.
pub(crate) fn clients(device: File) -> Result<Option<Seeded>, SeedError> {
    let Some(seed) = Seed::open(device)? else {
        return Ok(None);
    };
    let mut seeded = Seeded::default();
    let incus = seed.section::<Incus>("incus")?.and_then(|incus| incus.preseed).unwrap_or_default();
    let clients = incus.certificates.into_iter().filter(|certificate| certificate.kind == "client");
    seeded.extend("incus", clients.map(|client| client.certificate));
    for name in ["operations-center", "migration-manager"] {
        let section = seed.section::<TrustedClients>(name)?.unwrap_or_default();
        seeded.extend(name, section.trusted_client_certificates);
    }
    Ok(Some(seeded))
}

/// An error and its causes in one line.
pub(crate) fn reason(error: &SeedError) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl Seeded {
    fn extend(&mut self, section: &str, certificates: impl IntoIterator<Item = String>) {
        for (index, certificate) in certificates.into_iter().enumerate() {
            let pem = in_pem(certificate);
            match client_der(&pem) {
                Ok(_) => self.clients.push(pem),
                Err(why) => self.refused.push(format!("{section} certificate {index} {why}")),
            }
        }
    }
}

/// Incus also accepts the base64 of a certificate without the PEM lines.
fn in_pem(certificate: String) -> String {
    let bare: String = certificate.split_ascii_whitespace().collect();
    if bare.is_empty() || STANDARD.decode(&bare).is_err() {
        return certificate;
    }
    let lines: Vec<_> = bare.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn seed(members: &[(&str, &str)]) -> File {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&archive.into_inner().unwrap()).unwrap();
        file
    }

    fn pem(name: &str) -> String {
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
    }

    fn json(text: &str) -> String {
        serde_json::Value::from(text).to_string()
    }

    #[test]
    fn clients_of_every_section_are_found() {
        let (a, b, c, d) = (pem("a"), pem("b"), pem("c"), pem("d"));
        let bare: String = b.lines().filter(|line| !line.starts_with("---")).collect();
        let incus = format!(
            r#"{{"preseed":{{"certificates":[{{"type":"client","certificate":{}}},{{"type":"metrics","certificate":{}}},{{"type":"client","certificate":{}}},{{"type":"client","certificate":"x"}}]}}}}"#,
            json(&a),
            json(&d),
            json(&bare),
        );
        let center = format!(r#"{{"trusted_client_certificates":[{}]}}"#, json(&c));
        let found = clients(seed(&[("operations-center.json", &center), ("incus.json", &incus)])).unwrap().unwrap();
        let ders: Vec<_> = found.clients.iter().map(|client| client_der(client).unwrap()).collect();
        assert_eq!(ders, [&a, &b, &c].map(|client| client_der(client).unwrap()));
        assert_eq!(found.refused, ["incus certificate 2 is not a PEM block"]);
    }

    #[test]
    fn sections_with_zero_values_bring_no_clients() {
        let found = clients(seed(&[
            ("incus.yaml", "version: \"1\"\napply_defaults: false\npreseed: null\n"),
            ("operations-center.yaml", "version: \"\"\ntrusted_client_certificates: []\npreseed: null\n"),
        ]));
        assert_eq!(found.unwrap(), Some(Seeded::default()));
        assert_eq!(clients(seed(&[("network.yaml", "{}")])).unwrap(), Some(Seeded::default()));
    }

    #[test]
    fn disk_without_a_seed_is_no_error() {
        assert_eq!(clients(tempfile::tempfile().unwrap()).unwrap(), None);
    }

    #[test]
    fn unreadable_section_is_an_error() {
        let error = clients(seed(&[("incus.yaml", "preseeds: {}")])).unwrap_err();
        assert!(reason(&error).contains("incus.yaml") && reason(&error).contains("preseeds"), "{error}");
    }
}
