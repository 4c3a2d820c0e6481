//! Calling the other daemons.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Identity;

/// Largest message that one daemon accepts from another.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Connections to the other daemons: opened at the first call, opened anew
/// after the other side was restarted.
#[derive(Debug, Clone)]
pub struct Peers {
    sockets: PathBuf,
}

/// The gRPC client of one daemon.
macro_rules! clients {
    ($($name:ident: $identity:ident, $module:ident, $client:ident;)*) => {
        $(
            #[doc = concat!("A client of the ", stringify!($name), " service.")]
            pub fn $name(&self) -> api::v1::$module::$client<Channel> {
                api::v1::$module::$client::new(self.channel(Identity::$identity)).max_decoding_message_size(MESSAGE_LIMIT)
            }
        )*
    };
}

impl Peers {
    /// The daemons whose sockets are in this folder.
    pub fn in_dir(sockets: impl Into<PathBuf>) -> Self {
        Self { sockets: sockets.into() }
    }

    clients! {
        supervisor: Supervisor, supervisor_client, SupervisorClient;
        network: Network, network_client, NetworkClient;
        storage: Storage, storage_client, StorageClient;
        security: Security, security_client, SecurityClient;
        update: Update, update_client, UpdateClient;
    }

    fn channel(&self, identity: Identity) -> Channel {
        let socket = self.sockets.join(identity.name()).with_extension("sock");
        Endpoint::from_static("http://localhost").connect_timeout(Duration::from_secs(5)).connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }),
        )
    }
}

/// What a failed call says to a person: the other side's message, and for a
/// broken connection the daemon's name instead of the transport's words.
pub fn call_error(callee: Identity, status: &tonic::Status) -> String {
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Cancelled => {
            format!("the {callee} service is not available right now")
        }
        tonic::Code::DeadlineExceeded => format!("the {callee} service did not answer in time"),
        _ => status.message().to_owned(),
    }
}
