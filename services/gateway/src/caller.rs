//! Who sends a request, and over which listener.

use std::{fmt, net::SocketAddr, sync::Arc};

use crate::trust::ClientCertificate;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A process of this machine on the Unix socket. Whoever can open it is root
    /// or was let in by root, and is fully trusted.
    Local {
        /// As the kernel vouches for it.
        uid: u32,
    },
    /// A client of the HTTPS listener.
    Remote {
        /// Where it connects from.
        address: SocketAddr,
        /// What it proved to own during the handshake, if anything.
        certificate: Option<Arc<ClientCertificate>>,
    },
}

impl Caller {
    /// Name of the listener in the audit log.
    pub(crate) fn listener(&self) -> &'static str {
        match self {
            Self::Local { .. } => "unix",
            Self::Remote { .. } => "https",
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(out, "uid {uid}"),
            Self::Remote { address, certificate: Some(certificate) } => {
                write!(out, "certificate {} from {address}", certificate.fingerprint())
            }
            Self::Remote { address, certificate: None } => write!(out, "no certificate, from {address}"),
        }
    }
}
