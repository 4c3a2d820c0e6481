//! What a running daemon is given, and how it serves.

use std::{
    collections::HashMap,
    io,
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tonic::service::Routes;

use crate::{
    Identity, Peers,
    peer::{MethodPolicy, PeerPolicy},
};

/// How long requests in flight may take to finish after a stop was asked for.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a daemon ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service manager did not hand over a socket that the daemon needs.
    #[error("the service manager passed no socket named `{name}`")]
    NoSocket {
        /// `FileDescriptorName=` of the socket unit.
        name: String,
    },
    /// The environment of the process is not what the unit file promises.
    #[error("cannot {action}")]
    Setup {
        /// What was tried, as a verb phrase.
        action: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The gRPC server failed.
    #[error("cannot serve gRPC")]
    Serve(#[source] tonic::transport::Error),
    /// A failure of the service's own.
    #[error("{0}")]
    Service(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An I/O failure during set-up: `action` completes "cannot …".
    pub fn setup(action: impl Into<String>, source: io::Error) -> Self {
        Self::Setup { action: action.into(), source }
    }
}

/// What the service manager gave to this daemon.
#[derive(Debug)]
pub struct Context {
    identity: Identity,
    sockets: HashMap<String, OwnedFd>,
    policy: PeerPolicy,
    stop: watch::Receiver<bool>,
    peers: Peers,
    state_dir: PathBuf,
}

impl Context {
    /// Takes over the sockets and folders named in the environment (sd_listen_fds(3), systemd.exec(5)).
    pub(crate) fn from_environment(identity: Identity, stop: watch::Receiver<bool>) -> Result<Self, Error> {
        let sockets = sd_notify::listen_fds_with_names()
            .map_err(|source| Error::setup("take over the sockets of the service manager", source))?
            .map(|(fd, name)| {
                #[expect(
                    unsafe_code,
                    reason = "sd_listen_fds(3): the descriptor was passed to this process, and is taken once"
                )]
                // SAFETY: the protocol hands each listed descriptor over to this process, and nothing else here uses it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                (name, fd)
            })
            .collect();
        let policy = PeerPolicy::of(identity).map_err(|source| Error::setup("read the list of users", source))?;
        let state_dir = std::env::var_os("STATE_DIRECTORY")
            .map_or_else(|| Path::new("/var/lib/incus-os").join(identity.name()), PathBuf::from);
        Ok(Self { identity, sockets, policy, stop, peers: Peers::in_dir("/run/incus-os/svc"), state_dir })
    }

    /// A daemon whose sockets and state live in `dir`, for tests: it listens on
    /// `dir/<name>.sock`, accepts callers of the test's own user, and stops when
    /// the returned sender is dropped.
    pub fn in_dir(identity: Identity, dir: &Path) -> Result<(Self, watch::Sender<bool>), Error> {
        let socket = dir.join(identity.name()).with_extension("sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket)
            .map_err(|source| Error::setup(format!("listen on `{}`", socket.display()), source))?;
        let state_dir = dir.join("state").join(identity.name());
        std::fs::create_dir_all(&state_dir)
            .map_err(|source| Error::setup(format!("create `{}`", state_dir.display()), source))?;
        let (stopper, stop) = watch::channel(false);
        let sockets = HashMap::from([(GRPC_SOCKET.to_owned(), listener.into())]);
        let context =
            Self { identity, sockets, policy: PeerPolicy::same_user(), stop, peers: Peers::in_dir(dir), state_dir };
        Ok((context, stopper))
    }

    /// Which daemon this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The folder that only this daemon writes, `/var/lib/incus-os/<name>`.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The other daemons.
    pub fn peers(&self) -> Peers {
        self.peers.clone()
    }

    /// Takes the socket with this `FileDescriptorName=`, if there is one.
    pub fn take_socket(&mut self, name: &str) -> Option<OwnedFd> {
        self.sockets.remove(name)
    }

    /// Takes the listening Unix socket with this `FileDescriptorName=`.
    pub fn take_unix_listener(&mut self, name: &str) -> Result<UnixListener, Error> {
        let fd = self.take_socket(name).ok_or_else(|| Error::NoSocket { name: name.to_owned() })?;
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(|source| Error::setup(format!("listen on socket `{name}`"), source))
    }

    /// Resolves when the service manager asks the daemon to stop.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Tells the service manager that requests are now answered, sd_notify(3).
    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// Serves gRPC on the daemon's own socket until it is asked to stop.
    pub async fn serve(mut self, routes: Routes) -> Result<(), Error> {
        let listener = self.take_unix_listener(GRPC_SOCKET)?;
        let policy = self.policy.clone();
        let connections = UnixListenerStream::new(listener).filter_map(move |accepted| {
            let admitted = accepted.and_then(|stream| policy.admit(stream));
            // A refused caller is dropped; an error here would end the server.
            admitted.inspect_err(|error| tracing::warn!("connection refused: {error}")).ok().map(Ok::<_, io::Error>)
        });
        self.ready();
        let stopped = self.stopped();
        let server = tonic::transport::Server::builder()
            .layer(MethodPolicy::layer::<Routes>(self.identity))
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, stopped);
        let patience_ends = {
            let stopped = self.stopped();
            async move {
                stopped.await;
                notify(&[NotifyState::Stopping]);
                tokio::time::sleep(STOP_PATIENCE).await;
            }
        };
        tokio::select! {
            served = server => served.map_err(Error::Serve),
            () = patience_ends => Ok(()),
        }
    }
}

/// `FileDescriptorName=` of every daemon's gRPC socket.
const GRPC_SOCKET: &str = "grpc";

pub(crate) fn notify(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(state);
}
