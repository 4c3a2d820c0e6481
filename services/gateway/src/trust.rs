//! Which clients of the HTTPS listener may manage the machine.
//!
//! Trust is a list of certificates, not of authorities: a client is let in when
//! the SHA-256 of its leaf certificate is that of a listed one. The handshake
//! only proves that the client holds the key; the decision is made again for
//! every request, so a change of the list acts at once.

use std::{collections::HashSet, fmt};

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a certificate's DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// The leaf certificate of a client that proved to hold its key.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    fingerprint: Fingerprint,
    validity: Option<Validity>,
}

/// Seconds since 1970, both ends inclusive.
#[derive(Debug, Clone, Copy)]
struct Validity {
    not_before: i64,
    not_after: i64,
}

impl ClientCertificate {
    pub(crate) fn from_der(der: &[u8]) -> Self {
        let validity = X509Certificate::from_der(der).ok().map(|(_, certificate)| Validity {
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        });
        Self { fingerprint: Fingerprint::of(der), validity }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// What the machine knows of the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Seconds since 1970.
    pub(crate) now: i64,
    /// Whether a time server confirmed it since boot.
    pub(crate) synchronised: bool,
}

/// The list of trusted client certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    fingerprints: HashSet<Fingerprint>,
}

/// Why a client is not let in. The client itself is told `Forbidden` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the client showed no certificate")]
    NoCertificate,
    #[error("the client's certificate is not on the list of trusted ones")]
    NotListed,
    #[error("the client's certificate is on the list, but it is not valid at this time")]
    NotValidNow,
}

impl Trust {
    /// Trusts exactly these certificates.
    pub(crate) fn in_certificates<D: AsRef<[u8]>>(ders: impl IntoIterator<Item = D>) -> Self {
        Self { fingerprints: ders.into_iter().map(|der| Fingerprint::of(der.as_ref())).collect() }
    }

    /// Whether a client with this certificate may manage the machine now.
    pub(crate) fn admits(&self, certificate: Option<&ClientCertificate>, clock: Clock) -> Result<(), Refusal> {
        let certificate = certificate.ok_or(Refusal::NoCertificate)?;
        if !self.fingerprints.contains(&certificate.fingerprint) {
            return Err(Refusal::NotListed);
        }
        let valid = certificate.validity.is_some_and(|v| (v.not_before..=v.not_after).contains(&clock.now));
        if valid {
            return Ok(());
        }
        if clock.synchronised {
            return Err(Refusal::NotValidNow);
        }
        // A machine whose clock stands at 1970 must stay manageable, or nobody could set it right.
        tracing::warn!(
            "certificate {} is not valid at the machine's time, which no server confirmed; accepting it",
            certificate.fingerprint
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Clock = Clock { now: 1_000, synchronised: true };

    fn certificate(der: &[u8], not_before: i64, not_after: i64) -> ClientCertificate {
        ClientCertificate { fingerprint: Fingerprint::of(der), validity: Some(Validity { not_before, not_after }) }
    }

    #[test]
    fn only_listed_certificates_are_let_in() {
        let trust = Trust::in_certificates([b"listed"]);
        assert_eq!(trust.admits(Some(&certificate(b"listed", 0, 2_000)), NOON), Ok(()));
        assert_eq!(trust.admits(Some(&certificate(b"other", 0, 2_000)), NOON), Err(Refusal::NotListed));
        assert_eq!(trust.admits(None, NOON), Err(Refusal::NoCertificate));
        assert_eq!(Trust::default().admits(None, NOON), Err(Refusal::NoCertificate));
    }

    #[test]
    fn validity_counts_once_the_clock_can_be_believed() {
        let trust = Trust::in_certificates([b"listed"]);
        for (not_before, not_after) in [(0, 999), (1_001, 2_000)] {
            let certificate = certificate(b"listed", not_before, not_after);
            assert_eq!(trust.admits(Some(&certificate), NOON), Err(Refusal::NotValidNow));
            assert_eq!(trust.admits(Some(&certificate), Clock { synchronised: false, ..NOON }), Ok(()));
        }
        assert_eq!(trust.admits(Some(&certificate(b"listed", 1_000, 1_000)), NOON), Ok(()));
    }

    #[test]
    fn a_listed_certificate_whose_dates_cannot_be_read_is_not_valid() {
        let trust = Trust::in_certificates([b"garbage"]);
        let garbage = ClientCertificate::from_der(b"garbage");
        assert_eq!(trust.admits(Some(&garbage), NOON), Err(Refusal::NotValidNow));
    }

    #[test]
    fn fingerprints_print_as_lower_case_hex() {
        let printed = Fingerprint::of(b"").to_string();
        assert_eq!(printed, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
