//! Whom a feed is trusted for.

use der::{DecodePem as _, Encode as _};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use x509_cert::{
    Certificate,
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
    time::Time,
};

use crate::{
    MESSAGE_LIMIT, VerifyError,
    envelope::{self, Envelope},
    message::{self, Message},
};

/// Object identifiers of the purposes that let a certificate sign messages: e-mail protection and any.
const PURPOSES: [&str; 2] = ["1.3.6.1.5.5.7.3.4", "2.5.29.37.0"];

/// Extensions whose meaning is respected here: key usage, basic constraints, extended key usage,
/// and names and key identifiers, which do not restrict anything.
const UNDERSTOOD: [&str; 6] = ["2.5.29.15", "2.5.29.19", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17"];

/// A pinned root with the one intermediate under it whose signers are accepted.
#[derive(Debug, Clone)]
pub struct Trust {
    intermediate: Certificate,
}

/// A message that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The document that was signed.
    pub content: Vec<u8>,
    /// Subject of the signer's certificate.
    pub signer: String,
    /// SHA-256 of that certificate.
    pub fingerprint: [u8; 32],
    /// When the signer says to have signed.
    pub signed_at: Option<Timestamp>,
    /// End of the signer's validity. Passing it is a reason to warn, not to refuse: clocks are wrong
    /// more often than signatures.
    pub not_after: Timestamp,
}

impl Trust {
    /// From the PEM of the root and of the intermediate, which the root must have issued.
    ///
    /// # Errors
    ///
    /// When one of them is no certificate of an authority, or the root did not issue the other.
    pub fn new(root: &str, intermediate: &str) -> Result<Self, VerifyError> {
        let root = certificate(root)?;
        let intermediate = certificate(intermediate)?;
        check_authority(&root)?;
        check_authority(&intermediate)?;
        check_issued(&intermediate, &root, "was not issued by the root")?;
        Ok(Self { intermediate })
    }

    /// The document in a message, if a signer of the intermediate signed it.
    ///
    /// # Errors
    ///
    /// Says what of it cannot be trusted.
    pub fn verify(&self, message: &[u8]) -> Result<Signed, VerifyError> {
        if message.len() > MESSAGE_LIMIT {
            return Err(VerifyError::TooLarge(message.len()));
        }
        let envelope = Envelope::parse(message)?;
        let parsed = Message::parse(&envelope.signature, envelope.content.as_deref())?;
        self.check_signer(&parsed.signer, parsed.signed_at)?;
        parsed.verify_signature()?;
        let entity = match (&envelope.content, &parsed.content) {
            (Some(content), _) => content.as_ref(),
            (None, Some(content)) => content,
            (None, None) => unreachable!("a message without any content was refused when it was parsed"),
        };
        let der = parsed.signer.to_der().map_err(|_| VerifyError::Malformed("its signer's certificate is damaged"))?;
        Ok(Signed {
            content: envelope::document(entity)?.to_vec(),
            signer: name(&parsed.signer),
            fingerprint: Sha256::digest(&der).into(),
            signed_at: parsed.signed_at.map(timestamp),
            not_after: timestamp(parsed.signer.tbs_certificate.validity.not_after),
        })
    }

    fn check_signer(&self, signer: &Certificate, signed_at: Option<Time>) -> Result<(), VerifyError> {
        if signer.tbs_certificate.issuer != self.intermediate.tbs_certificate.subject {
            return Err(VerifyError::Intermediate {
                signer: name(signer),
                issuer: printable(&signer.tbs_certificate.issuer.to_string()),
                expected: name(&self.intermediate),
            });
        }
        check_issued(signer, &self.intermediate, "was not issued by the authority that it names")?;
        check_extensions(signer)?;
        let refuse = refusal(signer);
        if constraints(signer)?.is_some_and(|constraints| constraints.ca) {
            return Err(refuse("is the one of an authority, not of a signer"));
        }
        if let Some(usage) = extension::<KeyUsage>(signer)?
            && !usage.digital_signature()
            && !usage.non_repudiation()
        {
            return Err(refuse("is not for signatures"));
        }
        if let Some(purposes) = extension::<ExtendedKeyUsage>(signer)?
            && !purposes.0.iter().any(|purpose| PURPOSES.contains(&purpose.to_string().as_str()))
        {
            return Err(refuse("is not for signed messages"));
        }
        if let Some(time) = signed_at {
            for certificate in [signer, &self.intermediate] {
                let validity = &certificate.tbs_certificate.validity;
                let time = time.to_unix_duration();
                if time < validity.not_before.to_unix_duration() || time > validity.not_after.to_unix_duration() {
                    return Err(refusal(certificate)("was not valid when the message was signed"));
                }
            }
        }
        Ok(())
    }
}

fn certificate(pem: &str) -> Result<Certificate, VerifyError> {
    Certificate::from_pem(pem.trim()).map_err(|_| VerifyError::Malformed("a certificate of an authority is not PEM"))
}

fn check_authority(certificate: &Certificate) -> Result<(), VerifyError> {
    let refuse = refusal(certificate);
    check_extensions(certificate)?;
    if !constraints(certificate)?.is_some_and(|constraints| constraints.ca) {
        return Err(refuse("is not the one of an authority"));
    }
    if extension::<KeyUsage>(certificate)?.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(refuse("must not issue certificates"));
    }
    Ok(())
}

fn check_issued(certificate: &Certificate, issuer: &Certificate, reason: &'static str) -> Result<(), VerifyError> {
    let refuse = refusal(certificate);
    let issued = &certificate.tbs_certificate;
    if issued.issuer != issuer.tbs_certificate.subject || issued.signature != certificate.signature_algorithm {
        return Err(refuse(reason));
    }
    let bytes = issued.to_der().map_err(|_| refuse("is damaged"))?;
    let signature = certificate.signature.as_bytes().ok_or_else(|| refuse("is damaged"))?;
    let key = &issuer.tbs_certificate.subject_public_key_info;
    message::verify(key, &certificate.signature_algorithm, None, &bytes, signature).map_err(|error| match error {
        VerifyError::Signature => refuse(reason),
        other => other,
    })
}

/// A restriction that is not understood must not be passed over.
fn check_extensions(certificate: &Certificate) -> Result<(), VerifyError> {
    let extensions = certificate.tbs_certificate.extensions.as_deref().unwrap_or_default();
    let strange = |id: String| !UNDERSTOOD.contains(&id.as_str());
    if extensions.iter().any(|extension| extension.critical && strange(extension.extn_id.to_string())) {
        return Err(refusal(certificate)("has a critical extension that is not understood"));
    }
    Ok(())
}

fn constraints(certificate: &Certificate) -> Result<Option<BasicConstraints>, VerifyError> {
    extension(certificate)
}

fn extension<T: for<'a> der::Decode<'a> + const_oid::AssociatedOid>(
    certificate: &Certificate,
) -> Result<Option<T>, VerifyError> {
    let found = certificate.tbs_certificate.get::<T>();
    Ok(found.map_err(|_| refusal(certificate)("has a damaged extension"))?.map(|(_, extension)| extension))
}

fn refusal(certificate: &Certificate) -> impl Fn(&'static str) -> VerifyError + use<> {
    let subject = name(certificate);
    move |reason| VerifyError::Certificate { subject: subject.clone(), reason }
}

fn name(certificate: &Certificate) -> String {
    printable(&certificate.tbs_certificate.subject.to_string())
}

/// Names come from the message and end up on terminals.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

fn timestamp(time: Time) -> Timestamp {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}
