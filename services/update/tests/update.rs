//! The update service over its real socket.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::Path};

use api::v1::{Empty, MaintenanceWindow, OsVersions, ProviderConfig, SystemUpdate, UpdateConfig, UpdateStart};
use serde_json::json;
use service::{Context, Identity, Peers};
use tokio::{sync::watch, task::JoinHandle};
use tonic::Code;

/// A running service in a folder of its own. Dropping `_stop` ends it.
struct Running {
    peers: Peers,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), service::Error>>,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let _ = fs::remove_file(dir.join("update.sock"));
        let (context, stop) = Context::in_dir(Identity::Update, dir).unwrap();
        let root = dir.join("root");
        let task = tokio::spawn(async move { update::run_with(context, &root).await });
        Self { peers: Peers::in_dir(dir), stop, task }
    }

    async fn get(&self) -> SystemUpdate {
        self.peers.update().get(Empty {}).await.unwrap().into_inner()
    }

    async fn put(&self, config: UpdateConfig) -> Result<(), tonic::Status> {
        self.peers.update().put(SystemUpdate { config: Some(config), state: None }).await.map(drop)
    }

    async fn stop(self) {
        drop(self.peers);
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

/// A machine that runs `running` and was started by a loader that knows `entries`.
fn machine(dir: &Path, running: &str, entries: &[&str]) {
    let lib = dir.join("root/usr/lib");
    fs::create_dir_all(&lib).unwrap();
    fs::write(lib.join("os-release"), format!("NAME=\"IncusOS\"\nIMAGE_VERSION=\"{running}\"\n")).unwrap();
    let efivars = dir.join("root/sys/firmware/efi/efivars");
    fs::create_dir_all(&efivars).unwrap();
    let vendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let variable = |texts: &[&str]| -> Vec<u8> {
        let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0]));
        [6, 0, 0, 0].into_iter().chain(units.flat_map(u16::to_le_bytes)).collect()
    };
    fs::write(efivars.join(format!("LoaderEntrySelected-{vendor}")), variable(&entries[..1])).unwrap();
    fs::write(efivars.join(format!("LoaderEntries-{vendor}")), variable(entries)).unwrap();
}

#[tokio::test]
async fn a_new_machine_follows_stable_every_six_hours() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    assert_eq!(
        serde_json::to_value(service.get().await).unwrap(),
        json!({
            "config": { "auto_reboot": false, "channel": "stable", "check_frequency": "6h" },
            "state": { "last_check": "0001-01-01T00:00:00Z", "status": "", "needs_reboot": false },
        })
    );
    let provider = service.peers.update().get_provider(Empty {}).await.unwrap().into_inner();
    assert_eq!(
        serde_json::to_value(provider).unwrap(),
        json!({ "config": { "name": "images" }, "state": { "registered": false } })
    );
}

#[tokio::test]
async fn a_configuration_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    let nightly = MaintenanceWindow { start_hour: 23, end_hour: 2, ..MaintenanceWindow::default() };
    let config = UpdateConfig {
        auto_reboot: true,
        channel: "testing".into(),
        check_frequency: "1h30m".into(),
        maintenance_windows: vec![nightly],
    };
    service.put(config.clone()).await.unwrap();
    service.stop().await;
    let service = Running::start(dir.path());
    assert_eq!(service.get().await.config, Some(config));
}

#[tokio::test]
async fn what_get_shows_can_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    let before = service.get().await;
    service.peers.update().put(before.clone()).await.unwrap();
    assert_eq!(service.get().await, before);
}

#[tokio::test]
async fn a_refused_configuration_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    let before = service.get().await;
    let valid = UpdateConfig { channel: "stable".into(), check_frequency: "6h".into(), ..UpdateConfig::default() };
    for bad in [
        UpdateConfig { channel: String::new(), ..valid.clone() },
        UpdateConfig { check_frequency: String::new(), ..valid.clone() },
        UpdateConfig { check_frequency: "-1h".into(), ..valid.clone() },
        UpdateConfig {
            maintenance_windows: vec![MaintenanceWindow { start_hour: 99, ..MaintenanceWindow::default() }],
            ..valid.clone()
        },
    ] {
        let refused = service.put(bad.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}");
        assert!(!refused.message().is_empty());
    }
    assert_eq!(service.get().await, before);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_saved_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    let before = service.get().await;
    fs::remove_dir_all(dir.path().join("state/update")).unwrap();
    let config = UpdateConfig { channel: "testing".into(), check_frequency: "6h".into(), ..UpdateConfig::default() };
    let refused = service.put(config).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("unchanged"), "{}", refused.message());
    assert_eq!(service.get().await, before);
}

#[tokio::test]
async fn the_other_release_is_known_without_its_boot_counter() {
    let dir = tempfile::tempdir().unwrap();
    machine(dir.path(), "202611220101", &["IncusOS_202611220101.efi", "IncusOS_202610010101+2-1.efi"]);
    let service = Running::start(dir.path());
    let versions = service.peers.update().get_versions(Empty {}).await.unwrap().into_inner();
    let expected = OsVersions { running: "202611220101".into(), next: String::new(), alternate: "202610010101".into() };
    assert_eq!(versions, expected);
}

#[tokio::test]
async fn a_machine_without_efi_variables_still_answers() {
    let dir = tempfile::tempdir().unwrap();
    let service = Running::start(dir.path());
    let versions = service.peers.update().get_versions(Empty {}).await.unwrap().into_inner();
    assert_eq!(versions, OsVersions::default());
}

#[tokio::test]
async fn seed_is_taken_over_once_and_leaves_defaults_where_it_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path());
    let seed = UpdateConfig { auto_reboot: true, channel: "testing".into(), ..UpdateConfig::default() };
    let provider = ProviderConfig { name: "operations-center".into(), ..ProviderConfig::default() };
    let start = UpdateStart { seed: Some(seed), provider_seed: Some(provider) };
    running.peers.update().start(start).await.unwrap();
    let config = running.get().await.config.unwrap();
    assert_eq!((config.auto_reboot, config.channel.as_str(), config.check_frequency.as_str()), (true, "testing", "6h"));
    let provider = running.peers.update().get_provider(Empty {}).await.unwrap().into_inner().config.unwrap();
    assert_eq!(provider.name, "operations-center");
    running.stop().await;

    // An administrator's change outlives the seed, which is still there at the next boot.
    let running = Running::start(dir.path());
    let later = UpdateConfig { channel: "stable".into(), check_frequency: "1h".into(), ..UpdateConfig::default() };
    running.put(later.clone()).await.unwrap();
    let again = UpdateConfig { channel: "testing".into(), ..UpdateConfig::default() };
    running.peers.update().start(UpdateStart { seed: Some(again), provider_seed: None }).await.unwrap();
    assert_eq!(running.get().await.config, Some(later));
    running.stop().await;
}
