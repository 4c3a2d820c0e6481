//! Links, addresses, routes, names and time.
//!
//! The service owns the wanted network: it plans (`netplan`), writes the files
//! that networkd and udev act on, gives network cards their names, and checks
//! in the kernel that the result is the plan. It shows the live state.
//!
//! What it promises:
//!
//! * A start with an unchanged configuration touches nothing: restarting this
//!   service never disturbs the network.
//! * Reading the state never waits for a change of it, starts no program, and
//!   does not fail because a device is missing.
//! * It runs without privilege except for the kernel's network configuration;
//!   host name, time zone, resolver and networkd are asked over D-Bus, where
//!   polkit knows the few actions that this user may do.

mod engine;
mod machine;
mod network;
mod rpc;

use std::sync::Arc;

use api::v1::network_server::NetworkServer;
use service::{Context, Error};
use store::Store;
use tonic::service::Routes;

pub use machine::{DaemonError, Daemons, Roots};

use crate::{
    engine::bring_up::Limits,
    machine::{Netlink, SystemBus},
    network::Network,
};

/// Version of the state document's layout.
const SCHEMA: u32 = 1;

/// Runs the service on this machine.
pub async fn run(context: Context) -> Result<(), Error> {
    run_with(context, Roots::system(), Box::new(SystemBus)).await
}

/// Runs the service with other folders and daemons, and the kernel's network
/// namespace of the calling thread.
pub async fn run_with(context: Context, roots: Roots, daemons: Box<dyn Daemons>) -> Result<(), Error> {
    let store = Store::open(context.state_dir(), SCHEMA).map_err(|error| Error::Service(Box::new(error)))?;
    let kernel = Netlink::open(roots.clone()).map_err(|error| Error::Service(Box::new(error)))?;
    let network = Arc::new(Network::new(kernel, daemons, roots, Limits::default(), store));
    let service = NetworkServer::new(rpc::Service(network));
    context.serve(Routes::new(service)).await
}
