//! The gRPC face: checks a request, asks the state, answers.

use api::v1::{Empty, OsVersions, StartReply, SystemProvider, SystemUpdate, UpdateStart, update_server::Update};
use store::StoreError;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use crate::{state::State, versions::Versions};

pub(crate) struct Rpc {
    state: Mutex<State>,
    versions: Versions,
}

impl Rpc {
    pub(crate) fn new(state: State, versions: Versions) -> Self {
        Self { state: Mutex::new(state), versions }
    }
}

#[tonic::async_trait]
impl Update for Rpc {
    async fn start(&self, request: Request<UpdateStart>) -> Result<Response<StartReply>, Status> {
        let UpdateStart { seed, provider_seed } = request.into_inner();
        self.state.lock().await.take_over(seed, provider_seed).map_err(|error| not_saved(&error))?;
        Ok(Response::new(StartReply::default()))
    }

    async fn get(&self, _: Request<Empty>) -> Result<Response<SystemUpdate>, Status> {
        Ok(Response::new(self.state.lock().await.update()))
    }

    async fn put(&self, request: Request<SystemUpdate>) -> Result<Response<Empty>, Status> {
        let config = request.into_inner().config.unwrap_or_default();
        schedule::validate(&config).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.state.lock().await.set_config(config).map_err(|error| not_saved(&error))?;
        Ok(Response::new(Empty {}))
    }

    async fn get_provider(&self, _: Request<Empty>) -> Result<Response<SystemProvider>, Status> {
        Ok(Response::new(self.state.lock().await.provider()))
    }

    async fn get_versions(&self, _: Request<Empty>) -> Result<Response<OsVersions>, Status> {
        Ok(Response::new(OsVersions {
            running: self.versions.running.clone(),
            next: String::new(),
            alternate: self.versions.alternate.clone().unwrap_or_default(),
        }))
    }
}

fn not_saved(error: &StoreError) -> Status {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Status::internal(format!("the update configuration is unchanged: {error}{reason}"))
}
