//! Checking `system/fallback-listener`.

use std::net::SocketAddr;

use api::v1::FallbackListenerConfig;
use values::{CertificateError, certificate_der};

/// The port where none is configured. Kernel-chosen ports, which the reference
/// daemon uses, would have to be looked up on the console after every boot.
const DEFAULT_PORT: u16 = 9443;

/// Most clients that are accepted.
const CLIENT_LIMIT: usize = 1024;

/// What is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("listen address {0:?} is not `IP:port` or `:port`")]
    Address(String),
    #[error("at least one trusted client certificate is needed")]
    NoClients,
    #[error("{0} trusted client certificates are more than the limit of {CLIENT_LIMIT}")]
    TooManyClients(usize),
    #[error("trusted client certificate {index} {reason}")]
    Client { index: usize, reason: CertificateError },
}

/// Refuses settings that could not be served.
pub(crate) fn check(config: &FallbackListenerConfig) -> Result<(), ConfigError> {
    address(&config.listen_address)?;
    let clients = &config.trusted_client_certificates;
    match clients.len() {
        0 => return Err(ConfigError::NoClients),
        count if count > CLIENT_LIMIT => return Err(ConfigError::TooManyClients(count)),
        _ => {}
    }
    for (index, client) in clients.iter().enumerate() {
        certificate_der(client).map_err(|reason| ConfigError::Client { index, reason })?;
    }
    Ok(())
}

/// Where to listen: `IP:port`, or `:port` for every address of the machine.
pub(crate) fn address(text: &str) -> Result<String, ConfigError> {
    let (address, port) = match text.strip_prefix(':') {
        None if text.is_empty() => (String::new(), DEFAULT_PORT),
        // `parse` would take a sign.
        Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => (String::new(), port.parse().unwrap_or_default()),
        _ => match text.parse::<SocketAddr>() {
            Ok(address) => (address.to_string(), address.port()),
            Err(_) => return Err(ConfigError::Address(text.to_owned())),
        },
    };
    match (port, address.is_empty()) {
        // A port that nobody knows.
        (0, _) => Err(ConfigError::Address(text.to_owned())),
        (port, true) => Ok(format!(":{port}")),
        (_, false) => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn with(address: &str, clients: &[&str]) -> FallbackListenerConfig {
        FallbackListenerConfig {
            listen_address: address.into(),
            trusted_client_certificates: clients.iter().map(|client| (*client).to_owned()).collect(),
            persistent: false,
        }
    }

    #[test]
    fn addresses_are_literal() {
        for (text, meaning) in [
            ("", ":9443"),
            (":8443", ":8443"),
            (":08443", ":8443"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[::]:443", "[::]:443"),
        ] {
            assert_eq!(address(text).unwrap(), meaning, "{text}");
        }
        for text in [
            "localhost:443",
            "example.org:443",
            "443",
            "192.0.2.1",
            "192.0.2.1:",
            ":",
            ":0",
            "192.0.2.1:0",
            ":65536",
            ":-1",
            ":+1",
            "[::1]",
            "::1:443",
            "192.0.2.256:443",
            " :443",
            ":443 ",
            "0x7f.1:443",
            "https://192.0.2.1:443",
        ] {
            assert_eq!(address(text), Err(ConfigError::Address(text.into())), "{text}");
        }
    }

    #[test]
    fn every_certificate_is_checked_and_named_by_its_index() {
        let (pem, key) = client();
        check(&with("", &[&pem])).unwrap();
        check(&with(":9443", &[&pem, &format!("a comment\n{pem}")])).unwrap();
        assert_eq!(check(&with("", &[])), Err(ConfigError::NoClients));
        let cut = pem.replace("-----END", "AAAA\n-----END");
        let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
        for bad in ["", "text", &key, &cut, empty, &pem[..pem.len() / 2]] {
            let error = check(&with("", &[&pem, bad])).unwrap_err();
            assert!(matches!(error, ConfigError::Client { index: 1, .. }), "{bad:?}: {error}");
            assert!(error.to_string().starts_with("trusted client certificate 1 is "), "{error}");
        }
        let many = vec![pem.as_str(); CLIENT_LIMIT + 1];
        assert_eq!(check(&with("", &many)), Err(ConfigError::TooManyClients(CLIENT_LIMIT + 1)));
    }
}
