//! Who is on the other end of a connection.

use std::{
    collections::HashMap,
    fs, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::{Status, body::Body, transport::server::Connected};
use tower::{Layer, Service, layer::layer_fn};

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

/// Refuses the methods that a caller may not use, before they are looked at.
#[derive(Debug, Clone)]
pub(crate) struct MethodPolicy<S> {
    callee: Identity,
    inner: S,
}

impl MethodPolicy<()> {
    /// Puts the policy of `callee` before its methods.
    pub(crate) fn layer<S>(callee: Identity) -> impl Layer<S, Service = MethodPolicy<S>> + Clone {
        layer_fn(move |inner| MethodPolicy { callee, inner })
    }
}

impl<S, A> Service<http::Request<A>> for MethodPolicy<S>
where
    S: Service<http::Request<A>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<A>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let caller = request.extensions().get::<Peer>().and_then(|peer| peer.identity);
        if caller.is_none_or(|caller| self.callee.allows(caller, method)) {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Ok(Status::permission_denied("not authorized").into_http())))
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

    /// What the security service answers to `caller`: `None` is its own method.
    fn refusal(caller: Option<Identity>, method: &str) -> Option<String> {
        let own = tower::service_fn(|_: http::Request<()>| ready(Ok::<_, ()>(http::Response::new(Body::empty()))));
        let mut request = http::Request::new(());
        *request.uri_mut() = format!("/incusos.v1.Security/{method}").parse().unwrap();
        request.extensions_mut().insert(Peer { uid: 990, identity: caller });
        let answer = MethodPolicy::layer(Identity::Security).layer(own).call(request);
        let answer = futures_util::FutureExt::now_or_never(answer).unwrap().unwrap();
        answer.headers().get("grpc-status").map(|code| code.to_str().unwrap().to_owned())
    }

    #[test]
    fn method_is_refused_by_the_callers_user() {
        assert_eq!(refusal(Some(Identity::Console), "CheckRecoveryKey"), None);
        assert_eq!(refusal(Some(Identity::Console), "Get").as_deref(), Some("7"));
        assert_eq!(refusal(Some(Identity::Gateway), "Get"), None);
        assert_eq!(refusal(None, "Get"), None, "root");
    }

    #[test]
    fn uid_is_found_by_whole_user_name() {
        let accounts = "root:x:0:0::/root:/bin/sh\nincus-osd-gateway:!*:991:990:x:/:/sbin/nologin\nincus-osd:x:990:990::/:\nbroken\n";
        assert_eq!(uid_of(accounts, "incus-osd"), Some(990));
        assert_eq!(uid_of(accounts, "incus-osd-gateway"), Some(991));
        assert_eq!(uid_of(accounts, "incus"), None);
        assert_eq!(uid_of(accounts, "broken"), None);
    }
}
