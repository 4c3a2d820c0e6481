use x509_parser::{
    pem::parse_x509_pem,
    prelude::{FromDer as _, X509Certificate},
};

/// Largest certificate, in bytes of PEM.
const LIMIT: usize = 64 << 10;

/// Why a text is not a certificate. Completes "the certificate …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// More bytes than any certificate has.
    #[error("is too large")]
    TooLarge,
    /// No PEM.
    #[error("is not a PEM block")]
    NoPem,
    /// PEM of something else.
    #[error("is a PEM block of another type than CERTIFICATE")]
    OtherBlock,
    /// The content is not X.509.
    #[error("is not an X.509 certificate")]
    NoCertificate,
}

/// The DER of the first certificate in `pem`. Says nothing of its validity.
pub fn certificate_der(pem: &str) -> Result<Vec<u8>, CertificateError> {
    if pem.len() > LIMIT {
        return Err(CertificateError::TooLarge);
    }
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| CertificateError::NoPem)?;
    if block.label != "CERTIFICATE" {
        return Err(CertificateError::OtherBlock);
    }
    match X509Certificate::from_der(&block.contents) {
        Ok(([], _)) => Ok(block.contents),
        _ => Err(CertificateError::NoCertificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_from_everything_else() {
        let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let pem = made.cert.pem();
        assert_eq!(certificate_der(&pem).as_deref(), Ok(made.cert.der().as_ref()));
        assert_eq!(certificate_der(&format!("a comment\n{pem}")).as_deref(), Ok(made.cert.der().as_ref()));

        let not_one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, error) in [
            (String::new(), CertificateError::NoPem),
            ("x".into(), CertificateError::NoPem),
            (made.signing_key.serialize_pem(), CertificateError::OtherBlock),
            (not_one.into(), CertificateError::NoCertificate),
            (" ".repeat(LIMIT + 1), CertificateError::TooLarge),
        ] {
            assert_eq!(certificate_der(&text), Err(error), "{text:.60}");
        }
    }
}
