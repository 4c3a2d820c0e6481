//! Whatever text a client sends: what is accepted cannot add a line, a section
//! or a folder to what is written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use api::v1::{
    NetworkConfig, NetworkDns, NetworkEthernet, NetworkInterface, NetworkRoute, NetworkTime, NetworkVlan,
    NetworkWireguard, NetworkWireguardPeer,
};
use netplan::{MacAddress, Nic, plan, prepare};
use proptest::prelude::*;

/// Texts near to what is valid, with what could break a line in between.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9./:#%_\\-]{0,16}",
        "[a-z0-9]{1,6}[\n\r\\[\\]=; \u{0}/.]{1,2}[a-z0-9]{0,6}",
        Just("192.0.2.1/24\nDHCP=yes".to_owned()),
        Just("../../x".to_owned()),
        any::<String>(),
    ]
}

fn or_valid(valid: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(valid.to_owned()), 1 => text()]
}

fn config() -> impl Strategy<Value = NetworkConfig> {
    let interface = (
        or_valid("lan0"),
        or_valid("enp5s0"),
        or_valid("dhcp4"),
        or_valid("0.0.0.0/0"),
        or_valid("192.0.2.1"),
        or_valid("magic"),
        or_valid("max"),
    );
    let settings = (
        or_valid("node1"),
        or_valid("example.org"),
        or_valid("example.org"),
        or_valid("192.0.2.53"),
        or_valid("UTC"),
        or_valid("ntp.example.org"),
    );
    let others = (
        or_valid("v5"),
        or_valid("wg0"),
        or_valid("192.0.2.0/24"),
        or_valid("host:51820"),
        or_valid("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="),
    );
    (interface, settings, others).prop_map(
        |(
            (name, hwaddr, address, to, via, mode, ring),
            (hostname, domain, search, nameserver, timezone, ntp),
            (vlan, tunnel, allowed, endpoint, key),
        )| {
            NetworkConfig {
                interfaces: vec![NetworkInterface {
                    name: name.clone(),
                    hwaddr,
                    addresses: vec![address],
                    routes: vec![NetworkRoute { to, via, onlink: false }],
                    ethernet: Some(NetworkEthernet {
                        wakeonlan: true,
                        wakeonlan_modes: vec![mode],
                        tx_buffer_size: ring,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                vlans: vec![NetworkVlan { name: vlan, parent: name, id: 5, ..Default::default() }],
                wireguard: vec![NetworkWireguard {
                    name: tunnel,
                    private_key: key.clone(),
                    peers: vec![NetworkWireguardPeer {
                        public_key: key,
                        allowed_ips: vec![allowed],
                        endpoint,
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                dns: Some(NetworkDns {
                    hostname,
                    domain,
                    search_domains: vec![search],
                    nameservers: vec![nameserver],
                    dns_over_tls: true,
                }),
                time: Some(NetworkTime { timezone, ntp_servers: vec![ntp] }),
                ..Default::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    #[test]
    fn accepted_text_stays_in_its_line(mut config in config()) {
        let hwaddr: MacAddress = "02:00:00:00:0a:01".parse().unwrap();
        let nic = Nic { index: 2, name: "enp5s0".into(), hwaddr, address: hwaddr, mtu: 1500, max_mtu: 9000, alternative_names: vec![] };
        if let Ok(desired) = prepare(&mut config, std::slice::from_ref(&nic), None) {
            let plan = plan(&desired, &[nic]);
            let known = ["Match", "Link", "NetDev", "Bridge", "Peer", "VLAN", "WireGuard", "WireGuardPeer", "Network", "DHCP", "DHCPv6", "Route", "BridgeVLAN"];
            for (name, file) in &plan.files {
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name:?}");
                for line in file.text().lines().filter(|line| !line.is_empty()) {
                    let is_section = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).is_some_and(|s| known.contains(&s));
                    let is_setting = line.split_once('=').is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_alphanumeric()));
                    prop_assert!(is_section || is_setting, "{name}: {line:?}");
                    prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{name}: {line:?}");
                }
                // One setting never becomes two.
                prop_assert!(file.text().matches("DHCP=").count() <= 1);
            }
        }
    }
}
