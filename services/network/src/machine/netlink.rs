//! The real kernel, through rtnetlink.
//!
//! Events only say that something changed; what it is now comes from a dump.
//! The kernel does not report every route that goes away with its link or
//! address, so following the events one by one would end in a wrong picture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use netplan::{CardPlan, MacAddress};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::{
            AfSpecBridge, BondAdInfo, InfoBond, InfoData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage, Prop,
        },
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
    },
    sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::sync::{Mutex, watch};

use super::{
    Roots,
    kernel::{Address, Kernel, KernelError, Link, RouteEntry, Snapshot},
};

/// How long after an event the picture is refreshed when nobody asks for it.
/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(250);

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`
/// and `RTMGRP_IPV6_ROUTE` of rtnetlink(7).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// The kernel's network tables with a copy that is as old as the last change.
pub(crate) struct Netlink {
    handle: Handle,
    changes: watch::Sender<u64>,
    copy: Mutex<Option<(u64, Arc<Snapshot>)>>,
    roots: Roots,
}

impl Netlink {
    /// Connects, and starts to follow changes; must run inside the runtime.
    pub(crate) fn open(roots: Roots) -> Result<Arc<Self>, KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(KernelError::Socket)?;
        tokio::spawn(connection);
        let mut events = TokioSocket::new(NETLINK_ROUTE).map_err(KernelError::Socket)?;
        events.socket_mut().bind(&SocketAddr::new(0, GROUPS)).map_err(KernelError::Socket)?;
        let kernel = Arc::new(Self { handle, changes: watch::Sender::new(0), copy: Mutex::new(None), roots });
        tokio::spawn(count(events, kernel.changes.clone()));
        tokio::spawn(refresh_after_changes(Arc::downgrade(&kernel)));
        Ok(kernel)
    }

    async fn read(&self, before: Option<&Snapshot>) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot::default();
        let request = self.handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let mut messages = std::pin::pin!(request.execute());
        while let Some(message) = messages.try_next().await.map_err(|source| list("links", source))? {
            let mut link = link(&message);
            self.look_up(&mut link, before);
            snapshot.links.insert(link.index, link);
        }
        let mut messages = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) = messages.try_next().await.map_err(|source| list("addresses", source))? {
            snapshot.addresses.extend(address(&message));
        }
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for request in [v4, v6] {
            let mut messages = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = messages.try_next().await.map_err(|source| list("routes", source))? {
                snapshot.routes.extend(routes(&message));
            }
        }
        Ok(snapshot)
    }

    /// Adds what only sysfs knows.
    fn look_up(&self, link: &mut Link, before: Option<&Snapshot>) {
        let folder = self.roots.sys.join("class/net").join(&link.name);
        // What a link is never changes, and there may be hundreds of instances' links.
        match before.and_then(|snapshot| snapshot.links.get(&link.index)).filter(|known| known.kind == link.kind) {
            Some(known) => {
                link.is_physical = known.is_physical;
                link.is_wireless = known.is_wireless;
            }
            None => {
                link.is_physical = folder.join("device").exists();
                link.is_wireless = folder.join("phy80211").exists();
            }
        }
        if link.is_physical || matches!(link.kind.as_str(), "bridge" | "bond") {
            // Unreadable while the link is down.
            link.speed = fs::read_to_string(folder.join("speed")).ok().map(|speed| speed.trim().to_owned());
        }
    }

    async fn change(&self, card: &CardPlan, hwaddr: MacAddress, change: Change) -> Result<(), KernelError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(card.index);
        let (action, message) = match change {
            Change::Down => ("stop the link", message.down()),
            Change::Name => ("change the name", message.name(card.name.as_str().to_owned())),
            Change::Address(address) => ("change the address", message.address(address.octets().to_vec())),
            Change::Mtu => ("change the MTU", message.mtu(card.mtu)),
        };
        let request = self.handle.link().change(message.build());
        request.execute().await.map_err(|source| KernelError::Card { action, card: hwaddr, source })
    }
}

enum Change {
    Down,
    Name,
    Address(MacAddress),
    Mtu,
}

#[async_trait]
impl Kernel for Netlink {
    async fn snapshot(&self) -> Result<Arc<Snapshot>, KernelError> {
        let mut copy = self.copy.lock().await;
        let now = *self.changes.borrow();
        if let Some((moment, snapshot)) = copy.as_ref().filter(|(moment, _)| *moment == now) {
            let _ = moment;
            return Ok(snapshot.clone());
        }
        // A change during the dump counts after `now`, so the next call reads again.
        let snapshot = Arc::new(self.read(copy.as_ref().map(|(_, before)| before.as_ref())).await?);
        *copy = Some((now, snapshot.clone()));
        Ok(snapshot)
    }

    async fn bridge_vlans(&self) -> Result<BTreeMap<u32, BTreeSet<u16>>, KernelError> {
        let request = self.handle.link().get().set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::Brvlan]);
        let mut messages = std::pin::pin!(request.execute());
        let mut vlans = BTreeMap::new();
        while let Some(message) = messages.try_next().await.map_err(|source| list("bridge ports", source))? {
            vlans.insert(message.header.index, passing_vlans(&message));
        }
        Ok(vlans)
    }

    async fn set_up_card(&self, card: &CardPlan, hwaddr: MacAddress) -> Result<(), KernelError> {
        let snapshot = self.snapshot().await?;
        let now = snapshot.links.get(&card.index);
        if !card.names_to_drop.is_empty() {
            let names: Vec<_> = card.names_to_drop.iter().map(String::as_str).collect();
            let request = self.handle.link().property_del(card.index).alt_ifname(&names);
            request.execute().await.map_err(|source| KernelError::Card {
                action: "drop an alternative name",
                card: hwaddr,
                source,
            })?;
        }
        if now.is_none_or(|link| link.name != card.name.as_str()) {
            // Not every driver takes a new name or address while the link is up; networkd brings it up again.
            self.change(card, hwaddr, Change::Down).await?;
            self.change(card, hwaddr, Change::Name).await?;
        }
        if card.needs_random_address && now.is_none_or(|link| link.address == Some(hwaddr)) {
            let address = MacAddress::local(random().map_err(KernelError::Socket)?);
            self.change(card, hwaddr, Change::Address(address)).await?;
        }
        if now.is_none_or(|link| link.mtu != card.mtu) {
            self.change(card, hwaddr, Change::Mtu).await?;
        }
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Counts events; what they say is left unread.
async fn count(events: TokioSocket, changes: watch::Sender<u64>) {
    let mut buffer = Vec::with_capacity(32 << 10);
    loop {
        buffer.clear();
        match events.recv(&mut buffer).await {
            Ok(()) => {}
            // Some were lost, which only means that there were some.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!("changes of the network are no longer followed: {error}");
                return;
            }
        }
        changes.send_modify(|count| *count += 1);
    }
}

/// Keeps the copy fresh, so that a request rarely has to wait for a dump.
async fn refresh_after_changes(kernel: std::sync::Weak<Netlink>) {
    let Some(mut changes) = kernel.upgrade().map(|kernel| kernel.changes.subscribe()) else { return };
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let Some(kernel) = kernel.upgrade() else { return };
        if let Err(error) = kernel.snapshot().await {
            tracing::warn!("the state of the network cannot be refreshed: {error}");
        }
    }
}

fn random() -> io::Result<[u8; 6]> {
    let mut octets = [0; 6];
    rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty())?;
    Ok(octets)
}

fn list(what: &'static str, source: rtnetlink::Error) -> KernelError {
    KernelError::List { what, source }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(octets) => link.address = mac(octets),
            LinkAttribute::PermAddress(octets) => link.permanent_address = mac(octets),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::PropList(properties) => {
                link.alternative_names = properties.iter().filter_map(alternative_name).collect();
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Bond(bond)) => link.lacp_partner = partner(bond),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn alternative_name(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

fn partner(bond: &[InfoBond]) -> Option<MacAddress> {
    bond.iter().find_map(|info| match info {
        InfoBond::AdInfo(infos) => infos.iter().find_map(|info| match info {
            BondAdInfo::PartnerMac(octets) => MacAddress::from_octets(*octets),
            _ => None,
        }),
        _ => None,
    })
}

fn mac(octets: &[u8]) -> Option<MacAddress> {
    MacAddress::from_octets(octets.try_into().ok()?)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut other = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = local.or(other)?;
    // For IPv6 the flag called "secondary" means a temporary address.
    let is_temporary = address.is_ipv6() && message.header.flags.contains(AddressHeaderFlags::Secondary);
    Some(Address {
        link: message.header.index,
        address,
        is_tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
        is_fleeting: is_temporary || flags.contains(AddressFlags::Deprecated),
    })
}

fn routes(message: &RouteMessage) -> Vec<RouteEntry> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut to = None;
    let mut link = None;
    let mut via = None;
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(destination) => to = ip(destination),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(gateway) => via = ip(gateway),
            RouteAttribute::Via(gateway) => via = ip_via(gateway),
            RouteAttribute::MultiPath(paths) => {
                hops.extend(paths.iter().filter_map(|path| {
                    let gateway = path.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(gateway) => ip(gateway),
                        RouteAttribute::Via(gateway) => ip_via(gateway),
                        _ => None,
                    });
                    Some((path.interface_index, gateway?))
                }));
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.kind != RouteType::Unicast {
        return Vec::new();
    }
    hops.extend(link.zip(via));
    let prefix = header.destination_prefix_length;
    let to = to.filter(|_| prefix != 0).map(|address| (address, prefix));
    hops.into_iter().map(|(link, via)| RouteEntry { link, to, via }).collect()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn ip_via(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn passing_vlans(message: &LinkMessage) -> BTreeSet<u16> {
    let specs = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(specs) => Some(specs),
        _ => None,
    });
    specs
        .flatten()
        .filter_map(|spec| match spec {
            AfSpecBridge::VlanInfo(info) => Some(info.vid),
            _ => None,
        })
        .collect()
}
