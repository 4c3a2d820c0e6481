//! The whole service in a network namespace of its own: the real kernel, a real
//! socket, and a networkd that does the few things the tests need.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use api::v1::{Empty, NetworkConfig, NetworkInterface, NetworkStart, SystemNetwork, network_client::NetworkClient};
use futures_util::TryStreamExt as _;
use network::{DaemonError, Daemons, Roots};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, packet_route::link::LinkAttribute};
use service::{Context, Identity};
use tonic::{Code, transport::Channel};

const CARD: &str = "02:00:00:00:0a:01";

#[test]
fn default_configuration_builds_the_whole_topology() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        let warnings = client.start(NetworkStart::default()).await.unwrap().into_inner().warnings;
        assert_eq!(warnings, [""; 0]);

        let document = document(&mut client).await;
        assert_eq!(
            document["config"],
            serde_json::json!({
                "time": {"timezone": "UTC"},
                "interfaces": [{
                    "name": "enp5s0", "hwaddr": CARD, "addresses": ["dhcp4", "slaac"], "required_for_online": "no"
                }]
            })
        );
        let interface = &document["state"]["interfaces"]["enp5s0"];
        assert_eq!(interface["type"], "interface");
        assert_eq!(interface["state"], "routable");
        assert_eq!(interface["addresses"], serde_json::json!(["198.51.100.7", "2001:db8::7"]));
        assert_eq!(interface["mtu"], 1500);
        assert_eq!(interface["roles"], serde_json::json!(["management", "cluster"]));
        assert_eq!(interface["routes"], serde_json::json!([{"to": "default", "via": "198.51.100.1"}]));
        assert_eq!(document["state"]["interfaces"].as_object().unwrap().len(), 1);

        let card = machine.link("_p020000000a01").await.unwrap();
        assert_eq!(card.mtu, 9000);
        assert_ne!(card.address, CARD);
        assert_eq!(machine.link("_venp5s0").await.unwrap().address, CARD);
        let mut calls = machine.calls();
        calls.sort();
        assert_eq!(calls, ["hostname machine-uuid-of-thirty-six-letters-1", "reload", "time sync", "timezone UTC"]);
    });
}

fn seeded(name: &str, card: &str) -> NetworkStart {
    let interface = NetworkInterface {
        name: name.into(),
        hwaddr: card.into(),
        addresses: vec!["192.0.2.7/24".into()],
        required_for_online: "no".into(),
        ..NetworkInterface::default()
    };
    NetworkStart { seed: Some(NetworkConfig { interfaces: vec![interface], ..NetworkConfig::default() }) }
}

#[test]
fn seed_is_brought_up_at_the_first_start_only() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        // The name of the card is as good as its address.
        let warnings = client.start(seeded("lan", "enp5s0")).await.unwrap().into_inner().warnings;
        assert_eq!(warnings, [""; 0]);
        let config = document(&mut client).await["config"].clone();
        let interface = &config["interfaces"][0];
        assert_eq!((&interface["name"], &interface["hwaddr"]), (&"lan".into(), &CARD.into()));
        assert_eq!(interface["addresses"], serde_json::json!(["192.0.2.7/24"]));
        client.start(seeded("wan", CARD)).await.unwrap();
        assert_eq!(document(&mut client).await["config"], config);
    });
}

#[test]
fn seed_that_fits_no_card_is_told_and_the_machine_is_reachable() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        let warnings = client.start(seeded("lan", "02:00:00:00:0b:02")).await.unwrap().into_inner().warnings;
        assert!(warnings[0].starts_with("The network of the seed cannot be brought up"), "{warnings:?}");
        let interface = document(&mut client).await["config"]["interfaces"][0].clone();
        assert_eq!((&interface["name"], &interface["hwaddr"]), (&"enp5s0".into(), &CARD.into()));
    });
}

#[test]
fn second_start_touches_nothing() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        client.start(NetworkStart::default()).await.unwrap();
        let before = (machine.files(), machine.link("_p020000000a01").await.unwrap());
        machine.forget_calls();
        client.start(NetworkStart::default()).await.unwrap();
        assert_eq!(before, (machine.files(), machine.link("_p020000000a01").await.unwrap()));
        assert!(!machine.calls().iter().any(|call| call == "reload"), "{:?}", machine.calls());
    });
}

#[test]
fn restarted_service_knows_the_configuration_without_a_start() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        client.start(NetworkStart::default()).await.unwrap();
        let before = document(&mut client).await["config"].clone();
        machine.stop().await;
        let mut client = machine.serve().await;
        assert_eq!(document(&mut client).await["config"], before);
    });
}

#[test]
fn cards_that_are_not_in_use_are_shown() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        let mut client = machine.serve().await;
        let document = document(&mut client).await;
        let card = &document["state"]["interfaces"]["enp5s0"];
        assert_eq!(card["type"], "physical");
        assert_eq!(card["hwaddr"], CARD);
        assert_eq!(card["speed"], "10000");
        assert_eq!(document["config"], serde_json::json!({"time": {"timezone": "UTC"}}));
    });
}

#[test]
fn new_link_is_shown_by_the_next_request() {
    in_namespace(async |machine| {
        let mut client = machine.serve().await;
        assert_eq!(document(&mut client).await["state"]["interfaces"], serde_json::json!({}));
        machine.plug_card("enp5s0").await;
        assert_eq!(document(&mut client).await["state"]["interfaces"]["enp5s0"]["type"], "physical");
    });
}

#[test]
fn default_waits_for_udev_to_find_the_cards() {
    in_namespace(async |machine| {
        let udev = machine.dir.path().join("run/udev");
        fs::create_dir_all(udev.join("data")).unwrap();
        fs::write(udev.join("control"), "").unwrap();
        fs::write(udev.join("queue"), "").unwrap();
        let mut client = machine.serve().await;
        let (started, ()) = tokio::join!(client.start(NetworkStart::default()), async {
            // The start is under way, without a card to be seen.
            let mut other = machine.client();
            while document(&mut other).await["state"]["configuration_in_process"] != true {}
            machine.plug_card("eth0").await;
            let (index, _) = find(&machine.handle, "eth0").await.unwrap();
            fs::write(udev.join("data").join(format!("n{index}")), "").unwrap();
            fs::remove_file(udev.join("queue")).unwrap();
        });
        assert_eq!(started.unwrap().into_inner().warnings, [""; 0]);
        assert_eq!(document(&mut client).await["config"]["interfaces"][0]["name"], "eth0");
    });
}

#[test]
fn machine_without_cards_is_refused_with_a_reason() {
    in_namespace(async |machine| {
        let mut client = machine.serve().await;
        let status = client.start(NetworkStart::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "the machine has no network card that can be used");
    });
}

#[test]
fn wrong_address_names_itself_and_leaves_the_machine_alone() {
    in_namespace(async |machine| {
        machine.plug_card("enp5s0").await;
        machine.store(serde_json::json!({"interfaces": [{"name": "a", "hwaddr": "00:11:22:33:44:55"}]}));
        let mut client = machine.serve().await;
        let status = client.start(NetworkStart::default()).await.unwrap_err();
        assert_eq!(status.message(), "unable to determine maximum MTU for 00:11:22:33:44:55");
        assert!(machine.link("enp5s0").await.is_some());
        assert_eq!(document(&mut client).await["state"]["interfaces"]["a"]["state"], "missing");
    });
}

#[test]
fn what_is_not_built_says_so() {
    in_namespace(async |machine| {
        let mut client = machine.serve().await;
        let status = client.put(SystemNetwork::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let status = client.confirm(Empty {}).await.unwrap_err();
        assert_eq!(status.message(), "no network configuration is pending a confirmation");
        client.flush_dns(Empty {}).await.unwrap();
        assert_eq!(machine.calls(), ["flush dns"]);
    });
}

async fn document(client: &mut NetworkClient<Channel>) -> serde_json::Value {
    serde_json::to_value(client.get(Empty {}).await.unwrap().into_inner()).unwrap()
}

/// Runs a test on a thread that has a network of its own.
fn in_namespace(test: impl AsyncFnOnce(&Machine) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CLONE_NEWNET) {
            eprintln!("skipped: a network namespace is not permitted here: {error}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(&Machine::new()).await });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const CLONE_NEWNET: CloneFlags = CloneFlags::CLONE_NEWNET;

struct Machine {
    dir: tempfile::TempDir,
    roots: Roots,
    handle: Handle,
    calls: Arc<Mutex<Vec<String>>>,
    stopper: Mutex<Option<(tokio::sync::watch::Sender<bool>, tokio::task::JoinHandle<()>)>>,
}

#[derive(Debug, PartialEq)]
struct Shown {
    mtu: u32,
    address: String,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        for folder in [
            "run/systemd/network",
            "run/systemd/netif/links",
            "run/systemd/timesyncd.conf.d",
            "run/incus-osd-network",
            "zoneinfo",
            "etc",
            "proc",
            "sys/class/net",
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("zoneinfo/UTC"), "").unwrap();
        std::os::unix::fs::symlink("/proc/thread-self", dir.path().join("proc/thread-self")).unwrap();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Self { dir, roots, handle, calls: Arc::default(), stopper: Mutex::default() }
    }

    /// A virtual card that looks physical.
    async fn plug_card(&self, name: &str) {
        let folder = self.dir.path().join("sys/class/net").join(name);
        fs::create_dir_all(folder.join("device")).unwrap();
        fs::write(folder.join("speed"), "10000\n").unwrap();
        let octets = vec![2, 0, 0, 0, 0x0a, 1];
        self.handle.link().add(LinkVeth::new(name, "wire").address(octets).build()).execute().await.unwrap();
    }

    fn store(&self, config: serde_json::Value) {
        let state = self.dir.path().join("state/network");
        fs::create_dir_all(&state).unwrap();
        let config: NetworkConfig = serde_json::from_value(config).unwrap();
        let mut store = store::Store::open(&state, 1).unwrap();
        store.replace(BTreeMap::from([("config".to_owned(), config)])).unwrap();
    }

    async fn serve(&self) -> NetworkClient<Channel> {
        let _ = fs::remove_file(self.dir.path().join("network.sock"));
        let (context, stopper) = Context::in_dir(Identity::Network, self.dir.path()).unwrap();
        let networkd =
            Networkd { roots: self.dir.path().to_owned(), handle: self.handle.clone(), calls: self.calls.clone() };
        let roots = self.roots.clone();
        // The service must stay on the thread that has the namespace.
        let local = tokio::spawn(async move { network::run_with(context, roots, Box::new(networkd)).await.unwrap() });
        *self.stopper.lock().unwrap() = Some((stopper, local));
        self.client()
    }

    fn client(&self) -> NetworkClient<Channel> {
        service::Peers::in_dir(self.dir.path()).network()
    }

    async fn stop(&self) {
        let (stopper, service) = self.stopper.lock().unwrap().take().unwrap();
        drop(stopper);
        tokio::time::timeout(Duration::from_secs(10), service).await.unwrap().unwrap();
    }

    async fn link(&self, name: &str) -> Option<Shown> {
        find(&self.handle, name).await.map(|(_, shown)| shown)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    /// Generated files with their inode, which a rewrite changes.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        let folder = self.dir.path().join("run/systemd/network");
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| (e.path(), e.metadata().unwrap().ino()))
            .collect()
    }
}

async fn find(handle: &Handle, name: &str) -> Option<(u32, Shown)> {
    let mut links = std::pin::pin!(handle.link().get().execute());
    while let Some(link) = links.try_next().await.unwrap() {
        let mut shown = Shown { mtu: 0, address: String::new() };
        let mut found = false;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(known) => found = known == name,
                LinkAttribute::Mtu(mtu) => shown.mtu = *mtu,
                LinkAttribute::Address(octets) => {
                    shown.address = octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":");
                }
                _ => {}
            }
        }
        if found {
            return Some((link.header.index, shown));
        }
    }
    None
}

/// Does what networkd would do with the files, as far as the tests need it.
struct Networkd {
    roots: PathBuf,
    handle: Handle,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Networkd {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn files(&self, ending: &str) -> Vec<BTreeMap<String, String>> {
        let mut paths: Vec<_> =
            fs::read_dir(self.roots.join("run/systemd/network")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().filter(|path| path.extension().is_some_and(|e| e == ending)).map(|path| keys(path)).collect()
    }

    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) {
        let (index, _) = find(&self.handle, name).await.unwrap();
        let message = change(LinkMessageBuilder::<LinkUnspec>::new().index(index)).build();
        self.handle.link().change(message).execute().await.unwrap();
    }
}

/// `Section.Key` to value; the last one wins.
fn keys(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            keys.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    keys
}

#[tonic::async_trait]
impl Daemons for Networkd {
    async fn reload_networkd(&self) -> Result<(), DaemonError> {
        self.note("reload");
        for device in self.files("netdev") {
            let name = &device["NetDev.Name"];
            let message = match device["NetDev.Kind"].as_str() {
                "bridge" => LinkBridge::new(name).build(),
                "veth" => {
                    let octets =
                        device["NetDev.MACAddress"].split(':').map(|o| u8::from_str_radix(o, 16).unwrap()).collect();
                    LinkVeth::new(name, &device["Peer.Name"]).address(octets).build()
                }
                other => panic!("{other} is not needed by any test"),
            };
            self.handle.link().add(message).execute().await.unwrap();
        }
        for network in self.files("network") {
            let name = &network["Match.Name"];
            if let Some(bridge) = network.get("Network.Bridge") {
                let (bridge, _) = find(&self.handle, bridge).await.unwrap();
                self.change(name, |link| link.controller(bridge)).await;
            }
            let mtu = network.get("Link.MTUBytes").map_or(1500, |mtu| mtu.parse().unwrap());
            self.change(name, |link| link.mtu(mtu).up()).await;
            if network.contains_key("Network.DHCP") {
                let (index, _) = find(&self.handle, name).await.unwrap();
                let addresses = self.handle.address();
                addresses.add(index, "198.51.100.7".parse().unwrap(), 24).execute().await.unwrap();
                let mut v6 = addresses.add(index, "2001:db8::7".parse().unwrap(), 64);
                // Without neighbours nobody could object, and the test need not wait.
                v6.message_mut().header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
                v6.execute().await.unwrap();
                let route = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .gateway("198.51.100.1".parse().unwrap());
                self.handle.route().add(route.build()).execute().await.unwrap();
                let state = self.roots.join("run/systemd/netif/links").join(index.to_string());
                fs::write(state, "OPER_STATE=routable\nONLINE_STATE=online\n").unwrap();
            }
        }
        Ok(())
    }

    async fn set_hostname(&self, name: &str) -> Result<(), DaemonError> {
        self.note(format!("hostname {name}"));
        Ok(())
    }

    async fn product_uuid(&self) -> Result<String, DaemonError> {
        Ok("machine-uuid-of-thirty-six-letters-1".into())
    }

    async fn set_timezone(&self, zone: &str) -> Result<(), DaemonError> {
        self.note(format!("timezone {zone}"));
        Ok(())
    }

    async fn start_time_sync(&self, _: bool) -> Result<(), DaemonError> {
        self.note("time sync");
        Ok(())
    }

    async fn flush_dns(&self) -> Result<(), DaemonError> {
        self.note("flush dns");
        Ok(())
    }
}
