//! The HTTPS listener: bound, rebound and closed as the settings say.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::v1::OperatorLine;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    accept_failed,
    connection::{self, Protocol},
    settings::{ListenAddress, Server},
    share::Share,
    tls::H2,
};
use crate::{Gateway, caller::Caller, trust::ClientCertificate};

/// How long to wait before trying again to listen.
const RETRY: Duration = Duration::from_secs(2);

/// How long a handshake may take. A slow machine that is greeted by two hundred
/// clients at once needs its time for the last of them.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(30);

/// Connections that may wait to be accepted: as many as are served at once, for
/// one that finds the queue full is not told so, and tries again after seconds.
const BACKLOG: u32 = 512;

/// Serves what the settings say until the gateway stops.
pub(crate) async fn serve(gateway: Arc<Gateway>) {
    let mut settings = gateway.https.clone();
    let mut stopped = std::pin::pin!(gateway.stopped());
    let mut bound: Option<Bound> = None;
    loop {
        let server = settings.borrow_and_update().server.clone();
        let wanted = server.as_ref().map(|server| server.address);
        if bound.as_ref().map(|bound| bound.address) != wanted {
            // Dropped first: the new address may overlap with the old one. Requests under way are finished.
            drop(bound.take());
            if let Some(address) = wanted {
                bound = Bound::to(address);
            }
            if let Some(bound) = &bound {
                announce(&gateway, bound);
            }
        }
        let missing = bound.is_none() && wanted.is_some();
        tokio::select! {
            () = stopped.as_mut() => return,
            changed = settings.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if missing => {}
            () = accept(&gateway, bound.as_ref(), server.as_ref()) => {}
        }
    }
}

/// Tells the operator where the system can be reached. Whether the supervisor
/// hears of it does not matter to the listener.
fn announce(gateway: &Gateway, bound: &Bound) {
    let local = bound.listener.local_addr().map(|local| local.to_string()).unwrap_or_default();
    let mut supervisor = gateway.owners.supervisor.clone();
    let line =
        OperatorLine { message: format!("Fallback HTTPS listener started on {local}"), ..OperatorLine::default() };
    tokio::spawn(async move {
        if let Err(status) = supervisor.write_operator_line(line).await {
            tracing::warn!("the operator was not told that the HTTPS listener started on {local}: {status}");
        }
    });
}

/// Accepts connections for as long as nothing changes.
async fn accept(gateway: &Arc<Gateway>, bound: Option<&Bound>, server: Option<&Server>) {
    let (Some(bound), Some(server)) = (bound, server) else {
        return std::future::pending().await;
    };
    loop {
        match bound.listener.accept().await {
            Ok((stream, address)) => {
                let Some(share) = Share::of(&gateway.https_sources, address.ip()) else {
                    tracing::debug!("{address} has too many connections already");
                    continue;
                };
                let slot = gateway.https_slots.clone().acquire_owned().await;
                let slot = slot.expect("the semaphore is never closed");
                let (gateway, tls, retired) = (gateway.clone(), server.tls.clone(), bound.retire.subscribe());
                tokio::spawn(async move {
                    let _held = (slot, share);
                    converse(gateway, stream, address, tls, retired).await;
                });
            }
            Err(error) => accept_failed("HTTPS", &error).await,
        }
    }
}

/// A listening socket. Dropping it also asks its connections to end.
struct Bound {
    address: ListenAddress,
    listener: TcpListener,
    retire: watch::Sender<()>,
}

impl Bound {
    fn to(address: ListenAddress) -> Option<Self> {
        match bind(address) {
            Ok(listener) => Some(Self { address, listener, retire: watch::Sender::new(()) }),
            Err(error) => {
                tracing::warn!("cannot listen on {address:?}, will try again: {error}");
                None
            }
        }
    }
}

fn bind(address: ListenAddress) -> io::Result<TcpListener> {
    match address {
        ListenAddress::One(address) => listen(address),
        // The IPv6 wildcard takes IPv4 as well; without IPv6 in the kernel only the other remains.
        ListenAddress::Every { port } => {
            listen((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| listen((Ipv4Addr::UNSPECIFIED, port).into()))
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Handshake, then requests.
async fn converse(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    mut retired: watch::Receiver<()>,
) {
    // Answers are small and written whole: waiting for more only delays them.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_PATIENCE, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("handshake with {address} failed: {error}"),
        Err(_) => return tracing::debug!("handshake with {address} took too long"),
    };
    let (_, session) = stream.get_ref();
    let protocol = if session.alpn_protocol() == Some(H2) { Protocol::Http2 } else { Protocol::Http1 };
    let certificate = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| Arc::new(ClientCertificate::from_der(leaf)));
    let stopped = gateway.stopped();
    let retired = async move {
        tokio::select! {
            () = stopped => {}
            // Nothing is ever sent: this is the end of the listener.
            _ = retired.changed() => {}
        }
    };
    connection::serve(gateway, Caller::Remote { address, certificate }, stream, protocol, retired).await;
}
