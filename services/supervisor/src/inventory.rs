//! The hardware inventory, taken at most once in ten seconds however many ask.

use std::time::{Duration, Instant};

use api::v1::Resources;
use resources::Inventory;
use tokio::{sync::Mutex, task::JoinError};

use crate::Machine;

const FRESH: Duration = Duration::from_secs(10);

/// The inventory and when it was taken.
#[derive(Debug)]
pub(crate) struct CachedInventory {
    inventory: Inventory,
    // Held across the reading: who comes meanwhile waits for its result.
    last: Mutex<Option<(Instant, Resources)>>,
}

impl CachedInventory {
    pub(crate) fn new(machine: &Machine) -> Self {
        let inventory = Inventory::below(&machine.root, machine.firmware_facts.clone());
        Self { inventory, last: Mutex::new(None) }
    }

    pub(crate) async fn get(&self) -> Result<Resources, JoinError> {
        let mut last = self.last.lock().await;
        if let Some((taken, resources)) = &*last
            && taken.elapsed() < FRESH
        {
            return Ok(resources.clone());
        }
        let inventory = self.inventory.clone();
        // sysfs may wait for the hardware.
        let resources = tokio::task::spawn_blocking(move || inventory.take()).await?;
        *last = Some((Instant::now(), resources.clone()));
        Ok(resources)
    }
}
