//! What is known of drives and pools, kept so that asking for it is cheap.
//!
//! One task owns the readings. When it is asked, it first finds out whether they
//! still hold, without starting a program: drives by the queue of inotify,
//! pools by what the kernel shows of them in `/proc`. Only if something has
//! changed the readings are taken anew, once for all who wait. So an answer is
//! never older than the change that the asker has just made, with one exception:
//! on a pool that is written to all the time, sizes and volumes may be a second old.
//!
//! When ZFS does not answer in time, the last reading is given out, and ZFS is
//! left alone for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::v1::StorageState;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    engine::{
        block::BlockDevices,
        document::{self, Known, PoolReading},
        drives,
        smart::SmartReport,
    },
    machine::{Machine, UdevWatch, Witness},
};

/// Longest time that an asker waits for pools to be read.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long ZFS is left alone after it did not answer.
const HOLD_OFF: Duration = Duration::from_secs(30);

/// Oldest sizes and volumes that are given out of a pool that is being written to.
const BUSY_AGE: Duration = Duration::from_secs(1);

/// The same, when the kernel does not tell whether a pool is written to.
const BLIND_AGE: Duration = Duration::from_secs(5);

/// Oldest reading of pools that is given out at all: the net below the rules
/// above, for error states that change without a trace.
const NET_AGE: Duration = Duration::from_secs(60);

/// Longest time that a look into `/proc` and `/sys` may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Changes of drives come in bursts.
const BURST: Duration = Duration::from_millis(300);

/// How often drives are asked for their health.
const SMART_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The handle on what is known.
#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    State(oneshot::Sender<Result<StorageState, String>>),
    Invalidate,
    Smart(BTreeMap<String, SmartReport>),
}

impl Inventory {
    /// Starts the task that keeps the readings. It ends with the last handle.
    pub(crate) fn keep(machine: Machine) -> Self {
        let (requests, queue) = mpsc::channel(64);
        tokio::spawn(Keeper::new(machine, requests.downgrade()).work(queue));
        Self { requests }
    }

    /// Drives, pools and volumes as they are now; an error text when pools could
    /// never be read yet. `None` when the service stops.
    pub(crate) async fn state(&self) -> Option<Result<StorageState, String>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::State(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Tells that this service has changed something.
    pub(crate) async fn invalidate(&self) {
        // Without a keeper there is nothing that could be outdated.
        let _ = self.requests.send(Request::Invalidate).await;
    }
}

struct Keeper {
    machine: Machine,
    /// For the results of reading health; weak, so that it keeps nothing alive.
    own: mpsc::WeakSender<Request>,
    /// Without it every request reads drives anew.
    watch: Option<UdevWatch>,
    devices: BlockDevices,
    devices_outdated: bool,
    system: Option<String>,
    pools: Option<PoolsReading>,
    pools_outdated: bool,
    held_off_until: Option<Instant>,
    /// A look at `/proc` that has not come back.
    stuck_look: Option<JoinHandle<Witness>>,
    smart: BTreeMap<String, SmartReport>,
    /// Drives that were asked for their health since the last round.
    smart_asked: BTreeSet<String>,
    smart_running: bool,
    smart_due: Instant,
    /// When to read anew without being asked.
    refresh_at: Option<Instant>,
}

struct PoolsReading {
    pools: Vec<PoolReading>,
    taken: Instant,
    witness: Witness,
}

impl Keeper {
    fn new(machine: Machine, own: mpsc::WeakSender<Request>) -> Self {
        let watch = machine.watch_udev();
        if let Err(error) = &watch {
            tracing::warn!("cannot watch the udev database, drives are read at every request: {error}");
        }
        Self {
            machine,
            own,
            watch: watch.ok(),
            devices: BlockDevices::default(),
            devices_outdated: true,
            system: None,
            pools: None,
            pools_outdated: true,
            held_off_until: None,
            stuck_look: None,
            smart: BTreeMap::new(),
            smart_asked: BTreeSet::new(),
            smart_running: false,
            smart_due: Instant::now() + SMART_INTERVAL,
            refresh_at: None,
        }
    }

    async fn work(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                request = queue.recv() => match request {
                    Some(Request::State(reply)) => {
                        let state = self.state().await;
                        // An asker that has gone needs no answer.
                        let _ = reply.send(state);
                    }
                    Some(Request::Invalidate) => {
                        (self.devices_outdated, self.pools_outdated, self.held_off_until) = (true, true, None);
                        self.refresh_at = Some(Instant::now());
                    }
                    Some(Request::Smart(reports)) => {
                        self.smart.extend(reports);
                        self.smart_running = false;
                        self.ask_for_health();
                    }
                    None => return,
                },
                () = changed(self.watch.as_mut()) => {
                    self.devices_outdated = true;
                    self.refresh_at = Some(Instant::now() + BURST);
                }
                () = due(self.refresh_at) => {
                    self.refresh_at = None;
                    self.refresh().await;
                }
                () = sleep_until(self.smart_due) => {
                    self.smart_due = Instant::now() + SMART_INTERVAL;
                    self.smart_asked.clear();
                    self.ask_for_health();
                }
            }
        }
    }

    async fn state(&mut self) -> Result<StorageState, String> {
        self.look().await;
        let failure = self.refresh().await;
        let Some(pools) = &self.pools else {
            return Err(failure.unwrap_or_else(|| "storage pools have not been read yet".to_owned()));
        };
        let pool_keys = self.machine.pool_keys().into_keys().collect();
        let mut state = document::state(Known {
            devices: &self.devices,
            system: self.system.as_deref(),
            pools: &pools.pools,
            pool_keys: &pool_keys,
            drive_keys: self.machine.drive_keys(),
            smart: &self.smart,
        });
        state.root_partition = Some(self.machine.root_partition());
        Ok(state)
    }

    /// Finds out whether the readings still hold.
    async fn look(&mut self) {
        self.devices_outdated |= self.watch.as_mut().is_none_or(UdevWatch::take_changes);
        let Some(reading) = &self.pools else { return };
        let (age, taken) = (reading.taken.elapsed(), reading.witness.clone());
        let Some(now) = self.witness().await else { return };
        let oldest = if now.is_blind() { BLIND_AGE } else { NET_AGE };
        self.pools_outdated |= now.differs_in_pools(&taken) || (now != taken && age > BUSY_AGE) || age > oldest;
    }

    /// What the kernel shows of pools. `None` while it does not answer.
    async fn witness(&mut self) -> Option<Witness> {
        if self.stuck_look.as_ref().is_some_and(|look| !look.is_finished()) {
            return None;
        }
        let machine = self.machine.clone();
        let mut look = spawn_blocking(move || machine.witness());
        match timeout(LOOK_PATIENCE, &mut look).await {
            Ok(witness) => witness.ok(),
            Err(_) => {
                tracing::warn!("the kernel does not tell the state of storage pools");
                self.stuck_look = Some(look);
                None
            }
        }
    }

    /// Reads anew what is outdated. Returns why pools could not be read.
    async fn refresh(&mut self) -> Option<String> {
        if self.devices_outdated {
            self.refresh_devices().await;
        }
        let failure = if self.pools_outdated { self.refresh_pools().await } else { None };
        // Last: who waits for the above must not wait for drives that spin up.
        self.ask_for_health();
        failure
    }

    async fn refresh_devices(&mut self) {
        // Before reading, so that a change meanwhile is seen by the next look.
        if let Some(watch) = &mut self.watch {
            watch.take_changes();
        }
        let machine = self.machine.clone();
        let read = spawn_blocking(move || (machine.block_devices(), machine.system_device()));
        let Ok(Ok((devices, system))) = timeout(LOOK_PATIENCE, read).await else {
            tracing::warn!("the kernel does not tell the state of drives");
            return;
        };
        let drives = |devices: &BlockDevices| -> Vec<_> {
            devices.iter().filter(|device| drives::is_drive(device)).map(drives::smart_key).collect()
        };
        // Pools have lost or found members.
        self.pools_outdated |= drives(&devices) != drives(&self.devices);
        (self.devices, self.system, self.devices_outdated) = (devices, system, false);
    }

    async fn refresh_pools(&mut self) -> Option<String> {
        if self.held_off_until.is_some_and(|until| Instant::now() < until) {
            return Some("ZFS does not answer".to_owned());
        }
        let witness = self.witness().await.unwrap_or_default();
        let failure = match timeout(PATIENCE, self.machine.pools()).await {
            Ok(Ok(pools)) => {
                self.pools = Some(PoolsReading { pools, taken: Instant::now(), witness });
                (self.pools_outdated, self.held_off_until) = (false, None);
                return None;
            }
            Ok(Err(error)) => causes::chain(&error),
            Err(_) => format!("ZFS did not answer within {PATIENCE:?}"),
        };
        let age = self.pools.as_ref().map(|reading| reading.taken.elapsed().as_secs());
        tracing::warn!(age_in_seconds = age, "the state of storage pools is outdated: {failure}");
        self.held_off_until = Some(Instant::now() + HOLD_OFF);
        Some(failure)
    }

    /// Asks the drives that were not asked yet for their health, one after the
    /// other, in the background: a drive may take seconds.
    fn ask_for_health(&mut self) {
        let present: BTreeMap<_, _> = self
            .devices
            .iter()
            .filter(|device| drives::may_have_smart(device))
            .map(|device| (drives::smart_key(device), device.node.clone()))
            .collect();
        self.smart.retain(|key, _| present.contains_key(key));
        self.smart_asked.retain(|key| present.contains_key(key));
        let new: Vec<_> = present.into_iter().filter(|(key, _)| !self.smart_asked.contains(key)).collect();
        if new.is_empty() || self.smart_running {
            return;
        }
        self.smart_asked.extend(new.iter().map(|(key, _)| key.clone()));
        self.smart_running = true;
        let (machine, own) = (self.machine.clone(), self.own.clone());
        tokio::spawn(async move {
            let mut reports = BTreeMap::new();
            for (key, node) in new {
                if let Some(report) = machine.smart(&node).await {
                    reports.insert(key, report);
                }
            }
            if let Some(own) = own.upgrade() {
                // When the keeper is gone, so is the interest.
                let _ = own.send(Request::Smart(reports)).await;
            }
        });
    }
}

async fn changed(watch: Option<&mut UdevWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
