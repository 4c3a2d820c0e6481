//! What devices of all kinds have in common: where they are plugged in, who
//! made them, and which driver has them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::tree::{self, Tree};

/// The devices of a machine.
#[derive(Debug)]
pub(crate) struct Devices<'t> {
    pub(crate) tree: &'t Tree,
    kernel_release: String,
}

/// Where a device sits and what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) driver: String,
    pub(crate) driver_version: String,
    pub(crate) numa_node: u64,
    pub(crate) pci_address: String,
    /// `bus:device`.
    pub(crate) usb_address: String,
    pub(crate) vendor: String,
    pub(crate) vendor_id: String,
    pub(crate) product: String,
    pub(crate) product_id: String,
}

impl<'t> Devices<'t> {
    pub(crate) fn read(tree: &'t Tree) -> Self {
        let kernel_release = tree.text("proc/sys/kernel/osrelease").unwrap_or_default();
        Self { tree, kernel_release }
    }

    /// Folder of the device behind a link, such as `sys/class/net/eth0/device`.
    pub(crate) fn folder(&self, link: impl AsRef<Path>) -> Option<PathBuf> {
        let link = self.tree.path(link);
        // Most terminals have no device, and resolving the path to none is not cheap.
        link.exists().then(|| fs::canonicalize(link).ok()).flatten()
    }

    /// The device in `folder`, and the PCI or USB device that carries it.
    pub(crate) fn identity(&self, folder: &Path) -> Identity {
        let (driver, driver_version) = self.driver(folder);
        let mut identity = Identity { driver, driver_version, numa_node: numa_node(folder), ..Identity::default() };
        if let Some(pci) = folder.ancestors().find(|folder| is_pci(folder)) {
            identity.pci_address = name(pci);
            self.name_pci(pci, &mut identity);
        }
        if let Some(usb) = folder.ancestors().find(|folder| is_usb(folder)) {
            let part = |file| tree::number(&usb.join(file)).unwrap_or_default();
            identity.usb_address = format!("{}:{}", part("busnum"), part("devnum"));
            self.name_usb(usb, &mut identity);
        }
        identity
    }

    /// Driver of a device, and its version: the module's own, else the kernel's.
    pub(crate) fn driver(&self, folder: &Path) -> (String, String) {
        let Some(driver) = tree::link_name(&folder.join("driver")) else {
            return Default::default();
        };
        let module = tree::link_name(&folder.join("driver/module"));
        let version = module.and_then(|module| self.tree.text(format!("sys/module/{module}/version")));
        let version = version.unwrap_or_else(|| self.kernel_release.clone());
        (driver, version)
    }

    /// What udev knows of a device: `b8:0`, `c4:64`, `n2`, `+pci:0000:00:01.0`.
    pub(crate) fn udev(&self, id: &str) -> UdevRecord {
        UdevRecord::parse(&self.tree.text(Path::new("run/udev/data").join(id)).unwrap_or_default())
    }

    pub(crate) fn name_pci(&self, folder: &Path, identity: &mut Identity) {
        identity.vendor_id = id(&folder.join("vendor"));
        identity.product_id = id(&folder.join("device"));
        let record = self.udev(&format!("+pci:{}", name(folder)));
        identity.vendor = record.property("ID_VENDOR_FROM_DATABASE");
        identity.product = record.property("ID_MODEL_FROM_DATABASE");
    }

    pub(crate) fn name_usb(&self, folder: &Path, identity: &mut Identity) {
        identity.vendor_id = id(&folder.join("idVendor"));
        identity.product_id = id(&folder.join("idProduct"));
        let record = self.udev(&format!("c{}", tree::text(&folder.join("dev")).unwrap_or_default()));
        let named = |property: &str, file: &str| {
            record.first_of(&[property]).or_else(|| tree::text(&folder.join(file))).unwrap_or_default()
        };
        identity.vendor = named("ID_VENDOR_FROM_DATABASE", "manufacturer");
        identity.product = named("ID_MODEL_FROM_DATABASE", "product");
    }

    /// Folders of all PCI devices.
    pub(crate) fn pci_folders(&self) -> Vec<PathBuf> {
        let names = self.tree.names("sys/bus/pci/devices");
        names.iter().filter_map(|name| self.folder(Path::new("sys/bus/pci/devices").join(name))).collect()
    }
}

/// Last component of a path.
pub(crate) fn name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The nearest node of the memory hierarchy; 0 where the machine has only one.
fn numa_node(folder: &Path) -> u64 {
    folder.ancestors().find_map(|folder| tree::number(&folder.join("numa_node"))).unwrap_or_default()
}

/// Whether the last component is an address like `0000:00:1f.2`.
pub(crate) fn is_pci(folder: &Path) -> bool {
    let name = name(folder);
    let mut parts = name.split([':', '.']);
    let hex = |part: Option<&str>, length: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| length.contains(&part.len()) && part.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    hex(parts.next(), 4..=8)
        && hex(parts.next(), 2..=2)
        && hex(parts.next(), 2..=2)
        && hex(parts.next(), 1..=1)
        && parts.next().is_none()
}

fn is_usb(folder: &Path) -> bool {
    folder.join("busnum").exists() && folder.join("devnum").exists()
}

/// Four hexadecimal digits, without `0x`.
fn id(path: &Path) -> String {
    tree::hex(path).map(|id| format!("{id:04x}")).unwrap_or_default()
}

/// One file of udev's database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UdevRecord {
    properties: BTreeMap<String, String>,
    links: Vec<String>,
}

impl UdevRecord {
    fn parse(text: &str) -> Self {
        let mut record = Self::default();
        for line in text.lines() {
            if let Some((key, value)) = line.strip_prefix("E:").and_then(|line| line.split_once('=')) {
                record.properties.insert(key.to_owned(), value.to_owned());
            } else if let Some(link) = line.strip_prefix("S:") {
                record.links.push(link.to_owned());
            }
        }
        record.links.sort();
        record
    }

    /// A property; empty when there is none.
    pub(crate) fn property(&self, key: &str) -> String {
        self.properties.get(key).cloned().unwrap_or_default()
    }

    /// The first of several properties that is set.
    pub(crate) fn first_of(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.properties.get(*key)).filter(|value| !value.is_empty()).cloned()
    }

    /// Names of the links in a folder of `/dev`, sorted.
    pub(crate) fn links_in(&self, folder: &str) -> impl Iterator<Item = &str> {
        self.links.iter().filter_map(move |link| link.strip_prefix(folder)?.strip_prefix('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_other_names() {
        for (name, is) in [
            ("0000:00:1f.2", true),
            ("10000:e1:00.0", true),
            ("pci0000:00", false),
            ("virtio0", false),
            ("0000:00:1f", false),
            ("0000:00:1f.2.3", false),
            ("1-1:1.0", false),
            ("2:0:0:0", false),
            ("", false),
        ] {
            assert_eq!(is_pci(Path::new("/sys/devices").join(name).as_path()), is, "{name}");
        }
    }

    #[test]
    fn record_of_udev_is_read() {
        let record = UdevRecord::parse(
            "S:disk/by-id/b\nS:disk/by-id/a\nS:disk/by-path/p\nI:1\nE:ID_A=x=y\nE:bad\nE:ID_B=\nG:tag\n",
        );
        assert_eq!(record.property("ID_A"), "x=y");
        assert_eq!(record.first_of(&["ID_X", "ID_A"]).as_deref(), Some("x=y"));
        assert_eq!(record.first_of(&["ID_B"]), None);
        assert_eq!(record.links_in("disk/by-id").collect::<Vec<_>>(), ["a", "b"]);
    }
}
