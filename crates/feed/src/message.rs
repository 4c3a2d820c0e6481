//! The inner form of a signed message: CMS `SignedData` (RFC 5652), one signer,
//! signed attributes.

use cms::{
    cert::{CertificateChoices, IssuerAndSerialNumber},
    content_info::ContentInfo,
    signed_data::{SignedData, SignerIdentifier, SignerInfo},
};
use const_oid::db::{rfc5911, rfc5912};
use der::{
    Decode, Encode, Reader as _, SliceReader, Tag, Tagged as _,
    asn1::{ObjectIdentifier, OctetString},
};
use ring::signature;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::{Certificate, ext::pkix::SubjectKeyIdentifier, time::Time};

use crate::VerifyError;

/// Most bytes of a signature, its content left out. Real ones have about three KiB. Sets in it are
/// sorted with a square number of steps, so this also limits the time that it takes to say no.
const SIGNATURE_LIMIT: usize = 32 << 10;

/// Hashes that a signature may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(crate) fn of(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn named(oid: ObjectIdentifier) -> Result<Self, VerifyError> {
        match oid {
            rfc5912::ID_SHA_256 => Ok(Self::Sha256),
            rfc5912::ID_SHA_384 => Ok(Self::Sha384),
            rfc5912::ID_SHA_512 => Ok(Self::Sha512),
            _ => Err(VerifyError::Algorithm(format!("the hash {oid}"))),
        }
    }
}

/// A message whose parts fit each other. Whose it is remains to be seen.
#[derive(Debug)]
pub(crate) struct Message {
    /// The certificate that the signature names.
    pub(crate) signer: Certificate,
    /// When the signer says to have signed.
    pub(crate) signed_at: Option<Time>,
    hash: Hash,
    algorithm: AlgorithmIdentifierOwned,
    /// What the signature is over.
    attributes: Vec<u8>,
    signature: Vec<u8>,
    /// The content, when it is part of the signature.
    pub(crate) content: Option<Vec<u8>>,
}

impl Message {
    /// Reads a signature over `content`, or one with a content of its own.
    pub(crate) fn parse(der: &[u8], content: Option<&[u8]>) -> Result<Self, VerifyError> {
        let malformed = |what: &'static str| move |_: der::Error| VerifyError::Malformed(what);
        let outer = ContentInfo::from_der(der).map_err(malformed("it is not a CMS message"))?;
        if outer.content_type != rfc5911::ID_SIGNED_DATA {
            return Err(VerifyError::Malformed("it is not the CMS type signed-data"));
        }
        let inner = outer.content.to_der().map_err(malformed("it is not a CMS message"))?;
        limit_beside_content(&inner).map_err(malformed("it is not a CMS message"))??;
        let data = SignedData::from_der(&inner).map_err(malformed("its signed-data is damaged"))?;
        if data.encap_content_info.econtent_type != rfc5911::ID_DATA {
            return Err(VerifyError::Malformed("its content is not plain data"));
        }
        let own = match data.encap_content_info.econtent {
            None => None,
            Some(any) if any.tag() == Tag::OctetString => {
                let octets = any.decode_as::<OctetString>().map_err(malformed("its content is damaged"))?;
                Some(octets.into_bytes())
            }
            Some(_) => return Err(VerifyError::Malformed("its content is not an octet string")),
        };
        // Two contents, or none: which of them was signed would be a guess.
        let signed: &[u8] = match (content, &own) {
            (Some(beside), None) => beside,
            (None, Some(own)) => own,
            _ => return Err(VerifyError::Malformed("it does not have exactly one content")),
        };
        let [info] = data.signer_infos.0.as_slice() else {
            return Err(VerifyError::Signers(data.signer_infos.0.len()));
        };
        let hash = Hash::named(info.digest_alg.oid)?;
        let attributes = Attributes::of(info)?;
        if attributes.digest != hash.of(signed) {
            return Err(VerifyError::Changed);
        }
        let bag = data.certificates.map(|set| set.0.into_vec()).unwrap_or_default();
        Ok(Self {
            signer: signer(&info.sid, bag)?,
            signed_at: attributes.signed_at,
            hash,
            algorithm: info.signature_algorithm.clone(),
            attributes: attributes.der,
            signature: info.signature.as_bytes().to_vec(),
            content: own,
        })
    }

    /// Whether the signature was made with the signer's key.
    pub(crate) fn verify_signature(&self) -> Result<(), VerifyError> {
        let key = &self.signer.tbs_certificate.subject_public_key_info;
        verify(key, &self.algorithm, Some(self.hash), &self.attributes, &self.signature)
    }
}

/// Refuses a message that is more than its content and what a signature needs.
fn limit_beside_content(signed_data: &[u8]) -> Result<Result<(), VerifyError>, der::Error> {
    let mut reader = SliceReader::new(signed_data)?;
    let beside = reader.sequence(|elements| {
        let mut beside = 0;
        for index in 0.. {
            if elements.is_finished() {
                break;
            }
            let element = elements.tlv_bytes()?;
            // version, digestAlgorithms, encapContentInfo, …
            if index != 2 {
                beside += element.len();
            }
        }
        Ok(beside)
    })?;
    Ok(if beside > SIGNATURE_LIMIT { Err(VerifyError::Malformed("it is too large")) } else { Ok(()) })
}

/// The one certificate in the bag that the signature names.
fn signer(id: &SignerIdentifier, bag: Vec<CertificateChoices>) -> Result<Certificate, VerifyError> {
    let is_named = |certificate: &Certificate| {
        let certificate = &certificate.tbs_certificate;
        match id {
            SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber { issuer, serial_number }) => {
                certificate.issuer == *issuer && certificate.serial_number == *serial_number
            }
            SignerIdentifier::SubjectKeyIdentifier(wanted) => matches!(
                certificate.get::<SubjectKeyIdentifier>(),
                Ok(Some((_, found))) if found == *wanted
            ),
        }
    };
    let mut named = bag.into_iter().filter_map(|choice| match choice {
        CertificateChoices::Certificate(certificate) if is_named(&certificate) => Some(certificate),
        _ => None,
    });
    match (named.next(), named.next()) {
        (Some(signer), None) => Ok(signer),
        (None, _) => Err(VerifyError::SignerMissing),
        (Some(_), Some(_)) => Err(VerifyError::Malformed("two certificates are the signer's")),
    }
}

/// The signed attributes that matter.
struct Attributes {
    /// As they are signed.
    der: Vec<u8>,
    digest: Vec<u8>,
    signed_at: Option<Time>,
}

impl Attributes {
    fn of(info: &SignerInfo) -> Result<Self, VerifyError> {
        let attributes = info.signed_attrs.as_ref().ok_or(VerifyError::Malformed("it has no signed attributes"))?;
        let single = |oid: ObjectIdentifier| {
            let mut found = attributes.iter().filter(|attribute| attribute.oid == oid);
            match (found.next(), found.next()) {
                (None, _) => Ok(None),
                (Some(attribute), None) => match attribute.values.as_slice() {
                    [value] => Ok(Some(value)),
                    _ => Err(VerifyError::Malformed("a signed attribute does not have one value")),
                },
                _ => Err(VerifyError::Malformed("a signed attribute is there twice")),
            }
        };
        let kind = single(rfc5911::ID_CONTENT_TYPE)?.and_then(|value| value.decode_as::<ObjectIdentifier>().ok());
        if kind != Some(rfc5911::ID_DATA) {
            return Err(VerifyError::Malformed("its signed content type is not plain data"));
        }
        let digest = single(rfc5911::ID_MESSAGE_DIGEST)?
            .and_then(|value| value.decode_as::<OctetString>().ok())
            .ok_or(VerifyError::Malformed("it has no signed digest"))?;
        let signed_at = match single(rfc5911::ID_SIGNING_TIME)? {
            None => None,
            Some(value) => {
                let time = value.to_der().and_then(|der| Time::from_der(&der));
                Some(time.map_err(|_| VerifyError::Malformed("its signing time is damaged"))?)
            }
        };
        let der = attributes.to_der().map_err(|_| VerifyError::Malformed("its signed attributes are damaged"))?;
        Ok(Self { der, digest: digest.into_bytes(), signed_at })
    }
}

/// Verifies one signature. `hash` is the one that a signature of a message states apart from its
/// algorithm; the two must agree.
pub(crate) fn verify(
    key: &SubjectPublicKeyInfoOwned,
    algorithm: &AlgorithmIdentifierOwned,
    hash: Option<Hash>,
    bytes: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let refused =
        || VerifyError::Algorithm(format!("the algorithm {} with the key {}", algorithm.oid, key.algorithm.oid));
    let (is_rsa, implied) = match algorithm.oid {
        rfc5912::ECDSA_WITH_SHA_256 => (false, Some(Hash::Sha256)),
        rfc5912::ECDSA_WITH_SHA_384 => (false, Some(Hash::Sha384)),
        rfc5912::SHA_256_WITH_RSA_ENCRYPTION => (true, Some(Hash::Sha256)),
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION => (true, Some(Hash::Sha384)),
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION => (true, Some(Hash::Sha512)),
        // In messages only, where the hash is stated apart.
        rfc5912::RSA_ENCRYPTION => (true, hash),
        _ => return Err(refused()),
    };
    if hash.is_some() && hash != implied {
        return Err(refused());
    }
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    let method: &dyn signature::VerificationAlgorithm = match (key.algorithm.oid, is_rsa, curve, implied) {
        (rfc5912::RSA_ENCRYPTION, true, _, Some(Hash::Sha256)) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (rfc5912::RSA_ENCRYPTION, true, _, Some(Hash::Sha384)) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (rfc5912::RSA_ENCRYPTION, true, _, Some(Hash::Sha512)) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (rfc5912::ID_EC_PUBLIC_KEY, false, Some(rfc5912::SECP_256_R_1), Some(Hash::Sha256)) => {
            &signature::ECDSA_P256_SHA256_ASN1
        }
        (rfc5912::ID_EC_PUBLIC_KEY, false, Some(rfc5912::SECP_256_R_1), Some(Hash::Sha384)) => {
            &signature::ECDSA_P256_SHA384_ASN1
        }
        (rfc5912::ID_EC_PUBLIC_KEY, false, Some(rfc5912::SECP_384_R_1), Some(Hash::Sha256)) => {
            &signature::ECDSA_P384_SHA256_ASN1
        }
        (rfc5912::ID_EC_PUBLIC_KEY, false, Some(rfc5912::SECP_384_R_1), Some(Hash::Sha384)) => {
            &signature::ECDSA_P384_SHA384_ASN1
        }
        _ => return Err(refused()),
    };
    let key = key.subject_public_key.as_bytes().ok_or(VerifyError::Malformed("a key has an odd number of bits"))?;
    signature::UnparsedPublicKey::new(method, key).verify(bytes, signature).map_err(|_| VerifyError::Signature)
}
