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
    /// The sections of the seed were taken over, which happens once.
    seed_applied: bool,
}

impl Default for Document {
    fn default() -> Self {
        let images = ProviderConfig { name: "images".into(), ..ProviderConfig::default() };
        Self {
            config: schedule::default_config(),
            last_check: NEVER.into(),
            provider: SystemProvider { config: Some(images), state: None },
            seed_applied: false,
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

    /// Takes over the sections of a seed, unless that was done before. What they leave empty keeps
    /// its default.
    pub(crate) fn take_over(
        &mut self,
        update: Option<UpdateConfig>,
        provider: Option<ProviderConfig>,
    ) -> Result<(), StoreError> {
        let mut document = self.store.get().clone();
        if document.seed_applied {
            return Ok(());
        }
        document.seed_applied = true;
        if let Some(seed) = update {
            let or_default = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
            document.config = UpdateConfig {
                channel: or_default(seed.channel, &document.config.channel),
                check_frequency: or_default(seed.check_frequency, &document.config.check_frequency),
                ..seed
            };
        }
        if let Some(seed) = provider.filter(|seed| !seed.name.is_empty()) {
            document.provider.config = Some(seed);
        }
        self.store.replace(document)
    }

    /// Makes a checked configuration durable.
    pub(crate) fn set_config(&mut self, config: UpdateConfig) -> Result<(), StoreError> {
        self.store.replace(Document { config, ..self.store.get().clone() })
    }
}
