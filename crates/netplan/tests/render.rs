//! Rendered files against golden ones. `UPDATE_GOLDEN=1 cargo test -p netplan`
//! rewrites them; the difference is reviewed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, fs, path::Path};

use api::v1::NetworkConfig;
use netplan::{Desired, MacAddress, Nic, Plan, default_interfaces, plan, prepare};

fn nic(index: u32, name: &str, hwaddr: &str, max_mtu: u32) -> Nic {
    let hwaddr: MacAddress = hwaddr.parse().unwrap();
    Nic { index, name: name.into(), hwaddr, address: hwaddr, mtu: 1500, max_mtu, alternative_names: vec![] }
}

fn cards() -> Vec<Nic> {
    vec![
        nic(2, "enp5s0", "02:00:00:00:0a:01", 9000),
        nic(3, "enp6s0", "02:00:00:00:0a:02", 65535),
        nic(4, "enp7s0", "02:00:00:00:0a:03", 4000),
        nic(5, "enp8s0", "02:00:00:00:0a:04", 0),
    ]
}

fn config(json: serde_json::Value) -> NetworkConfig {
    serde_json::from_value(json).unwrap()
}

fn planned(json: serde_json::Value) -> Plan {
    let mut config = config(json);
    plan(&prepare(&mut config, &cards(), None).unwrap(), &cards())
}

fn assert_golden(case: &str, plan: &Plan) {
    let mut text = String::new();
    for (name, file) in &plan.files {
        let secret = if file.is_secret() { " (secret)" } else { "" };
        write!(text, "==== {name}{secret}\n{}\n", file.text()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "differs from {}", path.display());
}

#[test]
fn interface_with_a_vlan() {
    let plan = planned(serde_json::json!({
        "interfaces": [{
            "name": "lan0", "hwaddr": "02:00:00:00:0a:01", "mtu": 1500, "addresses": ["dhcp4", "slaac"], "vlan_tags": [30]
        }],
        "vlans": [{
            "name": "mgmt", "id": 20, "parent": "lan0", "addresses": ["192.0.2.5/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}]
        }]
    }));
    let names: Vec<_> = plan.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "00-_p020000000a01.link",
            "10-_vlan0.netdev",
            "10-lan0.netdev",
            "12-mgmt.netdev",
            "20-_i020000000a01.network",
            "20-_p020000000a01.network",
            "20-_vlan0.network",
            "20-lan0.network",
            "22-mgmt.network",
        ]
    );
    assert_golden("interface-with-a-vlan", &plan);
}

#[test]
fn every_child_vlan_passes_the_bridge() {
    let plan = planned(serde_json::json!({
        "interfaces": [{"name": "lan0", "hwaddr": "02:00:00:00:0a:01"}],
        "vlans": [{"name": "a", "id": 20, "parent": "lan0"}, {"name": "b", "id": 21, "parent": "lan0"}]
    }));
    let port = plan.files["20-_p020000000a01.network"].text();
    assert!(port.contains("VLAN=20\n") && port.contains("VLAN=21\n"), "{port}");
}

#[test]
fn lacp_bond_with_options() {
    let plan = planned(serde_json::json!({
        "interfaces": [{"name": "oob", "hwaddr": "enp8s0", "lldp": true, "mtu": 9000}],
        "bonds": [{
            "name": "uplink", "mode": "802.3ad", "members": ["enp6s0", "enp7s0"], "lldp": true, "mtu": 9000,
            "addresses": ["2001:db8::5/64"], "required_for_online": "ipv6", "vlan_tags": [100, 7],
            "routes": [{"to": "::/0", "via": "slaac"}, {"to": "2001:db8:1::/48", "via": "2001:db8:ffff::1", "onlink": true}],
            "options": {"lacp_rate": "slow", "up_delay": 200, "transmit_hash_policy": "layer2+3"},
            "bridge": {"stp": true, "disable_multicast_snooping": true},
            "ethernet": {"disable_gro": true, "wakeonlan": true, "rx_buffer_size": "max", "disable_energy_efficient": true}
        }],
        "dns": {
            "hostname": "node1", "domain": "example.org", "search_domains": ["example.org", "~internal"],
            "nameservers": ["192.0.2.53", "[2001:db8::53]:853#dns.example.org"], "dns_over_tls": true
        },
        "time": {"ntp_servers": ["ntp.example.org"]}
    }));
    assert_golden("lacp-bond", &plan);
}

#[test]
fn bond_of_every_mode_watches_its_links() {
    for mode in ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"] {
        let plan = planned(serde_json::json!({ "bonds": [{"name": "b0", "mode": mode, "members": ["enp5s0"]}] }));
        let bond = plan.files["11-_bb0.netdev"].text();
        assert!(bond.contains(&format!("Mode={mode}\n")) && bond.contains("MIIMonitorSec=100ms\n"), "{bond}");
    }
}

#[test]
fn tunnel_is_secret() {
    let plan = planned(serde_json::json!({
        "interfaces": [{"name": "lan0", "hwaddr": "enp5s0", "addresses": ["dhcp4"]}],
        "wireguard": [{
            "name": "wg0", "port": 51820, "mtu": 1420, "addresses": ["192.0.2.1/24"],
            "private_key": "YAnXV8rnXXRPMCYZG6hm2+UCr0+GYzOSGJGUqqULM2o=",
            "routes": [{"to": "198.51.100.0/24", "via": "192.0.2.2"}],
            "peers": [{
                "public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "allowed_ips": ["192.0.2.0/24", "::/0"],
                "endpoint": "[2001:db8::1]:51820", "persistent_keepalive": 25
            }]
        }]
    }));
    assert_golden("wireguard", &plan);
    assert!(plan.files["13-wg0.netdev"].is_secret());
    assert!(!format!("{plan:?}").contains("YAnXV8"));
}

#[test]
fn default_configuration() {
    let mut defaults = NetworkConfig { interfaces: default_interfaces(&cards()[..2]), ..Default::default() };
    let desired = prepare(&mut defaults, &cards(), None).unwrap();
    let plan = plan(&desired, &cards());
    assert_golden("default", &plan);
    assert_eq!(plan.online, []);
}

#[test]
fn default_names_fit() {
    let cards = [
        nic(2, "enx0242ac110002", "02:42:ac:11:00:02", 1500),
        nic(3, "enp193s0f1np1x", "02:00:00:00:0a:02", 1500),
        nic(4, "_p020000000a03", "02:00:00:00:0a:03", 1500),
        nic(5, "enx020000000004", "02:00:00:00:00:04", 1500),
    ];
    let names: Vec<_> = default_interfaces(&cards).into_iter().map(|interface| interface.name).collect();
    assert_eq!(names, ["0242ac110002", "nic3", "nic4", "nic5"]);
}

#[test]
fn missing_card_does_not_spoil_the_others() {
    let plan = planned(serde_json::json!({
        "interfaces": [
            {"name": "gone", "hwaddr": "00:11:22:33:44:55", "addresses": ["dhcp4"]},
            {"name": "lan0", "hwaddr": "02:00:00:00:0A:01", "addresses": ["dhcp4"], "required_for_online": "ipv4"}
        ],
        "vlans": [{"name": "v5", "id": 5, "parent": "gone", "addresses": ["dhcp4"]}]
    }));
    assert_eq!(plan.missing, ["00:11:22:33:44:55".parse().unwrap()]);
    assert!(plan.files.contains_key("10-lan0.netdev"));
    assert!(!plan.files.keys().any(|name| name.contains("gone") || name.contains("v5")));
    assert_eq!(plan.online.len(), 1);
}

#[test]
fn plan_of_an_applied_network_is_the_same() {
    let json =
        serde_json::json!({"interfaces": [{"name": "enp5s0", "hwaddr": "02:00:00:00:0a:01", "addresses": ["dhcp4"]}]});
    let before = planned(json.clone());
    let mut after = cards();
    after[0].name = "_p020000000a01".into();
    after[0].address = "fe:00:00:00:00:01".parse().unwrap();
    after[0].mtu = 9000;
    let again = plan(&Desired::new(&config(json)).unwrap(), &after);
    assert_eq!(before.files, again.files);
    assert!(before.cards.iter().all(|card| card.is_pending(&cards())));
    assert!(!again.cards.iter().any(|card| card.is_pending(&after)));
}

#[test]
fn alternative_name_that_a_bridge_needs_is_dropped() {
    let mut cards = cards();
    cards[0].alternative_names = vec!["lan0".into(), "enp5s0np0".into()];
    let mut config = config(serde_json::json!({"interfaces": [{"name": "lan0", "hwaddr": "lan0"}]}));
    let plan = plan(&prepare(&mut config, &cards, None).unwrap(), &cards);
    assert_eq!(plan.cards[0].names_to_drop, ["lan0"]);
    assert_eq!(config.interfaces[0].hwaddr, "02:00:00:00:0a:01");
}
