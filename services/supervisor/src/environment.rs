//! The facts of `GET /1.0`. They are answered whatever the other services do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::v1::{self, Empty, NetworkConfig, OsVersions};
use service::Peers;
use tokio::sync::Mutex;

use crate::Machine;

/// How long what other services said is repeated without asking again.
const FRESH: Duration = Duration::from_secs(1);

/// How long another service is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// Source of [`v1::Environment`].
#[derive(Debug)]
pub(crate) struct Environment {
    machine: Arc<Machine>,
    peers: Peers,
    heard: Mutex<Heard>,
}

/// What other services said last.
#[derive(Debug, Default)]
struct Heard {
    asked: Option<Instant>,
    hostname: Option<String>,
    versions: OsVersions,
}

impl Environment {
    pub(crate) fn new(machine: Arc<Machine>, peers: Peers) -> Self {
        Self { machine, peers, heard: Mutex::default() }
    }

    pub(crate) async fn get(&self, is_ready: bool) -> v1::Environment {
        let (hostname, versions) = self.heard().await;
        v1::Environment {
            hostname: hostname.unwrap_or_else(|| self.fallback_hostname()),
            machine_id: self.machine.machine_id(),
            os_name: self.machine.os_name(),
            os_version: self.machine.os_version(),
            os_version_next: versions.next,
            os_version_alternate: versions.alternate,
            system_is_ready: is_ready,
            uptime: self.machine.uptime(),
        }
    }

    /// The machine's name where none is configured.
    pub(crate) fn fallback_hostname(&self) -> String {
        let machine_id = || Some(self.machine.machine_id()).filter(|id| !id.is_empty());
        self.machine.product_uuid().or_else(machine_id).unwrap_or_else(|| self.machine.os_name())
    }

    async fn heard(&self) -> (Option<String>, OsVersions) {
        let mut heard = self.heard.lock().await;
        if heard.asked.is_none_or(|asked| asked.elapsed() >= FRESH) {
            let (mut network, mut update) = (self.peers.network(), self.peers.update());
            let (network, versions) = tokio::join!(
                tokio::time::timeout(PATIENCE, network.get(Empty {})),
                tokio::time::timeout(PATIENCE, update.get_versions(Empty {})),
            );
            // A service that does not answer now is quoted with what it said before.
            if let Ok(Ok(reply)) = network {
                heard.hostname = reply.into_inner().config.as_ref().and_then(configured_hostname);
            }
            if let Ok(Ok(reply)) = versions {
                heard.versions = reply.into_inner();
            }
            heard.asked = Some(Instant::now());
        }
        (heard.hostname.clone(), heard.versions.clone())
    }
}

/// `dns.hostname`, with `dns.domain` where there is one.
fn configured_hostname(config: &NetworkConfig) -> Option<String> {
    let dns = config.dns.as_ref().filter(|dns| !dns.hostname.is_empty())?;
    Some(if dns.domain.is_empty() { dns.hostname.clone() } else { format!("{}.{}", dns.hostname, dns.domain) })
}
