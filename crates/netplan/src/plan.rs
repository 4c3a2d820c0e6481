use std::collections::{BTreeMap, BTreeSet};

use crate::{
    MacAddress,
    desired::{Bond, Card, Desired, Host, Interface, OnlineRule},
    names::{DeviceName, KernelName},
    render::{self, File},
    verify::ExpectedLink,
};

/// Largest MTU that cards and bridges are run with.
const LARGEST_MTU: u32 = 9000;
/// Cards whose driver names no limit: plain Ethernet.
const ETHERNET_MTU: u32 = 1500;

/// A physical Ethernet card of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Index of the link.
    pub index: u32,
    /// Current name.
    pub name: String,
    /// Permanent address.
    pub hwaddr: MacAddress,
    /// Current address.
    pub address: MacAddress,
    /// Current MTU.
    pub mtu: u32,
    /// The driver's limit; 0 when it names none.
    pub max_mtu: u32,
    /// Alternative names.
    pub alternative_names: Vec<String>,
}

impl Nic {
    fn best_mtu(&self) -> u32 {
        match self.max_mtu {
            0 => ETHERNET_MTU,
            limit => limit.min(LARGEST_MTU),
        }
    }
}

/// Everything that makes a wanted network real.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Files for networkd and udev by name. What is not listed must not be there.
    pub files: BTreeMap<String, File>,
    /// Attributes of the cards that are in use, before networkd takes them over.
    pub cards: Vec<CardPlan>,
    /// What the kernel must show afterwards.
    pub links: Vec<ExpectedLink>,
    /// Devices that the start waits for.
    pub online: Vec<OnlineDevice>,
    /// Wanted cards that are not there. What needs them was left out.
    pub missing: Vec<MacAddress>,
    /// What was asked for and is not done.
    pub unsupported: Vec<Unsupported>,
}

/// What one card must look like. udev does the same when the card is plugged
/// in later; the values here are for cards that are there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardPlan {
    /// Index of the link.
    pub index: u32,
    /// Name it has now.
    pub current_name: String,
    /// Name it must have.
    pub name: KernelName,
    /// MTU it must have.
    pub mtu: u32,
    /// It must give up its permanent address, because the machine's own end of
    /// the bridge takes that over. Any other address that it has stays.
    pub needs_random_address: bool,
    /// Alternative names that a wanted device has.
    pub names_to_drop: Vec<String>,
}

impl CardPlan {
    /// Whether the card was seen in another state than the wanted one.
    pub fn is_pending(&self, nics: &[Nic]) -> bool {
        nics.iter().find(|nic| nic.index == self.index).is_none_or(|nic| {
            nic.name != self.name.as_str()
                || nic.mtu != self.mtu
                || (self.needs_random_address && nic.address == nic.hwaddr)
                || !self.names_to_drop.is_empty()
        })
    }
}

/// A device that counts for being online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineDevice {
    /// The device that holds the addresses.
    pub device: KernelName,
    /// Which families it needs.
    pub rule: OnlineRule,
}

/// A setting that this release knows and does not act on yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named after the settings")]
pub enum Unsupported {
    FirewallRules,
    StrictHwaddr,
    Proxy,
    EnergyEfficientEthernet,
}

impl Unsupported {
    /// One sentence for the operator.
    pub fn text(self) -> &'static str {
        match self {
            Self::FirewallRules => "firewall rules are configured, but this version does not apply them",
            Self::StrictHwaddr => "strict_hwaddr is configured, but this version does not enforce it",
            Self::Proxy => "a proxy is configured, but this version does not run one",
            Self::EnergyEfficientEthernet => {
                "disable_energy_efficient is configured, but this version does not switch it off"
            }
        }
    }
}

/// The plan for a wanted network on a machine with these cards.
pub fn plan(desired: &Desired, nics: &[Nic]) -> Plan {
    let mut planner = Planner {
        desired,
        nics,
        plan: Plan {
            files: BTreeMap::new(),
            cards: Vec::new(),
            links: Vec::new(),
            online: Vec::new(),
            missing: Vec::new(),
            unsupported: unsupported(desired),
        },
        metric: 100,
    };
    let mut built = BTreeSet::new();
    for interface in &desired.interfaces {
        if planner.interface(interface) {
            built.insert(interface.name.clone());
        }
    }
    for bond in &desired.bonds {
        if planner.bond(bond) {
            built.insert(bond.name.clone());
        }
    }
    for vlan in desired.vlans.iter().filter(|vlan| built.contains(&vlan.parent)) {
        let device = vlan.name.device();
        planner.add(format!("12-{device}.netdev"), render::vlan_netdev(vlan));
        let metric = planner.next_metric(&vlan.host);
        let network = render::host_network(&device, &vlan.host, Some(vlan.host.mtu()), &[], desired, metric);
        planner.add(format!("22-{device}.network"), network);
        planner.plan.links.push(ExpectedLink::new(&device, "vlan").mtu(Some(vlan.host.mtu())));
        planner.wait_for(&device, &vlan.host);
    }
    for tunnel in &desired.wireguard {
        let device = tunnel.name.device();
        planner.add(format!("13-{device}.netdev"), render::wireguard_netdev(tunnel));
        planner.add(format!("23-{device}.network"), render::wireguard_network(tunnel));
        planner.plan.links.push(ExpectedLink::new(&device, "wireguard").mtu(Some(tunnel.host.mtu())));
    }
    planner.plan
}

struct Planner<'a> {
    desired: &'a Desired,
    nics: &'a [Nic],
    plan: Plan,
    metric: u32,
}

impl<'a> Planner<'a> {
    fn interface(&mut self, interface: &Interface) -> bool {
        let Some(nic) = self.find(&interface.card) else { return false };
        let largest = nic.best_mtu();
        let (name, hwaddr) = (&interface.name, interface.card.hwaddr);
        let (bridge, host, card) = (name.device(), name.host_end(), interface.card.device());
        let inner = KernelName::bridge_end(hwaddr);
        let tags = self.tags(name, &interface.vlan_tags);
        let mtu = host_mtu(&interface.host, largest);

        self.card(&interface.card, nic, largest, true);
        self.add(format!("00-{card}.link"), render::link(&interface.card, largest, render::Address::Random));
        self.add(format!("10-{bridge}.netdev"), render::bridge_netdev(&bridge, interface.bridge));
        self.add(format!("10-{host}.netdev"), render::veth_netdev(&host, &inner, hwaddr));
        self.host(&host, name, &interface.host, mtu, 20);
        self.add(format!("20-{inner}.network"), render::port_network(&inner, &bridge, largest, &tags));
        self.add(format!("20-{card}.network"), render::card_network(&interface.card, &bridge, largest, &tags));
        self.add(format!("20-{bridge}.network"), render::bridge_network(&bridge, largest));

        self.expect_bridge(&bridge, &host, &inner, hwaddr, mtu, &tags);
        self.plan.links.push(ExpectedLink::new(&card, "").controller(&bridge).mtu(Some(largest)).vlans(&tags));
        true
    }

    fn bond(&mut self, bond: &Bond) -> bool {
        let members: Vec<_> = bond.members.iter().filter_map(|card| Some((card, self.find(card)?))).collect();
        let Some(largest) = members.iter().map(|(_, nic)| nic.best_mtu()).min() else { return false };
        let (name, hwaddr) = (&bond.name, bond.hwaddr);
        let (bridge, host, device) = (name.device(), name.host_end(), name.bond());
        let inner = KernelName::bridge_end(hwaddr);
        let tags = self.tags(name, &bond.vlan_tags);
        let mtu = host_mtu(&bond.host, largest);

        for (index, (card, nic)) in members.into_iter().enumerate() {
            let kernel = card.device();
            let own_mtu = nic.best_mtu();
            self.card(card, nic, own_mtu, false);
            self.add(format!("01-{kernel}.link"), render::link(card, own_mtu, render::Address::Permanent));
            self.add(format!("21-{device}-dev{index}.network"), render::member_network(card, &device, own_mtu));
            self.plan.links.push(ExpectedLink::new(&kernel, "").controller(&device));
        }
        self.add(format!("11-{device}.netdev"), render::bond_netdev(&device, bond));
        self.add(format!("11-{bridge}.netdev"), render::bridge_netdev(&bridge, bond.bridge));
        self.add(format!("11-{host}.netdev"), render::veth_netdev(&host, &inner, hwaddr));
        self.host(&host, name, &bond.host, mtu, 21);
        self.add(format!("21-{inner}.network"), render::port_network(&inner, &bridge, largest, &tags));
        self.add(format!("21-{device}.network"), render::bond_network(&device, &bridge, largest, &tags));
        self.add(format!("21-{bridge}.network"), render::bridge_network(&bridge, largest));

        self.expect_bridge(&bridge, &host, &inner, hwaddr, mtu, &tags);
        self.plan.links.push(ExpectedLink::new(&device, "bond").controller(&bridge).vlans(&tags));
        true
    }

    /// The card on this machine; one that is not there is noted.
    fn find(&mut self, card: &Card) -> Option<&'a Nic> {
        let found = self.nics.iter().find(|nic| nic.hwaddr == card.hwaddr);
        if found.is_none() {
            self.plan.missing.push(card.hwaddr);
        }
        found
    }

    fn card(&mut self, card: &Card, nic: &Nic, mtu: u32, needs_random_address: bool) {
        let wanted: BTreeSet<&str> = self.names_in_use().collect();
        let names_to_drop =
            nic.alternative_names.iter().filter(|name| wanted.contains(name.as_str())).cloned().collect();
        self.plan.cards.push(CardPlan {
            index: nic.index,
            current_name: nic.name.clone(),
            name: card.device(),
            mtu,
            needs_random_address,
            names_to_drop,
        });
    }

    fn names_in_use(&self) -> impl Iterator<Item = &str> {
        let desired = self.desired;
        let names = desired.interfaces.iter().map(|i| &i.name).chain(desired.bonds.iter().map(|b| &b.name));
        let others = desired.vlans.iter().map(|v| &v.name).chain(desired.wireguard.iter().map(|w| &w.name));
        names.chain(others).map(DeviceName::as_str)
    }

    fn host(&mut self, device: &KernelName, name: &DeviceName, host: &Host, mtu: Option<u32>, order: u8) {
        let vlans: Vec<_> =
            self.desired.vlans.iter().filter(|vlan| vlan.parent == *name).map(|vlan| vlan.name.device()).collect();
        let metric = self.next_metric(host);
        let network = render::host_network(device, host, mtu, &vlans, self.desired, metric);
        self.add(format!("{order}-{device}.network"), network);
        self.wait_for(device, host);
    }

    fn expect_bridge(
        &mut self,
        bridge: &KernelName,
        host: &KernelName,
        inner: &KernelName,
        hwaddr: MacAddress,
        mtu: Option<u32>,
        tags: &BTreeSet<u16>,
    ) {
        self.plan.links.extend([
            ExpectedLink::new(bridge, "bridge"),
            ExpectedLink::new(host, "veth").address(hwaddr).mtu(mtu),
            ExpectedLink::new(inner, "veth").controller(bridge).vlans(tags),
        ]);
    }

    /// VLANs that pass the bridge of a device: those for instances, and those
    /// of the machine itself.
    fn tags(&self, name: &DeviceName, for_instances: &BTreeSet<u16>) -> BTreeSet<u16> {
        let own = self.desired.vlans.iter().filter(|vlan| vlan.parent == *name).map(|vlan| vlan.id);
        // Id 0 is priority tagging, which no bridge filters.
        for_instances.iter().copied().chain(own).filter(|id| *id != 0).collect()
    }

    /// Two uplinks with default routes need different metrics.
    fn next_metric(&mut self, host: &Host) -> u32 {
        let metric = self.metric;
        if !host.addresses.is_empty() {
            self.metric += 10;
        }
        metric
    }

    fn wait_for(&mut self, device: &KernelName, host: &Host) {
        if !host.addresses.is_empty() && host.online != OnlineRule::No {
            self.plan.online.push(OnlineDevice { device: device.clone(), rule: host.online });
        }
    }

    fn add(&mut self, name: String, file: File) {
        self.plan.files.insert(name, file);
    }
}

/// MTU of the machine's own end, which cannot be larger than what the cards do;
/// `None` leaves it to DHCP.
fn host_mtu(host: &Host, largest: u32) -> Option<u32> {
    (!host.takes_offered_mtu()).then(|| host.mtu().min(largest))
}

fn unsupported(desired: &Desired) -> Vec<Unsupported> {
    let mut found = BTreeSet::new();
    let hosts = desired.interfaces.iter().map(|i| &i.host).chain(desired.bonds.iter().map(|b| &b.host));
    let others = desired.vlans.iter().map(|v| &v.host).chain(desired.wireguard.iter().map(|w| &w.host));
    if hosts.chain(others).any(|host| host.has_firewall_rules) {
        found.insert(Unsupported::FirewallRules);
    }
    if desired.interfaces.iter().any(|interface| interface.strict_hwaddr) {
        found.insert(Unsupported::StrictHwaddr);
    }
    if desired.has_proxy {
        found.insert(Unsupported::Proxy);
    }
    let cards = desired.interfaces.iter().map(|i| &i.card).chain(desired.bonds.iter().flat_map(|b| &b.members));
    if cards.into_iter().any(|card| card.ethernet.disable_energy_efficient) {
        found.insert(Unsupported::EnergyEfficientEthernet);
    }
    found.into_iter().collect()
}
