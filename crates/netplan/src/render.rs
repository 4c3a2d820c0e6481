//! Files of systemd.link(5), systemd.netdev(5) and systemd.network(5).

use std::{collections::BTreeSet, fmt::Display, fmt::Write as _};

use crate::{
    MacAddress,
    address::{AddressSource, Gateway, Route},
    desired::{Bond, Bridge, Card, Desired, Host, OnlineRule, Vlan, Wireguard},
    names::KernelName,
};

/// A file for networkd or udev.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    text: String,
    secret: bool,
    section: &'static str,
}

impl File {
    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds keys: readable for networkd, and not for everybody.
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    fn new() -> Self {
        Self { text: String::new(), secret: false, section: "" }
    }

    /// Starts a new section even if one of that name is open.
    fn section(&mut self, name: &'static str) -> &mut Self {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.write(format_args!("{gap}[{name}]\n"));
        self.section = name;
        self
    }

    fn set(&mut self, key: &str, value: impl Display) -> &mut Self {
        let start = self.text.len();
        self.write(format_args!("{key}={value}"));
        debug_assert!(!self.text[start..].contains(['\n', '\r']), "values were checked to be one line");
        self.text.push('\n');
        self
    }

    fn set_if(&mut self, condition: bool, key: &str, value: impl Display) -> &mut Self {
        if condition { self.set(key, value) } else { self }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a string does not fail");
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(if self.secret { "(hidden)" } else { &self.text })
    }
}

/// Which address a card runs with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Address {
    /// Its own.
    Permanent,
    /// A random one: its own is the one of the machine's end of the bridge.
    Random,
}

pub(crate) fn link(card: &Card, mtu: u32, address: Address) -> File {
    let ethernet = &card.ethernet;
    let mut file = File::new();
    file.section("Match").set("PermanentMACAddress", card.hwaddr);
    file.section("Link")
        .set_if(address == Address::Random, "MACAddressPolicy", "random")
        .set("NamePolicy", "")
        .set("Name", card.device())
        .set("MTUBytes", mtu)
        .set_if(ethernet.disable_gro, "GenericReceiveOffload", false)
        .set_if(ethernet.disable_gro, "GenericReceiveOffloadHardware", false)
        .set_if(ethernet.disable_gso, "GenericSegmentationOffload", false)
        .set_if(ethernet.disable_ipv4_tso, "TCPSegmentationOffload", false)
        .set_if(ethernet.disable_ipv6_tso, "TCP6SegmentationOffload", false);
    if ethernet.wakeonlan {
        let modes = &ethernet.wakeonlan_modes;
        file.set_if(modes.is_empty(), "WakeOnLan", "magic");
        for mode in modes {
            file.set("WakeOnLan", mode);
        }
        let password = &ethernet.wakeonlan_password;
        let needed = modes.iter().any(|mode| mode == "secureon") && !password.is_empty();
        // udev reads it as root; the password travels in clear on the wire anyway, but need not be read here.
        file.secret = needed;
        file.set_if(needed, "WakeOnLanPassword", password);
    }
    file.set_if(!ethernet.rx_buffer_size.is_empty(), "RxBufferSize", &ethernet.rx_buffer_size)
        .set_if(!ethernet.rx_mini_buffer_size.is_empty(), "RxMiniBufferSize", &ethernet.rx_mini_buffer_size)
        .set_if(!ethernet.rx_jumbo_buffer_size.is_empty(), "RxJumboBufferSize", &ethernet.rx_jumbo_buffer_size)
        .set_if(!ethernet.tx_buffer_size.is_empty(), "TxBufferSize", &ethernet.tx_buffer_size);
    if ethernet.disable_energy_efficient {
        file.section("EnergyEfficientEthernet").set("Enable", false);
    }
    file
}

pub(crate) fn bridge_netdev(device: &KernelName, bridge: Bridge) -> File {
    let mut file = netdev(device, "bridge");
    file.section("Bridge").set("VLANFiltering", true).set_if(bridge.stp, "STP", true).set_if(
        bridge.disable_multicast_snooping,
        "MulticastSnooping",
        false,
    );
    file
}

pub(crate) fn veth_netdev(host: &KernelName, inner: &KernelName, hwaddr: MacAddress) -> File {
    let mut file = netdev(host, "veth");
    file.set("MACAddress", hwaddr);
    file.section("Peer").set("Name", inner);
    file
}

pub(crate) fn bond_netdev(device: &KernelName, bond: &Bond) -> File {
    let mut file = netdev(device, "bond");
    file.section("Bond").set("Mode", bond.mode.name());
    for (key, value) in &bond.options {
        file.set(key, value);
    }
    file
}

pub(crate) fn vlan_netdev(vlan: &Vlan) -> File {
    let mut file = netdev(&vlan.name.device(), "vlan");
    file.section("VLAN").set("Id", vlan.id);
    file
}

pub(crate) fn wireguard_netdev(tunnel: &Wireguard) -> File {
    let mut file = netdev(&tunnel.name.device(), "wireguard");
    file.secret = true;
    file.section("WireGuard");
    if let Some(key) = &tunnel.private_key {
        file.set("PrivateKey", key.to_base64());
    }
    if let Some(port) = tunnel.port {
        file.set("ListenPort", port);
    }
    for peer in &tunnel.peers {
        file.section("WireGuardPeer").set("PublicKey", peer.public_key.to_base64());
        for network in &peer.allowed_ips {
            file.set("AllowedIPs", network);
        }
        if let Some(key) = &peer.preshared_key {
            file.set("PresharedKey", key.to_base64());
        }
        if let Some(endpoint) = &peer.endpoint {
            file.set("Endpoint", endpoint);
        }
        file.set_if(peer.persistent_keepalive > 0, "PersistentKeepalive", peer.persistent_keepalive);
    }
    file
}

/// A device with the machine's own addresses.
pub(crate) fn host_network(
    device: &KernelName,
    host: &Host,
    mtu: Option<u32>,
    vlans: &[KernelName],
    desired: &Desired,
    metric: u32,
) -> File {
    let mut file = network(device);
    let has_addresses = !host.addresses.is_empty();
    file.section("Link");
    match host.online {
        _ if !has_addresses => file.set("RequiredForOnline", "no"),
        OnlineRule::No => file.set("RequiredForOnline", "no"),
        rule => file.set("RequiredForOnline", "yes").set("RequiredFamilyForOnline", family(rule)),
    };
    if let Some(mtu) = mtu {
        file.set("MTUBytes", mtu);
    }
    // networkd warns about an offered MTU next to a wanted one, and ignores it.
    file.section("DHCP").set("ClientIdentifier", "mac").set("RouteMetric", metric).set("UseMTU", mtu.is_none());
    file.section("DHCPv6").set("WithoutRA", "solicit");
    file.section("Network");
    for vlan in vlans {
        file.set("VLAN", vlan);
    }
    let dns = &desired.dns;
    file.set_if(!dns.search_domains.is_empty(), "Domains", dns.search_domains.join(" "));
    for server in &dns.nameservers {
        file.set("DNS", server);
    }
    file.set_if(dns.over_tls, "DNSOverTLS", "yes");
    for server in &desired.time.ntp_servers {
        file.set("NTP", server);
    }
    addresses(&mut file, host);
    routes(&mut file, &host.routes);
    file
}

pub(crate) fn wireguard_network(tunnel: &Wireguard) -> File {
    let mut file = network(&tunnel.name.device());
    file.section("Link").set("MTUBytes", tunnel.host.mtu());
    file.section("Network");
    addresses(&mut file, &tunnel.host);
    routes(&mut file, &tunnel.host.routes);
    file
}

/// A port of a bridge that is nothing else.
pub(crate) fn port_network(port: &KernelName, bridge: &KernelName, mtu: u32, vlans: &BTreeSet<u16>) -> File {
    let mut file = network(port);
    file.section("Link").set("MTUBytes", mtu);
    file.section("Network").set("Bridge", bridge);
    bridge_vlans(&mut file, vlans);
    file
}

pub(crate) fn card_network(card: &Card, bridge: &KernelName, mtu: u32, vlans: &BTreeSet<u16>) -> File {
    let mut file = network(&card.device());
    file.section("Link").set("MTUBytes", mtu);
    file.section("Network").set("LLDP", card.lldp).set("EmitLLDP", card.lldp).set("Bridge", bridge);
    bridge_vlans(&mut file, vlans);
    file
}

pub(crate) fn member_network(card: &Card, bond: &KernelName, mtu: u32) -> File {
    let mut file = network(&card.device());
    file.section("Link").set("MTUBytes", mtu);
    file.section("Network").set("LLDP", card.lldp).set("EmitLLDP", card.lldp).set("Bond", bond);
    file
}

pub(crate) fn bond_network(device: &KernelName, bridge: &KernelName, mtu: u32, vlans: &BTreeSet<u16>) -> File {
    let mut file = bridge_network(device, mtu);
    file.set("Bridge", bridge);
    bridge_vlans(&mut file, vlans);
    file
}

pub(crate) fn bridge_network(device: &KernelName, mtu: u32) -> File {
    let mut file = network(device);
    file.section("Link").set("MTUBytes", mtu);
    file.section("Network").set("LinkLocalAddressing", "no").set("ConfigureWithoutCarrier", "yes");
    file
}

fn netdev(device: &KernelName, kind: &str) -> File {
    let mut file = File::new();
    file.section("NetDev").set("Name", device).set("Kind", kind);
    file
}

fn network(device: &KernelName) -> File {
    let mut file = File::new();
    file.section("Match").set("Name", device);
    file
}

fn addresses(file: &mut File, host: &Host) {
    let has = |source| host.addresses.contains(&source);
    let none = host.addresses.is_empty();
    file.set("LinkLocalAddressing", if none { "no" } else { "ipv6" });
    file.set_if(none, "ConfigureWithoutCarrier", "yes");
    for source in &host.addresses {
        if let AddressSource::Static(address) = source {
            file.set("Address", address);
        }
    }
    file.set("IPv6AcceptRA", has(AddressSource::Slaac) || has(AddressSource::Dhcp6));
    match (has(AddressSource::Dhcp4), has(AddressSource::Dhcp6)) {
        (true, true) => file.set("DHCP", "yes"),
        (true, false) => file.set("DHCP", "ipv4"),
        (false, true) => file.set("DHCP", "ipv6"),
        (false, false) => file,
    };
}

fn routes(file: &mut File, routes: &[Route]) {
    for route in routes {
        file.section("Route");
        match route.via {
            Gateway::Dhcp4 => file.set("Gateway", "_dhcp4"),
            Gateway::Slaac => file.set("Gateway", "_ipv6ra"),
            Gateway::Address(gateway) => file.set("Gateway", gateway),
        };
        file.set("Destination", route.to).set_if(route.onlink, "GatewayOnLink", "yes");
    }
}

fn bridge_vlans(file: &mut File, vlans: &BTreeSet<u16>) {
    for vlan in vlans {
        file.section("BridgeVLAN").set("VLAN", vlan);
    }
}

fn family(rule: OnlineRule) -> &'static str {
    match rule {
        OnlineRule::Ipv4 => "ipv4",
        OnlineRule::Ipv6 => "ipv6",
        OnlineRule::Both => "both",
        OnlineRule::Any | OnlineRule::No => "any",
    }
}
