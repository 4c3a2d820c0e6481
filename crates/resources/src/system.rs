use std::collections::BTreeMap;

use api::v1::{ResourcesSystem, SystemChassis, SystemFirmware, SystemMotherboard};

use crate::tree::Tree;

/// What the firmware says of the machine.
pub(crate) fn read(tree: &Tree, firmware_facts: &BTreeMap<String, String>) -> ResourcesSystem {
    let fact = |name: &str| {
        let given = firmware_facts.get(name).cloned();
        given.or_else(|| tree.text(format!("sys/class/dmi/id/{name}"))).unwrap_or_default()
    };
    let described = tree.path("sys/class/dmi/id").exists();
    ResourcesSystem {
        uuid: fact("product_uuid"),
        vendor: fact("sys_vendor"),
        product: fact("product_name"),
        family: fact("product_family"),
        version: fact("product_version"),
        sku: fact("product_sku"),
        serial: fact("product_serial"),
        r#type: kind(tree, &fact("sys_vendor"), &fact("product_name")).to_owned(),
        firmware: described.then(|| SystemFirmware {
            vendor: fact("bios_vendor"),
            date: fact("bios_date"),
            version: fact("bios_version"),
        }),
        chassis: described.then(|| SystemChassis {
            vendor: fact("chassis_vendor"),
            r#type: chassis(&fact("chassis_type")).to_owned(),
            serial: fact("chassis_serial"),
            version: fact("chassis_version"),
        }),
        motherboard: described.then(|| SystemMotherboard {
            vendor: fact("board_vendor"),
            product: fact("board_name"),
            serial: fact("board_serial"),
            version: fact("board_version"),
        }),
    }
}

fn kind(tree: &Tree, vendor: &str, product: &str) -> &'static str {
    /// Firmware vendors and products of hypervisors.
    const VIRTUAL: [&str; 11] = [
        "QEMU",
        "KVM",
        "VMware",
        "VirtualBox",
        "innotek",
        "Xen",
        "Bochs",
        "Parallels",
        "BHYVE",
        "Virtual Machine",
        "Google Compute Engine",
    ];
    if tree.path("run/systemd/container").exists() {
        return "container";
    }
    let cpu = tree.text("proc/cpuinfo").unwrap_or_default();
    let under_hypervisor = cpu
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    let is_virtual = VIRTUAL.iter().any(|name| vendor.contains(name) || product.contains(name));
    match (under_hypervisor || is_virtual, cpu.is_empty() && vendor.is_empty()) {
        (true, _) => "virtual-machine",
        (false, false) => "physical",
        (false, true) => "unknown",
    }
}

/// Name of a chassis type, SMBIOS specification, table 17.
fn chassis(number: &str) -> &'static str {
    match number {
        "1" => "Other",
        "3" => "Desktop",
        "4" => "Low Profile Desktop",
        "5" => "Pizza Box",
        "6" => "Mini Tower",
        "7" => "Tower",
        "8" => "Portable",
        "9" => "Laptop",
        "10" => "Notebook",
        "11" => "Hand Held",
        "12" => "Docking Station",
        "13" => "All In One",
        "14" => "Sub Notebook",
        "15" => "Space-saving",
        "16" => "Lunch Box",
        "17" => "Main Server Chassis",
        "18" => "Expansion Chassis",
        "19" => "Sub Chassis",
        "20" => "Bus Expansion Chassis",
        "21" => "Peripheral Chassis",
        "22" => "RAID Chassis",
        "23" => "Rack Mount Chassis",
        "24" => "Sealed-case PC",
        "25" => "Multi-system",
        "26" => "CompactPCI",
        "27" => "AdvancedTCA",
        "28" => "Blade",
        "29" => "Blade Enclosure",
        "30" => "Tablet",
        "31" => "Convertible",
        "32" => "Detachable",
        "33" => "IoT Gateway",
        "34" => "Embedded PC",
        "35" => "Mini PC",
        "36" => "Stick PC",
        _ => "Unknown",
    }
}
