//! The listener's settings, power and the read-only sections, over real sockets.

use std::{
    fs::{self, File},
    io::Write as _,
};

use crate::bench::{Bench, PATIENCE, write};
use api::v1::{
    Empty, FallbackListenerConfig, ListenerSettings, PowerRequest, SystemFallbackListener, power_request::Action,
};
use tokio::net::UnixListener;
use tonic::{Code, Streaming};

fn client(name: &str) -> String {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
}

fn seed(client: &str) -> File {
    let certificate = serde_json::Value::from(client).to_string();
    let incus = format!(r#"{{"preseed":{{"certificates":[{{"type":"client","certificate":{certificate}}}]}}}}"#);
    let mut file = tempfile::tempfile().unwrap();
    let files = [seed::File { name: "incus.json".into(), content: incus.into_bytes() }];
    file.write_all(&seed::write(&files)).unwrap();
    file
}

fn put(address: &str, clients: &[&str]) -> SystemFallbackListener {
    let config = FallbackListenerConfig {
        listen_address: address.into(),
        trusted_client_certificates: clients.iter().map(|client| (*client).to_owned()).collect(),
        persistent: false,
    };
    SystemFallbackListener { config: Some(config), state: None }
}

async fn watch(bench: &Bench) -> Streaming<ListenerSettings> {
    bench.peers().supervisor().watch_listener(Empty {}).await.unwrap().into_inner()
}

/// The next settings that let the listener run.
async fn running(settings: &mut Streaming<ListenerSettings>) -> ListenerSettings {
    let next = async {
        loop {
            let next = settings.message().await.unwrap().expect("the stream goes on");
            if !next.listen_address.is_empty() {
                return next;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("the listener is to run")
}

#[tokio::test]
async fn clients_of_the_seed_are_trusted_from_the_first_start() {
    let bench = Bench::new();
    let mut machine = bench.machine();
    machine.seed = Some(seed(&client("admin")));
    let _supervisor = bench.supervisor(machine);
    let mut settings = watch(&bench).await;
    let now = running(&mut settings).await;
    assert_eq!(now.listen_address, ":9443");
    assert_eq!(now.trusted_client_certificates.len(), 1);
    assert!(now.server_certificate.contains("BEGIN CERTIFICATE") && now.server_key.contains("PRIVATE KEY"));
    let shown = bench.peers().supervisor().get_fallback_listener(Empty {}).await.unwrap().into_inner();
    assert!(shown.state.unwrap().active);
}

#[tokio::test]
async fn without_clients_nothing_is_served() {
    let bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    let mut settings = watch(&bench).await;
    assert_eq!(settings.message().await.unwrap().unwrap(), ListenerSettings::default());
    let shown = bench.peers().supervisor().get_fallback_listener(Empty {}).await.unwrap().into_inner();
    assert!(!shown.state.unwrap().active);
    assert_eq!(shown.config.unwrap(), FallbackListenerConfig::default());
}

#[tokio::test]
async fn new_settings_reach_the_gateway_and_survive_a_restart() {
    let bench = Bench::new();
    let (seeded, second) = (client("seeded"), client("second"));
    let mut machine = bench.machine();
    machine.seed = Some(seed(&seeded));
    let supervisor = bench.supervisor(machine);
    let mut settings = watch(&bench).await;
    let first = running(&mut settings).await;
    bench.peers().supervisor().put_fallback_listener(put("127.0.0.1:8443", &[&second])).await.unwrap();
    let changed = running(&mut settings).await;
    assert_eq!(changed.listen_address, "127.0.0.1:8443");
    assert_ne!(changed.trusted_client_certificates, first.trusted_client_certificates);
    supervisor.stop().await;

    // The seed is still there, but its client was removed: it stays removed.
    let mut machine = bench.machine();
    machine.seed = Some(seed(&seeded));
    let _supervisor = bench.supervisor(machine);
    let again = watch(&bench).await.message().await.unwrap().unwrap();
    assert_eq!(again, changed, "at once the same address, clients, certificate and key");
}

#[tokio::test]
async fn refused_settings_change_nothing() {
    let bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    let good = client("good");
    let mut supervisor = bench.peers().supervisor();
    for bad in [put("", &[]), put("host:1", &[&good]), put("", &[&good, "x"]), SystemFallbackListener::default()] {
        let refused = supervisor.put_fallback_listener(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let shown = supervisor.get_fallback_listener(Empty {}).await.unwrap().into_inner();
    assert_eq!(shown.config.unwrap(), FallbackListenerConfig::default());
}

#[tokio::test]
async fn state_of_a_newer_release_is_not_overwritten() {
    let bench = Bench::new();
    let supervisor = bench.supervisor(bench.machine());
    let good = client("good");
    bench.peers().supervisor().put_fallback_listener(put(":1", &[&good])).await.unwrap();
    supervisor.stop().await;
    let path = bench.dir.path().join("state/supervisor/state.json");
    let mut document: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    document["schema_version"] = 99.into();
    let newer = document.to_string();
    fs::write(&path, &newer).unwrap();

    let _supervisor = bench.supervisor(bench.machine());
    let refused = bench.peers().supervisor().put_fallback_listener(put(":2", &[&good])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
}

#[tokio::test]
async fn unreadable_seed_is_reported_and_tried_again() {
    let mut bench = Bench::new();
    let mut broken = tempfile::tempfile().unwrap();
    let mut block = [0_u8; 512];
    block[257..262].copy_from_slice(b"ustar");
    broken.write_all(&block).unwrap();
    let mut machine = bench.machine();
    machine.seed = Some(broken);
    let supervisor = bench.supervisor(machine);
    bench.lines_until("ERROR The seed cannot be read reason=the seed archive is damaged at byte 0").await;
    supervisor.stop().await;

    let mut machine = bench.machine();
    machine.seed = Some(seed(&client("admin")));
    let _supervisor = bench.supervisor(machine);
    running(&mut watch(&bench).await).await;
}

#[tokio::test]
async fn power_action_is_asked_for_once_after_the_answer() {
    let mut bench = Bench::new();
    write(&bench.root().join("run/incus-os/power/.keep"), "");
    let reboot = UnixListener::bind(bench.root().join("run/incus-os/power/reboot")).unwrap();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    let mut supervisor = bench.peers().supervisor();
    let action = PowerRequest { action: Action::Reboot.into() };
    supervisor.power(action).await.unwrap();
    tokio::time::timeout(PATIENCE, reboot.accept()).await.expect("a reboot is asked for").unwrap();
    assert_eq!(bench.line().await, "INFO System is shutting down action=reboot");
}

#[tokio::test]
async fn impossible_power_action_is_reported() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    let mut supervisor = bench.peers().supervisor();
    let refused = supervisor.power(PowerRequest { action: Action::Unspecified.into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    supervisor.power(PowerRequest { action: Action::Suspend.into() }).await.unwrap();
    assert!(bench.line().await.starts_with("ERROR Cannot suspend the system error="));
}

#[tokio::test]
async fn read_only_sections_are_answered() {
    let bench = Bench::new();
    write(&bench.root().join("sys/block/zram0/disksize"), "4096\n");
    write(&bench.root().join("sys/block/zram0/mm_stat"), "  20 10 5 0 0 0 0 0 0\n");
    let _supervisor = bench.supervisor(bench.machine());
    let mut supervisor = bench.peers().supervisor();
    let kernel = supervisor.get_kernel(Empty {}).await.unwrap().into_inner();
    assert_eq!(
        serde_json::to_string(&kernel).unwrap(),
        r#"{"config":{},"state":{"memory":{"zram_swap":{"disk_size":4096,"incompressed_size":20,"uncompressed_size":20,"compressed_size":10,"total_memory_use":5,"compression_ratio":4.0}}}}"#
    );
    let logging = supervisor.get_logging(Empty {}).await.unwrap().into_inner();
    assert_eq!(
        serde_json::to_string(&logging).unwrap(),
        r#"{"config":{"syslog":{"address":"","protocol":"","log_format":""},"journal_upload":{"url":"","tls_client_certificate":"","tls_client_key":"","tls_ca_certificate":""}},"state":{}}"#
    );
}

#[tokio::test]
async fn inventory_is_taken_once_for_all_who_ask() {
    let bench = Bench::new();
    write(&bench.root().join("proc/loadavg"), "1.00 0.00 0.00 1/10 1\n");
    let _supervisor = bench.supervisor(bench.machine());
    let ask = || async { bench.peers().supervisor().get_resources(Empty {}).await.unwrap().into_inner() };
    let first = ask().await;
    assert_eq!(first.load.unwrap().processes, 10);
    write(&bench.root().join("proc/loadavg"), "1.00 0.00 0.00 1/20 1\n");
    let (second, third) = tokio::join!(ask(), ask());
    assert_eq!((&second, &third), (&first, &first));
}
