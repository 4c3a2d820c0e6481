//! `/run/incus-os/unix.socket`: HTTP/1.1 for whoever the file system lets in.

use std::sync::Arc;

use tokio::net::UnixListener;

use super::{
    accept_failed,
    connection::{self, Protocol},
};
use crate::{Gateway, caller::Caller};

/// Accepts connections until the gateway stops.
pub(crate) async fn serve(gateway: Arc<Gateway>, listener: UnixListener) {
    let mut stopped = std::pin::pin!(gateway.stopped());
    loop {
        let slot = tokio::select! {
            slot = gateway.unix_slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            () = stopped.as_mut() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped.as_mut() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed("Unix", &error).await;
                continue;
            }
        };
        // Only for the audit log: whoever could open the socket may use it.
        let uid = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let stopped = gateway.stopped();
            connection::serve(gateway, Caller::Local { uid }, stream, Protocol::Http1, stopped).await;
        });
    }
}
