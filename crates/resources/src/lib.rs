//! Hardware inventory: the document of the Incus resources API, taken from
//! sysfs, procfs and the udev database.
//!
//! It reads and starts nothing else, needs no privilege, and knows nothing of
//! what the devices are used for. A device that cannot be read, or says
//! nonsense, is left out or shown with what is known of it; it never hides the
//! others. Names of vendors and products are those that udev found in its
//! hardware database, so no such database is read here.
//!
//! Every path lies below a root that the caller names.

mod cpu;
mod device;
mod disk;
mod ethtool;
mod gpu;
mod load;
mod memory;
mod nic;
mod pci;
mod serial;
mod system;
mod tree;
mod usb;

use std::{collections::BTreeMap, path::Path};

use api::v1::Resources;

use crate::tree::Tree;

/// Takes inventories of one machine.
#[derive(Debug, Clone)]
pub struct Inventory {
    tree: Tree,
    firmware_facts: BTreeMap<String, String>,
}

impl Inventory {
    /// The machine whose `/sys`, `/proc` and `/run` are below `root`. Files of
    /// `/sys/class/dmi/id` that only root may read can be given with their
    /// content in `firmware_facts`.
    pub fn below(root: &Path, firmware_facts: BTreeMap<String, String>) -> Self {
        Self { tree: Tree::below(root), firmware_facts }
    }

    /// Reads the whole inventory. Blocks: sysfs may wait for the hardware.
    pub fn take(&self) -> Resources {
        let tree = &self.tree;
        let devices = device::Devices::read(tree);
        Resources {
            cpu: Some(cpu::read(tree)),
            memory: Some(memory::read(tree)),
            gpu: Some(gpu::read(&devices)),
            network: Some(nic::read(&devices)),
            storage: Some(disk::read(&devices)),
            usb: Some(usb::read(&devices)),
            pci: Some(pci::read(&devices)),
            system: Some(system::read(tree, &self.firmware_facts)),
            load: Some(load::read(tree)),
            serial: Some(serial::read(&devices)),
        }
    }
}
