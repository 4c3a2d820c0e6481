//! `/run/incus-os/unix.socket`: HTTP/1.1 for whoever the file system lets in.

use std::{
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::OwnedSemaphorePermit,
};

use super::{
    accept_failed,
    connection::{self, Protocol},
};
use crate::{Gateway, caller::Caller};

/// How often to look whether a client is still there.
const LOOK: Duration = Duration::from_secs(2);

/// Accepts connections until the gateway stops.
pub(crate) async fn serve(gateway: Arc<Gateway>, listener: UnixListener) {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let slot = gateway.unix_slots.clone().acquire_owned().await;
                    tokio::spawn(converse(gateway.clone(), stream, slot.expect("the semaphore is never closed")));
                }
                Err(error) => accept_failed("Unix", &error).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = gateway.stopped() => {}
    }
}

async fn converse(gateway: Arc<Gateway>, stream: UnixStream, _slot: OwnedSemaphorePermit) {
    // Only for the audit log: whoever could open the socket may use it.
    let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => return accept_failed("Unix", &error).await,
    };
    let stopped = gateway.stopped();
    let mut requests = pin!(connection::serve(gateway, Caller::Local { uid }, stream, Protocol::Http1, stopped));
    tokio::select! {
        () = requests.as_mut() => {}
        () = client_left(socket) => {}
    }
}

/// Resolves when the client has closed its socket. HTTP alone cannot tell: a
/// client that closed only its sending side still waits for its answer.
async fn client_left(socket: OwnedFd) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let mut watched = [PollFd::new(&socket, PollFlags::empty())];
        let looked = poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if looked.is_ok() && watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return;
        }
    }
}
