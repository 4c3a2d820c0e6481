//! Configurations that are refused, and the text that clients see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use api::v1::NetworkConfig;
use netplan::{MacAddress, Nic, prepare};
use serde_json::{Value, json};

fn refusal(config: Value) -> String {
    let mut config: NetworkConfig = serde_json::from_value(config).unwrap();
    prepare(&mut config, &[card()], None).unwrap_err().to_string()
}

fn card() -> Nic {
    let hwaddr: MacAddress = "02:00:00:00:0a:01".parse().unwrap();
    Nic {
        index: 2,
        name: "enp5s0".into(),
        hwaddr,
        address: hwaddr,
        mtu: 1500,
        max_mtu: 9000,
        alternative_names: vec![],
    }
}

/// One interface with these keys on top of a good one.
fn interface(changes: Value) -> Value {
    let mut good = json!({"name": "lan0", "hwaddr": "02:00:00:00:0a:01", "addresses": ["dhcp4"]});
    let Value::Object(changes) = changes else { panic!("changes are keys") };
    good.as_object_mut().unwrap().extend(changes);
    json!({ "interfaces": [good] })
}

#[test]
fn texts_that_clients_compare() {
    let cases = [
        (interface(json!({"name": "_lan0"})), "interface 0 name cannot begin with an underscore"),
        (
            interface(json!({"name": "abcdefghijklmn"})),
            "interface 0 name 'abcdefghijklmn' cannot be longer than 13 characters",
        ),
        (
            interface(json!({"addresses": ["dhcp4", "bizbaz"]})),
            "interface 0 address 1 invalid IP address 'bizbaz', must provide a CIDR mask",
        ),
        (
            json!({"interfaces": [{"name": "a", "hwaddr": "02:00:00:00:0a:01"}, {"name": "a", "hwaddr": "02:00:00:00:0a:02"}]}),
            "duplicate interface/bond/vlan/wireguard name: a",
        ),
        (
            json!({"interfaces": [{"name": "a", "hwaddr": "02:00:00:00:0a:01"}, {"name": "b", "hwaddr": "02:00:00:00:0A:01"}]}),
            "duplicate MAC address: 02:00:00:00:0A:01",
        ),
        (json!({"wireguard": [{"name": "wg0"}]}), "network configuration has no devices defined"),
    ];
    for (config, text) in cases {
        assert_eq!(refusal(config), text);
    }
}

#[test]
fn wrong_values_are_refused() {
    let cases = [
        json!({"mtu": -1}),
        json!({"mtu": 9001}),
        json!({"mtu": 1000, "addresses": ["slaac"]}),
        json!({"roles": ["boss"]}),
        json!({"roles": ["storage", "storage"]}),
        json!({"addresses": ["192.0.2.1/33"]}),
        json!({"addresses": ["192.0.2.1/24\nDHCP=yes"]}),
        json!({"routes": [{"to": "dhcp4", "via": "192.0.2.1"}]}),
        json!({"routes": [{"to": "0.0.0.0/0", "via": "dhcp6"}]}),
        json!({"routes": [{"to": "0.0.0.0/0", "via": "2001:db8::1"}]}),
        json!({"routes": [{"to": "::/0", "via": "dhcp4"}]}),
        json!({"required_for_online": "maybe"}),
        json!({"hwaddr": ""}),
        json!({"hwaddr": "00:00:00:00:00:00"}),
        json!({"hwaddr": "01:00:5e:00:00:01"}),
        json!({"hwaddr": "enp9s0"}),
        json!({"vlan_tags": [0]}),
        json!({"vlan_tags": [4095]}),
        json!({"firewall_rules": [{"action": "allow"}]}),
        json!({"firewall_rules": [{"action": "accept", "port": 22}]}),
        json!({"firewall_rules": [{"action": "accept", "protocol": "tcp"}]}),
        json!({"firewall_rules": [{"action": "accept", "protocol": "icmp", "port": 1}]}),
        json!({"firewall_rules": [{"action": "accept", "source": "host"}]}),
        json!({"ethernet": {"wakeonlan_modes": ["magic\nName=x"]}}),
        json!({"ethernet": {"wakeonlan_password": "secret"}}),
        json!({"ethernet": {"rx_buffer_size": "0"}}),
        json!({"ethernet": {"tx_buffer_size": "lots"}}),
    ];
    for changes in cases {
        let text = refusal(interface(changes.clone()));
        assert!(text.starts_with("interface 0 "), "{changes}: {text}");
    }
}

#[test]
fn wrong_bonds_are_refused() {
    let bond = |changes: Value| {
        let mut bond = json!({"name": "b0", "mode": "802.3ad", "members": ["enp5s0"]});
        bond.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        refusal(json!({ "bonds": [bond] }))
    };
    for changes in [
        json!({"mode": "lacp"}),
        json!({"members": []}),
        json!({"members": ["enp5s0", "nowhere"]}),
        json!({"options": {"lacp_rate": "often"}}),
        json!({"mode": "balance-rr", "options": {"lacp_rate": "fast"}}),
        json!({"options": {"arp_ip_targets": ["::1"]}}),
        json!({"options": {"up_delay": -1}}),
        json!({"options": {"transmit_hash_policy": "best"}}),
    ] {
        assert!(bond(changes.clone()).starts_with("bond 0 "), "{changes}");
    }
    assert_eq!(
        bond(json!({"members": ["02:00:00:00:0a:01", "02:00:00:00:0a:01"]})),
        "duplicate MAC address: 02:00:00:00:0a:01"
    );
}

#[test]
fn wrong_tunnels_are_refused_without_showing_keys() {
    let tunnel = |changes: Value| {
        let mut config = interface(json!({}));
        let mut tunnel = json!({"name": "wg0"});
        tunnel.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config["wireguard"] = json!([tunnel]);
        refusal(config)
    };
    assert_eq!(tunnel(json!({"port": 65536})), "wireguard 0 port '65536' out of range");
    assert_eq!(tunnel(json!({"private_key": "c2VjcmV0"})), "wireguard 0 private key invalid");
    assert_eq!(
        tunnel(
            json!({"peers": [{"public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "preshared_key": "c2VjcmV0"}]})
        ),
        "wireguard 0 peer 0 preshared key invalid"
    );
    assert_eq!(tunnel(json!({"peers": [{"public_key": ""}]})), "wireguard 0 peer 0 public key '' invalid");
}

#[test]
fn settings_cannot_add_lines_to_files() {
    for settings in [
        json!({"dns": {"hostname": "a b"}}),
        json!({"dns": {"hostname": "a", "domain": "x\ny"}}),
        json!({"dns": {"search_domains": ["x\n[Network]"]}}),
        json!({"dns": {"nameservers": ["192.0.2.1 192.0.2.2"]}}),
        json!({"dns": {"hostname": "x".repeat(65)}}),
        json!({"time": {"timezone": "../../etc/passwd"}}),
        json!({"time": {"ntp_servers": ["a\nb"]}}),
        json!({"default_confirmation_timeout": "0s"}),
        json!({"default_confirmation_timeout": "soon"}),
    ] {
        let mut config = interface(json!({}));
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let _ = refusal(config);
    }
}
