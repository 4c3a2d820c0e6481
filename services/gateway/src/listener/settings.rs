//! What the HTTPS listener is to be, as told by the supervisor.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api::v1::{Empty, ListenerSettings};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::tls;
use crate::{Gateway, trust::Trust};

/// How long to wait before asking the supervisor again.
const RETRY: Duration = Duration::from_secs(1);

/// The listener as it is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Https {
    /// Where to listen and what to show there; `None` while it must not run.
    pub(crate) server: Option<Server>,
    /// Read at every request.
    pub(crate) trust: Trust,
}

/// The serving half of the settings.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: ListenAddress,
    pub(crate) tls: Arc<ServerConfig>,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    /// On every address of the machine.
    Every {
        port: u16,
    },
    One(SocketAddr),
}

impl ListenAddress {
    /// Reads `IP:port` or `:port`.
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(Self::Every { port: port.parse().ok()? })
            }
            Some(_) => None,
            None => text.parse().ok().map(Self::One),
        }
    }
}

/// Follows the supervisor's settings until the gateway stops. While the
/// supervisor is away the last ones stay in force.
pub(crate) async fn follow(gateway: Arc<Gateway>, https: watch::Sender<Https>) {
    let mut reported = false;
    loop {
        let mut supervisor = gateway.owners.supervisor.clone();
        let ended = match supervisor.watch_listener(Empty {}).await {
            Ok(settings) => {
                reported = false;
                receive(settings.into_inner(), &https).await
            }
            Err(status) => Some(status),
        };
        if let Some(status) = ended.filter(|_| !reported) {
            reported = true;
            tracing::debug!("the supervisor does not tell the listener's settings: {status}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Takes settings over as they come; returns why no more do.
async fn receive(
    mut settings: tonic::Streaming<ListenerSettings>,
    https: &watch::Sender<Https>,
) -> Option<tonic::Status> {
    loop {
        match settings.message().await {
            Ok(Some(settings)) => {
                let before = https.borrow().clone();
                https.send_replace(convert(&settings, before));
            }
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

/// The new settings. Where they cannot be used the listener stays as it was,
/// except that trust is always the new one: it can only have become stricter by
/// an operator's wish.
fn convert(settings: &ListenerSettings, before: Https) -> Https {
    let trust = Trust::in_certificates(&settings.trusted_client_certificates);
    if settings.listen_address.is_empty() {
        return Https { server: None, trust };
    }
    let Some(address) = ListenAddress::parse(&settings.listen_address) else {
        tracing::error!("`{}` is no address to listen on", settings.listen_address);
        return Https { trust, ..before };
    };
    match tls::server_config(&settings.server_certificate, &settings.server_key) {
        Ok(tls) => Https { server: Some(Server { address, tls }), trust },
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::error!("the HTTPS listener keeps its certificate: {error}: {cause}");
            Https { trust, ..before }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal() {
        let one = |text: &str| Some(ListenAddress::One(text.parse().unwrap()));
        assert_eq!(ListenAddress::parse("192.0.2.1:9443"), one("192.0.2.1:9443"));
        assert_eq!(ListenAddress::parse("[2001:db8::1]:9443"), one("[2001:db8::1]:9443"));
        assert_eq!(ListenAddress::parse(":9443"), Some(ListenAddress::Every { port: 9443 }));
        for bad in ["", ":", "9443", "localhost:9443", "192.0.2.1", ":99999", ":+1", "[::]", "[::]:x", ":94 43"] {
            assert_eq!(ListenAddress::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn unusable_settings_leave_the_listener_but_not_the_trust() {
        let before = Https { server: None, trust: Trust::in_certificates([b"old"]) };
        let settings = ListenerSettings {
            listen_address: ":9443".into(),
            trusted_client_certificates: vec![b"new".to_vec()],
            server_certificate: "no pem".into(),
            server_key: "no pem".into(),
        };
        let after = convert(&settings, before);
        assert!(after.server.is_none());
        assert_eq!(after.trust, Trust::in_certificates([b"new"]));
    }
}
