//! The certificate that the HTTPS listener shows: self-signed, made once.
//! Clients pin it, so it never changes by itself and never runs out.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use api::v1::{FallbackListenerConfig, ListenerSettings};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, date_time_ymd,
};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::{FromDer as _, X509Certificate},
};

use super::config;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key, both PEM.
pub(crate) struct ServerCertificate {
    certificate: String,
    key: String,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// The certificate in `dir`. Made when there is none, or none that is usable.
    pub(crate) fn load_or_create(dir: &Path, hostname: &str) -> Result<Self, CertificateError> {
        let (certificate_path, key_path) = (dir.join("listener.crt"), dir.join("listener.key"));
        let certificate = fs::read_to_string(&certificate_path).ok();
        let key = fs::read_to_string(&key_path).ok();
        let existed = certificate.is_some();
        if let Some(pair) = certificate.zip(key).filter(|(certificate, key)| belong_together(certificate, key)) {
            return Ok(Self { certificate: pair.0, key: pair.1 });
        }
        if existed {
            tracing::warn!("the certificate of the HTTPS listener is damaged and is made anew");
        }
        let made = Self::make(hostname)?;
        // The key first: a certificate without its key would look damaged after a power cut.
        write(dir, &key_path, &made.key)?;
        write(dir, &certificate_path, &made.certificate)?;
        Ok(made)
    }

    /// What the gateway is told for this configuration.
    pub(crate) fn settings(&self, config: &FallbackListenerConfig) -> ListenerSettings {
        let clients: Vec<_> = config
            .trusted_client_certificates
            .iter()
            .filter_map(|client| values::certificate_der(client).ok())
            .collect();
        // An address that a newer release understood is no reason to be unreachable.
        let address = config::address(&config.listen_address).or_else(|_| config::address(""));
        match address {
            Ok(address) if config.persistent || !clients.is_empty() => ListenerSettings {
                listen_address: address,
                trusted_client_certificates: clients,
                server_certificate: self.certificate.clone(),
                server_key: self.key.clone(),
            },
            _ => ListenerSettings::default(),
        }
    }

    fn make(hostname: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut names = vec!["incus-os".to_owned(), "localhost".to_owned()];
        // A name that is no DNS name has no place in a certificate.
        if hostname.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.')) && !hostname.is_empty() {
            names.push(hostname.to_ascii_lowercase());
        }
        names.dedup();
        let mut params = CertificateParams::new(names)?;
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "incus-os");
        // The clock of a machine that starts for the first time may say anything,
        // and RFC 5280 reserves this end for certificates without one.
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn belong_together(certificate: &str, key: &str) -> bool {
    let Ok(key) = KeyPair::from_pem(key) else {
        return false;
    };
    let Ok((_, block)) = parse_x509_pem(certificate.as_bytes()) else {
        return false;
    };
    X509Certificate::from_der(&block.contents)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

/// Writes beside, syncs and renames, so that a power cut leaves all or nothing.
fn write(dir: &Path, path: &Path, text: &str) -> Result<(), CertificateError> {
    let cannot = |source| CertificateError::Write { path: path.to_owned(), source };
    let mut file = tempfile::Builder::new()
        .prefix(".listener-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(cannot)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    file.persist(path).map_err(|error| cannot(error.error))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_made_once_and_only_its_owner_reads_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = ServerCertificate::load_or_create(dir.path(), "Host-1").unwrap();
        let second = ServerCertificate::load_or_create(dir.path(), "other").unwrap();
        assert_eq!((&first.certificate, &first.key), (&second.certificate, &second.key));
        let mode = fs::metadata(dir.path().join("listener.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn certificate_names_what_a_client_may_call_the_machine() {
        let made = ServerCertificate::make("Host-1.example").unwrap();
        let (_, block) = parse_x509_pem(made.certificate.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.iter().any(|name| name.contains("host-1.example")), "{names:?}");
        assert!(ServerCertificate::make("no dns name").is_ok() && ServerCertificate::make("").is_ok());
    }

    #[test]
    fn damaged_or_foreign_pair_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = ServerCertificate::load_or_create(dir.path(), "").unwrap();
        let foreign = ServerCertificate::make("").unwrap();
        for key in ["", "garbage", foreign.key.as_str()] {
            fs::write(dir.path().join("listener.key"), key).unwrap();
            let next = ServerCertificate::load_or_create(dir.path(), "").unwrap();
            assert!(next.certificate != first.certificate && belong_together(&next.certificate, &next.key));
        }
    }

    #[test]
    fn listener_runs_for_trusted_clients_or_when_persistent() {
        let made = ServerCertificate::make("").unwrap();
        let config = |clients: &[&str], persistent, address: &str| FallbackListenerConfig {
            listen_address: address.into(),
            trusted_client_certificates: clients.iter().map(|client| (*client).to_owned()).collect(),
            persistent,
        };
        let client = ServerCertificate::make("").unwrap().certificate;
        assert_eq!(made.settings(&config(&[], false, "")), ListenerSettings::default());
        assert_eq!(made.settings(&config(&["broken"], false, "")), ListenerSettings::default());
        let settings = made.settings(&config(&["broken", &client], false, ""));
        assert_eq!((settings.listen_address.as_str(), settings.trusted_client_certificates.len()), (":9443", 1));
        assert_eq!(made.settings(&config(&[], true, "192.0.2.1:1")).listen_address, "192.0.2.1:1");
        assert_eq!(made.settings(&config(&[], true, "nonsense")).listen_address, ":9443");
    }
}
