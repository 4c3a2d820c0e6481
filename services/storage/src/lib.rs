//! Drives, pools and volumes.
//!
//! The service reads drives from sysfs and the udev database, and pools from
//! ZFS; when the system starts it imports the pools it has keys of, and on the
//! first start creates the encrypted pool `local` on what the boot drive has
//! left. What it knows it keeps in memory; state on disk are the key files in
//! `/var/lib/incus-os` alone.
//!
//! Invariants:
//!
//! * Nothing recognisable is ever overwritten (`engine::bring_up`).
//! * A key has reached the disk before anything is encrypted with it, and an
//!   existing key file is never replaced.
//! * One drive or pool that cannot be read hides no other.
//! * `Get` starts no program unless something has changed, and answers in
//!   bounded time even when ZFS does not answer at all (`inventory`).
//! * Pools are only changed by one task, one request after the other; a caller
//!   that goes away interrupts nothing (`operations`).
//! * It loads no kernel module and needs no network.

mod engine;
mod inventory;
mod machine;
mod operations;
mod rpc;

use std::sync::Arc;

use api::v1::storage_server::StorageServer;
use runner::{Runner, SystemRunner};
use service::{Context, Error};
use tonic::service::Routes;

pub use machine::Roots;

use crate::{inventory::Inventory, machine::Machine, operations::Operations, rpc::Rpc};

/// Serves until the service manager asks for a stop.
pub async fn run(context: Context) -> Result<(), Error> {
    run_with(context, Roots::system(), Arc::new(SystemRunner)).await
}

/// [`run`] on a machine whose folders and programs are others.
pub async fn run_with(context: Context, roots: Roots, runner: Arc<dyn Runner>) -> Result<(), Error> {
    let machine = Machine::new(roots, runner);
    let inventory = Inventory::keep(machine.clone());
    let operations = Operations::accept(machine, inventory.clone());
    context.serve(Routes::new(StorageServer::new(Rpc::new(inventory, operations)))).await
}
