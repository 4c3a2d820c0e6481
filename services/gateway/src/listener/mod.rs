//! Where requests come in.

pub(crate) mod connection;
pub(crate) mod https;
pub(crate) mod settings;
pub(crate) mod share;
pub(crate) mod tls;
pub(crate) mod unix;

use std::{io, time::Duration};

/// Waits out a shortage of the machine's, such as file descriptors.
async fn accept_failed(listener: &str, error: &io::Error) {
    tracing::warn!("cannot accept a connection on the {listener} listener: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
