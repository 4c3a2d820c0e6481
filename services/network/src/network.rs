//! The one network of this machine: its stored configuration and live state.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::v1::{NetworkConfig, NetworkLldpState, NetworkTime, SystemNetwork};
use netplan::fill_defaults;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    engine::{
        bring_up::{BringUp, BringUpError, Limits, with_causes},
        state::{Observed, state},
    },
    machine::{CounterTable, DaemonError, Daemons, Kernel, KernelError, Roots, link_state, neighbours},
};

/// How long neighbours are believed. They announce themselves every half minute.
const NEIGHBOURS_AGE: Duration = Duration::from_secs(10);

/// The state document of this service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Document {
    /// The configuration in force; none before the first start.
    config: Option<NetworkConfig>,
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("a network configuration is already in progress")]
    Busy,
    #[error(transparent)]
    BringUp(#[from] BringUpError),
}

type Neighbours = Arc<BTreeMap<String, Vec<NetworkLldpState>>>;

pub(crate) struct Network {
    kernel: Arc<dyn Kernel>,
    daemons: Box<dyn Daemons>,
    roots: Roots,
    limits: Limits,
    store: std::sync::Mutex<Store<Document>>,
    /// Held while the machine is being changed.
    in_process: AtomicBool,
    neighbours: Mutex<Option<(Instant, Neighbours)>>,
}

impl Network {
    pub(crate) fn new(
        kernel: Arc<dyn Kernel>,
        daemons: Box<dyn Daemons>,
        roots: Roots,
        limits: Limits,
        store: Store<Document>,
    ) -> Self {
        let (store, in_process, neighbours) = (std::sync::Mutex::new(store), AtomicBool::new(false), Mutex::new(None));
        Self { kernel, daemons, roots, limits, store, in_process, neighbours }
    }

    /// Brings up the stored configuration, or the default one and stores it.
    pub(crate) async fn start(&self) -> Result<Vec<String>, StartError> {
        let _turn = Turn::take(&self.in_process).ok_or(StartError::Busy)?;
        let machine = BringUp {
            kernel: self.kernel.as_ref(),
            daemons: self.daemons.as_ref(),
            roots: &self.roots,
            limits: self.limits,
        };
        let stored = self.config();
        let wanted = match &stored {
            Some(config) => config.clone(),
            None => {
                let mut config = NetworkConfig::default();
                fill_defaults(&mut config, &machine.cards().await?.nics());
                config
            }
        };
        if wanted.interfaces.is_empty() && wanted.bonds.is_empty() && wanted.vlans.is_empty() {
            return Err(BringUpError::NoCards.into());
        }
        if stored.is_none() {
            // Before the first change: a start that is cut short goes on with the same names.
            self.save(&wanted);
        }
        let mut outcome = machine.apply(wanted, stored.as_ref()).await?;
        if self.config().as_ref() != Some(&outcome.config) {
            outcome.warnings.extend(self.save(&outcome.config));
        }
        Ok(outcome.warnings)
    }

    /// Configuration and live state, as clients see them.
    pub(crate) async fn document(&self) -> Result<SystemNetwork, KernelError> {
        let mut config = self.config().unwrap_or_default();
        let snapshot = self.kernel.snapshot().await?;
        let neighbours = self.neighbours(&config).await;
        let table = CounterTable::read(&self.roots);
        let observed = Observed {
            snapshot: &snapshot,
            counters: &|link| table.of(link),
            operational: &|index| link_state(&self.roots, index).unwrap_or_default().operational,
            neighbours: &neighbours,
        };
        let state = state(&config, &observed, self.in_process.load(Ordering::Relaxed));
        let time = config.time.get_or_insert_with(NetworkTime::default);
        if time.timezone.is_empty() {
            time.timezone = "UTC".into();
        }
        Ok(SystemNetwork { config: Some(config), state: Some(state) })
    }

    pub(crate) async fn flush_dns(&self) -> Result<(), DaemonError> {
        self.daemons.flush_dns().await
    }

    async fn neighbours(&self, config: &NetworkConfig) -> Neighbours {
        if !config.interfaces.iter().any(|i| i.lldp) && !config.bonds.iter().any(|b| b.lldp) {
            return Neighbours::default();
        }
        let mut known = self.neighbours.lock().await;
        match known.as_ref().filter(|(since, _)| since.elapsed() < NEIGHBOURS_AGE) {
            Some((_, neighbours)) => neighbours.clone(),
            None => {
                let fresh = Arc::new(neighbours(&self.roots).await);
                *known = Some((Instant::now(), fresh.clone()));
                fresh
            }
        }
    }

    fn config(&self) -> Option<NetworkConfig> {
        self.store.lock().expect("nothing panics while it holds the store").get().config.clone()
    }

    /// Stores the configuration; the result is a warning for the operator.
    fn save(&self, config: &NetworkConfig) -> Option<String> {
        let mut store = self.store.lock().expect("nothing panics while it holds the store");
        let saved = store.replace(Document { config: Some(config.clone()) });
        saved.err().map(|error| with_causes(&error)).inspect(|text| tracing::error!("{text}"))
    }
}

/// The right to change the machine; one at a time.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(taken: &'a AtomicBool) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then_some(Self(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
