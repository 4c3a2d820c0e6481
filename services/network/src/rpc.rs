//! The service's methods: convert, call, convert back.

use std::sync::Arc;

use api::v1::{Empty, NetworkStart, StartReply, SystemNetwork, network_server};
use tonic::{Request, Response, Status};

use crate::{
    engine::bring_up::BringUpError,
    network::{Network, StartError},
};

/// The methods over one network.
pub(crate) struct Service(pub(crate) Arc<Network>);

#[tonic::async_trait]
impl network_server::Network for Service {
    async fn start(&self, request: Request<NetworkStart>) -> Result<Response<StartReply>, Status> {
        let network = self.0.clone();
        let seed = request.into_inner().seed;
        // A caller that goes away must not stop the work half-way.
        let work = tokio::spawn(async move { network.start(seed).await });
        let started = work.await.map_err(|error| Status::internal(error.to_string()))?;
        let warnings = started.map_err(|error| start_status(&error))?;
        Ok(Response::new(StartReply { warnings }))
    }

    async fn get(&self, _: Request<Empty>) -> Result<Response<SystemNetwork>, Status> {
        let document = self.0.document().await.map_err(|error| Status::internal(causes::chain(&error)))?;
        Ok(Response::new(document))
    }

    async fn put(&self, _: Request<SystemNetwork>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("changing the network configuration is not implemented yet"))
    }

    async fn confirm(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        // Without changes nothing can be pending; the text is the one that clients know.
        Err(Status::invalid_argument("no network configuration is pending a confirmation"))
    }

    async fn flush_dns(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.0.flush_dns().await.map_err(|error| Status::internal(causes::chain(&error)))?;
        Ok(Response::new(Empty {}))
    }
}

fn start_status(error: &StartError) -> Status {
    let text = causes::chain(error);
    match error {
        StartError::Busy => Status::aborted(text),
        StartError::BringUp(BringUpError::Config(_)) => Status::invalid_argument(text),
        StartError::BringUp(BringUpError::NoCards | BringUpError::MissingCards(_)) => Status::failed_precondition(text),
        StartError::BringUp(_) => Status::internal(text),
    }
}
