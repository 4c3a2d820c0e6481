//! What the status screen shows. The documents it comes from hold secrets, and
//! the screen is drawn by a process that anyone at a terminal talks to: so the
//! supervisor asks, and passes on what is no secret.

use std::time::Duration;

use api::v1::{
    Empty, Overview, SecurityState, network_client::NetworkClient, security_client::SecurityClient,
    update_client::UpdateClient,
};
use service::Peers;
use tonic::{Response, Status, transport::Channel};

/// How long another service is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The services that know what the screen shows.
#[derive(Debug)]
pub(crate) struct Sources {
    security: SecurityClient<Channel>,
    network: NetworkClient<Channel>,
    update: UpdateClient<Channel>,
}

impl Sources {
    pub(crate) fn of(peers: &Peers) -> Self {
        Self { security: peers.security(), network: peers.network(), update: peers.update() }
    }

    /// Asks them. What does not answer is left out.
    pub(crate) async fn ask(&self) -> Overview {
        let (mut security, mut network, mut update) =
            (self.security.clone(), self.network.clone(), self.update.clone());
        let (security, network, update) =
            tokio::join!(answer(security.get(Empty {})), answer(network.get(Empty {})), answer(update.get(Empty {})),);
        Overview {
            security: security.and_then(|document| document.state).map(without_keys),
            network: network.and_then(|document| document.state),
            update: update.and_then(|document| document.state),
            ..Overview::default()
        }
    }
}

async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, call).await.ok()?.ok().map(Response::into_inner)
}

fn without_keys(mut state: SecurityState) -> SecurityState {
    state.drive_recovery_keys.clear();
    state.pool_recovery_keys.clear();
    state
}
