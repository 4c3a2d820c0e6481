//! The configuration as given -> a [`Desired`] network, or the first thing that
//! is wrong with it, in the order that existing clients know.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use api::v1::{
    NetworkBond, NetworkBondOptions, NetworkBridge, NetworkConfig, NetworkDns, NetworkEthernet, NetworkFirewallRule,
    NetworkInterface, NetworkRoute, NetworkTime, NetworkVlan, NetworkWireguard, NetworkWireguardPeer,
};

use crate::{
    MacAddress,
    address::{AddressSource, Gateway, Key, Network, Route},
    desired::{Bond, BondMode, Bridge, Card, Desired, Dns, Host, Interface, OnlineRule, Peer, Time, Vlan, Wireguard},
    error::{ConfigError, FieldError, Object},
    names::DeviceName,
};

const ROLES: [&str; 4] = ["management", "cluster", "instances", "storage"];
const WAKE_MODES: [&str; 7] = ["phy", "unicast", "multicast", "broadcast", "arp", "magic", "secureon"];
const HASH_POLICIES: [&str; 5] = ["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"];

const LARGEST_MTU: i64 = 9000;
/// IPv6 does not work below it, RFC 8200.
const SMALLEST_MTU: i64 = 1280;

/// Checks a configuration whose cards may still be given by name, as in a seed.
/// One without devices is right: it gets the default ones.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn check(config: &NetworkConfig) -> Result<(), ConfigError> {
    parse(config, Macs::MayBeNames).map(drop)
}

impl Desired {
    /// Checks a configuration whose cards are given by address.
    pub fn new(config: &NetworkConfig) -> Result<Self, ConfigError> {
        if config.interfaces.is_empty() && config.bonds.is_empty() && config.vlans.is_empty() {
            return Err(ConfigError::NoDevices);
        }
        parse(config, Macs::Strict)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Macs {
    MayBeNames,
    Strict,
}

fn parse(config: &NetworkConfig, macs: Macs) -> Result<Desired, ConfigError> {
    check_duplicates(config)?;
    let timeout = &config.default_confirmation_timeout;
    if !timeout.is_empty() {
        let length: values::Duration =
            timeout.parse().map_err(|error: values::DurationError| ConfigError::Timeout(error.to_string()))?;
        if length.nanoseconds() <= 0 {
            return Err(ConfigError::Timeout("it must be greater than zero".into()));
        }
    }
    let parents: Vec<&str> =
        config.interfaces.iter().map(|i| i.name.as_str()).chain(config.bonds.iter().map(|b| b.name.as_str())).collect();
    Ok(Desired {
        interfaces: each("interface", &config.interfaces, |interface| parse_interface(interface, macs))?,
        bonds: each("bond", &config.bonds, |bond| parse_bond(bond, macs))?,
        vlans: each("vlan", &config.vlans, |vlan| parse_vlan(vlan, &parents))?,
        wireguard: each("wireguard", &config.wireguard, parse_wireguard)?,
        dns: config.dns.as_ref().map_or_else(|| Ok(Dns::default()), parse_dns)?,
        time: config.time.as_ref().map_or_else(|| Ok(Time::default()), parse_time)?,
        has_proxy: config.proxy.is_some(),
    })
}

fn check_duplicates(config: &NetworkConfig) -> Result<(), ConfigError> {
    let mut names = BTreeSet::new();
    let mut take_name = |name: &String| {
        names.insert(name.clone()).then_some(()).ok_or_else(|| ConfigError::DuplicateName(name.clone()))
    };
    let mut macs = BTreeSet::new();
    // Two spellings of one address are one address.
    let spelling = |mac: &String| mac.parse().map_or_else(|_| mac.clone(), |mac: MacAddress| mac.to_string());
    let mut take_mac =
        |mac: &String| macs.insert(spelling(mac)).then_some(()).ok_or_else(|| ConfigError::DuplicateMac(mac.clone()));

    for interface in &config.interfaces {
        take_name(&interface.name)?;
        take_mac(&interface.hwaddr)?;
    }
    for bond in &config.bonds {
        take_name(&bond.name)?;
        if !bond.hwaddr.is_empty() {
            take_mac(&bond.hwaddr)?;
        }
        let mut own_taken = bond.hwaddr.is_empty();
        for member in &bond.members {
            if !own_taken && spelling(member) == spelling(&bond.hwaddr) {
                own_taken = true; // the bond may borrow the address of one member
            } else {
                take_mac(member)?;
            }
        }
    }
    config
        .vlans
        .iter()
        .map(|vlan| &vlan.name)
        .chain(config.wireguard.iter().map(|tunnel| &tunnel.name))
        .try_for_each(take_name)
}

fn each<T, U>(
    list: &'static str,
    items: &[T],
    parse: impl Fn(&T) -> Result<U, FieldError>,
) -> Result<Vec<U>, ConfigError> {
    let checked =
        |(index, item)| parse(item).map_err(|problem| ConfigError::Device { object: Object { list, index }, problem });
    items.iter().enumerate().map(checked).collect()
}

fn parse_interface(from: &NetworkInterface, macs: Macs) -> Result<Interface, FieldError> {
    let name = DeviceName::new(&from.name)?;
    let mtu = parse_mtu(from.mtu)?;
    check_roles(&from.roles)?;
    check_firewall(&from.firewall_rules)?;
    let addresses = parse_addresses(&from.addresses, mtu)?;
    let online = parse_online(&from.required_for_online)?;
    let routes = parse_routes(&from.routes)?;
    let hwaddr = parse_mac(&from.hwaddr, macs)?;
    let ethernet = parse_ethernet(from.ethernet.as_ref())?;
    Ok(Interface {
        name,
        card: Card { hwaddr, lldp: from.lldp, ethernet },
        host: Host { addresses, routes, mtu, online, has_firewall_rules: !from.firewall_rules.is_empty() },
        vlan_tags: parse_vlan_tags(&from.vlan_tags)?,
        bridge: parse_bridge(from.bridge.as_ref()),
        strict_hwaddr: from.strict_hwaddr,
    })
}

fn parse_bond(from: &NetworkBond, macs: Macs) -> Result<Bond, FieldError> {
    let name = DeviceName::new(&from.name)?;
    let mode = BondMode::parse(&from.mode).ok_or_else(|| FieldError::Mode(from.mode.clone()))?;
    let mtu = parse_mtu(from.mtu)?;
    check_roles(&from.roles)?;
    check_firewall(&from.firewall_rules)?;
    let addresses = parse_addresses(&from.addresses, mtu)?;
    let online = parse_online(&from.required_for_online)?;
    let routes = parse_routes(&from.routes)?;
    let own = (!from.hwaddr.is_empty()).then(|| parse_mac(&from.hwaddr, macs)).transpose()?;
    let first = from.members.first().ok_or(FieldError::NoMembers)?;
    let member_macs: Vec<_> = from.members.iter().map(|mac| parse_mac(mac, macs)).collect::<Result<_, _>>()?;
    let ethernet = parse_ethernet(from.ethernet.as_ref())?;
    Ok(Bond {
        name,
        mode,
        members: member_macs
            .into_iter()
            .map(|hwaddr| Card { hwaddr, lldp: from.lldp, ethernet: ethernet.clone() })
            .collect(),
        hwaddr: own.map_or_else(|| parse_mac(first, macs), Ok)?,
        options: parse_bond_options(mode, from.options.as_ref())?,
        host: Host { addresses, routes, mtu, online, has_firewall_rules: !from.firewall_rules.is_empty() },
        vlan_tags: parse_vlan_tags(&from.vlan_tags)?,
        bridge: parse_bridge(from.bridge.as_ref()),
    })
}

fn parse_vlan(from: &NetworkVlan, parents: &[&str]) -> Result<Vlan, FieldError> {
    let name = DeviceName::new(&from.name)?;
    if from.parent.is_empty() {
        return Err(FieldError::NoParent);
    }
    if !parents.contains(&from.parent.as_str()) {
        return Err(FieldError::Parent(from.parent.clone()));
    }
    let id = u16::try_from(from.id).ok().filter(|id| *id <= 4094).ok_or(FieldError::VlanId(from.id))?;
    let mtu = parse_mtu(from.mtu)?;
    check_roles(&from.roles)?;
    check_firewall(&from.firewall_rules)?;
    let addresses = parse_addresses(&from.addresses, mtu)?;
    let online = parse_online(&from.required_for_online)?;
    let routes = parse_routes(&from.routes)?;
    let parent = DeviceName::new(&from.parent)?;
    let host = Host { addresses, routes, mtu, online, has_firewall_rules: !from.firewall_rules.is_empty() };
    Ok(Vlan { name, parent, id, host })
}

fn parse_wireguard(from: &NetworkWireguard) -> Result<Wireguard, FieldError> {
    let name = DeviceName::new(&from.name)?;
    let mtu = parse_mtu(from.mtu)?;
    check_roles(&from.roles)?;
    check_firewall(&from.firewall_rules)?;
    let addresses = parse_addresses(&from.addresses, mtu)?;
    let online = parse_online(&from.required_for_online)?;
    let private_key = match from.private_key.as_str() {
        "" => None,
        key => Some(Key::parse(key).ok_or(FieldError::PrivateKey)?),
    };
    let port = u16::try_from(from.port).map_err(|_| FieldError::Port(from.port))?;
    let routes = parse_routes(&from.routes)?;
    let peers = from
        .peers
        .iter()
        .enumerate()
        .map(|(index, peer)| parse_peer(peer).map_err(|problem| FieldError::Peer { index, problem }));
    Ok(Wireguard {
        name,
        port: (port != 0).then_some(port),
        private_key,
        peers: peers.collect::<Result<_, _>>()?,
        host: Host { addresses, routes, mtu, online, has_firewall_rules: !from.firewall_rules.is_empty() },
    })
}

fn parse_peer(from: &NetworkWireguardPeer) -> Result<Peer, String> {
    let public_key = Key::parse(&from.public_key).ok_or_else(|| format!("public key '{}' invalid", from.public_key))?;
    let allowed_ip = |(index, text): (usize, &String)| {
        text.parse().map_err(|_| format!("allowed IP {index} invalid IP address '{text}', must provide a CIDR mask"))
    };
    let allowed_ips = from.allowed_ips.iter().enumerate().map(allowed_ip).collect::<Result<_, _>>()?;
    let endpoint = (!from.endpoint.is_empty()).then(|| from.endpoint.clone());
    if let Some(endpoint) = &endpoint {
        let valid = endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse().is_ok_and(|port: u16| port != 0) && is_host(host.trim_start_matches('[').trim_end_matches(']'))
        });
        if !valid {
            return Err(format!("endpoint '{endpoint}' invalid"));
        }
    }
    let preshared_key = match from.preshared_key.as_str() {
        "" => None,
        key => Some(Key::parse(key).ok_or("preshared key invalid")?),
    };
    let persistent_keepalive = u16::try_from(from.persistent_keepalive)
        .map_err(|_| format!("persistent keepalive '{}' out of range", from.persistent_keepalive))?;
    Ok(Peer { public_key, allowed_ips, endpoint, preshared_key, persistent_keepalive })
}

fn parse_mtu(mtu: i64) -> Result<Option<u32>, FieldError> {
    match mtu {
        0 => Ok(None),
        1..=LARGEST_MTU => u32::try_from(mtu).map(Some).map_err(|_| FieldError::Mtu(mtu)),
        _ => Err(FieldError::Mtu(mtu)),
    }
}

fn check_roles(roles: &[String]) -> Result<(), FieldError> {
    let mut seen = BTreeSet::new();
    for role in roles {
        if !ROLES.contains(&role.as_str()) {
            return Err(FieldError::Role(role.clone()));
        }
        if !seen.insert(role) {
            return Err(FieldError::RepeatedRole(role.clone()));
        }
    }
    Ok(())
}

fn check_firewall(rules: &[NetworkFirewallRule]) -> Result<(), FieldError> {
    for (index, rule) in rules.iter().enumerate() {
        let problem = |problem: String| Err(FieldError::Firewall { index, problem });
        if !["accept", "drop", "reject"].contains(&rule.action.as_str()) {
            return problem(format!("invalid action '{}'", rule.action));
        }
        if !["", "tcp", "udp"].contains(&rule.protocol.as_str()) {
            return problem(format!("invalid protocol '{}'", rule.protocol));
        }
        if u16::try_from(rule.port).is_err() {
            return problem(format!("port '{}' out of range", rule.port));
        }
        if (rule.port == 0) != rule.protocol.is_empty() {
            return problem("protocol and port must be given together".into());
        }
        let source = &rule.source;
        if !source.is_empty() && source.parse::<IpAddr>().is_err() && source.parse::<Network>().is_err() {
            return problem(format!("invalid source '{source}'"));
        }
    }
    Ok(())
}

fn parse_addresses(addresses: &[String], mtu: Option<u32>) -> Result<Vec<AddressSource>, FieldError> {
    let parse = |(index, text): (usize, &String)| match text.as_str() {
        "dhcp4" => Ok(AddressSource::Dhcp4),
        "dhcp6" => Ok(AddressSource::Dhcp6),
        "slaac" => Ok(AddressSource::Slaac),
        literal => {
            literal.parse().map(AddressSource::Static).map_err(|_| FieldError::Address { index, value: text.clone() })
        }
    };
    let parsed = addresses.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let uses_ipv6 = parsed.iter().any(|source| match source {
        AddressSource::Dhcp6 | AddressSource::Slaac => true,
        AddressSource::Static(network) => network.address.is_ipv6(),
        AddressSource::Dhcp4 => false,
    });
    match mtu.map(i64::from) {
        Some(mtu) if uses_ipv6 && mtu < SMALLEST_MTU => Err(FieldError::Mtu(mtu)),
        _ => Ok(parsed),
    }
}

fn parse_online(rule: &str) -> Result<OnlineRule, FieldError> {
    Ok(match rule {
        "" | "any" => OnlineRule::Any,
        "ipv4" => OnlineRule::Ipv4,
        "ipv6" => OnlineRule::Ipv6,
        "both" => OnlineRule::Both,
        "no" => OnlineRule::No,
        other => return Err(FieldError::Online(other.to_owned())),
    })
}

fn parse_routes(routes: &[NetworkRoute]) -> Result<Vec<Route>, FieldError> {
    let parse = |(index, route): (usize, &NetworkRoute)| {
        let to = route.to.parse().map_err(|_| FieldError::RouteTo { index, value: route.to.clone() })?;
        let bad_gateway = || FieldError::RouteVia { index, value: route.via.clone() };
        let via = match route.via.as_str() {
            "dhcp4" => Gateway::Dhcp4,
            "slaac" => Gateway::Slaac,
            literal => Gateway::Address(literal.parse().map_err(|_| bad_gateway())?),
        };
        let route = Route { to, via, onlink: route.onlink };
        if route.is_consistent() { Ok(route) } else { Err(bad_gateway()) }
    };
    routes.iter().enumerate().map(parse).collect()
}

fn parse_mac(text: &str, macs: Macs) -> Result<MacAddress, FieldError> {
    if text.is_empty() {
        return Err(FieldError::NoMac);
    }
    let bad = || FieldError::Mac(text.to_owned());
    match text.parse::<MacAddress>() {
        Ok(mac) if mac.is_unicast() && MacAddress::from_octets(mac.octets()).is_some() => Ok(mac),
        // The value is thrown away: `check` only looks at the rest.
        Err(_) if macs == Macs::MayBeNames && is_link_name(text) => Ok(MacAddress::local([0; 6])),
        _ => Err(bad()),
    }
}

/// Whether the kernel could have a link of this name, alternative names included.
fn is_link_name(text: &str) -> bool {
    text.len() < 128 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'))
}

fn parse_vlan_tags(tags: &[i64]) -> Result<BTreeSet<u16>, FieldError> {
    let parse =
        |tag: &i64| u16::try_from(*tag).ok().filter(|tag| (1..=4094).contains(tag)).ok_or(FieldError::VlanTag(*tag));
    tags.iter().map(parse).collect()
}

fn parse_bridge(from: Option<&NetworkBridge>) -> Bridge {
    from.map_or_else(Bridge::default, |from| Bridge {
        disable_multicast_snooping: from.disable_multicast_snooping,
        stp: from.stp,
    })
}

fn parse_ethernet(from: Option<&NetworkEthernet>) -> Result<NetworkEthernet, FieldError> {
    let Some(ethernet) = from else { return Ok(NetworkEthernet::default()) };
    let bad = |key, value: &str| Err(FieldError::Ethernet { key, value: value.to_owned() });
    for mode in &ethernet.wakeonlan_modes {
        if !WAKE_MODES.contains(&mode.as_str()) {
            return bad("wakeonlan_modes", mode);
        }
    }
    let password = &ethernet.wakeonlan_password;
    if !password.is_empty() && password.parse::<MacAddress>().is_err() {
        return bad("wakeonlan_password", "(hidden)");
    }
    let rings = [
        ("rx_buffer_size", &ethernet.rx_buffer_size),
        ("rx_jumbo_buffer_size", &ethernet.rx_jumbo_buffer_size),
        ("rx_mini_buffer_size", &ethernet.rx_mini_buffer_size),
        ("tx_buffer_size", &ethernet.tx_buffer_size),
    ];
    for (key, size) in rings {
        let digits_only = size.bytes().all(|b| b.is_ascii_digit());
        if !size.is_empty() && size != "max" && !(digits_only && size.parse::<u32>().is_ok_and(|n| n > 0)) {
            return bad(key, size);
        }
    }
    Ok(ethernet.clone())
}

fn parse_bond_options(
    mode: BondMode,
    from: Option<&NetworkBondOptions>,
) -> Result<Vec<(&'static str, String)>, FieldError> {
    let default = NetworkBondOptions::default();
    let from = from.unwrap_or(&default);
    let milliseconds = |key, value: i64| match u32::try_from(value) {
        Ok(value) => Ok(format!("{value}ms")),
        Err(_) => Err(FieldError::Option { key, value: value.to_string() }),
    };
    let one_of = |key, value: &str, known: &[&str]| {
        if known.contains(&value) {
            Ok(value.to_owned())
        } else {
            Err(FieldError::Option { key, value: value.to_owned() })
        }
    };
    let mut lines = Vec::new();
    let is_lacp = mode == BondMode::Lacp;
    match (from.transmit_hash_policy.as_str(), is_lacp) {
        ("", true) => lines.push(("TransmitHashPolicy", "layer3+4".to_owned())),
        ("", false) => {}
        (policy, _) => lines.push(("TransmitHashPolicy", one_of("transmit_hash_policy", policy, &HASH_POLICIES)?)),
    }
    match (from.lacp_rate.as_str(), is_lacp) {
        ("", true) => lines.push(("LACPTransmitRate", "fast".to_owned())),
        ("", false) => {}
        (rate, true) => lines.push(("LACPTransmitRate", one_of("lacp_rate", rate, &["slow", "fast"])?)),
        (rate, false) => return Err(FieldError::Option { key: "lacp_rate", value: rate.to_owned() }),
    }
    if from.arp_interval != 0 {
        lines.push(("ARPIntervalSec", milliseconds("arp_interval", from.arp_interval)?));
    }
    for target in &from.arp_ip_targets {
        let target: Ipv4Addr =
            target.parse().map_err(|_| FieldError::Option { key: "arp_ip_targets", value: target.clone() })?;
        lines.push(("ARPIPTargets", target.to_string()));
    }
    // A bond without any monitoring keeps sending into a dead link. The driver
    // takes only one of the two ways.
    match from.mii_monitor_interval {
        0 if from.arp_interval != 0 => {}
        0 => lines.push(("MIIMonitorSec", "100ms".to_owned())),
        interval => lines.push(("MIIMonitorSec", milliseconds("mii_monitor_interval", interval)?)),
    }
    if from.up_delay != 0 {
        lines.push(("UpDelaySec", milliseconds("up_delay", from.up_delay)?));
    }
    if from.down_delay != 0 {
        lines.push(("DownDelaySec", milliseconds("down_delay", from.down_delay)?));
    }
    Ok(lines)
}

fn parse_dns(from: &NetworkDns) -> Result<Dns, ConfigError> {
    let setting = |field, value: &str, problem| ConfigError::Setting { field, value: value.to_owned(), problem };
    for (field, name) in [("hostname", &from.hostname), ("domain", &from.domain)] {
        if !name.is_empty() && !is_domain(name) {
            return Err(setting(field, name, "is not a valid name"));
        }
    }
    for domain in &from.search_domains {
        // networkd: "~" marks a domain that only steers queries.
        let bare = domain.strip_prefix('~').unwrap_or(domain);
        if !is_domain(bare) && bare != "." {
            return Err(setting("search_domains", domain, "is not a valid domain"));
        }
    }
    for server in &from.nameservers {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b".:%#[]_-".contains(&b);
        if server.is_empty() || !server.bytes().all(harmless) {
            return Err(setting("nameservers", server, "is not a valid server"));
        }
    }
    let hostname = match (from.hostname.as_str(), from.domain.as_str()) {
        ("", _) => None,
        (host, "") => Some(host.to_owned()),
        (host, domain) => Some(format!("{host}.{domain}")),
    };
    // HOST_NAME_MAX of Linux.
    if let Some(name) = hostname.as_deref().filter(|name| name.len() > 64) {
        return Err(setting("hostname", name, "is longer than 64 characters together with the domain"));
    }
    Ok(Dns {
        hostname,
        search_domains: from.search_domains.clone(),
        nameservers: from.nameservers.clone(),
        over_tls: from.dns_over_tls,
    })
}

fn parse_time(from: &NetworkTime) -> Result<Time, ConfigError> {
    let zone = &from.timezone;
    let harmless = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
    };
    if !zone.is_empty() && !zone.split('/').all(harmless) {
        return Err(ConfigError::Setting { field: "timezone", value: zone.clone(), problem: "is not a time zone" });
    }
    if let Some(server) = from.ntp_servers.iter().find(|server| !is_host(server)) {
        let value = server.clone();
        return Err(ConfigError::Setting { field: "ntp_servers", value, problem: "is not a host name or address" });
    }
    Ok(Time { timezone: (!zone.is_empty()).then(|| zone.clone()), ntp_servers: from.ntp_servers.clone() })
}

fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_domain(text)
}

fn is_domain(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}
