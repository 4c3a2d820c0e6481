//! The image customizer: an HTTP service over the tree of a feed on its own disk.
//!
//! Somebody posts what the image shall be and gets an address under which it can
//! be downloaded, once. The image is put together while it is downloaded: the
//! stored one is decompressed, the seed takes the place of the seed partition's
//! start, and the result is compressed again, all in pieces of a few KiB.
//!
//! Invariants:
//!
//! * A seed exists in memory only, from its POST to the end of its download or
//!   for [`tickets::LIFETIME`], whichever comes first, and never on disk or in a
//!   log.
//! * Memory does not grow with the size of images, and is limited per client and
//!   in all: see [`tickets::ROOM`] and [`server::DOWNLOADS`].
//! * What can be known when an image is asked for is checked then: a download
//!   that starts fails only when a disk does.

mod answer;
mod archive;
mod certificate;
mod image;
mod page;
mod proxy;
mod request;
mod rescue;
mod server;
mod stream;
mod tickets;
mod tree;

use std::{env, ffi::OsString, fs, io, path::PathBuf, process::ExitCode};

use server::Settings;

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("usage: image-customizer FOLDER, where FOLDER is the tree of a feed: it holds index.json")]
    Usage,
    #[error("cannot read the index of the tree in `{path}`", path = path.display())]
    Tree { path: PathBuf, source: tree::TreeError },
    #[error("TLS_CERT and TLS_KEY must be set together, to the paths of two PEM files")]
    HalfTls,
    #[error("cannot read `{path}`", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the certificate or key for HTTPS cannot be used")]
    Tls(#[source] server::TlsError),
    #[error("LISTEN_ADDRESS '{0}' is not an address such as `:8443`, `127.0.0.1:8080` or `[::1]:8080`")]
    Address(String),
    #[error("cannot listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// Runs the service with the arguments and environment of this process.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
    match settings().and_then(|settings| server::run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", causes::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn settings() -> Result<Settings, StartError> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [root] = &arguments[..] else { return Err(StartError::Usage) };
    let tree = tree::Tree::new(PathBuf::from(root));
    // Fails now rather than with the first visitor.
    tree.index().map_err(|source| StartError::Tree { path: root.into(), source })?;
    let tls = match (path_from("TLS_CERT"), path_from("TLS_KEY")) {
        (Some(certificate), Some(key)) => {
            let read = |path: PathBuf| fs::read(&path).map_err(|source| StartError::File { path, source });
            Some(server::tls(&read(certificate)?, &read(key)?).map_err(StartError::Tls)?)
        }
        (None, None) => None,
        _ => return Err(StartError::HalfTls),
    };
    let listen = env::var("LISTEN_ADDRESS").ok().filter(|text| !text.is_empty());
    let listen = listen.unwrap_or_else(|| if tls.is_some() { ":8443" } else { ":8080" }.to_owned());
    Ok(Settings { tree, listen, tls })
}

fn path_from(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
