use std::collections::BTreeSet;

use api::v1::NetworkEthernet;

use crate::{
    MacAddress,
    address::{AddressSource, Key, Network, Route},
    names::{DeviceName, KernelName},
};

/// A wanted network that was checked as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Cards that are used on their own.
    pub interfaces: Vec<Interface>,
    /// Cards that are used as one.
    pub bonds: Vec<Bond>,
    /// 802.1Q devices.
    pub vlans: Vec<Vlan>,
    /// Tunnels.
    pub wireguard: Vec<Wireguard>,
    /// Names and resolvers.
    pub dns: Dns,
    /// Time zone and time servers.
    pub time: Time,
    /// A proxy is configured.
    pub has_proxy: bool,
}

/// Where traffic of the machine itself goes: addresses and routes of one
/// device.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Where addresses come from; empty: the machine has none here.
    pub addresses: Vec<AddressSource>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// In bytes, as wanted; `None` takes the usual one, or the one that DHCP
    /// offers.
    pub mtu: Option<u32>,
    /// When the device counts as online.
    pub online: OnlineRule,
    /// Rules for arriving traffic are configured.
    pub has_firewall_rules: bool,
}

impl Host {
    /// MTU of a device that names none.
    pub(crate) const USUAL_MTU: u32 = 1500;

    /// The MTU that the device starts with.
    pub fn mtu(&self) -> u32 {
        self.mtu.unwrap_or(Self::USUAL_MTU)
    }

    /// Whether DHCP may set the MTU, because nobody else wants one.
    pub(crate) fn takes_offered_mtu(&self) -> bool {
        self.mtu.is_none() && self.addresses.contains(&AddressSource::Dhcp4)
    }
}

/// Which address families make a device online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlineRule {
    /// It is not waited for.
    No,
    /// Either family.
    Any,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both families.
    Both,
}

/// Options of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bridge {
    /// Forward multicast everywhere.
    pub disable_multicast_snooping: bool,
    /// Spanning tree protocol.
    pub stp: bool,
}

/// What is set on a network card itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// Permanent address.
    pub hwaddr: MacAddress,
    /// Send and receive LLDP.
    pub lldp: bool,
    /// Checked hardware settings.
    pub ethernet: NetworkEthernet,
}

impl Card {
    /// The card's name once it is in use.
    pub fn device(&self) -> KernelName {
        KernelName::card(self.hwaddr)
    }
}

/// A card that is used on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Name of the bridge.
    pub name: DeviceName,
    /// The card.
    pub card: Card,
    /// The machine's own end.
    pub host: Host,
    /// VLANs that instances may use.
    pub vlan_tags: BTreeSet<u16>,
    /// Options of the bridge.
    pub bridge: Bridge,
    /// Only frames from the card's own address may leave.
    pub strict_hwaddr: bool,
}

/// Cards that are used as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Bond {
    /// Name of the bridge.
    pub name: DeviceName,
    /// How frames are spread.
    pub mode: BondMode,
    /// The cards; at least one.
    pub members: Vec<Card>,
    /// Address of the machine's own end.
    pub hwaddr: MacAddress,
    /// Checked options of the driver as lines of a file.
    pub options: Vec<(&'static str, String)>,
    /// The machine's own end.
    pub host: Host,
    /// VLANs that instances may use.
    pub vlan_tags: BTreeSet<u16>,
    /// Options of the bridge.
    pub bridge: Bridge,
}

/// How a bond spreads frames over its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the driver's names")]
pub enum BondMode {
    BalanceRr,
    ActiveBackup,
    BalanceXor,
    Broadcast,
    Lacp,
    BalanceTlb,
    BalanceAlb,
}

impl BondMode {
    const ALL: [Self; 7] = [
        Self::BalanceRr,
        Self::ActiveBackup,
        Self::BalanceXor,
        Self::Broadcast,
        Self::Lacp,
        Self::BalanceTlb,
        Self::BalanceAlb,
    ];

    /// The mode of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// The driver's name of the mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::BalanceRr => "balance-rr",
            Self::ActiveBackup => "active-backup",
            Self::BalanceXor => "balance-xor",
            Self::Broadcast => "broadcast",
            Self::Lacp => "802.3ad",
            Self::BalanceTlb => "balance-tlb",
            Self::BalanceAlb => "balance-alb",
        }
    }
}

/// An 802.1Q device.
#[derive(Debug, Clone, PartialEq)]
pub struct Vlan {
    /// Its own name.
    pub name: DeviceName,
    /// The interface or bond below it.
    pub parent: DeviceName,
    /// VLAN id.
    pub id: u16,
    /// The machine's own addresses on it.
    pub host: Host,
}

/// A tunnel.
#[derive(Debug, Clone, PartialEq)]
pub struct Wireguard {
    /// Its own name.
    pub name: DeviceName,
    /// UDP port; `None` lets the kernel choose.
    pub port: Option<u16>,
    /// `None` until one was made.
    pub private_key: Option<Key>,
    /// The other ends.
    pub peers: Vec<Peer>,
    /// The machine's own addresses on it.
    pub host: Host,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its key.
    pub public_key: Key,
    /// What is reached through it.
    pub allowed_ips: Vec<Network>,
    /// `host:port`.
    pub endpoint: Option<String>,
    /// Shared secret.
    pub preshared_key: Option<Key>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
}

/// Names and resolvers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Host name with domain; `None` takes the machine's identity.
    pub hostname: Option<String>,
    /// Search list.
    pub search_domains: Vec<String>,
    /// Servers.
    pub nameservers: Vec<String>,
    /// Strict DNS over TLS.
    pub over_tls: bool,
}

/// Time zone and time servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Time {
    /// IANA name; `None` leaves the zone alone.
    pub timezone: Option<String>,
    /// Servers; empty takes the system's default.
    pub ntp_servers: Vec<String>,
}
