//! gRPC: who may ask what, and the shape of the answers.

use std::{future, pin::Pin, sync::Arc};

use api::v1::{
    Empty, Environment as EnvironmentReply, ListenerSettings, Modal, ModalCategory, Modals as ModalsReply,
    OperatorLine, Overview, PowerRequest, Resources, SystemFallbackListener, SystemKernel, SystemLogging,
    power_request::Action, supervisor_server::Supervisor,
};
use futures_util::{
    Stream, StreamExt as _,
    future::{BoxFuture, Shared},
};
use service::{Identity, peer};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    Machine,
    environment::Environment,
    inventory::CachedInventory,
    kernel,
    listener::Listener,
    modals::{self, Modals},
    operator::OperatorLog,
    overview::Sources,
    power::Power,
    state::State,
};

/// The service `incusos.v1.Supervisor`.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) environment: Environment,
    pub(crate) is_ready: watch::Receiver<bool>,
    pub(crate) inventory: CachedInventory,
    pub(crate) listener: Listener,
    pub(crate) power: Power,
    pub(crate) machine: Arc<Machine>,
    pub(crate) modals: Arc<Modals>,
    pub(crate) operator: Arc<OperatorLog>,
    pub(crate) sources: Sources,
    pub(crate) state: Arc<State>,
    /// Resolves when the service has to end.
    pub(crate) stopped: Shared<BoxFuture<'static, ()>>,
}

#[async_trait]
impl Supervisor for Rpc {
    type WatchListenerStream = Pin<Box<dyn Stream<Item = Result<ListenerSettings, Status>> + Send>>;
    type WatchModalsStream = Pin<Box<dyn Stream<Item = Result<ModalsReply, Status>> + Send>>;

    async fn get_environment(&self, _: Request<Empty>) -> Result<Response<EnvironmentReply>, Status> {
        let is_ready = *self.is_ready.borrow();
        Ok(Response::new(self.environment.get(is_ready).await))
    }

    async fn write_operator_line(&self, request: Request<OperatorLine>) -> Result<Response<Empty>, Status> {
        let component = peer(&request).and_then(|peer| peer.identity).map_or("system", Identity::name);
        let line = request.into_inner();
        if line.message.trim().is_empty() {
            return Err(Status::invalid_argument("the message is empty"));
        }
        self.operator.write(component, line.level(), &line.message, &line.attributes).await;
        Ok(Response::new(Empty {}))
    }

    async fn power(&self, request: Request<PowerRequest>) -> Result<Response<Empty>, Status> {
        only(&[Identity::Gateway, Identity::Update, Identity::Console], &request)?;
        match request.into_inner().action() {
            Action::Unspecified => Err(Status::invalid_argument("no power action was named")),
            action => {
                self.power.request(action);
                Ok(Response::new(Empty {}))
            }
        }
    }

    async fn get_kernel(&self, _: Request<Empty>) -> Result<Response<SystemKernel>, Status> {
        let config = self.state.get().kernel.unwrap_or_default();
        Ok(Response::new(SystemKernel { config: Some(config), state: Some(kernel::state(&self.machine)) }))
    }

    async fn get_logging(&self, _: Request<Empty>) -> Result<Response<SystemLogging>, Status> {
        let config = self.state.get().logging.unwrap_or_default();
        Ok(Response::new(SystemLogging { config: Some(config), state: Some(api::v1::LoggingState {}) }))
    }

    async fn get_resources(&self, _: Request<Empty>) -> Result<Response<Resources>, Status> {
        let resources = self.inventory.get().await;
        resources.map(Response::new).map_err(|error| Status::internal(format!("the inventory failed: {error}")))
    }

    async fn get_fallback_listener(&self, _: Request<Empty>) -> Result<Response<SystemFallbackListener>, Status> {
        Ok(Response::new(self.listener.get()))
    }

    async fn put_fallback_listener(&self, request: Request<SystemFallbackListener>) -> Result<Response<Empty>, Status> {
        only(&[Identity::Gateway], &request)?;
        self.listener.put(request.into_inner().config.unwrap_or_default()).await?;
        Ok(Response::new(Empty {}))
    }

    async fn watch_listener(&self, request: Request<Empty>) -> Result<Response<Self::WatchListenerStream>, Status> {
        // The answer holds the server's private key.
        only(&[Identity::Gateway], &request)?;
        let settings = WatchStream::new(self.listener.watch())
            .filter_map(|settings| future::ready(settings.map(Ok)))
            .take_until(self.stopped.clone());
        Ok(Response::new(Box::pin(settings)))
    }

    async fn get_overview(&self, _: Request<Empty>) -> Result<Response<Overview>, Status> {
        let is_ready = *self.is_ready.borrow();
        let (environment, others) = tokio::join!(self.environment.get(is_ready), self.sources.ask());
        Ok(Response::new(Overview {
            environment: Some(environment),
            listen_address: self.listener.address(),
            consoles: self.state.get().kernel.unwrap_or_default().console,
            ..others
        }))
    }

    async fn show_modal(&self, request: Request<Modal>) -> Result<Response<Empty>, Status> {
        let modal = request.into_inner().try_into();
        self.modals.show(modal.map_err(|error: modal::ModalError| Status::invalid_argument(error.to_string()))?);
        Ok(Response::new(Empty {}))
    }

    async fn hide_modal(&self, request: Request<ModalCategory>) -> Result<Response<Empty>, Status> {
        let hidden = self.modals.hide(&request.into_inner().category);
        hidden.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(Empty {}))
    }

    async fn watch_modals(&self, _: Request<Empty>) -> Result<Response<Self::WatchModalsStream>, Status> {
        let modals = WatchStream::new(self.modals.watch())
            .map(|shown| Ok(modals::listed(&shown)))
            .take_until(self.stopped.clone());
        Ok(Response::new(Box::pin(modals)))
    }
}

fn only<T>(allowed: &[Identity], request: &Request<T>) -> Result<(), Status> {
    if peer(request).is_some_and(|peer| peer.is_one_of(allowed)) {
        Ok(())
    } else {
        Err(Status::permission_denied("not authorized"))
    }
}
