//! Client certificates for the management API.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};

/// An identity could not be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Key or certificate could not be made.
    #[error("cannot make a certificate for `{name}`")]
    Make {
        /// Common name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file of the identity could not be read or written.
    #[error("cannot read or write `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A self-signed client certificate with its key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate: what a seed or a trust list holds.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a new ECDSA P-256 key and a certificate for it that outlives every test machine.
    ///
    /// # Errors
    ///
    /// When the name cannot stand in a certificate or no randomness is to be had.
    pub fn generate(name: &str) -> Result<Self, IdentityError> {
        let make = |source| IdentityError::Make { name: name.to_owned(), source };
        let key = KeyPair::generate().map_err(make)?;
        let mut parameters = CertificateParams::new(Vec::new()).map_err(make)?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // A restored machine's clock stands at the time of its snapshot, and a fresh one's may be
        // anywhere: validity must never be what a test trips over.
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2099, 12, 31);
        let certificate = parameters.self_signed(&key).map_err(make)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads an identity that [`Identity::save`] wrote.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be read.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
        };
        Ok(Self { certificate: read(certificate)?, key: read(key)? })
    }

    /// Writes both parts; the key is readable by its owner only.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be written.
    pub fn save(&self, certificate: &Path, key: &Path) -> Result<(), IdentityError> {
        let write = |path: &Path, mode, text: &str| {
            OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(mode)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|source| IdentityError::File { path: path.to_owned(), source })
        };
        write(certificate, 0o644, &self.certificate)?;
        write(key, 0o600, &self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn saved_identity_is_read_back_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let made = Identity::generate("admin").unwrap();
        made.save(&certificate, &key).unwrap();
        let read = Identity::load(&certificate, &key).unwrap();
        assert_eq!((read.certificate, read.key), (made.certificate.clone(), made.key.clone()));
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
