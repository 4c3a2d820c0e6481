//! The sections that more than one service needs. A service's own section is
//! its own message.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Section `applications`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Applications {
    /// Never interpreted.
    #[serde(deserialize_with = "null_is_zero")]
    pub version: String,
    /// What to install, in the order of the seed.
    #[serde(deserialize_with = "null_is_zero")]
    pub applications: Vec<Application>,
}

/// One application to install.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Application {
    /// Its name in the update feed.
    #[serde(deserialize_with = "null_is_zero")]
    pub name: String,
}

/// Section `incus`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Incus {
    /// Never interpreted.
    #[serde(deserialize_with = "null_is_zero")]
    pub version: String,
    /// Whether Incus is set up for use. A missing section means yes, a section
    /// without this key means no.
    #[serde(deserialize_with = "null_is_zero")]
    pub apply_defaults: bool,
    /// The preseed of Incus.
    pub preseed: Option<Preseed>,
}

/// The preseed of Incus, of which only the certificates matter here. Its other
/// keys belong to Incus, which adds to them; they are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "BTreeMap<String, Value>")]
pub struct Preseed {
    /// Clients and servers that Incus is to trust.
    pub certificates: Vec<PreseedCertificate>,
    /// Everything else.
    pub rest: BTreeMap<String, Value>,
}

/// A certificate in the preseed of Incus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreseedCertificate {
    /// Name in the trust store of Incus.
    pub name: String,
    /// `client`, `metrics` or another purpose.
    pub kind: String,
    /// PEM or base64 of the DER.
    pub certificate: String,
}

impl From<BTreeMap<String, Value>> for Preseed {
    fn from(mut rest: BTreeMap<String, Value>) -> Self {
        let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let certificates = match rest.remove("certificates") {
            Some(Value::Array(entries)) => entries
                .iter()
                .map(|entry| PreseedCertificate {
                    name: text(entry, "name"),
                    kind: text(entry, "type"),
                    certificate: text(entry, "certificate"),
                })
                .collect(),
            _ => Vec::new(),
        };
        Self { certificates, rest }
    }
}

/// Sections `operations-center` and `migration-manager`, of which the preseed
/// belongs to the product.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TrustedClients {
    /// Never interpreted.
    #[serde(deserialize_with = "null_is_zero")]
    pub version: String,
    /// Accepted and without effect.
    #[serde(deserialize_with = "null_is_zero")]
    pub apply_defaults: bool,
    /// PEM certificates of the clients that the product and the machine trust.
    #[serde(deserialize_with = "null_is_zero")]
    pub trusted_client_certificates: Vec<String>,
    /// The product's own settings.
    pub preseed: Option<Value>,
}

fn null_is_zero<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Syntax, decode};

    #[test]
    fn incus_section_of_the_image_tools_is_read() {
        let text = "version: \"1\"\napply_defaults: true\npreseed:\n  config:\n    oidc.issuer: https://example.org\n    core.x: 1\n  certificates:\n  - name: admin\n    type: client\n    description: Initial admin client\n    certificate: |-\n      -----BEGIN CERTIFICATE-----\n      AAAA\n      -----END CERTIFICATE-----\n";
        let incus: Incus = decode(text.as_bytes(), Syntax::Yaml).unwrap().value;
        let preseed = incus.preseed.unwrap();
        assert!(incus.apply_defaults);
        assert_eq!(preseed.certificates[0].kind, "client");
        assert!(preseed.certificates[0].certificate.starts_with("-----BEGIN CERTIFICATE-----\nAAAA\n"));
        assert_eq!(preseed.rest["config"]["core.x"], 1);
    }

    #[test]
    fn sections_of_the_fleet_manager_with_zero_values_are_read() {
        let incus: Incus =
            decode(b"{version: \"1\", apply_defaults: false, preseed: null}", Syntax::Yaml).unwrap().value;
        assert_eq!(incus.preseed, None);
        let text = b"version: \"\"\napply_defaults: false\ntrusted_client_certificates: []\npreseed: null\n";
        assert_eq!(decode::<TrustedClients>(text, Syntax::Yaml).unwrap().value, TrustedClients::default());
        let text = br#"{"version":"1.2.3","applications":[{"name":"incus"},{"name":"debug"}]}"#;
        let names: Vec<_> = decode::<Applications>(text, Syntax::Json)
            .unwrap()
            .value
            .applications
            .into_iter()
            .map(|application| application.name)
            .collect();
        assert_eq!(names, ["incus", "debug"]);
    }

    #[test]
    fn odd_certificates_of_a_preseed_are_kept_for_the_caller_to_refuse() {
        let incus = |text: &[u8]| decode::<Incus>(text, Syntax::Json).unwrap().value;
        let odd = incus(br#"{"preseed":{"certificates":[5,{"type":"client"},null]}}"#);
        assert_eq!(odd.preseed.unwrap().certificates.len(), 3);
        assert!(incus(br#"{"preseed":{"certificates":"x"}}"#).preseed.unwrap().certificates.is_empty());
    }
}
