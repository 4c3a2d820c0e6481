//! Changes of pools: one after the other, by one task.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    engine::{
        block::{BlockDevice, BlockDevices},
        bring_up::{self, Content, Imported, Observed, PoolKey, SYSTEM_PARTITION, Step, SystemPartition},
        datasets::KeyStatus,
        label::Labels,
    },
    inventory::Inventory,
    machine::{Machine, ReadError, UdevWatch},
};

/// How long a start waits for udev to look at the system partition. On the first
/// start the partition is younger than the service.
const UDEV_PATIENCE: Duration = Duration::from_secs(30);

/// After a drive has appeared, its other members usually follow.
const SETTLE: Duration = Duration::from_secs(2);

/// More rounds than any machine needs: one to import or create, one to complete,
/// one to see that all is done.
const MOST_ROUNDS: usize = 4;

/// Accepts requests to change pools.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    requests: mpsc::Sender<oneshot::Sender<Vec<String>>>,
}

impl Operations {
    /// Starts the task that makes changes. It ends with the last handle.
    pub(crate) fn accept(machine: Machine, inventory: Inventory) -> Self {
        let (requests, queue) = mpsc::channel(8);
        tokio::spawn(work(machine, inventory, queue));
        Self { requests }
    }

    /// Imports and unlocks the pools that there are keys of, and creates the
    /// system pool if there is none. Returns what an operator should know, one
    /// sentence each; `None` when the service stops. Once accepted it is carried
    /// through, whether or not the caller waits.
    pub(crate) async fn bring_up(&self) -> Option<Vec<String>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(reply).await.ok()?;
        answer.await.ok()
    }
}

async fn work(machine: Machine, inventory: Inventory, mut queue: mpsc::Receiver<oneshot::Sender<Vec<String>>>) {
    let mut watch = machine.watch_udev().ok();
    // Pools that could not be imported yet, and the devices that claimed to be
    // part of them when that was tried.
    let mut awaited: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    loop {
        tokio::select! {
            request = queue.recv() => {
                let Some(reply) = request else { return };
                let outcome = bring_up(&machine, watch.as_mut(), |_| true).await;
                awaited = outcome.missing;
                inventory.invalidate().await;
                // The caller may have gone: what was done stays done.
                let _ = reply.send(outcome.warnings);
            }
            () = changed(watch.as_mut()), if !awaited.is_empty() => {
                sleep(SETTLE).await;
                if has_new_members(&machine, &awaited).await {
                    tracing::info!("drives of missing storage pools have appeared");
                    let is_import = |step: &Step| matches!(step, Step::Import { .. } | Step::LoadKey { .. });
                    let outcome = bring_up(&machine, None, is_import).await;
                    awaited = outcome.missing;
                    inventory.invalidate().await;
                }
            }
        }
    }
}

async fn changed(watch: Option<&mut UdevWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Whether a device has appeared that claims to be part of an awaited pool.
async fn has_new_members(machine: &Machine, awaited: &BTreeMap<String, BTreeSet<String>>) -> bool {
    let machine = machine.clone();
    let Ok(devices) = spawn_blocking(move || machine.block_devices()).await else { return false };
    awaited.iter().any(|(pool, known)| !claims(&devices, pool).is_subset(known))
}

/// The devices that claim to be part of a pool. A drive that was away and came
/// back counts as another one.
fn claims(devices: &BlockDevices, pool: &str) -> BTreeSet<String> {
    devices
        .iter()
        .filter(|device| device.property("ID_FS_TYPE") == "zfs_member" && device.property("ID_FS_LABEL") == pool)
        .map(|device| format!("{} {}", device.name, device.sequence))
        .collect()
}

/// What came of bringing up pools.
#[derive(Debug, Default)]
struct Outcome {
    warnings: Vec<String>,
    /// Pools with a key that are not imported, and the devices that claim to be
    /// part of them.
    missing: BTreeMap<String, BTreeSet<String>>,
}

/// Plans, applies, and looks again, until there is nothing left to do.
async fn bring_up(machine: &Machine, watch: Option<&mut UdevWatch>, permitted: impl Fn(&Step) -> bool) -> Outcome {
    if !machine.has_zfs() {
        let warning = "The ZFS kernel module is not loaded, storage pools are unavailable";
        return Outcome { warnings: vec![warning.to_owned()], ..Outcome::default() };
    }
    if let Some(watch) = watch {
        wait_for_partition(machine, watch).await;
    }
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..MOST_ROUNDS {
        let (observed, devices) = match observe(machine).await {
            Ok(observed) => observed,
            Err(error) => {
                return Outcome {
                    warnings: vec![format!("Storage pools are unavailable: {}", causes::chain(&error))],
                    ..Outcome::default()
                };
            }
        };
        let plan = bring_up::plan(&observed);
        let is_next = |step: &&Step| permitted(step) && !failures.contains_key(step.pool());
        if !plan.steps.iter().any(|step| is_next(&step)) {
            let mut warnings = plan.warnings;
            warnings.extend(unavailable(&observed, &failures));
            let missing = observed.keys.into_keys().filter(|pool| !observed.imported.contains_key(pool));
            let missing = missing.map(|pool| (pool.clone(), claims(&devices, &pool))).collect();
            return Outcome { warnings, missing };
        }
        for step in &plan.steps {
            if !permitted(step) || failures.contains_key(step.pool()) {
                continue;
            }
            match machine.apply(step).await {
                Ok(()) => log(step),
                Err(error) => {
                    let error = causes::chain(&error);
                    tracing::warn!("{step:?} failed: {error}");
                    failures.insert(step.pool().to_owned(), error);
                }
            }
        }
    }
    let warning = "Bringing up storage pools did not come to an end";
    Outcome { warnings: vec![warning.to_owned()], ..Outcome::default() }
}

fn log(step: &Step) {
    match step {
        Step::Import { pool, .. } => tracing::info!("storage pool `{pool}` imported"),
        Step::Create { pool, device } => tracing::info!("storage pool `{pool}` created on `{device}`"),
        step => tracing::debug!("{step:?} done"),
    }
}

/// A sentence for each pool with a key that cannot be used, whatever the tools'
/// exit statuses were: what counts is what the machine shows afterwards.
fn unavailable(observed: &Observed, failures: &BTreeMap<String, String>) -> Vec<String> {
    let usable = observed.keys.iter().filter(|(_, key)| **key == PoolKey::Usable);
    let mut warnings: Vec<_> = usable
        .filter_map(|(pool, _)| {
            let cause = failures.get(pool).map(|error| format!(": {error}")).unwrap_or_default();
            match observed.imported.get(pool) {
                None => failures
                    .get(pool)
                    .map(|_| format!("Storage pool '{pool}' is missing, its contents will be unavailable{cause}")),
                Some(imported) if imported.key == KeyStatus::Unavailable => Some(format!(
                    "Storage pool '{pool}' could not be unlocked, its contents will be unavailable{cause}"
                )),
                Some(_) => None,
            }
        })
        .collect();
    // A pool without a key is in the list only when its key could not be written.
    let keyless = failures.iter().filter(|(pool, _)| !observed.keys.contains_key(*pool));
    warnings.extend(keyless.map(|(pool, error)| format!("Storage pool '{pool}' could not be created: {error}")));
    warnings
}

/// Waits until udev has looked at the system partition, if there is one.
async fn wait_for_partition(machine: &Machine, watch: &mut UdevWatch) {
    let examined = async {
        loop {
            let machine = machine.clone();
            let examined = spawn_blocking(move || {
                let devices = machine.block_devices();
                let system = machine.system_device();
                system_partition(&devices, system.as_deref()).is_none_or(|partition| partition.initialized)
            });
            if examined.await.unwrap_or(true) {
                return;
            }
            watch.changed().await;
        }
    };
    if timeout(UDEV_PATIENCE, examined).await.is_err() {
        tracing::warn!("udev has not examined partition `{SYSTEM_PARTITION}` in time");
    }
}

async fn observe(machine: &Machine) -> Result<(Observed, BlockDevices), ReadError> {
    let readings = machine.pools().await?;
    let imported = readings.into_iter().map(|reading| {
        let datasets = reading.datasets.unwrap_or_default();
        (reading.status.name, Imported { key: datasets.key, mountpoint: datasets.mountpoint })
    });
    let imported: BTreeMap<_, _> = imported.collect();
    let is_system_pool_imported = imported.contains_key(bring_up::SYSTEM_POOL);
    let machine = machine.clone();
    let examined = spawn_blocking(move || {
        let devices = machine.block_devices();
        let system = machine.system_device();
        let partition = system_partition(&devices, system.as_deref());
        let visible = devices
            .iter()
            .filter(|device| partition.is_none_or(|partition| partition.name != device.name))
            .filter(|device| device.property("ID_FS_TYPE") == "zfs_member")
            .map(|device| device.property("ID_FS_LABEL").to_owned())
            .collect();
        // The partition is in use then, and of no interest.
        let partition = partition.filter(|_| !is_system_pool_imported).map(|device| examine(&machine, device));
        (Observed { imported, keys: machine.pool_keys(), visible, partition }, devices)
    });
    Ok(examined.await.expect("reading devices does not panic"))
}

/// The partition for the system pool: the one with the right label on the drive
/// that the system was started from. Another drive may have one as well, after
/// it was moved from another machine.
fn system_partition<'a>(devices: &'a BlockDevices, system: Option<&str>) -> Option<&'a BlockDevice> {
    let boot = system.map(|number| devices.boot_drives(number)).unwrap_or_default();
    // Partitions of a multipath map are mapped devices, which udev knows the labels of.
    let link = format!("disk/by-partlabel/{SYSTEM_PARTITION}");
    let mut candidates = devices.iter().filter(|device| {
        (device.partition_label == SYSTEM_PARTITION || device.wanted_links.contains(&link))
            && (boot.is_empty() || devices.drives_below(&device.name).iter().any(|drive| boot.contains(drive)))
    });
    let first = candidates.next()?;
    candidates.next().is_none().then_some(first)
}

/// Looks at what is on the partition for the system pool.
fn examine(machine: &Machine, device: &BlockDevice) -> SystemPartition {
    let by_label = format!("disk/by-partlabel/{SYSTEM_PARTITION}");
    let by_label = device.links.contains(&by_label).then(|| format!("/dev/{by_label}"));
    let Some(path) = device.stable_path().or(by_label) else {
        let content = Content::Unknown("it has no name that stays the same".to_owned());
        return SystemPartition { path: format!("/dev/{}", device.node), content };
    };
    SystemPartition { path, content: content(machine, device) }
}

fn content(machine: &Machine, device: &BlockDevice) -> Content {
    if !device.initialized {
        return Content::Unknown("udev has not looked at it".to_owned());
    }
    if let Some(holder) = device.holders.first() {
        return Content::Other(format!("the mapped device '{holder}'"));
    }
    let labels = match machine.labels(device) {
        Ok(labels) => labels,
        Err(error) => return Content::Unknown(error.to_string()),
    };
    match (labels, device.property("ID_FS_TYPE")) {
        (Labels::Pool(label), _) => Content::Pool(label),
        _ if !device.property("ID_FS_AMBIVALENT").is_empty() => Content::Other("data of several kinds".to_owned()),
        (Labels::None, "") => Content::Nothing,
        (Labels::Remnant, "") => Content::Remnant,
        (_, "zfs_member") => Content::Unknown("udev recognises a ZFS member, its labels do not".to_owned()),
        (_, kind) => Content::Other(format!("data of type '{kind}'")),
    }
}
