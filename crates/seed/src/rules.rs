//! What makes each section right, beyond its form. Nothing here looks at a
//! machine: what depends on one is found out where the section is used.

use std::collections::BTreeMap;

use api::v1::{InstallSeed, KernelConfig, NetworkConfig, ProviderConfig, SecurityConfig, StorageSeed, UpdateConfig};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use values::{ByteSize, certificate_der};

use crate::{
    check::{Contents, Verdict},
    section::{Applications, Incus, TrustedClients},
};

/// Applications of which a machine has one at most: they manage it.
const PRIMARY: [&str; 4] = ["incus", "incus-lts-7.0", "migration-manager", "operations-center"];
const OTHERS: [&str; 5] = ["debug", "gpu-support", "incus-ceph", "incus-linstor", "openfga"];

const PROVIDERS: [&str; 3] = ["images", "operations-center", "debug"];
const SERVICES: [&str; 8] = ["iscsi", "lvm", "multipath", "netbird", "nvme", "ovn", "tailscale", "usbip"];
const POOL_TYPES: [&str; 6] = ["zfs-raid0", "zfs-raid1", "zfs-raid10", "zfs-raidz1", "zfs-raidz2", "zfs-raidz3"];
const SORT_ORDERS: [&str; 2] = ["smallest", "largest"];
/// The speeds that a serial line has by name, termios(3).
const BAUD_RATES: [i64; 18] = [
    0, 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600,
    1_000_000, 1_500_000,
];

pub(crate) fn install(seed: &mut InstallSeed, verdict: &mut Verdict) {
    let consent = seed.security.unwrap_or_default();
    if consent.missing_tpm && consent.missing_secure_boot {
        verdict.error(
            "security",
            "`missing_tpm` and `missing_secure_boot` cannot both be set: nothing would protect the system",
        );
    }
    if !seed.force_install && !seed.force_install_confirmation.is_empty() {
        verdict.warn("force_install_confirmation", "has no effect without `force_install`");
    }
    let target = seed.target.clone().unwrap_or_default();
    let mut size = |key: &str, text: &str| {
        if text.is_empty() {
            return None;
        }
        let parsed = text.parse::<ByteSize>();
        parsed.map_err(|error| verdict.error(format!("target.{key}"), error)).ok()
    };
    let bounds = (size("min_size", &target.min_size), size("max_size", &target.max_size));
    if let (Some(min), Some(max)) = bounds
        && min > max
    {
        verdict.error("target.min_size", "is larger than `max_size`");
    }
    let order = target.sort_order.to_ascii_lowercase();
    if !order.is_empty() && !SORT_ORDERS.contains(&order.as_str()) {
        verdict.error("target.sort_order", format!("unsupported sort order '{}'", target.sort_order));
    }
}

pub(crate) fn applications(seed: &mut Applications, verdict: &mut Verdict) {
    let mut primary = Vec::new();
    for (index, application) in seed.applications.iter().enumerate() {
        let name = application.name.as_str();
        if PRIMARY.contains(&name) {
            if !primary.contains(&name) {
                primary.push(name);
            }
        } else if !OTHERS.contains(&name) {
            verdict.error(format!("applications.{index}.name"), format!("unknown application '{name}'"));
        }
    }
    if primary.len() > 1 {
        verdict.error("applications", format!("only one of {} can be installed", primary.join(", ")));
    }
}

/// Rules over two sections: an installation without any application is a
/// mistake, a running system with an empty list gets the default one.
pub(crate) fn install_with_applications(contents: &Contents, verdict: &mut Verdict) {
    let is_empty = contents.applications.as_ref().is_some_and(|seed| seed.applications.is_empty());
    if contents.install.is_some() && is_empty {
        verdict.error("applications", "at least one application must be defined");
    }
}

pub(crate) fn incus(seed: &mut Incus, verdict: &mut Verdict) {
    let certificates = seed.preseed.iter().flat_map(|preseed| &preseed.certificates);
    for (index, certificate) in certificates.enumerate() {
        // Other kinds are the business of Incus.
        if certificate.kind == "client"
            && let Err(error) = certificate_der(&in_pem(&certificate.certificate))
        {
            verdict.error(format!("preseed.certificates.{index}.certificate"), error);
        }
    }
}

pub(crate) fn trusted_clients(seed: &mut TrustedClients, verdict: &mut Verdict) {
    certificates("trusted_client_certificates", &seed.trusted_client_certificates, verdict);
}

pub(crate) fn kernel(seed: &mut KernelConfig, verdict: &mut Verdict) {
    for (index, console) in seed.console.iter().enumerate() {
        let name = console.device.strip_prefix("/dev/").unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if name.is_empty() || name.contains("..") || !name.chars().all(is_plain) {
            verdict.error(format!("console.{index}.device"), "is not the path of a terminal in /dev");
        }
        if !BAUD_RATES.contains(&console.baud_rate) {
            let reason = format!("{} is not a speed of serial lines", console.baud_rate);
            verdict.error(format!("console.{index}.baud_rate"), reason);
        }
    }
    let consoles = KernelConfig { console: seed.console.clone(), ..KernelConfig::default() };
    if *seed != consoles {
        verdict.warn("", "only `console` is read from a seed; other settings are passed over");
        *seed = consoles;
    }
}

pub(crate) fn network(seed: &mut NetworkConfig, verdict: &mut Verdict) {
    if let Err(error) = netplan::check(seed) {
        verdict.error("", error);
    }
}

pub(crate) fn provider(seed: &mut ProviderConfig, verdict: &mut Verdict) {
    if !seed.name.is_empty() && !PROVIDERS.contains(&seed.name.as_str()) {
        verdict.error("name", format!("unknown provider '{}'", seed.name));
    }
    for key in ["update_ca", "server_certificate"] {
        if let Some(text) = seed.config.get(key)
            && let Err(error) = certificate_der(text)
        {
            verdict.error(format!("config.{key}"), error);
        }
    }
    if let Some(url) = seed.config.get("server_url") {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
        if rest.is_empty() || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            verdict.error("config.server_url", "is not a URL that starts with `https://` or `http://`");
        }
    }
}

pub(crate) fn security(seed: &mut SecurityConfig, verdict: &mut Verdict) {
    if !seed.encryption_recovery_keys.is_empty() {
        verdict.error("encryption_recovery_keys", "recovery keys cannot be set by seed: each system makes its own");
    }
    certificates("custom_ca_certs", &seed.custom_ca_certs, verdict);
}

pub(crate) fn services(seed: &mut BTreeMap<String, Value>, verdict: &mut Verdict) {
    seed.remove("version");
    seed.retain(|_, config| !config.is_null());
    for (name, config) in seed.iter() {
        if !SERVICES.contains(&name.as_str()) {
            verdict.warn(name, "is not a service that a seed configures, and is passed over");
        } else if !config.is_object() {
            verdict.error(name, "is not an object with the configuration of the service");
        }
    }
    seed.retain(|name, _| SERVICES.contains(&name.as_str()));
}

pub(crate) fn storage(seed: &mut StorageSeed, verdict: &mut Verdict) {
    for (index, pool) in seed.pools.iter().enumerate() {
        let starts_well = pool.name.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if !starts_well || !pool.name.chars().all(is_plain) {
            verdict.error(
                format!("pools.{index}.name"),
                "is not a name for a pool: letters, digits and `-_.:`, a letter first",
            );
        } else if seed.pools[..index].iter().any(|other| other.name == pool.name) {
            verdict.error(format!("pools.{index}.name"), format!("there are two pools '{}'", pool.name));
        }
        if !POOL_TYPES.contains(&pool.r#type.as_str()) {
            let reason = format!("'{}' is none of {}", pool.r#type, POOL_TYPES.join(", "));
            verdict.error(format!("pools.{index}.type"), reason);
        }
        if pool.devices.is_empty() {
            verdict.error(format!("pools.{index}.devices"), "a pool needs at least one device");
        }
    }
}

pub(crate) fn update(seed: &mut UpdateConfig, verdict: &mut Verdict) {
    // What is left out keeps what the system has.
    let inherited = schedule::default_config();
    let mut whole = seed.clone();
    if whole.channel.is_empty() {
        whole.channel = inherited.channel;
    }
    if whole.check_frequency.is_empty() {
        whole.check_frequency = inherited.check_frequency;
    }
    if let Err(error) = schedule::validate(&whole) {
        verdict.error("", error);
    }
}

fn certificates(key: &str, list: &[String], verdict: &mut Verdict) {
    for (index, text) in list.iter().enumerate() {
        if let Err(error) = certificate_der(text) {
            verdict.error(format!("{key}.{index}"), error);
        }
    }
}

/// Incus also accepts the base64 of a certificate without the PEM lines.
pub(crate) fn in_pem(certificate: &str) -> String {
    let bare: String = certificate.split_ascii_whitespace().collect();
    if bare.is_empty() || STANDARD.decode(&bare).is_err() {
        return certificate.to_owned();
    }
    let lines: Vec<_> = bare.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
