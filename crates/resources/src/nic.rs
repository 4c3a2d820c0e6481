use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use api::v1::{
    NetworkCard, NetworkCardInfiniband, NetworkCardPort, NetworkCardSriov, NetworkCardVdpa, ResourcesNetwork,
};

use crate::{
    device::{Devices, is_pci},
    ethtool, tree,
};

/// Network cards: those with interfaces, and those that no driver has.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesNetwork {
    let mut cards = Cards { devices, by_folder: BTreeMap::new() };
    for interface in devices.tree.names("sys/class/net") {
        cards.add_interface(&interface);
    }
    for folder in devices.pci_folders() {
        const NETWORK: u64 = 0x02;
        if tree::hex(&folder.join("class")).is_some_and(|class| class >> 16 == NETWORK) {
            cards.card(&folder);
        }
    }
    let total = cards.by_folder.len() as u64;
    ResourcesNetwork { cards: cards.with_functions_below_their_card(), total }
}

struct Cards<'d, 't> {
    devices: &'d Devices<'t>,
    by_folder: BTreeMap<PathBuf, NetworkCard>,
}

impl Cards<'_, '_> {
    fn add_interface(&mut self, interface: &str) {
        let class = Path::new("sys/class/net").join(interface);
        let Some(folder) = self.devices.folder(class.join("device")) else {
            return;
        };
        let is_own = self.devices.tree.is_this_machine();
        let mut port = port(&self.devices.tree.path(class), interface);
        if let Some(link) = is_own.then(|| ethtool::link(interface)).flatten() {
            port.supported_modes = link.supported_modes;
            port.supported_ports = link.supported_ports;
            link.port_type.clone_into(&mut port.port_type);
            link.transceiver_type.clone_into(&mut port.transceiver_type);
            port.auto_negotiation = link.auto_negotiation;
        }
        let firmware_version = is_own.then(|| ethtool::firmware_version(interface)).flatten();
        // Between the card and the interface there may be another device, with
        // the driver that matters: of virtio, or of a USB function.
        let (driver, driver_version) = self.devices.driver(&folder);
        let card = self.card(&folder);
        if !driver.is_empty() {
            (card.driver, card.driver_version) = (driver, driver_version);
        }
        if let Some(firmware_version) = firmware_version {
            card.firmware_version = firmware_version;
        }
        card.ports.push(port);
    }

    /// The card of which `folder` is a part.
    fn card(&mut self, folder: &Path) -> &mut NetworkCard {
        let carrier = folder.ancestors().find(|folder| is_pci(folder) || folder.join("devnum").exists());
        let folder = carrier.unwrap_or(folder).to_owned();
        let devices = self.devices;
        self.by_folder.entry(folder.clone()).or_insert_with(|| {
            let identity = devices.identity(&folder);
            NetworkCard {
                driver: identity.driver,
                driver_version: identity.driver_version,
                ports: Vec::new(),
                sriov: None,
                vdpa: vdpa(&folder),
                numa_node: identity.numa_node,
                pci_address: identity.pci_address,
                vendor: identity.vendor,
                vendor_id: identity.vendor_id,
                product: identity.product,
                product_id: identity.product_id,
                firmware_version: String::new(),
                usb_address: identity.usb_address,
            }
        })
    }

    fn with_functions_below_their_card(self) -> Vec<NetworkCard> {
        let Self { by_folder, .. } = self;
        let parents: BTreeSet<_> = by_folder.keys().cloned().collect();
        let mut functions = BTreeMap::<PathBuf, Vec<NetworkCard>>::new();
        let mut cards = Vec::new();
        for (folder, card) in by_folder {
            let parent = folder.join("physfn").canonicalize().ok().filter(|parent| parents.contains(parent));
            match parent {
                Some(parent) => functions.entry(parent).or_default().push(card),
                None => cards.push((folder, card)),
            }
        }
        let with_functions = cards.into_iter().map(|(folder, mut card)| {
            let vfs = functions.remove(&folder).unwrap_or_default();
            card.sriov = tree::number(&folder.join("sriov_totalvfs")).map(|maximum_vfs| NetworkCardSriov {
                current_vfs: tree::number(&folder.join("sriov_numvfs")).unwrap_or_default(),
                maximum_vfs,
                vfs,
            });
            card
        });
        with_functions.collect()
    }
}

fn port(class: &Path, interface: &str) -> NetworkCardPort {
    let is_infiniband = tree::number(&class.join("type")) == Some(32);
    NetworkCardPort {
        id: interface.to_owned(),
        address: tree::text(&class.join("address")).unwrap_or_default(),
        port: tree::number(&class.join("dev_port")).unwrap_or_default(),
        // linux/if_arp.h
        protocol: match tree::number(&class.join("type")) {
            Some(1) => "ethernet",
            Some(19) => "ATM",
            Some(32) => "infiniband",
            _ => "unknown",
        }
        .to_owned(),
        link_detected: tree::number(&class.join("carrier")) == Some(1),
        // -1 when there is no link.
        link_speed: tree::number(&class.join("speed")).filter(|speed| *speed < u64::from(u32::MAX)).unwrap_or_default(),
        link_duplex: tree::text(&class.join("duplex")).filter(|duplex| duplex != "unknown").unwrap_or_default(),
        infiniband: is_infiniband.then(|| infiniband(&class.join("device"))),
        ..NetworkCardPort::default()
    }
}

fn infiniband(device: &Path) -> NetworkCardInfiniband {
    let node = |folder: &str, prefix: &str| {
        let folder = device.join(folder);
        let name = tree::names(&folder).into_iter().find(|name| tree::numbered(name, prefix).is_some());
        let number = name.as_ref().and_then(|name| tree::text(&folder.join(name).join("dev")));
        (name.unwrap_or_default(), number.unwrap_or_default())
    };
    let (issm_name, issm_device) = node("infiniband_mad", "issm");
    let (mad_name, mad_device) = node("infiniband_mad", "umad");
    let (verb_name, verb_device) = node("infiniband_verbs", "uverbs");
    NetworkCardInfiniband { issm_name, issm_device, mad_name, mad_device, verb_name, verb_device }
}

fn vdpa(folder: &Path) -> Option<NetworkCardVdpa> {
    let vdpa = tree::names(folder).into_iter().find(|name| tree::numbered(name, "vdpa").is_some())?;
    let device = tree::names(&folder.join(&vdpa)).into_iter().find(|name| name.starts_with("vhost-vdpa-"))?;
    Some(NetworkCardVdpa { name: vdpa, device })
}
