//! TPM, Secure Boot and disk encryption: what state they are in, since when the
//! system is less than fully trusted, and who can open its volumes.
//!
//! * `GET` never asks the TPM or the firmware: a background task reads the TPM,
//!   and the firmware's variables are read again only after they changed.
//! * No single source that cannot be read makes an answer fail: the part of it
//!   that depends on this source is the cautious one.
//! * The mark that the system was in a weaker state is set at start, and never
//!   removed.
//!
//! * Power may go at any time: no key is lost, and no passphrase is needed that
//!   was not needed before. See `keeper`.
//! * No key is ever in an argument, in the environment or in a log.
//!
//! Nothing here changes a firmware variable yet.

mod authorities;
mod binding;
mod firmware;
mod keeper;
mod keys;
mod luks;
mod machine;
mod measurements;
mod recovery;
mod rpc;
mod trust;
mod volumes;

use std::sync::Arc;

use api::v1::security_server::SecurityServer;
use service::{Context, Error};
use store::Store;
use tonic::service::Routes;

pub use crate::machine::{DeviceTpm, Machine, TpmReading, TpmSource};
use crate::{measurements::Observer, rpc::Rpc};

/// Version of the state document.
const SCHEMA_VERSION: u32 = 1;

/// Serves until the service manager asks for a stop.
pub async fn run(context: Context) -> Result<(), Error> {
    run_with(context, Machine::this()).await
}

/// [`run`] on another machine than this one.
pub async fn run_with(context: Context, machine: Machine) -> Result<(), Error> {
    let store = Store::open(context.state_dir(), SCHEMA_VERSION).map_err(|error| Error::Service(error.into()))?;
    let machine = Arc::new(machine);
    let (observer, observations) = Observer::new(Arc::clone(&machine));
    let rpc = Rpc::new(machine, observations, store, context.peers());
    tokio::select! {
        served = context.serve(Routes::new(SecurityServer::new(rpc))) => served,
        never = observer.observe() => match never {},
    }
}
