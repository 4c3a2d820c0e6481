//! The management API of a booted system, as a client sees it.
//!
//! Each test goes on from the frozen, ready machine with a copy of its own, made in seconds.
#![expect(clippy::unwrap_used, reason = "a failure is what a test reports")]

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use api::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use system_tests::{MOMENT, ready_machine};
use testkit::client::{Client, ClientError, Connection, Request, Response};
use testkit::identity::Identity;
use testkit::vm::Vm;
use testkit::wait::wait_for;

/// Reads a document into the schema's type and writes it again. What comes out is what a client
/// of the schema can rely on: the same keys, no more and no fewer.
type RoundTrip = fn(Value) -> Result<Value, String>;

fn document<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// Every GET that answers with a document of the schema.
const DOCUMENTS: [(&str, RoundTrip); 12] = [
    ("/1.0", document::<v1::Server>),
    ("/1.0/debug/kernel", document::<v1::DebugKernel>),
    ("/1.0/debug/secureboot/event-log", document::<v1::SecureBootEventLog>),
    ("/1.0/system/fallback-listener", document::<v1::SystemFallbackListener>),
    ("/1.0/system/kernel", document::<v1::SystemKernel>),
    ("/1.0/system/logging", document::<v1::SystemLogging>),
    ("/1.0/system/network", document::<v1::SystemNetwork>),
    ("/1.0/system/provider", document::<v1::SystemProvider>),
    ("/1.0/system/resources", document::<v1::Resources>),
    ("/1.0/system/security", document::<v1::SystemSecurity>),
    ("/1.0/system/storage", document::<v1::SystemStorage>),
    ("/1.0/system/update", document::<v1::SystemUpdate>),
];

/// Every GET that answers with a list of paths.
const LISTS: [&str; 6] =
    ["/", "/1.0/applications", "/1.0/debug", "/1.0/debug/secureboot", "/1.0/services", "/1.0/system"];

/// The keys around every JSON answer, in their order on the wire.
const ENVELOPE: [&str; 7] = ["type", "status", "status_code", "operation", "error_code", "error", "metadata"];

fn envelope(path: &str, response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
    let body = response.json().unwrap_or_else(|error| panic!("{path}: {error}"));
    let keys: Vec<&String> = body.as_object().unwrap_or_else(|| panic!("{path}: {body}")).keys().collect();
    assert_eq!(keys, ENVELOPE, "{path}");
    body
}

fn success(path: &str, response: &Response) -> Value {
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    let mut body = envelope(path, response);
    assert_eq!((&body["type"], &body["status_code"]), (&json!("sync"), &json!(200)), "{path}");
    body["metadata"].take()
}

fn refusal(path: &str, response: &Response, status: u16) -> String {
    assert_eq!(response.status, status, "{path}: {}", response.text());
    let body = envelope(path, response);
    assert_eq!((&body["type"], &body["error_code"]), (&json!("error"), &json!(status)), "{path}");
    body["error"].as_str().unwrap().to_owned()
}

fn first_difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            if let Some(key) = a.keys().find(|key| !b.contains_key(*key)) {
                return Some(format!("{path}.{key} is not in the schema"));
            }
            if let Some(key) = b.keys().find(|key| !a.contains_key(*key)) {
                return Some(format!("{path}.{key} is missing"));
            }
            a.iter().find_map(|(key, value)| first_difference(&format!("{path}.{key}"), value, &b[key]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (x, y))| first_difference(&format!("{path}[{i}]"), x, y))
        }
        _ if left == right => None,
        _ => Some(format!("{path}: {left} is {right} in the schema")),
    }
}

#[test]
fn every_get_answers_in_the_shape_of_the_schema() {
    let Some(machine) = ready_machine("rest-shape") else { return };
    let client = machine.client().unwrap();
    let mut defects = Vec::new();
    for (path, round_trip) in DOCUMENTS {
        let response = client.get(path).unwrap();
        if response.status != 200 {
            defects.push(format!("{path}: status {}: {}", response.status, response.text()));
            continue;
        }
        let found = success(path, &response);
        match round_trip(found.clone()) {
            Ok(expected) => defects.extend(first_difference(path, &found, &expected)),
            Err(error) => defects.push(format!("{path}: {error}")),
        }
    }
    assert!(defects.is_empty(), "{}", defects.join("\n"));
}

#[test]
fn every_listed_path_exists() {
    let Some(machine) = ready_machine("rest-lists") else { return };
    let client = machine.client().unwrap();
    for list in LISTS {
        let listed = success(list, &client.get(list).unwrap());
        for path in listed.as_array().unwrap_or_else(|| panic!("{list}: {listed}")) {
            let path = path.as_str().unwrap();
            // Actions are listed, too; with GET they are known and not implemented.
            let response = client.get(path).unwrap();
            assert!([200, 501].contains(&response.status), "{path}: {}", response.text());
        }
    }
}

#[test]
fn environment_describes_this_machine() {
    let Some(machine) = ready_machine("rest-environment") else { return };
    let environment = success("/1.0", &machine.client().unwrap().get("/1.0").unwrap())["environment"].clone();
    assert_eq!(environment["os_version"], machine.record().os_version.as_str(), "{environment}");
    assert_eq!(environment["system_is_ready"], true, "{environment}");
    assert!(environment["uptime"].is_u64(), "{environment}");
}

#[test]
fn missing_and_foreign_certificates_are_refused() {
    let Some(machine) = ready_machine("rest-certificates") else { return };
    let foreign = Identity::generate("admin").unwrap();
    for identity in [None, Some(&foreign)] {
        let client = machine.client_as(identity).unwrap();
        for request in [Request::new("GET", "/1.0"), Request::new("POST", "/1.0/system/:poweroff")] {
            assert_refused(client.send(&request));
        }
    }
    // The right one still works, and nothing was switched off.
    success("/1.0", &machine.client().unwrap().get("/1.0").unwrap());
}

/// Plain text 403, or a handshake that the server ends: nobody gets in either way.
fn assert_refused(outcome: Result<Response, ClientError>) {
    match outcome {
        Ok(response) => assert_eq!(response.status, 403, "{}", response.text()),
        Err(ClientError::Connect { .. } | ClientError::Broken { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn old_tls_is_refused() {
    let Some(machine) = ready_machine("rest-tls12") else { return };
    let address = machine.api_address().to_string();
    let old = ["s_client", "-connect", &address, "-tls1_2"];
    let outcome = testkit::process::run("openssl", &old, machine.folder().path(), MOMENT);
    assert!(outcome.is_err(), "TLS 1.2 was accepted: {outcome:?}");
    let new = ["s_client", "-connect", &address, "-tls1_3"];
    testkit::process::run("openssl", &new, machine.folder().path(), MOMENT).unwrap();
}

#[test]
fn malformed_and_oversized_bodies_are_refused() {
    let Some(machine) = ready_machine("rest-bodies") else { return };
    let client = machine.client().unwrap();
    let path = "/1.0/system/update";
    let malformed: [&[u8]; 6] =
        [b"", b"{", b"[]", b"{\"config\": 7}", b"\xff\xfe", b"{\"config\": {\"channel\": [1]}}"];
    for body in malformed {
        let response = client.send(&Request::new("PUT", path).body(body)).unwrap();
        assert!((400..500).contains(&response.status), "{body:?}: {}", response.text());
        refusal(path, &response, response.status);
    }
    let deep = "[".repeat(100_000);
    let response = client.send(&Request::new("PUT", path).body(deep)).unwrap();
    refusal(path, &response, 400);

    let mut large = vec![b' '; (1 << 20) + 1];
    large[0] = b'{';
    let response = client.send(&Request::new("PUT", path).body(large.clone())).unwrap();
    refusal(path, &response, 413);
    // The same without a length in advance.
    let mut connection = client.connect().unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", large.len());
    // The server may answer and close before all of it is sent.
    let _ = connection.send_raw(&[head.as_bytes(), &large, b"\r\n0\r\n\r\n"].concat());
    refusal(path, &connection.receive("PUT").unwrap(), 413);
    success("/1.0", &client.get("/1.0").unwrap());
}

#[test]
fn wrong_methods_and_unknown_paths_have_their_answers() {
    let Some(machine) = ready_machine("rest-methods") else { return };
    let client = machine.client().unwrap();
    for (method, path) in [("DELETE", "/1.0"), ("PATCH", "/1.0/system/update"), ("POST", "/1.0/system/network")] {
        let response = client.send(&Request::new(method, path)).unwrap();
        assert_eq!(refusal(path, &response, 501), "not implemented", "{method} {path}");
    }
    for path in ["/1.0/nothing", "/2.0", "/1.0/", "/1.0/system/network/", "/1.0/services/none"] {
        refusal(path, &client.get(path).unwrap(), 404);
    }
    refusal("/internal/secureboot", &client.get("/internal/secureboot").unwrap(), 403);
}

#[test]
fn requests_that_are_not_http_end_the_connection_and_nothing_else() {
    let Some(machine) = ready_machine("rest-raw") else { return };
    let client = machine.client().unwrap();
    let nonsense: [&[u8]; 5] = [
        b"\r\n\r\n\r\n\r\n\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /1.0 HTTP/9.9\r\n\r\n",
        b"GET /1.0 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /1.0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ];
    for bytes in nonsense {
        let mut connection = client.connect().unwrap();
        connection.send_raw(bytes).unwrap();
        match connection.receive("GET") {
            Ok(response) => assert_eq!(response.status / 100, 4, "{bytes:?}: {response:?}"),
            Err(ClientError::Broken { .. }) => {}
            Err(error) => panic!("{bytes:?}: {error:?}"),
        }
    }
    // Half a request on one connection does not hold up another.
    let mut half = client.connect().unwrap();
    half.send_raw(b"PUT /1.0/system/update HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").unwrap();
    success("/1.0", &client.get("/1.0").unwrap());
}

#[test]
fn connection_is_kept_for_many_requests() {
    let Some(machine) = ready_machine("rest-keep-alive") else { return };
    let mut connection = machine.client().unwrap().connect().unwrap();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let start = Instant::now();
            success("/1.0", &connection.send(&Request::new("GET", "/1.0")).unwrap());
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("GET /1.0 on a kept connection: median {:?}, slowest {:?}", times[50], times[99]);
}

#[test]
fn two_hundred_connections_at_once_are_all_answered() {
    let Some(machine) = ready_machine("rest-parallel") else { return };
    let client = machine.client().unwrap();
    // One after the other: the emulator's port forwarding lets only one connection wait, the
    // others are lost before they reach the machine. All of them stay open.
    let connections: Vec<_> = (0..200).map(|_| client.connect().unwrap()).collect();
    let together = Barrier::new(connections.len());
    let ask = |mut connection: Connection| {
        together.wait();
        for _ in 0..5 {
            match connection.send(&Request::new("GET", "/1.0")) {
                Ok(response) if response.status == 200 => {}
                Ok(response) => return Err(response.text()),
                Err(error) => return Err(system_tests::explain(error)),
            }
        }
        Ok(())
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = connections.into_iter().map(|connection| scope.spawn(|| ask(connection))).collect();
        clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect()
    });
    assert!(failed.is_empty(), "{} of 200 failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn exported_journal_is_read_on_the_receiving_side() {
    let Some(machine) = ready_machine("rest-journal") else { return };
    let request = Request::new("GET", "/1.0/debug/log?unit=incus-osd").header("Accept", "application/vnd.fdo.journal");
    let response = machine.client().unwrap().send(&request).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/vnd.fdo.journal"));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("export"), &response.body).unwrap();
    let receive = ["--output=received.journal", "export"];
    testkit::process::run("/usr/lib/systemd/systemd-journal-remote", &receive, folder.path(), MOMENT).unwrap();
    let read = ["--file=received.journal", "--output=cat", "_SYSTEMD_UNIT=incus-osd.service"];
    let lines = testkit::process::run("journalctl", &read, folder.path(), MOMENT).unwrap();
    let ready = format!("INFO System is ready version={}", machine.record().os_version);
    assert!(lines.lines().any(|line| line.ends_with(&ready)), "no line `{ready}` in:\n{lines}");
}

/// Each service's unit, and the part of the API that is its own.
const OWNERS: [(&str, &[&str]); 5] = [
    ("incus-osd-network.service", &["/1.0/system/network"]),
    ("incus-osd-storage.service", &["/1.0/system/storage"]),
    ("incus-osd-security.service", &["/1.0/system/security", "/1.0/debug/secureboot/event-log"]),
    ("incus-osd-update.service", &["/1.0/system/update", "/1.0/system/provider"]),
    (
        "incus-osd.service",
        &[
            "/1.0",
            "/1.0/system/fallback-listener",
            "/1.0/system/kernel",
            "/1.0/system/logging",
            "/1.0/system/resources",
        ],
    ),
];

#[test]
fn killed_service_takes_its_own_section_down_and_no_other() {
    let Some(machine) = ready_machine("rest-kill") else { return };
    if !has_agent(&machine) {
        return;
    }
    let client = machine.client().unwrap();
    for (unit, own) in OWNERS {
        let over = AtomicBool::new(false);
        let seen: BTreeMap<&str, Vec<String>> = thread::scope(|scope| {
            let watchers: Vec<_> = OWNERS
                .iter()
                .flat_map(|(_, paths)| *paths)
                .map(|path| (*path, scope.spawn(|| watch(&client, path, &over))))
                .collect();
            kill(&machine, unit);
            for path in own {
                wait_for(&format!("{path} to answer again"), MOMENT, || match client.get(path) {
                    Ok(response) if response.status == 200 => Ok(()),
                    Ok(response) => Err(format!("status {}", response.status)),
                    Err(error) => Err(system_tests::explain(error)),
                })
                .unwrap();
            }
            over.store(true, Ordering::Relaxed);
            watchers.into_iter().map(|(path, watcher)| (path, watcher.join().unwrap())).collect()
        });
        for (path, troubles) in seen {
            if own.contains(&path) {
                assert!(troubles.iter().all(|trouble| trouble == "503"), "{unit} killed: {path}: {troubles:?}");
            } else {
                assert!(troubles.is_empty(), "{unit} killed: {path}: {troubles:?}");
            }
        }
    }
}

#[test]
fn killed_gateway_returns_by_itself() {
    let Some(machine) = ready_machine("rest-kill-gateway") else { return };
    if !has_agent(&machine) {
        return;
    }
    let client = machine.client().unwrap();
    let before = success("/1.0/system/security", &client.get("/1.0/system/security").unwrap());
    kill(&machine, "incus-osd-gateway.service");
    let after = wait_for("the API to answer again", MOMENT, || match client.get("/1.0/system/security") {
        Ok(response) if response.status == 200 => Ok(success("/1.0/system/security", &response)),
        Ok(response) => Err(format!("status {}", response.status)),
        Err(error) => Err(system_tests::explain(error)),
    })
    .unwrap();
    assert_eq!(after["config"], before["config"]);
}

/// Whether the image is of the `test` flavour; says that the test is skipped when it is not.
fn has_agent(vm: &Vm) -> bool {
    let found = vm.agent(Duration::from_secs(20)).unwrap().outcome(&["true"]).is_ok();
    if !found {
        println!("skipped: the image has no agent; only its `test` flavour lets a process be killed");
    }
    found
}

fn kill(vm: &Vm, unit: &str) {
    vm.agent(MOMENT).unwrap().run(&["systemctl", "kill", "--signal=KILL", unit]).unwrap();
}

/// Asks for one path until told to stop; gives every outcome other than 200.
fn watch(client: &Client, path: &str, over: &AtomicBool) -> Vec<String> {
    let mut troubles = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match client.get(path) {
            Ok(response) if response.status == 200 => {}
            Ok(response) => troubles.push(response.status.to_string()),
            Err(error) => troubles.push(system_tests::explain(error)),
        }
    }
    troubles
}
