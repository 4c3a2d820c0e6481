//! The kernel's view of the network as values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use async_trait::async_trait;
use netplan::{CardPlan, KernelName, MacAddress, Nic, ObservedLink};
use tokio::sync::watch;

/// The kernel did not answer, or refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KernelError {
    #[error("cannot talk to the kernel's network configuration")]
    Socket(#[source] std::io::Error),
    #[error("cannot list {what}")]
    List {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("cannot {action} of network card {card}")]
    Card {
        action: &'static str,
        card: MacAddress,
        #[source]
        source: rtnetlink::Error,
    },
}

/// What the service asks of the kernel.
#[async_trait]
pub(crate) trait Kernel: Send + Sync {
    /// Links, addresses and routes, no older than the last change.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, KernelError>;
    /// VLANs that pass each port of a bridge, by index of the port.
    async fn bridge_vlans(&self) -> Result<BTreeMap<u32, BTreeSet<u16>>, KernelError>;
    /// Gives a card its name, address and MTU.
    async fn set_up_card(&self, card: &CardPlan, hwaddr: MacAddress) -> Result<(), KernelError>;
    /// Counts the changes of links, addresses and routes.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Links, addresses and routes at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// In the kernel's order.
    pub addresses: Vec<Address>,
    /// Routes of the main table that go through a gateway.
    pub routes: Vec<RouteEntry>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub alternative_names: Vec<String>,
    /// Kind of a virtual device (`bridge`, `veth`, …); empty for hardware.
    pub kind: String,
    pub is_ethernet: bool,
    /// There is a device of a bus behind it.
    pub is_physical: bool,
    pub is_wireless: bool,
    pub address: Option<MacAddress>,
    pub permanent_address: Option<MacAddress>,
    pub mtu: u32,
    pub max_mtu: u32,
    /// Index of the bridge or bond it belongs to.
    pub controller: Option<u32>,
    pub has_carrier: bool,
    /// Megabits per second as the driver words it; `None` when unreadable.
    pub speed: Option<String>,
    /// Partner's system address of a bond in mode 802.3ad.
    pub lacp_partner: Option<MacAddress>,
}

/// One address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub link: u32,
    pub address: IpAddr,
    /// Not in use (yet): its uniqueness is not proven.
    pub is_tentative: bool,
    /// Should not be chosen: temporary, or past its preferred lifetime.
    pub is_fleeting: bool,
}

/// One route through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub link: u32,
    /// `None` is the default route.
    pub to: Option<(IpAddr, u8)>,
    pub via: IpAddr,
}

impl Snapshot {
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The card with this permanent address.
    pub(crate) fn card(&self, hwaddr: MacAddress) -> Option<&Link> {
        self.links.values().find(|link| link.is_physical && link.hardware_address() == Some(hwaddr))
    }

    /// Addresses that can be used, IPv4 first, the steady ones before others.
    pub(crate) fn addresses_of(&self, link: u32) -> Vec<IpAddr> {
        let usable =
            |address: &&Address| address.link == link && !address.is_tentative && !is_link_local(address.address);
        let mut found: Vec<_> = self.addresses.iter().filter(usable).collect();
        found.sort_by_key(|address| (address.address.is_ipv6(), address.is_fleeting));
        found.into_iter().map(|address| address.address).collect()
    }

    /// Physical Ethernet cards that the system can use.
    pub(crate) fn nics(&self) -> Vec<Nic> {
        let usable = self.links.values().filter(|link| link.is_physical && link.is_ethernet && !link.is_wireless);
        usable
            .filter_map(|link| {
                let address = link.address?;
                Some(Nic {
                    index: link.index,
                    name: link.name.clone(),
                    hwaddr: link.hardware_address()?,
                    address,
                    mtu: link.mtu,
                    max_mtu: link.max_mtu,
                    alternative_names: link.alternative_names.clone(),
                })
            })
            .collect()
    }

    /// The links as the plan compares them.
    pub(crate) fn observed(&self, vlans: &BTreeMap<u32, BTreeSet<u16>>) -> Vec<ObservedLink> {
        let observed = |link: &Link| ObservedLink {
            name: link.name.clone(),
            kind: link.kind.clone(),
            controller: link.controller.and_then(|index| self.links.get(&index)).map(|link| link.name.clone()),
            address: link.address,
            mtu: link.mtu,
            vlans: vlans.get(&link.index).cloned(),
        };
        self.links.values().map(observed).collect()
    }
}

impl Link {
    /// The permanent address. A card whose driver names none is known by the
    /// name that it was given, before that by its current address.
    pub(crate) fn hardware_address(&self) -> Option<MacAddress> {
        self.permanent_address.or_else(|| KernelName::hwaddr_of_card(&self.name)).or(self.address)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address { link: 1, address: text.parse().unwrap(), is_tentative: false, is_fleeting: false }
    }

    #[test]
    fn usable_addresses_come_in_a_steady_order() {
        let snapshot = Snapshot {
            addresses: vec![
                Address { is_fleeting: true, ..address("2001:db8::bad") },
                address("2001:db8::1"),
                address("fe80::1"),
                Address { is_tentative: true, ..address("2001:db8::2") },
                address("169.254.1.1"),
                address("198.51.100.7"),
                Address { link: 2, ..address("192.0.2.1") },
            ],
            ..Default::default()
        };
        let shown: Vec<_> = snapshot.addresses_of(1).iter().map(IpAddr::to_string).collect();
        assert_eq!(shown, ["198.51.100.7", "2001:db8::1", "2001:db8::bad"]);
    }

    #[test]
    fn cards_are_physical_ethernet_with_wires() {
        let mac = MacAddress::local([1; 6]);
        let link =
            |index| Link { index, is_physical: true, is_ethernet: true, address: Some(mac), ..Default::default() };
        let links = [
            link(1),
            Link { is_wireless: true, ..link(2) },
            Link { is_ethernet: false, ..link(3) },
            Link { is_physical: false, ..link(4) },
            Link { address: None, ..link(5) },
        ];
        let snapshot = Snapshot { links: links.into_iter().map(|l| (l.index, l)).collect(), ..Default::default() };
        assert_eq!(snapshot.nics().iter().map(|nic| nic.index).collect::<Vec<_>>(), [1]);
    }
}
