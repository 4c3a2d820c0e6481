//! Settings of the HTTPS listener, which the gateway serves: where to listen,
//! whom to trust and which certificate to show.
//!
//! Until applications bring listeners of their own, it runs as soon as one
//! client is trusted, or when it was asked to be persistent.

mod certificate;
mod config;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::v1::{
    FallbackListenerConfig, FallbackListenerState, ListenerSettings, SystemFallbackListener, operator_line::Level,
};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    operator::OperatorLog,
    seeded,
    state::{self, State},
};
use certificate::ServerCertificate;

/// Something for the operator: how bad it is, what it means, and why.
type Problem = (Level, &'static str, String);

/// The listener's settings and those who follow them.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    state: Arc<State>,
    dir: PathBuf,
    /// `None` until they are known: a gateway that already serves must not take
    /// the start of this service for a wish to stop.
    settings: watch::Sender<Option<ListenerSettings>>,
    certificate: watch::Sender<Option<ServerCertificate>>,
}

impl Listener {
    pub(crate) fn new(state: Arc<State>, dir: &Path) -> Self {
        Self { state, dir: dir.to_owned(), settings: watch::Sender::new(None), certificate: watch::Sender::new(None) }
    }

    /// Makes the settings available: takes the clients over from the seed, once
    /// in the life of the installation, and makes the certificate, once too.
    pub(crate) async fn prepare(&self, seed: Option<File>, hostname: String, operator: Arc<OperatorLog>) {
        let this = self.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let mut problems = Vec::new();
            this.take_over_seed(seed, &mut problems);
            match ServerCertificate::load_or_create(&this.dir, &hostname) {
                Ok(certificate) => {
                    this.certificate.send_replace(Some(certificate));
                }
                Err(error) => {
                    problems.push((
                        Level::Error,
                        "The HTTPS listener has no certificate and stays off",
                        error.to_string(),
                    ));
                }
            }
            problems
        });
        for (level, message, reason) in prepared.await.unwrap_or_default() {
            operator.say(level, message, &[("reason", &reason)]).await;
        }
        self.publish();
    }

    pub(crate) fn get(&self) -> SystemFallbackListener {
        let config = self.state.get().fallback_listener.unwrap_or_default();
        let is_on = self.settings.borrow().as_ref().is_some_and(|settings| !settings.listen_address.is_empty());
        let active = is_on && self.settings.receiver_count() > 0;
        SystemFallbackListener { config: Some(config), state: Some(FallbackListenerState { active }) }
    }

    /// Where it listens; empty while it does not.
    pub(crate) fn address(&self) -> String {
        let is_followed = self.settings.receiver_count() > 0;
        let settings = self.settings.borrow();
        settings.as_ref().filter(|_| is_followed).map(|settings| settings.listen_address.clone()).unwrap_or_default()
    }

    /// Checks, stores and publishes new settings.
    pub(crate) async fn put(&self, config: FallbackListenerConfig) -> Result<(), Status> {
        config::check(&config).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || state.change(|state| state.fallback_listener = Some(config)))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| state::refusal(&error))?;
        // Before that, `prepare` is still under way and will publish these too.
        if self.settings.borrow().is_some() {
            self.publish();
        }
        Ok(())
    }

    /// The settings as soon as they are known, and whenever they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<ListenerSettings>> {
        self.settings.subscribe()
    }

    /// Tells the settings to those who follow them.
    fn publish(&self) {
        let config = self.state.get().fallback_listener.unwrap_or_default();
        let settings = self.certificate.borrow().as_ref().map(|certificate| certificate.settings(&config));
        let settings = Some(settings.unwrap_or_default());
        self.settings.send_if_modified(|current| {
            let changed = *current != settings;
            *current = settings;
            changed
        });
    }

    fn take_over_seed(&self, seed: Option<File>, problems: &mut Vec<Problem>) {
        // A machine without a seed partition may be given one later, so only a
        // seed that was read counts as taken over.
        let Some(seed) = seed.filter(|_| !self.state.get().seed_applied) else {
            return;
        };
        match seeded::clients(&seed) {
            Ok(None) => {}
            Ok(Some(seeded)) => {
                problems.extend(seeded.errors.into_iter().map(|why| (Level::Error, "The seed has a mistake", why)));
                problems.extend(seeded.warnings.into_iter().map(|why| (Level::Warn, "The seed says too much", why)));
                let saved = self.state.change(|state| {
                    let config = state.fallback_listener.get_or_insert_default();
                    for client in seeded.clients {
                        if !config.trusted_client_certificates.contains(&client) {
                            config.trusted_client_certificates.push(client);
                        }
                    }
                    state.seed_applied = true;
                });
                if let Err(error) = saved {
                    problems.push((Level::Error, "The clients of the seed cannot be saved", error.to_string()));
                }
            }
            // Tried again at the next start: the seed can be repaired from outside.
            Err(error) => problems.push((Level::Error, "The seed cannot be read", causes::chain(&error))),
        }
    }
}
