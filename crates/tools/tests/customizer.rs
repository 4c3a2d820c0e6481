//! The customizer as a program, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod local_feed;

use std::{
    fs,
    io::{self, Read},
    sync::LazyLock,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::MultiGzDecoder;
use local_feed::{LocalFeed, SEED_OFFSET, TestImage, VERSION, pack, process::Running};
use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

/// One feed and one service for all tests: they only read.
static WORLD: LazyLock<World> = LazyLock::new(World::new);

struct World {
    raw: TestImage,
    iso: TestImage,
    feed: LocalFeed,
    service: Running,
    address: String,
}

impl World {
    fn new() -> Self {
        let mut feed = LocalFeed::new();
        let (raw, iso) = (TestImage::new("x86_64", 512), TestImage::new("x86_64", 2048));
        feed.add("x86_64", "os", "image-raw", &format!("IncusOS_{VERSION}.img.gz"), &raw.packed());
        feed.add("x86_64", "os", "image-iso", &format!("IncusOS_{VERSION}.iso.gz"), &iso.packed());
        feed.add("x86_64", "incus", "application", "incus.raw.gz", &pack(b"application"));
        feed.add("aarch64", "incus", "application", "incus.raw.gz", &pack(b"another"));
        feed.publish(&feed.update);
        let root = feed.path("").to_str().unwrap().to_owned();
        let service = start(&root, &[("LISTEN_ADDRESS", "127.0.0.1:0")]);
        let address = address(&service);
        Self { raw, iso, feed, service, address }
    }
}

fn start(root: &str, environment: &[(&str, &str)]) -> Running {
    Running::start(env!("CARGO_BIN_EXE_image-customizer"), &[root], environment, "listening on")
}

fn address(service: &Running) -> String {
    service.ready.split_once("listening on ").unwrap().1.trim().to_owned()
}

fn client() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).build().new_agent()
}

fn get(path: &str) -> Response<Body> {
    client().get(format!("{}{path}", WORLD.address)).call().unwrap()
}

fn post(path: &str, body: &Value) -> (u16, Value) {
    let request = client().post(format!("{}{path}", WORLD.address)).header("Content-Type", "application/json");
    answer(request.send(body.to_string()).unwrap())
}

fn answer(mut response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap())
}

fn order(body: &Value) -> String {
    let (status, answer) = post("/1.0/images", body);
    assert_eq!(status, 200, "{answer}");
    answer["metadata"]["image"].as_str().unwrap().to_owned()
}

fn installation() -> Value {
    json!({
        "architecture": "x86_64", "type": "raw",
        "seeds": {
            "install": { "version": "1", "target": { "id": "", "bus": "", "min_size": "", "max_size": "", "sort_order": "" } },
            "applications": { "version": "1", "applications": [{ "name": "incus" }] },
        },
    })
}

/// The decompressed body, whatever its length.
fn content(response: Response<Body>) -> impl Read {
    MultiGzDecoder::new(response.into_body().into_with_config().limit(u64::MAX).reader())
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[test]
fn image_is_the_stored_one_with_the_seed_in_its_place() {
    for (kind, image, extension) in [("raw", &WORLD.raw, "img"), ("iso", &WORLD.iso, "iso")] {
        let mut body = installation();
        body["type"] = json!(kind);
        let response = get(&order(&body));
        assert_eq!(header(&response, "content-type"), "application/gzip");
        let name = format!("attachment; filename=\"IncusOS_{VERSION}.{extension}.gz\"");
        assert_eq!(header(&response, "content-disposition"), name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        io::copy(&mut content(response), &mut fs::File::create(&path).unwrap()).unwrap();

        // As the system reads it: from the partition on.
        let mut whole = fs::File::open(&path).unwrap();
        let mut partition = vec![0; 64 << 10];
        std::os::unix::fs::FileExt::read_exact_at(&whole, &mut partition, SEED_OFFSET).unwrap();
        let cut = folder.path().join("seed");
        fs::write(&cut, &partition).unwrap();
        let files = seed::read(&fs::File::open(&cut).unwrap()).unwrap().unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["applications.yaml", "install.yaml"]);
        let report = seed::check(&files);
        assert!(report.errors.is_empty() && report.warnings.is_empty(), "{report:?}");
        assert_eq!(report.contents.applications.unwrap().applications[0].name, "incus");
        image.assert_equal_outside_of(&seed::write(&files), &mut whole);
    }
}

#[test]
fn client_that_unpacks_by_itself_is_told_the_name_of_the_content() {
    let path = order(&installation());
    let response =
        client().get(format!("{}{path}", WORLD.address)).header("Accept-Encoding", "gzip, deflate").call().unwrap();
    assert_eq!(header(&response, "content-encoding"), "gzip");
    assert_eq!(header(&response, "content-type"), "application/octet-stream");
    assert_eq!(header(&response, "content-disposition"), format!("attachment; filename=\"IncusOS_{VERSION}.img\""));
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
}

#[test]
fn file_can_be_fetched_once() {
    let path = order(&installation());
    assert_eq!(get(&path).status(), 200);
    let (status, answer) = answer(get(&path));
    assert_eq!((status, answer["type"].as_str()), (404, Some("error")));
    assert_eq!(get("/1.0/files/6ba7b810-9dad-11d1-80b4-00c04fd430c8").status(), 404);
}

#[test]
fn first_byte_comes_within_a_second_and_ten_streams_need_little_memory() {
    let paths: Vec<_> = (0..10).map(|_| order(&installation())).collect();
    let started = Instant::now();
    let mut first = get(&order(&installation()));
    let mut byte = [0];
    first.body_mut().as_reader().read_exact(&mut byte).unwrap();
    let first_byte = started.elapsed();
    drop(first);

    // Each reads as fast as it can; two MiB of a compressed image are some hundred of its content.
    std::thread::scope(|scope| {
        for path in &paths {
            scope.spawn(|| {
                let mut body = get(path).into_body().into_with_config().limit(u64::MAX).reader();
                io::copy(&mut body.by_ref().take(2 << 20), &mut io::sink()).unwrap()
            });
        }
    });
    let memory = WORLD.service.peak_memory();
    println!("first byte after {first_byte:?}; {} MiB at most with ten streams", memory >> 20);
    assert!(first_byte < Duration::from_secs(1), "{first_byte:?}");
    assert!(memory < 64 << 20, "{memory}");
}

#[test]
fn answers_have_the_form_that_clients_know() {
    let (status, root) = answer(get("/"));
    assert_eq!((status, &root["metadata"]), (200, &json!(["/1.0"])));
    assert_eq!(root["status_code"], 200);
    assert_eq!(answer(get("/1.0")).1["metadata"], json!({}));
    assert_eq!(answer(get("/nothing")).0, 404);
    let browser = |path: &str| {
        client().get(format!("{}{path}", WORLD.address)).header("User-Agent", "Mozilla/5.0 Gecko/1").call().unwrap()
    };
    for path in ["/", "/nothing"] {
        let response = browser(path);
        assert_eq!((response.status().as_u16(), header(&response, "location")), (301, "/ui/"), "{path}");
    }
    let wrong = client().delete(format!("{}/1.0/images", WORLD.address)).call().unwrap();
    assert_eq!(answer(wrong).0, 501);
    let allowed = client().options(format!("{}/1.0/images", WORLD.address)).call().unwrap();
    assert_eq!(header(&allowed, "access-control-allow-methods"), "GET, POST, OPTIONS");
    let (status, oidc) = answer(get("/1.0/oidc?username=x"));
    assert_eq!((status, oidc["error_code"].as_u64()), (400, Some(400)));
}

#[test]
fn orders_that_cannot_be_served_are_refused_when_they_are_made() {
    let with = |path: &str, value: Value| {
        let mut body = installation();
        *body.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
        post("/1.0/images", &body)
    };
    for (path, value, reason) in [
        ("/architecture", json!("riscv64"), "unknown architecture"),
        ("/type", json!("vmdk"), "unknown image type"),
        ("/seeds/install", json!({ "force": true }), "install.yaml: force:"),
        ("/seeds/install", json!("target: {min_size: 5x}"), "install.yaml: target.min_size"),
        ("/seeds/install", json!("a: [1"), "install.yaml: it is no YAML in line"),
        ("/seeds/applications", json!({ "applications": [] }), "at least one application"),
    ] {
        let (status, answer) = with(path, value);
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.contains(reason), "{reason}: {status} {answer}");
    }
    let mut body = installation();
    body["channel"] = json!("nightly");
    assert!(post("/1.0/images", &body).1["error"].as_str().unwrap().contains("version not found"));
    body = installation();
    body["version"] = json!("202001010000");
    assert_eq!(post("/1.0/images", &body).0, 400);
    body = installation();
    body["architecture"] = json!("aarch64");
    assert_eq!(post("/1.0/images", &body).0, 500);
    assert_eq!(post("/1.0/images", &json!({ "surprise": 1 })).0, 400);
    let large = json!({ "version": "x".repeat(1 << 20) });
    assert_eq!(post("/1.0/images", &large).0, 400);
}

#[test]
fn seeds_are_shown_as_they_will_be_written() {
    let mut body = installation();
    body["channel"] = json!("testing");
    body["seeds"]["network"] = json!("interfaces: []\n# nothing yet\n");
    let (_, answer) = post("/1.0/seeds", &body);
    let files = answer["metadata"]["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["applications.yaml", "install.yaml", "network.yaml", "update.yaml"]);
    assert_eq!(files[3]["content"], "version: '1'\nchannel: testing\n");
    body["seeds"]["install"] = json!({ "targt": {} });
    let (_, answer) = post("/1.0/seeds", &body);
    assert!(answer["metadata"]["findings"][0].as_str().unwrap().starts_with("install.yaml: targt: "), "{answer}");
}

#[test]
fn update_holds_what_was_selected_and_both_documents() {
    let selection = json!({ "components": ["incus"], "architectures": ["x86_64"] });
    let (status, answer) = post("/1.0/updates", &selection);
    assert_eq!(status, 200, "{answer}");
    let response = get(answer["metadata"]["update"].as_str().unwrap());
    let name = format!("attachment; filename=\"update-stable-{VERSION}.tar.gz\"");
    assert_eq!(header(&response, "content-disposition"), name);
    let mut archive = tar::Archive::new(content(response));
    let files: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        })
        .collect();
    let signed = fs::read(WORLD.feed.path(&format!("{VERSION}/update.sjson"))).unwrap();
    assert_eq!(files[0].0, "update.json");
    assert_eq!(files[1], ("update.sjson".to_owned(), signed));
    assert_eq!(files[2], ("x86_64/incus.raw".to_owned(), b"application".to_vec()));
    assert_eq!(files.len(), 3);
}

#[test]
fn offline_brings_the_applications_on_a_medium_of_their_own() {
    let mut body = installation();
    body["offline"] = json!(true);
    let (status, answer) = post("/1.0/images", &body);
    assert_eq!(status, 200, "{answer}");
    let response = get(answer["metadata"]["resources"].as_str().unwrap());
    assert_eq!(header(&response, "content-disposition"), format!("attachment; filename=\"stable-{VERSION}.raw.gz\""));
    let mut medium = tempfile::tempfile().unwrap();
    io::copy(&mut content(response), &mut medium).unwrap();
    let table = gptman::GPT::read_from(&mut medium, 512).unwrap();
    assert_eq!((table[1].starting_lba, table[1].partition_name.as_str()), (2048, "RESCUE_DATA"));
    let mut partition = Vec::new();
    io::Seek::seek(&mut medium, io::SeekFrom::Start(2048 * 512)).unwrap();
    medium.take(table[1].size().unwrap() * 512).read_to_end(&mut partition).unwrap();
    let system = fatfs::FileSystem::new(io::Cursor::new(partition), fatfs::FsOptions::new()).unwrap();
    assert_eq!(system.volume_label(), "RESCUE_DATA");
    let file = |name: &str| {
        let mut content = Vec::new();
        system.root_dir().open_file(name).unwrap().read_to_end(&mut content).unwrap();
        content
    };
    assert_eq!(file("update/update.sjson"), fs::read(WORLD.feed.path(&format!("{VERSION}/update.sjson"))).unwrap());
    assert_eq!(file("update/x86_64/incus.raw.gz"), pack(b"application"));

    body["seeds"]["applications"] = json!({ "applications": [{ "name": "operations-center" }] });
    let (status, answer) = post("/1.0/images", &body);
    assert!(status == 500 && answer["error"].as_str().unwrap().contains("operations-center"), "{answer}");
    body["type"] = json!("iso");
    assert_eq!(post("/1.0/images", &body).0, 501);
}

#[test]
fn certificate_can_be_used_by_openssl() {
    let (_, answer) = answer(get("/1.0/certificate"));
    let folder = tempfile::tempdir().unwrap();
    let text = |key: &str| answer["metadata"][key].as_str().unwrap().to_owned();
    fs::write(folder.path().join("crt"), text("certificate")).unwrap();
    fs::write(folder.path().join("key"), text("key")).unwrap();
    fs::write(folder.path().join("pfx"), STANDARD.decode(text("pfx")).unwrap()).unwrap();
    let openssl = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        testkit::process::run("openssl", &arguments, folder.path(), Duration::from_secs(60)).unwrap()
    };
    let subject = openssl("x509 -in crt -noout -subject -ext keyUsage,extendedKeyUsage,subjectAltName");
    for part in [
        "O=Linux Containers",
        "CN=Auto-generated IncusOS client certificate",
        "Client Authentication",
        "DNS:unspecified",
    ] {
        assert!(subject.contains(part), "{part}: {subject}");
    }
    assert!(text("key").starts_with("-----BEGIN EC PRIVATE KEY-----"));
    let public = openssl("x509 -in crt -noout -pubkey");
    assert_eq!(openssl("ec -in key -pubout"), public);
    let bundle = openssl("pkcs12 -in pfx -passin pass:IncusOS -nodes");
    assert!(bundle.contains("BEGIN CERTIFICATE") && bundle.contains("PRIVATE KEY"), "{bundle}");
    assert!(!openssl("pkcs12 -in pfx -passin pass:IncusOS -info -noout").contains("RC2"));
}

#[test]
fn page_forbids_everything_that_is_not_its_own() {
    for (file, kind) in [("", "text/html"), ("app.js", "text/javascript"), ("style.css", "text/css")] {
        let mut response = get(&format!("/ui/{file}"));
        assert_eq!(response.status(), 200, "{file}");
        assert!(header(&response, "content-type").starts_with(kind));
        let policy = header(&response, "content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = response.body_mut().read_to_string().unwrap();
        assert!(!text.contains("src=\"http") && !text.contains("import(") && !text.contains("style=\""), "{file}");
    }
    assert_eq!(get("/ui/../Cargo.toml").status(), 404);
    assert_eq!(get("/ui/nothing.js").status(), 404);
}

#[test]
fn service_speaks_tls_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
    fs::write(&certificate, identity.cert.pem()).unwrap();
    fs::write(&key, identity.signing_key.serialize_pem()).unwrap();
    let root = WORLD.feed.path("").to_str().unwrap().to_owned();
    let service = start(
        &root,
        &[
            ("LISTEN_ADDRESS", "127.0.0.1:0"),
            ("TLS_CERT", certificate.to_str().unwrap()),
            ("TLS_KEY", key.to_str().unwrap()),
        ],
    );
    let address = address(&service).replace("127.0.0.1", "localhost");
    assert!(address.starts_with("https://"), "{address}");
    let authority = ureq::tls::Certificate::from_pem(identity.cert.pem().as_bytes()).unwrap();
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[authority])).build();
    let client = Agent::config_builder().tls_config(tls).build().new_agent();
    assert_eq!(client.get(format!("{address}/1.0")).call().unwrap().status(), 200);
}

#[test]
fn load_balancer_may_name_the_client_first() {
    let mut stream = std::net::TcpStream::connect(WORLD.address.trim_start_matches("http://")).unwrap();
    let said = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET /1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    io::Write::write_all(&mut stream, said.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn service_does_not_start_without_a_tree() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["."], &["a", "b"]] {
        let output = local_feed::process::run(env!("CARGO_BIN_EXE_image-customizer"), arguments, folder.path());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}
