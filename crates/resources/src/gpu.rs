use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use api::v1::{GpuCard, GpuDrm, GpuMdev, GpuNvidia, GpuSriov, ResourcesGpu};

use crate::{device::Devices, tree};

/// Graphics cards: those with a kernel driver, and other display devices.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesGpu {
    let mut found = BTreeMap::<PathBuf, GpuCard>::new();
    for node in devices.tree.names("sys/class/drm") {
        if tree::numbered(&node, "card").is_none() {
            continue;
        }
        if let Some(folder) = devices.folder(Path::new("sys/class/drm").join(&node).join("device")) {
            found.entry(folder.clone()).or_insert_with(|| card(devices, &folder));
        }
    }
    for folder in devices.pci_folders() {
        const DISPLAY: u64 = 0x03;
        if tree::hex(&folder.join("class")).is_some_and(|class| class >> 16 == DISPLAY) {
            found.entry(folder.clone()).or_insert_with(|| card(devices, &folder));
        }
    }
    let total = found.len() as u64;
    ResourcesGpu { cards: with_functions_below_their_card(found), total }
}

fn card(devices: &Devices<'_>, folder: &Path) -> GpuCard {
    let identity = devices.identity(folder);
    GpuCard {
        drm: drm(folder),
        sriov: None,
        nvidia: nvidia(devices, &identity.pci_address),
        mdev: mdev(folder),
        driver: identity.driver,
        driver_version: identity.driver_version,
        numa_node: identity.numa_node,
        pci_address: identity.pci_address,
        vendor: identity.vendor,
        vendor_id: identity.vendor_id,
        product: identity.product,
        product_id: identity.product_id,
        usb_address: identity.usb_address,
    }
}

fn with_functions_below_their_card(found: BTreeMap<PathBuf, GpuCard>) -> Vec<GpuCard> {
    let parents: BTreeSet<_> = found.keys().cloned().collect();
    let mut functions = BTreeMap::<PathBuf, Vec<GpuCard>>::new();
    let mut cards = Vec::new();
    for (folder, card) in found {
        match folder.join("physfn").canonicalize().ok().filter(|parent| parents.contains(parent)) {
            Some(parent) => functions.entry(parent).or_default().push(card),
            None => cards.push((folder, card)),
        }
    }
    let with_functions = cards.into_iter().map(|(folder, mut card)| {
        let vfs = functions.remove(&folder).unwrap_or_default();
        card.sriov = tree::number(&folder.join("sriov_totalvfs")).map(|maximum_vfs| GpuSriov {
            current_vfs: tree::number(&folder.join("sriov_numvfs")).unwrap_or_default(),
            maximum_vfs,
            vfs,
        });
        card
    });
    with_functions.collect()
}

fn drm(folder: &Path) -> Option<GpuDrm> {
    let folder = folder.join("drm");
    let nodes = tree::names(&folder);
    let node = |prefix: &str| {
        let name = nodes.iter().find(|name| tree::numbered(name, prefix).is_some())?;
        Some((name.clone(), tree::text(&folder.join(name).join("dev")).unwrap_or_default()))
    };
    let (card_name, card_device) = node("card")?;
    let (control_name, control_device) = node("controlD").unwrap_or_default();
    let (render_name, render_device) = node("renderD").unwrap_or_default();
    let id = tree::numbered(&card_name, "card").unwrap_or_default();
    Some(GpuDrm { id, card_name, card_device, control_name, control_device, render_name, render_device })
}

fn mdev(folder: &Path) -> BTreeMap<String, GpuMdev> {
    let folder = folder.join("mdev_supported_types");
    let types = tree::names(&folder).into_iter().map(|kind| {
        let folder = folder.join(&kind);
        let text = |file: &str| tree::text(&folder.join(file)).unwrap_or_default();
        let mdev = GpuMdev {
            api: text("device_api"),
            available: tree::number(&folder.join("available_instances")).unwrap_or_default(),
            name: text("name"),
            description: text("description"),
            devices: tree::names(&folder.join("devices")),
        };
        (kind, mdev)
    });
    types.collect()
}

/// What NVIDIA's own driver says. Versions of its libraries are not known here:
/// they belong to the application that brings them.
fn nvidia(devices: &Devices<'_>, pci_address: &str) -> Option<GpuNvidia> {
    let text = devices.tree.text(format!("proc/driver/nvidia/gpus/{pci_address}/information"))?;
    let fact = |key: &str| {
        let line = text.lines().find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    /// Major number of NVIDIA's devices.
    const MAJOR: &str = "195";
    Some(GpuNvidia {
        nvrm_version: devices.tree.text("sys/module/nvidia/version").unwrap_or_default(),
        brand: fact("Model").split_whitespace().next().unwrap_or_default().to_owned(),
        model: fact("Model"),
        uuid: fact("GPU UUID"),
        card_device: format!("{MAJOR}:{}", fact("Device Minor")),
        card_name: format!("nvidia{}", fact("Device Minor")),
        ..GpuNvidia::default()
    })
}
