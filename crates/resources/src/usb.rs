use std::path::Path;

use api::v1::{ResourcesUsb, UsbDevice, UsbInterface};

use crate::{
    device::{Devices, Identity},
    tree,
};

/// USB devices, hubs left out.
pub(crate) fn read(devices: &Devices<'_>) -> ResourcesUsb {
    let names = devices.tree.names("sys/bus/usb/devices");
    let folders = names.iter().filter_map(|name| devices.folder(Path::new("sys/bus/usb/devices").join(name)));
    let found: Vec<_> = folders.filter_map(|folder| device(devices, &folder)).collect();
    ResourcesUsb { total: found.len() as u64, devices: found }
}

fn device(devices: &Devices<'_>, folder: &Path) -> Option<UsbDevice> {
    const HUB: u64 = 9;
    if tree::hex(&folder.join("bDeviceClass"))? == HUB {
        return None;
    }
    let mut identity = Identity::default();
    devices.name_usb(folder, &mut identity);
    let interfaces = tree::names(folder).into_iter().filter(|name| name.contains(':'));
    Some(UsbDevice {
        bus_address: tree::number(&folder.join("busnum"))?,
        device_address: tree::number(&folder.join("devnum"))?,
        serial: tree::text(&folder.join("serial")).unwrap_or_default(),
        interfaces: interfaces.filter_map(|name| interface(devices, &folder.join(name))).collect(),
        vendor: identity.vendor,
        vendor_id: identity.vendor_id,
        product: identity.product,
        product_id: identity.product_id,
        speed: tree::text(&folder.join("speed"))
            .and_then(|speed| speed.parse().ok())
            .filter(|speed: &f64| speed.is_finite())
            .unwrap_or_default(),
    })
}

fn interface(devices: &Devices<'_>, folder: &Path) -> Option<UsbInterface> {
    let class_id = tree::hex(&folder.join("bInterfaceClass"))?;
    let subclass_id = tree::hex(&folder.join("bInterfaceSubClass")).unwrap_or_default();
    let (driver, driver_version) = devices.driver(folder);
    Some(UsbInterface {
        class: class(class_id).to_owned(),
        class_id,
        driver,
        driver_version,
        number: tree::hex(&folder.join("bInterfaceNumber")).unwrap_or_default(),
        subclass: subclass(class_id, subclass_id).to_owned(),
        subclass_id,
    })
}

/// Names of the USB class codes (usb.org, "Defined Class Codes").
fn class(id: u64) -> &'static str {
    match id {
        0x00 => "(Defined at Interface level)",
        0x01 => "Audio",
        0x02 => "Communications",
        0x03 => "Human Interface Device",
        0x05 => "Physical Interface Device",
        0x06 => "Imaging",
        0x07 => "Printer",
        0x08 => "Mass Storage",
        0x09 => "Hub",
        0x0a => "CDC Data",
        0x0b => "Chip/SmartCard",
        0x0d => "Content Security",
        0x0e => "Video",
        0x0f => "Personal Healthcare",
        0x10 => "Audio/Video",
        0x11 => "Billboard",
        0xdc => "Diagnostic",
        0xe0 => "Wireless",
        0xef => "Miscellaneous Device",
        0xfe => "Application Specific Interface",
        0xff => "Vendor Specific Class",
        _ => "",
    }
}

fn subclass(class: u64, id: u64) -> &'static str {
    match (class, id) {
        (0x01, 0x01) => "Control Device",
        (0x01, 0x02) => "Streaming",
        (0x01, 0x03) => "MIDI Streaming",
        (0x02, 0x02) => "Abstract (modem)",
        (0x02, 0x06) => "Ethernet Networking",
        (0x02, 0x0d) => "Network Control Model",
        (0x02, 0x0e) => "Mobile Broadband Interface Model",
        (0x03, 0x00) => "No Subclass",
        (0x03, 0x01) => "Boot Interface Subclass",
        (0x08, 0x06) => "SCSI",
        (0x0e, 0x01) => "Video Control",
        (0x0e, 0x02) => "Video Streaming",
        (0xe0, 0x01) => "Radio Frequency",
        (0xff, 0xff) => "Vendor Specific Subclass",
        _ => "",
    }
}
