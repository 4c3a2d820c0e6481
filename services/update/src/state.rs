//! What the service remembers across restarts.

use std::path::Path;

use api::v1::{ProviderConfig, SystemProvider, SystemUpdate, UpdateConfig, UpdateState};
use serde::{Deserialize, Serialize};
use store::{Store, StoreError};

/// Version of the document below.
const SCHEMA_VERSION: u32 = 1;

/// Before the first check: the zero time of the API.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    config: UpdateConfig,
    last_check: String,
    provider: SystemProvider,
}

impl Default for Document {
    fn default() -> Self {
        let images = ProviderConfig { name: "images".into(), ..ProviderConfig::default() };
        Self {
            config: schedule::default_config(),
            last_check: NEVER.into(),
            provider: SystemProvider { config: Some(images), state: None },
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    store: Store<Document>,
}

impl State {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        Store::open(dir, SCHEMA_VERSION).map(|store| Self { store })
    }

    pub(crate) fn update(&self) -> SystemUpdate {
        let document = self.store.get();
        // Status and the need for a reboot belong to the running system: a
        // reboot is what clears them.
        let state = UpdateState { last_check: document.last_check.clone(), ..UpdateState::default() };
        SystemUpdate { config: Some(document.config.clone()), state: Some(state) }
    }

    pub(crate) fn provider(&self) -> SystemProvider {
        self.store.get().provider.clone()
    }

    /// Makes a checked configuration durable.
    pub(crate) fn set_config(&mut self, config: UpdateConfig) -> Result<(), StoreError> {
        self.store.replace(Document { config, ..self.store.get().clone() })
    }
}
