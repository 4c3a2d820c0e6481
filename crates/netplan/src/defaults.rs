use api::v1::{NetworkConfig, NetworkInterface, NetworkTime};

use crate::{DeviceName, Nic};

/// The interfaces of a machine that was told nothing: every card by itself,
/// with addresses by DHCP for IPv4 and by router advertisements for IPv6, and
/// none that the start waits for.
pub fn default_interfaces(nics: &[Nic]) -> Vec<NetworkInterface> {
    let mut nics: Vec<_> = nics.iter().collect();
    nics.sort_by_key(|nic| nic.index);
    nics.into_iter()
        .map(|nic| NetworkInterface {
            name: logical_name(nic),
            hwaddr: nic.hwaddr.to_string(),
            addresses: vec!["dhcp4".into(), "slaac".into()],
            required_for_online: "no".into(),
            ..Default::default()
        })
        .collect()
}

/// Adds what a configuration or seed without devices or time zone gets.
pub fn fill_defaults(config: &mut NetworkConfig, nics: &[Nic]) {
    if config.interfaces.is_empty() && config.bonds.is_empty() && config.vlans.is_empty() {
        config.interfaces = default_interfaces(nics);
    }
    let time = config.time.get_or_insert_with(NetworkTime::default);
    if time.timezone.is_empty() {
        time.timezone = "UTC".into();
    }
}

/// The kernel's name where it can be kept. A card that is in use already was
/// renamed, and USB cards have names that leave no room for a prefix.
fn logical_name(nic: &Nic) -> String {
    let usb = nic.name.strip_prefix("enx").filter(|rest| rest.len() == 12);
    let name = usb.unwrap_or(&nic.name);
    if DeviceName::new(name).is_ok() { name.to_owned() } else { format!("nic{}", nic.index) }
}
