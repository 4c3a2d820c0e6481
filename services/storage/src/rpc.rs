//! The gRPC side: hands requests over and turns failures into codes.

use api::v1::{Empty, StartReply, StartRequest, StorageConfig, SystemStorage, storage_server::Storage};
use tonic::{Request, Response, Status};

use crate::{inventory::Inventory, operations::Operations};

/// When pools are scrubbed as long as nobody asked for something else.
const DEFAULT_SCRUB_SCHEDULE: &str = "0 4 * * 0";

#[derive(Debug)]
pub(crate) struct Rpc {
    inventory: Inventory,
    operations: Operations,
}

impl Rpc {
    pub(crate) fn new(inventory: Inventory, operations: Operations) -> Self {
        Self { inventory, operations }
    }
}

#[tonic::async_trait]
impl Storage for Rpc {
    async fn start(&self, _: Request<StartRequest>) -> Result<Response<StartReply>, Status> {
        let warnings = self.operations.bring_up().await.ok_or_else(ended)?;
        Ok(Response::new(StartReply { warnings }))
    }

    async fn get(&self, _: Request<Empty>) -> Result<Response<SystemStorage>, Status> {
        let state = self.inventory.state().await.ok_or_else(ended)?.map_err(Status::unavailable)?;
        let config = StorageConfig { scrub_schedule: DEFAULT_SCRUB_SCHEDULE.to_owned(), ..Default::default() };
        Ok(Response::new(SystemStorage { config: Some(config), state: Some(state) }))
    }

    async fn put(&self, _: Request<SystemStorage>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("changing schedules and storage pools is not available in this release"))
    }
}

/// The task that should have answered is gone: the service is being stopped.
fn ended() -> Status {
    Status::unavailable("the storage service is stopping")
}
