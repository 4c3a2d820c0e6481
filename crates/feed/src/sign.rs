//! Signing a document of a feed.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cms::{
    cert::{CertificateChoices, IssuerAndSerialNumber},
    content_info::{CmsVersion, ContentInfo},
    signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos},
};
use const_oid::db::{rfc5911, rfc5912};
use der::{
    Any, Decode as _, DecodePem as _, Encode as _, Tag,
    asn1::{GeneralizedTime, ObjectIdentifier, OctetString, SetOfVec, UtcTime},
    pem,
};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use spki::AlgorithmIdentifierOwned;
use x509_cert::{Certificate, attr::Attribute, time::Time};

use crate::message::Hash;

/// Why a document cannot be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key.
    #[error("the key is not an ECDSA P-256 key in PEM (PKCS #8), or not the one of the certificate")]
    Key,
    /// A certificate.
    #[error("a certificate is not PEM")]
    Certificate,
    /// No signature came of it.
    #[error("the signature cannot be made")]
    Sign,
}

/// Somebody who signs documents: a key with its certificate and those above it.
#[derive(Debug)]
pub struct Signer {
    key: EcdsaKeyPair,
    certificate: Certificate,
    chain: Vec<Certificate>,
}

impl Signer {
    /// From PEM: an ECDSA P-256 key in PKCS #8, its certificate, and certificates that go along
    /// with it.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, or the key is not the certificate's.
    pub fn new(key: &str, certificate: &str, chain: &[&str]) -> Result<Self, SignError> {
        let (label, der) = pem::decode_vec(key.trim().as_bytes()).map_err(|_| SignError::Key)?;
        if label != "PRIVATE KEY" {
            return Err(SignError::Key);
        }
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new())
            .map_err(|_| SignError::Key)?;
        let parse = |text: &str| Certificate::from_pem(text.trim()).map_err(|_| SignError::Certificate);
        let certificate = parse(certificate)?;
        let chain = chain.iter().map(|&text| parse(text)).collect::<Result<_, _>>()?;
        let public = certificate.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
        if public != ring::signature::KeyPair::public_key(&key).as_ref() {
            return Err(SignError::Key);
        }
        Ok(Self { key, certificate, chain })
    }

    /// The message with `document` in the clear and the signature beside it.
    ///
    /// # Errors
    ///
    /// When there is no randomness, or a time that no certificate can state.
    pub fn clear(&self, document: &str, at: Timestamp) -> Result<String, SignError> {
        let entity = entity(document);
        let signature = self.signature(&entity, at, false).map_err(|_| SignError::Sign)?;
        // Any text that the content cannot contain would do; a hash of it is one.
        let boundary = Hash::Sha256.of(&entity).iter().take(16).fold("----".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02X}");
            text
        });
        let content = String::from_utf8(entity).map_err(|_| SignError::Sign)?.replace("\r\n", "\n");
        Ok(format!(
            "MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; \
             micalg=\"sha-256\"; boundary=\"{boundary}\"\n\nThis is an S/MIME signed message\n\n--{boundary}\n\
             {content}\n--{boundary}\nContent-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\n\
             Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"smime.p7s\"\n\n\
             {}\n--{boundary}--\n\n",
            lines(&signature)
        ))
    }

    /// The message with `document` inside of the signature.
    ///
    /// # Errors
    ///
    /// As [`Signer::clear`].
    pub fn opaque(&self, document: &str, at: Timestamp) -> Result<String, SignError> {
        let signature = self.signature(&entity(document), at, true).map_err(|_| SignError::Sign)?;
        Ok(format!(
            "MIME-Version: 1.0\nContent-Disposition: attachment; filename=\"smime.p7m\"\nContent-Type: \
             application/x-pkcs7-mime; smime-type=signed-data; name=\"smime.p7m\"\n\
             Content-Transfer-Encoding: base64\n\n{}\n",
            lines(&signature)
        ))
    }

    fn signature(&self, entity: &[u8], at: Timestamp, with_content: bool) -> Result<Vec<u8>, der::Error> {
        let attributes = SetOfVec::try_from(vec![
            attribute(rfc5911::ID_CONTENT_TYPE, Any::encode_from(&rfc5911::ID_DATA)?)?,
            attribute(rfc5911::ID_MESSAGE_DIGEST, octets(&Hash::Sha256.of(entity))?)?,
            attribute(rfc5911::ID_SIGNING_TIME, Any::from_der(&time(at)?.to_der()?)?)?,
        ])?;
        let signature =
            self.key.sign(&SystemRandom::new(), &attributes.to_der()?).map_err(|_| Tag::OctetString.value_error())?;
        let algorithm = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
        let signer = &self.certificate.tbs_certificate;
        let info = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: signer.issuer.clone(),
                serial_number: signer.serial_number.clone(),
            }),
            digest_alg: algorithm(rfc5912::ID_SHA_256),
            signed_attrs: Some(attributes),
            signature_algorithm: algorithm(rfc5912::ECDSA_WITH_SHA_256),
            signature: OctetString::new(signature.as_ref())?,
            unsigned_attrs: None,
        };
        let certificates = std::iter::once(&self.certificate).chain(&self.chain);
        let certificates: Vec<_> = certificates.cloned().map(CertificateChoices::Certificate).collect();
        let data = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(rfc5912::ID_SHA_256)])?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: rfc5911::ID_DATA,
                econtent: with_content.then(|| octets(entity)).transpose()?,
            },
            certificates: Some(CertificateSet(SetOfVec::try_from(certificates)?)),
            crls: None,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![info])?),
        };
        ContentInfo { content_type: rfc5911::ID_SIGNED_DATA, content: Any::encode_from(&data)? }.to_der()
    }
}

/// The MIME part that is signed.
fn entity(document: &str) -> Vec<u8> {
    format!("Content-Type: text/plain\n\n{document}").replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
}

fn attribute(oid: ObjectIdentifier, value: Any) -> Result<Attribute, der::Error> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? })
}

fn octets(bytes: &[u8]) -> Result<Any, der::Error> {
    Any::new(Tag::OctetString, bytes)
}

/// RFC 5652, 11.3: `UTCTime` until 2049.
fn time(at: Timestamp) -> Result<Time, der::Error> {
    let since = u64::try_from(at.as_second()).map_err(|_| Tag::UtcTime.value_error())?;
    let since = std::time::Duration::from_secs(since);
    Ok(match UtcTime::from_unix_duration(since) {
        Ok(time) => time.into(),
        Err(_) => GeneralizedTime::from_unix_duration(since)?.into(),
    })
}

fn lines(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 1);
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().copied().map(char::from));
        out.push('\n');
    }
    out
}
