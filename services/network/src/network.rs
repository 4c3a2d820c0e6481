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
        bring_up::{BringUp, BringUpError, Limits},
        state::{Observed, state},
    },
    machine::{CounterTable, DaemonError, Daemons, Kernel, KernelError, Roots, Snapshot, link_state, neighbours},
};

/// How long neighbours are believed. They announce themselves every half minute.
const NEIGHBOURS_AGE: Duration = Duration::from_secs(10);

/// How long counters and operational states are shown again. Changes of links,
/// addresses, routes and configuration show at once.
const COUNTERS_AGE: Duration = Duration::from_secs(1);

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
    shown: std::sync::Mutex<Option<Shown>>,
}

/// What was shown last, and what it was true of.
struct Shown {
    at: Instant,
    snapshot: Arc<Snapshot>,
    in_process: bool,
    document: SystemNetwork,
}

impl Network {
    pub(crate) fn new(
        kernel: Arc<dyn Kernel>,
        daemons: Box<dyn Daemons>,
        roots: Roots,
        limits: Limits,
        store: Store<Document>,
    ) -> Self {
        Self {
            kernel,
            daemons,
            roots,
            limits,
            store: std::sync::Mutex::new(store),
            in_process: AtomicBool::new(false),
            neighbours: Mutex::new(None),
            shown: std::sync::Mutex::new(None),
        }
    }

    /// Brings up the stored configuration; at the first start that of the seed, else the default one,
    /// and stores it.
    pub(crate) async fn start(&self, seed: Option<NetworkConfig>) -> Result<Vec<String>, StartError> {
        let _turn = Turn::take(&self.in_process).ok_or(StartError::Busy)?;
        let machine = BringUp {
            kernel: self.kernel.as_ref(),
            daemons: self.daemons.as_ref(),
            roots: &self.roots,
            limits: self.limits,
        };
        if let Some(stored) = self.config() {
            return self.apply(&machine, stored.clone(), Some(&stored)).await;
        }
        let nics = machine.cards().await?.nics();
        let with_defaults = |mut config: NetworkConfig| {
            fill_defaults(&mut config, &nics);
            config
        };
        let Some(seed) = seed else {
            return self.apply(&machine, with_defaults(NetworkConfig::default()), None).await;
        };
        match self.apply(&machine, with_defaults(seed), None).await {
            // A machine that nobody can reach is of less use than one with another network than was asked for.
            Err(StartError::BringUp(error)) => {
                let mut warnings = vec![format!(
                    "The network of the seed cannot be brought up, every network card is configured by DHCP instead: {}",
                    causes::chain(&error)
                )];
                warnings.extend(self.apply(&machine, with_defaults(NetworkConfig::default()), None).await?);
                Ok(warnings)
            }
            outcome => outcome,
        }
    }

    async fn apply(
        &self,
        machine: &BringUp<'_>,
        wanted: NetworkConfig,
        stored: Option<&NetworkConfig>,
    ) -> Result<Vec<String>, StartError> {
        if wanted.interfaces.is_empty() && wanted.bonds.is_empty() && wanted.vlans.is_empty() {
            return Err(BringUpError::NoCards.into());
        }
        if stored.is_none() {
            // Before the first change: a start that is cut short goes on with the same names.
            self.save(&wanted);
        }
        let mut outcome = machine.apply(wanted, stored).await?;
        if self.config().as_ref() != Some(&outcome.config) {
            outcome.warnings.extend(self.save(&outcome.config));
        }
        Ok(outcome.warnings)
    }

    /// Configuration and live state, as clients see them.
    pub(crate) async fn document(&self) -> Result<SystemNetwork, KernelError> {
        let snapshot = self.kernel.snapshot().await?;
        let in_process = self.in_process.load(Ordering::Relaxed);
        if let Some(document) = self.shown_again(&snapshot, in_process) {
            return Ok(document);
        }
        let mut config = self.config().unwrap_or_default();
        let neighbours = self.neighbours(&config).await;
        let table = CounterTable::read(&self.roots);
        let observed = Observed {
            snapshot: &snapshot,
            counters: &|link| table.of(link),
            operational: &|index| link_state(&self.roots, index).unwrap_or_default().operational,
            neighbours: &neighbours,
        };
        let state = state(&config, &observed, in_process);
        let time = config.time.get_or_insert_with(NetworkTime::default);
        if time.timezone.is_empty() {
            time.timezone = "UTC".into();
        }
        let document = SystemNetwork { config: Some(config), state: Some(state) };
        *self.shown.lock().expect("nothing panics while it holds what was shown") =
            Some(Shown { at: Instant::now(), snapshot, in_process, document: document.clone() });
        Ok(document)
    }

    fn shown_again(&self, snapshot: &Arc<Snapshot>, in_process: bool) -> Option<SystemNetwork> {
        let shown = self.shown.lock().expect("nothing panics while it holds what was shown");
        let still_true = |shown: &&Shown| {
            shown.at.elapsed() < COUNTERS_AGE
                && Arc::ptr_eq(&shown.snapshot, snapshot)
                && shown.in_process == in_process
        };
        shown.as_ref().filter(still_true).map(|shown| shown.document.clone())
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
        *self.shown.lock().expect("nothing panics while it holds what was shown") = None;
        saved.err().map(|error| causes::chain(&error)).inspect(|text| tracing::error!("{text}"))
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
