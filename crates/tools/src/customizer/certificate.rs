//! A client certificate with its key, for clients that cannot make one themselves. The page makes
//! its own in the browser.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use p12_keystore::{Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKeyChain};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, date_time_ymd,
};
use sec1::{EcParameters, EcPrivateKey, LineEnding, der::Decode as _, der::oid::ObjectIdentifier};
use serde::Serialize;

/// NIST P-384.
const CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Part of the format: browsers do not import a key without one.
const PASSWORD: &str = "IncusOS";

/// The three forms in which it is handed out.
#[derive(Serialize)]
pub(crate) struct ClientCertificate {
    certificate: String,
    key: String,
    pfx: String,
}

/// Something in the making of it failed; there is nothing that a client could do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate")]
pub(crate) struct CertificateError;

/// Makes one.
pub(crate) fn make() -> Result<ClientCertificate, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(|_| CertificateError)?;
    let certificate = parameters().self_signed(&key).map_err(|_| CertificateError)?;
    let chain = Certificate::from_der(certificate.der()).map_err(|_| CertificateError)?;
    let mut store = KeyStore::new();
    let entry = PrivateKeyChain::new(key.serialize_der(), [1], [chain]);
    store.add_entry("client", KeyStoreEntry::PrivateKeyChain(entry));
    let pfx = store
        .writer(PASSWORD)
        .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
        .mac_algorithm(MacAlgorithm::HmacSha256)
        .write()
        .map_err(|_| CertificateError)?;
    Ok(ClientCertificate { certificate: certificate.pem(), key: sec1(&key)?, pfx: STANDARD.encode(pfx) })
}

fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::new(vec!["unspecified".to_owned()]).unwrap_or_default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "Linux Containers");
    parameters.distinguished_name.push(DnType::CommonName, "Auto-generated IncusOS client certificate");
    parameters.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let day = |days: i64| {
        let date = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let date = date.saturating_add(days.days());
        let part = |value: i8| u8::try_from(value).unwrap_or(1);
        date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    (parameters.not_before, parameters.not_after) = (day(0), day(3650));
    parameters
}

/// The key in the older form, which the clients of the original expect.
fn sec1(key: &KeyPair) -> Result<String, CertificateError> {
    let pkcs8 = key.serialize_der();
    let info = sec1::pkcs8::PrivateKeyInfo::from_der(&pkcs8).map_err(|_| CertificateError)?;
    let mut inner = EcPrivateKey::from_der(info.private_key).map_err(|_| CertificateError)?;
    // In PKCS #8 the curve stands outside.
    inner.parameters = Some(EcParameters::NamedCurve(CURVE));
    let pem = sec1::der::pem::encode_string("EC PRIVATE KEY", LineEnding::LF, &encode(&inner)?);
    pem.map_err(|_| CertificateError)
}

fn encode(key: &EcPrivateKey<'_>) -> Result<Vec<u8>, CertificateError> {
    sec1::der::Encode::to_der(key).map_err(|_| CertificateError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_for_clients_and_every_form_can_be_read() {
        let made = make().unwrap();
        let der = values_of(&made.certificate);
        let store = KeyStore::from_pkcs12(&STANDARD.decode(&made.pfx).unwrap(), PASSWORD).unwrap();
        let (_, chain) = store.private_key_chain().unwrap();
        assert_eq!(chain.chain()[0].as_der(), der);
        assert!(made.key.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        let key = EcPrivateKey::from_der(&values_of(&made.key)).unwrap().private_key.to_vec();
        assert_eq!(key.len(), 48);
        let pkcs8 = chain.key();
        assert!(pkcs8.windows(48).any(|window| window == key));
    }

    fn values_of(pem: &str) -> Vec<u8> {
        sec1::der::pem::decode_vec(pem.as_bytes()).unwrap().1
    }
}
