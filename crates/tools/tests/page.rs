//! The page in a real browser: what a visitor sees, types and downloads.
//!
//! Screenshots go to the folder that `INCUS_OS_SCREENSHOTS` names, or to
//! `screenshots` beside the programs that cargo builds.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod local_feed;

use std::{
    env, fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use local_feed::{LocalFeed, SEED_OFFSET, TestImage, VERSION, process::Running};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::wait::wait_for;

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const DOWN: &str = "\u{e015}";

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A service, a browser, and where it puts what it downloads.
struct World {
    image: TestImage,
    address: String,
    client: Client,
    downloads: TempDir,
    /// Kept for as long as the world.
    _held: (LocalFeed, Running, Running, TempDir),
}

impl World {
    async fn new(dark: bool) -> Self {
        let mut feed = LocalFeed::new();
        let image = TestImage::new("x86_64", 512);
        feed.add("x86_64", "os", "image-raw", &format!("IncusOS_{VERSION}.img.gz"), &image.packed());
        feed.publish(&feed.update);
        let root = feed.path("").to_str().unwrap().to_owned();
        let listen = [("LISTEN_ADDRESS", "127.0.0.1:0")];
        let service = Running::start(env!("CARGO_BIN_EXE_image-customizer"), &[&root], &listen, "listening on");
        let address = service.ready.split_once("listening on ").unwrap().1.trim().to_owned();
        let driver = Running::start("chromedriver", &["--port=0"], &[], "started successfully on port");
        let port = driver.ready.trim_end_matches('.').rsplit(' ').next().unwrap().to_owned();
        let (profile, downloads) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(profile.path(), downloads.path(), dark))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { image, address, client, downloads, _held: (feed, service, driver, profile) }
    }

    async fn open(&self) {
        self.client.goto(&format!("{}/ui/", self.address)).await.unwrap();
        self.settled().await;
    }

    /// Waits until the seed is shown as it stands.
    async fn settled(&self) {
        let shown = Locator::Css("body[data-preview=shown]");
        self.client.wait().at_most(PATIENCE).for_element(shown).await.unwrap();
    }

    async fn fill(&self, id: &str, text: &str) {
        self.client.find(Locator::Id(id)).await.unwrap().send_keys(text).await.unwrap();
        self.settled().await;
    }

    async fn choose(&self, id: &str, value: &str) {
        self.client.find(Locator::Id(id)).await.unwrap().select_by_value(value).await.unwrap();
        self.settled().await;
    }

    async fn click(&self, css: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until the expression is true.
    async fn wait_until(&self, expression: &str) {
        let script = format!("return {expression}");
        let start = std::time::Instant::now();
        while self.run(&script).await != json!(true) {
            assert!(start.elapsed() < PATIENCE, "not true: {expression}");
        }
    }

    async fn text(&self, css: &str) -> String {
        self.client.find(Locator::Css(css)).await.unwrap().text().await.unwrap()
    }

    /// The file of the seed as it is shown.
    async fn shown(&self, file: &str) -> String {
        let script = format!("return document.querySelector('pre[data-file=\"{file}\"]')?.textContent ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    async fn screenshot(&self, name: &str) {
        let folder = screenshots();
        fs::create_dir_all(&folder).unwrap();
        let png = self.client.screenshot().await.unwrap();
        fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    /// A download that is complete.
    fn downloaded(&self, name: &str) -> PathBuf {
        let path = self.downloads.path().join(name);
        let list = || fs::read_dir(self.downloads.path()).unwrap().map(|entry| entry.unwrap().file_name());
        wait_for(&format!("the download of {name}"), PATIENCE, || {
            let pending = list().any(|name| name.to_string_lossy().ends_with(".crdownload"));
            if path.exists() && !pending { Ok(()) } else { Err(format!("{:?}", list().collect::<Vec<_>>())) }
        })
        .unwrap();
        path
    }
}

fn screenshots() -> PathBuf {
    match env::var_os("INCUS_OS_SCREENSHOTS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots"),
    }
}

fn capabilities(profile: &Path, downloads: &Path, dark: bool) -> serde_json::Map<String, Value> {
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1280,1500",
        if dark { "--blink-settings=preferredColorScheme=0" } else { "--blink-settings=preferredColorScheme=1" },
        &format!("--user-data-dir={}", profile.display()),
    ];
    let options = json!({
        "args": arguments,
        "prefs": {
            "download.default_directory": downloads,
            "download.prompt_for_download": false,
            "profile.default_content_setting_values.automatic_downloads": 1,
        },
    });
    [("goog:chromeOptions".to_owned(), options)].into_iter().collect()
}

/// Runs a test in a browser and ends the browser, however the test ends.
fn in_browser(dark: bool, test: impl AsyncFnOnce(&World)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new(dark).await;
        let outcome = {
            use futures_util::FutureExt as _;
            std::panic::AssertUnwindSafe(test(&world)).catch_unwind().await
        };
        if outcome.is_err() {
            world.screenshot("failure").await;
        }
        world.client.clone().close().await.unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn visitor_fills_in_the_form_and_downloads_the_image_that_was_shown() {
    in_browser(false, async |world| {
        world.open().await;
        world.screenshot("customizer-empty").await;
        assert_eq!(world.shown("applications.yaml").await, "version: '1'\napplications:\n- name: incus\n");
        assert!(world.shown("install.yaml").await.contains("force_install: false"));

        world.fill("target-id", "nvme-Samsung").await;
        world.choose("target-order", "largest").await;
        world.click("#force-reboot").await;
        world.click("#seeds summary").await;
        let network = "interfaces:\n- name: uplink\nhwaddr: enp5s0\n";
        // The box keeps what is typed, line by line.
        world.fill("seed-network", network).await;
        world.wait_until("document.getElementById('findings').textContent.includes('hwaddr')").await;
        world.run("document.getElementById('seed-network').value = ''").await;
        world.fill("seed-network", "interfaces:\n- name: uplink\n  hwaddr: enp5s0\n  addresses: [dhcp4]\n").await;
        world.click("#generate").await;
        world.wait_until("document.getElementById('certificate').value.includes('END CERTIFICATE')").await;
        world.settled().await;
        world.wait_until("document.getElementById('findings').textContent === ''").await;
        world.screenshot("customizer-filled").await;
        let install = world.shown("install.yaml").await;
        assert!(install.contains("force_reboot: true") && install.contains("id: nvme-Samsung"), "{install}");
        assert!(install.contains("sort_order: largest"), "{install}");
        assert!(world.shown("network.yaml").await.contains("name: uplink"));

        check_identity(world).await;

        world.click("#download").await;
        world.wait_until("document.getElementById('status').textContent.includes('download has started')").await;
        let path = world.downloaded(&format!("IncusOS_{VERSION}.img"));
        let whole = fs::File::open(&path).unwrap();
        let mut partition = vec![0; 64 << 10];
        whole.read_exact_at(&mut partition, SEED_OFFSET).unwrap();
        let cut = world.downloads.path().join("seed");
        fs::write(&cut, partition).unwrap();
        let files = seed::read(&fs::File::open(cut).unwrap()).unwrap().unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["applications.yaml", "incus.yaml", "install.yaml", "network.yaml"]);
        for file in &files {
            assert_eq!(world.shown(&file.name).await.as_bytes(), file.content, "{}", file.name);
        }
        let report = seed::check(&files);
        assert!(report.errors.is_empty() && report.warnings.is_empty(), "{report:?}");
        assert_eq!(report.contents.trusted_clients().len(), 1);
        world.image.assert_equal_outside_of(&seed::write(&files), whole);

        let requests =
            "performance.getEntriesByType('resource').every((entry) => entry.name.startsWith(location.origin))";
        world.wait_until(requests).await;
    });
}

/// The three files of a new certificate belong together, and openssl reads all of them.
async fn check_identity(world: &World) {
    for name in ["client.crt", "client.key", "client.pfx"] {
        world.click(&format!("#identity-files a[download='{name}']")).await;
        world.downloaded(name);
    }
    let openssl = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        testkit::process::run("openssl", &arguments, world.downloads.path(), Duration::from_secs(60)).unwrap()
    };
    assert!(openssl("x509 -in client.crt -noout -text").contains("ecdsa-with-SHA384"));
    assert!(openssl("verify -purpose sslclient -CAfile client.crt client.crt").contains("OK"));
    assert_eq!(openssl("x509 -in client.crt -noout -pubkey"), openssl("pkey -in client.key -pubout"));
    let bundle = openssl("pkcs12 -in client.pfx -passin pass:IncusOS -nodes");
    fs::write(world.downloads.path().join("bundle"), bundle).unwrap();
    assert_eq!(openssl("pkey -in bundle -pubout"), openssl("pkey -in client.key -pubout"));
    assert_eq!(openssl("x509 -in bundle -fingerprint"), openssl("x509 -in client.crt -fingerprint"));
}

#[test]
fn mistakes_are_told_where_they_are_made() {
    in_browser(true, async |world| {
        world.open().await;
        world.click("#download").await;
        world.wait_until("document.activeElement.id === 'certificate'").await;
        assert!(world.text("#certificate-error").await.contains("nobody could reach the machine"));
        let invalid = "document.getElementById('certificate').getAttribute('aria-invalid') === 'true'";
        world.wait_until(invalid).await;
        world.fill("target-min", "5x").await;
        world.wait_until("document.getElementById('findings').textContent.includes('target.min_size')").await;
        world.fill("certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").await;
        world.click("#download").await;
        world.wait_until("document.getElementById('problem').textContent.includes('target.min_size')").await;
        world.screenshot("customizer-mistakes-dark").await;

        // What makes no sense together cannot be chosen together.
        world.click("input[name=usage][value=run]").await;
        world.wait_until("document.getElementById('target').disabled").await;
        world.settled().await;
        assert_eq!(world.shown("install.yaml").await, "");
        world.click("input[name=type][value=iso]").await;
        world.wait_until("document.querySelector('input[name=usage][value=run]').disabled").await;
        world.wait_until("document.querySelector('input[name=usage][value=install]').checked").await;
        world.settled().await;
        assert!(world.shown("install.yaml").await.contains("target"));
        world.choose("application", "operations-center").await;
        world.wait_until("document.querySelector('pre[data-file=\"operations-center.yaml\"]') !== null").await;
        assert!(world.shown("operations-center.yaml").await.contains("trusted_client_certificates"));
        assert_eq!(world.shown("incus.yaml").await, "");
    });
}

#[test]
fn keyboard_is_enough_and_everything_has_a_name() {
    in_browser(false, async |world| {
        world.open().await;
        // Every control has a name, every reference leads somewhere, and no id is there twice.
        let nameless = world
            .run(
                "return [...document.querySelectorAll('input, select, textarea, button, [tabindex], fieldset, details')]
                    .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))
                    .map((e) => e.outerHTML)
                    .concat([...document.querySelectorAll('[aria-describedby], [aria-labelledby]')]
                        .flatMap((e) => [e.getAttribute('aria-describedby'), e.getAttribute('aria-labelledby')])
                        .filter(Boolean).flatMap((ids) => ids.split(' ')).filter((id) => !document.getElementById(id)))
                    .concat([...document.querySelectorAll('[id]')].map((e) => e.id)
                        .filter((id, at, all) => all.indexOf(id) !== at))",
            )
            .await;
        assert_eq!(nameless, json!([]));

        let mut visited = Vec::new();
        loop {
            let focused = press(world, TAB).await;
            assert!(visited.len() < 60, "the download is not reached: {visited:?}");
            visited.push(focused.clone());
            match focused.as_str() {
                "architecture" => drop(press(world, DOWN).await),
                "application" => drop(press(world, DOWN).await),
                "target-id" => drop(press(world, "nvme").await),
                "force-install" => drop(press(world, " ").await),
                "generate" => {
                    press(world, ENTER).await;
                    world.wait_until("document.getElementById('certificate').value !== ''").await;
                }
                "download" => break,
                _ => {}
            }
        }
        let order = [
            "type",
            "usage",
            "architecture",
            "application",
            "target-id",
            "target-bus",
            "target-min",
            "target-max",
            "target-order",
            "force-install",
            "confirmation",
            "force-reboot",
            "certificate",
            "generate",
            "apply-defaults",
            "security",
            "channel",
            "offline",
            "download",
        ];
        let seen: Vec<_> = visited.iter().map(String::as_str).filter(|id| order.contains(id)).collect();
        assert_eq!(seen, order);
        world.settled().await;
        let outline = world.run("return getComputedStyle(document.activeElement).outlineStyle").await;
        assert_eq!(outline, json!("solid"));
        world.screenshot("customizer-keyboard").await;
        assert!(world.shown("install.yaml").await.contains("force_install: true"));
        assert!(world.shown("applications.yaml").await.contains("incus-lts-7.0"));

        // There is no image for this architecture: the refusal is announced, and nothing is lost.
        press(world, ENTER).await;
        world.wait_until("document.querySelector('#problem[role=alert]').textContent.includes('aarch64')").await;
        assert_eq!(world.run("return document.activeElement.id").await, json!("download"));
    });
}

/// Presses keys where the focus is, and tells where it is then.
async fn press(world: &World, keys: &str) -> String {
    world.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    let script = "const e = document.activeElement; return e.id || e.name || e.tagName";
    world.run(script).await.as_str().unwrap().to_owned()
}
