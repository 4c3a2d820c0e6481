//! Versions on this machine, where new ones come from, and when they are taken.
//!
//! The service owns the update and provider configuration. It reads the running
//! and the alternate release from what the boot loader left in the EFI
//! variables, so it needs neither the EFI system partition nor any privilege.
//!
//! Nothing here fetches or applies an update yet.

mod rpc;
mod state;
mod versions;

use std::path::Path;

use api::v1::update_server::UpdateServer;
use service::{Context, Error};
use tonic::service::Routes;

use crate::{rpc::Rpc, state::State, versions::Versions};

/// Serves until the service manager asks for a stop.
pub async fn run(context: Context) -> Result<(), Error> {
    run_with(context, Path::new("/")).await
}

/// [`run`] on a machine whose file systems are found below `root`.
pub async fn run_with(context: Context, root: &Path) -> Result<(), Error> {
    let state = State::open(context.state_dir()).map_err(|error| Error::Service(error.into()))?;
    let versions = Versions::read(root);
    context.serve(Routes::new(UpdateServer::new(Rpc::new(state, versions)))).await
}
