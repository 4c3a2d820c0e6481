use std::path::Path;

use api::v1::{ResourcesSerial, SerialDevice};

use crate::{device::Devices, tree};

/// Serial ports with hardware behind them.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesSerial {
    let names = devices.tree.names("sys/class/tty");
    let found: Vec<_> = names.into_iter().filter_map(|name| device(devices, name)).collect();
    ResourcesSerial { total: found.len() as u64, devices: found }
}

fn device(devices: &Devices<'_>, id: String) -> Option<SerialDevice> {
    let class = devices.tree.path("sys/class/tty").join(&id);
    let folder = devices.folder(Path::new("sys/class/tty").join(&id).join("device"))?;
    // The kernel reserves names for ports that are not there: type 0, unknown.
    if tree::number(&class.join("type")) == Some(0) {
        return None;
    }
    let identity = devices.identity(&folder);
    if identity.driver.is_empty() {
        return None;
    }
    let device = tree::text(&class.join("dev"))?;
    let record = devices.udev(&format!("c{device}"));
    let link = |folder| record.links_in(folder).next().unwrap_or_default().to_owned();
    Some(SerialDevice {
        id,
        device,
        device_id: link("serial/by-id"),
        device_path: link("serial/by-path"),
        driver: identity.driver,
        vendor: identity.vendor,
        vendor_id: identity.vendor_id,
        product: identity.product,
        product_id: identity.product_id,
    })
}
