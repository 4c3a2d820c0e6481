use api::v1::{PciDevice, PciVpd, ResourcesPci};

use crate::{
    device::{Devices, name},
    tree,
};

/// Everything on the PCI buses.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesPci {
    let found: Vec<_> = devices
        .pci_folders()
        .iter()
        .map(|folder| {
            let identity = devices.identity(folder);
            PciDevice {
                driver: identity.driver,
                driver_version: identity.driver_version,
                numa_node: identity.numa_node,
                pci_address: name(folder),
                vendor: identity.vendor,
                vendor_id: identity.vendor_id,
                product: identity.product,
                product_id: identity.product_id,
                iommu_group: tree::link_name(&folder.join("iommu_group"))
                    .and_then(|group| group.parse().ok())
                    .unwrap_or_default(),
                // Only root may read it, and reading it hangs some devices.
                vpd: Some(PciVpd::default()),
            }
        })
        .collect();
    ResourcesPci { total: found.len() as u64, devices: found }
}
