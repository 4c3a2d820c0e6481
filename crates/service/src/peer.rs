//! Who is on the other end of a connection.

use std::{
    collections::HashMap,
    fs, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

use crate::Identity;

/// The caller, as the kernel vouches for it (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id of the calling process.
    pub uid: u32,
    /// The daemon that runs under this user; `None` for root, which is every
    /// root-equivalent daemon and the machine's own service manager.
    pub identity: Option<Identity>,
}

impl Peer {
    /// Whether the caller is one of `allowed`, or root.
    pub fn is_one_of(&self, allowed: &[Identity]) -> bool {
        self.uid == 0 || self.identity.is_some_and(|identity| allowed.contains(&identity))
    }
}

/// The caller of a request that arrived through [`crate::Context::serve`].
pub fn peer<T>(request: &tonic::Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().copied()
}

/// The users that may call one daemon.
#[derive(Debug, Clone)]
pub(crate) struct PeerPolicy {
    users: HashMap<u32, Option<Identity>>,
}

impl PeerPolicy {
    /// Root, and the users of the daemons that may call `identity`.
    pub(crate) fn of(identity: Identity) -> io::Result<Self> {
        let accounts = fs::read_to_string("/etc/passwd")?;
        let mut users = HashMap::from([(0, None)]);
        for caller in identity.callers() {
            if let Some(uid) = caller.user().and_then(|user| uid_of(&accounts, user)) {
                users.insert(uid, Some(*caller));
            }
        }
        Ok(Self { users })
    }

    /// Only processes of this process's own user, taken for the gateway's.
    pub(crate) fn same_user() -> Self {
        Self { users: HashMap::from([(rustix::process::geteuid().as_raw(), Some(Identity::Gateway))]) }
    }

    pub(crate) fn admit(&self, stream: UnixStream) -> io::Result<Admitted> {
        let uid = stream.peer_cred()?.uid();
        match self.users.get(&uid) {
            Some(identity) => Ok(Admitted { peer: Peer { uid, identity: *identity }, stream }),
            None => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} may not call this service")))
            }
        }
    }
}

/// User id of `user` in the text of passwd(5).
fn uid_of(accounts: &str, user: &str) -> Option<u32> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// A connection whose caller was checked.
#[derive(Debug)]
pub(crate) struct Admitted {
    peer: Peer,
    stream: UnixStream,
}

impl Connected for Admitted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Admitted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_found_by_whole_user_name() {
        let accounts = "root:x:0:0::/root:/bin/sh\nincus-osd-gateway:!*:991:990:x:/:/sbin/nologin\nincus-osd:x:990:990::/:\nbroken\n";
        assert_eq!(uid_of(accounts, "incus-osd"), Some(990));
        assert_eq!(uid_of(accounts, "incus-osd-gateway"), Some(991));
        assert_eq!(uid_of(accounts, "incus"), None);
        assert_eq!(uid_of(accounts, "broken"), None);
    }
}
