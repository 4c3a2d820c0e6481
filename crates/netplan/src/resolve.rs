use api::v1::NetworkConfig;

use crate::{ConfigError, Desired, Key, MacAddress, Nic, error::Object, parse::check};

/// A card was given by a name that nothing has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} failed getting MAC for '{name}': no such network card")]
pub struct ResolveError {
    place: String,
    name: String,
}

/// Checks a configuration in which cards may be given by name, puts their
/// permanent addresses in place of the names, and shortens the default names of
/// USB cards, which leave no room for a prefix. What is stored is the result.
///
/// A name is looked for among the kernel's names, then among alternative names,
/// then among the names in `stored`, the configuration in force: once a card is
/// in use, its old name belongs to the bridge.
pub fn prepare(
    config: &mut NetworkConfig,
    nics: &[Nic],
    stored: Option<&NetworkConfig>,
) -> Result<Desired, ConfigError> {
    for interface in &mut config.interfaces {
        if let Some(short) = interface.name.strip_prefix("enx").filter(|rest| is_compact_mac(rest)) {
            interface.name = short.to_owned();
        }
    }
    check(config)?;
    resolve(config, nics, stored)?;
    Desired::new(config)
}

fn resolve(config: &mut NetworkConfig, nics: &[Nic], stored: Option<&NetworkConfig>) -> Result<(), ResolveError> {
    for (index, interface) in config.interfaces.iter_mut().enumerate() {
        let object = Object { list: "interface", index };
        replace(&mut interface.hwaddr, nics, stored, || object.to_string())?;
    }
    for (index, bond) in config.bonds.iter_mut().enumerate() {
        let object = Object { list: "bond", index };
        if !bond.hwaddr.is_empty() {
            replace(&mut bond.hwaddr, nics, stored, || object.to_string())?;
        }
        for (member, hwaddr) in bond.members.iter_mut().enumerate() {
            replace(hwaddr, nics, stored, || format!("{object} member {member}"))?;
        }
    }
    Ok(())
}

/// Makes the private keys that are missing, from 32 random bytes each.
pub fn generate_keys(config: &mut NetworkConfig, mut random: impl FnMut() -> [u8; 32]) {
    for tunnel in config.wireguard.iter_mut().filter(|tunnel| tunnel.private_key.is_empty()) {
        tunnel.private_key = Key::private(random()).to_base64();
    }
}

fn replace(
    hwaddr: &mut String,
    nics: &[Nic],
    stored: Option<&NetworkConfig>,
    place: impl Fn() -> String,
) -> Result<(), ResolveError> {
    if hwaddr.parse::<MacAddress>().is_ok() {
        return Ok(());
    }
    let name = hwaddr.as_str();
    let by_name = nics.iter().find(|nic| nic.name == name);
    let by_alternative = || nics.iter().find(|nic| nic.alternative_names.iter().any(|other| other == name));
    let by_config = || stored?.interfaces.iter().find(|known| known.name == name).map(|known| known.hwaddr.clone());
    let found = by_name.or_else(by_alternative).map(|nic| nic.hwaddr.to_string()).or_else(by_config);
    *hwaddr = found.ok_or_else(|| ResolveError { place: place(), name: name.to_owned() })?;
    Ok(())
}

fn is_compact_mac(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
