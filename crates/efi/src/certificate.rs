use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use x509_parser::{
    der_parser::asn1_rs::{Any, ToDer as _},
    pem::Pem,
    prelude::{FromDer as _, X509Certificate},
    x509::X509Name,
};

/// What is shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of the DER form, lower-case hexadecimal.
    pub fingerprint: String,
    /// Whom it speaks for, `CN=…,O=…`.
    pub subject: String,
    /// Who vouches for it, in the same form.
    pub issuer: String,
}

/// Why bytes are no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The structure is not one of X.509.
    #[error("not an X.509 certificate: {0}")]
    Malformed(String),
    /// Something follows the certificate.
    #[error("{0} bytes follow the X.509 certificate")]
    Trailing(usize),
    /// The text is no PEM.
    #[error("not a PEM file: {0}")]
    Pem(String),
}

impl Certificate {
    /// Reads a DER certificate. Signature and dates are nobody's business here.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|error| CertificateError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CertificateError::Trailing(rest.len()));
        }
        Ok(Self {
            fingerprint: hex(&Sha256::digest(der)),
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
        })
    }
}

/// DER of every certificate in a PEM file.
pub fn certificates_in_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let mut certificates = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| CertificateError::Pem(error.to_string()))?;
        if block.label == "CERTIFICATE" {
            certificates.push(block.contents);
        }
    }
    Ok(certificates)
}

/// The attributes that have a short name, most specific first: existing clients
/// show them in this order whatever the order in the certificate.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.17", "POSTALCODE"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.8", "ST"),
    ("2.5.4.7", "L"),
    ("2.5.4.11", "OU"),
    ("2.5.4.10", "O"),
    ("2.5.4.6", "C"),
];

/// A name in the notation of RFC 2253. Several values of one attribute are
/// joined by `+`; attributes without a short name come last, as DER.
fn name(name: &X509Name<'_>) -> String {
    let attributes: Vec<_> =
        name.iter_attributes().map(|part| (part.attr_type().to_id_string(), part.attr_value())).collect();
    let mut parts: Vec<String> = Vec::new();
    for (oid, short) in SHORT_NAMES {
        let values: Vec<_> = attributes
            .iter()
            .filter(|(id, _)| id == oid)
            .map(|(_, value)| format!("{short}={}", text(value)))
            .collect();
        if !values.is_empty() {
            parts.push(values.join("+"));
        }
    }
    let is_short = |id: &str| SHORT_NAMES.iter().any(|(oid, _)| *oid == id);
    parts.extend(
        attributes.iter().rev().filter(|(id, _)| !is_short(id)).map(|(id, value)| format!("{id}={}", der(value))),
    );
    parts.join(",")
}

fn text(value: &Any<'_>) -> String {
    match value.clone().string() {
        Ok(text) => escape(&text),
        Err(_) => der(value),
    }
}

fn der(value: &Any<'_>) -> String {
    format!("#{}", value.to_der_vec().map(|bytes| hex(&bytes)).unwrap_or_default())
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (position, c) in text.chars().enumerate() {
        let at_edge = position == 0 || position == last;
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || (c == ' ' && at_edge) || (c == '#' && position == 0)
        {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes whatever is written to it");
        hex
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(parts: &[(DnType, &str)]) -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn subject(parts: &[(DnType, &str)]) -> String {
        Certificate::from_der(certificate(parts).der()).unwrap().subject
    }

    #[test]
    fn names_are_shown_most_specific_first_whatever_their_order() {
        let parts = [
            (DnType::CountryName, "CA"),
            (DnType::OrganizationName, "Test"),
            (DnType::OrganizationalUnitName, "Keys"),
            (DnType::CommonName, "Secure Boot PK R1"),
        ];
        let mut reversed = parts.clone();
        reversed.reverse();
        assert_eq!(subject(&parts), "CN=Secure Boot PK R1,OU=Keys,O=Test,C=CA");
        assert_eq!(subject(&parts), subject(&reversed));
    }

    #[test]
    fn characters_with_a_meaning_are_escaped() {
        assert_eq!(subject(&[(DnType::CommonName, " #a,b+c\"d\\e<f>g;h# ")]), r#"CN=\ #a\,b\+c\"d\\e\<f\>g\;h#\ "#);
        assert_eq!(subject(&[(DnType::CommonName, "#a")]), r"CN=\#a");
    }

    #[test]
    fn an_attribute_without_short_name_is_shown_as_der_at_the_end() {
        let parts = [(DnType::CustomDnType(vec![1, 2, 840, 1]), "x"), (DnType::CommonName, "a")];
        assert_eq!(subject(&parts), "CN=a,1.2.840.1=#0c0178");
    }

    #[test]
    fn the_fingerprint_is_the_hash_of_the_der_form() {
        let der = certificate(&[(DnType::CommonName, "a")]).der().to_vec();
        let read = Certificate::from_der(&der).unwrap();
        assert_eq!(read.fingerprint, hex(&Sha256::digest(&der)));
        assert_eq!(read.issuer, "CN=a");
    }

    #[test]
    fn truncated_and_prolonged_certificates_are_refused() {
        let mut der = certificate(&[(DnType::CommonName, "a")]).der().to_vec();
        for length in 0..der.len() {
            assert!(Certificate::from_der(&der[..length]).is_err(), "{length} bytes were read");
        }
        der.push(0);
        assert!(matches!(Certificate::from_der(&der), Err(CertificateError::Trailing(1))));
    }

    #[test]
    fn pem_gives_back_the_der_of_certificates_only() {
        let one = certificate(&[(DnType::CommonName, "a")]);
        let key = KeyPair::generate().unwrap().serialize_pem();
        let text = format!("a comment\n{}{key}{}", one.pem(), one.pem());
        assert_eq!(certificates_in_pem(text.as_bytes()).unwrap(), [one.der().to_vec(), one.der().to_vec()]);
        assert_eq!(certificates_in_pem(b"").unwrap(), Vec::<Vec<u8>>::new());
        assert!(certificates_in_pem(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Certificate::from_der(&bytes);
            let _ = certificates_in_pem(&bytes);
        }

        #[test]
        fn a_flipped_byte_is_read_or_refused(position in 0usize..300, value: u8) {
            let mut der = certificate(&[(DnType::CommonName, "a"), (DnType::OrganizationName, "b")]).der().to_vec();
            let position = position % der.len();
            der[position] = value;
            let _ = Certificate::from_der(&der);
        }
    }
}
