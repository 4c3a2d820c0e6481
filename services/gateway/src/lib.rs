//! Every REST listener: parsing, authentication, envelope, REST to gRPC.
//!
//! Two listeners lead to one table of endpoints (`route.rs`): the Unix socket
//! that the service manager hands over, and HTTPS with client certificates, set
//! up as the supervisor says. A request goes to the service that owns the
//! document; what that service answers is put into the envelope.
//!
//! Invariants:
//! - The gateway holds no state and decides nothing about the machine. It may be
//!   killed at any time and loses nothing.
//! - It reads nothing from disk but os-release, the machine id and `/proc`.
//! - A service that is away makes its own section answer 503, and no other.
//! - What changes the machine goes on when the client leaves.
//! - No request, list of any length or upload makes it keep more than a few
//!   buffers.

mod answer;
mod audit;
mod body;
mod caller;
mod dispatch;
mod endpoints;
mod failure;
mod journal;
mod kernel;
mod listener;
mod machine;
mod request;
mod root;
mod route;
mod trust;

use std::{sync::Arc, time::Duration};

use api::v1::{
    network_client::NetworkClient, security_client::SecurityClient, storage_client::StorageClient,
    supervisor_client::SupervisorClient, update_client::UpdateClient,
};
use runner::{Runner, SystemRunner};
use service::{Context, Peers};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tonic::transport::Channel;

pub use machine::Machine;

use listener::{settings::Https, share::Sources};

/// `FileDescriptorName=` of the Unix socket.
const REST_SOCKET: &str = "rest";

/// Connections that each listener has at most. The listeners do not share:
/// strangers on the network must not be able to lock out the machine's own.
const CONNECTION_LIMIT: usize = 512;
/// Requests that may read the journal at once: each has a process of its own.
const JOURNAL_READERS: usize = 16;
/// How long requests may take to finish after a stop was asked for.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the gateway as the service manager started it.
pub async fn run(mut context: Context) -> Result<(), service::Error> {
    let setup = Setup {
        rest: context.take_unix_listener(REST_SOCKET)?,
        peers: context.peers(),
        machine: Machine::default(),
        runner: Arc::new(SystemRunner),
    };
    serve(setup, || context.ready(), context.stopped()).await;
    Ok(())
}

/// What the gateway works with.
pub struct Setup {
    /// The Unix socket of the API, listening.
    pub rest: UnixListener,
    /// The other services.
    pub peers: Peers,
    /// What it reads by itself.
    pub machine: Machine,
    /// What starts programs.
    pub runner: Arc<dyn Runner>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Setup").field("rest", &self.rest).field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// Answers requests until `stop` resolves, and then finishes those under way.
/// Calls `ready` once requests are answered.
pub async fn serve(setup: Setup, ready: impl FnOnce(), stop: impl Future<Output = ()>) {
    let (https_settings, https) = watch::channel(Https::default());
    let (stopping, stopped) = watch::channel(false);
    let gateway = Arc::new(Gateway {
        owners: Owners::of(&setup.peers),
        machine: setup.machine,
        runner: setup.runner,
        https,
        unix_slots: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
        https_slots: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
        https_sources: Sources::default(),
        journal_readers: Arc::new(Semaphore::new(JOURNAL_READERS)),
        stopped,
    });
    let unix = tokio::spawn(listener::unix::serve(gateway.clone(), setup.rest));
    let secure = tokio::spawn(listener::https::serve(gateway.clone()));
    let settings = tokio::spawn(listener::settings::follow(gateway.clone(), https_settings));
    ready();
    stop.await;
    stopping.send_replace(true);
    settings.abort();
    // Both end by themselves at the signal above; a panic in one ends here too.
    let _ = tokio::join!(unix, secure);
    let all = u32::try_from(CONNECTION_LIMIT).expect("the limit is a small number");
    let finished = async {
        // Every slot is free once every connection has ended.
        let _ = tokio::join!(gateway.unix_slots.acquire_many(all), gateway.https_slots.acquire_many(all));
    };
    if timeout(STOP_PATIENCE, finished).await.is_err() {
        tracing::warn!("requests were still under way when the gateway had to stop");
    }
}

/// What every request has at hand.
struct Gateway {
    owners: Owners,
    machine: Machine,
    runner: Arc<dyn Runner>,
    /// The settings of the HTTPS listener that are in force.
    https: watch::Receiver<Https>,
    unix_slots: Arc<Semaphore>,
    https_slots: Arc<Semaphore>,
    https_sources: Sources,
    journal_readers: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Gateway {
    /// Resolves when the gateway is asked to stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    /// Connections per listener.
    fn open_connections(&self) -> [(&'static str, usize); 2] {
        let open = |slots: &Semaphore| CONNECTION_LIMIT.saturating_sub(slots.available_permits());
        [("unix", open(&self.unix_slots)), ("https", open(&self.https_slots))]
    }

    /// Requests that read the journal right now.
    fn open_journal_readers(&self) -> usize {
        JOURNAL_READERS.saturating_sub(self.journal_readers.available_permits())
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Gateway").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// The services that own the documents: one connection each, opened at the
/// first call and again after the service was restarted.
#[derive(Debug)]
struct Owners {
    supervisor: SupervisorClient<Channel>,
    network: NetworkClient<Channel>,
    storage: StorageClient<Channel>,
    security: SecurityClient<Channel>,
    update: UpdateClient<Channel>,
}

impl Owners {
    fn of(peers: &Peers) -> Self {
        Self {
            supervisor: peers.supervisor(),
            network: peers.network(),
            storage: peers.storage(),
            security: peers.security(),
            update: peers.update(),
        }
    }
}
