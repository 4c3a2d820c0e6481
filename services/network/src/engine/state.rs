//! The live state as clients see it. Pure: configuration and observations in,
//! message out. A device that is not there is shown as missing and never fails
//! the rest.

use std::collections::{BTreeMap, BTreeSet};

use api::v1::{
    NetworkConfig, NetworkInterfaceState, NetworkInterfaceStats, NetworkLacpState, NetworkLldpState, NetworkRouteState,
    NetworkState,
};
use netplan::{KernelName, MacAddress};

use crate::machine::{Counters, Link, Snapshot};

/// Everything that was observed.
pub(crate) struct Observed<'a> {
    pub snapshot: &'a Snapshot,
    /// Traffic of the link with this name.
    pub counters: &'a dyn Fn(&str) -> Counters,
    /// networkd's word for the state of the link with this index.
    pub operational: &'a dyn Fn(u32) -> String,
    /// By name of the card.
    pub neighbours: &'a BTreeMap<String, Vec<NetworkLldpState>>,
}

/// The state of all configured devices and of the cards that are not in use.
pub(crate) fn state(config: &NetworkConfig, observed: &Observed<'_>, in_process: bool) -> NetworkState {
    let mut interfaces = BTreeMap::new();
    for interface in &config.interfaces {
        interfaces.insert(interface.name.clone(), observed.interface(interface));
    }
    for bond in &config.bonds {
        interfaces.insert(bond.name.clone(), observed.bond(bond));
    }
    for vlan in &config.vlans {
        interfaces.insert(vlan.name.clone(), observed.vlan(vlan, config));
    }
    for tunnel in &config.wireguard {
        interfaces.insert(tunnel.name.clone(), observed.tunnel(tunnel));
    }
    add_automatic_roles(config, &mut interfaces);
    for link in observed.snapshot.links.values() {
        // Names that start with an underscore are the system's own.
        if link.is_physical && !link.name.starts_with('_') && !interfaces.contains_key(&link.name) {
            interfaces.insert(link.name.clone(), observed.unused(link));
        }
    }
    NetworkState { interfaces, configuration_in_process: in_process }
}

/// Somebody has to manage the machine, and somebody has to carry its cluster:
/// where no device was given the role, the ones that can take it.
fn add_automatic_roles(config: &NetworkConfig, interfaces: &mut BTreeMap<String, NetworkInterfaceState>) {
    let configured: BTreeSet<&str> = (config.interfaces.iter().map(|i| &i.roles))
        .chain(config.bonds.iter().map(|b| &b.roles))
        .chain(config.vlans.iter().map(|v| &v.roles))
        .chain(config.wireguard.iter().map(|w| &w.roles))
        .flatten()
        .map(String::as_str)
        .collect();
    if !configured.contains("management") {
        for state in interfaces.values_mut().filter(|state| state.state == "routable") {
            state.roles.push("management".into());
        }
    }
    if !configured.contains("cluster") {
        for state in interfaces.values_mut().filter(|state| state.roles.iter().any(|role| role == "management")) {
            state.roles.push("cluster".into());
        }
    }
}

impl Observed<'_> {
    fn interface(&self, config: &api::v1::NetworkInterface) -> NetworkInterfaceState {
        let card = config.hwaddr.parse().ok().and_then(|hwaddr| self.snapshot.card(hwaddr));
        let state = self.host_end(&config.name);
        NetworkInterfaceState {
            r#type: "interface".into(),
            hwaddr: config.hwaddr.clone(),
            speed: self.speed(&state, card),
            roles: config.roles.clone(),
            lldp: self.lldp(config.lldp, card),
            carrier: card.map(|card| card.has_carrier),
            ..state
        }
    }

    fn bond(&self, config: &api::v1::NetworkBond) -> NetworkInterfaceState {
        let bond = self.snapshot.link(&format!("_b{}", config.name));
        let bridge = self.snapshot.link(&config.name);
        let state = self.host_end(&config.name);
        let member = |hwaddr: &String| {
            let hwaddr: MacAddress = hwaddr.parse().ok()?;
            let name = KernelName::card(hwaddr);
            Some((name.as_str().to_owned(), self.member(config, hwaddr, bond)))
        };
        NetworkInterfaceState {
            r#type: "bond".into(),
            hwaddr: config.hwaddr.clone(),
            speed: self.speed(&state, bridge),
            roles: config.roles.clone(),
            members: config.members.iter().filter_map(member).collect(),
            carrier: bond.map(|bond| bond.has_carrier),
            ..state
        }
    }

    fn member(&self, config: &api::v1::NetworkBond, hwaddr: MacAddress, bond: Option<&Link>) -> NetworkInterfaceState {
        let card = self.snapshot.card(hwaddr);
        let state = card.map_or_else(missing, |card| self.link(card));
        let lacp = (config.mode == "802.3ad").then(|| NetworkLacpState {
            local_mac: card.and_then(|card| card.address).map(|mac| mac.to_string()).unwrap_or_default(),
            remote_mac: bond.and_then(|bond| bond.lacp_partner).map(|mac| mac.to_string()).unwrap_or_default(),
        });
        NetworkInterfaceState {
            r#type: "bond_member".into(),
            hwaddr: hwaddr.to_string(),
            speed: self.speed(&state, card),
            lldp: self.lldp(config.lldp, card),
            lacp,
            carrier: card.map(|card| card.has_carrier),
            ..state
        }
    }

    fn vlan(&self, config: &api::v1::NetworkVlan, all: &NetworkConfig) -> NetworkInterfaceState {
        let state = self.device(&config.name);
        let interface = all.interfaces.iter().find(|interface| interface.name == config.parent);
        let bond = all.bonds.iter().find(|bond| bond.name == config.parent);
        let hwaddr = interface.map(|i| &i.hwaddr).or_else(|| bond.map(|b| &b.hwaddr)).cloned().unwrap_or_default();
        let card = hwaddr.parse().ok().and_then(|hwaddr| self.snapshot.card(hwaddr));
        // A bond without an address of its own is as fast as its bridge.
        let speed_from = if hwaddr.is_empty() { self.snapshot.link(&config.parent) } else { card };
        let carrier_from = if bond.is_some() { self.snapshot.link(&format!("_b{}", config.parent)) } else { card };
        NetworkInterfaceState {
            r#type: "vlan".into(),
            speed: self.speed(&state, speed_from),
            hwaddr,
            roles: config.roles.clone(),
            carrier: carrier_from.map(|link| link.has_carrier),
            ..state
        }
    }

    fn tunnel(&self, config: &api::v1::NetworkWireguard) -> NetworkInterfaceState {
        let state = self.device(&config.name);
        NetworkInterfaceState {
            r#type: "wireguard".into(),
            hwaddr: String::new(),
            speed: "unknown".into(),
            roles: config.roles.clone(),
            ..state
        }
    }

    fn unused(&self, link: &Link) -> NetworkInterfaceState {
        let state = self.link(link);
        NetworkInterfaceState {
            r#type: "physical".into(),
            hwaddr: link.address.map(|mac| mac.to_string()).unwrap_or_default(),
            speed: self.speed(&state, Some(link)),
            carrier: Some(link.has_carrier),
            ..state
        }
    }

    /// The machine's own end of an interface or bond.
    fn host_end(&self, name: &str) -> NetworkInterfaceState {
        let is_bridge = self.snapshot.link(name).is_some_and(|link| link.kind == "bridge");
        self.device(&if is_bridge { format!("_v{name}") } else { name.to_owned() })
    }

    fn device(&self, name: &str) -> NetworkInterfaceState {
        self.snapshot.link(name).map_or_else(missing, |link| self.link(link))
    }

    fn link(&self, link: &Link) -> NetworkInterfaceState {
        let counters = (self.counters)(&link.name);
        let routes = self.snapshot.routes.iter().filter(|route| route.link == link.index).map(|route| {
            let to = route.to.map_or_else(|| "default".to_owned(), |(address, prefix)| format!("{address}/{prefix}"));
            NetworkRouteState { to, via: route.via.to_string() }
        });
        NetworkInterfaceState {
            state: (self.operational)(link.index),
            addresses: self.snapshot.addresses_of(link.index).iter().map(ToString::to_string).collect(),
            mtu: i64::from(link.mtu),
            routes: routes.collect(),
            stats: Some(NetworkInterfaceStats {
                rx_bytes: counters.rx_bytes,
                rx_errors: counters.rx_errors,
                tx_bytes: counters.tx_bytes,
                tx_errors: counters.tx_errors,
            }),
            ..Default::default()
        }
    }

    fn speed(&self, state: &NetworkInterfaceState, from: Option<&Link>) -> String {
        match from.and_then(|link| link.speed.clone()) {
            _ if state.state == "off" => String::new(),
            Some(speed) => speed,
            None => "unknown".into(),
        }
    }

    fn lldp(&self, enabled: bool, card: Option<&Link>) -> Vec<NetworkLldpState> {
        let found = card.filter(|_| enabled).and_then(|card| self.neighbours.get(&card.name));
        found.cloned().unwrap_or_default()
    }
}

fn missing() -> NetworkInterfaceState {
    NetworkInterfaceState { state: "missing".into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine::{Address, RouteEntry};

    fn mac(last: u8) -> MacAddress {
        MacAddress::from_octets([2, 0, 0, 0, 0x0a, last]).unwrap()
    }

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            kind: kind.into(),
            is_ethernet: true,
            mtu: 1500,
            has_carrier: true,
            ..Default::default()
        }
    }

    fn card(index: u32, name: &str, last: u8) -> Link {
        let (permanent_address, address) = (Some(mac(last)), Some(MacAddress::local([9; 6])));
        Link { is_physical: true, permanent_address, address, speed: Some("10000".into()), ..link(index, name, "") }
    }

    fn shown(config: serde_json::Value, links: Vec<Link>, states: &[(u32, &str)]) -> serde_json::Value {
        let config: NetworkConfig = serde_json::from_value(config).unwrap();
        let snapshot = Snapshot {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: vec![
                Address { link: 3, address: "198.51.100.7".parse().unwrap(), is_tentative: false, is_fleeting: false },
                Address { link: 3, address: "2001:db8::a01".parse().unwrap(), is_tentative: false, is_fleeting: false },
            ],
            routes: vec![
                RouteEntry { link: 3, to: None, via: "198.51.100.1".parse().unwrap() },
                RouteEntry {
                    link: 3,
                    to: Some(("2001:db8:1::".parse().unwrap(), 48)),
                    via: "fe80::1".parse().unwrap(),
                },
            ],
        };
        let counters = |link: &str| match link {
            "_vlan0" => Counters { rx_bytes: 1, tx_bytes: 2, ..Default::default() },
            _ => Counters::default(),
        };
        let neighbour = NetworkLldpState {
            chassis_id: "c".into(),
            name: "switch1".into(),
            port_id: "p".into(),
            port: String::new(),
        };
        let neighbours = BTreeMap::from([("_p020000000a01".to_owned(), vec![neighbour])]);
        let operational = |index: u32| {
            states.iter().find(|(known, _)| *known == index).map(|(_, s)| (*s).to_owned()).unwrap_or_default()
        };
        let observed =
            Observed { snapshot: &snapshot, counters: &counters, operational: &operational, neighbours: &neighbours };
        serde_json::to_value(state(&config, &observed, false)).unwrap()
    }

    fn lan0() -> Vec<Link> {
        vec![
            card(1, "_p020000000a01", 1),
            link(2, "lan0", "bridge"),
            link(3, "_vlan0", "veth"),
            link(4, "_i020000000a01", "veth"),
        ]
    }

    #[test]
    fn interface_shows_its_host_end() {
        let config = json!({"interfaces": [{"name": "lan0", "hwaddr": "02:00:00:00:0a:01", "roles": ["management"]}]});
        assert_eq!(
            shown(config, lan0(), &[(3, "routable")]),
            json!({"configuration_in_process": false, "interfaces": {"lan0": {
                "type": "interface", "state": "routable", "addresses": ["198.51.100.7", "2001:db8::a01"],
                "hwaddr": "02:00:00:00:0a:01", "mtu": 1500, "speed": "10000",
                "routes": [{"to": "default", "via": "198.51.100.1"}, {"to": "2001:db8:1::/48", "via": "fe80::1"}],
                "stats": {"rx_bytes": 1, "rx_errors": 0, "tx_bytes": 2, "tx_errors": 0},
                "roles": ["management", "cluster"], "carrier": true
            }}})
        );
    }

    #[test]
    fn missing_device_is_shown_and_fails_nothing() {
        let config = json!({"interfaces": [{"name": "gone", "hwaddr": "02:00:00:00:0a:09"}], "vlans": [{"name": "v", "parent": "gone", "id": 5}]});
        let state = shown(config, vec![], &[]);
        assert_eq!(state["interfaces"]["gone"]["state"], "missing");
        assert_eq!(
            state["interfaces"]["gone"]["stats"],
            json!({"rx_bytes": 0, "rx_errors": 0, "tx_bytes": 0, "tx_errors": 0})
        );
        assert_eq!(state["interfaces"]["gone"].get("addresses"), None);
        assert_eq!(state["interfaces"]["v"]["hwaddr"], "02:00:00:00:0a:09");
    }

    #[test]
    fn roles_fall_to_what_is_routable_when_nobody_has_them() {
        let config = json!({
            "interfaces": [{"name": "lan0", "hwaddr": "02:00:00:00:0a:01"}, {"name": "vm", "hwaddr": "02:00:00:00:0a:02", "roles": ["instances"]}]
        });
        let mut links = lan0();
        links.push(card(8, "enp9s0", 9));
        let state = shown(config, links, &[(3, "routable"), (8, "routable")]);
        assert_eq!(state["interfaces"]["lan0"]["roles"], json!(["management", "cluster"]));
        assert_eq!(state["interfaces"]["vm"]["roles"], json!(["instances"]));
        assert_eq!(state["interfaces"]["enp9s0"].get("roles"), None);
        assert_eq!(state["interfaces"]["enp9s0"]["type"], "physical");
    }

    #[test]
    fn configured_cluster_role_stays_where_it_is() {
        let config = json!({
            "interfaces": [{"name": "lan0", "hwaddr": "02:00:00:00:0a:01"}, {"name": "vm", "hwaddr": "02:00:00:00:0a:02", "roles": ["cluster"]}]
        });
        let state = shown(config, lan0(), &[(3, "routable")]);
        assert_eq!(state["interfaces"]["lan0"]["roles"], json!(["management"]));
    }

    #[test]
    fn bond_nests_its_members() {
        let config = json!({
            "bonds": [{"name": "lan0", "mode": "802.3ad", "members": ["02:00:00:00:0a:01", "02:00:00:00:0a:02"], "lldp": true}],
            "vlans": [{"name": "v", "parent": "lan0", "id": 5}]
        });
        let mut links = lan0();
        links.push(Link { lacp_partner: Some(mac(0x77)), ..link(5, "_blan0", "bond") });
        links[1].speed = Some("20000".into());
        let state = shown(config, links, &[(1, "enslaved"), (3, "routable")]);
        let bond = &state["interfaces"]["lan0"];
        assert_eq!(bond.get("hwaddr"), None);
        assert_eq!(bond["speed"], "20000");
        let member = &bond["members"]["_p020000000a01"];
        assert_eq!(member["type"], "bond_member");
        assert_eq!(member["state"], "enslaved");
        assert_eq!(member["lldp"][0]["name"], "switch1");
        assert_eq!(member["lacp"]["remote_mac"], "02:00:00:00:0a:77");
        assert_eq!(bond["members"]["_p020000000a02"]["state"], "missing");
        assert_eq!(state["interfaces"].as_object().unwrap().keys().collect::<Vec<_>>(), ["lan0", "v"]);
    }

    #[test]
    fn speed_of_a_link_that_is_off_is_absent() {
        let state = shown(json!({}), vec![card(8, "enp9s0", 9)], &[(8, "off")]);
        assert_eq!(state["interfaces"]["enp9s0"].get("speed"), None);
        let state = shown(json!({}), vec![Link { speed: None, ..card(8, "enp9s0", 9) }], &[(8, "no-carrier")]);
        assert_eq!(state["interfaces"]["enp9s0"]["speed"], "unknown");
    }
}
